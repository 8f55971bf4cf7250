//! The machine that an agent runs on: its metadata service, configuration, thaw process and agent.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_thawd_client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::controller::{Controller, TOKEN};
use crate::loop_mount::{LoopMount, other_thaw_process, wait_for};

/// First argument of this test binary when it plays the thaw process.
pub(crate) const THAWD_ROLE: &str = "play-azdr-thawd";
/// vmId of the machine that was enrolled.
pub(crate) const VM_ID: &str = "da560509-fad4-4f76-a9f1-63614eda019a";

/// A process of this test's own; dropping it ends it.
pub(crate) struct Process(Child);

/// A process that one of them started.
pub(crate) struct ChildProcess(u32);

/// How many threads a process has.
pub(crate) fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// Sends a signal to a process that a test started.
pub(crate) fn signal(signal: &str, pid: u32) {
    let pid = pid.to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

impl ChildProcess {
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.0);
    }
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.0.id());
    }

    /// The processes that it has started, by any of its threads.
    pub(crate) fn children(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id()));
        let of_task = |task: std::io::Result<std::fs::DirEntry>| {
            let children =
                task.and_then(|task| std::fs::read_to_string(task.path().join("children")));
            let children = children.unwrap_or_default();
            children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        };
        tasks.map(|tasks| tasks.flat_map(of_task).collect()).unwrap_or_default()
    }

    /// Its only child, which is no child of this test's.
    pub(crate) fn child(&self) -> ChildProcess {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        ChildProcess(children.trim().parse().unwrap())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits for its end; true when it ended well.
    pub(crate) fn ended(&mut self) -> bool {
        self.exit_code() == Some(0)
    }

    /// Waits for its end, and how it ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_for("a process to end", Duration::from_secs(10), || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = self.0.wait();
        }
    }
}

/// A machine. Its processes end when it is dropped, before its folder goes.
pub(crate) struct Machine {
    pub(crate) folder: tempfile::TempDir,
    /// In memory, as an agent's run directory must be.
    run_dir: tempfile::TempDir,
    vm_id: Arc<Mutex<String>>,
    metadata_url: String,
}

impl Machine {
    /// A machine with this vmId.
    pub(crate) async fn new(vm_id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metadata_url = format!("http://{}", listener.local_addr().unwrap());
        let vm_id = Arc::new(Mutex::new(vm_id.to_owned()));
        tokio::spawn(serve_metadata(listener, vm_id.clone()));
        let run_dir = tempfile::tempdir_in("/dev/shm").unwrap();
        Self { folder: tempfile::tempdir().unwrap(), run_dir, vm_id, metadata_url }
    }

    /// What happens to a copy of its disks: they boot as another machine.
    pub(crate) fn becomes(&self, vm_id: &str) {
        *self.vm_id.lock().unwrap() = vm_id.to_owned();
    }

    /// Where its metadata service is.
    pub(crate) fn metadata_url(&self) -> &str {
        &self.metadata_url
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("thawd.sock")
    }

    /// Azure Backup's lock on this machine.
    pub(crate) fn lock(&self) -> PathBuf {
        self.path("azure/lock/SafeFreezeLockFile")
    }

    /// Writes a configuration that covers `mounts` only.
    pub(crate) fn configure(&self, controller: &str, mounts: &[&LoopMount]) {
        // A machine without file systems of its own covers a place where nothing is mounted: the
        // host's must never be touched.
        let nowhere = self.path("nowhere");
        let mut places: Vec<&Path> = mounts.iter().map(|mount| mount.path()).collect();
        if places.is_empty() {
            places.push(&nowhere);
        }
        let text = format!(
            "controller = {controller:?}\nstate_dir = {:?}\ninstance_metadata_url = {:?}\n\
             thawd_socket = {:?}\nfile_systems = {places:?}\nrun_dir = {:?}\nsafe_freeze_lock = {:?}\n",
            self.path("state"),
            self.metadata_url,
            self.socket(),
            self.run_dir.path(),
            self.lock(),
        );
        std::fs::write(self.path("agent.toml"), text).unwrap();
    }

    /// Adds lines to the configuration; none: that there are no hooks, whatever the host has.
    pub(crate) fn configure_more(&self, more: &str) {
        let none = format!("[hooks]\ndirectory = {:?}\n", self.path("no-hooks"));
        let more = if more.is_empty() { &none } else { more };
        let path = self.path("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}{more}")).unwrap();
    }

    pub(crate) fn start_thawd(&self) -> Process {
        let (program, role) = match other_thaw_process() {
            Some(program) => (program, "--socket"),
            None => (std::env::current_exe().unwrap(), THAWD_ROLE),
        };
        let child = Command::new(program)
            .arg(role)
            .arg(self.socket())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        wait_for("the thaw process to listen", Duration::from_secs(10), || {
            Client::connect(&self.socket(), 1_000).is_ok_and(|client| client.status().is_ok())
        });
        process
    }

    /// Runs `azdr-agent` to its end, while the test's servers go on.
    pub(crate) async fn agent(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_azdr-agent"));
        command.args(args).arg("--config").arg(self.path("agent.toml"));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Runs `azdr-agent` to its end under an strace with these options.
    pub(crate) fn traced_agent(&self, options: &[&str], args: &[&str]) -> Output {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]).args(options).arg(env!("CARGO_BIN_EXE_azdr-agent"));
        command.args(args).arg("--config").arg(self.path("agent.toml")).output().unwrap()
    }

    /// Starts the daemon, traced by an strace with these options that is no parent of it.
    pub(crate) fn start_traced_agent(&self, options: &[&str]) -> Process {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq"]).args(options);
        command.arg(env!("CARGO_BIN_EXE_azdr-agent")).args(["run", "--config"]);
        command.arg(self.path("agent.toml")).stdin(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }

    /// Changes the configuration's text.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let path = self.path("agent.toml");
        let text = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(path, text).unwrap();
    }

    /// Enrols the machine, as configured.
    pub(crate) async fn enroll(&self, controller: &Controller, token: &str) -> Output {
        let (enroll, agents) = (&controller.enroll_address, &controller.agent_address);
        let (fingerprint, state) = (&controller.fingerprint, self.path("state"));
        let state = state.to_str().unwrap();
        let args = ["enroll", "--controller", enroll, "--agent-address", agents, "--token", token];
        let more = ["--ca-fingerprint", fingerprint, "--state-dir", state];
        let metadata = ["--instance-metadata-url", &self.metadata_url];
        self.agent(&[&args[..], &more[..], &metadata[..]].concat()).await
    }

    /// Starts the daemon.
    pub(crate) fn start_agent(&self) -> Process {
        self.start_agent_logging_to(&self.path("agent.log"))
    }

    pub(crate) fn start_agent_logging_to(&self, log: &Path) -> Process {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_azdr-agent"))
            .args(["run", "--config"])
            .arg(self.path("agent.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

/// An enrolled machine with a running agent, its controller, and nothing to freeze.
pub(crate) async fn enrolled(mounts: &[&LoopMount]) -> (Machine, Controller) {
    let controller = Controller::start(VM_ID);
    let machine = Machine::new(VM_ID).await;
    machine.configure(&controller.agent_address, mounts);
    let output = machine.enroll(&controller, TOKEN).await;
    assert!(output.status.success(), "{output:?}");
    (machine, controller)
}

async fn serve_metadata(listener: TcpListener, vm_id: Arc<Mutex<String>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        let len = stream.read(&mut request).await.unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..len]).into_owned();
        assert!(request.contains("Metadata: true"), "{request}");
        assert!(request.starts_with("GET /metadata/instance/compute?api-version="), "{request}");
        // Azure's case is not to be relied on.
        let id = vm_id.lock().unwrap().to_uppercase();
        let body = format!("{{\"name\":\"vm\",\"vmId\":\"{id}\"}}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }
}
