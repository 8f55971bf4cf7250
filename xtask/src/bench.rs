//! `cargo xtask bench store`: what the store does on this machine's disk, in a release build.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde_json::Value;

use crate::workspace::Workspace;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Durable commits per second, how long each takes, and a start with 1,000 unfinished runs
    Store {
        /// Write the figures as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Where the database goes: a folder on the disk in question [default: the target folder]
        #[arg(long, value_name = "FOLDER")]
        on: Option<PathBuf>,
    },
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self::Store { json, on } = self;
        let workspace = Workspace::find()?;
        let output = workspace
            .cargo(&["run", "--release", "--package", "azdr-controller", "--example"])
            .arg("store_bench")
            .arg("--")
            .arg(on.unwrap_or_else(|| workspace.target.clone()))
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
        println!("start with {} unfinished runs: {} s", recovery["runs"], recovery["seconds"]);
        if let Some(path) = json {
            std::fs::write(&path, format!("{figures:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
