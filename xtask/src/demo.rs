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
        let stage = match self.guests {
            None | Some(Guests::Qemu) => {
                Stage::choose(self.guests, self.prepare_machines(&workspace, profile))
            }
            chosen => Stage::choose(chosen, Ok(())),
        };
        match stage {
            Stage::Records => {}
            Stage::Real => {
                demo.arg("--guest-image").arg(workspace.guest_image());
            }
            Stage::Simulated { reason } => {
                demo.arg("--simulated-guests");
                if let Some(reason) = reason {
                    eprintln!("No real machines here: {reason}");
                    eprintln!("The machines are simulated instead");
                    demo.arg("--reason").arg(reason);
                }
            }
            Stage::NotInstalled { reason } => {
                eprintln!("xtask demo: {reason}");
                eprintln!("Without real machines the story can be told, too: --guests simulated");
                return Ok(ExitCode::from(NOT_INSTALLED));
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

    /// Prepares real machines.
    fn prepare_machines(&self, workspace: &Workspace, profile: &str) -> Result<()> {
        eprintln!("Preparing the machines' Linux");
        workspace.ensure_guests(profile)
    }
}

/// What the machines of a demo are.
#[derive(Debug, PartialEq)]
enum Stage {
    Records,
    Simulated {
        /// Why they are not real, if that was not asked for.
        reason: Option<String>,
    },
    Real,
    /// Real ones were asked for and are impossible here.
    NotInstalled {
        reason: String,
    },
}

impl Stage {
    /// By what was asked for, and how preparing real machines went.
    fn choose(guests: Option<Guests>, real: Result<()>) -> Self {
        match (guests, real) {
            (Some(Guests::None), _) => Self::Records,
            (Some(Guests::Simulated), _) => Self::Simulated { reason: None },
            (_, Ok(())) => Self::Real,
            (Some(Guests::Qemu), Err(e)) => Self::NotInstalled { reason: format!("{e:#}") },
            (None, Err(e)) => Self::Simulated { reason: Some(format!("{e:#}")) },
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn without_qemu_the_machines_are_simulated_and_the_reason_is_said_unless_real_ones_were_asked_for()
     {
        let missing = || Err(anyhow!("qemu-system-x86_64 is not installed"));
        let reason = "qemu-system-x86_64 is not installed".to_owned();
        let fallback = Stage::Simulated { reason: Some(reason.clone()) };
        assert_eq!(Stage::choose(None, missing()), fallback);
        let refused = Stage::NotInstalled { reason };
        assert_eq!(Stage::choose(Some(Guests::Qemu), missing()), refused);
        for guests in [None, Some(Guests::Qemu)] {
            assert_eq!(Stage::choose(guests, Ok(())), Stage::Real);
        }
        for real in [Ok(()), missing()] {
            let simulated = Stage::choose(Some(Guests::Simulated), real);
            assert_eq!(simulated, Stage::Simulated { reason: None });
        }
        assert_eq!(Stage::choose(Some(Guests::None), missing()), Stage::Records);
    }
}
