//! `azure-sim run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use azdr_env::Env;
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::faults::Fault;
use azure_sim::guests::Guests;
use azure_sim::guests::none::NoGuests;
use azure_sim::guests::qemu::{QemuConfig, QemuGuests};
use azure_sim::guests::simulated::SimulatedGuests;
use azure_sim::latency::Profile;
use azure_sim::{Simulator, server};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a simulated world until SIGTERM or SIGINT.
#[derive(Args)]
pub(crate) struct Run {
    /// The state directory, made by `init`.
    #[arg(long)]
    state: PathBuf,
    /// Where ARM, the token endpoint and `/_sim` listen (TLS). Port 0: any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where instance metadata and managed identity listen (plain HTTP).
    #[arg(long, default_value = "127.0.0.1:0")]
    metadata_listen: SocketAddr,
    /// What a started machine really is.
    #[arg(long, value_enum, default_value_t = GuestKind::None)]
    guests: GuestKind,
    /// How long things take, and how strict quotas are.
    #[arg(long, value_enum, default_value_t = LatencyKind::Fast)]
    latency: LatencyKind,
    /// A fault plan (JSON list).
    #[arg(long)]
    faults: Option<PathBuf>,
    /// Quotas and strictness (JSON object), over those of the latency profile.
    #[arg(long)]
    limits: Option<PathBuf>,
    /// Seeds the variation of latencies.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where the line that is printed when ready is written too.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// TCP port of guests that public addresses forward (if their security groups permit it).
    #[arg(long = "guest-ssh-port", default_values_t = [22])]
    guest_ports: Vec<u16>,
    #[command(flatten)]
    qemu: QemuArgs,
}

/// Real machines.
#[derive(Args)]
struct QemuArgs {
    /// The QEMU program.
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// Kernel of guests; with `--guests qemu`.
    #[arg(long, required_if_eq("guests", "qemu"))]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of guests; with `--guests qemu`.
    #[arg(long, required_if_eq("guests", "qemu"))]
    initrd: Option<PathBuf>,
    /// RAM of each guest.
    #[arg(long, default_value_t = 128)]
    memory_mib: u32,
    /// What guests can reach: `10.0.2.100:9443=127.0.0.1:9443` (guest's view, host's view).
    #[arg(long, value_parser = forward)]
    guest_controller: Vec<(String, SocketAddr)>,
    /// The `azure-sim-relay` program; default: beside this one.
    #[arg(long)]
    relay: Option<PathBuf>,
    /// Appended to the kernel command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    kernel_append: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GuestKind {
    /// Control plane only.
    None,
    /// A QEMU process per machine.
    Qemu,
    /// In this process: trees of files as disks, a writer, and `/_sim/guests` for agents.
    Simulated,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LatencyKind {
    /// Operations in 20-150 ms, copies in 1.5 s.
    Fast,
    /// As measured at Azure, with its quotas.
    Recorded,
}

fn forward(text: &str) -> Result<(String, SocketAddr), String> {
    let (guest, host) = text.split_once('=').ok_or("expected GUEST:PORT=HOST:PORT")?;
    Ok((guest.to_owned(), host.parse().map_err(|e| format!("{host}: {e}"))?))
}

impl Run {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (profile, mut limits) = match self.latency {
            LatencyKind::Fast => (Profile::Fast, Limits::default()),
            LatencyKind::Recorded => (Profile::Recorded, Limits::recorded()),
        };
        if let Some(path) = &self.limits {
            let mut all = serde_json::to_value(&limits)?;
            let changed: serde_json::Map<String, serde_json::Value> = read_json(path)?;
            all.as_object_mut().context("limits are an object")?.extend(changed);
            limits = serde_json::from_value(all)
                .with_context(|| format!("cannot understand {}", path.display()))?;
        }
        limits.guest_ports = self.guest_ports.clone();
        let faults: Vec<Fault> =
            self.faults.as_deref().map(read_json).transpose()?.unwrap_or_default();
        let config = Config {
            state_dir: self.state.clone(),
            profile,
            seed: self.seed,
            limits,
            blocking: Blocking::Pool,
            durability: Durability::Fsync,
        };
        let tls = server::tls::server_config(&self.state)
            .with_context(|| format!("cannot use {}", self.state.display()))?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(async {
            let simulator = Simulator::open(config, Env::system(), self.open_guests()?)
                .with_context(|| format!("cannot open {}", self.state.display()))?;
            simulator.set_faults(faults);
            self.serve(simulator, tls).await
        })
    }

    /// The one place where the kind of guests is decided.
    fn open_guests(&self) -> anyhow::Result<Arc<dyn Guests>> {
        match self.guests {
            GuestKind::None => return Ok(Arc::new(NoGuests::new(Blocking::Pool))),
            GuestKind::Simulated => {
                return Ok(Arc::new(SimulatedGuests::reachable(Env::system())));
            }
            GuestKind::Qemu => {}
        }
        let args = &self.qemu;
        let relay = match &args.relay {
            Some(relay) => relay.clone(),
            None => std::env::current_exe()
                .context("cannot find this program")?
                .with_file_name("azure-sim-relay"),
        };
        Ok(Arc::new(QemuGuests::new(QemuConfig {
            qemu: args.qemu.clone(),
            kernel: args.kernel.clone().context("--kernel is missing")?,
            initrd: args.initrd.clone().context("--initrd is missing")?,
            run_dir: self.state.join("qemu"),
            memory_mib: args.memory_mib,
            controller_forwards: args.guest_controller.clone(),
            relay,
            kernel_append_extra: args.kernel_append.clone(),
        })))
    }

    async fn serve(
        &self,
        simulator: Simulator,
        tls: Arc<rustls::ServerConfig>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        };
        let (arm, metadata) = (bind(self.listen).await?, bind(self.metadata_listen).await?);
        simulator.start().await;
        self.announce(&simulator, arm.local_addr()?, metadata.local_addr()?)?;
        tokio::select! {
            () = server::serve_arm(simulator.clone(), arm, tls) => {}
            () = server::serve_metadata(simulator.clone(), metadata) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        simulator.shut_down().await;
        Ok(())
    }

    fn announce(
        &self,
        simulator: &Simulator,
        arm: SocketAddr,
        metadata: SocketAddr,
    ) -> anyhow::Result<()> {
        let facts = simulator.facts();
        let ready = json!({
            "arm_endpoint": format!("https://{arm}"),
            "metadata_endpoint": format!("http://{metadata}"),
            "identity_endpoint": format!("http://{metadata}/msi/token"),
            "identity_header": facts.identity_header,
            "ca_path": std::path::absolute(self.state.join("ca.pem"))?,
            "tenant": facts.tenant,
            "subscription": facts.subscriptions.first(),
            "pid": std::process::id(),
        });
        println!("{ready}");
        if let Some(path) = &self.ready_file {
            // Whoever waits for the file must never see half of it.
            let new = path.with_extension("new");
            std::fs::write(&new, format!("{ready}\n"))
                .and_then(|()| std::fs::rename(&new, path))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}
