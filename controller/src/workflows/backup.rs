//! Takes one recovery point of a protected VM.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `describe` | reads VM and disks | – |
//! | `reserve_names` | fixes names, tiers, nonce | – |
//! | `prepare_group` | the region's snapshot group exists | – (shared, stays) |
//! | `capture` (hold) | freeze, all snapshots, thaw | deletes this run's snapshots |
//! | `tag_consistency` (each) | what was achieved, onto the snapshots | – (they go with `capture`'s undo) |
//! | `record_point` | catalogue row; starts `hash_content`, `replicate` and `prune` | – (in the same transaction) |
//!
//! Invariants: I4 (consistency as proved), I7 (a lost answer makes one snapshot, not two), I1 (names
//! are unique per VM, so nothing is overwritten).

use azdr_arm::PowerState;
use azdr_domain::arm_id::ArmId;
use azdr_domain::content::Sampling;
use azdr_domain::policy::{ConsistencyDemand, Policy};
use azdr_domain::recovery_point::{PointName, snapshot_name};
use azdr_domain::region::Region;
use azdr_domain::residue::Leaves;
use azdr_domain::schedule::tiers_for_run;
use azdr_domain::tier::{Tier, TierSet};
use azdr_domain::vm_description::VmDescription;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{ensure_shared_group, named, snapshot_group};
use super::capture::{CapturePlan, Captured, PlannedSnapshot, capture as take};
use super::{StepCx, Workflow, hash_content, machine, prune, replicate, tags};
use crate::store::change::{NewPoint, NewSnapshot};
use crate::store::{CatalogueChange, ItemId};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a backup is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// A tier that somebody asked for instead of the schedule's rule.
    #[serde(default)]
    pub tier: Option<Tier>,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("backup", 1, RunPriority::Backup);

const DESCRIBE: StepKey<Described> = StepKey::new("describe");
const NAMES: StepKey<Names> = StepKey::new("reserve_names");
const GROUP: StepKey<()> = StepKey::new("prepare_group");
const CAPTURE: StepKey<Captured> = StepKey::new("capture");
const TAG: StepKey<()> = StepKey::new("tag_consistency");
const RECORD: StepKey<()> = StepKey::new("record_point");

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Described {
    vm: VmDescription,
    /// Nothing runs on it: its disks do not change.
    off: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Names {
    point: PointName,
    tiers: TierSet,
    nonce: String,
    group: ArmId,
    policy: Option<Policy>,
    snapshots: Vec<PlannedSnapshot>,
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("vm:{}", i.vm.key()))])
        .step(DESCRIBE, "Reading the VM", describe)
        .no_undo("reads only")
        .step(NAMES, "Choosing names", reserve_names)
        .no_undo("touches nothing outside the journal")
        .step(GROUP, "Preparing the snapshot group", prepare_group)
        .no_undo("the group is shared by all backups of the region and stays")
        .hold(CAPTURE, "Taking snapshots", 2, capture)
        .undo(delete_snapshots)
        .each(TAG, "Recording consistency on the snapshots", 8, snapshots_to_tag, tag_consistency)
        .no_undo("the snapshots themselves go when the run turns back")
        .step(RECORD, "Recording the recovery point", record_point)
        .no_undo("last step: its changes are applied together with its journal entry")
        .residue(Leaves::Snapshots, left_over)
        .conclude(conclude)
        .build()
}

/// Reads the VM and its disks as they are now.
async fn describe(cx: &StepCx<Input>) -> Result<Done<Described>, StepError> {
    let azure = &cx.services().azure;
    let vm = azure.get_vm_with_instance_view(&cx.input.vm).await?;
    let off = vm.power_state.as_ref().is_some_and(PowerState::is_off);
    let description = machine::describe(azure, &vm).await?;
    if description.disks.is_empty() {
        return Err(StepError::fail(
            "nothing_to_back_up",
            format!("{} has no managed disks", cx.input.vm.name()),
        ));
    }
    Ok(Done::new(Described { vm: description, off }))
}

/// Fixes everything that a repetition must find the same.
async fn reserve_names(cx: &StepCx<Input>) -> Result<Done<Names>, StepError> {
    let input = &cx.input;
    let vm = cx.output(DESCRIBE)?.vm;
    let services = cx.services();
    let policy = services.catalogue.policy(input.item).await?;
    let now = cx.now();
    let tiers = match &policy {
        Some(policy) => {
            let history = services.catalogue.point_tiers(input.item).await?;
            tiers_for_run(policy, &history, now, input.tier)
                .map_err(|e| StepError::fail("tier_not_retained", e.to_string()))?
        }
        None => TierSet::only(input.tier.unwrap_or(Tier::Daily)),
    };
    let highest = tiers.highest().unwrap_or(Tier::Daily);
    let names = services.catalogue.point_names(input.item).await?;
    let taken = |name: &str| names.contains(name);
    let point = PointName::choose(input.vm.name(), highest, now, taken);
    let group = snapshot_group(cx, &input.vm, vm.location.as_str())?;
    let tier_list = tiers.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(",");
    let description = serde_json::to_string(&vm).expect("descriptions have string keys");
    let snapshots = vm
        .disks
        .iter()
        .map(|disk| {
            let name = snapshot_name(&point, &input.vm, disk.lun);
            let id = named(ArmId::snapshot(
                group.subscription(),
                group.resource_group(),
                name.as_str(),
            ))?;
            let mut tags = tags::of_run(cx);
            let point = point.as_str();
            tags.extend(tags::of_snapshot(
                point,
                &tier_list,
                disk.lun,
                &input.vm,
                &disk.id,
                &description,
            ));
            Ok(PlannedSnapshot {
                lun: disk.lun,
                id,
                disk: disk.id.clone(),
                disk_unique_id: disk.unique_id.clone(),
                size_bytes: disk.size_bytes,
                tags,
            })
        })
        .collect::<Result<_, StepError>>()?;
    let nonce = cx.env().ids.hex(32);
    Ok(Done::new(Names { point, tiers, nonce, group, policy, snapshots }))
}

async fn prepare_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let location = cx.output(DESCRIBE)?.vm.location;
    ensure_shared_group(cx, &cx.output(NAMES)?.group, location.as_str()).await?;
    Ok(Done::new(()))
}

/// Freezes, takes all snapshots, thaws.
async fn capture(cx: &StepCx<Input>) -> Result<Done<Captured>, StepError> {
    let described = cx.output(DESCRIBE)?;
    let names = cx.output(NAMES)?;
    let demand = names.policy.as_ref().map_or(ConsistencyDemand::Prefer, |p| p.consistency);
    let plan = CapturePlan {
        item: cx.input.item,
        location: described.vm.location.as_str(),
        point: names.point.as_str(),
        nonce: &names.nonce,
        unfrozen: match demand {
            _ if described.off => Some("the VM is off"),
            ConsistencyDemand::Any => Some("the policy says not to freeze"),
            _ => None,
        },
        require: demand == ConsistencyDemand::Require,
        snapshots: &names.snapshots,
    };
    still_the_same(cx, &described).await?;
    let (mut captured, record) = take(cx, plan).await?;
    // What was true before the capture must have been true throughout.
    still_the_same(cx, &described).await?;
    if described.off && captured.consistency < azdr_domain::consistency::Consistency::Crash {
        // Disks of a machine that is off do not change: all of them show one instant.
        captured.consistency = azdr_domain::consistency::Consistency::Crash;
        captured.reason = "the VM was off: all disks at one instant".to_owned();
    }
    let operation_id = captured.operation_id.clone();
    Ok(Done::new(captured).change(CatalogueChange::RecordCapture { operation_id, record }))
}

/// Fails when the VM was switched on or off, or its disks were changed, since it was described: the
/// run may have waited long for its turn, and "all disks" and "was off" must hold for the capture.
async fn still_the_same(cx: &StepCx<Input>, described: &Described) -> Result<(), StepError> {
    let vm = cx.services().azure.get_vm_with_instance_view(&cx.input.vm).await?;
    let off = vm.power_state.as_ref().is_some_and(PowerState::is_off);
    let mut now: Vec<_> = vm
        .os_disk
        .iter()
        .map(|d| (None, d.managed_disk.clone()))
        .chain(vm.data_disks.iter().map(|d| (d.lun, d.managed_disk.clone())))
        .collect();
    let mut then: Vec<_> = described.vm.disks.iter().map(|d| (d.lun, Some(d.id.clone()))).collect();
    now.sort();
    then.sort();
    if now != then || off != described.off {
        let message = format!("{} was changed while it was being backed up", cx.input.vm.name());
        return Err(StepError::Fail(
            Failure::new("vm_changed", message).hint("trigger the backup again"),
        ));
    }
    Ok(())
}

/// Deletes what this run has made under its names.
async fn delete_snapshots(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    use super::azure::{Resource, delete_if_ours};
    // A freeze that may still stand is the agent's to end; asking costs nothing.
    if let Some(operation) = cx.operation_ids(CAPTURE.name).pop() {
        let limit = std::time::Duration::from_secs(5);
        let _ = cx.services().fleet.thaw(cx.input.item, operation, limit).await;
    }
    for snapshot in cx.output(NAMES)?.snapshots {
        delete_if_ours(cx, Resource::Snapshot, &snapshot.id).await?;
    }
    let operations = cx.operation_ids(CAPTURE.name).into_iter();
    let forget = |operation_id| CatalogueChange::ForgetCapture { operation_id };
    Ok(Done::new(()).changes(operations.map(forget)))
}

fn snapshots_to_tag(cx: &StepCx<Input>) -> Result<Vec<(String, ArmId)>, StepError> {
    let snapshots = cx.output(NAMES)?.snapshots;
    Ok(snapshots.into_iter().map(|s| (s.id.name().to_owned(), s.id)).collect())
}

/// Tags one snapshot with what was achieved; absent means `crash` or `uncoordinated`.
async fn tag_consistency(cx: &StepCx<Input>, snapshot: &ArmId) -> Result<Done<()>, StepError> {
    let captured = cx.output(CAPTURE)?;
    let facts = tags::CaptureFacts {
        at_ms: captured.at.unix_ms(),
        frozen_ms: captured.frozen_ms,
        witness: if captured.witnessed { cx.output(NAMES)?.nonce } else { String::new() },
        operation: captured.operation_id,
    };
    let tags = tags::of_capture(captured.consistency.as_str(), &captured.reason, &facts);
    cx.services().azure.merge_tags(snapshot, tags).await?;
    Ok(Done::new(()))
}

/// Writes the recovery point into the catalogue and starts what follows from it.
async fn record_point(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let input = &cx.input;
    let described = cx.output(DESCRIBE)?;
    let names = cx.output(NAMES)?;
    let captured = cx.output(CAPTURE)?;
    let snapshots = names
        .snapshots
        .into_iter()
        .map(|s| NewSnapshot {
            lun: s.lun,
            id: s.id,
            source_disk: s.disk,
            source_disk_unique_id: s.disk_unique_id,
            size_bytes: s.size_bytes,
        })
        .collect();
    let region = described.vm.location.to_string();
    let point = NewPoint {
        item: input.item,
        name: names.point.clone(),
        region,
        created: captured.at,
        tiers: names.tiers,
        consistency: captured.consistency,
        consistency_reason: captured.reason,
        frozen_ms: captured.frozen_ms,
        operation_id: captured.operation_id,
        nonce: if captured.witnessed { names.nonce } else { String::new() },
        description: described.vm,
        snapshots,
    };
    let by = format!("job {}", cx.run_id());
    let mut done = Done::new(()).change(CatalogueChange::AddPoint(Box::new(point)));
    let sampled = cx.services().settings.sampled_blocks;
    if sampled != Sampling::Blocks(0) {
        let (item, vm, point) = (input.item, input.vm.clone(), names.point.clone());
        let hash = hash_content::Input { item, vm, point, blocks: sampled };
        let run = super::new_run(hash_content::RUN, &hash, input.item, by.clone());
        done = done.change(CatalogueChange::StartRun(Box::new(run)));
    }
    if let Some(policy) = names.policy.filter(|p| p.enabled) {
        if let Some(region) = policy.target_region {
            let copy = replicate::Input {
                item: input.item,
                vm: input.vm.clone(),
                point: names.point,
                region: region.to_string(),
                max_chains: None,
            };
            let run = super::new_run(replicate::RUN, &copy, input.item, by.clone());
            done = done.change(CatalogueChange::StartRun(Box::new(run)));
        }
        let clean = prune::Input::by_policy(input.item, input.vm.clone());
        let run = super::new_run(prune::RUN, &clean, input.item, by);
        // Behind a prune that is stuck, every backup would otherwise queue one more.
        done = done.change(CatalogueChange::StartRunUnlessQueued(Box::new(run)));
    }
    Ok(done)
}

/// On success the point's snapshots stay; turned back, nothing does.
async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    let kept: Vec<ArmId> = match (cx.try_output(RECORD)?, cx.try_output(NAMES)?) {
        (Some(()), Some(names)) => names.snapshots.into_iter().map(|s| s.id).collect(),
        (None, None) => return Ok(Vec::new()),
        _ => Vec::new(),
    };
    super::azure::left_of_run(cx, cx.input.vm.subscription(), &kept).await
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    if *outcome != Outcome::Succeeded {
        return Ok(Concluded::default());
    }
    let names = cx.output(NAMES)?;
    let target: Option<Region> = names.policy.filter(|p| p.enabled).and_then(|p| p.target_region);
    let result = json!({
        "backup": {"point": names.point, "replication_region": target.map(|r| r.to_string())},
    });
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
