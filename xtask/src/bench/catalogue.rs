//! `cargo xtask bench catalogue`: how long an operator waits for answers from a catalogue of the size
//! that one controller is built for.
//!
//! What counts is the whole process of the real `azdr`, asking a real controller over mutual TLS on
//! loopback, each time about another VM. The catalogue is kept and used again as long as no backup
//! becomes due in it: half a day.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::keep;
use crate::workspace::Workspace;

/// What is started.
const PACKAGES: [&str; 3] = ["azure-sim", "azdr-controller", "azdr"];

/// Exit codes: 0 every median is below its target, 1 one is not.
#[derive(Debug, Args)]
pub(crate) struct Catalogue {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the catalogue is kept, some 7 GB [default: bench-catalogue in the target folder]
    #[arg(long, value_name = "FOLDER")]
    on: Option<PathBuf>,
    /// How many VMs, with 100 recovery points each on average
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=100_000))]
    vms: u32,
    /// Make the catalogue anew
    #[arg(long)]
    fresh: bool,
}

impl Catalogue {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        if !workspace.build_programs("release", &PACKAGES)? {
            return Ok(ExitCode::FAILURE);
        }
        let folder = self.on.unwrap_or_else(|| workspace.target.join("bench-catalogue"));
        let mut bench = workspace.cargo(&["run", "--package", "azdr-controller", "--release"]);
        bench.args(["--example", "catalogue_bench", "--"]).arg(folder);
        bench.arg(workspace.programs("release")).arg("--vms").arg(self.vms.to_string());
        if self.fresh {
            bench.arg("--fresh");
        }
        let output = bench.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        ensure!(output.status.success(), "the benchmark failed");
        let figures: Value = serde_json::from_slice(&output.stdout)?;
        println!("{:<38} {:>4} {:>10} {:>10} {:>10}", "", "n", "median ms", "p99 ms", "target ms");
        for measured in measured(&figures) {
            let column = |name: &str| measured[name].as_f64().unwrap_or(f64::NAN);
            let target = measured["target_ms"].as_f64();
            println!(
                "{:<38} {:>4} {:>10.1} {:>10.1} {:>10}",
                measured["what"].as_str().unwrap_or_default(),
                measured["n"],
                column("median_ms"),
                column("p99_ms"),
                target.map_or_else(|| "-".to_owned(), |target| format!("{target:.0}"))
            );
        }
        let controller = &figures["controller"];
        println!(
            "{} recovery points of {} VMs, {} jobs; database {} MiB; controller ready after {} ms, \
             idle {} ms later, {} MiB resident ({} at most)",
            figures["points"],
            figures["vms"],
            figures["runs"],
            figures["database_mib"],
            controller["ready_ms"],
            controller["idle_after_ms"],
            controller["rss_mib"],
            controller["peak_rss_mib"]
        );
        println!(
            "load average before {}, after {}",
            figures["load"]["before"], figures["load"]["after"]
        );
        keep(&figures, self.json.as_deref())?;
        let missed = missed(&figures);
        for words in &missed {
            println!("too slow: {words}");
        }
        Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn measured(figures: &Value) -> impl Iterator<Item = &Value> {
    figures["measured"].as_array().into_iter().flatten()
}

/// How many things have a target: one that is missing is not a good one.
const JUDGED: usize = 6;

/// What of the figures is not good enough, in words.
fn missed(figures: &Value) -> Vec<String> {
    let mut missed = Vec::new();
    let mut judged = 0;
    for measured in measured(figures) {
        let Some(target) = measured["target_ms"].as_f64() else { continue };
        judged += 1;
        let median = measured["median_ms"].as_f64();
        if median.is_none_or(|median| median >= target) {
            let what = measured["what"].as_str().unwrap_or_default();
            let median = median.map_or_else(|| "?".to_owned(), |median| format!("{median:.1}"));
            missed.push(format!("{what}: {median} ms instead of {target:.0}"));
        }
    }
    if judged < JUDGED {
        missed.push(format!("only {judged} of {JUDGED} were measured"));
    }
    missed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_are_below_their_targets_or_it_is_said_which_are_not() {
        let figures = |median: f64| {
            let good = json!({"what": "status", "median_ms": 3.0, "target_ms": 500.0});
            let last = json!({"what": "list", "median_ms": median, "target_ms": 30.0});
            let looked_at = json!({"what": "vm list", "median_ms": 9000.0});
            json!({"measured": [good, looked_at, good, good, good, good, last]})
        };
        assert!(missed(&figures(29.9)).is_empty());
        assert_eq!(missed(&figures(30.0)), ["list: 30.0 ms instead of 30"]);
        let mut one_without = figures(1.0);
        one_without["measured"][3]["median_ms"] = Value::Null;
        assert_eq!(missed(&one_without), ["status: ? ms instead of 500"]);
        assert_eq!(missed(&json!({})), ["only 0 of 6 were measured"]);
    }
}
