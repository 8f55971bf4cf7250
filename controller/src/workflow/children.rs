//! Runs that a run starts and waits for: one ([`child`](super::Workflow::child)), or as many as a list
//! names ([`children`](super::Workflow::children)).
//!
//! A child is an ordinary run with a journal, locks and undo of its own; its row names its parent. It is
//! queued in the transaction that journals its start, so that a crash neither loses nor doubles it. Its
//! effects are its own: a parent that turns back cancels those that are not over and leaves the rest.
//!
//! While it waits, a parent takes no place among the runs in flight: else parents could fill all places
//! and wait for children that get none. It must not hold a lock that a child needs.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{StepProgress, to_document};
use super::definition::{Kind, Node, RawDone};
use super::engine::ForRun;
use super::failure::{Failure, StepError};
use super::history::StepRecord;
use super::runner::Runner;
use crate::store::{NewRun, RunId, RunRow, RunState};

/// How one of several children ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChildEnd {
    /// Its run.
    pub job: RunId,
    /// Terminal.
    pub state: RunState,
    /// Why it failed.
    pub error: Option<Failure>,
    /// What it concluded.
    pub result: Option<Value>,
}

impl ChildEnd {
    fn of(row: RunRow) -> Self {
        let error = row.error.and_then(|e| serde_json::from_value(e).ok());
        Self { job: row.id, state: row.state, error, result: row.result }
    }
}

/// One place in the list of a step's children.
struct Place {
    item: String,
    run: Option<RunId>,
    /// What to start when nothing is yet.
    new: Option<NewRun>,
}

impl<S: ForRun + Send + Sync + 'static> Runner<S> {
    /// The one child of a step: its result is the step's output, its failure the step's failure.
    pub(super) async fn child(
        &self,
        node: &Node<S>,
        make: impl FnOnce() -> Result<NewRun, StepError>,
    ) -> Result<(), StepError> {
        if self.is_over(node, "") {
            return Ok(());
        }
        let run = self.child_id(node, "");
        let new = if run.is_none() { Some(make()?) } else { None };
        self.wait_for(node, vec![Place { item: String::new(), run, new }], 1).await
    }

    /// All children of a list. One that fails leaves the others alone; when all are over the step fails
    /// if any of them did not succeed.
    pub(super) async fn children(&self, node: &Node<S>, parallel: usize) -> Result<(), StepError> {
        let list = self.run.with_history(|h| h.items(node.name).unwrap_or_default().to_vec());
        let mut open = Vec::new();
        for (item, new) in list {
            if !self.is_over(node, &item) {
                let run = self.child_id(node, &item);
                let new = serde_json::from_value(new).map_err(|e| {
                    StepError::fail("internal", format!("child {item} cannot be read: {e}"))
                })?;
                open.push(Place { item, run, new: Some(new) });
            }
        }
        self.wait_for(node, open, parallel.max(1)).await
    }

    /// Starts what has not started, `parallel` at a time, until all are over. A child that is stuck
    /// gives its place to the next; when nothing but stuck ones is left, this run is stuck as well.
    async fn wait_for(
        &self,
        node: &Node<S>,
        open: Vec<Place>,
        parallel: usize,
    ) -> Result<(), StepError> {
        self.run.waits_for_children.store(true, Ordering::Release);
        let waited = self.until_all_are_over(node, open, parallel).await;
        self.run.waits_for_children.store(false, Ordering::Release);
        match waited {
            Err(e @ StepError::Fail(_)) => self.record_failure(node, "", e).await,
            waited => waited,
        }
    }

    async fn until_all_are_over(
        &self,
        node: &Node<S>,
        mut open: Vec<Place>,
        parallel: usize,
    ) -> Result<(), StepError> {
        let all = open.len();
        let may_turn = !self.past_point_of_no_return();
        let mut changes = self.engine.subscribe();
        loop {
            changes.mark_seen();
            let (mut busy, stuck) = self.look_at(node, &mut open).await?;
            for place in open.iter_mut().filter(|p| p.run.is_none()) {
                if busy.len() >= parallel {
                    break;
                }
                self.check_interruption()?;
                let mut new = place.new.take().expect("what has not started is still to be made");
                new.parent = Some(self.run.id);
                let id = self.engine.start_child(&self.run, node.name, &place.item, new).await?;
                place.run = Some(id);
                busy.push(id);
            }
            if busy.is_empty() {
                if !stuck.is_empty() {
                    return Err(StepError::Stuck(stuck_on(&stuck)));
                }
                return match node.kind {
                    Kind::Children { .. } => self.refuse_failed(node),
                    _ => Ok(()),
                };
            }
            self.show_waiting(node, &busy, all - open.len(), all);
            // Only waiting is cut short: a start is in the store and in the history, or in neither.
            tokio::select! {
                biased;
                () = self.run.cancel.cancelled(), if may_turn => return Err(StepError::Cancelled),
                () = self.run.shutdown.cancelled() => return Err(StepError::ShuttingDown),
                () = changes.changed() => {}
                () = azdr_env::sleep(self.time_left()) => return Err(self.out_of_time()),
            }
        }
    }

    /// Takes those that are over from the list; answers which of the others are at work, and which
    /// are stuck.
    async fn look_at(
        &self,
        node: &Node<S>,
        open: &mut Vec<Place>,
    ) -> Result<(Vec<RunId>, Vec<RunId>), StepError> {
        let (mut busy, mut stuck) = (Vec::new(), Vec::new());
        let mut rest = Vec::new();
        for place in std::mem::take(open) {
            if let Some(id) = place.run {
                let row = self.engine.run(id).await?;
                match row.state {
                    state if state.is_terminal() => {
                        self.child_is_over(node, &place.item, row).await?;
                        continue;
                    }
                    RunState::Stuck => stuck.push(id),
                    _ => busy.push(id),
                }
            }
            rest.push(place);
        }
        *open = rest;
        Ok((busy, stuck))
    }

    fn show_waiting(&self, node: &Node<S>, busy: &[RunId], over: usize, all: usize) {
        let mut detail = format!("waiting for {}", jobs(busy));
        if all > 1 {
            detail = format!("{over} of {all} are over, {detail}");
        }
        let percent = (all > 1).then(|| over as f64 * 100.0 / all as f64);
        let progress = StepProgress { detail, percent };
        if self.run.progress_of(node.name, "").as_ref() != Some(&progress) {
            self.run.set_progress(node.name, "", progress);
        }
    }

    async fn child_is_over(
        &self,
        node: &Node<S>,
        item: &str,
        row: RunRow,
    ) -> Result<(), StepError> {
        let output = match &node.kind {
            Kind::Children { .. } => to_document(&ChildEnd::of(row)),
            _ if row.state == RunState::Succeeded => row.result.unwrap_or(Value::Null),
            _ => {
                let word = format!("job {} {}", row.id, row.state.as_str());
                let failure = row.error.and_then(|e| serde_json::from_value(e).ok());
                let failure = failure.unwrap_or_else(|| Failure::new("child_failed", word));
                return Err(StepError::Fail(failure));
            }
        };
        self.record_done(node, item, RawDone { output, changes: Vec::new() }, None).await
    }

    /// Cancels a child and waits for its end, and tells all others of its step to stop meanwhile.
    /// Answers its end, to be journalled, when it is one of several.
    pub(super) async fn cancel_children(
        &self,
        node: &Node<S>,
        item: &str,
    ) -> Result<Option<Value>, StepError> {
        if self.is_over(node, item) {
            return Ok(None);
        }
        for id in self.children_not_over(node) {
            self.engine.ask_to_stop(id, self.run.id).await?;
        }
        let Some(id) = self.child_id(node, item) else { return Ok(None) };
        let row = self.engine.over_or_stuck(id).await?;
        if row.state == RunState::Stuck {
            return Err(StepError::Fail(stuck_on(&[id])));
        }
        let one_of_several = matches!(node.kind, Kind::Children { .. });
        Ok(one_of_several.then(|| to_document(&ChildEnd::of(row))))
    }

    fn is_over(&self, node: &Node<S>, item: &str) -> bool {
        self.run.with_history(|h| h.record(node.name, item).is_some_and(|r| r.done.is_some()))
    }

    fn child_id(&self, node: &Node<S>, item: &str) -> Option<RunId> {
        self.run.with_history(|h| h.record(node.name, item).and_then(StepRecord::child))
    }

    fn children_not_over(&self, node: &Node<S>) -> Vec<RunId> {
        self.run.with_history(|h| {
            let open = h.records_of(node.name).filter(|(_, r)| r.done.is_none());
            open.filter_map(|(_, r)| r.child()).collect()
        })
    }

    /// An error when any of these children did not succeed.
    fn refuse_failed(&self, node: &Node<S>) -> Result<(), StepError> {
        let ends: Vec<ChildEnd> = self.run.with_history(|h| {
            let outputs = h.records_of(node.name).filter_map(|(_, r)| r.done.clone());
            outputs.filter_map(|(_, end)| serde_json::from_value(end).ok()).collect()
        });
        let bad = ends.iter().filter(|end| end.state != RunState::Succeeded);
        let bad: Vec<_> = bad.map(|end| end.job).collect();
        if bad.is_empty() {
            return Ok(());
        }
        let (n, all) = (bad.len(), ends.len());
        let message = format!("{n} of {all} jobs did not succeed: {}", jobs(&bad));
        Err(StepError::Fail(Failure::new("children_failed", message)))
    }
}

fn stuck_on(stuck: &[RunId]) -> Failure {
    let (verb, these) = if stuck.len() == 1 { ("is", "that one is") } else { ("are", "those are") };
    let first = stuck[0];
    let mut failure = Failure::new("child_stuck", format!("{} {verb} stuck", jobs(stuck)))
        .resource(format!("job {first}"))
        .hint(format!("see azdr job show {first}; this job goes on when {these} over"));
    failure.left = stuck[1..].iter().map(|id| format!("job {id}")).collect();
    failure
}

/// Jobs in words; of many the first few.
fn jobs(ids: &[RunId]) -> String {
    const MOST_NAMED: usize = 8;
    let named: Vec<_> = ids.iter().take(MOST_NAMED).map(|id| format!("job {id}")).collect();
    let more = if ids.len() > MOST_NAMED { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}
