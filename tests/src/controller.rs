//! azdr-controller as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http::Http;
use crate::lab::{LabSpec, free_address};
use crate::process::{Daemon, Ended, Lifetime, ready, run};
use crate::programs::Programs;
use crate::simulator::{Guests, SIMULATED_SSH_PORT, Simulator};
use crate::world::{CLIENT_ID, CLIENT_SECRET, SUBSCRIPTION, TENANT};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The address at which guests see the controller's host.
const SEEN_BY_GUESTS: &str = "10.0.2.100";

/// Where the controller listens: fixed, so that a restart is found again.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Operators.
    pub admin: SocketAddr,
    /// Agents.
    pub agent: SocketAddr,
    /// New agents.
    pub enroll: SocketAddr,
    /// Prometheus.
    pub metrics: SocketAddr,
}

impl Addresses {
    /// Four free ones.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn free() -> Result<Self> {
        Ok(Self {
            admin: free_address()?,
            agent: free_address()?,
            enroll: free_address()?,
            metrics: free_address()?,
        })
    }

    /// What guests are to reach, as they see it and here.
    pub fn forwards(&self) -> Vec<(String, SocketAddr)> {
        [self.agent, self.enroll]
            .map(|here| (format!("{SEEN_BY_GUESTS}:{}", here.port()), here))
            .into()
    }
}

/// What the controller does unasked. By default nothing is begun that nobody asks for, so that nothing
/// depends on the time of day: a policy's schedule is 02:00 unless it says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduler {
    /// Backups, verifications and drills are begun within a second of being due.
    pub enabled: bool,
    /// VMs are looked at every second, and not as seldom as the controller does by default.
    pub watches_vms: bool,
}

impl Scheduler {
    fn table(self) -> String {
        let tick = if self.enabled { "tick_secs = 1\n" } else { "" };
        let inventory = if self.watches_vms { "inventory_secs = 1\n" } else { "" };
        format!("[scheduler]\nenabled = {}\n{tick}{inventory}", self.enabled)
    }
}

/// A controller. Its data survive [`kill`](Self::kill) and [`start`](Self::start).
#[derive(Debug)]
pub struct Controller {
    programs: Programs,
    folder: PathBuf,
    addresses: Addresses,
    log_filter: String,
    lifetime: Lifetime,
    daemon: Option<Daemon>,
}

impl Controller {
    /// Writes a configuration for the simulated Azure and initialises a controller in `folder`;
    /// starts nothing.
    ///
    /// # Errors
    /// When `azdr-controller init` fails.
    pub fn create(
        programs: &Programs,
        folder: &Path,
        simulator: &Simulator,
        addresses: Addresses,
        spec: &LabSpec,
    ) -> Result<Self> {
        let controller = Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            addresses,
            log_filter: spec.log_filter.clone(),
            lifetime: spec.lifetime,
            daemon: None,
        };
        let configuration = controller.configuration(simulator, spec.scheduler);
        std::fs::write(controller.config(), configuration)?;
        std::fs::write(folder.join("client-secret"), CLIENT_SECRET)?;
        std::fs::write(folder.join("passphrase"), "a passphrase of the lab\n")?;
        let ended = controller.init()?;
        ensure!(ended.status.success(), "azdr-controller init failed: {}", ended.stderr);
        Ok(controller)
    }

    fn init(&self) -> Result<Ended> {
        let file = |name: &str| self.folder.join(name);
        let mut command = self.programs.command("azdr-controller");
        command.arg("init").arg("--config").arg(self.config()).args(["--admin", "lab"]);
        command.arg("--bundle").arg(file("admin")).arg("--export").arg(file("ca.age"));
        command.arg("--passphrase-file").arg(file("passphrase"));
        run(command, READY_LIMIT, None)
    }

    fn configuration(&self, simulator: &Simulator, scheduler: Scheduler) -> String {
        let Addresses { admin, agent, enroll, metrics } = self.addresses;
        let (advertise, drill) = match simulator.guests() {
            Guests::Real(_) => {
                let advertise = format!(
                    "[advertise]\nagent = \"{SEEN_BY_GUESTS}:{}\"\nenroll = \"{SEEN_BY_GUESTS}:{}\"\n",
                    agent.port(),
                    enroll.port()
                );
                (advertise, "access = \"public-ip\"\nallowed_source = \"127.0.0.1\"\n".to_owned())
            }
            Guests::Simulated => {
                let probe =
                    format!("access = \"none\"\n\n[probe]\nssh_port = {SIMULATED_SSH_PORT}\n");
                (String::new(), probe)
            }
            Guests::None => (String::new(), "access = \"none\"\n".to_owned()),
        };
        format!(
            "data_dir = \"data\"\n\n\
             [cloud]\nname = \"simulated\"\nendpoint = \"{endpoint}\"\nauthority = \"{endpoint}\"\n\
             tenant_id = \"{TENANT}\"\nsubscriptions = [\"{SUBSCRIPTION}\"]\n\
             ca_certificate = \"{ca}\"\npoll_pace = \"quick\"\n\n\
             [credential]\nkind = \"client_secret\"\nclient_id = \"{CLIENT_ID}\"\n\
             client_secret_file = \"client-secret\"\n\n\
             [listen]\nadmin = \"{admin}\"\nagent = \"{agent}\"\nenroll = \"{enroll}\"\n\
             metrics = \"{metrics}\"\n\n\
             [content]\nsampled_blocks = 0\n\n\
             {scheduler}\n{advertise}\n[drill]\n{drill}",
            scheduler = scheduler.table(),
            endpoint = simulator.endpoint(),
            ca = simulator.ca().display(),
        )
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("controller.toml")
    }

    /// Changes the configuration for the next start.
    ///
    /// # Errors
    /// When the file cannot be written, or does not hold `from`.
    pub fn reconfigure(&self, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.config())?;
        ensure!(text.contains(from), "the configuration has no {from}");
        Ok(std::fs::write(self.config(), text.replace(from, to))?)
    }

    /// Its data: the database and the certificate authority.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The admin's context file.
    pub fn context(&self) -> PathBuf {
        self.folder.join("admin/context.toml")
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Starts it (again) and returns once it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it with more arguments.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_with(&mut self, more: &[&str]) -> Result<()> {
        let daemon = self.launch_with(more)?;
        ready(&daemon, &self.ready_file(), READY_LIMIT)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Starts it (again) and does not wait until it is ready.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn launch(&mut self) -> Result<()> {
        self.daemon = Some(self.launch_with(&[])?);
        Ok(())
    }

    fn launch_with(&mut self, more: &[&str]) -> Result<Daemon> {
        self.kill();
        // One of an earlier process would look like this one's.
        let _ = std::fs::remove_file(self.ready_file());
        let mut command = self.programs.command("azdr-controller");
        command.arg("run").arg("--config").arg(self.config());
        command.arg("--ready-file").arg(self.ready_file());
        command.env("AZDR_LOG", &self.log_filter).args(more);
        let log = self.folder.join("controller.log");
        Daemon::start("azdr-controller", command, &log, self.lifetime)
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("controller-ready.json")
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Stops it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |daemon| daemon.stop(STOP_LIMIT))
    }

    /// Uses these programs from the next start on.
    pub fn use_programs(&mut self, programs: &Programs) {
        self.programs = programs.clone();
    }

    /// Its process, while it runs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the controller does not run")
    }

    /// Everything it has printed, over all its lives.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.folder.join("controller.log"))
    }

    /// What `/metrics` says.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        Http::plain(self.addresses.metrics).request("GET", "/metrics", "")
    }

    /// What another path of the metrics listener says.
    ///
    /// # Errors
    /// When it does not answer with success.
    pub fn probe(&self, path: &str) -> Result<String> {
        Http::plain(self.addresses.metrics).request("GET", path, "")
    }
}
