//! `cargo xtask bench quiesce`: how long file systems are frozen, as the agent is shipped.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::keep;
use crate::workspace::Workspace;

/// What is judged: where it is in the figures, its limit, and its unit. The ratios are of one run.
const LIMITS: [(&str, &str, f64, &str); 5] = [
    ("window with pre-flush, of that without", "/pre_flush/ratio", 1.0 / 3.0, ""),
    ("freezing six file systems, of one", "/many/ratio", 1.5, ""),
    ("thawing, median", "/thaw_ms/median", 50.0, "ms"),
    ("thawing, at worst", "/thaw_ms/worst", 50.0, "ms"),
    ("calls that the thaw process's filter refused", "/refused_calls", 0.0, ""),
];

/// Freezes ext4 file systems on loop devices of its own, and needs root and 6 GB of disk. Exit codes: 0
/// every figure is within its limit, 1 one is not.
#[derive(Debug, Args)]
pub(crate) struct Quiesce {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the images go: a folder on the disk in question [default: the target folder]
    #[arg(long, value_name = "FOLDER")]
    on: Option<PathBuf>,
    /// How often each is measured with 1 GiB of dirty data; the others three times as often
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
}

impl Quiesce {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let Some(shipped) = workspace.build_shipped_agent()? else {
            return Ok(ExitCode::FAILURE);
        };
        let output = workspace
            .cargo_as_shipped(&["run", "--package", "azdr-agent"])
            .args(["--example", "quiesce_bench", "--"])
            .arg(shipped.join("azdr-thawd"))
            .arg(self.on.unwrap_or_else(|| workspace.target.clone()))
            .arg(self.rounds.to_string())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "the benchmark failed");
        let figures: Value = serde_json::from_slice(&output.stdout)?;
        println!("{figures:#}");
        keep(&figures, self.json.as_deref())?;
        let mut missed = false;
        for (what, place, limit, unit) in LIMITS {
            // A figure that is missing is not a good one.
            let value = figures.pointer(place).and_then(Value::as_f64).unwrap_or(f64::INFINITY);
            let verdict = if value <= limit { "" } else { ": too much" };
            missed |= value > limit;
            println!("{what:<44} {value:>8.2} of {limit:.2} {unit}{verdict}");
        }
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
