//! A world that resists: every act of its workflow can be made to fail, wait or hang, and be mended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_domain::residue::Leaves;
use azdr_env::{Clock, Env, Monotonic, WallTime};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::super::*;
use crate::store::{Executor, NewRun, RunId, RunRow, RunState, Store, StoreError, WriteGate};

/// How an act goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mood {
    /// For good.
    Fails,
    /// In a way that may pass.
    Falters,
    /// Never there yet.
    Waits,
    /// It does not answer before the world is mended.
    Hangs,
    /// It polls within one call, as steps that wait for Azure do, and is not there before the world is
    /// mended.
    Polls,
}

/// Survives crashes, like Azure does.
#[derive(Default)]
pub(super) struct Rough {
    moods: Mutex<BTreeMap<&'static str, Mood>>,
    /// How many more calls fail.
    failing_next: Mutex<BTreeMap<&'static str, usize>>,
    log: Mutex<Vec<(&'static str, RunId)>>,
    pub(super) left: Mutex<Vec<String>>,
    mended: tokio::sync::Notify,
}

impl Rough {
    pub(super) fn set(&self, act: &'static str, mood: Mood) {
        self.moods.lock().unwrap().insert(act, mood);
    }

    /// The next calls of an act fail, then it works again.
    pub(super) fn fail_next(&self, act: &'static str, times: usize) {
        self.failing_next.lock().unwrap().insert(act, times);
    }

    fn fails_now(&self, act: &str) -> bool {
        match self.failing_next.lock().unwrap().get_mut(act) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn mend(&self) {
        self.moods.lock().unwrap().clear();
        self.left.lock().unwrap().clear();
        self.mended.notify_waiters();
    }

    /// How often an act was called.
    pub(super) fn calls(&self, act: &str) -> usize {
        self.runs_of(act).len()
    }

    /// The runs that called an act, in that order.
    pub(super) fn runs_of(&self, act: &str) -> Vec<RunId> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(a, _)| *a == act).map(|(_, run)| *run).collect()
    }

    fn mood(&self, act: &str) -> Option<Mood> {
        self.moods.lock().unwrap().get(act).copied()
    }

    async fn act(&self, cx: &Cx, act: &'static str) -> Result<Done<()>, StepError> {
        self.log.lock().unwrap().push((act, cx.run_id()));
        while self.mood(act) == Some(Mood::Hangs) {
            self.mended.notified().await;
        }
        while self.mood(act) == Some(Mood::Polls) {
            cx.wait(Duration::from_secs(5)).await.map_err(|e| match e {
                StepError::NotYet { detail, percent, after, .. } => {
                    let resource = Some("/res/disk-1".into());
                    StepError::NotYet { detail, percent, after, resource }
                }
                e => e,
            })?;
        }
        let failure = || Failure::new("rough", format!("{act} fails")).resource("/res/disk-1");
        if self.fails_now(act) {
            return Err(StepError::Fail(failure()));
        }
        match self.mood(act) {
            Some(Mood::Fails) => Err(StepError::Fail(failure())),
            Some(Mood::Falters) => Err(StepError::Retry { failure: failure(), after: None }),
            Some(Mood::Waits) => Err(StepError::not_yet("not yet", Duration::from_secs(30))),
            Some(Mood::Hangs | Mood::Polls) | None => Ok(Done::new(())),
        }
    }
}

impl ForRun for Arc<Rough> {
    fn for_run(&self, _: RunPriority) -> Self {
        self.clone()
    }
}

type Cx = StepCx<Arc<Rough>, Value>;
const fn key(name: &'static str) -> StepKey<()> {
    StepKey::new(name)
}

macro_rules! acts {
    ($($name:ident = $act:literal;)*) => {$(
        async fn $name(cx: &Cx) -> Result<Done<()>, StepError> {
            cx.services().act(cx, $act).await
        }
    )*};
}
acts! {
    prepare = "do prepare";
    undo_prepare = "undo prepare";
    scratch = "do scratch";
    undo_scratch = "undo scratch";
    critical = "do critical";
    undo_critical = "undo critical";
    commit = "do commit";
    finish = "do finish";
    brief = "do brief";
    undo_brief = "undo brief";
    copy = "do copy";
    undo_copy = "undo copy";
}

async fn left(cx: &Cx) -> Result<Vec<String>, StepError> {
    Ok(cx.services().left.lock().unwrap().clone())
}

fn locks(input: &Value) -> Vec<LockKey> {
    let keys = input["locks"].as_array().into_iter().flatten();
    keys.map(|k| LockKey(k.as_str().unwrap().into())).collect()
}

fn make_brief(_: &Cx) -> Result<NewRun, StepError> {
    Ok(new_run("brief", RunPriority::Verify, &[]))
}

const BRIEFS: StepKey<ChildEnd> = StepKey::new("briefs");

/// One for each name in the input.
fn make_briefs(cx: &Cx) -> Result<Vec<(String, NewRun)>, StepError> {
    let names = locks(&cx.input).into_iter();
    Ok(names.map(|name| (name.0, new_run("brief", RunPriority::Verify, &[]))).collect())
}

fn conclude_briefs(cx: &Cx, _: &Outcome) -> Result<Concluded, StepError> {
    Ok(Concluded { result: Some(json!(cx.child_ends(BRIEFS)?)), ..Concluded::default() })
}

pub(super) fn definitions() -> Vec<Definition<Arc<Rough>>> {
    let rough = Workflow::new("rough", Version(1), RunPriority::Backup)
        .lock_keys(locks)
        .step(key("prepare"), "Prepare", prepare)
        .undo(undo_prepare)
        .temporary(key("scratch"), "Scratch", scratch)
        .undo(undo_scratch)
        .hold(key("critical"), "Critical", 2, critical)
        .undo(undo_critical)
        .child(StepKey::new("child"), "Child", make_brief)
        .step(key("commit"), "Commit", commit)
        .point_of_no_return()
        .no_undo("there is no way back")
        .step(key("finish"), "Finish", finish)
        .no_undo("there is no way back")
        .residue(Leaves::Nothing, left)
        .build();
    let brief = Workflow::new("brief", Version(1), RunPriority::Verify)
        .lock_keys(locks)
        .step(key("brief"), "Brief", brief)
        .undo(undo_brief)
        .makes_nothing("a toy")
        .build();
    let copy = Workflow::new("copy", Version(1), RunPriority::Replicate)
        .step(key("copy"), "Copy", copy)
        .within(Duration::from_secs(72 * 3600))
        .undo(undo_copy)
        .makes_nothing("a toy")
        .build();
    let patient = Workflow::new("patient", Version(1), RunPriority::Replicate)
        .run_within(Duration::from_secs(3600))
        .step(key("copy"), "Copy", copy_forever)
        .within(Duration::MAX)
        .undo(undo_copy)
        .makes_nothing("a toy")
        .build();
    let tidy = Workflow::new("tidy", Version(1), RunPriority::Verify)
        .lock_keys(locks)
        .step(key("prepare"), "Prepare", prepare)
        .undo(undo_prepare)
        .temporary(key("scratch"), "Scratch", scratch)
        .undo(undo_scratch)
        .residue(Leaves::Nothing, left)
        .build();
    let many = Workflow::new("many", Version(1), RunPriority::Housekeeping)
        .children(BRIEFS, "Briefs", |_| 2, make_briefs)
        .makes_nothing("its children make things")
        .conclude(conclude_briefs)
        .build();
    vec![rough, brief, copy, patient, tidy, many]
}

async fn copy_forever(cx: &Cx) -> Result<Done<()>, StepError> {
    copy(cx).await
}

pub(super) fn new_run(workflow: &str, priority: RunPriority, locks: &[&str]) -> NewRun {
    NewRun {
        workflow: workflow.into(),
        version: 1,
        input: json!({"locks": locks}),
        priority: priority as u8,
        item: None,
        parent: None,
        requested_by: "test".into(),
    }
}

/// A clock whose wall time jumps when told to; its monotonic time does not.
struct JumpyClock {
    steady: Arc<dyn Clock>,
    offset_secs: Arc<Mutex<i64>>,
}

impl Clock for JumpyClock {
    fn wall(&self) -> WallTime {
        let offset = *self.offset_secs.lock().unwrap();
        let by = Duration::from_secs(offset.unsigned_abs());
        let now = self.steady.wall();
        if offset < 0 { now.minus(by) } else { now.plus(by) }
    }
    fn monotonic(&self) -> Monotonic {
        self.steady.monotonic()
    }
}

pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) world: Arc<Rough>,
    env: Env,
    offset_secs: Arc<Mutex<i64>>,
    death: Arc<Death>,
}

/// The store's gate: counts writes, and lets nothing pass from the chosen one on.
#[derive(Default)]
pub(super) struct Death {
    plan: Mutex<(usize, Option<(usize, bool)>)>,
    came: tokio::sync::Notify,
}

impl Death {
    async fn die(&self) {
        self.came.notify_one();
        std::future::pending().await
    }
}

impl WriteGate for Death {
    fn before(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let dies = {
            let (count, at) = &mut *self.plan.lock().unwrap();
            *count += 1;
            *at == Some((*count, false))
        };
        Box::pin(async move {
            if dies {
                self.die().await;
            }
            Ok(())
        })
    }

    fn after(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let (count, at) = *self.plan.lock().unwrap();
        Box::pin(async move {
            if at == Some((count, true)) {
                self.die().await;
            }
            Ok(())
        })
    }
}

/// A controller that lives.
pub(super) struct Life {
    pub(super) engine: Engine<Arc<Rough>>,
    pub(super) store: Store,
}

impl Lab {
    pub(super) fn new() -> Self {
        let offset_secs = Arc::<Mutex<i64>>::default();
        let mut env = Env::simulated(1);
        let moved = offset_secs.clone();
        env.clock = Arc::new(JumpyClock { steady: env.clock, offset_secs: moved });
        Self {
            dir: tempfile::tempdir().unwrap(),
            world: Arc::default(),
            env,
            offset_secs,
            death: Arc::default(),
        }
    }

    /// Counts writes from here on; at write `n`, before or after it, the controller dies.
    pub(super) fn die_at_write(&self, n: Option<usize>, after: bool) {
        *self.death.plan.lock().unwrap() = (0, n.map(|n| (n, after)));
    }

    /// Writes since then.
    pub(super) fn writes(&self) -> usize {
        self.death.plan.lock().unwrap().0
    }

    /// Waits for the death that was planned.
    pub(super) async fn death(&self) {
        self.death.came.notified().await;
    }

    pub(super) async fn life(&self) -> Life {
        self.life_with(8, RetryPolicy::AZURE).await
    }

    pub(super) async fn life_with(&self, max_running: usize, retry: RetryPolicy) -> Life {
        let path = self.dir.path().join("db");
        let store = Store::open_with(&path, Executor::Inline, self.death.clone()).unwrap();
        let env = self.env.clone();
        let config = EngineConfig { max_running, retry };
        let services = self.world.clone().into();
        let engine = Engine::new(store.clone(), env, services, definitions(), config);
        engine.start().await.unwrap();
        Life { engine, store }
    }

    /// Moves the wall clock.
    pub(super) fn jump(&self, seconds: i64) {
        *self.offset_secs.lock().unwrap() += seconds;
    }
}

impl Life {
    pub(super) async fn submit(&self, workflow: &str, locks: &[&str]) -> RunId {
        let priority = self.engine.definition(workflow).unwrap().priority;
        self.engine.submit(new_run(workflow, priority, locks)).await.unwrap()
    }

    pub(super) async fn row(&self, id: RunId) -> RunRow {
        self.store.run(id).await.unwrap().unwrap()
    }

    /// Waits until a run is in this state; fails when it ends in another.
    pub(super) async fn until(&self, id: RunId, state: RunState) -> RunRow {
        let mut changes = self.engine.subscribe();
        loop {
            changes.mark_seen();
            let row = self.row(id).await;
            if row.state == state {
                return row;
            }
            assert!(!row.state.is_terminal(), "job {id} has ended {row:?}");
            changes.changed().await;
        }
    }

    /// A run of `rough` that is in the middle of this act, which hangs.
    pub(super) async fn in_the_middle_of(&self, lab: &Lab, act: &'static str) -> RunId {
        lab.world.set(act, Mood::Hangs);
        let id = self.submit("rough", &["vm:1"]).await;
        let mut changes = self.engine.subscribe();
        while lab.world.calls(act) == 0 {
            changes.changed().await;
            azdr_env::sleep(Duration::from_millis(1)).await;
        }
        id
    }
}

pub(super) fn kind(row: &RunRow) -> &str {
    row.error.as_ref().map_or("", |e| e["kind"].as_str().unwrap())
}
