//! I1: no recovery point that a policy wants is deleted; each VM keeps, in each region, its newest
//! restorable point.
//!
//! Judged at each deletion of a snapshot that belongs to an announced point, by counting: for some
//! policy of the last two days there must be, for every tier that the point carries and in this
//! region, as many *newer* periods of the policy's zone with a point of that tier as it asks for; and
//! the policy must be on. A policy may be in force before the answer that promises it is there: what only
//! it allows is judged a while later. A person may delete what the policy wants, but nobody what is pinned, what a
//! job holds, or the newest one. What somebody else has deleted counts no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_controller::store::RunId;
use azdr_env::WallTime;
use azure_sim::world::State;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::Checker;
use super::announced::{Announced, Points, belongs_to, taken};
use crate::event::{Event, Policy};
use crate::record::View;

/// A prune may go by a plan that is a while old.
const PLANS_LIVE: Duration = Duration::from_secs(2 * 86_400);

/// A change of a policy is answered so long after it came into force, at most: its tag is written first.
const ANSWERED: Duration = Duration::from_secs(3600);

/// A deletion that no policy allows that was promised by then.
struct Suspect {
    at: WallTime,
    vm: String,
    name: String,
    point: Announced,
    newer: BTreeMap<String, Vec<String>>,
    why: String,
}

/// See the module.
#[derive(Default)]
pub(super) struct Keep {
    points: Points,
    /// Runs that are not over.
    open: BTreeSet<RunId>,
    /// By VM: what was promised, and when.
    policies: BTreeMap<String, Vec<(WallTime, Policy, TimeZone)>>,
    /// By VM and point: until when, `None` for ever.
    pins: BTreeMap<(String, String), Option<WallTime>>,
    /// What a person has asked to delete: VM, point, region.
    chosen: BTreeSet<(String, String, Option<String>)>,
    suspects: Vec<Suspect>,
}

impl Keep {
    /// A disk made from this snapshot by a run that is not over, which therefore holds the point.
    fn in_use(&self, azure: &State, snapshot: &str) -> Option<(String, RunId)> {
        azure.disks.iter().find_map(|(key, disk)| {
            let source = disk.volume.creation.source.as_ref()?;
            let run = disk.common.tags.get("azdr:run")?.rsplit('.').next()?.parse().ok()?;
            let holds = source.to_string().eq_ignore_ascii_case(snapshot);
            (holds && self.open.contains(&RunId(run))).then(|| (key.clone(), RunId(run)))
        })
    }

    /// Why every policy that was in force lately wants the point; `None` when one does not.
    fn wanted(
        &self,
        (vm, name): (&str, &str),
        point: &Announced,
        newer: &BTreeMap<String, Vec<String>>,
        now: WallTime,
    ) -> Option<String> {
        let Some(all) = self.policies.get(vm) else { return Some("there is no policy".into()) };
        let latest = all.len().saturating_sub(1);
        let in_force = |(n, (since, ..)): &(usize, &(WallTime, Policy, TimeZone))| {
            *n == latest
                || all.get(n + 1).is_some_and(|(until, ..)| now.since(*until) < PLANS_LIVE)
                || now.since(*since) < PLANS_LIVE
        };
        let mut why = None;
        for (_, (_, policy, zone)) in all.iter().enumerate().filter(in_force) {
            match wanted_by(policy, zone, name, point, newer) {
                None => return None,
                wanted => why = wanted,
            }
        }
        why
    }

    fn is_pinned(&self, key: &(String, String), now: WallTime) -> bool {
        match self.pins.get(key) {
            None => false,
            Some(None) => true,
            // The controller's clock may be ahead.
            Some(Some(until)) => now.plus(CLOCK) < *until,
        }
    }
}

/// How far the controller's clock may be wrong, and a little.
const CLOCK: Duration = Duration::from_secs(3660);

/// Why a policy wants the point, if it does.
fn wanted_by(
    policy: &Policy,
    zone: &TimeZone,
    name: &str,
    point: &Announced,
    newer: &BTreeMap<String, Vec<String>>,
) -> Option<String> {
    if !policy.enabled {
        return Some("the policy is off".into());
    }
    let own = taken(name).unwrap_or(point.created);
    for (index, tier) in TIERS.iter().enumerate() {
        if !point.tiers.iter().any(|t| t == tier) {
            continue;
        }
        let own = period(index, own, zone);
        let newer: BTreeSet<Date> = newer
            .iter()
            .filter(|(_, tiers)| tiers.iter().any(|t| t == tier))
            .filter_map(|(name, _)| Some(period(index, taken(name)?, zone)))
            .filter(|p| *p > own)
            .collect();
        let wanted = policy.counts[index] as usize;
        if newer.len() < wanted {
            return Some(format!(
                "{wanted} {tier} points are wanted and {} newer ones exist",
                newer.len()
            ));
        }
    }
    None
}

/// First day of the day, week, month or year that a time is in.
fn period(tier: usize, at: WallTime, zone: &TimeZone) -> Date {
    let day = at.timestamp().to_zoned(zone.clone()).date();
    match tier {
        0 => day,
        // Weeks start on Sunday.
        1 => (0..7)
            .filter_map(|back| day.checked_sub(jiff::Span::new().days(back)).ok())
            .find(|d| d.weekday() == jiff::civil::Weekday::Sunday)
            .unwrap_or(day),
        2 => day.first_of_month(),
        _ => day.first_of_year(),
    }
}

const TIERS: [&str; 4] = ["daily", "weekly", "monthly", "yearly"];

impl Checker for Keep {
    fn invariant(&self) -> &'static str {
        "I1"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        self.judge(event, view)?;
        let is_over = |s: &Suspect| view.now.since(s.at) > ANSWERED;
        match self.suspects.iter().position(is_over) {
            Some(n) => {
                let s = self.suspects.remove(n);
                Err(format!("{} (at {})", s.why, s.at))
            }
            None => Ok(()),
        }
    }
}

impl Keep {
    fn judge(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        self.points.see(event, view.azure, view.now);
        if let Event::Run { id, state, .. } = event {
            if state.is_terminal() {
                self.open.remove(id);
            } else {
                self.open.insert(*id);
            }
        }
        if let Event::PolicyPromised(policy) = event {
            let known = self.policies.entry(policy.vm.clone()).or_default();
            let zone = TimeZone::get(&policy.zone).map_err(|e| e.to_string())?;
            self.suspects.retain(|s| {
                s.vm != policy.vm || wanted_by(policy, &zone, &s.name, &s.point, &s.newer).is_some()
            });
            known.push((view.now, policy.clone(), zone));
        }
        match event {
            Event::PinPromised(pin) => {
                self.pins.insert((pin.vm.clone(), pin.point.clone()), pin.until);
            }
            Event::PinTaken { vm, point } => {
                self.pins.remove(&(vm.clone(), point.clone()));
            }
            Event::DeletionPromised { vm, point, region } => {
                self.chosen.insert((vm.clone(), point.clone(), region.clone()));
            }
            _ => {}
        }
        let Event::Asked(asked) = event else { return Ok(()) };
        let Some(key) = asked.deletes("microsoft.compute/snapshots") else { return Ok(()) };
        let Some(snapshot) = view.azure.snapshots.get(key) else { return Ok(()) };
        let Some((vm, name)) = belongs_to(snapshot) else { return Ok(()) };
        let region = snapshot.common.location.clone();
        if let Some((disk, run)) = self.in_use(view.azure, key) {
            return Err(format!("{key} goes while job {run} holds it for {disk}"));
        }
        let key = (vm, name);
        let Some(point) = self.points.all.get(&key).filter(|_| self.points.is_whole(&key, &region))
        else {
            return Ok(());
        };
        if self.is_pinned(&key, view.now) {
            return Err(format!("{} of {} goes while it is pinned", key.1, key.0));
        }
        let (vm, name) = &key;
        let own = taken(name).unwrap_or(point.created);
        let mut newer = self.points.complete(view.azure, view.now, vm, &region);
        newer.retain(|other, _| other != name && taken(other).is_some_and(|at| at > own));
        if newer.is_empty() {
            return Err(format!("{name} is the newest restorable point of {vm} in {region}"));
        }
        let chosen = [None, Some(region.clone())]
            .into_iter()
            .any(|region| self.chosen.contains(&(vm.clone(), name.clone(), region)));
        if !chosen && let Some(why) = self.wanted((vm, name), point, &newer, view.now) {
            self.suspects.push(Suspect {
                at: view.now,
                vm: vm.clone(),
                name: name.clone(),
                point: point.clone(),
                newer,
                why: format!("{name} of {vm} in {region}: {why}"),
            });
        }
        self.points.gone(&key, &region);
        Ok(())
    }
}
