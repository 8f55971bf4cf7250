//! Jobs: what runs look like from outside.

use azdr_proto::admin::{AbandonJobRequest, Job, ListJobsRequest, ListJobsResponse};
use futures::Stream;
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::errors::{hinted, unavailable};
use crate::mutation::{Mutation, planted};
use crate::store::{Approval, Item, NewRun, RunId, RunRow, RunState};
use crate::workflow::Effect;
use crate::workflows::{backup, bulk};

/// Most jobs that one call lists.
const MAX_LIST: u32 = 1000;

impl Admin {
    /// Queues a run and shows it.
    pub(super) async fn submit(&self, run: NewRun) -> Result<Job, Status> {
        if planted(Mutation::AnswerBeforeCommit) && self.env.ids.u64().is_multiple_of(4) {
            return Ok(Job { id: 1_000_000, ..Job::default() });
        }
        let id = self.engine.submit(run).await.map_err(unavailable)?;
        self.job(id.0).await
    }

    pub(super) async fn jobs(&self, request: ListJobsRequest) -> Result<ListJobsResponse, Status> {
        let limit = match request.limit {
            0 => 50,
            n if n <= MAX_LIST => n,
            n => {
                return Err(Status::invalid_argument(format!(
                    "limit cannot be {n}: at most {MAX_LIST}"
                )));
            }
        };
        let item = match &request.vm {
            Some(vm) if !vm.name.is_empty() => match self.resolve_known(Some(vm)).await?.item {
                Some(item) => Some(item.id),
                None => return Ok(ListJobsResponse { jobs: Vec::new() }),
            },
            _ => None,
        };
        let state = convert::job_state_from(request.state());
        let rows = self.store.recent_runs(state, item, None, limit).await.map_err(unavailable)?;
        let items = self.store.items().await.map_err(unavailable)?;
        let jobs = rows
            .iter()
            .map(|row| convert::job(row, items.iter().find(|i| Some(i.id) == row.item)))
            .collect();
        Ok(ListJobsResponse { jobs })
    }

    pub(super) async fn job(&self, id: i64) -> Result<Job, Status> {
        let row = self.store.run(RunId(id)).await.map_err(unavailable)?;
        let row = row.ok_or_else(|| Status::not_found(format!("there is no job {id}")))?;
        self.whole_job(&row).await
    }

    async fn whole_job(&self, row: &RunRow) -> Result<Job, Status> {
        let item = match row.item {
            Some(id) => Some(self.store.item_by_id(id).await.map_err(unavailable)?),
            None => None,
        };
        let mut job = convert::job(row, item.as_ref());
        if let Some(definition) = self.engine.definition_of(row) {
            let history = self.engine.history(row.id).await.map_err(unavailable)?;
            job.steps = convert::steps(definition, &history, &self.engine.progress(row.id));
            job.stuck = self.engine.situation(row, &history).map(convert::stuck);
            if row.workflow == bulk::RUN.0 {
                job.items = self.bulk_items(row, &history).await?;
            }
            job.decisions = history.decisions().iter().map(convert::decision).collect();
        }
        if let Some(result) = &row.result {
            let backed_up = row.workflow == backup::RUN.0 && row.state == RunState::Succeeded;
            let point = match &item {
                Some(item) if backed_up => self.point_of(item, &result["backup"]["point"]).await?,
                _ => None,
            };
            job.result = convert::result(result, point);
        }
        Ok(job)
    }

    async fn point_of(
        &self,
        item: &Item,
        name: &serde_json::Value,
    ) -> Result<Option<azdr_proto::admin::RecoveryPoint>, Status> {
        let Some(name) = name.as_str() else { return Ok(None) };
        let points = self.store.points_named(name).await.map_err(unavailable)?;
        let point = points.into_iter().find(|p| p.item == item.id);
        Ok(point.map(|p| convert::point(&p, item, self.env.clock.wall(), |r| self.copied(r))))
    }

    pub(super) async fn cancel(&self, by: String, id: i64) -> Result<Job, Status> {
        let effect = self.engine.cancel(RunId(id), &by).await.map_err(unavailable)?;
        self.decided(id, effect).await
    }

    pub(super) async fn retry(&self, by: String, id: i64) -> Result<Job, Status> {
        let effect = self.engine.retry(RunId(id), &by).await.map_err(unavailable)?;
        self.decided(id, effect).await
    }

    pub(super) async fn undo(&self, by: String, id: i64) -> Result<Job, Status> {
        let effect = self.engine.undo(RunId(id), &by).await.map_err(unavailable)?;
        self.decided(id, effect).await
    }

    pub(super) async fn abandon(
        &self,
        by: String,
        request: AbandonJobRequest,
    ) -> Result<Job, Status> {
        let reason = request.reason.trim();
        if reason.is_empty() {
            return Err(Status::invalid_argument("reason cannot be empty: it is the record"));
        }
        let id = RunId(request.id);
        let effect = self.engine.abandon(id, &by, reason).await.map_err(unavailable)?;
        // Whoever asks next what lies around must be told of what this job has left.
        self.sweeper.outdate();
        self.decided(request.id, effect).await
    }

    pub(super) async fn approve(&self, by: String, id: i64) -> Result<Job, Status> {
        let run = RunId(id);
        let row = self.store.run(run).await.map_err(unavailable)?;
        let asked = row.map(|row| row.input["asked"]["policy_by"].clone()).unwrap_or_default();
        let not_by: Vec<String> = asked.as_str().map(str::to_owned).into_iter().collect();
        let now = self.env.clock.wall();
        let approved = self.store.approve(run, by.clone(), not_by, now).await;
        let effect = match approved.map_err(unavailable)? {
            Approval::Taken => {
                tracing::warn!(run = id, by, "approved");
                self.engine.notify();
                Effect::Taken
            }
            Approval::Already => Effect::Nothing(format!("job {id} is approved already")),
            Approval::NotAsked => {
                return Err(Status::failed_precondition(format!(
                    "job {id} does not wait for approval"
                )));
            }
            Approval::SamePerson => {
                return Err(hinted(
                    Code::PermissionDenied,
                    format!(
                        "operator {by} has changed the policy: another one must approve job {id}"
                    ),
                    "ask another operator; an admin lets one in with `azdr operator add`; or undo the \
                     change, and cancel the job",
                ));
            }
        };
        self.decided(id, effect).await
    }

    async fn decided(&self, id: i64, effect: Effect) -> Result<Job, Status> {
        let mut job = self.job(id).await?;
        if let Effect::Nothing(why) = effect {
            job.note = why;
        }
        Ok(job)
    }

    /// The job now and after every change, until it is terminal or stuck.
    /// Revoking the watching operator ends it.
    pub(super) fn watch(
        self,
        id: i64,
        operator: String,
    ) -> impl Stream<Item = Result<Job, Status>> + Send {
        let changes = self.engine.subscribe();
        let begin = Some((self, changes, None::<Job>, operator));
        futures::stream::unfold(begin, move |state| async move {
            let (admin, mut changes, last, operator) = state?;
            loop {
                changes.mark_seen();
                if let Err(e) = admin.still_in(&operator).await {
                    return Some((Err(e), None));
                }
                let job = match admin.job(id).await {
                    Ok(job) => job,
                    Err(e) => return Some((Err(e), None)),
                };
                if last.as_ref() != Some(&job) {
                    let over = convert::job_state_from(job.state())
                        .is_some_and(|s| s.is_terminal() || s == RunState::Stuck);
                    let next = (!over).then(|| (admin, changes, Some(job.clone()), operator));
                    return Some((Ok(job), next));
                }
                // A run changes at most a few times a second; looking more often serves nobody.
                azdr_env::sleep(std::time::Duration::from_millis(50)).await;
                changes.changed().await;
            }
        })
    }
}
