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
    /// What a virtual machine is: a real Linux, or a mere record (a shorter story)
    #[arg(long, value_enum, default_value_t = Guests::Qemu)]
    guests: Guests,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Guests {
    /// Real, emulated machines
    Qemu,
    /// Records only
    None,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let profile = if self.dev { "debug" } else { "release" };
        eprintln!("Building {profile} programs");
        let mut build = workspace.cargo(&["build", "--bins"]);
        if !self.dev {
            build.arg("--release");
        }
        for package in PACKAGES {
            build.args(["--package", package]);
        }
        if !build.status().context("cannot run cargo")?.success() {
            return Ok(ExitCode::FAILURE);
        }
        if self.guests == Guests::Qemu {
            eprintln!("Preparing the machines' Linux");
            if let Err(error) = workspace.ensure_guests(profile) {
                eprintln!("xtask demo: {error:#}");
                eprintln!("Without real machines there is a shorter story: --guests none");
                return Ok(ExitCode::from(NOT_INSTALLED));
            }
        }
        let mut demo = Command::new(workspace.programs(profile).join("azdr-demo"));
        if self.guests == Guests::Qemu {
            demo.arg("--guest-image").arg(workspace.guest_image());
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
}
