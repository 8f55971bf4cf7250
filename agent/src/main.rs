//! The agent's executable: arguments, logging, signals, exit codes.

#[cfg(all(feature = "shipped", panic = "unwind"))]
compile_error!(
    "the feature `shipped` leaves out what unwinding needs: build with a profile that has `panic = \"abort\"`"
);

use std::path::PathBuf;
use std::process::ExitCode;

use azdr_agent::config::{Config, DEFAULT_CONFIG};
use azdr_agent::enroll::{Enrolment, enroll};
use azdr_agent::preflight::{self, preflight};
use azdr_agent::ring_log::RingLog;
use azdr_agent::status::status;
use azdr_agent::{Agent, canary, chain, placement, run};
use azdr_env::Env;
use azdr_proto::agent::QuiesceState;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Freezes this VM's file systems for azdr's snapshots, and tells its controller how it is.
#[derive(Parser)]
#[command(name = "azdr-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Gets this machine its certificate, with a one-time token from `azdr agent token VM`.
    ///
    /// Exit code 0: enrolled. 1: this machine's fault. 2: wrong arguments. 3: the controller cannot
    /// be reached, is not the right one, or refused.
    Enroll(EnrollArgs),
    /// Serves the controller until SIGTERM. Needs root. Exit code 2: the configuration cannot be used.
    Run(ConfigArg),
    /// Shows who this machine is to its controller, and the preflight. Exit code 1 when something stands
    /// in the way of a freeze.
    Status(ConfigArg),
    /// Looks whether this machine could be frozen: which file systems, in which order and on which disks,
    /// what is left out and why, and what stands in the way. Changes nothing.
    ///
    /// Exit code 0: ready. 1: not ready, see the lines that say PROBLEM. 2: the configuration cannot be
    /// used. What is shown as `not now` passes by itself, and does not count.
    Preflight(PreflightArgs),
}

#[derive(Args)]
struct PreflightArgs {
    /// For programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Args)]
struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Args)]
struct EnrollArgs {
    /// The controller's enrolment listener.
    #[arg(long, value_name = "HOST:PORT")]
    controller: String,
    /// The controller's agent listener, for later.
    #[arg(long, value_name = "HOST:PORT")]
    agent_address: String,
    /// The one-time token.
    #[arg(long, env = "AZDR_TOKEN", hide_env_values = true)]
    token: String,
    /// SHA-256 of the controller's CA certificate, as the controller prints it.
    #[arg(long, value_name = "HEX")]
    ca_fingerprint: String,
    #[command(flatten)]
    config: ConfigArg,
    /// Where the identity is kept [default: as configured, or /var/lib/azdr].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Another instance metadata service, on loopback, for a configuration that is written: tests
    /// and demonstrations.
    #[arg(long, value_name = "URL")]
    instance_metadata_url: Option<String>,
}

fn main() -> ExitCode {
    // What this executable starts itself, for the time of a freeze.
    let args: Vec<_> = std::env::args_os().collect();
    if let [_, role, witnesses @ ..] = args.as_slice()
        && role == canary::ROLE
    {
        return if canary::run(witnesses).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let cli = Cli::parse();
    let log = RingLog::default();
    let filter = match log_filter() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("azdr-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(log.clone()).with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("azdr-agent: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Enroll(args) => enroll_command(args).await,
            Command::Run(args) => run_command(&args, log).await,
            Command::Status(args) => status_command(&args, log).await,
            Command::Preflight(args) => preflight_command(&args, log).await,
        }
    });
    // Threads that are stuck on a disk are not waited for.
    runtime.shutdown_background();
    code
}

/// What is logged: `AZDR_LOG`, such as `warn` or `info,azdr_agent::session=debug`; `info` without it.
fn log_filter() -> Result<Targets, String> {
    match std::env::var("AZDR_LOG") {
        Ok(text) => text.parse().map_err(|e| {
            format!("AZDR_LOG is {text:?}: {e}; allowed are levels, and TARGET=LEVEL with commas")
        }),
        Err(_) => Ok(Targets::new().with_default(LevelFilter::INFO)),
    }
}

async fn enroll_command(args: EnrollArgs) -> ExitCode {
    let enrolment = Enrolment {
        controller: args.controller,
        agent_address: args.agent_address,
        token: args.token,
        ca_fingerprint: args.ca_fingerprint,
        config: args.config.config,
        state_dir: args.state_dir,
        instance_metadata_url: args.instance_metadata_url,
    };
    match enroll(&enrolment).await {
        Ok(enrolled) => {
            println!("enrolled {} (vmId {})", enrolled.vm_resource_id, enrolled.vm_id);
            eprintln!("identity stored in {}", enrolled.state_dir.display());
            let config = enrolment.config.display();
            match (enrolled.config_written, enrolled.other_address) {
                (true, _) => eprintln!("{config} written"),
                (false, None) => eprintln!("{config} was there and is kept"),
                (false, Some(address)) => eprintln!(
                    "warning: {config} is kept and names another controller, {address}: edit it"
                ),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("azdr-agent: {}", chain(&error));
            if !error.hint().is_empty() {
                eprintln!("hint: {}", error.hint());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Loads the configuration, or says why not: exit code 2.
fn agent(args: &ConfigArg, log: RingLog) -> Result<Agent, ExitCode> {
    match Config::load(&args.config) {
        Ok(config) => Ok(Agent::new(config, Env::system(), log)),
        Err(error) => {
            eprintln!("azdr-agent: {}", chain(&error));
            Err(ExitCode::from(2))
        }
    }
}

async fn run_command(args: &ConfigArg, log: RingLog) -> ExitCode {
    let agent = match agent(args, log) {
        Ok(agent) => agent,
        Err(code) => return code,
    };
    let misplaced = placement::misplaced(&agent.scope(), &agent.config);
    if !misplaced.is_empty() {
        eprintln!("azdr-agent: {}: {}", args.config.display(), misplaced.join("; "));
        return ExitCode::from(2);
    }
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        eprintln!("azdr-agent: cannot wait for signals");
        return ExitCode::FAILURE;
    };
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(&agent, shutdown).await;
    ExitCode::SUCCESS
}

async fn status_command(args: &ConfigArg, log: RingLog) -> ExitCode {
    match agent(args, log) {
        Ok(agent) => {
            let (text, ready) = status(&agent).await;
            print!("{text}");
            if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(code) => code,
    }
}

async fn preflight_command(args: &PreflightArgs, log: RingLog) -> ExitCode {
    match agent(&args.config, log) {
        Ok(agent) => {
            let report = preflight(&agent, "", || QuiesceState::Idle).await;
            match args.json {
                true => println!("{:#}", preflight::document(&report)),
                false => print!("{}", preflight::text(&report)),
            }
            if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(code) => code,
    }
}
