//! What a test does to a run from inside the controller: a crash around any write of the store, a
//! request to stop after any write, a step that fails for good; and the count of what was executed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use azdr_controller::store::{RunId, StoreError, WriteGate};
use azdr_controller::workflow::{Engine, StepCall, StepError, StepHook};
use azdr_controller::workflows::Services;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Before something happens, or after it and before anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

/// What is done to a run. Writes count from one, from the run's submission on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// The controller dies at this write.
    pub(crate) crash: Option<(usize, Side)>,
    /// Somebody asks the run to stop when this write is committed.
    pub(crate) cancel: Option<usize>,
    /// This step (each item of it) fails for good, before or after its effect, in every life.
    pub(crate) fail: Option<(&'static str, Side)>,
    /// The undo of this step fails for good, in every life.
    pub(crate) fail_undo: Option<&'static str>,
}

/// A step or an undo of one run: name, item, and whether it is the undo.
pub(crate) type Executed = (&'static str, String, bool);

/// What has been seen of the run that is meddled with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Writes to the store.
    pub(crate) writes: usize,
    /// How often each step and each undo has been executed to its end.
    pub(crate) executed: BTreeMap<Executed, usize>,
    /// Whether the request to stop was accepted, once it was made.
    pub(crate) cancel_accepted: Option<bool>,
    /// The steps that had been executed to their ends by then.
    pub(crate) executed_before_cancel: usize,
}

/// Meddles with one run of a world, over all lives of its controller.
pub(crate) struct Meddler {
    armed: Mutex<Option<(RunId, Plan, Seen)>>,
    /// Ticks at every write.
    pub(crate) rows: watch::Sender<u64>,
}

impl Default for Meddler {
    fn default() -> Self {
        Self { armed: Mutex::default(), rows: watch::channel(0).0 }
    }
}

impl Meddler {
    /// From now on this is done to this run.
    pub(crate) fn arm(&self, run: RunId, plan: Plan) {
        *self.armed.lock().unwrap() = Some((run, plan, Seen::default()));
    }

    /// Whatever makes the step fail is gone.
    pub(crate) fn mend(&self) {
        if let Some((_, plan, _)) = &mut *self.armed.lock().unwrap() {
            plan.fail = None;
            plan.fail_undo = None;
        }
    }

    /// What has been seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.armed.lock().unwrap().as_ref().map(|(.., seen)| seen.clone()).unwrap_or_default()
    }

    /// Whether the controller dies on this side of the current write.
    fn crashes(&self, side: Side) -> bool {
        match &mut *self.armed.lock().unwrap() {
            Some((_, plan, seen)) if plan.crash == Some((seen.writes, side)) => {
                plan.crash = None;
                true
            }
            _ => false,
        }
    }

    fn count_write(&self) {
        if let Some((.., seen)) = &mut *self.armed.lock().unwrap() {
            seen.writes += 1;
        }
    }

    /// The run that is to be stopped now.
    fn cancels(&self) -> Option<RunId> {
        match &*self.armed.lock().unwrap() {
            Some((run, plan, seen)) if plan.cancel == Some(seen.writes) => Some(*run),
            _ => None,
        }
    }

    fn failure(&self, call: &StepCall, side: Side) -> Result<(), StepError> {
        match &*self.armed.lock().unwrap() {
            Some((run, plan, _))
                if *run == call.run && !call.undoing && plan.fail == Some((call.step, side)) =>
            {
                Err(StepError::fail("meddled", format!("{} must fail", call.step)))
            }
            Some((run, plan, _))
                if *run == call.run
                    && call.undoing
                    && side == Side::Before
                    && plan.fail_undo == Some(call.step) =>
            {
                Err(StepError::fail("meddled", format!("the undo of {} must fail", call.step)))
            }
            _ => Ok(()),
        }
    }

    fn count_execution(&self, call: &StepCall) {
        if let Some((run, _, seen)) = &mut *self.armed.lock().unwrap()
            && *run == call.run
        {
            let executed = (call.step, call.item.clone(), call.undoing);
            *seen.executed.entry(executed).or_default() += 1;
        }
    }
}

/// One life of a controller: what ends everything that it does, at once.
pub(crate) struct Mortal {
    meddler: Arc<Meddler>,
    dying: CancellationToken,
    buried: CancellationToken,
    /// A write that is the test's own does not count.
    own_write: AtomicBool,
    engine: Mutex<Option<Engine<Services>>>,
}

impl Mortal {
    pub(crate) fn new(meddler: Arc<Meddler>) -> Arc<Self> {
        Arc::new(Self {
            meddler,
            dying: CancellationToken::new(),
            buried: CancellationToken::new(),
            own_write: AtomicBool::new(false),
            engine: Mutex::default(),
        })
    }

    pub(crate) fn steer(&self, engine: Engine<Services>) {
        *self.engine.lock().unwrap() = Some(engine);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dying.is_cancelled()
    }

    /// Resolves at death.
    pub(crate) async fn dead(&self) {
        self.dying.cancelled().await;
    }

    /// Ends this life: nothing of it writes, asks Azure or executes a step any more. Returns when the
    /// remains are told so, so that they can be cleared away.
    pub(crate) async fn die(&self) {
        self.dying.cancel();
        self.buried.cancelled().await;
    }

    /// Passes while this life lasts.
    pub(crate) async fn alive(&self) -> Result<(), StoreError> {
        if !self.is_dead() {
            return Ok(());
        }
        self.buried.cancelled().await;
        Err(StoreError::Closed)
    }

    /// What still hangs in this life now fails instead.
    pub(crate) fn bury(&self) {
        self.dying.cancel();
        self.buried.cancel();
        self.engine.lock().unwrap().take();
    }

    /// Whether the current write is the test's own.
    fn is_own_write(&self) -> bool {
        self.own_write.load(Ordering::Relaxed)
    }

    async fn request_to_stop(&self, run: RunId) {
        let engine = self.engine.lock().unwrap().clone();
        let Some(engine) = engine else { return };
        self.own_write.store(true, Ordering::Relaxed);
        let accepted = engine.cancel(run, "alice").await.is_ok();
        self.own_write.store(false, Ordering::Relaxed);
        if let Some((.., seen)) = &mut *self.meddler.armed.lock().unwrap() {
            seen.cancel_accepted = Some(accepted);
            seen.executed_before_cancel = seen.executed.keys().filter(|(.., undo)| !undo).count();
        }
    }
}

impl WriteGate for Mortal {
    fn before(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.alive().await?;
            if self.is_own_write() {
                return Ok(());
            }
            self.meddler.count_write();
            if self.meddler.crashes(Side::Before) {
                self.die().await;
            }
            self.alive().await
        })
    }

    fn after(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.meddler.rows.send_modify(|n| *n += 1);
            if self.is_own_write() {
                return Ok(());
            }
            if self.meddler.crashes(Side::After) {
                self.die().await;
            }
            self.alive().await?;
            if let Some(run) = self.meddler.cancels() {
                self.request_to_stop(run).await;
            }
            Ok(())
        })
    }
}

impl StepHook for Mortal {
    fn before<'a>(&'a self, call: &'a StepCall) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async {
            self.alive().await?;
            self.meddler.failure(call, Side::Before)
        })
    }

    fn after<'a>(&'a self, call: &'a StepCall) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async {
            self.alive().await?;
            self.meddler.count_execution(call);
            self.meddler.failure(call, Side::After)
        })
    }
}
