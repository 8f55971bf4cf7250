//! Recovery points that somebody was told of: by the success of the job that made them.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_controller::store::RunState;
use azdr_env::WallTime;
use azure_sim::world::{Snapshot, State};

use crate::event::Event;

/// What somebody deletes may be counted on for so long: a job may go by what it saw before.
const NOTICED: Duration = Duration::from_secs(6 * 3600);

/// A point that was announced.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    /// Where its originals are.
    pub home: String,
    /// Where it is complete, or was until somebody who is not azdr deleted part of it then.
    pub regions: BTreeMap<String, Option<WallTime>>,
    /// How many snapshots it has in each region.
    pub disks: usize,
    /// When it was taken.
    pub created: WallTime,
    /// As on its snapshots.
    pub tiers: Vec<String>,
}

/// All announced points, by VM key and name.
#[derive(Debug, Default)]
pub(super) struct Points {
    /// By VM key and point name.
    pub all: BTreeMap<(String, String), Announced>,
}

/// A tag's value.
pub(super) fn tag<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a str> {
    snapshot.common.tags.get(name).map(String::as_str)
}

/// VM key and point name that a snapshot's tags tell.
pub(super) fn belongs_to(snapshot: &Snapshot) -> Option<(String, String)> {
    let point = tag(snapshot, "azdr:point")?;
    let mut vm = String::new();
    for part in 0.. {
        match tag(snapshot, &format!("azdr:vm-{part}")) {
            Some(text) => vm.push_str(text),
            None => break,
        }
    }
    Some((vm.to_lowercase(), point.to_owned()))
}

/// Whether a snapshot's tags tell this VM key; as [`belongs_to`], without building it.
pub(super) fn is_of_vm(snapshot: &Snapshot, vm: &str) -> bool {
    let mut rest = vm;
    for part in VM_PARTS {
        let Some(text) = tag(snapshot, part) else { return rest.is_empty() };
        match rest.get(..text.len()) {
            Some(front) if front.eq_ignore_ascii_case(text) => rest = &rest[text.len()..],
            _ => return false,
        }
    }
    belongs_to(snapshot).is_some_and(|(of, _)| of == vm)
}

const VM_PARTS: [&str; 10] = [
    "azdr:vm-0",
    "azdr:vm-1",
    "azdr:vm-2",
    "azdr:vm-3",
    "azdr:vm-4",
    "azdr:vm-5",
    "azdr:vm-6",
    "azdr:vm-7",
    "azdr:vm-8",
    "azdr:vm-9",
];

/// All snapshots of a point in a region.
pub(super) fn snapshots_of<'a>(
    azure: &'a State,
    vm: &str,
    point: &str,
    region: &str,
) -> Vec<(&'a String, &'a Snapshot)> {
    let is_its = |s: &Snapshot| {
        s.common.tags.has("azdr:point", point)
            && s.common.location.eq_ignore_ascii_case(region)
            && is_of_vm(s, vm)
    };
    azure.snapshots.iter().filter(|(_, s)| is_its(s)).collect()
}

/// When a point was taken, as its name says: `{vm}-backup-{tier}-{yyyymmdd}-{hhmm}`.
pub(super) fn taken(point: &str) -> Option<WallTime> {
    let (_, stamp) = point.rsplit_once("-backup-")?;
    let mut parts = stamp.split('-').skip(1);
    let (day, time) = (parts.next()?, parts.next()?);
    let text = format!(
        "{}-{}-{}T{}:{}:00Z",
        day.get(0..4)?,
        day.get(4..6)?,
        day.get(6..8)?,
        time.get(0..2)?,
        time.get(2..4)?
    );
    text.parse().ok()
}

impl Points {
    /// Every point of a VM whose snapshots in the region are complete, with its tiers: announced or
    /// not. One of which somebody has just deleted a part counts still.
    pub(super) fn complete(
        &self,
        azure: &State,
        now: WallTime,
        vm: &str,
        region: &str,
    ) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
        for (_, snapshot) in azure.snapshots.iter() {
            if snapshot.common.location.eq_ignore_ascii_case(region)
                && is_of_vm(snapshot, vm)
                && let Some(point) = tag(snapshot, "azdr:point")
                && snapshot.is_complete(now)
            {
                let tiers = tag(snapshot, "azdr:tiers").unwrap_or_default();
                let tiers = || tiers.split(',').map(str::to_owned).collect();
                found.entry(point.to_owned()).or_insert_with(|| (0, tiers())).0 += 1;
            }
        }
        let mut complete: BTreeMap<_, _> = found
            .into_iter()
            .filter(|(point, (parts, _))| {
                let known = self.all.get(&(vm.to_owned(), point.clone()));
                known.is_none_or(|p| *parts >= p.disks)
            })
            .map(|(point, (_, tiers))| (point, tiers))
            .collect();
        for (name, point) in self.of(vm, region, now) {
            if point.regions.get(region).is_some_and(Option::is_some) {
                complete.insert(name.to_owned(), point.tiers.clone());
            }
        }
        complete
    }

    /// Takes in announcements. Answers the point that has just been announced.
    pub(super) fn see(
        &mut self,
        event: &Event,
        azure: &State,
        now: WallTime,
    ) -> Option<(String, String)> {
        if let Event::TakenAway(key) = event
            && let Some(snapshot) = azure.snapshots.get(key)
            && let Some(point) = belongs_to(snapshot)
            && let Some(point) = self.all.get_mut(&point)
            && let Some(gone) = point.regions.get_mut(&snapshot.common.location)
        {
            gone.get_or_insert(now);
        }
        let Event::Run { workflow, input, state: RunState::Succeeded, result, .. } = event else {
            return None;
        };
        let vm = input["vm"].as_str()?.to_lowercase();
        match workflow.as_str() {
            "backup" => {
                let point = result["backup"]["point"].as_str()?.to_owned();
                let found: Vec<_> = azure
                    .snapshots
                    .iter()
                    .filter(|(_, s)| s.common.tags.has("azdr:point", &point) && is_of_vm(s, &vm))
                    .map(|(_, s)| s)
                    .collect();
                let first = found.first()?;
                let home = &first.common.location;
                let tiers = tag(first, "azdr:tiers").unwrap_or_default();
                let announced = Announced {
                    home: first.common.location.clone(),
                    regions: BTreeMap::from([(first.common.location.clone(), None)]),
                    disks: found.iter().filter(|s| s.common.location == *home).count(),
                    created: first.common.created,
                    tiers: tiers.split(',').map(str::to_owned).collect(),
                };
                self.all.insert((vm.clone(), point.clone()), announced);
                Some((vm, point))
            }
            "replicate" => {
                let point = input["point"].as_str()?.to_owned();
                let region = input["region"].as_str()?.to_owned();
                let key = (vm, point);
                self.all.get_mut(&key)?.regions.insert(region, None);
                Some(key)
            }
            _ => None,
        }
    }

    /// A snapshot of it is about to go.
    pub(super) fn gone(&mut self, key: &(String, String), region: &str) {
        if let Some(point) = self.all.get_mut(key) {
            point.regions.remove(region);
            if point.regions.is_empty() {
                self.all.remove(key);
            }
        }
    }

    /// Whether a point is complete in a region, as far as announced.
    pub(super) fn is_whole(&self, key: &(String, String), region: &str) -> bool {
        self.all.get(key).is_some_and(|p| p.regions.get(region) == Some(&None))
    }

    /// Points of a VM in a region, oldest first; those of which somebody has just deleted a part are
    /// among them.
    pub(super) fn of<'a>(
        &'a self,
        vm: &'a str,
        region: &'a str,
        now: WallTime,
    ) -> Vec<(&'a str, &'a Announced)> {
        let is_there = |p: &Announced| {
            let gone = p.regions.get(region);
            gone.is_some_and(|gone| gone.is_none_or(|at| now.since(at) < NOTICED))
        };
        let mut found: Vec<_> = self
            .all
            .iter()
            .filter(|((of, _), p)| of == vm && is_there(p))
            .map(|((_, name), p)| (name.as_str(), p))
            .collect();
        found.sort_by_key(|(_, p)| p.created);
        found
    }
}
