//! Recovery points from the tags of their snapshots.
//!
//! Tags can be edited by anybody who may write to a snapshot, so nothing is believed that something
//! else can confirm: the resource's name must be the one that its tags lead to, and an original must
//! be a snapshot of the disk that the description names. Where tags are damaged or disagree, the point
//! is kept with the lesser claim, and the report says so. What cannot be put together is reported and
//! left in Azure as it is.

use std::collections::{BTreeMap, BTreeSet};

use azdr_arm::Snapshot;
use azdr_domain::arm_id::ArmId;
use azdr_domain::consistency::Consistency;
use azdr_domain::pin::{self, PIN_TAG, Pin};
use azdr_domain::recovery_point::{PointName, snapshot_name};
use azdr_domain::region::Region;
use azdr_domain::residue::RunTag;
use azdr_domain::tier::TierSet;
use azdr_domain::vm_description::{DiskDescription, VmDescription};
use azdr_env::WallTime;

use crate::store::change::{NewPoint, NewSnapshot};
use crate::store::{ItemId, RebuiltPoint, RebuiltReplica};
use crate::workflows::tags::{self, CaptureFacts};

/// The points of one installation, and what could not be recovered of them.
#[derive(Debug, Default)]
pub struct Points {
    /// By the canonical id of their VM; each VM's oldest first.
    pub by_vm: BTreeMap<String, Vec<RebuiltPoint>>,
    /// In words.
    pub lost: Vec<String>,
}

/// One snapshot whose tags could be read.
struct Part<'a> {
    snapshot: &'a Snapshot,
    id: ArmId,
    run: i64,
    point: PointName,
    vm: ArmId,
    lun: Option<u32>,
    region: String,
    tiers: Option<TierSet>,
    consistency: Option<Consistency>,
    reason: String,
    capture: Option<CaptureFacts>,
    description: Option<VmDescription>,
    pins: Vec<Pin>,
}

/// Puts the points of `installation` together.
pub fn read(snapshots: &[Snapshot], installation: &str) -> Points {
    let mut points = Points::default();
    let mut groups: BTreeMap<(String, PointName), Vec<Part<'_>>> = BTreeMap::new();
    for snapshot in snapshots {
        let tag = tags::value(&snapshot.tags, tags::RUN).and_then(RunTag::parse);
        let Some(tag) = tag.filter(|tag| tag.installation == installation) else { continue };
        match part(snapshot, &tag, &mut points.lost) {
            Ok(part) => {
                let key = (part.vm.key().to_owned(), part.point.clone());
                groups.entry(key).or_default().push(part);
            }
            Err(why) => points.lost.push(why),
        }
    }
    for ((vm, name), parts) in groups {
        match put_together(&name, &parts, &mut points.lost) {
            Ok(point) => points.by_vm.entry(vm).or_default().push(point),
            Err(why) => points.lost.push(format!("recovery point {name}: {why}")),
        }
    }
    for points in points.by_vm.values_mut() {
        points.sort_by_key(|p| (p.point.created, p.point.name.clone()));
    }
    points
}

fn part<'a>(
    snapshot: &'a Snapshot,
    tag: &RunTag,
    lost: &mut Vec<String>,
) -> Result<Part<'a>, String> {
    let id = snapshot.id.clone().ok_or("a snapshot has no resource ID")?;
    let name = id.name().to_owned();
    let damaged = |what: &str| format!("snapshot {name}: {what}; it is left as it is");
    let said = tags::read_snapshot(&snapshot.tags);
    let point = PointName::parse(&said.point)
        .map_err(|_| damaged("its tag azdr:point names no recovery point"))?;
    let vm = ArmId::parse(&said.vm)
        .ok()
        .filter(|id| id.is_type("Microsoft.Compute/virtualMachines"))
        .ok_or_else(|| damaged("its tags azdr:vm-0… name no VM"))?;
    let lun = match said.lun.as_str() {
        "os" => None,
        text => Some(text.parse().map_err(|_| damaged("its tag azdr:lun names no disk"))?),
    };
    if !snapshot_name(&point, &vm, lun).as_str().eq_ignore_ascii_case(&name) {
        return Err(damaged("its tags have been changed, they do not lead to its name"));
    }
    let region = snapshot.location.as_deref().and_then(|l| Region::parse(l).ok());
    let region = region.ok_or_else(|| damaged("Azure does not say its region"))?.to_string();
    let description = serde_json::from_str::<VmDescription>(&said.description).ok();
    let description = description.filter(|d| d.id == vm);
    if description.is_none() {
        lost.push(format!("snapshot {name}: its description of the VM is cut short or damaged"));
    }
    let pins = match tags::value(&snapshot.tags, PIN_TAG).map(pin::parse_tag) {
        None => Vec::new(),
        Some(Ok(pins)) => pins,
        Some(Err(why)) => {
            lost.push(format!("snapshot {name}: its pins cannot be read ({why})"));
            Vec::new()
        }
    };
    let text = |name| tags::value(&snapshot.tags, name).unwrap_or_default();
    Ok(Part {
        run: tag.run,
        tiers: said.tiers.parse().ok().filter(|tiers: &TierSet| !tiers.is_empty()),
        consistency: text(tags::CONSISTENCY).parse().ok(),
        reason: text(tags::REASON).to_owned(),
        capture: serde_json::from_str(text(tags::CAPTURE)).ok(),
        snapshot,
        id,
        point,
        vm,
        lun,
        region,
        description,
        pins,
    })
}

fn put_together(
    name: &PointName,
    parts: &[Part<'_>],
    lost: &mut Vec<String>,
) -> Result<RebuiltPoint, String> {
    let mut note = |what: &str| lost.push(format!("recovery point {name}: {what}"));
    let description = most_common(parts.iter().filter_map(|p| p.description.as_ref()))
        .ok_or("no snapshot of it has a whole description of the VM")?;
    if parts.iter().filter_map(|p| p.description.as_ref()).any(|d| d != description) {
        note("its snapshots describe the VM differently; the most common description is used");
    }
    let home = description.location.to_string();
    let mut regions: BTreeMap<&str, Vec<&Part<'_>>> = BTreeMap::new();
    for part in parts {
        let disk = description.disks.iter().find(|d| d.lun == part.lun);
        match disk {
            None => note(&format!("{} is of a disk that the VM did not have", part.id.name())),
            Some(disk) if part.region == home && !is_of(part, disk) => {
                note(&format!("{} is not a snapshot of {}", part.id.name(), disk.name));
            }
            Some(_) => regions.entry(&part.region).or_default().push(part),
        }
    }
    let expected: BTreeSet<_> = description.disks.iter().map(|d| d.lun).collect();
    let missing = |parts: &[&Part<'_>]| -> Vec<String> {
        let there: BTreeSet<_> =
            parts.iter().filter(|p| p.snapshot.ready()).map(|p| p.lun).collect();
        expected.difference(&there).map(|lun| disk_word(*lun)).collect()
    };
    let originals = regions.remove(home.as_str()).unwrap_or_default();
    let gone = missing(&originals);
    let (mut replicas, mut unfinished) = (Vec::new(), Vec::new());
    for (region, copies) in regions {
        let gone = missing(&copies);
        if gone.is_empty() {
            replicas.push((region, copies));
        } else {
            let lacks = format!("lacks the {}", gone.join(", the "));
            note(&format!("its copy in {region} {lacks}; copying it again takes up what is there"));
            unfinished.push((region, copies, lacks));
        }
    }
    if !gone.is_empty() {
        let what = format!("the {} is missing in {home}", gone.join(", the "));
        if replicas.is_empty() {
            return Err(format!("{what}, and there is no whole copy elsewhere"));
        }
        note(&format!("{what}; its copies elsewhere are whole"));
    }
    // What counts is the originals' word, and where they are gone a copy's.
    let witnesses: &[&Part<'_>] =
        if gone.is_empty() { &originals } else { replicas[0].1.as_slice() };
    let tiers = tiers(witnesses, &mut note);
    let (consistency, reason) = consistency(witnesses, description.disks.len(), &mut note);
    let capture = capture(witnesses, &mut note);
    let made = witnesses.iter().filter_map(|p| p.snapshot.time_created).min();
    let created = match &capture {
        Some(facts) => WallTime::from_unix_ms(facts.at_ms),
        None => made.unwrap_or_else(|| name.minute()),
    };
    let run = witnesses.iter().map(|p| p.run).min().unwrap_or_default();
    let pins = pins(parts);
    let point = NewPoint {
        // Known when it is written.
        item: ItemId(0),
        name: name.clone(),
        region: home,
        created,
        tiers,
        consistency,
        consistency_reason: reason,
        frozen_ms: capture.as_ref().map_or(0, |c| c.frozen_ms),
        operation_id: capture.as_ref().map(|c| c.operation.clone()).unwrap_or_default(),
        nonce: capture.map(|c| c.witness).unwrap_or_default(),
        snapshots: snapshots(&originals, description),
        description: description.clone(),
    };
    let replica = |region: &str, copies: &[&Part<'_>]| RebuiltReplica {
        region: region.to_owned(),
        run: copies.iter().map(|p| p.run).max().unwrap_or_default(),
        started: copies.iter().filter_map(|p| p.snapshot.time_created).min().unwrap_or(created),
        snapshots: snapshots(copies, description),
        problem: None,
    };
    let whole = replicas.iter().map(|(region, copies)| replica(region, copies));
    let unfinished = unfinished.iter().map(|(region, copies, lacks)| RebuiltReplica {
        // Nobody's yet: a copy takes them up, or they are residue.
        snapshots: Vec::new(),
        problem: Some(format!("it was not whole when the catalogue was rebuilt: it {lacks}")),
        ..replica(region, copies)
    });
    let replicas = whole.chain(unfinished).collect();
    Ok(RebuiltPoint { point, run, replicas, pins })
}

fn disk_word(lun: Option<u32>) -> String {
    lun.map_or("OS disk".to_owned(), |n| format!("disk at LUN {n}"))
}

/// Whether an original is a snapshot of this very disk, as far as Azure says.
fn is_of(part: &Part<'_>, disk: &DiskDescription) -> bool {
    let source = part.snapshot.source_unique_id.as_deref();
    source.is_none_or(|id| disk.unique_id.is_empty() || id.eq_ignore_ascii_case(&disk.unique_id))
}

fn most_common<'a>(all: impl Iterator<Item = &'a VmDescription>) -> Option<&'a VmDescription> {
    let all: Vec<_> = all.collect();
    all.iter().copied().max_by_key(|d| all.iter().filter(|other| *other == d).count())
}

/// All tiers that any snapshot names: too many keep a point longer, too few would lose it.
fn tiers(parts: &[&Part<'_>], note: &mut impl FnMut(&str)) -> TierSet {
    let read: BTreeSet<Vec<_>> =
        parts.iter().filter_map(|p| Some(p.tiers?.iter().collect())).collect();
    if read.is_empty() {
        note("its tiers cannot be read; it carries none, and is kept until somebody deletes it");
    } else if read.len() > 1 || parts.iter().any(|p| p.tiers.is_none()) {
        note("its snapshots do not agree on its tiers; it carries all that they name");
    }
    read.into_iter().flatten().collect()
}

/// What all snapshots say that was achieved; otherwise the least that it can be (I4).
fn consistency(
    parts: &[&Part<'_>],
    disks: usize,
    note: &mut impl FnMut(&str),
) -> (Consistency, String) {
    let first = parts.first().and_then(|p| p.consistency);
    match first {
        Some(said) if parts.iter().all(|p| p.consistency == first) => {
            (said, parts.first().map(|p| p.reason.clone()).unwrap_or_default())
        }
        _ => {
            note("its tags do not say, or not all the same, which consistency was achieved");
            let least = Consistency::without_freeze(disks);
            (least, "not known since the catalogue was rebuilt".to_owned())
        }
    }
}

fn capture(parts: &[&Part<'_>], note: &mut impl FnMut(&str)) -> Option<CaptureFacts> {
    let first = parts.first().and_then(|p| p.capture.as_ref());
    if first.is_some() && parts.iter().all(|p| p.capture.as_ref() == first) {
        return first.cloned();
    }
    note("its tags do not say how it was captured; a restored machine cannot show its witness");
    None
}

fn pins(parts: &[Part<'_>]) -> Vec<Pin> {
    let mut pins: BTreeMap<&str, &Pin> = BTreeMap::new();
    for pin in parts.iter().flat_map(|p| &p.pins) {
        let ends = |p: &Pin| p.until.map_or(i64::MAX, WallTime::unix_ms);
        let known = pins.entry(&pin.owner).or_insert(pin);
        if ends(pin) > ends(known) {
            *known = pin;
        }
    }
    pins.into_values().cloned().collect()
}

fn snapshots(parts: &[&Part<'_>], description: &VmDescription) -> Vec<NewSnapshot> {
    let found = description.disks.iter().filter_map(|disk| {
        let part = parts.iter().find(|p| p.lun == disk.lun && p.snapshot.ready())?;
        Some(NewSnapshot {
            lun: disk.lun,
            id: part.id.clone(),
            source_disk: disk.id.clone(),
            source_disk_unique_id: disk.unique_id.clone(),
            size_bytes: disk.size_bytes,
        })
    });
    found.collect()
}
