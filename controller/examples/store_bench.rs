//! How fast the store answers durably, and how long a start takes with many unfinished runs.
//!
//! Run by `cargo xtask bench store`; prints one JSON object.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use azdr_controller::store::{
    Event, Executor, NewRun, Progress, QueueLimit, RunId, Store, StoreError,
};
use azdr_controller::workflow::{
    Definition, Done, Engine, EngineConfig, ForRun, RetryPolicy, RunPriority, StepCx, StepError,
    StepKey, Version, Workflow,
};
use azdr_env::Env;
use serde_json::{Value, json};

/// How long each load runs.
/// Nobody is refused.
const NO_LIMIT: QueueLimit = QueueLimit { most: u32::MAX, counted_to: u8::MAX };
const LENGTH: Duration = Duration::from_secs(5);
/// Unfinished runs at the start.
const RUNS: usize = 1000;
/// Journal entries of each.
const ENTRIES: usize = 24;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(folder)?;
    let env = Env::system();
    let mut loads = Vec::new();
    for producers in [1, 8, 64, 256] {
        loads.push(commits(&dir.path().join(format!("{producers}.db")), &env, producers).await?);
    }
    let recovery = recovery(&dir.path().join("recovery.db"), &env).await?;
    println!("{}", json!({"commits": loads, "recovery": recovery}));
    Ok(())
}

fn new_run() -> NewRun {
    NewRun {
        workflow: "patient".into(),
        version: 1,
        input: json!({"vm": "/subscriptions/1/resourcegroups/prod/virtualmachines/db"}),
        priority: RunPriority::Backup as u8,
        item: None,
        parent: None,
        requested_by: "bench".into(),
    }
}

/// One journal entry per commit, as the engine writes them: fenced, with the run's time.
fn entry(n: usize) -> Progress {
    let payload = json!({"name": "db-backup-daily-20251201-0800", "n": n});
    let step = format!("step_{}", n % ENTRIES);
    Progress {
        entries: vec![(step, String::new(), Event::Started, payload)],
        spent: Some(Duration::from_millis(n as u64)),
        ..Progress::default()
    }
}

async fn commits(path: &Path, env: &Env, producers: usize) -> Result<Value, StoreError> {
    let store = Store::open(path, Executor::BlockingPool)?.take_over().await?;
    let begun = env.clock.monotonic();
    let tasks = (0..producers).map(|_| tokio::spawn(produce(store.clone(), env.clone())));
    let mut acks = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        acks.extend(task.await.expect("a producer does not panic")?);
    }
    let seconds = env.clock.monotonic().since(begun).as_secs_f64();
    acks.sort_unstable();
    let at = |percent: usize| acks[(acks.len() - 1) * percent / 100].as_micros() as u64;
    Ok(json!({
        "producers": producers,
        "ops": acks.len(),
        "ops_per_second": (acks.len() as f64 / seconds).round(),
        "ack_p50_us": at(50),
        "ack_p99_us": at(99),
    }))
}

/// Writes one entry after the other; answers how long each took to be durable.
async fn produce(store: Store, env: Env) -> Result<Vec<Duration>, StoreError> {
    let mut id = RunId(0);
    let begun = env.clock.monotonic();
    let mut acks = Vec::new();
    for n in 0.. {
        if n % ENTRIES == 0 {
            id = store.queue_run(new_run(), NO_LIMIT, env.clock.wall()).await?;
        }
        let asked = env.clock.monotonic();
        store.record(id, entry(n), env.clock.wall()).await?;
        let now = env.clock.monotonic();
        acks.push(now.since(asked));
        if now.since(begun) >= LENGTH {
            break;
        }
    }
    Ok(acks)
}

#[derive(Clone)]
struct Nothing;

impl ForRun for Nothing {
    fn for_run(&self, _: RunPriority) -> Self {
        Self
    }
}

async fn wait(_: &StepCx<Nothing, Value>) -> Result<Done<()>, StepError> {
    Err(StepError::not_yet("waiting", Duration::from_secs(60)))
}

fn definition() -> Definition<Nothing> {
    let mut list = Workflow::new("patient", Version(1), RunPriority::Backup);
    for n in 0..ENTRIES {
        let name: &'static str = Box::leak(format!("step_{n}").into_boxed_str());
        list = list.step(StepKey::<()>::new(name), "Wait", wait).no_undo("waits only");
    }
    list.makes_nothing("waits only").build()
}

/// From opening the database to the moment at which every unfinished run is being driven.
async fn recovery(path: &Path, env: &Env) -> anyhow::Result<Value> {
    let store = Store::open(path, Executor::BlockingPool)?;
    for _ in 0..RUNS {
        let id = store.queue_run(new_run(), NO_LIMIT, env.clock.wall()).await?;
        let mut all = Progress::default();
        for n in 0..ENTRIES / 2 {
            for (event, payload) in [(Event::Started, Value::Null), (Event::Done, Value::Null)] {
                all.entries.push((format!("step_{n}"), String::new(), event, payload));
            }
        }
        store.try_start_run(id, Vec::new(), env.clock.wall()).await?;
        store.record(id, all, env.clock.wall()).await?;
    }
    drop(store);
    let begun = env.clock.monotonic();
    let store = Store::open(path, Executor::BlockingPool)?;
    let config = EngineConfig { max_running: RUNS, retry: RetryPolicy::AZURE };
    let engine = Engine::new(store, env.clone(), Arc::new(Nothing), vec![definition()], config);
    let taken_up = engine.start().await?;
    let seconds = env.clock.monotonic().since(begun).as_secs_f64();
    engine.kill();
    Ok(
        json!({"runs": taken_up, "entries_each": ENTRIES, "seconds": (seconds * 1000.0).round() / 1000.0}),
    )
}
