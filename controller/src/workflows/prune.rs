//! Deletes recovery points, and copies of them, that the policy no longer wants.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | the retention rules' plan, with reasons | – |
//! | `claim` | marks the points: nobody can take a lease on them any more | unmarks |
//! | `delete` (each) | deletes one snapshot; **point of no return** | – |
//! | `forget` | removes the rows | – |
//!
//! The plan is pure ([`azdr_domain::retention`]); I1 and I2 are decided there. A lease taken between
//! plan and claim makes the claim fail, and with it the run: it changes nothing then.

use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::region::Region;
use azdr_domain::retention::{
    self, Hold, HoldKind, LineageFact, LineageNeed, PointFacts, RetentionPlan,
};
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete as delete_resource};
use super::{StepCx, Workflow};
use crate::store::{CatalogueChange, ItemId, PointRow, ReplicaState};
use crate::workflow::{
    Concluded, Definition, Done, LockKey, Outcome, RunPriority, StepError, StepKey, Version,
};

/// What a prune is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
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
        .conclude(conclude)
        .build()
}

/// What the rules say of a VM's points now.
pub fn retention_plan(
    policy: Option<&azdr_domain::policy::Policy>,
    points: &[PointRow],
    now: WallTime,
) -> RetentionPlan {
    let mut facts = Vec::new();
    let mut holds = Vec::new();
    let mut lineage = Vec::new();
    for point in points {
        for run in &point.leases {
            holds.push(Hold {
                point: point.name.clone(),
                owner: format!("job {run}"),
                kind: HoldKind::Lease,
                until: None,
            });
        }
        let copying = point.replicas.iter().any(|r| !r.state.is_over());
        // A copy that failed left nothing there: it is no copy.
        let copies = point
            .replicas
            .iter()
            .filter(|r| !r.state.is_over() || !point.snapshots_in(&r.region).is_empty());
        let regions = std::iter::once(point.region.clone()).chain(copies.map(|r| r.region.clone()));
        for region in regions {
            let Ok(parsed) = Region::parse(&region) else { continue };
            let proved = point
                .proofs
                .iter()
                .filter(|p| p.passed && p.region == region)
                .map(|p| p.level)
                .max()
                .unwrap_or(ProofLevel::Unproved);
            let broken = point.proofs.iter().rev().find(|p| p.region == region);
            facts.push(PointFacts {
                name: point.name.clone(),
                created: point.created,
                tiers: point.tiers,
                restorable: point.is_restorable_in(&region) && broken.is_none_or(|p| p.passed),
                proved,
                region: parsed.clone(),
            });
            if copying {
                let need = if region == point.region {
                    LineageNeed::CopySource
                } else {
                    LineageNeed::CopyTarget
                };
                lineage.push(LineageFact { point: point.name.clone(), region: parsed, need });
            }
        }
    }
    lineage.extend(delta_bases(points));
    retention::plan(policy, &facts, &holds, &lineage, now)
}

/// The newest fully copied point of each target region: the next copy is a delta to it, on both
/// sides (AZURE.md B.3).
fn delta_bases(points: &[PointRow]) -> Vec<LineageFact> {
    let mut targets: Vec<&str> = points
        .iter()
        .flat_map(|p| p.replicas.iter())
        .filter(|r| r.state == ReplicaState::Complete)
        .map(|r| r.region.as_str())
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
            [region, point.region.as_str()].map(|r| (r.to_owned(), point.name.clone()))
        })
        .filter_map(|(region, point)| {
            let region = Region::parse(&region).ok()?;
            Some(LineageFact { point, region, need: LineageNeed::DeltaBase })
        })
        .collect()
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let catalogue = &cx.services().catalogue;
    let policy = catalogue.policy(cx.input.item).await?;
    let points = catalogue.points(cx.input.item).await?;
    let plan = retention_plan(policy.as_ref(), &points, cx.now());
    let doomed = plan
        .delete
        .iter()
        .filter_map(|d| {
            let point = points.iter().find(|p| p.name == d.point)?;
            let region = d.region.to_string();
            let snapshots = point.snapshots_in(&region).into_iter().map(|s| s.id.clone()).collect();
            let whole_point = region == point.region;
            Some(Doomed { name: d.point.clone(), region, whole_point, snapshots })
        })
        // The catalogue hangs a point's copies on the point: the originals go last.
        .filter(|d: &Doomed| {
            !d.whole_point
                || plan.keep.iter().all(|k| k.point != d.name || k.region.as_str() == d.region)
        })
        .collect();
    Ok(Done::new(Plan { kept: plan.keep.len() as u32, doomed }))
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
    let result = json!({"prune": {"deleted": deleted, "kept": plan.kept}});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
