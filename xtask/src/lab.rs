//! `cargo xtask lab`: builds the programs and the guest image, and gives them to `azdr-lab`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::dist::AgentPackages;
use crate::workspace::Workspace;

/// What the lab needs.
const PACKAGES: [&str; 6] =
    ["azure-sim", "azdr-controller", "azdr-agent", "azdr-thawd", "azdr", "azdr-tests"];

/// Something has to be installed first.
const NOT_INSTALLED: u8 = 3;

/// Exit codes: 0 every case held, 1 one did not, 2 there is no such case, 3 something has to be installed
/// first.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// This case only; may be given more than once; default: all. A wrong name lists them
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// How often cases are done over that are: 1 to 10000; default: as each says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Leave the machines' files, and say where they are and how to look at them
    #[arg(long)]
    keep: bool,
    /// The cases of the full Debian guest, with the packaged agent under systemd, instead; needs root
    #[arg(long)]
    systemd: bool,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

impl Lab {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let profile = if self.dev { "debug" } else { "release" };
        if !workspace.build_programs(profile, &PACKAGES)? {
            return Ok(ExitCode::FAILURE);
        }
        eprintln!("Preparing the machines' Linux");
        let prepared = if self.systemd {
            let out = workspace.guest_image().join("packages");
            let Some(packages) = AgentPackages::make(&workspace, &out)? else {
                return Ok(ExitCode::FAILURE);
            };
            workspace.ensure_debian_guests(profile, &packages)
        } else {
            workspace.ensure_guests(profile).map(|()| workspace.guest_image())
        };
        let image = match prepared {
            Ok(image) => image,
            Err(reason) => {
                eprintln!("xtask lab: there can be no real machines here: {reason:#}");
                return Ok(ExitCode::from(NOT_INSTALLED));
            }
        };
        let mut lab = Command::new(workspace.programs(profile).join("azdr-lab"));
        lab.arg("--guest-image").arg(image);
        if self.systemd {
            lab.arg("--systemd");
        }
        for name in &self.case {
            lab.arg("--case").arg(name);
        }
        if let Some(rounds) = self.rounds {
            lab.arg("--rounds").arg(rounds.to_string());
        }
        if self.keep {
            lab.arg("--keep");
        }
        // From here on this process is the lab: signals and exit code are its own.
        Err(lab.exec()).context("cannot run azdr-lab")
    }
}
