//! Many jobs as one: which parts there are is decided here, when it is asked for.

use std::collections::BTreeMap;

use azdr_domain::recovery_point::ProofLevel;
use azdr_env::WallTime;
use azdr_proto::admin::{
    self as api, Job, JobItem, StartDrTestAllRequest, StartReplicateAllRequest,
    StartVerifyAllRequest,
};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::errors::{hinted, unavailable};
use super::points::parse_region;
use crate::store::{Item, NewRun, PointRow, RunRow, RunState};
use crate::workflow::History;
use crate::workflows::bulk::{self, Part, Refused, What};
use crate::workflows::{dr_test, new_run, replicate, verify};

/// Most parts of one job that run at once.
const MAX_PARALLEL: u32 = 64;

/// `wanted`, or the default for 0.
fn parallel(wanted: u32, default: u32) -> Result<usize, Status> {
    match wanted {
        0 => Ok(default as usize),
        n if n <= MAX_PARALLEL => Ok(n as usize),
        n => Err(Status::invalid_argument(format!(
            "max_parallel cannot be {n}: 1 to {MAX_PARALLEL} are allowed"
        ))),
    }
}

fn refused(name: impl Into<String>, why: impl Into<String>) -> Refused {
    Refused { name: name.into(), why: why.into() }
}

impl Admin {
    pub(super) async fn replicate_all(
        &self,
        by: String,
        request: StartReplicateAllRequest,
    ) -> Result<Job, Status> {
        let chains = parallel(request.max_parallel, 3)?;
        let region = parse_region("target_region", &request.target_region)?;
        let (item, points) = self.item_with_points(request.vm.as_ref()).await?;
        if item.location == region {
            return Err(hinted(
                Code::InvalidArgument,
                format!("target_region cannot be {region}: the backups are taken there"),
                "name another region",
            ));
        }
        // Each disk of the VM is a chain, in which the next point's copy starts when the one before it
        // is complete: the points go one by one, so many disks at once.
        let mut input = of(What::Replicate, 1);
        for point in points.iter().rev() {
            if point.is_restorable_in(&region) {
                continue;
            }
            let pending = point.replicas.iter().find(|r| r.region == region && !r.state.is_over());
            let why = match (point.deleted_by, pending) {
                (Some(run), _) => Some(format!("is being deleted by job {run}")),
                (_, Some(replica)) => Some(format!("is being copied by job {}", replica.run)),
                _ => replicate::refusal(point, &points, &region).map(|f| f.message.to_string()),
            };
            if let Some(why) = why {
                input.skipped.push(refused(point.name.as_str(), why));
                continue;
            }
            let run = replicate::Input {
                item: item.id,
                vm: item.arm_id.clone(),
                point: point.name.clone(),
                region: region.clone(),
                max_chains: Some(chains),
            };
            let run = new_run(replicate::RUN, &run, item.id, by.clone());
            input.parts.push(part(point.name.as_str(), point.name.as_str(), run));
        }
        self.submit_bulk(&input, Some(&item), by).await
    }

    pub(super) async fn verify_all(
        &self,
        by: String,
        request: StartVerifyAllRequest,
    ) -> Result<Job, Status> {
        let parallel = parallel(request.max_parallel, 2)?;
        let (item, points) = self.item_with_points(request.vm.as_ref()).await?;
        let mut input = of(What::Verify, parallel);
        for point in points.iter().filter(|p| p.proof().0 == ProofLevel::Unproved) {
            let name = point.name.as_str();
            if let Some(run) = point.deleted_by {
                input.skipped.push(refused(name, format!("is being deleted by job {run}")));
                continue;
            }
            let regions = std::iter::once(&point.region)
                .chain(point.replicas.iter().map(|replica| &replica.region));
            let mut complete = regions.filter(|region| point.is_restorable_in(region));
            let Some(region) = complete.next() else {
                input.refused.push(refused(name, "is complete in no region"));
                continue;
            };
            let run = verify::Input {
                item: item.id,
                vm: item.arm_id.clone(),
                point: point.name.clone(),
                region: region.clone(),
                level: verify::Level::Restorable,
            };
            let run = new_run(verify::RUN, &run, item.id, by.clone());
            input.parts.push(part(name, name, run));
        }
        self.submit_bulk(&input, Some(&item), by).await
    }

    pub(super) async fn dr_test_all(
        &self,
        by: String,
        request: StartDrTestAllRequest,
    ) -> Result<Job, Status> {
        let parallel = parallel(request.max_parallel, 2)?;
        let group = request.resource_group.trim();
        let mut input = of(What::DrTest, parallel);
        for (item, row) in self.store.enabled_policies().await.map_err(unavailable)? {
            let is_meant =
                group.is_empty() || item.arm_id.resource_group().eq_ignore_ascii_case(group);
            let Some(region) = row.policy.target_region.filter(|_| is_meant) else { continue };
            let region = region.to_string();
            let vm = item.arm_id.name();
            let points = self.store.points(item.id).await.map_err(unavailable)?;
            let newest =
                points.iter().find(|p| p.is_restorable_in(&region) && p.deleted_by.is_none());
            let Some(point) = newest else {
                let why = format!("has no complete recovery point in {region}");
                input.refused.push(refused(vm, why));
                continue;
            };
            let run = dr_test::Input {
                item: item.id,
                vm: item.arm_id.clone(),
                point: point.name.clone(),
                region,
                resource_group: None,
                // Its turn comes when it comes.
                declared: None,
                keep: std::time::Duration::ZERO,
            };
            let run = new_run(dr_test::RUN, &run, item.id, by.clone());
            input.parts.push(part(item.arm_id.key(), vm, run));
        }
        if input.parts.is_empty() && input.refused.is_empty() {
            // A test of nothing would look like a test that passed.
            let of = if group.is_empty() { String::new() } else { format!(" of {group:?}") };
            return Err(hinted(
                Code::FailedPrecondition,
                format!("no VM{of} has a policy that copies its backups to another region"),
                "set one: azdr backup configure VM --cross-region --target-region REGION",
            ));
        }
        self.submit_bulk(&input, None, by).await
    }

    async fn item_with_points(
        &self,
        vm: Option<&api::VmRef>,
    ) -> Result<(Item, Vec<PointRow>), Status> {
        let named = self.resolve(vm).await?;
        let name = named.id.name().to_owned();
        let item = named.item.ok_or_else(|| super::restores::no_points(&name))?;
        let points = self.store.points(item.id).await.map_err(unavailable)?;
        if points.is_empty() {
            return Err(super::restores::no_points(&name));
        }
        Ok((item, points))
    }

    async fn submit_bulk(
        &self,
        input: &bulk::Input,
        item: Option<&Item>,
        by: String,
    ) -> Result<Job, Status> {
        let run = self.engine.new_run(bulk::RUN.0, input, item.map(|i| i.id), by);
        self.submit(run).await
    }

    /// The parts of a bulk job as they are now.
    pub(super) async fn bulk_items(
        &self,
        row: &RunRow,
        history: &History,
    ) -> Result<Vec<JobItem>, Status> {
        let Ok(input) = serde_json::from_value::<bulk::Input>(row.input.clone()) else {
            return Ok(Vec::new());
        };
        let children = self.store.children_of(row.id).await.map_err(unavailable)?;
        let children: BTreeMap<_, _> = children.iter().map(|child| (child.id, child)).collect();
        let not_started = match row.state {
            RunState::Failed | RunState::Cancelled => RunState::Cancelled,
            _ => RunState::Queued,
        };
        let mut items = Vec::with_capacity(input.parts.len() + input.refused.len());
        for part in &input.parts {
            let id = history.record(bulk::PARTS.name, &part.key).and_then(|r| r.child());
            items.push(match id.and_then(|id| children.get(&id)) {
                Some(child) => self.bulk_item(&part.name, child),
                None => JobItem {
                    name: part.name.clone(),
                    state: convert::job_state(not_started).into(),
                    percent: -1.0,
                    ..JobItem::default()
                },
            });
        }
        items.extend(input.refused.into_iter().map(|r| JobItem {
            name: r.name,
            state: api::JobState::Failed.into(),
            percent: -1.0,
            error: r.why,
            ..JobItem::default()
        }));
        Ok(items)
    }

    fn bulk_item(&self, name: &str, child: &RunRow) -> JobItem {
        let progress = self.engine.progress(child.id);
        let slowest = progress.values().filter(|p| p.percent.is_some()).min_by(|a, b| {
            let percent = |p: &crate::workflow::StepProgress| p.percent.unwrap_or(0.0);
            percent(a).total_cmp(&percent(b))
        });
        let shown = slowest.or_else(|| progress.values().next());
        let ms = |at: Option<WallTime>| at.map_or(0, WallTime::unix_ms);
        let error = child.error.as_ref().filter(|_| child.state != RunState::Succeeded);
        JobItem {
            name: name.to_owned(),
            job_id: child.id.0,
            state: convert::job_state(child.state).into(),
            started_unix_ms: ms(child.started),
            finished_unix_ms: ms(child.finished),
            percent: shown.and_then(|p| p.percent).unwrap_or(-1.0),
            detail: match child.state {
                RunState::Queued => child.waiting_for.clone().unwrap_or_default(),
                RunState::Running => shown.map(|p| p.detail.clone()).unwrap_or_default(),
                _ => String::new(),
            },
            error: error.and_then(|e| e["message"].as_str()).map(str::to_owned).unwrap_or_default(),
            rto_ms: child
                .result
                .as_ref()
                .and_then(|r| r["dr_test"]["rto_ms"].as_u64())
                .unwrap_or(0),
        }
    }
}

fn of(what: What, max_parallel: usize) -> bulk::Input {
    let (parts, refused, skipped) = (Vec::new(), Vec::new(), Vec::new());
    bulk::Input { what, max_parallel, parts, refused, skipped }
}

fn part(key: &str, name: &str, run: NewRun) -> Part {
    Part { key: key.to_owned(), name: name.to_owned(), run }
}
