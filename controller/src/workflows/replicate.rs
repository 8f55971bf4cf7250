//! Copies a recovery point to another region.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point; replica row `copying` | – |
//! | `prepare_group` | the target region's snapshot group exists | – (shared, stays) |
//! | `copy_disks` (each) | `CopyStart` per disk, waits for 100 % | deletes the copy |
//! | `record_replica` | replica row `complete`, snapshot rows | – |
//!
//! Each disk is a chain of its own: so many chains as the input says are copied at once. In the first
//! version all were started (`start_copies`), and then waited for (`await_copies`).
//!
//! Azure says *Succeeded* one second in; only `completionPercent` 100 without a `copyCompletionError`
//! is complete, and a stalled copy never fails by itself (DESIGN §5 rule 3). Copies of one disk go in
//! creation order, one in flight: the lock on the VM's chains into the region sees to it, and a point
//! older than the newest copied one is refused (I2).

use std::time::Duration;

use azdr_arm::{CopySpec, Snapshot};
use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::{PointName, snapshot_name};
use azdr_domain::region::Region;
use azdr_domain::residue::{Leaves, RunFacts, RunTag, UnfinishedCopy};
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{
    Resource, delete_if_ours, ensure_shared_group, existing, finish, named, snapshot_group,
};
use super::{Catalogue, StepCx, Workflow, tags};
use crate::store::change::NewSnapshot;
use crate::store::{CatalogueChange, ItemId, PointRow, ReplicaState, RunId, StoreError};
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
    /// How many disks are copied at once; all, unless it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chains: Option<usize>,
}

impl Input {
    fn chains(&self) -> usize {
        self.max_chains.unwrap_or(MAX_DISKS).max(1)
    }
}

/// More disks than a VM can have.
const MAX_DISKS: usize = 128;

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("replicate", 2, RunPriority::Replicate);
/// Its first version, whose journals are still finished.
pub const FIRST: u32 = 1;

const PLAN: StepKey<Plan> = StepKey::new("plan");
const GROUP: StepKey<()> = StepKey::new("prepare_group");
const START: StepKey<()> = StepKey::new("start_copies");
const AWAIT: StepKey<()> = StepKey::new("await_copies");
const COPY: StepKey<()> = StepKey::new("copy_disks");
/// A first copy of a large disk takes days.
const COPY_LIMIT: Duration = Duration::from_secs(72 * 3600);
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

/// The step list of this version.
pub fn workflow(version: u32) -> Definition<super::Services> {
    let steps = Workflow::new(RUN.0, Version(version), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("chain:{}:{}", i.region, i.vm.key()))])
        .step(PLAN, "Planning the copies", plan)
        .no_undo("a failed run's replica row says so at the end")
        .step(GROUP, "Preparing the target group", prepare_group)
        .no_undo("the group is shared by all replicas of the region and stays");
    let steps = match version {
        FIRST => steps
            .each(START, "Starting the copies", 8, copies, start_copy)
            .undo_each(delete_copy)
            .each(AWAIT, "Copying", 64, copies, await_copy)
            .within(COPY_LIMIT)
            .no_undo("waits only"),
        _ => steps
            .each_as_told(COPY, "Copying", Input::chains, copies, copy_disk)
            .within(COPY_LIMIT)
            .undo_each(delete_copy),
    };
    steps
        .step(RECORD, "Recording the replica", record_replica)
        .no_undo("last step: its changes are applied together with its journal entry")
        .residue(Leaves::Snapshots, left_over)
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
    let description = serde_json::to_string(&*point.description).expect("has string keys");
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

/// The copy that a snapshot is part of when it is not whole, of a point that is whole at home.
///
/// # Errors
/// When the store cannot be read.
pub async fn unfinished_copy(
    catalogue: &Catalogue,
    snapshot: &Snapshot,
) -> Result<Option<UnfinishedCopy>, StoreError> {
    let said = tags::read_snapshot(&snapshot.tags);
    let (Ok(vm), Ok(name)) = (ArmId::parse(&said.vm), PointName::parse(&said.point)) else {
        return Ok(None);
    };
    let lun = said.lun.parse().ok();
    let own_name =
        |id: &ArmId| id.name().eq_ignore_ascii_case(snapshot_name(&name, &vm, lun).as_str());
    let region = snapshot.location.as_deref().and_then(|l| Region::parse(l).ok());
    let (Some(region), true) = (region, snapshot.id.as_ref().is_some_and(own_name)) else {
        return Ok(None);
    };
    let region = region.to_string();
    let Some(item) = catalogue.item(&vm).await? else { return Ok(None) };
    let points = catalogue.points(item.id).await?;
    let Some(point) = points.iter().find(|p| p.name == name) else { return Ok(None) };
    let elsewhere = region != point.region && !point.is_restorable_in(&region);
    if !elsewhere || !point.is_restorable_in(&point.region) {
        return Ok(None);
    }
    let newer = |p: &PointRow| p.created > point.created && p.is_restorable_in(&region);
    Ok(Some(match points.iter().any(newer) {
        true => UnfinishedCopy::Overtaken,
        false => UnfinishedCopy::CanGoOn,
    }))
}

/// Whether a snapshot is this very copy, begun by a job that the catalogue has forgotten: no other can
/// be at work on it, since this run has the chains.
async fn can_be_taken_up(
    cx: &StepCx<Input>,
    copy: &Copy,
    found: &Snapshot,
) -> Result<bool, StepError> {
    let services = cx.services();
    let made_by = tags::value(&found.tags, tags::RUN).and_then(RunTag::parse);
    let Some(made_by) = made_by.filter(|t| t.installation == services.settings.installation) else {
        return Ok(false);
    };
    let (run, _) = services.catalogue.run_facts(RunId(made_by.run)).await?;
    let same_source = found.source_resource_id.as_ref() == Some(&copy.source);
    Ok(matches!(run, RunFacts::BeforeRebuild { .. })
        && same_source
        && found.copy_error.is_none()
        && unfinished_copy(&services.catalogue, found).await? == Some(UnfinishedCopy::CanGoOn))
}

/// Asks Azure to copy one snapshot. A copy of ours that is there already is what we asked for; one that
/// was under way when the catalogue was lost becomes ours.
async fn start_copy(cx: &StepCx<Input>, copy: &Copy) -> Result<Done<()>, StepError> {
    let azure = &cx.services().azure;
    let target = &copy.target.id;
    if let Some(found) = existing(azure.get_snapshot(target).await)? {
        if tags::is_of_run(cx, &found.tags) || is_left_of_a_replica(cx, copy, &found) {
            return Ok(Done::new(()));
        }
        if can_be_taken_up(cx, copy, &found).await? {
            azure.merge_tags(target, copy.tags.clone()).await?;
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

/// Whether a snapshot is what an earlier job of ours has made of the same original: somebody has deleted
/// another part of that replica, and this one is still good. It carries that job's tag: undoing this one
/// leaves it alone.
fn is_left_of_a_replica(cx: &StepCx<Input>, copy: &Copy, found: &Snapshot) -> bool {
    let tag = |tags: &tags::Tags, name| tags::value(tags, name).map(str::to_owned);
    let run = tag(&found.tags, tags::RUN).as_deref().and_then(RunTag::parse);
    let (said, ours) = (tags::read_snapshot(&found.tags), tags::read_snapshot(&copy.tags));
    run.is_some_and(|run| run.installation == cx.services().settings.installation)
        && found.ready()
        && found.source_resource_id.as_ref() == Some(&copy.source)
        && (said.point, said.lun) == (ours.point, ours.lun)
        && said.vm.eq_ignore_ascii_case(&ours.vm)
}

/// What the journal of one disk's copy ends with: the operation that asks for it, or how far it is.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stage {
    Copying {
        #[serde(rename = "percent")]
        _percent: f64,
    },
    Asking(serde::de::IgnoredAny),
}

/// Asks for the copy of one disk, and looks whether it is complete.
async fn copy_disk(cx: &StepCx<Input>, copy: &Copy) -> Result<Done<()>, StepError> {
    match cx.checkpoint::<Stage>()? {
        Some(Stage::Copying { .. }) => {}
        Some(Stage::Asking(_)) | None => {
            start_copy(cx, copy).await?;
            let begun = Moved { percent: 0.0, at: cx.steady_now() };
            cx.save_checkpoint(Some(&begun)).await?;
        }
    }
    await_copy(cx, copy).await.map_err(|e| match e {
        StepError::NotYet { detail, percent, after, resource } => {
            let percent = percent.map(|percent| of_all_disks(cx, copy, percent));
            StepError::NotYet { detail, percent, after, resource }
        }
        e => e,
    })
}

/// How far the whole is when this disk's copy is so far: disks that wait for their turn count, too.
fn of_all_disks(cx: &StepCx<Input>, copy: &Copy, percent: f64) -> f64 {
    let Ok(plan) = cx.output(PLAN) else { return percent };
    let chains = cx.input.chains();
    let turn = plan.copies.iter().position(|c| c.target.id == copy.target.id).unwrap_or(0) / chains;
    let turns = plan.copies.len().div_ceil(chains).max(1);
    (turn as f64 * 100.0 + percent) / turns as f64
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
