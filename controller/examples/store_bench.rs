//! How fast the store answers durably, and how long a start takes with many unfinished runs.
//!
//! Run by `cargo xtask bench store`; prints one JSON object.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use azdr_controller::store::{
    Event, Executor, LockNeed, NewRun, Progress, QueueLimit, RunId, Store, StoreError,
};
use azdr_controller::workflow::RunPriority;
use azdr_env::Env;
use serde_json::{Value, json};

/// How long each load runs.
const LENGTH: Duration = Duration::from_secs(5);
/// Unfinished runs at the start.
const RUNS: usize = 1000;
/// Steps of a run under load.
const ENTRIES: usize = 24;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (folder, controller) = (arguments.next(), arguments.next());
    let folder = folder.context("usage: store_bench FOLDER AZDR-CONTROLLER")?;
    let controller = controller.context("usage: store_bench FOLDER AZDR-CONTROLLER")?;
    let dir = tempfile::tempdir_in(folder)?;
    let env = Env::system();
    let mut loads = Vec::new();
    for producers in [1, 8, 64, 256] {
        loads.push(commits(&dir.path().join(format!("{producers}.db")), &env, producers).await?);
    }
    let recovery = recovery(&dir.path().join("recovery"), &env, Path::new(&controller)).await?;
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
            id = store.queue_run(new_run(), QueueLimit::NONE, env.clock.wall()).await?;
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

/// From the start of a controller's process until it is ready, with every unfinished run being driven:
/// runs of real workflows, each in the middle of a journal as a controller has written it. Its Azure does
/// not answer, so that nothing but the controller is measured.
async fn recovery(dir: &Path, env: &Env, controller: &Path) -> anyhow::Result<Value> {
    std::fs::create_dir(dir)?;
    let file = |name: &str| dir.join(name);
    std::fs::write(file("controller.toml"), CONFIGURATION)?;
    std::fs::write(file("secret"), "a secret")?;
    std::fs::write(file("passphrase"), "a passphrase of the benchmark\n")?;
    let mut init = Command::new(controller);
    init.arg("init").arg("--config").arg(file("controller.toml")).args(["--admin", "bench"]);
    init.arg("--bundle").arg(file("admin")).arg("--export").arg(file("ca.age"));
    init.arg("--passphrase-file").arg(file("passphrase")).stdout(Stdio::null());
    ensure!(init.status()?.success(), "azdr-controller init failed");
    let entries = fill(&file("data/azdr.db"), env).await?;

    let ready = file("ready.json");
    let mut run = Command::new(controller);
    run.arg("run").arg("--config").arg(file("controller.toml")).arg("--ready-file").arg(&ready);
    run.env("AZDR_LOG", "azdr_controller::app=info").stderr(std::fs::File::create(file("log"))?);
    let begun = env.clock.monotonic();
    let mut process = run.stdout(Stdio::null()).spawn()?;
    let seconds = loop {
        let seconds = env.clock.monotonic().since(begun).as_secs_f64();
        if ready.exists() {
            break Ok(seconds);
        }
        if let Some(status) = process.try_wait()? {
            break Err(format!("the controller has ended: {status}"));
        }
        if seconds > 120.0 {
            break Err("the controller does not get ready".to_owned());
        }
        azdr_env::sleep(Duration::from_millis(2)).await;
    };
    // Its own child, not reaped yet.
    let _ = process.kill();
    process.wait()?;
    let log = std::fs::read_to_string(file("log"))?;
    let seconds = seconds.map_err(|e| anyhow!("{e}\n{log}"))?;
    // Not another number that would look as good.
    ensure!(log.contains(&format!("taken_up={RUNS}")), "not all runs were taken up:\n{log}");
    let seconds = (seconds * 1000.0).round() / 1000.0;
    Ok(json!({"runs": RUNS, "journal_entries": entries, "seconds": seconds}))
}

const CONFIGURATION: &str = r#"
data_dir = "data"

[cloud]
name = "simulated"
endpoint = "https://127.0.0.1:9"
authority = "https://127.0.0.1:9"
tenant_id = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
subscriptions = ["00000000-0000-0000-0000-000000000001"]

[credential]
kind = "client_secret"
client_id = "99999999-8888-4777-8666-555555555555"
client_secret_file = "secret"

[listen]
admin = "127.0.0.1:0"
agent = "127.0.0.1:0"
enroll = "127.0.0.1:0"
metrics = "127.0.0.1:0"

[advertise]
admin = "127.0.0.1:7443"

[scheduler]
enabled = false
"#;

/// What the runs are, in equal parts; the journals are those of their golden files.
const WORKFLOWS: [&str; 4] = ["backup", "replicate", "verify", "dr_test"];

/// Adds unfinished runs; answers how many journal entries they have.
async fn fill(path: &Path, env: &Env) -> anyhow::Result<usize> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/workflows/golden");
    let mut journals = Vec::new();
    for workflow in WORKFLOWS {
        let text = std::fs::read_to_string(golden.join(format!("{workflow}-v1.json")))?;
        let document: Value = serde_json::from_str(&text)?;
        let all = document["entries"].as_array().context("a journal has entries")?;
        let mut entries = Vec::new();
        // A run's first half.
        for entry in &all[..all.len() / 2] {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let known = [Event::Items, Event::Started, Event::Done];
            let event = known.into_iter().find(|event| event.as_str() == text("event"));
            let event = event.context("an event of a run that goes forward")?;
            entries.push((text("step"), text("item"), event, entry["payload"].clone()));
        }
        journals.push((workflow, entries));
    }
    let store = Store::open(path, Executor::BlockingPool)?;
    let vm = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/PROD/providers/\
              Microsoft.Compute/virtualMachines/db";
    let mut count = 0;
    for n in 0..RUNS {
        let (workflow, entries) = &journals[n % journals.len()];
        let input = json!({
            "item": 1, "vm": format!("{vm}{n}"), "point": "db-backup-daily-20251201-0800",
            "region": "eastus", "resource_group": null, "declared": "2025-12-01T08:00:00Z",
            "tier": null,
        });
        let run = NewRun { workflow: (*workflow).into(), input, ..new_run() };
        let id = store.queue_run(run, QueueLimit::NONE, env.clock.wall()).await?;
        let lock = LockNeed { key: format!("bench:{n}"), words: format!("bench {n}") };
        store.try_start_run(id, vec![lock], env.clock.wall()).await?;
        count += entries.len();
        let progress = Progress { entries: entries.clone(), ..Progress::default() };
        store.record(id, progress, env.clock.wall()).await?;
    }
    Ok(count)
}
