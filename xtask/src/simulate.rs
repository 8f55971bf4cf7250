//! `cargo xtask simulate`: builds the simulation and gives the arguments to it.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::workspace::Workspace;

/// Exit codes: 0 every invariant held, 1 one did not.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// For the simulation: `--seeds 0..200 --days 30 --vms 10`, see `cargo xtask simulate -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

impl Simulate {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        if !workspace.build_programs("simulation", &["azdr-simulation"])? {
            return Ok(ExitCode::FAILURE);
        }
        let mut simulate = Command::new(workspace.programs("simulation").join("azdr-simulate"));
        simulate.args(self.arguments);
        // From here on this process is the simulation: signals and exit code are its own.
        Err(simulate.exec()).context("cannot run azdr-simulate")
    }
}
