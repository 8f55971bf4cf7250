//! How fast an operator gets answers from a catalogue of the size that one controller is built for.
//!
//! Run by `cargo xtask bench catalogue`; prints one JSON object.

mod commands;
mod fill;
mod fleet;
mod history;
mod processes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use azdr_controller::store::{Executor, ItemId, PointStanding, Store};
use azdr_controller::workflows::prune;
use azdr_domain::policy::Policy;
use azdr_env::{Env, WallTime};
use clap::Parser;
use commands::{Measured, figures};
use fill::Catalogue;
use fleet::Fleet;
use history::History;
use processes::{Places, size_mib};
use serde_json::{Value, json};

const SEED: u64 = 20_251_201;
const POINTS_PER_VM: usize = 100;
/// How often each command is run.
const TIMES: usize = 100;
/// How often a listing of everything is.
const LOOKS: usize = 5;
/// How often all plans are made.
const PLANS: usize = 50;
/// A catalogue in which backups are due is another one.
const GOOD_FOR: Duration = Duration::from_secs(10 * 3600);

#[derive(Parser)]
struct Arguments {
    /// Where the catalogue is kept
    folder: PathBuf,
    /// Where the programs are
    programs: PathBuf,
    /// How many VMs
    #[arg(long, default_value_t = 10_000)]
    vms: usize,
    /// Make the catalogue anew
    #[arg(long)]
    fresh: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let figures = runtime.block_on(run(&arguments))?;
    println!("{figures}");
    Ok(())
}

async fn run(arguments: &Arguments) -> anyhow::Result<Value> {
    let env = Env::system();
    let places = Places {
        folder: std::path::absolute(&arguments.folder)?,
        programs: arguments.programs.clone(),
    };
    let load_before = load()?;
    let (made, built) = catalogue(&places, arguments, &env).await?;
    let fleet = Fleet::new(arguments.vms, SEED, made)?;
    let history = History::new(&fleet, POINTS_PER_VM, SEED, made)?;

    let (azure, address) = places.start_azure(&env).await?;
    places.configure(address)?;
    let controller = places.start_controller(&env).await?;
    let ready_ms = controller.took.as_secs_f64() * 1000.0;
    let at_ready = controller.memory_mib()?;
    let idle_ms = controller.settle(&env).await?.as_secs_f64() * 1000.0;
    let mut measured = Vec::new();
    for command in measured_commands(&fleet, &history) {
        let figures = command.run(&places, &env)?;
        eprintln!("  {figures}");
        measured.push(figures);
    }
    let (rss, peak) = controller.memory_mib()?;
    controller.stop()?;
    azure.stop()?;
    let plans = plans(&places, arguments.vms, &env).await?;
    measured.push(plans);
    Ok(json!({
        "vms": fleet.vms.len(),
        "points": history.points.iter().map(Vec::len).sum::<usize>(),
        "runs": history.runs.len(),
        "built_seconds": built.map(|d| d.as_secs()),
        "database_mib": size_mib(&places.database()),
        "controller": {"ready_ms": ready_ms.round(), "idle_after_ms": idle_ms.round(), "rss_mib_at_ready": at_ready.0,
            "rss_mib": rss, "peak_rss_mib": peak},
        "load": {"before": load_before, "after": load()?},
        "measured": measured,
    }))
}

/// Makes the catalogue, unless there is one that is good for today. Answers for which instant it was
/// made, and how long that took.
async fn catalogue(
    places: &Places,
    arguments: &Arguments,
    env: &Env,
) -> anyhow::Result<(WallTime, Option<Duration>)> {
    let now = env.clock.wall();
    let is = |made: i64| json!({"seed": SEED, "vms": arguments.vms, "points_per_vm": POINTS_PER_VM, "made_unix_ms": made});
    let note = places.file("catalogue.json");
    if !arguments.fresh
        && let Ok(text) = std::fs::read_to_string(&note)
        && let Ok(noted) = serde_json::from_str::<Value>(&text)
        && let Some(made) = noted["made_unix_ms"].as_i64()
        && noted == is(made)
        && (made..made + GOOD_FOR.as_millis() as i64).contains(&now.unix_ms())
    {
        return Ok((WallTime::from_unix_ms(made), None));
    }
    if places.folder.exists() {
        std::fs::remove_dir_all(&places.folder)
            .with_context(|| format!("cannot remove {}", places.folder.display()))?;
    }
    std::fs::create_dir_all(&places.folder)?;
    eprintln!("making a catalogue of {} points", arguments.vms * POINTS_PER_VM);
    let begun = env.clock.monotonic();
    let fleet = Fleet::new(arguments.vms, SEED, now)?;
    let history = History::new(&fleet, POINTS_PER_VM, SEED, now)?;
    places.init_azure(&fleet.world())?;
    let (azure, address) = places.start_azure(env).await?;
    places.configure(address)?;
    places.init_controller()?;
    azure.stop()?;
    let catalogue = Catalogue { fleet: &fleet, history: &history, env };
    catalogue.write(&places.database()).await?;
    // Last: without it, what there is was not finished.
    std::fs::write(note, is(now.unix_ms()).to_string())?;
    Ok((now, Some(env.clock.monotonic().since(begun))))
}

/// An operator's commands, with the milliseconds that they may take. `VM` and `POINT` stand for others
/// each time, from everywhere in the fleet.
const COMMANDS: [(&str, f64, &str); 5] = [
    ("azdr --version", 5.0, "azdr "),
    ("azdr backup list VM", 30.0, "POINT"),
    ("azdr backup explain POINT", 50.0, "POINT"),
    ("azdr status", 500.0, "Covered"),
    ("azdr policy simulate VM --days 365", 100.0, "VM"),
];

/// What shows everything there is: for its length, and for the controller's memory.
const LISTINGS: [(&str, &str); 5] = [
    ("azdr vm list", "VM"),
    ("azdr policy list", "VM"),
    ("azdr agent list", "VM"),
    ("azdr backup verification-report", "VM"),
    ("azdr dr success-rate", "Overall"),
];

fn measured_commands(fleet: &Fleet, history: &History) -> Vec<Measured> {
    let names: Arc<Vec<(String, String)>> = Arc::new(
        (0..TIMES + commands::WARM_UP)
            .map(|n| {
                let vm = n * 7919 % fleet.vms.len();
                let points = &history.points[vm];
                let point = &points[n * 31 % points.len()];
                (fleet.vms[vm].id.name().to_owned(), point.name.to_string())
            })
            .collect(),
    );
    let one = |words: &'static str, target_ms, times, answer: &'static str| {
        let (given, expected) = (names.clone(), names.clone());
        let fill = |word: &str, (vm, point): &(String, String)| match word {
            "VM" => vm.clone(),
            "POINT" => point.clone(),
            word => word.to_owned(),
        };
        let arguments = move |n: usize| {
            words.split(' ').skip(1).map(|word| fill(word, &given[n])).collect::<Vec<_>>()
        };
        Measured {
            words,
            target_ms,
            times,
            arguments: Box::new(arguments),
            answers: Box::new(move |n| fill(answer, &expected[n])),
        }
    };
    let commands = COMMANDS.map(|(words, target, answer)| one(words, Some(target), TIMES, answer));
    let listings = LISTINGS.map(|(words, answer)| one(words, None, LOOKS, answer));
    commands.into_iter().chain(listings).collect()
}

/// What the pruner decides for every VM.
async fn plans(places: &Places, vms: usize, env: &Env) -> anyhow::Result<Value> {
    let store = Store::open(&places.database(), Executor::BlockingPool)?;
    let mut spent = Vec::new();
    for _ in 0..PLANS {
        let begun = env.clock.monotonic();
        let now = env.clock.wall();
        let policies: BTreeMap<ItemId, Policy> =
            store.policies().await?.into_iter().map(|(item, row)| (item.id, row.policy)).collect();
        let each = move |planned: &mut usize, item, points: Vec<PointStanding>| {
            let plan = prune::retention_plan_of(policies.get(&item), &points, now);
            *planned += usize::from(!plan.keep.is_empty());
        };
        let planned = store.each_standings(each, 0).await?;
        anyhow::ensure!(planned == vms, "{planned} plans");
        spent.push(env.clock.monotonic().since(begun));
    }
    Ok(figures("a retention plan for every VM", Some(3000.0), spent))
}

/// The load averages over one and over five minutes.
fn load() -> anyhow::Result<Value> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let averages: Vec<f64> = text.split(' ').take(2).filter_map(|n| n.parse().ok()).collect();
    Ok(json!(averages))
}
