//! Deletes recovery points, and copies of them, that the policy no longer wants.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | the retention rules' plan, with reasons | – |
//! | `claim` | marks the points: nobody can take a lease on them any more | unmarks |
//! | `delete` (each) | deletes one snapshot; **point of no return** | – |
//! | `forget` | removes the rows | – |
//!
//! The plan is pure ([`azdr_domain::retention`]); I1 and I2 are decided there. Before anything is
//! deleted it is looked whether Azure still has what is to be kept: a point that somebody has deleted
//! protects nothing, and pushes nothing out. A lease taken or a pin
//! set between plan and claim makes the claim fail, and with it the run: it changes nothing then.
//!
//! A person may choose one point instead ([`Input::chosen`]): then the policy's slots do not count,
//! and everything else that keeps a point does.
//!
//! A plan of the policy that would delete more than the limit ([`super::DeletionLimit`]) deletes nothing.
//! It leaves a run of its own that waits for a second person ([`Asked`]) and then deletes what was
//! asked for, as far as the rules still say so: never more. While deletions are held (after the catalogue was
//! rebuilt) nothing is deleted either way.

use std::collections::BTreeSet;
use std::sync::Arc;

use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, Retention};
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::region::Region;
use azdr_domain::retention::{
    self, Hold, HoldKind, KeepReason, LineageFact, LineageNeed, PointFacts, RetentionPlan,
};
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete as delete_resource, existing};
use super::{StepCx, Workflow, tags};
use crate::mutation::{Mutation, planted};
use crate::store::{CatalogueChange, ItemId, PointRow, PointStanding, ReplicaState};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a prune is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Delete this instead of what the policy no longer wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// Delete nothing else, and that without asking: it has waited for a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

/// What a second person is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Points and regions.
    pub parts: Vec<(PointName, String)>,
    /// How many points those are.
    pub points: u32,
    /// Of how many.
    pub of: u32,
    /// Who had changed the policy last.
    pub policy_by: String,
}

impl Input {
    /// What the policy no longer wants.
    pub fn by_policy(item: ItemId, vm: ArmId) -> Self {
        Self { item, vm, chosen: None, asked: None }
    }
}

/// What a person wants deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The point.
    pub point: PointName,
    /// Its copy in this region only; `None`: the point with all its copies.
    pub region: Option<String>,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("prune", 1, RunPriority::Housekeeping);

const PLAN: StepKey<Plan> = StepKey::new("plan");
const CLAIM: StepKey<()> = StepKey::new("claim");
const DELETE: StepKey<()> = StepKey::new("delete");
const FORGET: StepKey<()> = StepKey::new("forget");

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    kept: u32,
    doomed: Vec<Doomed>,
    /// Why nothing may be deleted now.
    #[serde(default)]
    held: String,
    /// It would have been too much: a second person is asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    asks: bool,
}

/// A point's snapshots in one region.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Doomed {
    name: PointName,
    region: String,
    /// The originals: the point itself goes, when no copy is left.
    whole_point: bool,
    snapshots: Vec<ArmId>,
}

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("prune:{}", i.vm.key()))])
        .step(PLAN, "Applying the retention rules", plan)
        .no_undo("decides only")
        .step(CLAIM, "Claiming the points", claim)
        .undo(unclaim)
        .each(DELETE, "Deleting snapshots", 4, snapshots, delete)
        .point_of_no_return()
        .no_undo("a deleted snapshot cannot be brought back: forward or stuck")
        .step(FORGET, "Forgetting the points", forget)
        .no_undo("past the point of no return")
        .makes_nothing("deletes only")
        .conclude(conclude)
        .build()
}

/// What the rules say of a VM's points now.
pub fn retention_plan(
    policy: Option<&Policy>,
    points: &[PointRow],
    now: WallTime,
) -> RetentionPlan {
    retention_plan_of(policy, &standings(points), now)
}

fn standings(points: &[PointRow]) -> Vec<PointStanding> {
    points.iter().map(PointStanding::from).collect()
}

/// The same of what is enough to know.
pub fn retention_plan_of(
    policy: Option<&Policy>,
    points: &[PointStanding],
    now: WallTime,
) -> RetentionPlan {
    let (facts, holds, mut lineage) = facts(points);
    if planted(Mutation::PruneForgetsLineage) {
        lineage.clear();
    }
    let hasty = [
        Mutation::PruneIgnoresPolicy,
        Mutation::PruneIgnoresLeases,
        Mutation::PruneForgetsLineage,
        Mutation::PruneIgnoresPins,
    ];
    if let Some(policy) = policy
        && hasty.into_iter().any(planted)
    {
        let retention = Retention { daily: 1, weekly: 0, monthly: 0, yearly: 0 };
        let policy = Policy { retention, ..policy.clone() };
        return retention::plan(Some(&policy), &facts, &holds, &lineage, now);
    }
    retention::plan(policy, &facts, &holds, &lineage, now)
}

/// Why a point must not be deleted in a region, not even on purpose (I1, I2); empty when it may.
pub fn protection(
    points: &[PointRow],
    name: &PointName,
    region: &str,
    now: WallTime,
) -> Vec<KeepReason> {
    let (facts, holds, lineage) = facts(&standings(points));
    match Region::parse(region) {
        Ok(region) => retention::protection(name, &region, &facts, &holds, &lineage, now),
        Err(_) => Vec::new(),
    }
}

/// Mistakes on purpose that do not see what runs hold.
fn forgets_runs() -> bool {
    planted(Mutation::PruneIgnoresLeases) || planted(Mutation::PruneForgetsLineage)
}

/// What the rules have to know of a VM's points.
pub(crate) fn facts(points: &[PointStanding]) -> (Vec<PointFacts>, Vec<Hold>, Vec<LineageFact>) {
    let mut facts = Vec::with_capacity(points.len());
    let mut holds = Vec::new();
    let mut lineage = Vec::new();
    // Few, and each is that of many points.
    let mut parsed: Vec<(Arc<str>, Region)> = Vec::new();
    for point in points {
        for run in point.leases.iter().filter(|_| !forgets_runs()) {
            holds.push(Hold {
                point: point.name.clone(),
                owner: format!("job {run}"),
                kind: HoldKind::Lease,
                until: None,
                reason: String::new(),
            });
        }
        let pins = point.pins.iter().filter(|_| !planted(Mutation::PruneIgnoresPins));
        holds.extend(pins.map(|pin| Hold {
            point: point.name.clone(),
            owner: pin.owner.clone(),
            kind: HoldKind::Pin,
            until: pin.until,
            reason: pin.reason.clone(),
        }));
        let copying = point.replicas.iter().any(|(_, state)| !state.is_over());
        // A copy that failed left nothing there: it is no copy.
        let copies = point
            .replicas
            .iter()
            .filter(|(region, state)| !state.is_over() || point.part_in(region).is_some())
            .map(|(region, _)| region);
        for region in std::iter::once(&point.region).chain(copies) {
            let parsed = match parsed.iter().find(|(text, _)| text == region) {
                Some((_, parsed)) => parsed.clone(),
                None => {
                    let Ok(new) = Region::parse(region) else { continue };
                    parsed.push((region.clone(), new.clone()));
                    new
                }
            };
            let proved = point
                .attempts
                .iter()
                .filter(|a| a.passed && a.region == *region && !point.is_missing_in(region))
                .map(|a| a.level)
                .max()
                .unwrap_or(ProofLevel::Unproved);
            let broken = point.attempts.iter().rev().find(|a| a.region == *region);
            facts.push(PointFacts {
                name: point.name.clone(),
                created: point.created,
                tiers: point.tiers,
                restorable: point.is_restorable_in(region) && broken.is_none_or(|p| p.passed),
                proved,
                region: parsed.clone(),
            });
            if copying {
                let need = if *region == point.region {
                    LineageNeed::CopySource
                } else {
                    LineageNeed::CopyTarget
                };
                lineage.push(LineageFact { point: point.name.clone(), region: parsed, need });
            }
        }
    }
    lineage.extend(delta_bases(points));
    (facts, holds, lineage)
}

/// The newest fully copied point of each target region: the next copy is a delta to it, on both
/// sides (AZURE.md B.3).
fn delta_bases(points: &[PointStanding]) -> Vec<LineageFact> {
    let mut targets: Vec<&str> = points
        .iter()
        .flat_map(|p| p.replicas.iter())
        .filter(|(_, state)| *state == ReplicaState::Complete)
        .map(|(region, _)| &**region)
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let newest = |region: &str| {
        points.iter().filter(|p| p.is_restorable_in(region)).max_by_key(|p| p.created)
    };
    targets
        .into_iter()
        .filter_map(|region| Some((region, newest(region)?)))
        .flat_map(|(region, point)| {
            [region, &*point.region].map(|r| (r.to_owned(), point.name.clone()))
        })
        .filter_map(|(region, point)| {
            let region = Region::parse(&region).ok()?;
            Some(LineageFact { point, region, need: LineageNeed::DeltaBase })
        })
        .collect()
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let catalogue = &cx.services().catalogue;
    let mut points = catalogue.points(cx.input.item).await?;
    let held = catalogue.deletion_hold().await?.map(|h| h.to_string());
    if let Some(chosen) = &cx.input.chosen {
        if let Some(held) = held {
            return Err(StepError::Fail(
                Failure::new("held", held).hint("an admin ends that with `azdr retention release`"),
            ));
        }
        let missing = mark_missing(cx, &mut points).await?;
        let doomed = chosen_parts(&points, chosen, cx.now()).map_err(StepError::Fail)?;
        let kept = points.len() as u32 - 1;
        let plan = Plan { kept, doomed, held: String::new(), asks: false };
        return Ok(Done::new(plan).changes(missing));
    }
    let policy = catalogue.policy(cx.input.item).await?;
    let mut plan = retention_plan(policy.as_ref(), &points, cx.now());
    if let Some(held) = held {
        let kept = (plan.keep.len() + plan.delete.len()) as u32;
        return Ok(Done::new(Plan { kept, doomed: Vec::new(), held, asks: false }));
    }
    let mut missing = Vec::new();
    if !plan.delete.is_empty() {
        missing = mark_missing(cx, &mut points).await?;
        if !missing.is_empty() {
            plan = retention_plan(policy.as_ref(), &points, cx.now());
        }
    }
    let mut doomed: Vec<Doomed> = plan
        .delete
        .iter()
        .filter_map(|d| {
            let point = points.iter().find(|p| p.name == d.point)?;
            Some(Doomed::of(point, d.region.as_str()))
        })
        // The catalogue hangs a point's copies on the point: the originals go last.
        .filter(|d: &Doomed| {
            !d.whole_point
                || planted(Mutation::PruneForgetsLineage)
                || plan.keep.iter().all(|k| k.point != d.name || k.region.as_str() == d.region)
        })
        .collect();
    let kept = plan.keep.len() as u32;
    if let Some(asked) = &cx.input.asked {
        doomed.retain(|d| asked.parts.contains(&(d.name.clone(), d.region.clone())));
        let plan = Plan { kept, doomed, held: String::new(), asks: false };
        return Ok(Done::new(plan).changes(missing));
    }
    let mut names: Vec<&PointName> = doomed.iter().map(|d| &d.name).collect();
    names.sort();
    names.dedup();
    let (count, all) = (names.len(), points.len());
    let mut changes = missing;
    if !cx.services().settings.deletion_limit.asks(count, all) {
        // What was asked about, if anything, is not too much any more.
        changes.push(CatalogueChange::WithdrawApproval { item: cx.input.item });
        let plan = Plan { kept, doomed, held: String::new(), asks: false };
        return Ok(Done::new(plan).changes(changes));
    }
    let asked = Asked {
        parts: doomed.iter().map(|d| (d.name.clone(), d.region.clone())).collect(),
        points: count as u32,
        of: all as u32,
        policy_by: catalogue.policy_changed_by(cx.input.item).await?.unwrap_or_default(),
    };
    let words = format!(
        "approval: it would delete {count} of {all} recovery points; another operator than {} runs azdr \
         job approve",
        asked.policy_by
    );
    let input = Input { asked: Some(asked), ..cx.input.clone() };
    let by = format!("job {}", cx.run_id());
    let run = Box::new(super::new_run(RUN, &input, cx.input.item, by));
    changes.push(CatalogueChange::AskApproval { run, words });
    let plan = Plan { kept, doomed: Vec::new(), held: String::new(), asks: true };
    Ok(Done::new(plan).changes(changes))
}

/// Marks the snapshots that Azure has no more, and answers what to record of that. One listing shows
/// the VM's snapshots; as it may lag, what it does not show is asked for.
async fn mark_missing(
    cx: &StepCx<Input>,
    points: &mut [PointRow],
) -> Result<Vec<CatalogueChange>, StepError> {
    if planted(Mutation::MissingUnnoticed) {
        return Ok(Vec::new());
    }
    let azure = &cx.services().azure;
    let vm = &cx.input.vm;
    let (name, value) = tags::of_vm(vm);
    let listed = azure.list_by_tag(vm.subscription(), &name, &value).await?;
    let listed: BTreeSet<&str> = listed.iter().map(|r| r.id.key()).collect();
    let mut missing = Vec::new();
    let snapshots = points.iter_mut().flat_map(|p| p.snapshots.iter_mut());
    for snapshot in snapshots.filter(|s| s.missing.is_none() && !listed.contains(s.id.key())) {
        if existing(azure.get_snapshot(&snapshot.id).await)?.is_none() {
            tracing::error!(snapshot = %snapshot.id, "somebody has deleted a snapshot of a recovery point");
            snapshot.missing = Some(cx.now());
            missing.push(CatalogueChange::SnapshotMissing { id: snapshot.id.clone() });
        }
    }
    Ok(missing)
}

impl Doomed {
    fn of(point: &PointRow, region: &str) -> Self {
        Self {
            name: point.name.clone(),
            region: region.to_owned(),
            whole_point: region == point.region,
            snapshots: point.snapshots_in(region).into_iter().map(|s| s.id.clone()).collect(),
        }
    }
}

/// The regions in which a person's choice would be deleted, or why it must not be.
///
/// # Errors
/// `no_such_point`, `no_copy`, `in_use`, or `protected` with every reason and its end.
pub fn regions_to_delete(
    points: &[PointRow],
    chosen: &Chosen,
    now: WallTime,
) -> Result<Vec<String>, Failure> {
    let parts = chosen_parts(points, chosen, now)?;
    Ok(parts.into_iter().map(|d| d.region).collect())
}

fn chosen_parts(
    points: &[PointRow],
    chosen: &Chosen,
    now: WallTime,
) -> Result<Vec<Doomed>, Failure> {
    let name = &chosen.point;
    let point = points.iter().find(|p| p.name == *name).ok_or_else(|| {
        Failure::new("no_such_point", format!("there is no recovery point {name} any more"))
    })?;
    if let Some(run) = point.deleted_by {
        return Err(Failure::new("in_use", format!("{name} is being deleted by job {run}")));
    }
    let mut all: Vec<&str> = point.snapshots.iter().map(|s| s.region.as_str()).collect();
    // Copies that are only queued or under way have no snapshots yet, and hold the point.
    all.extend(point.replicas.iter().filter(|r| !r.state.is_over()).map(|r| r.region.as_str()));
    all.push(&point.region);
    all.sort_unstable();
    all.dedup();
    let regions = match chosen.region.as_deref() {
        None => all,
        Some(region) if !all.contains(&region) => {
            let message = format!("{name} has no copy in {region}");
            return Err(
                Failure::new("no_copy", message).hint(format!("it is in {}", all.join(", ")))
            );
        }
        Some(region) if region == point.region && all.len() > 1 => {
            let message =
                format!("{region} has the originals of {name}: its copies depend on them");
            return Err(Failure::new("originals", message)
                .hint("delete the copies first, or all of it without --region"));
        }
        Some(region) => vec![region],
    };
    let mut reasons = Vec::new();
    for region in &regions {
        for reason in protection(points, name, region, now) {
            reasons.push(format!("in {region}: {reason}"));
        }
    }
    if !reasons.is_empty() {
        let message = format!("{name} must be kept: {}", reasons.join("; "));
        return Err(Failure::new("protected", message).hint(
            "jobs end by themselves, or `azdr job cancel`; pins with `azdr backup unpin`; the newest \
             point can go when there is a newer one",
        ));
    }
    // Copies before originals, whose rows take the copies' rows along.
    let mut parts: Vec<Doomed> = regions.into_iter().map(|r| Doomed::of(point, r)).collect();
    parts.sort_by_key(|d| d.whole_point);
    Ok(parts)
}

async fn claim(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let doomed = cx.output(PLAN)?.doomed;
    let item = cx.input.item;
    Ok(Done::new(()).changes(
        doomed.into_iter().map(|d| CatalogueChange::ClaimForPruning { item, name: d.name }),
    ))
}

async fn unclaim(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let doomed = cx.output(PLAN)?.doomed;
    let item = cx.input.item;
    Ok(Done::new(())
        .changes(doomed.into_iter().map(|d| CatalogueChange::Unclaim { item, name: d.name })))
}

fn snapshots(cx: &StepCx<Input>) -> Result<Vec<(String, ArmId)>, StepError> {
    let doomed = cx.output(PLAN)?.doomed;
    let ids = doomed.into_iter().flat_map(|d| d.snapshots);
    Ok(ids.map(|id| (id.key().to_owned(), id)).collect())
}

async fn delete(cx: &StepCx<Input>, snapshot: &ArmId) -> Result<Done<()>, StepError> {
    delete_resource(cx, Resource::Snapshot, snapshot).await?;
    Ok(Done::new(()))
}

async fn forget(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let item = cx.input.item;
    // Copies before originals, whose rows take the copies' rows along.
    let (points, copies): (Vec<_>, Vec<_>) =
        cx.output(PLAN)?.doomed.into_iter().partition(|d| d.whole_point);
    let copies = copies
        .into_iter()
        .flat_map(|d| {
            let unclaim = CatalogueChange::Unclaim { item, name: d.name.clone() };
            [CatalogueChange::RemoveReplica { item, name: d.name, region: d.region }, unclaim]
        })
        .collect::<Vec<_>>();
    let points = points.into_iter().map(|d| CatalogueChange::RemovePoint { item, name: d.name });
    Ok(Done::new(()).changes(copies).changes(points))
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    if *outcome != Outcome::Succeeded {
        return Ok(Concluded::default());
    }
    let plan = cx.output(PLAN)?;
    let deleted: Vec<String> =
        plan.doomed.iter().map(|d| format!("{} ({})", d.name, d.region)).collect();
    let held = match plan.asks {
        true => "it would delete too much at once: a job of its own waits for approval".to_owned(),
        false => plan.held,
    };
    let result = json!({"prune": {"deleted": deleted, "kept": plan.kept, "held": held}});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
