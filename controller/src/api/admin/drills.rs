//! DR tests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_domain::objective;
use azdr_env::WallTime;
use azdr_proto::admin::{
    DrTestRecord, Job, ListDrTestsRequest, ListDrTestsResponse, StartDrTestRequest,
};
use tonic::{Code, Status};

use super::Admin;
use super::deletions::refuse_if_deleted;
use super::errors::{hinted, unavailable};
use super::points::{no_copy, parse_region};
use super::{objectives, reports};
use crate::store::DrillRow;
use crate::workflows::{dr_test, new_run};

impl Admin {
    pub(super) async fn dr_test(
        &self,
        by: String,
        request: StartDrTestRequest,
    ) -> Result<Job, Status> {
        let declared = self.env.clock.wall();
        let keep = Duration::from_secs(request.keep_secs.into());
        if keep > dr_test::MAX_KEEP {
            let (wanted, most) = (keep.as_secs(), dr_test::MAX_KEEP.as_secs());
            return Err(Status::invalid_argument(format!(
                "keep_secs cannot be {wanted}: at most {most} (7 days) are allowed"
            )));
        }
        let named = self.resolve(request.vm.as_ref()).await?;
        let vm = named.id.name().to_owned();
        let item = named.item.ok_or_else(|| {
            hinted(
                Code::FailedPrecondition,
                format!("{vm} has no recovery points"),
                &format!("take one with `azdr backup trigger {vm}`"),
            )
        })?;
        let region = match request.test_region.as_str() {
            "" => {
                let policy = self.store.policy(item.id).await.map_err(unavailable)?;
                policy.and_then(|p| p.policy.target_region).map(|r| r.to_string()).ok_or_else(
                    || {
                        hinted(
                            Code::InvalidArgument,
                            "no test region is given, and the policy has no target region",
                            "give one with --test-region",
                        )
                    },
                )?
            }
            given => parse_region("test_region", given)?,
        };
        let point = match request.recovery_point.as_str() {
            "" => self
                .store
                .points(item.id)
                .await
                .map_err(unavailable)?
                .into_iter()
                .find(|p| p.is_restorable_in(&region) && p.deleted_by.is_none())
                .ok_or_else(|| {
                    hinted(
                        Code::FailedPrecondition,
                        format!("{vm} has no complete recovery point in {region}"),
                        &format!(
                            "copy one with `azdr backup replicate POINT --target-region {region}`"
                        ),
                    )
                })?,
            name => self.find_point_of(&item, name).await?,
        };
        refuse_if_deleted(&point.name, &point)?;
        if !point.is_restorable_in(&region) {
            return Err(no_copy(&point, &region));
        }
        let resource_group = Some(request.test_resource_group).filter(|g| !g.is_empty());
        if let Some(group) = &resource_group {
            let id = ArmId::resource_group_id(item.arm_id.subscription(), group).map_err(|e| {
                Status::invalid_argument(format!("test_resource_group cannot be {group:?}: {e}"))
            })?;
            match self.services.azure.get_resource_group(&id).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => {
                    return Err(hinted(
                        Code::NotFound,
                        format!("there is no resource group {group:?}"),
                        "create it, or leave --test-resource-group out: the drill then makes and \
                         deletes a group of its own",
                    ));
                }
                Err(e) => return Err(super::errors::azure(&e)),
            }
        }
        let input = dr_test::Input {
            item: item.id,
            vm: item.arm_id,
            point: point.name.clone(),
            region,
            resource_group,
            declared: Some(declared),
            keep,
        };
        let workflow = if keep.is_zero() { dr_test::RUN } else { dr_test::KEPT };
        self.submit(new_run(workflow, &input, item.id, by)).await
    }

    pub(super) async fn dr_tests(
        &self,
        request: ListDrTestsRequest,
    ) -> Result<ListDrTestsResponse, Status> {
        let since = WallTime::from_unix_ms(request.since_unix_ms);
        let items = self.subjects(request.vm.as_ref()).await?;
        let only = (items.len() == 1).then(|| items[0].id);
        let mut drills = self.store.drills(only, since).await.map_err(unavailable)?;
        let meant: BTreeSet<_> = items.iter().map(|i| i.id).collect();
        drills.retain(|d| meant.contains(&d.item));
        let policies: BTreeMap<_, _> = self
            .store
            .policies()
            .await
            .map_err(unavailable)?
            .into_iter()
            .map(|(item, row)| (item.id, row.policy))
            .collect();
        let target = |drill: &DrillRow| objective::rto_target(policies.get(&drill.item));
        let of_all = objective::rto_target(only.and_then(|item| policies.get(&item)));
        let statistics = Some(reports::statistics(&drills, of_all, target));
        let tests = drills
            .into_iter()
            .map(|d| {
                let vm = items.iter().find(|i| i.id == d.item).map(|i| &i.arm_id);
                let target = target(&d);
                let judgement = objective::judge_rto(target, Some(objectives::shown(&d)));
                DrTestRecord {
                    job_id: d.run.0,
                    vm_resource_id: vm.map(ToString::to_string).unwrap_or_default(),
                    vm_name: vm.map(|v| v.name().to_owned()).unwrap_or_default(),
                    recovery_point: d.point_name,
                    region: d.region,
                    started_unix_ms: d.started.unix_ms(),
                    passed: d.passed,
                    rto_ms: d.rto_ms.unwrap_or(0),
                    error: d.error.unwrap_or_default(),
                    target_rto_ms: objectives::millis(target),
                    rto_state: objectives::state(judgement).into(),
                }
            })
            .collect();
        Ok(ListDrTestsResponse { tests, statistics })
    }
}
