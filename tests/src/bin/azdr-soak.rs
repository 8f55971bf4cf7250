//! `azdr-soak`: a mixed load on a controller that is killed again and again. `cargo xtask soak` builds
//! what it needs and runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use azdr_env::{Ids, OsIds};
use azdr_tests::Programs;
use azdr_tests::process::last_lines;
use azdr_tests::soak::{self, Options};
use clap::Parser;

/// Kills the controller at random instants under a mixed load, and checks that nothing was lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder of the programs; default: where this one is
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// How often the controller is killed
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: usize,
    /// Of the load and of the instants; default: random
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    azdr_tests::demo::leave_on_signals();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("azdr-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let programs = match &arguments.programs {
        Some(folder) => Programs::in_folder(folder)?,
        None => Programs::beside_this_one()?,
    };
    let seed = arguments.seed.unwrap_or_else(|| OsIds.u64() % 1_000_000);
    println!("seed {seed}, {} kills", arguments.kills);
    let folder = tempfile::Builder::new().prefix("azdr-soak-").tempdir();
    let folder = folder.context("cannot make a folder for the soak")?;
    azdr_tests::demo::remember_folder(folder.path());
    let place = folder.path().to_owned();
    let options = Options { programs, folder: place, kills: arguments.kills, seed };
    match soak::run(&options) {
        Ok(summary) => {
            println!("{summary}");
            Ok(())
        }
        Err(error) => {
            let log = last_lines(&folder.path().join("controller.log"), 40);
            eprintln!("--- end of controller.log\n{log}");
            if std::env::var_os("AZDR_KEEP_FAILED").is_some() {
                eprintln!("--- kept: {}", folder.keep().display());
            }
            Err(error.context(format!("violated, seed {seed}")))
        }
    }
}
