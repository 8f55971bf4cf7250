//! A real azdr-thawd of a test's own, and agents that talk to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use azdr_thawd::client::Client;
use azdr_thawd::protocol::{MAX_FILE_SYSTEMS, OperationId, Prepare, Reply, Report, Request, State};

use crate::loop_mount::wait_for;

/// First argument of this test binary when it plays an agent.
pub(crate) const AGENT_ROLE: &str = "play-an-agent";

/// A running thaw process; dropping it ends it, and with it every freeze.
pub(crate) struct Thawd {
    child: Child,
    socket: PathBuf,
}

impl Thawd {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("thawd.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_azdr-thawd"))
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let thawd = Self { child, socket };
        wait_for("azdr-thawd to listen", Duration::from_secs(5), || {
            Client::connect(&thawd.socket, 1_000).is_ok_and(|client| client.status().is_ok())
        });
        thawd
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket, 10_000).unwrap()
    }

    /// The process id of its freezer, which is its only child.
    pub(crate) fn freezer(&self) -> u32 {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// Sends a signal to this thaw process.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }

    /// Writes its calls, and its children's, to `file` until the result is dropped.
    pub(crate) fn trace(&self, file: &Path) -> Tracer {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &self.child.id().to_string(), "-o"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        Tracer { child, _words: words }
    }

    /// Waits for its end; true when it ended well.
    pub(crate) fn ended(&mut self, limit: Duration) -> bool {
        let mut status = None;
        wait_for("azdr-thawd to end", limit, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }
}

impl Drop for Thawd {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}

/// A running strace.
pub(crate) struct Tracer {
    child: Child,
    /// Kept open: it says more.
    _words: BufReader<ChildStderr>,
}

impl Drop for Tracer {
    fn drop(&mut self) {
        send_signal("INT", self.child.id());
        let _ = self.child.wait();
    }
}

pub(crate) fn send_signal(signal: &str, pid: u32) {
    let pid = pid.to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
}

pub(crate) fn id(text: &str) -> OperationId {
    OperationId::new(text).unwrap()
}

/// Limits and levels for a hold of `levels.len()` file systems.
pub(crate) fn hold(operation: &str, lease_ms: u32, hold_limit_ms: u32, order: &[u8]) -> Prepare {
    let mut levels = [0; MAX_FILE_SYSTEMS];
    levels[..order.len()].copy_from_slice(order);
    let count = order.len() as u8;
    Prepare { operation: id(operation), lease_ms, hold_limit_ms, count, levels }
}

/// Arms and freezes; returns what the thaw process says then.
pub(crate) fn freeze(client: &Client, prepare: Prepare, roots: &[BorrowedFd<'_>]) -> Reply {
    client.prepare(prepare, roots).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    client.receive().unwrap()
}

/// As [`freeze`], which must succeed.
#[track_caller]
pub(crate) fn frozen(client: &Client, prepare: Prepare, roots: &[BorrowedFd<'_>]) -> Report {
    match freeze(client, prepare, roots) {
        Reply::Frozen(report) => report,
        other => panic!("expected FROZEN, got {other:?}"),
    }
}

/// Receives the end of an operation.
#[track_caller]
pub(crate) fn thawed(client: &Client) -> Report {
    match client.receive().unwrap() {
        Reply::Thawed(report) => report,
        other => panic!("expected THAWED, got {other:?}"),
    }
}

/// Asks for the end of an operation whose agent is gone.
pub(crate) fn last_result(thawd: &Thawd, operation: &str) -> Report {
    let client = thawd.client();
    wait_for("the thaw process to be idle", Duration::from_secs(10), || {
        client.status().unwrap().1 == State::Idle
    });
    client.send(&Request::LastResult(id(operation))).unwrap();
    thawed(&client)
}

/// Starts another process that freezes `paths` and then neither renews nor thaws.
pub(crate) fn agent_process(
    socket: &Path,
    operation: &str,
    lease_ms: u32,
    paths: &[&Path],
) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([AGENT_ROLE, socket.to_str().unwrap(), operation, &lease_ms.to_string()])
        .args(paths)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "FROZEN\n");
    child
}

/// The other process.
pub(crate) fn be_an_agent() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let [socket, operation, lease_ms, paths @ ..] = args.as_slice() else { panic!("{args:?}") };
    let roots: Vec<File> = paths.iter().map(|path| File::open(path).unwrap()).collect();
    let roots: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
    let client = Client::connect(Path::new(socket), 5_000).unwrap();
    let order = vec![0; roots.len()];
    frozen(&client, hold(operation, lease_ms.parse().unwrap(), 25_000, &order), &roots);
    println!("FROZEN");
    // Until the test is over, or this process is killed.
    let _ = std::io::stdin().read(&mut [0]);
}
