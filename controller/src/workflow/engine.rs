//! Queues runs, gives them their locks, drives them, and recovers them after a crash.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::Env;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::{RunShared, StepProgress, to_document};
use super::definition::{Definition, RunPriority};
use super::failure::StepError;
use super::history::History;
use super::retry::RetryPolicy;
use super::runner::Runner;
use crate::store::{ItemId, NewRun, Progress, RunId, RunRow, RunState, Store, StoreError};

/// How many runs are looked at when a lock becomes free.
const QUEUE_LOOKAHEAD: u32 = 1000;
/// How often stuck runs are tried again.
const STUCK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// What steps use, made fit for one run.
pub trait ForRun {
    /// The same services for a run of this priority.
    fn for_run(&self, priority: RunPriority) -> Self;
}

/// The engine's limits.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Runs in flight at once.
    pub max_running: usize,
    /// Pauses between repetitions of a step.
    pub retry: RetryPolicy,
}

/// Runs workflows. Cheap to clone.
pub struct Engine<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for Engine<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<S> {
    store: Store,
    env: Env,
    services: Arc<S>,
    definitions: BTreeMap<(&'static str, u32), Arc<Definition<S>>>,
    active: Mutex<BTreeMap<RunId, Arc<RunShared<S>>>>,
    changes: watch::Sender<u64>,
    wake: Notify,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    handles: Mutex<Handles>,
    config: EngineConfig,
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
                store,
                env,
                services,
                definitions,
                active: Mutex::new(BTreeMap::new()),
                changes: watch::channel(0).0,
                wake: Notify::new(),
                shutdown: CancellationToken::new(),
                tasks: TaskTracker::new(),
                handles: Mutex::default(),
                config,
            }),
        }
    }

    /// Takes up every unfinished run, then starts queued ones as their locks become free. Answers
    /// how many runs were taken up.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(&self) -> Result<usize, StoreError> {
        let count = self.take_up_unfinished().await?;
        let engine = self.clone();
        self.launch(async move { engine.dispatch().await });
        Ok(count)
    }

    /// Takes up every unfinished run that nobody drives: after a start all of them, later those that
    /// are stuck (what was in the way may be gone).
    async fn take_up_unfinished(&self) -> Result<usize, StoreError> {
        let unfinished = self.inner.store.unfinished_runs().await?;
        let mut count = 0;
        for row in unfinished {
            if self.active(row.id).is_some() {
                continue;
            }
            count += 1;
            tracing::info!(run = %row.id, workflow = row.workflow, state = row.state.as_str(),
                "taking up an unfinished run");
            if row.state == RunState::Stuck {
                // What was in the way may be gone.
                let back = self.history(row.id).await?.turned_back().is_some();
                let state = Some(if back { RunState::Undoing } else { RunState::Running });
                let progress = Progress { state, ..Progress::default() };
                self.inner.store.record(row.id, progress, self.inner.env.clock.wall()).await?;
            }
            self.spawn(row).await?;
        }
        Ok(count)
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
    /// When the store cannot be written.
    pub async fn submit(&self, run: NewRun) -> Result<RunId, StoreError> {
        if self.is_killed() {
            return Err(StoreError::Closed);
        }
        let id = self.inner.store.queue_run(run, self.inner.env.clock.wall()).await?;
        self.notify();
        Ok(id)
    }

    /// Asks a run to stop and undo itself.
    ///
    /// # Errors
    /// `Missing` when there is no such run, `Refused` when it is over or past its point of no return.
    pub async fn cancel(&self, id: RunId) -> Result<(), StoreError> {
        if self.is_killed() {
            return Err(StoreError::Closed);
        }
        let row = self.inner.store.run(id).await?;
        if let Some(definition) = row.as_ref().and_then(|r| self.definition_of(r))
            && definition.past_point_of_no_return(&self.history(id).await?)
        {
            let why = format!("job {id} is past its point of no return and only goes forward");
            return Err(StoreError::Refused(why));
        }
        self.inner.store.request_cancel(id, self.inner.env.clock.wall()).await?;
        if let Some(run) = self.active(id) {
            run.cancel.cancel();
        }
        self.notify();
        Ok(())
    }

    /// Ticks whenever something about any run has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
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
        for e in self.inner.store.journal(id).await? {
            history.apply(e.at, &e.step, &e.item, e.event, &e.payload);
        }
        Ok(history)
    }

    /// Waits for the end of a run.
    ///
    /// # Errors
    /// When the store cannot be read or has no such run.
    pub async fn wait(&self, id: RunId) -> Result<RunRow, StoreError> {
        let mut changes = self.subscribe();
        loop {
            changes.borrow_and_update();
            let row = self.inner.store.run(id).await?;
            let row = row.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
            if row.state.is_terminal() {
                return Ok(row);
            }
            changes.changed().await.map_err(|_| StoreError::Closed)?;
        }
    }

    /// Stops taking up work and lets every run reach a place from which it can go on later; gives up
    /// after `limit` (what is still running then is recovered like after a crash).
    pub async fn drain(&self, limit: Duration) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        tokio::select! {
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
        self.inner.changes.send_modify(|n| *n += 1);
        self.inner.wake.notify_one();
    }

    pub(super) async fn start_child(
        &self,
        parent: &RunShared<S>,
        step: &'static str,
        new: NewRun,
    ) -> Result<RunId, StepError> {
        let now = self.inner.env.clock.wall();
        let id = self.inner.store.queue_child(parent.id, step, new, now).await?;
        parent.note_child(now, step, id);
        self.notify();
        Ok(id)
    }

    pub(super) async fn cancel_and_wait(&self, id: RunId) -> Result<(), StepError> {
        match self.cancel(id).await {
            Ok(()) | Err(StoreError::Refused(_)) => {}
            Err(e) => return Err(e.into()),
        }
        tokio::select! {
            biased;
            () = self.inner.shutdown.cancelled() => Err(StepError::ShuttingDown),
            ended = self.wait(id) => ended.map(|_| ()).map_err(Into::into),
        }
    }

    fn active(&self, id: RunId) -> Option<Arc<RunShared<S>>> {
        self.inner.active.lock().expect("the map is only read and written").get(&id).cloned()
    }

    fn active_count(&self) -> usize {
        self.inner.active.lock().expect("the map is only read and written").len()
    }

    async fn dispatch(&self) {
        let mut looked = self.inner.env.clock.monotonic();
        loop {
            if let Err(e) = self.start_queued().await {
                tracing::error!(error = %e, "the queue cannot be read");
            }
            let now = self.inner.env.clock.monotonic();
            if now.since(looked) >= STUCK_AGAIN {
                looked = now;
                if let Err(e) = self.take_up_unfinished().await {
                    tracing::error!(error = %e, "unfinished runs cannot be read");
                }
            }
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = self.inner.wake.notified() => {}
                // A safety net only: every change of the queue wakes us.
                () = azdr_env::sleep(Duration::from_secs(5)) => {}
            }
        }
    }

    async fn start_queued(&self) -> Result<(), StoreError> {
        for row in self.inner.store.queued_runs(QUEUE_LOOKAHEAD).await? {
            if self.inner.shutdown.is_cancelled() {
                return Ok(());
            }
            // Somebody waits for a restore or a drill: those do not wait for a thousand copies.
            let urgent = row.priority <= RunPriority::Drill as u8;
            if !urgent && self.active_count() >= self.inner.config.max_running {
                return Ok(());
            }
            let keys = match self.definition_of(&row) {
                Some(definition) => (definition.lock_keys)(&row.input),
                None => Ok(Vec::new()),
            };
            // Unreadable input fails in the first step, with words; here it only takes no lock.
            let keys = keys.unwrap_or_default();
            let now = self.inner.env.clock.wall();
            if self.inner.store.try_start_run(row.id, keys, now).await? {
                self.spawn(row).await?;
            }
        }
        Ok(())
    }

    async fn spawn(&self, row: RunRow) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(definition) = self.definition_of(&row).cloned() else {
            tracing::error!(run = %row.id, workflow = row.workflow, version = row.version,
                "no such workflow in this build; the run waits for one that has it");
            return Ok(());
        };
        let engine = self.clone();
        let run = Arc::new(RunShared {
            id: row.id,
            input: row.input.clone(),
            services: Arc::new(inner.services.for_run(definition.priority)),
            env: inner.env.clone(),
            store: inner.store.clone(),
            history: Mutex::new(self.history(row.id).await?),
            progress: Mutex::default(),
            cancel: CancellationToken::new(),
            shutdown: inner.shutdown.clone(),
            no_return: AtomicBool::new(false),
            changed: Arc::new(move || engine.inner.changes.send_modify(|n| *n += 1)),
        });
        inner.active.lock().expect("the map is only read and written").insert(row.id, run.clone());
        // Read again after the run became reachable: a request in between is not lost.
        if inner.store.run(row.id).await?.is_some_and(|r| r.cancel_requested) {
            run.cancel.cancel();
        }
        let runner = Runner { run, definition, retry: inner.config.retry, engine: self.clone() };
        let engine = self.clone();
        self.launch(async move { engine.drive(row.id, row.workflow, runner).await });
        Ok(())
    }

    async fn drive(&self, id: RunId, workflow: String, runner: Runner<S>) {
        tracing::info!(run = %id, workflow, "run goes on");
        loop {
            match runner.drive().await {
                Ok(state) => {
                    tracing::info!(run = %id, workflow, state = state.as_str(), "run ended");
                    break;
                }
                Err(StepError::Store(e)) if !self.inner.shutdown.is_cancelled() => {
                    // The journal knows where we are; wait for the store to come back.
                    tracing::error!(run = %id, error = %e, cause = ?e, "the journal is not available");
                    azdr_env::sleep(self.inner.config.retry.first).await;
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
        self.inner.active.lock().expect("the map is only read and written").remove(&id);
        self.notify();
    }
}
