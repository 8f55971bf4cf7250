//! A real azdr-thawd of a test's own, and agents that talk to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use azdr_thawd_client::{
    Client, MAX_FILE_SYSTEMS, OperationId, Prepare, Reply, Report, Request, State,
};

use crate::loop_mount::{LoopMount, other_thaw_process, wait_for};

/// First argument of this test binary when it plays an agent.
pub(crate) const AGENT_ROLE: &str = "play-an-agent";
/// First argument of this test binary when it plays the thaw process, with [`crate::strict`].
pub(crate) const STRICT_ROLE: &str = "play-a-thaw-process";

/// The program that is tested.
pub(crate) fn program() -> PathBuf {
    other_thaw_process().unwrap_or_else(|| env!("CARGO_BIN_EXE_azdr-thawd").into())
}

/// A running thaw process; dropping it ends it, and with it every freeze.
pub(crate) struct Thawd {
    child: Child,
    socket: PathBuf,
}

impl Thawd {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("thawd.sock");
        let mut command = Command::new(program());
        command.arg("--socket").arg(&socket);
        let thawd = Self::spawn(command, socket);
        thawd.wait_until_it_listens();
        thawd
    }

    /// This test binary in its place, whose allocator ends a process that allocates in the window.
    pub(crate) fn start_with_strict_allocator(folder: &Path) -> Self {
        let socket = folder.join("thawd.sock");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(STRICT_ROLE).arg(&socket);
        let thawd = Self::spawn(command, socket);
        thawd.wait_until_it_listens();
        thawd
    }

    /// Another one at the same socket; its first words, which it says only if it must wait.
    pub(crate) fn start_another(&self) -> (Self, String) {
        let mut command = Command::new(program());
        command.arg("--socket").arg(&self.socket).stderr(Stdio::piped());
        let mut another = Self::spawn(command, self.socket.clone());
        let mut words = String::new();
        BufReader::new(another.child.stderr.take().unwrap()).read_line(&mut words).unwrap();
        (another, words)
    }

    pub(crate) fn spawn(mut command: Command, socket: PathBuf) -> Self {
        Self { child: command.stdin(Stdio::null()).spawn().unwrap(), socket }
    }

    pub(crate) fn wait_until_it_listens(&self) {
        wait_for("azdr-thawd to listen", Duration::from_secs(5), || {
            Client::connect(&self.socket, 1_000).is_ok_and(|client| client.status().is_ok())
        });
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket, 10_000).unwrap()
    }

    /// The process id of the supervisor.
    pub(crate) fn supervisor(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the operation's process, which is the supervisor's only child.
    pub(crate) fn operation(&self) -> u32 {
        only_child(self.child.id())
    }

    /// The process id of the freezer, which is the operation's only child.
    pub(crate) fn freezer(&self) -> u32 {
        only_child(self.operation())
    }

    /// Sends a signal to the supervisor.
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(signal, self.child.id());
    }

    /// Writes its calls, and its children's, to `file` until the result is dropped.
    pub(crate) fn trace(&self, file: &Path) -> Tracer {
        self.trace_with(&["-o", file.to_str().unwrap()])
    }

    /// Runs it under an strace with these options.
    pub(crate) fn trace_with(&self, options: &[&str]) -> Tracer {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &self.child.id().to_string()])
            .args(options)
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
            // After a failed test it may wait for ever for a file system that is dropped later.
            let ended = (0..500).any(|_| {
                #[expect(clippy::disallowed_methods, reason = "polls a real process")]
                std::thread::sleep(Duration::from_millis(10));
                !matches!(self.child.try_wait(), Ok(None))
            });
            if !ended {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Somebody else's freeze, which ends before everything that was declared earlier is dropped: a thaw
/// process that waits for it does not end.
pub(crate) struct ForeignFreeze<'a>(&'a LoopMount);

impl<'a> ForeignFreeze<'a> {
    pub(crate) fn of(mount: &'a LoopMount) -> Self {
        mount.freeze();
        Self(mount)
    }

    /// Ends it; true when nobody else has.
    pub(crate) fn thaw(&self) -> bool {
        self.0.thaw()
    }
}

impl Drop for ForeignFreeze<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// A running strace.
pub(crate) struct Tracer {
    child: Child,
    /// Kept open: it says more.
    _words: BufReader<ChildStderr>,
}

impl Tracer {
    /// Ends it when the thaw process has become idle: strace may hang when it is ended while threads
    /// that it traces end.
    pub(crate) fn stop(self, client: &Client) {
        assert_eq!(client.status().unwrap().1, State::Idle);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        send_signal("INT", self.child.id());
        let _ = self.child.wait();
    }
}

fn only_child(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

/// The ids of a process's threads.
pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// A field of a thread's status, without what follows a number.
pub(crate) fn status_field(thread: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
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
    // A connection to an operation's process ends with that process.
    wait_for("the thaw process to be idle", Duration::from_secs(10), || {
        thawd.client().status().is_ok_and(|(_, state)| state == State::Idle)
    });
    let client = thawd.client();
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
pub(crate) fn be_an_agent(args: &[String]) {
    let [socket, operation, lease_ms, paths @ ..] = args else { panic!("{args:?}") };
    let roots: Vec<File> = paths.iter().map(|path| File::open(path).unwrap()).collect();
    let roots: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
    let client = Client::connect(Path::new(socket), 5_000).unwrap();
    let order = vec![0; roots.len()];
    frozen(&client, hold(operation, lease_ms.parse().unwrap(), 25_000, &order), &roots);
    println!("FROZEN");
    // Until the test is over, or this process is killed.
    let _ = std::io::stdin().read(&mut [0]);
}
