//! The simulated Azure and the controller, as processes of their release builds, and their memory.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use azdr_env::Env;
use serde_json::{Value, json};

use crate::fleet::{CLIENT_ID, CLIENT_SECRET, SUBSCRIPTION, TENANT};

/// How long a process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where everything is.
pub(crate) struct Places {
    pub(crate) folder: PathBuf,
    pub(crate) programs: PathBuf,
}

impl Places {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.file("data/azdr.db")
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("AZDR_") {
                command.env_remove(variable);
            }
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Makes the simulated Azure's state.
    pub(crate) fn init_azure(&self, world: &Value) -> anyhow::Result<()> {
        std::fs::write(self.file("world.json"), world.to_string())?;
        let mut init = self.program("azure-sim");
        init.arg("init").arg("--state").arg(self.file("sim"));
        init.arg("--world").arg(self.file("world.json")).stderr(Stdio::null());
        ensure!(init.status()?.success(), "azure-sim init failed");
        Ok(())
    }

    /// Starts the simulated Azure. It has the VMs and not the millions of snapshots; so that nobody
    /// takes those for deleted, it answers no listing by tags.
    pub(crate) async fn start_azure(&self, env: &Env) -> anyhow::Result<(Running, SocketAddr)> {
        let address = free_address()?;
        let faults = json!([{
            "match": {"method": "GET", "path_contains": "/resources", "count": u32::MAX},
            "action": {"status": {"status": 503, "code": "ServiceUnavailable"}},
        }]);
        std::fs::write(self.file("faults.json"), faults.to_string())?;
        let mut run = self.program("azure-sim");
        run.arg("run")
            .arg("--state")
            .arg(self.file("sim"))
            .arg("--listen")
            .arg(address.to_string());
        run.arg("--faults").arg(self.file("faults.json"));
        let running = self.start(run, "azure-sim", env).await?;
        Ok((running, address))
    }

    /// Writes the controller's configuration, and the operator's context once there is one.
    pub(crate) fn configure(&self, azure: SocketAddr) -> anyhow::Result<()> {
        let admin = free_address()?;
        std::fs::write(self.file("client-secret"), CLIENT_SECRET)?;
        std::fs::write(self.file("passphrase"), "a passphrase of the benchmark\n")?;
        std::fs::write(
            self.file("controller.toml"),
            format!(
                "data_dir = \"data\"\n\n\
                 [cloud]\nname = \"simulated\"\nendpoint = \"https://{azure}\"\n\
                 authority = \"https://{azure}\"\ntenant_id = \"{TENANT}\"\n\
                 subscriptions = [\"{SUBSCRIPTION}\"]\nca_certificate = \"sim/ca.pem\"\n\
                 poll_pace = \"quick\"\n\n\
                 [credential]\nkind = \"client_secret\"\nclient_id = \"{CLIENT_ID}\"\n\
                 client_secret_file = \"client-secret\"\n\n\
                 [listen]\nadmin = \"{admin}\"\nagent = \"127.0.0.1:0\"\nenroll = \"127.0.0.1:0\"\n\
                 metrics = \"127.0.0.1:0\"\n\n[advertise]\nadmin = \"{admin}\"\n"
            ),
        )?;
        let context = self.file("admin/context.toml");
        if let Ok(text) = std::fs::read_to_string(&context) {
            let moved = |line: &str| match line.starts_with("controller = ") {
                true => format!("controller = \"{admin}\"\n"),
                false => format!("{line}\n"),
            };
            std::fs::write(context, text.lines().map(moved).collect::<String>())?;
        }
        Ok(())
    }

    pub(crate) fn init_controller(&self) -> anyhow::Result<()> {
        let mut init = self.program("azdr-controller");
        init.arg("init")
            .arg("--config")
            .arg(self.file("controller.toml"))
            .args(["--admin", "bench"]);
        init.arg("--bundle").arg(self.file("admin")).arg("--export").arg(self.file("ca.age"));
        init.arg("--passphrase-file").arg(self.file("passphrase")).stdout(Stdio::null());
        ensure!(init.status()?.success(), "azdr-controller init failed");
        Ok(())
    }

    pub(crate) async fn start_controller(&self, env: &Env) -> anyhow::Result<Running> {
        let mut run = self.program("azdr-controller");
        run.arg("run").arg("--config").arg(self.file("controller.toml"));
        self.start(run, "controller", env).await
    }

    /// Starts a process and waits until it is ready.
    async fn start(&self, mut command: Command, name: &str, env: &Env) -> anyhow::Result<Running> {
        let (ready, log) =
            (self.file(&format!("{name}-ready.json")), self.file(&format!("{name}.log")));
        // One of an earlier process would look like this one's.
        let _ = std::fs::remove_file(&ready);
        command.arg("--ready-file").arg(&ready).stdout(Stdio::null()).stderr(File::create(&log)?);
        // SAFETY: prctl is safe after a fork; nothing else is done there. Whoever ends this program ends
        // what it has started.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let begun = env.clock.monotonic();
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut running = Running { process, took: Duration::ZERO };
        loop {
            running.took = env.clock.monotonic().since(begun);
            if ready.exists() {
                return Ok(running);
            }
            if let Some(status) = running.process.try_wait()? {
                bail!("{name} has ended: {status}\n{}", std::fs::read_to_string(&log)?);
            }
            ensure!(running.took < PATIENCE, "{name} does not get ready");
            azdr_env::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A process that ends with this.
pub(crate) struct Running {
    process: Child,
    /// Until it was ready.
    pub(crate) took: Duration,
}

impl Running {
    /// Resident memory now and at most, in MiB.
    pub(crate) fn memory_mib(&self) -> anyhow::Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let of = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|l| l.trim().strip_suffix(" kB")).context("a line of memory")?;
            Ok(kib.trim().parse::<u64>()? / 1024)
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    /// Waits until it has done what a start brings with it, and is idle for a second: less than a
    /// twentieth of a processor. Answers how long that took.
    pub(crate) async fn settle(&self, env: &Env) -> anyhow::Result<Duration> {
        let begun = env.clock.monotonic();
        let (mut before, mut quiet) = (self.ticks()?, 0);
        while quiet < 2 {
            azdr_env::sleep(Duration::from_millis(500)).await;
            let now = self.ticks()?;
            // A hundred ticks are a second.
            quiet = if now - before <= 2 { quiet + 1 } else { 0 };
            before = now;
            let waited = env.clock.monotonic().since(begun);
            ensure!(waited < PATIENCE, "the controller is not idle after {} s", waited.as_secs());
        }
        Ok(env.clock.monotonic().since(begun))
    }

    /// Processor time, in hundredths of a second.
    fn ticks(&self) -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(") ").context("the line has a name")?.1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
        field(11).zip(field(12)).map(|(user, system)| user + system).context("processor times")
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let id = libc::pid_t::try_from(self.process.id())?;
        // SAFETY: no memory is passed; the process is our child and not reaped yet.
        let sent = unsafe { libc::kill(id, libc::SIGTERM) };
        ensure!(sent == 0, "cannot send SIGTERM");
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address on loopback that nobody uses right now, below the ports of outgoing connections.
fn free_address() -> anyhow::Result<SocketAddr> {
    let begin = 12_000 + (std::process::id() % 10_000) as u16;
    for port in begin..begin + 10_000 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && GIVEN.lock().expect("only pushed to").insert(port)
        {
            return Ok(address);
        }
    }
    bail!("no free port")
}

static GIVEN: std::sync::Mutex<std::collections::BTreeSet<u16>> =
    std::sync::Mutex::new(std::collections::BTreeSet::new());

/// The sizes of a database and of its log, in MiB.
pub(crate) fn size_mib(database: &Path) -> u64 {
    let log = database.with_extension("db-wal");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    (size(database) + size(&log)) >> 20
}
