//! What the schedule and the retention rules will do: the present catalogue, run forward.
//!
//! [`Forecast`] asks [`schedule`] when the next run is due and [`retention`] what goes after it, as
//! scheduler and pruner do, and nothing else; so `explain`, `simulate` and `diff` cannot disagree with
//! what happens. It assumes that
//!
//! - every run succeeds at once, except in the outages that it is told of, in which nothing runs;
//! - jobs of today are over before the first run, and a copy is whole before the next one;
//! - nobody takes, pins, verifies or deletes anything by hand.
//!
//! Points are deleted in a run only: the pruner works after each successful backup. Originals go when
//! no copy of them is left, as `workflows/prune.rs` in the controller sees to.

mod explain;
mod simulate;

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_env::WallTime;

use crate::period::Calendar;
use crate::policy::Policy;
use crate::recovery_point::{PointName, ProofLevel};
use crate::region::Region;
use crate::retention::{
    self, Delete, DeleteReason, Hold, HoldKind, KeepReason, LineageFact, LineageNeed, PointFacts,
};
use crate::schedule::{self, Due, History};
use crate::tier::{Tier, TierSet};

pub use explain::{AtOnce, Change, Explanation, Fate, at_once, diff, explain};
pub use simulate::{Holding, Month, Simulation, simulate};

/// Everything that the future is computed from.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The policy from now on; without one nothing is taken and nothing deleted.
    pub policy: Option<&'a Policy>,
    /// For the names of points to come.
    pub vm_name: &'a str,
    /// Where points are taken.
    pub home: &'a Region,
    /// The points that exist, in every region.
    pub points: &'a [PointFacts],
    /// Holds on them.
    pub holds: &'a [Hold],
    /// What copies need of them.
    pub lineage: &'a [LineageFact],
    /// Since when the policy is on.
    pub enabled_since: WallTime,
    /// The newest start of a backup run.
    pub last_run: Option<WallTime>,
    /// Azure has the VM no more: nothing is taken, and so nothing deleted, before it is back.
    pub gone: bool,
    /// How much later than its scheduled time this VM's backup starts.
    pub jitter: Duration,
    /// Where the forecast begins.
    pub now: WallTime,
}

/// A span in which nothing runs: controller, Azure or VM are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Its first instant.
    pub from: WallTime,
    /// The first instant after it.
    pub to: WallTime,
}

/// One backup with the pruning after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the schedule says.
    pub due: Due,
    /// When it runs.
    pub at: WallTime,
    /// The new point.
    pub point: PointName,
    /// Its tiers.
    pub tiers: TierSet,
    /// What is deleted then.
    pub deleted: Vec<Delete>,
}

/// A catalogue that moves through time, run by run.
pub struct Forecast<'a> {
    start: &'a Start<'a>,
    outages: &'a [Outage],
    calendar: Calendar,
    points: Vec<PointFacts>,
    holds: Vec<Hold>,
    lineage: Vec<LineageFact>,
    successes: Vec<(WallTime, TierSet)>,
    last_run: Option<WallTime>,
    /// When the scheduler looks next.
    tick: WallTime,
    /// When the pruner last worked; at first the beginning.
    at: WallTime,
    /// Runs that fell into an outage and were not caught up.
    missed: Vec<WallTime>,
    steps: u32,
}

impl<'a> Forecast<'a> {
    /// The catalogue as it is.
    pub fn new(start: &'a Start<'a>, outages: &'a [Outage]) -> Self {
        Self {
            start,
            outages,
            calendar: retention::calendar(start.policy),
            points: start.points.to_vec(),
            holds: start.holds.to_vec(),
            lineage: start.lineage.to_vec(),
            successes: start.points.iter().map(|p| (p.created, p.tiers)).collect(),
            last_run: start.last_run,
            tick: start.now,
            at: start.now,
            missed: vec![],
            steps: 0,
        }
    }

    /// The points that exist now.
    pub fn points(&self) -> &[PointFacts] {
        &self.points
    }

    /// The next run, if it is due before `until`. A policy that is off has none, and a VM that is gone.
    pub fn step(&mut self, until: WallTime) -> Option<Step> {
        let policy = self.start.policy.filter(|p| p.enabled && !self.start.gone)?;
        while self.tick < until {
            let now = self.after_outages(policy, self.tick);
            if now >= until {
                self.tick = now;
                return None;
            }
            let history = History {
                enabled_since: self.start.enabled_since,
                last_run: self.last_run,
                successes: &self.successes,
            };
            let due = schedule::due(policy, &history, self.start.jitter, now);
            let next = self.next_tick(policy, now);
            if next <= self.tick {
                // The end of the calendar.
                return None;
            }
            self.tick = next;
            if let Some(due) = due {
                return Some(self.run(policy, due, now));
            }
        }
        None
    }

    fn next_tick(&self, policy: &Policy, now: WallTime) -> WallTime {
        let jitter = self.start.jitter;
        schedule::next_due(policy, now.minus(jitter)).plus(jitter)
    }

    /// The first instant from `tick` on that lies in no outage; notes what is missed until then.
    fn after_outages(&mut self, policy: &Policy, tick: WallTime) -> WallTime {
        let mut now = tick;
        while let Some(outage) = self.outages.iter().find(|o| o.from <= now && now < o.to) {
            now = outage.to;
        }
        // The beginning is no scheduled time.
        let mut at = if tick > self.start.now { tick } else { self.next_tick(policy, tick) };
        while at < now {
            let scheduled_for = at.minus(self.start.jitter);
            if !schedule::tiers_wanted(policy, &self.successes, scheduled_for).is_empty() {
                self.missed.push(scheduled_for);
            }
            let next = self.next_tick(policy, at);
            if next <= at {
                break;
            }
            at = next;
        }
        now
    }

    fn run(&mut self, policy: &Policy, due: Due, at: WallTime) -> Step {
        self.end_what_was_under_way();
        self.missed.retain(|missed| *missed != due.scheduled_for);
        let tiers =
            schedule::tiers_for_run(policy, &self.successes, at, None).expect("no tier is forced");
        let highest = tiers.highest().unwrap_or(Tier::Daily);
        let taken = |name: &str| self.points.iter().any(|p| p.name.as_str() == name);
        let point = PointName::choose(self.start.vm_name, highest, at, taken);
        self.add(policy, &point, at, tiers);
        schedule::retain_decisive(&mut self.successes, at);
        self.successes.push((at, tiers));
        self.last_run = Some(at);
        self.at = at;
        self.steps += 1;
        let deleted = self.doomed();
        self.points.retain(|p| !deleted.iter().any(|d| d.point == p.name && d.region == p.region));
        Step { due, at, point, tiers, deleted }
    }

    /// Jobs end, copies arrive, and with them the base of the next copies moves.
    fn end_what_was_under_way(&mut self) {
        self.holds.retain(|h| h.kind != HoldKind::Lease);
        for fact in self.lineage.iter().filter(|f| f.need == LineageNeed::CopyTarget) {
            let arrived = |p: &&mut PointFacts| p.name == fact.point && p.region == fact.region;
            if let Some(copy) = self.points.iter_mut().find(arrived) {
                copy.restorable = true;
            }
        }
        self.lineage.clear();
        let mut newest: BTreeMap<&Region, &PointFacts> = BTreeMap::new();
        for point in self.points.iter().filter(|p| p.restorable && p.region != *self.start.home) {
            let best = newest.entry(&point.region).or_insert(point);
            if (point.created, &point.name) > (best.created, &best.name) {
                *best = point;
            }
        }
        for (region, base) in newest {
            for region in [region, self.start.home] {
                let (point, region) = (base.name.clone(), region.clone());
                self.lineage.push(LineageFact { point, region, need: LineageNeed::DeltaBase });
            }
        }
    }

    fn add(&mut self, policy: &Policy, name: &PointName, at: WallTime, tiers: TierSet) {
        let facts = |region: &Region, restorable| PointFacts {
            name: name.clone(),
            created: at,
            tiers,
            restorable,
            proved: ProofLevel::Unproved,
            region: region.clone(),
        };
        // At the front, where the newest is expected.
        self.points.insert(0, facts(self.start.home, true));
        if let Some(target) = &policy.target_region {
            self.points.insert(1, facts(target, false));
            for (region, need) in
                [(self.start.home, LineageNeed::CopySource), (target, LineageNeed::CopyTarget)]
            {
                let (point, region) = (name.clone(), region.clone());
                self.lineage.push(LineageFact { point, region, need });
            }
        }
    }

    /// What the pruner would delete now, oldest first in each region.
    fn doomed(&self) -> Vec<Delete> {
        let Some(policy) = self.start.policy else { return vec![] };
        let mut doomed = vec![];
        for (region, points) in retention::by_region(&self.points) {
            let mut here = vec![];
            self.judge(&points, |point, reasons| {
                if reasons.is_empty() {
                    here.push(Delete {
                        point: point.name.clone(),
                        region: region.clone(),
                        reason: DeleteReason::new(point, &policy.retention),
                    });
                }
            });
            doomed.extend(here.into_iter().rev());
        }
        let kept_copy = |name: &PointName| {
            self.points.iter().any(|p| {
                p.name == *name
                    && p.region != *self.start.home
                    && !doomed.iter().any(|d| d.point == *name && d.region == p.region)
            })
        };
        let originals_last: Vec<bool> =
            doomed.iter().map(|d| d.region == *self.start.home && kept_copy(&d.point)).collect();
        let mut stays = originals_last.into_iter();
        doomed.retain(|_| !stays.next().unwrap_or(false));
        doomed
    }

    fn judge<'p>(
        &self,
        newest_first: &[&'p PointFacts],
        verdict: impl FnMut(&'p PointFacts, Vec<KeepReason>),
    ) {
        let policy = self.start.policy;
        let (holds, lineage) = (&self.holds, &self.lineage);
        retention::judge(policy, newest_first, holds, lineage, self.at, &self.calendar, verdict);
    }

    /// Whether points of this region are still added.
    fn grows(&self, region: &Region) -> bool {
        self.start.policy.is_some_and(|policy| {
            policy.enabled
                && !self.start.gone
                && (region == self.start.home || policy.target_region.as_ref() == Some(region))
        })
    }
}

#[cfg(test)]
mod tests;
