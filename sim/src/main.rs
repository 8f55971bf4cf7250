//! The `azure-sim` program: makes a simulated world, runs it, shows it.

mod commands;

use std::io::IsTerminal;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A simulator of the part of Azure that backup of virtual machines touches.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(commands::init::Init),
    Run(Box<commands::run::Run>),
    Resources(commands::resources::Resources),
}

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match Cli::parse().command {
        Command::Init(init) => init.run(),
        Command::Run(run) => run.run(),
        Command::Resources(resources) => resources.run(),
    }
}
