//! Copies to other regions: how far they are.

use azdr_env::WallTime;
use azdr_proto::admin::{
    self as api, GetReplicationStatusRequest, ListReplicationJobsRequest,
    ListReplicationJobsResponse, ReplicationEntry, ReplicationStatus,
};
use tonic::Status;

use super::Admin;
use super::convert;
use super::errors::unavailable;
use crate::store::{Item, ReplicaRow, ReplicaState, RunRow, RunState};
use crate::workflows::replicate;

/// Most jobs that one call lists, and how many unless it says.
const MAX_LIST: u32 = 1000;
const DEFAULT_LIST: u32 = 100;

impl Admin {
    pub(super) async fn replication_status(
        &self,
        request: GetReplicationStatusRequest,
    ) -> Result<ReplicationStatus, Status> {
        let named = self.resolve_known(request.vm.as_ref()).await?;
        let vm_resource_id = named.id.to_string();
        let Some(item) = named.item else {
            return Ok(ReplicationStatus { vm_resource_id, entries: Vec::new() });
        };
        let now = self.env.clock.wall();
        let mut entries = Vec::new();
        for point in self.store.points(item.id).await.map_err(unavailable)? {
            for replica in &point.replicas {
                let percent = match replica.state {
                    ReplicaState::Complete => 100.0,
                    _ => self.copied(replica),
                };
                let entry = ReplicationEntry {
                    job_id: replica.run.0,
                    recovery_point: point.name.to_string(),
                    target_region: replica.region.clone(),
                    state: convert::shown_state(&point, replica).into(),
                    error: replica.error.clone().unwrap_or_default(),
                    ..of_vm(&item)
                };
                entries.push(timed(entry, Some(replica.started), replica.finished, percent, now));
            }
        }
        // Copies that were asked for and wait for their turn have no row of their own yet.
        let queued = self
            .store
            .recent_runs(Some(RunState::Queued), Some(item.id), Some(replicate::RUN.0), 1000)
            .await
            .map_err(unavailable)?;
        entries.extend(queued.iter().map(|run| self.replication_job(run, Some(&item), now)));
        Ok(ReplicationStatus { vm_resource_id, entries })
    }

    pub(super) async fn replication_jobs(
        &self,
        request: ListReplicationJobsRequest,
    ) -> Result<ListReplicationJobsResponse, Status> {
        let limit = match request.limit {
            0 => DEFAULT_LIST,
            n if n <= MAX_LIST => n,
            n => {
                let message = format!("limit cannot be {n}: at most {MAX_LIST}");
                return Err(Status::invalid_argument(message));
            }
        };
        let wanted = request.state();
        let items = self.subjects(request.vm.as_ref()).await?;
        let meant = items.iter().map(|i| i.id).collect();
        let states = match wanted {
            api::ReplicaState::Unspecified => Vec::new(),
            api::ReplicaState::Queued => vec![RunState::Queued],
            api::ReplicaState::Copying => {
                vec![RunState::Running, RunState::Undoing, RunState::Stuck]
            }
            api::ReplicaState::Complete => vec![RunState::Succeeded],
            api::ReplicaState::Failed => vec![RunState::Failed, RunState::Cancelled],
            api::ReplicaState::Missing => {
                let message = "state cannot be missing: a job that copied has succeeded, whatever \
                               became of its copy";
                return Err(Status::invalid_argument(message));
            }
        };
        let mut runs = self
            .store
            .runs_of(replicate::RUN.0, states, meant, limit + 1)
            .await
            .map_err(unavailable)?;
        let more = runs.len() > limit as usize;
        runs.truncate(limit as usize);
        let now = self.env.clock.wall();
        let jobs = runs
            .iter()
            .map(|run| {
                self.replication_job(run, items.iter().find(|i| Some(i.id) == run.item), now)
            })
            .collect();
        Ok(ListReplicationJobsResponse { jobs, more })
    }

    fn replication_job(
        &self,
        run: &RunRow,
        item: Option<&Item>,
        now: WallTime,
    ) -> ReplicationEntry {
        let text = |key: &str| run.input[key].as_str().unwrap_or_default().to_owned();
        let failure = run.error.as_ref().and_then(|e| e["message"].as_str()).unwrap_or_default();
        let (state, percent, error) = match run.state {
            RunState::Queued => {
                let waiting = run.waiting_for.clone();
                (ReplicaState::Queued, 0.0, waiting.unwrap_or_default())
            }
            RunState::Running => (ReplicaState::Copying, self.copied_by(run.id), String::new()),
            RunState::Undoing => (ReplicaState::Copying, 0.0, format!("undoing: {failure}")),
            RunState::Stuck => {
                (ReplicaState::Copying, 0.0, format!("stuck, see job {}: {failure}", run.id))
            }
            RunState::Succeeded => (ReplicaState::Complete, 100.0, String::new()),
            RunState::Failed => (ReplicaState::Failed, 0.0, failure.to_owned()),
            RunState::Cancelled => (ReplicaState::Failed, 0.0, "cancelled".to_owned()),
        };
        let entry = ReplicationEntry {
            job_id: run.id.0,
            recovery_point: text("point"),
            target_region: text("region"),
            state: convert::replica_state(state).into(),
            error,
            ..item.map(of_vm).unwrap_or_default()
        };
        timed(entry, run.started, run.finished, percent, now)
    }

    /// How far a copy is: its least advanced disk.
    pub(super) fn copied(&self, replica: &ReplicaRow) -> f64 {
        self.copied_by(replica.run)
    }

    fn copied_by(&self, run: crate::store::RunId) -> f64 {
        let progress = self.engine.progress(run);
        let percents = progress.values().filter_map(|p| p.percent);
        percents.reduce(f64::min).unwrap_or(0.0).clamp(0.0, 100.0)
    }
}

fn of_vm(item: &Item) -> ReplicationEntry {
    ReplicationEntry {
        vm_resource_id: item.arm_id.to_string(),
        vm_name: item.arm_id.name().to_owned(),
        ..ReplicationEntry::default()
    }
}

/// Adds when it began and ended, how long that was, and what is left at the rate so far.
fn timed(
    mut entry: ReplicationEntry,
    started: Option<WallTime>,
    finished: Option<WallTime>,
    percent: f64,
    now: WallTime,
) -> ReplicationEntry {
    let elapsed = started.map(|from| finished.unwrap_or(now).since(from)).unwrap_or_default();
    entry.percent = percent;
    entry.elapsed_secs = elapsed.as_secs() as u32;
    entry.started_unix_ms = started.map_or(0, WallTime::unix_ms);
    entry.finished_unix_ms = finished.map_or(0, WallTime::unix_ms);
    if entry.state() == api::ReplicaState::Copying {
        let left = azdr_domain::copying::time_left(elapsed, percent);
        entry.eta_secs = left.map_or(0, |d| d.as_secs_f64().ceil() as u32);
    }
    entry
}
