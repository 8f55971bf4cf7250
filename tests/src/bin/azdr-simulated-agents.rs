//! `azdr-simulated-agents`: plays the agents of a simulated Azure's simulated machines, until SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use azdr_env::Env;
use azdr_tests::agents;
use azdr_tests::http::Http;
use azdr_tests::simulated_machines::SimulatedMachines;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Plays an agent on every simulated machine that is up and carries an identity.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where azure-sim listens
    #[arg(long, value_name = "ADDRESS")]
    simulator: SocketAddr,
    /// Its certificate authority
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("azdr-simulated-agents: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let machines = SimulatedMachines::new(Http::tls(arguments.simulator, &arguments.ca)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            () = agents::play(machines, Env::system()) => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
