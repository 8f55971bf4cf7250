//! `cargo xtask soak`: builds the programs and gives them to `azdr-soak`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::workspace::Workspace;

/// What the soak needs.
const PACKAGES: [&str; 5] = ["azure-sim", "azdr-controller", "azdr-agent", "azdr", "azdr-tests"];

/// Exit codes: 0 every check held, 1 one did not.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How often the controller is killed
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: usize,
    /// Of the load and of the instants; default: random, and printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

impl Soak {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let profile = if self.dev { "debug" } else { "release" };
        if !workspace.build_programs(profile, &PACKAGES)? {
            return Ok(ExitCode::FAILURE);
        }
        let mut soak = Command::new(workspace.programs(profile).join("azdr-soak"));
        soak.arg("--kills").arg(self.kills.to_string());
        if let Some(seed) = self.seed {
            soak.arg("--seed").arg(seed.to_string());
        }
        // From here on this process is the soak: signals and exit code are its own.
        Err(soak.exec()).context("cannot run azdr-soak")
    }
}
