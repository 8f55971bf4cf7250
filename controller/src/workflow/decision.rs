//! What people decide about a run: to stop it, and the three ways out of being stuck.
//!
//! | decision | does | possible |
//! |---|---|---|
//! | cancel | stops and undoes it | before the point of no return |
//! | retry | tries what is in the way again now, in the direction it was going | stuck |
//! | undo | turns back and undoes | stuck, before the point of no return |
//! | abandon | ends it; what is left is a person's | stuck |
//!
//! Each is journalled with who and why in the transaction that carries it out, and changes nothing
//! when it is repeated. A stuck run is also tried again by itself from time to time.

use std::time::Duration;

use serde_json::{Value, json};

use super::context::to_document;
use super::definition::{Definition, Kind};
use super::engine::{Engine, ForRun};
use super::failure::Failure;
use super::history::History;
use crate::store::{Event, Progress, RunId, RunRow, RunState, StoreError};

/// Azure may be what is in the way: it is not asked for longer than this what is left.
const LISTING_LIMIT: Duration = Duration::from_secs(30);

/// What a decision came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is being carried out.
    Taken,
    /// It changes nothing; why.
    Nothing(String),
}

/// Which way a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through its steps, or cleaning up after them.
    Forward,
    /// Undoing.
    Back,
}

/// Where a stuck run stands, for the person who must decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Which way it was going.
    pub way: Way,
    /// Whether it may still turn back (or has done so).
    pub may_undo: bool,
    /// What is in the way or left, as ARM resource IDs where they are known.
    pub resources: Vec<String>,
}

impl<S: ForRun + Send + Sync + 'static> Engine<S> {
    /// Asks a run to stop and undo itself. A critical section is not cut short: the run turns back
    /// after it.
    ///
    /// # Errors
    /// `Missing` when there is no such run, `Refused` when it is over or past its point of no return.
    pub async fn cancel(&self, id: RunId, by: &str) -> Result<Effect, StoreError> {
        let (row, history) = self.find(id).await?;
        if row.state.is_terminal() {
            return Err(over(&row));
        }
        if history.turned_back().is_some() {
            return Ok(Effect::Nothing(match row.state {
                RunState::Stuck => format!(
                    "job {id} has turned back already and is stuck there: see azdr job show {id}"
                ),
                _ => format!("job {id} is undoing already; cancelling changes nothing"),
            }));
        }
        self.refuse_past_no_return(&row, &history)?;
        if row.state == RunState::Stuck {
            // Not on request only: what it is stuck with is the reason to turn back.
            let entries =
                vec![(Event::Decided, decided("cancel", by, "")), (Event::TurnedBack, Value::Null)];
            return self.resume(id, entries, RunState::Undoing).await;
        }
        let now = self.inner.env.clock.wall();
        self.store().request_cancel(id, decided("cancel", by, ""), now).await?;
        if let Some(run) = self.active(id) {
            run.cancel.cancel();
        }
        self.notify();
        Ok(Effect::Taken)
    }

    /// Tries what is in the way of a stuck run again now, in the direction it was going, with its
    /// whole time again.
    ///
    /// # Errors
    /// `Missing` when there is no such run, `Refused` when it is over.
    pub async fn retry(&self, id: RunId, by: &str) -> Result<Effect, StoreError> {
        let (row, history) = self.find(id).await?;
        match row.state {
            RunState::Stuck => {
                let decided = (Event::Decided, decided("retry", by, ""));
                self.resume(id, vec![decided], state_of(way(&history))).await
            }
            state if state.is_terminal() => Err(over(&row)),
            state => Ok(not_stuck(id, state)),
        }
    }

    /// Gives up going forward: a stuck run turns back and undoes what it did. One that is on its way
    /// back already is tried again.
    ///
    /// # Errors
    /// `Missing` when there is no such run; `Refused` when it is past its point of no return, over,
    /// or not stuck.
    pub async fn undo(&self, id: RunId, by: &str) -> Result<Effect, StoreError> {
        let (row, history) = self.find(id).await?;
        match row.state {
            RunState::Stuck => {}
            RunState::Undoing => return Ok(not_stuck(id, row.state)),
            RunState::Failed | RunState::Cancelled if !is_abandoned(&row) => {
                return Ok(Effect::Nothing(format!("job {id} is undone already")));
            }
            state if state.is_terminal() => return Err(over(&row)),
            state => {
                let why = format!(
                    "job {id} is {}, not stuck; to stop it: azdr job cancel {id}",
                    state.as_str()
                );
                return Err(StoreError::Refused(why));
            }
        }
        let mut entries = vec![(Event::Decided, decided("undo", by, ""))];
        if history.turned_back().is_none() {
            self.refuse_past_no_return(&row, &history)?;
            let failure = stuck_with(&row);
            entries.push((Event::TurnedBack, to_document(&Some(failure))));
        }
        self.resume(id, entries, RunState::Undoing).await
    }

    /// Ends a stuck run as failed: a person states that what is left is theirs now. Its locks and
    /// leases are released; what is left is recorded in its result.
    ///
    /// # Errors
    /// `Missing` when there is no such run; `Refused` when it is over otherwise, or not stuck.
    pub async fn abandon(&self, id: RunId, by: &str, reason: &str) -> Result<Effect, StoreError> {
        let (row, history) = self.find(id).await?;
        if is_abandoned(&row) {
            return Ok(Effect::Nothing(format!("job {id} is abandoned already")));
        }
        if row.state.is_terminal() {
            return Err(over(&row));
        }
        if row.state != RunState::Stuck {
            let state = row.state.as_str();
            let why = format!("job {id} is {state}; only a stuck job can be abandoned");
            return Err(StoreError::Refused(why));
        }
        let definition = self.known_definition(&row)?;
        let stuck_with = stuck_with(&row);
        let mut failure = Failure::new("abandoned", format!("{by} abandoned it: {reason}"))
            .hint("what is left is named in the job's result and is nobody's but yours now");
        failure.resource = stuck_with.resource.clone();

        let runner = self.runner(&row, definition.clone()).await?;
        let listed = tokio::select! {
            biased;
            left = runner.residue_now() => left,
            () = azdr_env::sleep(LISTING_LIMIT) => None,
        };
        let is_listed = listed.is_some();
        let mut left = listed.unwrap_or_default();
        left.extend(resources(&stuck_with));
        left.extend(self.unfinished_children(&definition, &history).await?);
        let mut seen = std::collections::BTreeSet::new();
        left.retain(|l| seen.insert(l.to_lowercase()));

        let concluded = runner.conclude_failed(&failure);
        let mut result = concluded.result.filter(Value::is_object).unwrap_or_else(|| json!({}));
        result["abandoned"] = json!({
            "by": by, "reason": reason, "left": left, "listed": is_listed,
            "was": stuck_with.message,
        });
        let progress = Progress {
            entries: vec![(
                String::new(),
                String::new(),
                Event::Decided,
                decided("abandon", by, reason),
            )],
            changes: concluded.changes,
            result: Some(result),
            error: Some(to_document(&failure)),
            state: Some(RunState::Failed),
            only_from: Some(RunState::Stuck),
            ..Progress::default()
        };
        self.store().record(id, progress, self.inner.env.clock.wall()).await?;
        tracing::warn!(run = %id, by, reason, ?left, "abandoned");
        self.child_ended(row.parent).await;
        self.notify();
        Ok(Effect::Taken)
    }

    /// Where a stuck run stands; `None` when it is not stuck.
    pub fn situation(&self, row: &RunRow, history: &History) -> Option<Situation> {
        if row.state != RunState::Stuck {
            return None;
        }
        let past = self.definition_of(row).is_none_or(|d| d.past_point_of_no_return(history));
        let way = way(history);
        let may_undo = way == Way::Back || !past;
        Some(Situation { way, may_undo, resources: resources(&stuck_with(row)) })
    }

    /// Lets a stuck run go on.
    pub(super) async fn resume(
        &self,
        id: RunId,
        entries: Vec<(Event, Value)>,
        state: RunState,
    ) -> Result<Effect, StoreError> {
        let now = self.inner.env.clock.wall();
        let other = self.store().resume_stuck(id, entries, state, now).await?;
        self.inner.stuck.lock().expect("the map is only edited").remove(&id);
        if let Some(other) = other {
            return Ok(not_stuck(id, other));
        }
        let row = self.store().run(id).await?;
        self.spawn(row.ok_or_else(|| StoreError::Missing(format!("job {id}")))?).await?;
        self.notify();
        Ok(Effect::Taken)
    }

    async fn find(&self, id: RunId) -> Result<(RunRow, History), StoreError> {
        if self.is_killed() {
            return Err(StoreError::Closed);
        }
        let row = self.store().run(id).await?;
        let row = row.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
        Ok((row, self.history(id).await?))
    }

    fn known_definition(&self, row: &RunRow) -> Result<std::sync::Arc<Definition<S>>, StoreError> {
        self.definition_of(row).cloned().ok_or_else(|| {
            let (id, name, version) = (row.id, &row.workflow, row.version);
            let why = format!("job {id} is a {name} of version {version}, unknown to this build");
            StoreError::Refused(why)
        })
    }

    fn refuse_past_no_return(&self, row: &RunRow, history: &History) -> Result<(), StoreError> {
        let past = self.definition_of(row).is_some_and(|d| d.past_point_of_no_return(history));
        if past {
            let id = row.id;
            let why = format!("job {id} is past its point of no return and only goes forward");
            return Err(StoreError::Refused(why));
        }
        Ok(())
    }

    async fn unfinished_children(
        &self,
        definition: &Definition<S>,
        history: &History,
    ) -> Result<Vec<String>, StoreError> {
        let mut jobs = Vec::new();
        let starts_runs = |kind: &Kind<S>| matches!(kind, Kind::Child(_) | Kind::Children { .. });
        for node in definition.nodes.iter().filter(|n| starts_runs(&n.kind)) {
            for id in history.records_of(node.name).filter_map(|(_, r)| r.child()) {
                let row = self.store().run(id).await?;
                let open = row.filter(|r| !r.state.is_terminal());
                jobs.extend(open.map(|r| format!("job {}", r.id)));
            }
        }
        Ok(jobs)
    }
}

/// A decision as journalled: when is the entry's own time.
fn decided(what: &str, by: &str, reason: &str) -> Value {
    json!({"decision": what, "by": by, "reason": reason})
}

/// The way a run goes by its journal.
pub(super) fn way(history: &History) -> Way {
    if history.turned_back().is_some() { Way::Back } else { Way::Forward }
}

/// The state in which a run goes this way.
pub(super) fn state_of(way: Way) -> RunState {
    match way {
        Way::Forward => RunState::Running,
        Way::Back => RunState::Undoing,
    }
}

fn stuck_with(row: &RunRow) -> Failure {
    let error = row.error.clone().unwrap_or_default();
    serde_json::from_value(error)
        .unwrap_or_else(|_| Failure::new("stuck", format!("job {} was stuck", row.id)))
}

fn resources(failure: &Failure) -> Vec<String> {
    let resource = failure.resource.iter().map(ToString::to_string);
    resource.chain(failure.left.iter().cloned()).collect()
}

fn is_abandoned(row: &RunRow) -> bool {
    row.state == RunState::Failed && row.error.as_ref().is_some_and(|e| e["kind"] == "abandoned")
}

fn over(row: &RunRow) -> StoreError {
    StoreError::Refused(format!("job {} is over already: {}", row.id, row.state.as_str()))
}

fn not_stuck(id: RunId, state: RunState) -> Effect {
    Effect::Nothing(format!("job {id} is {} and not stuck", state.as_str()))
}
