//! `azdr-demo`: the story of azdr with real programs. `cargo xtask demo` builds what it needs and runs
//! it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use azdr_tests::demo::{self, Options};
use azdr_tests::lab::Machines;
use azdr_tests::{GuestImage, Programs};
use clap::Parser;

/// Protects virtual machines in a simulated Azure, destroys one and brings it back.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the programs; default: where this one is
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Folder of the guest image (`cargo xtask guest-image`); without it machines are mere records
    #[arg(long, value_name = "DIR")]
    guest_image: Option<PathBuf>,
    /// Simulated machines: files, and a writer, in the simulator's process
    #[arg(long, conflicts_with = "guest_image")]
    simulated_guests: bool,
    /// Why machines are not real, for the summary
    #[arg(long, value_name = "TEXT", requires = "simulated_guests")]
    reason: Option<String>,
    /// Write the summary to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave everything running and say how to use it
    #[arg(long)]
    keep: bool,
    /// How long to wait for the end of another lab with machines: not long, it may be one that is kept
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    wait: u64,
}

fn main() -> ExitCode {
    demo::leave_on_signals();
    let told = options(Arguments::parse()).and_then(|options| demo::run(&options));
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("azdr-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: Arguments) -> Result<Options> {
    let programs = match &arguments.programs {
        Some(folder) => Programs::in_folder(folder)?,
        None => Programs::beside_this_one()?,
    };
    let machines = match &arguments.guest_image {
        Some(folder) => Machines::Real(GuestImage::in_folder(folder)?),
        None if arguments.simulated_guests => Machines::Simulated,
        None => Machines::Records,
    };
    Ok(Options {
        programs,
        machines,
        reason: arguments.reason,
        json: arguments.json,
        keep: arguments.keep,
        patience: Duration::from_secs(arguments.wait),
    })
}
