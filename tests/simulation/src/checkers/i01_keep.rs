//! I1: no recovery point that a policy wants is deleted; each VM keeps, in each region, its newest
//! restorable point.
//!
//! Judged at each deletion of a snapshot that belongs to an announced point, by counting: for every
//! tier that the point carries there must be, in this region, as many *newer* periods with an
//! announced point of that tier as any policy of the last two days asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_controller::store::RunId;
use azdr_env::WallTime;
use azure_sim::world::State;

use super::Checker;
use super::announced::{Points, belongs_to, complete_points, taken};
use crate::event::Event;
use crate::record::View;

/// A prune may go by a plan that is a while old.
const PLANS_LIVE: Duration = Duration::from_secs(2 * 86_400);

/// See the module.
#[derive(Default)]
pub(super) struct Keep {
    points: Points,
    /// Runs that are not over.
    open: BTreeSet<RunId>,
    /// By VM: counts, and when they were promised.
    policies: BTreeMap<String, Vec<(WallTime, [u32; 4])>>,
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

    /// The least that any policy in force lately asked for.
    fn wanted(&self, vm: &str, tier: usize, now: WallTime) -> usize {
        let Some(all) = self.policies.get(vm) else { return usize::MAX };
        let latest = all.len().saturating_sub(1);
        let in_force = |(n, (since, _)): &(usize, &(WallTime, [u32; 4]))| {
            *n == latest
                || all.get(n + 1).is_some_and(|(until, _)| now.since(*until) < PLANS_LIVE)
                || now.since(*since) < PLANS_LIVE
        };
        let counts = all.iter().enumerate().filter(in_force).map(|(_, (_, counts))| counts[tier]);
        counts.min().unwrap_or(0) as usize
    }
}

/// Which day, week, month or year a time is in, as a number that grows.
fn period(tier: usize, at: WallTime) -> i64 {
    let day = at.unix_ms().div_euclid(86_400_000);
    let date = at.to_string();
    let part = |range: std::ops::Range<usize>| {
        date.get(range).and_then(|t| t.parse::<i64>().ok()).unwrap_or_default()
    };
    match tier {
        0 => day,
        // 1970-01-01 was a Thursday; weeks start on Sunday.
        1 => (day + 4).div_euclid(7),
        2 => part(0..4) * 12 + part(5..7),
        _ => part(0..4),
    }
}

const TIERS: [&str; 4] = ["daily", "weekly", "monthly", "yearly"];

impl Checker for Keep {
    fn invariant(&self) -> &'static str {
        "I1"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        self.points.see(event, view.azure);
        if let Event::Run { id, state, .. } = event {
            if state.is_terminal() {
                self.open.remove(id);
            } else {
                self.open.insert(*id);
            }
        }
        if let Event::PolicyPromised(policy) = event {
            let known = self.policies.entry(policy.vm.clone()).or_default();
            known.push((view.now, policy.counts));
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
        let Some(point) = self.points.all.get(&key) else { return Ok(()) };
        if !point.regions.contains(&region) {
            return Ok(());
        }
        let (vm, name) = &key;
        let own = taken(name).unwrap_or(point.created);
        let mut newer = complete_points(view.azure, view.now, vm, &region);
        newer.retain(|other, _| other != name && taken(other).is_some_and(|at| at > own));
        if newer.is_empty() {
            return Err(format!("{name} is the newest restorable point of {vm} in {region}"));
        }
        for (index, tier) in TIERS.iter().enumerate() {
            if !point.tiers.iter().any(|t| t == tier) {
                continue;
            }
            let own = period(index, own);
            let newer: BTreeSet<i64> = newer
                .iter()
                .filter(|(_, tiers)| tiers.iter().any(|t| t == tier))
                .filter_map(|(name, _)| Some(period(index, taken(name)?)))
                .filter(|p| *p > own)
                .collect();
            let wanted = self.wanted(vm, index, view.now);
            if newer.len() < wanted {
                return Err(format!(
                    "{name} of {vm} in {region}: {wanted} {tier} points are wanted and {} newer \
                     ones exist",
                    newer.len()
                ));
            }
        }
        self.points.gone(&key, &region);
        Ok(())
    }
}
