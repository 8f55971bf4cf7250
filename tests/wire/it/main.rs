//! The real wire, mutual TLS and HTTP/2, over a simulated network with partitions and crashes: the
//! controller's two gRPC services as the daemon serves them, operators' calls and agents' sessions.
//!
//! Every simulation runs in a process of its own, on one thread, on simulated time; messages take 1 to
//! 20 ms. Azure does not answer: nothing here needs it. The agents are the lab's players, whose machines
//! are in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod network;
mod simulations;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Names the simulation that this process is for.
const SIMULATION: &str = "AZDR_WIRE_SIMULATION";

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(SIMULATION) {
        let (_, run) = simulations::ALL.iter().find(|(known, _)| *known == name).unwrap();
        tracing_subscriber::fmt().with_env_filter("warn,azdr=info").with_ansi(false).init();
        run();
        return ExitCode::SUCCESS;
    }
    let trial = |(name, _): &(&'static str, fn())| {
        let name = *name;
        Trial::test(name, move || in_a_process_of_its_own(name))
    };
    let trials = simulations::ALL.iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn in_a_process_of_its_own(name: &str) -> Result<(), libtest_mimic::Failed> {
    let program = std::env::current_exe()?;
    let ran = Command::new(program).env(SIMULATION, name).output()?;
    if ran.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!("{}\n{}\n{}", ran.status, said(&ran.stdout), said(&ran.stderr)).into())
}
