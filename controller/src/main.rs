//! `azdr-controller`: initialises an installation, rebuilds a lost one, and runs it.

// The simulation's features reach this program when cargo builds the whole workspace at once.
#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!(
    "a released controller cannot make mistakes on purpose: build it by itself, with \
     cargo build --release --package azdr-controller"
);

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use azdr_controller::app::{self, Addresses, DataDirLock};
use azdr_controller::config::{Config, ConfigArgs};
use azdr_controller::init::{self, InitArgs};
use azdr_controller::pki::WorkFactor;
use azdr_controller::rebuild::{self, RebuildArgs};
use azdr_controller::store::{Executor, Store};
use azdr_env::Env;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The azdr controller: policies, workflows, catalogue.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a new installation: its CA with an encrypted export, its database, and the first
    /// admin's client bundle.
    ///
    /// Example: azdr-controller init --config /etc/azdr/controller.toml --admin alice
    ///   --bundle ./alice --export ./azdr-ca.age --passphrase-file ./passphrase
    #[command(verbatim_doc_comment)]
    Init(InitArgs),
    /// Rebuilds a lost database from the tags in Azure, into an empty data directory.
    ///
    /// Reads everything first and records it last, whole or not at all. Says what could not be
    /// recovered. Afterwards nothing is deleted until `azdr retention release`. Make sure that no
    /// controller runs on the old database any more.
    ///
    /// Example: azdr-controller rebuild --config /etc/azdr/controller.toml --from-azure
    ///   --ca-export ./azdr-ca.age --passphrase-file ./passphrase --admin alice --bundle ./alice
    #[command(verbatim_doc_comment)]
    Rebuild(RebuildArgs),
    /// Runs the controller until SIGTERM or SIGINT.
    ///
    /// Example: azdr-controller run --config /etc/azdr/controller.toml
    Run(RunArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Written (JSON: addresses and process id) once everything is served.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Log as JSON instead of text.
    #[arg(long)]
    log_json: bool,
    /// Adds so many seconds to the clock. Only against a simulated cloud, to see what time does.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide = true)]
    clock_offset_secs: i64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Command::Init(args) => init(&args),
        Command::Rebuild(args) => rebuild_from_azure(&args),
        Command::Run(args) => run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The whole chain, once, here.
            eprintln!("error: {e:#}");
            let usage = e.chain().any(|c| c.is::<azdr_controller::config::ConfigError>());
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config, |name| std::env::var(name).ok())?;
    let env = Env::system();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        init::create_data_dir(&config)?;
        let _lock = DataDirLock::take(&config.data_dir)?;
        let store = Store::open(&app::database(&config.data_dir), Executor::BlockingPool)?;
        let stamped = store.read_stamp().await?.is_some();
        let stamp = app::stamp_of(&config, &env);
        let now = env.clock.wall();
        let report = init::init(args, &config, &env, WorkFactor::NORMAL, stamped, async |first| {
            let admin = first.admin;
            store.initialise(stamp, admin.name, admin.issued.serial_hex, now).await
        })
        .await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "azdr is initialised.")?;
        writeln!(out, "  CA fingerprint: {}", report.ca_fingerprint)?;
        writeln!(out, "  CA export:      {} (keep it and its passphrase apart from this machine: without them a lost database cannot be rebuilt)", report.export.display())?;
        writeln!(out, "  Admin bundle:   {} (context.toml for --context-file)", report.bundle.display())?;
        writeln!(out, "  Controller:     {}", report.controller)?;
        writeln!(out, "Next: azdr-controller run --config {}", args.config.config.display())?;
        Ok(())
    })
}

fn rebuild_from_azure(args: &RebuildArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config, |name| std::env::var(name).ok())?;
    let env = Env::system();
    start_logging(false);
    rebuild::expect_empty(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        init::create_data_dir(&config)?;
        let _lock = DataDirLock::take(&config.data_dir)?;
        let store = Store::open(&app::database(&config.data_dir), Executor::BlockingPool)?;
        let azure = app::arm_client(&config, &env)?;
        anyhow::Ok(rebuild::rebuild(args, &config, &env, &azure, &store).await?)
    })?;
    let mut out = std::io::stdout().lock();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    writeln!(out, "azdr is rebuilt (installation {}).", report.installation)?;
    writeln!(
        out,
        "  Recovered: {} ({} with a policy), {}, {} in other regions, {}, {}",
        count(report.vms, "VM"),
        report.policies,
        count(report.points, "recovery point"),
        count(report.replicas, "replica"),
        count(report.pins, "pin"),
        count(report.kept_disks, "replaced disk"),
    )?;
    writeln!(out, "  Admin bundle: {} (context.toml for --context-file)", args.bundle.display())?;
    writeln!(out, "Not recovered:")?;
    for lost in &report.lost {
        writeln!(out, "  - {lost}")?;
    }
    writeln!(out, "Agents go on with the certificates that they have.")?;
    writeln!(out, "Nothing is deleted until an admin runs: azdr retention release")?;
    writeln!(out, "Next: azdr-controller run --config {}", args.config.config.display())?;
    Ok(())
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config, |name| std::env::var(name).ok())?;
    let env = env_of(args, &config)?;
    start_logging(args.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let ready_file = args.ready_file.clone();
        app::run(config, env, stop, |addresses| match &ready_file {
            Some(path) => write_ready(path, addresses),
            None => Ok(()),
        })
        .await
    });
    // A blocking call that hangs must not keep a drained process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

fn env_of(args: &RunArgs, config: &Config) -> anyhow::Result<Env> {
    if args.clock_offset_secs == 0 {
        return Ok(Env::system());
    }
    anyhow::ensure!(
        config.cloud.name == azdr_controller::config::CloudName::Simulated,
        "--clock-offset-secs is for a simulated cloud only"
    );
    Ok(Env::system_shifted(args.clock_offset_secs))
}

fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env("AZDR_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,azure_core=warn,typespec_client_core=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
}

fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

fn write_ready(path: &std::path::Path, addresses: &Addresses) -> anyhow::Result<()> {
    let text = serde_json::to_string(addresses)?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
