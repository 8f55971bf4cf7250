//! The engine on a toy world: numbered marks that steps put down and undos take away.

mod cancelling;
mod children;
mod deadlines;
mod decisions;
mod disk;
mod fencing;
mod queueing;
mod rough;
mod versions;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_domain::residue::Leaves;
use azdr_env::Env;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::store::{Executor, NewRun, RunId, RunRow, RunState, Store};

/// What the steps of the toy workflow act on. Survives "crashes", like Azure does.
#[derive(Default)]
struct World {
    marks: Mutex<BTreeSet<String>>,
    log: Mutex<Vec<String>>,
    /// Calls so far, of steps and undos; the crash comes at this one.
    calls: AtomicUsize,
    crash_at: AtomicUsize,
    crash_after_effect: bool,
    crashed: tokio::sync::Notify,
}

impl World {
    fn marks(&self) -> Vec<String> {
        self.marks.lock().unwrap().iter().cloned().collect()
    }

    /// An effect on the world; at the chosen one the process "dies", before or after it.
    async fn act(&self, what: &str, effect: impl FnOnce(&mut BTreeSet<String>)) {
        let n = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let crash = n == self.crash_at.load(Ordering::SeqCst);
        if crash && !self.crash_after_effect {
            self.die().await;
        }
        self.log.lock().unwrap().push(what.to_owned());
        effect(&mut self.marks.lock().unwrap());
        if crash {
            self.die().await;
        }
    }

    async fn die(&self) {
        self.crashed.notify_one();
        std::future::pending::<()>().await;
    }
}

impl ForRun for Arc<World> {
    fn for_run(&self, _: RunPriority) -> Self {
        self.clone()
    }
}

type Cx = StepCx<Arc<World>, Input>;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Input {
    /// The step that fails for good.
    #[serde(default)]
    fail_in: String,
    /// The step that needs to be called three times.
    #[serde(default)]
    flaky: String,
    #[serde(default)]
    lock: String,
    /// Steps wait here until the run is cancelled.
    #[serde(default)]
    wait_in: String,
}

const FIRST: StepKey<String> = StepKey::new("first");
const MANY: StepKey<u32> = StepKey::new("many");
const SCRATCH: StepKey<()> = StepKey::new("scratch");
const CRITICAL: StepKey<String> = StepKey::new("critical");
const CHILD: StepKey<Value> = StepKey::new("child");
const LAST: StepKey<()> = StepKey::new("last");

async fn put(cx: &Cx, step: &str, mark: String) -> Result<(), StepError> {
    cx.services()
        .act(&format!("do {mark}"), |m| {
            m.insert(mark.clone());
        })
        .await;
    if cx.input.wait_in == step {
        return Err(StepError::not_yet("waiting", Duration::from_secs(1)));
    }
    if cx.input.flaky == step {
        let log = cx.services().log.lock().unwrap();
        if log.iter().filter(|l| **l == format!("do {mark}")).count() < 3 {
            return Err(StepError::retry("flaky", "not now"));
        }
    }
    if cx.input.fail_in == step {
        return Err(StepError::fail("toy", format!("{step} fails")));
    }
    Ok(())
}

async fn take(cx: &Cx, mark: String) -> Result<Done<()>, StepError> {
    cx.services()
        .act(&format!("undo {mark}"), |m| {
            m.remove(&mark);
        })
        .await;
    Ok(Done::new(()))
}

async fn first(cx: &Cx) -> Result<Done<String>, StepError> {
    put(cx, "first", "first".into()).await?;
    Ok(Done::new("out of first".into()))
}
async fn undo_first(cx: &Cx) -> Result<Done<()>, StepError> {
    take(cx, "first".into()).await
}
fn numbers(cx: &Cx) -> Result<Vec<(String, u32)>, StepError> {
    assert_eq!(cx.output(FIRST)?, "out of first");
    Ok((1..=3).map(|n| (n.to_string(), n)).collect())
}
async fn many(cx: &Cx, n: &u32) -> Result<Done<u32>, StepError> {
    put(cx, &format!("many{n}"), format!("many {n}")).await?;
    Ok(Done::new(n * n))
}
async fn undo_many(cx: &Cx, n: &u32) -> Result<Done<()>, StepError> {
    take(cx, format!("many {n}")).await
}
async fn scratch(cx: &Cx) -> Result<Done<()>, StepError> {
    put(cx, "scratch", "scratch".into()).await?;
    Ok(Done::new(()))
}
async fn undo_scratch(cx: &Cx) -> Result<Done<()>, StepError> {
    take(cx, "scratch".into()).await
}
async fn critical(cx: &Cx) -> Result<Done<String>, StepError> {
    put(cx, "critical", format!("critical {}", cx.operation_ids("critical").len())).await?;
    Ok(Done::new(cx.operation_id()))
}
async fn undo_critical(cx: &Cx) -> Result<Done<()>, StepError> {
    for attempt in 1..=cx.operation_ids("critical").len() {
        take(cx, format!("critical {attempt}")).await?;
    }
    Ok(Done::new(()))
}
fn make_child(_: &Cx) -> Result<NewRun, StepError> {
    Ok(NewRun {
        workflow: "small".into(),
        version: 1,
        input: json!({}),
        priority: 0,
        item: None,
        parent: None,
        requested_by: "toy".into(),
    })
}
async fn last(cx: &Cx) -> Result<Done<()>, StepError> {
    assert_eq!(cx.each_outputs(MANY)?, [1, 4, 9]);
    put(cx, "last", "last".into()).await?;
    Ok(Done::new(()))
}
async fn undo_last(cx: &Cx) -> Result<Done<()>, StepError> {
    take(cx, "last".into()).await
}
async fn left(cx: &Cx) -> Result<Vec<String>, StepError> {
    Ok(cx.services().marks().into_iter().filter(|m| m == "scratch").collect())
}
fn conclude(_: &Cx, outcome: &Outcome) -> Result<Concluded, StepError> {
    Ok(Concluded { result: Some(json!(format!("{outcome:?}"))), changes: vec![] })
}

fn definitions() -> Vec<Definition<Arc<World>>> {
    let toy = Workflow::new("toy", Version(1), RunPriority::Backup)
        .lock_keys(|i: &Input| vec![LockKey(i.lock.clone())])
        .step(FIRST, "First", first)
        .undo(undo_first)
        .each(MANY, "Many", 2, numbers, many)
        .undo_each(undo_many)
        .temporary(SCRATCH, "Scratch", scratch)
        .undo(undo_scratch)
        .hold(CRITICAL, "Critical", 2, critical)
        .undo(undo_critical)
        .child(CHILD, "Child", make_child)
        .step(LAST, "Last", last)
        .undo(undo_last)
        .residue(Leaves::Nothing, left)
        .conclude(conclude)
        .build();
    async fn small(cx: &Cx) -> Result<Done<()>, StepError> {
        put(cx, "small", "small".into()).await?;
        Ok(Done::new(()))
    }
    let small = Workflow::new("small", Version(1), RunPriority::Verify)
        .step(StepKey::<()>::new("small"), "Small", small)
        .no_undo("the toy's child leaves its mark on purpose")
        .makes_nothing("a toy")
        .build();
    vec![toy, small]
}

struct Bench {
    dir: tempfile::TempDir,
    world: Arc<World>,
}

impl Bench {
    fn new(crash_at: usize, crash_after_effect: bool) -> Self {
        let world = World { crash_at: crash_at.into(), crash_after_effect, ..World::default() };
        Self { dir: tempfile::tempdir().unwrap(), world: world.into() }
    }

    /// A controller's life: a store and an engine that has taken up what was left.
    async fn life(&self) -> (Engine<Arc<World>>, Store) {
        let store = Store::open(&self.dir.path().join("db"), Executor::Inline).unwrap();
        let config = EngineConfig { max_running: 8, retry: RetryPolicy::QUICK };
        let env = Env::simulated(1);
        let engine =
            Engine::new(store.clone(), env, self.world.clone().into(), definitions(), config);
        engine.start().await.unwrap();
        (engine, store)
    }

    /// Runs the toy to its end in as many lives as it takes.
    async fn run(&self, input: Input) -> RunRow {
        let (engine, _) = self.life().await;
        let id = engine.submit(engine.new_run("toy", &input, None, "test")).await.unwrap();
        let ended = tokio::select! {
            ended = engine.wait(id) => Some(ended.unwrap()),
            () = self.world.crashed.notified() => None,
        };
        match ended {
            Some(row) => row,
            None => {
                // Dead: nothing of this life may act any more.
                engine.kill();
                self.second_life(id).await
            }
        }
    }

    async fn second_life(&self, id: RunId) -> RunRow {
        let (engine, _) = self.life().await;
        engine.wait(id).await.unwrap()
    }
}

const ALL: [&str; 7] = ["critical 1", "first", "last", "many 1", "many 2", "many 3", "small"];

#[tokio::test(start_paused = true)]
async fn a_run_succeeds_and_its_temporary_is_gone() {
    let bench = Bench::new(0, false);
    let row = bench.run(Input::default()).await;
    assert_eq!(row.state, RunState::Succeeded);
    assert_eq!(row.result, Some(json!("Succeeded")));
    assert_eq!(bench.world.marks(), ALL);
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_restores_the_prior_world() {
    for step in ["first", "many2", "scratch", "critical", "small", "last"] {
        let bench = Bench::new(0, false);
        // The child gets no input of ours, so `small` stands for a healthy run.
        let row = bench.run(Input { fail_in: step.into(), ..Input::default() }).await;
        if step == "small" {
            assert_eq!(row.state, RunState::Succeeded);
            continue;
        }
        assert_eq!(row.state, RunState::Failed, "{step}");
        let error = row.error.unwrap();
        assert_eq!(error["message"], format!("{step} fails"));
        // The child ran before `last`; its mark is its own affair.
        let expected: &[&str] = if step == "last" { &["small"] } else { &[] };
        assert_eq!(bench.world.marks(), expected, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_for_a_while_is_called_again() {
    let bench = Bench::new(0, false);
    let row = bench.run(Input { flaky: "first".into(), ..Input::default() }).await;
    assert_eq!(row.state, RunState::Succeeded);
    let log = bench.world.log.lock().unwrap();
    assert_eq!(log.iter().filter(|l| *l == "do first").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_effect_reaches_the_same_end() {
    for fail_in in ["", "last"] {
        let input = Input { fail_in: fail_in.into(), ..Input::default() };
        let whole = Bench::new(0, false);
        let expected = whole.run(input.clone()).await;
        let effects = whole.world.calls.load(Ordering::SeqCst);
        assert!(effects >= 9, "{effects}");
        for after in [false, true] {
            for n in 1..=effects {
                let bench = Bench::new(n, after);
                let row = bench.run(input.clone()).await;
                let case = format!("fail_in={fail_in:?} n={n} after={after}");
                assert_eq!(row.state, expected.state, "{case}");
                // A hold that was cut short is done under a new attempt; else all is the same.
                let marks: Vec<String> = bench.world.marks();
                let marks: Vec<_> =
                    marks.iter().map(|m| m.replace("critical 2", "critical 1")).collect();
                assert_eq!(marks, whole.world.marks(), "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_undoes_and_frees_the_lock() {
    let bench = Bench::new(0, false);
    let (engine, _) = bench.life().await;
    let input = Input { wait_in: "scratch".into(), lock: "vm:1".into(), ..Input::default() };
    let first = engine.submit(engine.new_run("toy", &input, None, "test")).await.unwrap();
    let second = Input { lock: "vm:1".into(), ..Input::default() };
    let second = engine.submit(engine.new_run("toy", &second, None, "test")).await.unwrap();
    let mut changes = engine.subscribe();
    while !bench.world.marks().contains(&"scratch".to_owned()) {
        changes.changed().await;
    }
    engine.cancel(first, "alice").await.unwrap();
    assert_eq!(engine.wait(first).await.unwrap().state, RunState::Cancelled);
    assert_eq!(engine.wait(second).await.unwrap().state, RunState::Succeeded);
    assert_eq!(bench.world.marks(), ALL);
    // Over is over.
    assert!(engine.cancel(first, "alice").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_says_for_what() {
    let bench = Bench::new(0, false);
    let (engine, store) = bench.life().await;
    let waiting = Input { wait_in: "scratch".into(), lock: "vm:1".into(), ..Input::default() };
    let holder = engine.submit(engine.new_run("toy", &waiting, None, "test")).await.unwrap();
    let other = engine.submit(engine.new_run("toy", &waiting, None, "test")).await.unwrap();
    let mut changes = engine.subscribe();
    let waits_for = loop {
        if let Some(text) = store.run(other).await.unwrap().unwrap().waiting_for {
            break text;
        }
        changes.changed().await;
    };
    assert_eq!(waits_for, format!("job {holder} on VM 1"));
    assert_eq!(store.run(other).await.unwrap().unwrap().waiting_for_job, Some(holder));
    engine.cancel(other, "alice").await.unwrap();
    assert_eq!(store.run(other).await.unwrap().unwrap().state, RunState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_killed_engine_stops_where_it_is_and_writes_nothing_more() {
    let bench = Bench::new(0, false);
    let (engine, store) = bench.life().await;
    let input = Input { wait_in: "scratch".into(), ..Input::default() };
    let id = engine.submit(engine.new_run("toy", &input, None, "test")).await.unwrap();
    let mut changes = engine.subscribe();
    while !bench.world.marks().contains(&"scratch".to_owned()) {
        changes.changed().await;
    }
    engine.kill();
    let journal = store.journal(id).await.unwrap().len();
    let effects = bench.world.calls.load(Ordering::SeqCst);
    engine.cancel(id, "alice").await.unwrap_err();
    engine.submit(engine.new_run("toy", &input, None, "test")).await.unwrap_err();
    azdr_env::sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.journal(id).await.unwrap().len(), journal);
    assert_eq!(bench.world.calls.load(Ordering::SeqCst), effects);
    assert_eq!(store.run(id).await.unwrap().unwrap().state, RunState::Running);
    assert!(store.queued_runs(10).await.unwrap().is_empty());
    // Nor is its memory, and its connection to the store, kept by the run that it was driving.
    let inner = Arc::downgrade(&engine.inner);
    drop(engine);
    assert!(inner.upgrade().is_none());
}
