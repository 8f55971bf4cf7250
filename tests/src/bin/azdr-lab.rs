//! `azdr-lab`: what must be true of real machines, case by case. `cargo xtask lab` builds what it needs and
//! runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use azdr_tests::cases::{self, Case, show};
use azdr_tests::{GuestImage, Programs};
use clap::Parser;

/// Asked for something that cannot be.
const USAGE: u8 = 2;

/// Runs cases on real virtual machines in a simulated Azure.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the programs; default: where this one is
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Folder of the guest image (`cargo xtask guest-image`)
    #[arg(long, value_name = "DIR")]
    guest_image: PathBuf,
    /// This case only; may be given more than once; default: all
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// The image is the full Debian guest: its cases
    #[arg(long)]
    systemd: bool,
    /// How often cases are done over that are: 1 to 10000; default: as each says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Leave the machines' files, and say where they are and how to look at them
    #[arg(long)]
    keep: bool,
    /// How long to wait for the end of another lab with machines
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    wait: u64,
}

fn main() -> ExitCode {
    azdr_tests::demo::leave_on_signals();
    let arguments = Arguments::parse();
    let catalogue = if arguments.systemd { cases::ON_DEBIAN } else { cases::ALL };
    let wanted: Result<Vec<&Case>> = match &arguments.case[..] {
        [] => Ok(catalogue.iter().collect()),
        names => names.iter().map(|name| cases::named(catalogue, name)).collect(),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("azdr-lab: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    match run(arguments, wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("azdr-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, cases: Vec<&'static Case>) -> Result<bool> {
    show::run(&show::Options {
        programs: match &arguments.programs {
            Some(folder) => Programs::in_folder(folder)?,
            None => Programs::beside_this_one()?,
        },
        image: GuestImage::in_folder(&arguments.guest_image)?,
        cases,
        rounds: arguments.rounds,
        keep: arguments.keep,
        patience: Duration::from_secs(arguments.wait),
    })
}
