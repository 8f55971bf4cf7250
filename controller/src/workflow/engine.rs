//! Queues runs, gives them their locks, drives them, and recovers them after a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use azdr_env::{Env, Monotonic};
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::{RunShared, StepProgress, to_document};
use super::decision::{state_of, way};
use super::definition::{Definition, RunPriority};
use super::failure::StepError;
use super::history::History;
use super::retry::RetryPolicy;
use super::runner::Runner;
use crate::store::{ItemId, MAX_QUEUED, NewRun, RunId, RunRow, RunState, Store, StoreError};
use crate::ticks::{Listener, Ticks};

/// What steps use, made fit for one run.
pub trait ForRun {
    /// The same services for a run of this priority.
    fn for_run(&self, priority: RunPriority) -> Self;
}

/// The engine's limits.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Runs in flight at once, without restores (unlimited) and drills (half as many again).
    pub max_running: usize,
    /// Pauses between repetitions of a step.
    pub retry: RetryPolicy,
}

/// Runs workflows. Cheap to clone.
pub struct Engine<S> {
    pub(super) inner: Arc<Inner<S>>,
}

impl<S> Clone for Engine<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

pub(super) struct Inner<S> {
    /// Becomes one that carries this controller's epoch at the start.
    store: RwLock<Store>,
    pub(super) env: Env,
    services: Arc<S>,
    definitions: BTreeMap<(&'static str, u32), Arc<Definition<S>>>,
    active: Mutex<BTreeMap<RunId, Arc<RunShared<S>>>>,
    /// Stuck runs, and since when in this process.
    pub(super) stuck: Mutex<BTreeMap<RunId, Monotonic>>,
    changes: Ticks,
    pub(super) wake: Notify,
    pub(super) shutdown: CancellationToken,
    fenced: CancellationToken,
    tasks: TaskTracker,
    handles: Mutex<Handles>,
    /// Runs started so far: some slots go by age.
    pub(super) starts: AtomicU32,
    pub(super) max_queued: AtomicU32,
    pub(super) config: EngineConfig,
}

/// What [`Engine::kill`] needs: every task of the engine that has not ended.
#[derive(Default)]
struct Handles {
    killed: bool,
    next: u64,
    running: BTreeMap<u64, AbortHandle>,
}

impl<S: ForRun + Send + Sync + 'static> Engine<S> {
    /// An engine for these workflows; nothing runs before [`start`](Self::start).
    pub fn new(
        store: Store,
        env: Env,
        services: Arc<S>,
        definitions: Vec<Definition<S>>,
        config: EngineConfig,
    ) -> Self {
        let definitions = definitions
            .into_iter()
            .map(|d| ((d.name, d.version.0), Arc::new(d)))
            .collect::<BTreeMap<_, _>>();
        Self {
            inner: Arc::new(Inner {
                store: RwLock::new(store),
                env,
                services,
                definitions,
                active: Mutex::default(),
                stuck: Mutex::default(),
                changes: Ticks::default(),
                wake: Notify::new(),
                shutdown: CancellationToken::new(),
                fenced: CancellationToken::new(),
                tasks: TaskTracker::new(),
                handles: Mutex::default(),
                starts: AtomicU32::new(0),
                max_queued: AtomicU32::new(MAX_QUEUED),
                config,
            }),
        }
    }

    /// Takes over the database (other engines on it stop, see [`fenced`](Self::fenced)), takes up every
    /// unfinished run, then starts queued ones as their locks become free. Answers
    /// how many runs were taken up.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(&self) -> Result<usize, StoreError> {
        let store = self.store();
        if !store.has_taken_over() {
            let ours = store.take_over().await?;
            *self.inner.store.write().expect("nothing panics while it is held") = ours;
        }
        let count = self.take_up_unfinished().await?;
        let engine = self.clone();
        self.launch(async move { engine.dispatch().await });
        Ok(count)
    }

    /// Takes up every unfinished run, the stuck ones too: what was in the way may be gone.
    async fn take_up_unfinished(&self) -> Result<usize, StoreError> {
        let unfinished = self.store().unfinished_runs().await?;
        let mut count = 0;
        for row in unfinished {
            count += 1;
            tracing::info!(run = %row.id, workflow = row.workflow, state = row.state.as_str(),
                "taking up an unfinished run");
            if row.state == RunState::Stuck {
                self.try_stuck_again(row.id).await?;
                continue;
            }
            self.spawn(row).await?;
        }
        Ok(count)
    }

    /// Tries a stuck run again, in the direction it was going.
    pub(super) async fn try_stuck_again(&self, id: RunId) -> Result<(), StoreError> {
        let state = state_of(way(&self.history(id).await?));
        self.resume(id, Vec::new(), state).await.map(|_| ())
    }

    /// The newest version of a workflow.
    pub fn definition(&self, name: &str) -> Option<&Arc<Definition<S>>> {
        self.inner.definitions.iter().rev().find(|((n, _), _)| *n == name).map(|(_, d)| d)
    }

    /// The version of a workflow that a run was started with.
    pub fn definition_of(&self, row: &RunRow) -> Option<&Arc<Definition<S>>> {
        let same = |(n, v): &(&str, u32)| *n == row.workflow && *v == row.version;
        self.inner.definitions.iter().find(|(k, _)| same(k)).map(|(_, d)| d)
    }

    /// Describes a run of the newest version of a workflow.
    ///
    /// # Panics
    /// When there is no such workflow: names are constants.
    pub fn new_run<I: Serialize>(
        &self,
        workflow: &str,
        input: &I,
        item: Option<ItemId>,
        requested_by: impl Into<String>,
    ) -> NewRun {
        let definition = self.definition(workflow).expect("workflow names are constants");
        NewRun {
            workflow: definition.name.to_owned(),
            version: definition.version.0,
            input: to_document(input),
            priority: definition.priority as u8,
            item,
            parent: None,
            requested_by: requested_by.into(),
        }
    }

    /// Queues a run; it is durable when this returns.
    ///
    /// # Errors
    /// `QueueFull` when too many wait already; or when the store cannot be written.
    pub async fn submit(&self, run: NewRun) -> Result<RunId, StoreError> {
        if self.is_killed() {
            return Err(StoreError::Closed);
        }
        let limit = self.queue_limit(run.priority);
        let id = self.store().queue_run(run, limit, self.inner.env.clock.wall()).await?;
        self.notify();
        Ok(id)
    }

    /// The same for a run that decides what to do when it starts: while an equal one is queued, that
    /// one is answered, and no second is queued.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_once(&self, run: NewRun) -> Result<RunId, StoreError> {
        if self.is_killed() {
            return Err(StoreError::Closed);
        }
        let limit = self.queue_limit(run.priority);
        let id = self.store().queue_run_once(run, limit, self.inner.env.clock.wall()).await?;
        self.notify();
        Ok(id)
    }

    /// Ticks whenever something about any run has changed.
    pub fn subscribe(&self) -> Listener {
        self.inner.changes.listen()
    }

    /// What the steps of a run in flight say of themselves.
    pub fn progress(&self, id: RunId) -> BTreeMap<(String, String), StepProgress> {
        self.active(id)
            .map(|r| r.progress.lock().expect("progress is only set and read").clone())
            .unwrap_or_default()
    }

    /// A run's journal, folded.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(&self, id: RunId) -> Result<History, StoreError> {
        let mut history = History::default();
        for e in self.store().journal(id).await? {
            history.apply(e.at, &e.step, &e.item, e.event, e.payload);
        }
        Ok(history)
    }

    /// Waits for the end of a run.
    ///
    /// # Errors
    /// When the store cannot be read or has no such run.
    pub async fn wait(&self, id: RunId) -> Result<RunRow, StoreError> {
        self.wait_until(id, |row| row.state.is_terminal()).await
    }

    async fn wait_until(
        &self,
        id: RunId,
        is_reached: impl Fn(&RunRow) -> bool,
    ) -> Result<RunRow, StoreError> {
        let mut changes = self.subscribe();
        loop {
            changes.mark_seen();
            let row = self.run(id).await?;
            if is_reached(&row) {
                return Ok(row);
            }
            changes.changed().await;
        }
    }

    /// Stops taking up work and lets every run reach a place from which it can go on later; gives up
    /// after `limit` (what is still running then is recovered like after a crash).
    pub async fn drain(&self, limit: Duration) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        tokio::select! {
            biased;
            () = self.inner.tasks.wait() => {}
            () = azdr_env::sleep(limit) => {
                tracing::warn!("runs were still busy when the time to stop was over");
            }
        }
    }

    /// For simulations of a crash: everything of this engine stops at whatever await it is in, and
    /// nothing is written any more. Unlike after [`drain`](Self::drain) no step is told; what the
    /// journal says is all that is left. The engine cannot be started again.
    pub fn kill(&self) {
        let running = {
            let mut handles = self.inner.handles.lock().expect("nothing panics while it is held");
            handles.killed = true;
            std::mem::take(&mut handles.running)
        };
        running.values().for_each(AbortHandle::abort);
    }

    /// Whether [`kill`](Self::kill) was called.
    pub(super) fn is_killed(&self) -> bool {
        self.inner.handles.lock().expect("nothing panics while it is held").killed
    }

    /// Gives a task to the engine: waited for by `drain`, stopped by `kill`.
    fn launch(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut handles = self.inner.handles.lock().expect("nothing panics while it is held");
        if handles.killed {
            return;
        }
        let key = handles.next;
        handles.next += 1;
        let engine = self.clone();
        let started = self.inner.tasks.spawn(async move {
            task.await;
            let mut handles = engine.inner.handles.lock().expect("nothing panics while it is held");
            handles.running.remove(&key);
        });
        handles.running.insert(key, started.abort_handle());
    }

    /// Looks at the queue again: for runs that were queued by a catalogue change.
    pub fn notify(&self) {
        self.changed();
        self.inner.wake.notify_one();
    }

    /// Tells those who watch.
    pub(super) fn changed(&self) {
        self.inner.changes.tick();
    }

    pub(super) async fn start_child(
        &self,
        parent: &RunShared<S>,
        step: &'static str,
        item: &str,
        new: NewRun,
    ) -> Result<RunId, StepError> {
        let now = self.inner.env.clock.wall();
        let limit = self.queue_limit(new.priority);
        let id =
            self.store().queue_child(parent.id, step, item.to_owned(), new, limit, now).await?;
        parent.note_child(now, step, item, id);
        self.notify();
        Ok(id)
    }

    /// Asks a child to stop; one that cannot any more goes on to its end.
    pub(super) async fn ask_to_stop(&self, id: RunId, parent: RunId) -> Result<(), StepError> {
        match self.cancel(id, &format!("job {parent}")).await {
            Ok(_) | Err(StoreError::Refused(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until a child is over or stuck. One that is stuck waits for a person; so does its parent
    /// then, instead of for ever.
    pub(super) async fn over_or_stuck(&self, id: RunId) -> Result<RunRow, StepError> {
        let reached = |row: &RunRow| row.state.is_terminal() || row.state == RunState::Stuck;
        tokio::select! {
            biased;
            () = self.inner.shutdown.cancelled() => Err(StepError::ShuttingDown),
            row = self.wait_until(id, reached) => Ok(row?),
        }
    }

    /// A run that is stuck on its children goes on when one of them is over.
    pub(super) async fn child_ended(&self, parent: Option<RunId>) {
        let Some(parent) = parent else { return };
        let is_stuck = {
            let stuck = self.inner.stuck.lock().expect("the map is only edited");
            stuck.contains_key(&parent)
        };
        if is_stuck && let Err(e) = self.try_stuck_again(parent).await {
            tracing::error!(run = %parent, error = %e, "cannot go on now; it is tried again later");
        }
    }

    /// A run as it is now.
    pub(super) async fn run(&self, id: RunId) -> Result<RunRow, StoreError> {
        self.store().run(id).await?.ok_or_else(|| StoreError::Missing(format!("job {id}")))
    }

    /// The store, as this engine may write to it.
    pub(super) fn store(&self) -> Store {
        self.inner.store.read().expect("nothing panics while it is held").clone()
    }

    /// At most so many runs wait in the queue; further ones are refused, restores and drills only when
    /// so many restores and drills wait.
    pub fn limit_queue(&self, most: u32) {
        self.inner.max_queued.store(most, Ordering::Relaxed);
    }

    /// Waits until a newer controller has opened the database. Everything of this engine has stopped
    /// then, and it is of no use any more.
    pub async fn fenced(&self) {
        self.inner.fenced.cancelled().await;
    }

    /// Stops everything when a newer controller has opened the database.
    pub(super) fn stop_if_fenced(&self, e: &StoreError) -> bool {
        let fenced = matches!(e, StoreError::Fenced { .. });
        if fenced {
            tracing::error!(error = %e, "stopping: this controller is not the newest any more");
            self.inner.fenced.cancel();
            self.kill();
        }
        fenced
    }

    pub(super) fn active(&self, id: RunId) -> Option<Arc<RunShared<S>>> {
        self.inner.active.lock().expect("the map is only read and written").get(&id).cloned()
    }

    /// Priorities of the runs that take a place among those in flight.
    pub(super) fn priorities_in_flight(&self) -> Vec<u8> {
        let active = self.inner.active.lock().expect("the map is only read and written");
        let busy = active.values().filter(|run| !run.waits_for_children.load(Ordering::Acquire));
        busy.map(|run| run.priority).collect()
    }

    /// Drives a run in a task of its own. Boxed: a run that is driven may cancel another, which may
    /// spawn that one.
    pub(super) fn spawn(&self, row: RunRow) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.spawn_run(row))
    }

    async fn spawn_run(&self, row: RunRow) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(definition) = self.definition_of(&row).cloned() else {
            tracing::error!(run = %row.id, workflow = row.workflow, version = row.version,
                "no such workflow in this build; the run waits for one that has it");
            return Ok(());
        };
        let runner = self.runner(&row, definition).await?;
        let run = runner.run.clone();
        {
            let mut active = inner.active.lock().expect("the map is only read and written");
            active.insert(row.id, run.clone());
        }
        // Read again after the run became reachable: a request in between is not lost.
        if self.store().run(row.id).await?.is_some_and(|r| r.cancel_requested) {
            run.cancel.cancel();
        }
        let engine = self.clone();
        self.launch(async move { engine.drive(row, runner).await });
        Ok(())
    }

    /// What drives a run from where its journal stands.
    pub(super) async fn runner(
        &self,
        row: &RunRow,
        definition: Arc<Definition<S>>,
    ) -> Result<Runner<S>, StoreError> {
        let inner = &self.inner;
        let changes = inner.changes.clone();
        let history = self.history(row.id).await?;
        let wall = inner.env.clock.wall();
        let run = RunShared {
            id: row.id,
            priority: row.priority,
            input: row.input.clone(),
            services: Arc::new(inner.services.for_run(definition.priority)),
            env: inner.env.clone(),
            store: self.store(),
            repetitions: Mutex::new(self.store().repetitions(row.id).await?),
            spent_before: row.spent,
            begun: inner.env.clock.monotonic(),
            begun_wall: history.latest().map_or(wall, |latest| latest.max(wall)),
            steps_begun: Mutex::default(),
            history: Mutex::new(history),
            progress: Mutex::default(),
            cancel: CancellationToken::new(),
            shutdown: inner.shutdown.clone(),
            no_return: AtomicBool::new(false),
            waits_for_children: AtomicBool::new(false),
            // Not the engine itself, which has the run: what was killed would never be freed.
            changed: Arc::new(move || changes.tick()),
        };
        let run = Arc::new(run);
        Ok(Runner { run, definition, retry: inner.config.retry, engine: self.clone() })
    }

    async fn drive(&self, row: RunRow, runner: Runner<S>) {
        let RunRow { id, workflow, parent, .. } = row;
        let mut is_over = false;
        tracing::info!(run = %id, workflow, "run goes on");
        let mut failures = 0;
        loop {
            match runner.drive().await {
                Ok(state) => {
                    is_over = state.is_terminal();
                    if state == RunState::Stuck {
                        let now = self.inner.env.clock.monotonic();
                        let mut stuck = self.inner.stuck.lock().expect("the map is only edited");
                        stuck.insert(id, now);
                    }
                    tracing::info!(run = %id, workflow, state = state.as_str(), "run ended");
                    break;
                }
                Err(StepError::Store(e)) if !self.inner.shutdown.is_cancelled() => {
                    // The journal knows where we are; wait for the store to come back.
                    if self.stop_if_fenced(&e) {
                        return;
                    }
                    tracing::error!(run = %id, error = %e, cause = ?e, "the journal is not available");
                    failures += 1;
                    let pause = self.inner.config.retry.pause(failures, None);
                    tokio::select! {
                        biased;
                        () = self.inner.shutdown.cancelled() => break,
                        () = azdr_env::sleep(pause) => {}
                    }
                    match self.history(id).await {
                        Ok(history) => {
                            *runner.run.history.lock().expect("no panic while held") = history;
                        }
                        Err(e) => tracing::error!(run = %id, error = %e, "still not available"),
                    }
                }
                Err(_) => break,
            }
        }
        {
            // A run that was stuck may have been taken up again already.
            let mut active = self.inner.active.lock().expect("the map is only read and written");
            if active.get(&id).is_some_and(|run| Arc::ptr_eq(run, &runner.run)) {
                active.remove(&id);
            }
        }
        if is_over {
            self.child_ended(parent).await;
        }
        self.notify();
    }
}
