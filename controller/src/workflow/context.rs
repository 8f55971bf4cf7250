//! What a step can see and do.
//!
//! Narrow on purpose: its input, typed earlier outputs, the services of its world, time, and its own
//! journal entries. Never the store, never the controller.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::{Env, Monotonic, WallTime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::children::ChildEnd;
use super::failure::StepError;
use super::history::History;
use crate::store::{CatalogueChange, Event, Progress, Repetition, RunId, Store, StoreError};

/// Names a step and fixes the type of its output: a later step that asks for it cannot get name or
/// type wrong.
pub struct StepKey<O> {
    /// As journalled.
    pub name: &'static str,
    output: PhantomData<fn() -> O>,
}

impl<O> StepKey<O> {
    /// A step of this name. Renaming a shipped step makes a new version of its workflow.
    pub const fn new(name: &'static str) -> Self {
        Self { name, output: PhantomData }
    }
}

impl<O> Clone for StepKey<O> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<O> Copy for StepKey<O> {}

/// What a step has achieved: its output, and the catalogue changes to be applied with it.
pub struct Done<O> {
    pub(super) output: O,
    pub(super) changes: Vec<CatalogueChange>,
}

impl<O> Done<O> {
    /// Done, with this output.
    pub fn new(output: O) -> Self {
        Self { output, changes: Vec::new() }
    }

    /// Adds a catalogue change.
    pub fn change(mut self, change: CatalogueChange) -> Self {
        self.changes.push(change);
        self
    }

    /// Adds catalogue changes.
    pub fn changes(mut self, changes: impl IntoIterator<Item = CatalogueChange>) -> Self {
        self.changes.extend(changes);
        self
    }
}

/// How far a step is, for people; not journalled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepProgress {
    /// For example `copied 40 %`.
    pub detail: String,
    /// 0 to 100.
    pub percent: Option<f64>,
}

/// A run in this process: what its steps share.
pub(super) struct RunShared<S> {
    pub(super) id: RunId,
    pub(super) priority: u8,
    pub(super) input: Value,
    pub(super) services: Arc<S>,
    pub(super) env: Env,
    pub(super) store: Store,
    pub(super) history: Mutex<History>,
    /// As saved by earlier processes.
    pub(super) repetitions: Mutex<BTreeMap<(String, String), Repetition>>,
    /// For how long earlier processes have driven it.
    pub(super) spent_before: Duration,
    /// When this process took it up.
    pub(super) begun: Monotonic,
    /// The date then, or that of the journal's latest entry if that is later.
    pub(super) begun_wall: WallTime,
    /// When steps first began in this process.
    pub(super) steps_begun: Mutex<BTreeMap<String, Monotonic>>,
    pub(super) progress: Mutex<BTreeMap<(String, String), StepProgress>>,
    pub(super) cancel: CancellationToken,
    pub(super) shutdown: CancellationToken,
    /// The point of no return is past: requests to stop come too late.
    pub(super) no_return: AtomicBool,
    /// It only waits for runs that it has started: it takes no place among those in flight.
    pub(super) waits_for_children: AtomicBool,
    pub(super) changed: Arc<dyn Fn() + Send + Sync>,
}

impl<S> RunShared<S> {
    pub(super) fn with_history<T>(&self, f: impl FnOnce(&History) -> T) -> T {
        f(&self.history.lock().expect("the history is only read and appended to"))
    }

    /// For how long the run has been driven in all.
    pub(super) fn spent(&self) -> Duration {
        self.spent_before + self.env.clock.monotonic().since(self.begun)
    }

    /// The date, as if nobody had set the clock since this process took up the run.
    pub(super) fn steady_now(&self) -> WallTime {
        self.begun_wall.plus(self.env.clock.monotonic().since(self.begun))
    }

    /// What an earlier process knew of a step's repetition; asked once.
    pub(super) fn take_repetition(&self, step: &str, item: &str) -> Option<Repetition> {
        let mut known = self.repetitions.lock().expect("the map is only read and written");
        known.remove(&(step.to_owned(), item.to_owned()))
    }

    /// Saves a step's repetition. Losing it costs a shorter pause after a crash: no reason to fail.
    pub(super) async fn save_repetition(
        &self,
        step: &str,
        item: &str,
        repetition: Repetition,
    ) -> Result<(), StepError> {
        let spent = self.spent();
        match self.store.note_repetition(self.id, step, item, repetition, spent).await {
            Err(e @ StoreError::Fenced { .. }) => Err(e.into()),
            Err(e) => {
                tracing::warn!(run = %self.id, step, error = %e, "a repetition was not saved");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes progress durably, then takes it into the history.
    pub(super) async fn record(&self, mut progress: Progress) -> Result<(), StepError> {
        progress.spent = Some(self.spent());
        let (now, monotonic) = (self.steady_now(), self.env.clock.monotonic());
        progress.entered = Some(now);
        let recorded = self.store.record(self.id, progress, self.env.clock.wall()).await;
        let entries = recorded.map_err(|e| match &e {
            // A rule of the catalogue said no: that is the step's failure, not the store's.
            StoreError::Refused(_) | StoreError::Missing(_) => {
                StepError::fail("refused", e.to_string())
            }
            // Repeating would break the same constraint for ever.
            StoreError::Sqlite(cause)
                if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                StepError::fail("refused", format!("the catalogue refuses the change: {cause}"))
            }
            _ => StepError::Store(e),
        })?;
        {
            let mut history =
                self.history.lock().expect("the history is only read and appended to");
            for (step, item, event, payload) in entries {
                if event == Event::Started && history.records_of(&step).next().is_none() {
                    let mut begun = self.steps_begun.lock().expect("the map is only edited");
                    begun.insert(step.clone(), monotonic);
                }
                history.apply(now, &step, &item, event, payload);
            }
        }
        (self.changed)();
        Ok(())
    }

    pub(super) async fn journal(
        &self,
        step: &str,
        item: &str,
        event: Event,
        payload: Value,
    ) -> Result<(), StepError> {
        let entries = vec![(step.to_owned(), item.to_owned(), event, payload)];
        self.record(Progress { entries, ..Progress::default() }).await
    }

    /// Takes in the start of a child, which the store has journalled together with the child.
    pub(super) fn note_child(&self, at: WallTime, step: &str, item: &str, child: RunId) {
        let mut history = self.history.lock().expect("the history is only read and appended to");
        history.apply(at, step, item, Event::Started, Value::from(child.0));
    }

    pub(super) fn progress_of(&self, step: &str, item: &str) -> Option<StepProgress> {
        let progress = self.progress.lock().expect("progress is only set and read");
        progress.get(&(step.to_owned(), item.to_owned())).cloned()
    }

    pub(super) fn set_progress(&self, step: &str, item: &str, progress: StepProgress) {
        let key = (step.to_owned(), item.to_owned());
        self.progress.lock().expect("progress is only set and read").insert(key, progress);
        (self.changed)();
    }
}

/// A step's view before its input is typed.
pub(super) struct RawCx<S> {
    pub(super) run: Arc<RunShared<S>>,
    pub(super) step: &'static str,
    pub(super) item: String,
    pub(super) undoing: bool,
    /// When this call is to come back to the engine, should it still be waiting; `None` in a critical
    /// section, and where nothing waits.
    pub(super) until: Option<Monotonic>,
    /// For how long the step had been called when this call began, and when that was.
    pub(super) spent_before: Duration,
    pub(super) begun: Monotonic,
}

impl<S> Clone for RawCx<S> {
    fn clone(&self) -> Self {
        Self {
            run: self.run.clone(),
            step: self.step,
            item: self.item.clone(),
            undoing: self.undoing,
            until: self.until,
            spent_before: self.spent_before,
            begun: self.begun,
        }
    }
}

/// What a step sees. The same view serves its undo, where outputs may be missing.
pub struct StepCx<S, I> {
    pub(super) raw: RawCx<S>,
    /// The run's input.
    pub input: I,
}

impl<S, I> StepCx<S, I> {
    /// The services of the world outside.
    pub fn services(&self) -> &S {
        &self.raw.run.services
    }

    /// The run; its number goes into the tags of everything it creates.
    pub fn run_id(&self) -> RunId {
        self.raw.run.id
    }

    /// The date. For records; what must be the same on a repetition comes from an earlier step.
    pub fn now(&self) -> WallTime {
        self.raw.run.env.clock.wall()
    }

    /// The date by which the journal counts: from when this process took up the run it goes on by
    /// monotonic time, and never back. For durations between journal entries and now: setting the
    /// clock meanwhile neither lengthens nor shortens them. What a jump did to the clock before, or
    /// while no process drove the run, is not known.
    pub fn steady_now(&self) -> WallTime {
        self.raw.run.steady_now()
    }

    /// When a step first began, by [`monotonic`](Self::monotonic); `None` when it has not, or did so
    /// in an earlier process.
    pub fn began_here(&self, step: &str) -> Option<Monotonic> {
        let begun = self.raw.run.steps_begun.lock().expect("the map is only edited");
        begun.get(step).copied()
    }

    /// Monotonic time of this process.
    pub fn monotonic(&self) -> Monotonic {
        self.raw.run.env.clock.monotonic()
    }

    /// Clock and ids.
    pub fn env(&self) -> &Env {
        &self.raw.run.env
    }

    /// Whether this is an undo (a temporary's clean-up included).
    pub fn is_undo(&self) -> bool {
        self.raw.undoing
    }

    /// The output of an earlier step.
    ///
    /// # Errors
    /// Fails when that step is not done: a mistake in the workflow, which turns the run back.
    pub fn output<O: DeserializeOwned>(&self, key: StepKey<O>) -> Result<O, StepError> {
        self.try_output(key)?.ok_or_else(|| {
            StepError::fail("internal", format!("step {} has no output yet", key.name))
        })
    }

    /// The output of a step, if it is done.
    ///
    /// # Errors
    /// When the journalled output cannot be read as `O`.
    pub fn try_output<O: DeserializeOwned>(&self, key: StepKey<O>) -> Result<Option<O>, StepError> {
        self.read_output(key.name, "")
    }

    /// The outputs of an `each`, in the order of its list, as far as they are done.
    ///
    /// # Errors
    /// When a journalled output cannot be read as `O`.
    pub fn each_outputs<O: DeserializeOwned>(&self, key: StepKey<O>) -> Result<Vec<O>, StepError> {
        let keys: Vec<String> = self.raw.run.with_history(|h| {
            h.items(key.name).unwrap_or_default().iter().map(|(k, _)| k.clone()).collect()
        });
        keys.iter().filter_map(|item| self.read_output(key.name, item).transpose()).collect()
    }

    /// The list that an `each` goes over, once it has been fixed; empty before, and where this version
    /// of the workflow has no such step.
    ///
    /// # Errors
    /// When an item cannot be read as `T`.
    pub fn each_items<T: DeserializeOwned, O>(&self, key: StepKey<O>) -> Result<Vec<T>, StepError> {
        let items = self.raw.run.with_history(|h| h.items(key.name).unwrap_or_default().to_vec());
        items.into_iter().map(|(_, payload)| read_document(key.name, &payload)).collect()
    }

    /// The list of a step's [children](super::Workflow::children) in its order, each with its end;
    /// `None`: not over, or never started because the run turned back before.
    ///
    /// # Errors
    /// When a journalled end cannot be read.
    pub fn child_ends(
        &self,
        key: StepKey<ChildEnd>,
    ) -> Result<Vec<(String, Option<ChildEnd>)>, StepError> {
        let keys: Vec<String> = self.raw.run.with_history(|h| {
            h.items(key.name).unwrap_or_default().iter().map(|(k, _)| k.clone()).collect()
        });
        let end = |item: String| Ok((item.clone(), self.read_output(key.name, &item)?));
        keys.into_iter().map(end).collect()
    }

    fn read_output<O: DeserializeOwned>(
        &self,
        step: &str,
        item: &str,
    ) -> Result<Option<O>, StepError> {
        self.raw.run.with_history(|h| {
            let done = h.record(step, item).and_then(|r| r.done.as_ref());
            done.map(|(_, v)| read_document(step, v)).transpose()
        })
    }

    /// When a step was done, by [`steady_now`](Self::steady_now).
    pub fn done_at(&self, step: &str) -> Option<WallTime> {
        self.raw.run.with_history(|h| {
            h.records_of(step).filter_map(|(_, r)| r.done.as_ref().map(|(at, _)| *at)).max()
        })
    }

    /// When a step first began, by [`steady_now`](Self::steady_now).
    pub fn started_at(&self, step: &str) -> Option<WallTime> {
        self.raw.run.with_history(|h| h.records_of(step).filter_map(|(_, r)| r.started).min())
    }

    /// When the run turned back, if it did.
    pub fn turned_back_at(&self) -> Option<WallTime> {
        self.raw.run.with_history(History::turned_back_at)
    }

    /// What this step saved to resume from, in this life of the controller or an earlier one.
    ///
    /// # Errors
    /// When it cannot be read as `T`.
    pub fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, StepError> {
        self.raw.run.with_history(|h| {
            let saved = h.record(self.raw.step, &self.raw.item).and_then(|r| r.checkpoint.as_ref());
            saved.map(|v| read_document(self.raw.step, v)).transpose()
        })
    }

    /// Saves something to resume from, durably. `None` forgets it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn save_checkpoint<T: Serialize>(&self, value: Option<&T>) -> Result<(), StepError> {
        let payload = value.map_or(Value::Null, to_document);
        self.raw.run.journal(self.raw.step, &self.raw.item, Event::Checkpoint, payload).await
    }

    /// The operation id of the current attempt of this hold: new for every attempt, journalled
    /// before it began.
    ///
    /// # Panics
    /// In a step that is not a hold.
    pub fn operation_id(&self) -> String {
        self.operation_ids(self.raw.step).pop().expect("only holds ask for their operation id")
    }

    /// Whether nothing can be under way, or be done late, that an earlier attempt of this hold asked for.
    pub fn is_first_attempt(&self) -> bool {
        self.operation_ids(self.raw.step).len() == 1
    }

    /// The operation ids of all attempts of a hold, oldest first.
    pub fn operation_ids(&self, hold: &str) -> Vec<String> {
        self.raw.run.with_history(|h| {
            h.record(hold, "")
                .map(|r| r.attempts.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
                .unwrap_or_default()
        })
    }

    /// Shows people how far this step is.
    pub fn progress(&self, detail: impl Into<String>, percent: Option<f64>) {
        let progress = StepProgress { detail: detail.into(), percent };
        self.raw.run.set_progress(self.raw.step, &self.raw.item, progress);
    }

    /// For how long the engine has been calling this step, over all processes; pauses count, what
    /// the wall clock does doesn't. A crash forgets at most ten minutes of it.
    pub fn spent(&self) -> Duration {
        self.raw.spent_before + self.monotonic().since(self.raw.begun)
    }

    /// For a step that works for long instead of waiting: whether it is to stop, asked after each piece of
    /// its work. An undo is not cancelled.
    ///
    /// # Errors
    /// `Cancelled` or `ShuttingDown`.
    pub fn check_stop(&self) -> Result<(), StepError> {
        let run = &self.raw.run;
        let may_turn = !self.raw.undoing && !run.no_return.load(Ordering::Acquire);
        match () {
            () if run.shutdown.is_cancelled() => Err(StepError::ShuttingDown),
            () if run.cancel.is_cancelled() && may_turn => Err(StepError::Cancelled),
            () => Ok(()),
        }
    }

    /// For the same: whether this call has lasted so long that it is to save what it has done and come
    /// back to the engine with [`StepError::NotYet`], which keeps the time limits and calls it again. Not
    /// longer than ten minutes after the call began.
    pub fn call_is_over(&self) -> bool {
        self.raw.until.is_some_and(|until| self.monotonic() >= until)
    }

    /// Waits, unless the run is cancelled or the controller shuts down meanwhile. An undo is not
    /// cancelled. A step that has waited for long in one call is sent back to the engine, which keeps
    /// the time limits, and is called again.
    ///
    /// # Errors
    /// `Cancelled`, `ShuttingDown` or `NotYet`.
    pub async fn wait(&self, d: Duration) -> Result<(), StepError> {
        let run = &self.raw.run;
        if self.raw.until.is_some_and(|until| self.monotonic() >= until) {
            return Err(StepError::not_yet("waiting", d));
        }
        let may_turn = !self.raw.undoing && !run.no_return.load(Ordering::Acquire);
        tokio::select! {
            biased;
            () = run.shutdown.cancelled() => Err(StepError::ShuttingDown),
            () = run.cancel.cancelled(), if may_turn => Err(StepError::Cancelled),
            () = azdr_env::sleep(d) => Ok(()),
        }
    }
}

fn read_document<T: DeserializeOwned>(step: &str, value: &Value) -> Result<T, StepError> {
    T::deserialize(value).map_err(|e| {
        StepError::fail("internal", format!("the journal entry of step {step} cannot be read: {e}"))
    })
}

/// Turns something into its journalled form.
pub(super) fn to_document<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).expect("our documents have string keys and no failing Serialize")
}
