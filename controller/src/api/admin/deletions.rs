//! Deleting one recovery point on purpose: planned first, and started only with the plan's
//! confirmation.

use azdr_domain::recovery_point::PointName;
use azdr_proto::admin::{DeletionPlan, Job, PlanDeletionRequest, StartDeletionRequest, VmRef};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::errors::{hinted, unavailable};
use super::points::parse_region;
use crate::store::{Item, PointRow};
use crate::workflow::Failure;
use crate::workflows::{new_run, prune};

/// A deletion that waits for its confirmation.
#[derive(Clone)]
pub(super) struct Planned {
    by: String,
    item: Item,
    chosen: prune::Chosen,
}

impl Admin {
    pub(super) async fn plan_to_delete(
        &self,
        by: String,
        request: PlanDeletionRequest,
    ) -> Result<DeletionPlan, Status> {
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let region = match request.region.as_str() {
            "" => None,
            given => Some(parse_region("region", given)?),
        };
        let chosen = prune::Chosen { point: point.name.clone(), region };
        let regions = self.may_delete(&item, &chosen).await?;
        let actions = regions.iter().map(|region| action(&point, region)).collect();
        let kept = self.store.points(item.id).await.map_err(unavailable)?.len() - 1;
        let mut warnings = vec!["A deleted recovery point cannot be brought back".to_owned()];
        if chosen.region.is_none() {
            warnings.push(format!("{} other recovery points of {} stay", kept, item.arm_id.name()));
        }
        let shown = convert::point(&point, &item, self.env.clock.wall(), |r| self.copied(r));
        let confirmation = self.env.ids.hex(16);
        let planned = Planned { by, item, chosen };
        self.confirmations.deletions.put(&confirmation, planned, self.env.clock.monotonic())?;
        Ok(DeletionPlan { confirmation, point: Some(shown), actions, warnings })
    }

    pub(super) async fn confirm_deletion(
        &self,
        by: String,
        request: StartDeletionRequest,
    ) -> Result<Job, Status> {
        let now = self.env.clock.monotonic();
        let planned = self.confirmations.deletions.take(&request.confirmation, now)?;
        if planned.by != by {
            let message = "another operator made this plan";
            return Err(hinted(Code::Aborted, message, "ask for it again"));
        }
        let Planned { item, chosen, .. } = planned;
        // Once more: a pin or a job may have come in between. The job itself looks again.
        let vm = VmRef { name: item.arm_id.to_string(), resource_group: String::new() };
        self.find_point(chosen.point.as_str(), Some(&vm)).await?;
        self.may_delete(&item, &chosen).await?;
        let input =
            prune::Input { item: item.id, vm: item.arm_id, chosen: Some(chosen), asked: None };
        let run = new_run(prune::RUN, &input, item.id, by);
        let id = self.engine.submit_once(run).await.map_err(unavailable)?;
        self.job(id.0).await
    }

    async fn may_delete(&self, item: &Item, chosen: &prune::Chosen) -> Result<Vec<String>, Status> {
        if let Some(held) = self.store.deletion_hold().await.map_err(unavailable)? {
            let hint = "an admin ends that with `azdr retention release`";
            return Err(hinted(Code::FailedPrecondition, held.to_string(), hint));
        }
        let points = self.store.points(item.id).await.map_err(unavailable)?;
        prune::regions_to_delete(&points, chosen, self.env.clock.wall())
            .map_err(|f: Failure| hinted(Code::FailedPrecondition, f.message.to_string(), &f.hint))
    }
}

fn action(point: &PointRow, region: &str) -> String {
    let snapshots = point.snapshots_in(region).len();
    let what = if region == point.region { "the original" } else { "its copy" };
    let plural = if snapshots == 1 { "snapshot" } else { "snapshots" };
    format!("delete {what} in {region} ({snapshots} {plural})")
}

/// Refuses to begin something with a point that is being deleted: the job would only fail.
pub(super) fn refuse_if_deleted(name: &PointName, point: &PointRow) -> Result<(), Status> {
    match point.deleted_by {
        Some(run) => Err(hinted(
            Code::FailedPrecondition,
            format!("{name} is being deleted by job {run}"),
            "choose another recovery point",
        )),
        None => Ok(()),
    }
}
