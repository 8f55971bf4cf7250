//! `cargo xtask demo`: builds the programs and the guest image, and gives the stage to `azdr-demo`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::workspace::Workspace;

/// What the demo needs.
const PACKAGES: [&str; 6] =
    ["azure-sim", "azdr-controller", "azdr-agent", "azdr-thawd", "azdr", "azdr-tests"];

/// Something has to be installed first.
const NOT_INSTALLED: u8 = 3;

/// Exit codes: 0 every check held, 1 one did not, 3 something has to be installed first.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave everything running and say how to use it
    #[arg(long)]
    keep: bool,
    /// Write the summary as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What a virtual machine is; default: qemu where it is or can be installed, else simulated
    #[arg(long, value_enum)]
    guests: Option<Guests>,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guests {
    /// A real Linux on emulated hardware
    Qemu,
    /// Files and a writer in the simulator's process
    Simulated,
    /// A mere record: a shorter story
    None,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let profile = if self.dev { "debug" } else { "release" };
        if !workspace.build_programs(profile, &PACKAGES)? {
            return Ok(ExitCode::FAILURE);
        }
        let mut demo = Command::new(workspace.programs(profile).join("azdr-demo"));
        match (self.guests, self.prepare_machines(&workspace, profile)) {
            (Some(Guests::None), _) => {}
            (Some(Guests::Simulated), _) => {
                demo.arg("--simulated-guests");
            }
            (_, Ok(())) => {
                demo.arg("--guest-image").arg(workspace.guest_image());
            }
            (Some(Guests::Qemu), Err(error)) => {
                eprintln!("xtask demo: {error:#}");
                eprintln!("Without real machines the story can be told, too: --guests simulated");
                return Ok(ExitCode::from(NOT_INSTALLED));
            }
            (None, Err(error)) => {
                let reason = format!("{error:#}");
                eprintln!("No real machines here: {reason}");
                eprintln!("The machines are simulated instead");
                demo.arg("--simulated-guests").arg("--reason").arg(reason);
            }
        }
        if let Some(path) = &self.json {
            demo.arg("--json").arg(std::path::absolute(path)?);
        }
        if self.keep {
            demo.arg("--keep");
        }
        // From here on this process is the demo: signals and exit code are its own.
        Err(demo.exec()).context("cannot run azdr-demo")
    }

    /// Prepares real machines, if they may be used.
    fn prepare_machines(&self, workspace: &Workspace, profile: &str) -> Result<()> {
        if !matches!(self.guests, None | Some(Guests::Qemu)) {
            return Ok(());
        }
        eprintln!("Preparing the machines' Linux");
        workspace.ensure_guests(profile)
    }
}
