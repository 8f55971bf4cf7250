//! `cargo xtask bench store`: what the store does on this machine's disk, in a release build.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::keep;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the database goes: a folder on the disk in question [default: the target folder]
    #[arg(long, value_name = "FOLDER")]
    on: Option<PathBuf>,
    /// Fail where it is too slow: below 20,000 commits per second under the best load, or more than
    /// 5 s until a controller with 1,000 unfinished runs is ready
    #[arg(long)]
    require: bool,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

impl Store {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { json, on, require, dev } = self;
        let workspace = Workspace::find()?;
        let profile = if dev { "debug" } else { "release" };
        if !workspace.build_programs(profile, &["azdr-controller"])? {
            return Ok(ExitCode::FAILURE);
        }
        let mut bench = workspace.cargo(&["run", "--package", "azdr-controller"]);
        if !dev {
            bench.arg("--release");
        }
        let output = bench
            .args(["--example", "store_bench", "--"])
            .arg(on.unwrap_or_else(|| workspace.target.clone()))
            .arg(workspace.programs(profile).join("azdr-controller"))
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "the benchmark failed");
        let figures: Value = serde_json::from_slice(&output.stdout)?;
        println!("producers   commits/s   p50 ack us   p99 ack us");
        for load in figures["commits"].as_array().into_iter().flatten() {
            let column = |name: &str| load[name].as_f64().unwrap_or(0.0);
            println!(
                "{:>9} {:>11.0} {:>12.0} {:>12.0}",
                column("producers"),
                column("ops_per_second"),
                column("ack_p50_us"),
                column("ack_p99_us")
            );
        }
        let recovery = &figures["recovery"];
        println!(
            "ready with {} unfinished runs ({} journal entries): {} s",
            recovery["runs"], recovery["journal_entries"], recovery["seconds"]
        );
        keep(&figures, json.as_deref())?;
        let missed = missed(&figures);
        for words in &missed {
            println!("too slow: {words}");
        }
        Ok(if require && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Commits per second that one controller needs.
const COMMITS_PER_SECOND: f64 = 20_000.0;
/// Until a controller with 1,000 unfinished runs is ready.
const RECOVERY_SECONDS: f64 = 5.0;

/// What of the figures is not good enough, in words.
fn missed(figures: &Value) -> Vec<String> {
    let mut missed = Vec::new();
    let loads = figures["commits"].as_array().into_iter().flatten();
    let best = loads.filter_map(|load| load["ops_per_second"].as_f64()).fold(0.0, f64::max);
    if best < COMMITS_PER_SECOND {
        missed.push(format!("{best:.0} commits/s at best instead of {COMMITS_PER_SECOND:.0}"));
    }
    // A figure that is missing is not a good one.
    let seconds = figures["recovery"]["seconds"].as_f64().unwrap_or(f64::INFINITY);
    if seconds > RECOVERY_SECONDS {
        missed.push(format!("a start took {seconds:.1} s instead of {RECOVERY_SECONDS:.0} s"));
    }
    missed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_good_enough_or_it_is_said_which_are_not() {
        let figures = |best: u32, seconds: f64| {
            let loads = json!([{"ops_per_second": 300}, {"ops_per_second": best}]);
            json!({"commits": loads, "recovery": {"runs": 1000, "seconds": seconds}})
        };
        assert!(missed(&figures(20_000, 5.0)).is_empty());
        assert_eq!(missed(&figures(19_999, 1.0)), ["19999 commits/s at best instead of 20000"]);
        assert_eq!(missed(&figures(30_000, 5.2)), ["a start took 5.2 s instead of 5 s"]);
        assert_eq!(missed(&json!({})).len(), 2);
    }
}
