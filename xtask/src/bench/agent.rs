//! `cargo xtask bench agent`: what an idle agent costs its machine, as it is shipped.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::keep;
use crate::workspace::Workspace;

/// What is started.
const PACKAGES: [&str; 5] = ["azure-sim", "azdr-controller", "azdr-agent", "azdr", "azdr-tests"];

/// What is judged: where it is in the figures, its limit, and its unit.
const LIMITS: [(&str, &str, f64, &str); 3] = [
    ("azdr-agent, file", "/agent/file_bytes", 3_000_000.0, "bytes"),
    ("both, resident", "/resident_kib", 8.0 * 1024.0, "KiB"),
    ("both, idle", "/idle/percent_of_a_core", 0.05, "% of a core"),
];

/// Exit codes: 0 every figure is below its limit, 1 one is not.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// For how long the agent idles
    #[arg(long, value_name = "N", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Use debug builds of all but the agent
    #[arg(long)]
    dev: bool,
}

impl Agent {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let Some(shipped) = workspace.build_shipped_agent()? else {
            return Ok(ExitCode::FAILURE);
        };
        let profile = if self.dev { "debug" } else { "release" };
        if !workspace.build_programs(profile, &PACKAGES)? {
            return Ok(ExitCode::FAILURE);
        }
        let output = Command::new(workspace.programs(profile).join("azdr-agent-bench"))
            .arg("--agent")
            .arg(shipped)
            .args(["--seconds", &self.seconds.to_string()])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run azdr-agent-bench")?;
        ensure!(output.status.success(), "the benchmark failed");
        let mut figures: Value = serde_json::from_slice(&output.stdout)?;
        let resident = |name: &str| figures[name]["resident_kib"].as_u64().unwrap_or(u64::MAX / 2);
        figures["resident_kib"] = (resident("agent") + resident("thawd")).into();
        println!("{figures:#}");
        keep(&figures, self.json.as_deref())?;
        let mut missed = false;
        for (what, place, limit, unit) in LIMITS {
            let value = figures.pointer(place).and_then(Value::as_f64).unwrap_or(f64::INFINITY);
            let verdict = if value < limit { "" } else { ": too much" };
            missed |= value >= limit;
            println!("{what:<20} {value:>10} of {limit} {unit}{verdict}");
        }
        Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
