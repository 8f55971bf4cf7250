//! A journal is finished by the version of the step list that wrote it.

use std::path::Path;
use std::sync::Arc;

use azdr_env::Env;
use serde_json::{Value, json};

use super::super::*;
use crate::store::{Executor, RunState, Store};

/// Which steps ran, over all lives; a run waits at `gate` until it is opened.
#[derive(Default)]
struct Road {
    log: std::sync::Mutex<Vec<String>>,
    open: std::sync::atomic::AtomicBool,
}

impl ForRun for Arc<Road> {
    fn for_run(&self, _: RunPriority) -> Self {
        self.clone()
    }
}

type Cx = StepCx<Arc<Road>, Value>;

async fn a(cx: &Cx) -> Result<Done<u32>, StepError> {
    cx.services().log.lock().unwrap().push("a".into());
    Ok(Done::new(1))
}
async fn gate(cx: &Cx) -> Result<Done<()>, StepError> {
    if !cx.services().open.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(StepError::not_yet("closed", std::time::Duration::from_secs(1)));
    }
    Ok(Done::new(()))
}
/// Version 1 ended with the number of `a`.
async fn b1(cx: &Cx) -> Result<Done<()>, StepError> {
    let n: u32 = cx.output(StepKey::new("a"))?;
    cx.services().log.lock().unwrap().push(format!("b1 {n}"));
    Ok(Done::new(()))
}
/// In version 2 `a` answers words.
async fn a2(cx: &Cx) -> Result<Done<String>, StepError> {
    cx.services().log.lock().unwrap().push("a2".into());
    Ok(Done::new("two".into()))
}
async fn b2(cx: &Cx) -> Result<Done<()>, StepError> {
    let words: String = cx.output(StepKey::new("a"))?;
    cx.services().log.lock().unwrap().push(format!("b2 {words}"));
    Ok(Done::new(()))
}

fn one() -> Definition<Arc<Road>> {
    Workflow::new("road", Version(1), RunPriority::Backup)
        .step(StepKey::new("a"), "A", a)
        .no_undo("toy")
        .step(StepKey::new("gate"), "Gate", gate)
        .no_undo("toy")
        .step(StepKey::new("b"), "B", b1)
        .no_undo("toy")
        .makes_nothing("a toy")
        .build()
}

fn two() -> Definition<Arc<Road>> {
    Workflow::new("road", Version(2), RunPriority::Backup)
        .step(StepKey::new("a"), "A", a2)
        .no_undo("toy")
        .step(StepKey::new("b"), "B", b2)
        .no_undo("toy")
        .makes_nothing("a toy")
        .build()
}

/// A life of a controller whose build has these versions.
async fn life(
    dir: &Path,
    road: &Arc<Road>,
    definitions: Vec<Definition<Arc<Road>>>,
) -> Engine<Arc<Road>> {
    let store = Store::open(&dir.join("db"), Executor::Inline).unwrap();
    let config = EngineConfig { max_running: 8, retry: RetryPolicy::QUICK };
    let services = Arc::new(road.clone());
    let engine = Engine::new(store, Env::simulated(1), services, definitions, config);
    engine.start().await.unwrap();
    engine
}

#[tokio::test(start_paused = true)]
async fn a_run_is_finished_by_the_version_that_began_it_and_new_ones_use_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let road = Arc::new(Road::default());
    let life = async |definitions| life(dir.path(), &road, definitions).await;
    let engine = life(vec![one()]).await;
    let old = engine.submit(engine.new_run("road", &json!({}), None, "test")).await.unwrap();
    azdr_env::sleep(std::time::Duration::from_secs(5)).await;
    engine.kill();

    let engine = life(vec![one(), two()]).await;
    road.open.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(engine.wait(old).await.unwrap().state, RunState::Succeeded);
    let new = engine.new_run("road", &json!({}), None, "test");
    assert_eq!(new.version, 2);
    let new = engine.submit(new).await.unwrap();
    assert_eq!(engine.wait(new).await.unwrap().state, RunState::Succeeded);
    assert_eq!(*road.log.lock().unwrap(), ["a", "b1 1", "a2", "b2 two"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_unknown_version_waits_for_a_build_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let road = Arc::new(Road::default());
    let life = async |definitions| life(dir.path(), &road, definitions).await;
    let engine = life(vec![two()]).await;
    let run = engine.new_run("road", &json!({}), None, "test");
    engine.kill();
    let engine = life(vec![one()]).await;
    let id = engine.submit(run).await.unwrap();
    azdr_env::sleep(std::time::Duration::from_secs(3600)).await;
    assert!(road.log.lock().unwrap().is_empty());
    engine.kill();
    let engine = life(vec![one(), two()]).await;
    assert_eq!(engine.wait(id).await.unwrap().state, RunState::Succeeded);
}
