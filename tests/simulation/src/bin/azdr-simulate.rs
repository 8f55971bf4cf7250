//! Runs simulations, each in a process of its own: `azdr-simulate --seeds 0..200 --days 30 --vms 10`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use azdr_simulation::machines::Planted;
use azdr_simulation::scenario::{self, Plan, Report};
use clap::Parser;
use serde::{Deserialize, Serialize};

/// A fifth of a simulation is memory that is taken and given back; this one does it in half the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Violations of one invariant that are shown.
const SHOWN: usize = 100;

/// Simulates fleets under faults, checks the invariants I1 to I12, and prints one line per seed.
///
/// A failing seed replays exactly: --seed 17 prints all that happens in it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Seeds, from and up to (not including): `0..200`.
    #[arg(long, default_value = "0..10", value_parser = range)]
    seeds: std::ops::Range<u64>,
    /// One seed alone, with everything that happens printed, a line each, and what is wrong at the end.
    #[arg(long, conflicts_with_all = ["seeds", "parallel", "trace", "whole"])]
    seed: Option<u64>,
    /// Simulated days.
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Virtual machines.
    #[arg(long, default_value_t = 10)]
    vms: usize,
    /// Without faults and random commands: for measuring.
    #[arg(long)]
    calm: bool,
    /// Many more commands than operators give.
    #[arg(long)]
    busy: bool,
    /// Somebody makes disks with the names of temporaries that are about to be made.
    #[arg(long)]
    squatters: bool,
    /// Make a mistake on purpose, which must be noticed: see --plant help.
    #[arg(long)]
    plant: Option<Planted>,
    /// Simulations at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Print what happened before each violation.
    #[arg(long)]
    trace: bool,
    /// Print how often each kind of fault has happened.
    #[arg(long)]
    faults: bool,
    /// Write every event of each simulation to `{folder}/{seed}`.
    #[arg(long)]
    whole: Option<std::path::PathBuf>,
    /// One simulation in this process, its result as JSON on standard output.
    #[arg(long, hide = true)]
    one: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    parsed.filter(|r| !r.is_empty()).ok_or_else(|| format!("{text:?} is no range such as 0..200"))
}

/// What one simulation's process tells.
#[derive(Serialize, Deserialize)]
struct Line {
    seed: u64,
    violations: Vec<(String, String, String, Vec<String>)>,
    trace: String,
    events: u64,
    runs: BTreeMap<String, u64>,
    lives: u64,
    faults: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.seed {
        Some(seed) => replay(&arguments, seed),
        None if arguments.one => one(&arguments).map(|()| true),
        None => all(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("azdr-simulate: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one simulation in this process.
fn simulated(arguments: &Arguments, seed: u64, keep_whole: bool) -> anyhow::Result<Report> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("AZDR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let plan = Plan {
        faults: !arguments.calm,
        operators: !arguments.calm,
        busy: arguments.busy,
        squatters: arguments.squatters,
        keep_whole,
        planted: arguments.plant.unwrap_or_default(),
        ..Plan::new(seed, arguments.days, arguments.vms)
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let report = runtime.block_on(scenario::run(plan));
    // What a killed life left behind is not worth tidying up.
    std::mem::forget(runtime);
    report
}

/// Prints all that happens in one simulation; answers whether everything held.
fn replay(arguments: &Arguments, seed: u64) -> anyhow::Result<bool> {
    let report = simulated(arguments, seed, true)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for event in &report.whole {
        writeln!(out, "{event}")?;
    }
    for v in &report.violations {
        writeln!(out, "{} at {}: {}", v.invariant, v.at, v.what)?;
    }
    let (n, trace, events) = (report.violations.len(), report.trace, report.events);
    writeln!(out, "seed {seed}: {n} violations; trace {trace:016x} of {events} events")?;
    out.flush()?;
    Ok(report.violations.is_empty())
}

fn one(arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seeds.start;
    let report = simulated(arguments, seed, arguments.whole.is_some())?;
    if let Some(folder) = &arguments.whole {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(seed.to_string()), report.whole.join("\n"))?;
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut violations = Vec::new();
    for v in report.violations {
        let of_its_kind = seen.entry(v.invariant).or_default();
        *of_its_kind += 1;
        if *of_its_kind <= SHOWN {
            violations.push((v.invariant.to_owned(), v.at.to_string(), v.what, v.before));
        }
    }
    let line = Line {
        seed,
        violations,
        trace: format!("{:016x}", report.trace),
        events: report.events,
        runs: report.runs,
        lives: report.lives,
        faults: report.faults,
    };
    serde_json::to_writer(std::io::stdout(), &line)?;
    std::io::stdout().flush()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "measures the simulation itself")]
fn all(arguments: &Arguments) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let next = std::sync::Mutex::new(arguments.seeds.clone());
    let results = std::sync::Mutex::new((0u64, 0u64, 0u64));
    let faults = std::sync::Mutex::new(BTreeMap::<String, u64>::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.parallel.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().expect("no panic while held").next() else {
                        return;
                    };
                    let begun = Instant::now();
                    let line = child(arguments, seed);
                    let took = begun.elapsed();
                    let mut results = results.lock().expect("no panic while held");
                    results.0 += 1;
                    match line {
                        Ok(line) => {
                            show(arguments, &line, took);
                            results.1 += line.violations.len() as u64;
                            let mut faults = faults.lock().expect("no panic while held");
                            for (kind, times) in line.faults {
                                *faults.entry(kind).or_default() += times;
                            }
                        }
                        Err(e) => {
                            println!("seed {seed}: {e:#}");
                            results.2 += 1;
                        }
                    }
                }
            });
        }
    });
    if arguments.faults {
        for (kind, times) in &*faults.lock().expect("no panic while held") {
            println!("{times:>8} {kind}");
        }
    }
    let (seeds, violations, broken) = *results.lock().expect("no panic while held");
    let took = begun.elapsed().as_secs_f64();
    let vm_days = seeds as f64 * f64::from(arguments.days) * arguments.vms as f64;
    println!(
        "{seeds} seeds, {} days of {} VMs each: {violations} violations, {broken} simulations \
         broke; {took:.1} s, {:.0} VM-days per second",
        arguments.days,
        arguments.vms,
        vm_days / took
    );
    Ok(violations == 0 && broken == 0)
}

fn child(arguments: &Arguments, seed: u64) -> anyhow::Result<Line> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--one", "--seeds", &format!("{seed}..{}", seed + 1)])
        // It lives for seconds: giving memory back to the system is wasted on it.
        .env("MIMALLOC_PURGE_DELAY", "-1")
        .args(["--days", &arguments.days.to_string(), "--vms", &arguments.vms.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if arguments.calm {
        command.arg("--calm");
    }
    if arguments.busy {
        command.arg("--busy");
    }
    if arguments.squatters {
        command.arg("--squatters");
    }
    if let Some(folder) = &arguments.whole {
        command.arg("--whole").arg(folder);
    }
    if let Some((name, _)) = Planted::ALL.iter().find(|(_, p)| Some(*p) == arguments.plant) {
        command.args(["--plant", name]);
    }
    let output = command.output().context("cannot start the simulation's process")?;
    if !output.status.success() {
        bail!("the simulation broke ({})", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the simulation's answer cannot be read")
}

fn show(arguments: &Arguments, line: &Line, took: Duration) {
    let speed = f64::from(arguments.days) * arguments.vms as f64 / took.as_secs_f64();
    let runs: Vec<String> = line.runs.iter().map(|(what, n)| format!("{n} {what}")).collect();
    println!(
        "seed {}: {} violations; trace {} of {} events; {} lives; {:.1} s, {speed:.0} VM-days/s; {}",
        line.seed,
        line.violations.len(),
        line.trace,
        line.events,
        line.lives,
        took.as_secs_f64(),
        runs.join(", ")
    );
    for (invariant, at, what, before) in &line.violations {
        println!("  {invariant} at {at}: {what}");
        if arguments.trace {
            for event in before {
                println!("    {event}");
            }
        }
    }
}
