//! Copies a recovery point to another region.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point; replica row `copying` | – |
//! | `prepare_group` | the target region's snapshot group exists | – (shared, stays) |
//! | `start_copies` (each) | `CopyStart` per disk | deletes the copy |
//! | `await_copies` (each) | waits for 100 % | – |
//! | `record_replica` | replica row `complete`, snapshot rows | – |
//!
//! Azure says *Succeeded* one second in; only `completionPercent` 100 without a `copyCompletionError`
//! is complete, and a stalled copy never fails by itself (DESIGN §5 rule 3). Copies of one disk go in
//! creation order, one in flight: the lock on the VM's chains into the region sees to it, and a point
//! older than the newest copied one is refused (I2).

use azdr_arm::CopySpec;
use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::{PointName, snapshot_name};
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{
    Resource, delete_if_ours, ensure_shared_group, existing, finish, named, snapshot_group,
};
use super::{StepCx, Workflow, tags};
use crate::store::change::NewSnapshot;
use crate::store::{CatalogueChange, ItemId, PointRow, ReplicaState};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a replication is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Which point.
    pub point: PointName,
    /// Where to.
    pub region: String,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("replicate", 1, RunPriority::Replicate);

const PLAN: StepKey<Plan> = StepKey::new("plan");
const GROUP: StepKey<()> = StepKey::new("prepare_group");
const START: StepKey<()> = StepKey::new("start_copies");
const AWAIT: StepKey<()> = StepKey::new("await_copies");
const RECORD: StepKey<()> = StepKey::new("record_replica");

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    source_region: String,
    group: ArmId,
    copies: Vec<Copy>,
}

/// One disk's copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Copy {
    source: ArmId,
    target: NewSnapshot,
    tags: tags::Tags,
}

/// How far a copy was when it last moved.
#[derive(Serialize, Deserialize)]
struct Moved {
    percent: f64,
    at: WallTime,
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("chain:{}:{}", i.region, i.vm.key()))])
        .step(PLAN, "Planning the copies", plan)
        .no_undo("a failed run's replica row says so at the end")
        .step(GROUP, "Preparing the target group", prepare_group)
        .no_undo("the group is shared by all replicas of the region and stays")
        .each(START, "Starting the copies", 8, copies, start_copy)
        .undo_each(delete_copy)
        .each(AWAIT, "Copying", 64, copies, await_copy)
        .within(std::time::Duration::from_secs(72 * 3600))
        .no_undo("waits only")
        .step(RECORD, "Recording the replica", record_replica)
        .no_undo("last step: its changes are applied together with its journal entry")
        .residue(left_over)
        .conclude(conclude)
        .build()
}

/// Why a point cannot be copied to a region, if so.
pub fn refusal(point: &PointRow, all: &[PointRow], region: &str) -> Option<Failure> {
    let name = &point.name;
    if region == point.region {
        return Some(Failure::new("same_region", format!("{name} is in {region} already")));
    }
    if point.is_restorable_in(region) {
        let message = format!("{name} is complete in {region} already");
        return Some(Failure::new("already_replicated", message));
    }
    if !point.is_restorable_in(&point.region) {
        let message = format!("{name} is not complete in {}", point.region);
        return Some(Failure::new("not_restorable", message));
    }
    let newer = all.iter().find(|p| p.created > point.created && p.is_restorable_in(region));
    newer.map(|newer| {
        let message = format!("{name} is older than {}, which is in {region} already", newer.name);
        Failure::new("not_replicable", message)
            .hint("Azure copies the snapshots of a disk in creation order only")
    })
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let input = &cx.input;
    let services = cx.services();
    let point = services.catalogue.point(input.item, &input.point).await?;
    let all = services.catalogue.points(input.item).await?;
    if let Some(refusal) = refusal(&point, &all, &input.region) {
        return Err(StepError::Fail(refusal));
    }
    let group = snapshot_group(cx, &input.vm, &input.region)?;
    let tiers = point.tiers.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(",");
    let description = serde_json::to_string(&point.description).expect("has string keys");
    let copies = point
        .snapshots_in(&point.region)
        .into_iter()
        .map(|s| {
            let name = snapshot_name(&input.point, &input.vm, s.lun);
            let (subscription, group) = (group.subscription(), group.resource_group());
            let id = named(ArmId::snapshot(subscription, group, name.as_str()))?;
            let mut tags = tags::of_run(cx);
            let name = input.point.as_str();
            let disk = &s.source_disk;
            tags.extend(tags::of_snapshot(name, &tiers, s.lun, &input.vm, disk, &description));
            let facts = tags::CaptureFacts {
                at_ms: point.created.unix_ms(),
                frozen_ms: point.frozen_ms,
                operation: point.operation_id.clone(),
                witness: point.nonce.clone(),
            };
            let reason = &point.consistency_reason;
            tags.extend(tags::of_capture(point.consistency.as_str(), reason, &facts));
            Ok(Copy {
                source: s.id.clone(),
                target: NewSnapshot {
                    lun: s.lun,
                    id,
                    source_disk: s.source_disk.clone(),
                    source_disk_unique_id: s.source_disk_unique_id.clone(),
                    size_bytes: s.size_bytes,
                },
                tags,
            })
        })
        .collect::<Result<_, StepError>>()?;
    let plan = Plan { source_region: point.region, group, copies };
    Ok(Done::new(plan)
        .change(CatalogueChange::TakeLease { item: input.item, name: input.point.clone() })
        .change(replica(cx, ReplicaState::Copying, Vec::new(), None)))
}

fn replica(
    cx: &StepCx<Input>,
    state: ReplicaState,
    snapshots: Vec<NewSnapshot>,
    error: Option<String>,
) -> CatalogueChange {
    CatalogueChange::SetReplica {
        item: cx.input.item,
        name: cx.input.point.clone(),
        region: cx.input.region.clone(),
        state,
        snapshots,
        error,
    }
}

async fn prepare_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    ensure_shared_group(cx, &cx.output(PLAN)?.group, &cx.input.region).await?;
    Ok(Done::new(()))
}

fn copies(cx: &StepCx<Input>) -> Result<Vec<(String, Copy)>, StepError> {
    let copies = cx.output(PLAN)?.copies;
    Ok(copies.into_iter().map(|c| (c.target.id.name().to_owned(), c)).collect())
}

/// Asks Azure to copy one snapshot. A copy of ours that is there already is what we asked for.
async fn start_copy(cx: &StepCx<Input>, copy: &Copy) -> Result<Done<()>, StepError> {
    let azure = &cx.services().azure;
    let target = &copy.target.id;
    if let Some(found) = existing(azure.get_snapshot(target).await)? {
        if tags::is_of_run(cx, &found.tags) {
            return Ok(Done::new(()));
        }
        let message = format!("a snapshot named {} exists in {}", target.name(), cx.input.region);
        let failure = Failure::new("name_taken", message)
            .resource(target)
            .hint("it is not this job's; delete it if nobody needs it");
        return Err(StepError::Fail(failure));
    }
    let mut spec = CopySpec::new(&cx.input.region, copy.source.clone());
    spec.tags = copy.tags.clone();
    finish(cx, "copy", azure.begin_copy_snapshot(target, &spec)).await?;
    Ok(Done::new(()))
}

async fn delete_copy(cx: &StepCx<Input>, copy: &Copy) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Snapshot, &copy.target.id).await?;
    Ok(Done::new(()))
}

/// Looks whether one copy is complete.
async fn await_copy(cx: &StepCx<Input>, copy: &Copy) -> Result<Done<()>, StepError> {
    let services = cx.services();
    let found = services.azure.get_snapshot(&copy.target.id).await?;
    if let Some(error) = &found.copy_error {
        let message = format!("the copy failed: {} ({})", error.message, error.code);
        return Err(StepError::Fail(
            Failure::new("copy_failed", message)
                .resource(&copy.target.id)
                .hint("the job undoes itself; start the replication again"),
        ));
    }
    if found.ready() {
        if found.size_bytes.is_some_and(|s| s != copy.target.size_bytes) {
            let message = format!(
                "the copy has {} bytes, the original {}",
                found.size_bytes.unwrap_or_default(),
                copy.target.size_bytes
            );
            return Err(StepError::fail("copy_failed", message));
        }
        return Ok(Done::new(()));
    }
    let percent = found.completion_percent.unwrap_or(0.0);
    let now = cx.steady_now();
    let slow = |last: &Moved| now.since(last.at) > services.settings.copy_stall_limit / 2;
    match cx.checkpoint::<Moved>()? {
        // A step of less than a percent is not worth an entry, unless it is all there is for long.
        Some(last) if percent < last.percent + 1.0 && !(percent > last.percent && slow(&last)) => {
            if now.since(last.at) > services.settings.copy_stall_limit {
                let message = format!("the copy has stood at {percent} % since {}", last.at);
                return Err(StepError::Fail(
                    Failure::new("copy_stalled", message).resource(&copy.target.id),
                ));
            }
        }
        _ => cx.save_checkpoint(Some(&Moved { percent, at: now })).await?,
    }
    Err(StepError::NotYet {
        detail: format!("copied {percent:.0} %"),
        percent: Some(percent),
        after: services.settings.look_again_at_copy,
        resource: Some(copy.target.id.as_str().into()),
    })
}

async fn record_replica(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let copies = cx.output(PLAN)?.copies;
    let snapshots = copies.into_iter().map(|c| c.target).collect();
    Ok(Done::new(()).change(replica(cx, ReplicaState::Complete, snapshots, None)))
}

async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    let kept: Vec<ArmId> = match (cx.try_output(RECORD)?, cx.try_output(PLAN)?) {
        (_, None) => return Ok(Vec::new()),
        (Some(()), Some(plan)) => plan.copies.into_iter().map(|c| c.target.id).collect(),
        (None, Some(_)) => Vec::new(),
    };
    super::azure::left_of_run(cx, cx.input.vm.subscription(), &kept).await
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    let Some(plan) = cx.try_output(PLAN)? else { return Ok(Concluded::default()) };
    match outcome {
        Outcome::Succeeded => {
            let size: u64 = plan.copies.iter().map(|c| c.target.size_bytes).sum();
            let result = json!({"replicate": {
                "recovery_point": cx.input.point,
                "source_region": plan.source_region,
                "target_region": cx.input.region,
                "size_bytes": size,
            }});
            Ok(Concluded { result: Some(result), changes: Vec::new() })
        }
        Outcome::Failed(f) => {
            let change = replica(cx, ReplicaState::Failed, Vec::new(), Some(f.message.to_string()));
            Ok(Concluded { result: None, changes: vec![change] })
        }
        Outcome::Cancelled => {
            let change =
                replica(cx, ReplicaState::Failed, Vec::new(), Some("cancelled".to_owned()));
            Ok(Concluded { result: None, changes: vec![change] })
        }
    }
}
