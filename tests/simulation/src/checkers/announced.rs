//! Recovery points that somebody was told of: by the success of the job that made them.

use std::collections::{BTreeMap, BTreeSet};

use azdr_controller::store::RunState;
use azdr_env::WallTime;
use azure_sim::world::{Snapshot, State};

use crate::event::Event;

/// A point that was announced.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    /// Where its originals are.
    pub home: String,
    /// Where it is complete.
    pub regions: BTreeSet<String>,
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
    for part in 0..10 {
        let Some(text) = tag(snapshot, VM_PARTS[part]) else { return rest.is_empty() };
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
        tag(s, "azdr:point") == Some(point)
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

/// Every point of a VM whose snapshots in the region are complete, with its tiers: announced or not.
pub(super) fn complete_points(
    azure: &State,
    now: WallTime,
    vm: &str,
    region: &str,
) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (_, snapshot) in azure.snapshots.iter() {
        if snapshot.common.location.eq_ignore_ascii_case(region)
            && let Some(point) = tag(snapshot, "azdr:point")
            && is_of_vm(snapshot, vm)
            && snapshot.is_complete(now)
        {
            let tiers = tag(snapshot, "azdr:tiers").unwrap_or_default();
            found.insert(point.to_owned(), tiers.split(',').map(str::to_owned).collect());
        }
    }
    found
}

impl Points {
    /// Takes in announcements. Answers the point that has just been announced.
    pub(super) fn see(&mut self, event: &Event, azure: &State) -> Option<(String, String)> {
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
                    .filter(|(_, s)| tag(s, "azdr:point") == Some(&point) && is_of_vm(s, &vm))
                    .map(|(_, s)| s)
                    .collect();
                let first = found.first()?;
                let tiers = tag(first, "azdr:tiers").unwrap_or_default();
                let announced = Announced {
                    home: first.common.location.clone(),
                    regions: BTreeSet::from([first.common.location.clone()]),
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
                self.all.get_mut(&key)?.regions.insert(region);
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

    /// Points of a VM in a region, oldest first.
    pub(super) fn of<'a>(&'a self, vm: &'a str, region: &'a str) -> Vec<(&'a str, &'a Announced)> {
        let mut found: Vec<_> = self
            .all
            .iter()
            .filter(|((of, _), p)| of == vm && p.regions.contains(region))
            .map(|((_, name), p)| (name.as_str(), p))
            .collect();
        found.sort_by_key(|(_, p)| p.created);
        found
    }
}
