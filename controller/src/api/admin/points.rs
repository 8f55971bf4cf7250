//! Recovery points: take, list, copy, verify. How far copies are is in `replication`.

use azdr_env::WallTime;
use azdr_proto::admin::{
    Job, ListRecoveryPointsRequest, ListRecoveryPointsResponse, ProofLevel, StartReplicateRequest,
    StartVerifyRequest, TriggerBackupRequest,
};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::deletions::refuse_if_deleted;
use super::errors::{hinted, unavailable};
use crate::store::PointRow;
use crate::workflows::verify::Level;
use crate::workflows::{backup, new_run, replicate, verify};

impl Admin {
    pub(super) async fn trigger(
        &self,
        by: String,
        request: TriggerBackupRequest,
    ) -> Result<Job, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let vm = named.id.name();
        named.in_azure(&match &named.item {
            Some(_) => format!(
                "its recovery points are kept: `azdr backup restore {vm} --new-vm NAME` makes a new VM of \
                 them, `azdr backup disable {vm}` ends its policy"
            ),
            None => "see `azdr vm list`".to_owned(),
        })?;
        let existing = named.item.as_ref().map(|i| i.id);
        let policy = match existing {
            Some(id) => self.store.policy(id).await.map_err(unavailable)?,
            None => None,
        };
        let Some(policy) = policy else {
            let vm = named.id.name();
            return Err(hinted(
                Code::FailedPrecondition,
                format!("{vm} has no backup policy"),
                &format!("set one with `azdr backup configure {vm} --daily-retention 7`"),
            ));
        };
        let tier = convert::tier_from(request.tier());
        if let Some(tier) = tier
            && !policy.policy.retention.tiers().contains(tier)
        {
            return Err(hinted(
                Code::InvalidArgument,
                format!("tier cannot be {tier}: the policy retains none of that tier"),
                "raise its retention with `azdr backup configure`, or choose another tier",
            ));
        }
        let item = self.item_of(&named).await?;
        let input = backup::Input { item: item.id, vm: item.arm_id, tier };
        self.submit(new_run(backup::RUN, &input, item.id, by)).await
    }

    pub(super) async fn list_points(
        &self,
        request: ListRecoveryPointsRequest,
    ) -> Result<ListRecoveryPointsResponse, Status> {
        let named = self.resolve_known(request.vm.as_ref()).await?;
        let vm_resource_id = named.id.to_string();
        let Some(item) = named.item else {
            return Ok(ListRecoveryPointsResponse { vm_resource_id, points: Vec::new() });
        };
        let now = self.env.clock.wall();
        let wanted = convert::tier_from(request.tier());
        let since = WallTime::from_unix_ms(request.since_unix_ms);
        let points = self.store.points(item.id).await.map_err(unavailable)?;
        let points = points
            .iter()
            .filter(|p| p.created >= since && wanted.is_none_or(|t| p.tiers.contains(t)))
            .map(|p| convert::point(p, &item, now, |r| self.copied(r)))
            .collect();
        Ok(ListRecoveryPointsResponse { vm_resource_id, points })
    }

    pub(super) async fn replicate(
        &self,
        by: String,
        request: StartReplicateRequest,
    ) -> Result<Job, Status> {
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        refuse_if_deleted(&point.name, &point)?;
        let region = parse_region("target_region", &request.target_region)?;
        let all = self.store.points(item.id).await.map_err(unavailable)?;
        let pending = point.replicas.iter().any(|r| r.region == region && !r.state.is_over());
        if pending {
            let message = format!("{} is being copied to {region} already", point.name);
            return Err(hinted(
                Code::FailedPrecondition,
                message,
                "see `azdr backup replication-status`",
            ));
        }
        if let Some(refusal) = replicate::refusal(&point, &all, &region) {
            let code = match &*refusal.kind {
                "same_region" => Code::InvalidArgument,
                _ => Code::FailedPrecondition,
            };
            return Err(hinted(code, refusal.message, &refusal.hint));
        }
        let input = replicate::Input {
            item: item.id,
            vm: item.arm_id,
            point: point.name,
            region,
            max_chains: None,
        };
        self.submit(new_run(replicate::RUN, &input, item.id, by)).await
    }

    pub(super) async fn verify(
        &self,
        by: String,
        request: StartVerifyRequest,
    ) -> Result<Job, Status> {
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let region = match request.region.as_str() {
            "" => point.region.clone(),
            given => parse_region("region", given)?,
        };
        refuse_if_deleted(&point.name, &point)?;
        if !point.is_restorable_in(&region) {
            return Err(no_copy(&point, &region));
        }
        let level = match request.level() {
            ProofLevel::Unproved | ProofLevel::Restorable => Level::Restorable,
            ProofLevel::Content => Level::Content,
            ProofLevel::Booted => {
                return Err(hinted(
                    Code::InvalidArgument,
                    "level cannot be booted: it must be restorable or content",
                    "that a machine boots from a backup is proved by `azdr dr test`",
                ));
            }
        };
        if level == Level::Content {
            let hashed = self.store.content(item.id, point.name.clone()).await;
            let hashed = hashed.map_err(unavailable)?;
            let luns = point.snapshots_in(&region).into_iter().map(|s| s.lun);
            if let Some(refusal) = verify::not_comparable(&point.name, luns, &hashed) {
                return Err(hinted(Code::FailedPrecondition, refusal.message, &refusal.hint));
            }
        }
        let (item, vm, point) = (item.id, item.arm_id, point.name);
        let input = verify::Input { item, vm, point, region, level };
        self.submit(new_run(verify::RUN, &input, item, by)).await
    }
}

pub(super) fn no_copy(point: &PointRow, region: &str) -> Status {
    let places: Vec<_> = std::iter::once(point.region.as_str())
        .chain(point.replicas.iter().map(|r| r.region.as_str()))
        .filter(|r| point.is_restorable_in(r))
        .collect();
    hinted(
        Code::FailedPrecondition,
        format!("{} has no complete copy in {region}", point.name),
        &format!(
            "it is complete in {}; copy it with `azdr backup replicate {} --target-region {region}`",
            places.join(", "),
            point.name
        ),
    )
}

/// Checks a region's name.
pub(super) fn parse_region(field: &str, value: &str) -> Result<String, Status> {
    azdr_domain::region::Region::parse(value)
        .map(|r| r.to_string())
        .map_err(|e| Status::invalid_argument(format!("{field} cannot be {value:?}: {e}")))
}
