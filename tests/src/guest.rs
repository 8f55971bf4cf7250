//! A machine of the simulated Azure as the world sees it: over SSH.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::poll::{Look, until};
use crate::process::{Daemon, Ended, Lifetime, run};
use crate::waiting_tasks::{self, LIST, Task};

/// One command over SSH: even a package's installation, on an emulated machine whose host is busy.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// For what is busy with its disk to be seen at something else; what hangs never is.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A machine's SSH server.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The VM's name, for messages.
    pub name: String,
    address: SocketAddr,
    key: PathBuf,
}

impl Guest {
    /// The machine at an address, whose root accepts a key.
    pub fn new(name: &str, address: SocketAddr, key: &Path) -> Self {
        Self { name: name.to_owned(), address, key: key.to_owned() }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The private key that root's account accepts.
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// The ssh command line for people.
    pub fn line(&self, command: &str) -> String {
        let Self { address, key, .. } = self;
        let anew = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
        format!(
            "ssh {anew} -i {} -p {} root@{} {command}",
            key.display(),
            address.port(),
            address.ip()
        )
        .trim_end()
        .to_owned()
    }

    /// Runs a command, whatever comes of it.
    ///
    /// # Errors
    /// When ssh cannot be run, or does not end.
    pub fn try_run(&self, command: &str) -> Result<Ended> {
        self.with_input(command, Stdio::null())
    }

    /// Starts a command in the machine; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub fn start(&self, command: &str, log: &Path) -> Result<Daemon> {
        Daemon::start("ssh", self.ssh(command), log, Lifetime::OfStarter)
    }

    fn with_input(&self, command: &str, input: Stdio) -> Result<Ended> {
        let mut ssh = self.ssh(command);
        ssh.stdin(input);
        run(ssh, COMMAND_LIMIT, None)
    }

    fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
            .args(["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5"])
            .args(["-o", "ServerAliveCountMax=3", "-o", "IdentitiesOnly=yes", "-i"])
            .arg(&self.key)
            .args(["-p", &self.address.port().to_string()])
            .arg(format!("root@{}", self.address.ip()))
            .arg(command);
        ssh
    }

    /// Runs a command, which must succeed, and returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, command: &str) -> Result<String> {
        self.succeeded(command, self.try_run(command)?)
    }

    /// Runs a command with a secret on its stdin, where no process list shows it.
    ///
    /// # Errors
    /// When it fails.
    pub fn run_with_secret(&self, command: &str, secret: &str) -> Result<String> {
        self.run_with_bytes(command, secret.as_bytes())
    }

    /// Writes a file in the machine.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        self.run_with_bytes(&format!("cat >{path}"), content).map(drop)
    }

    fn run_with_bytes(&self, command: &str, bytes: &[u8]) -> Result<String> {
        let file = tempfile::tempfile()?;
        std::io::Write::write_all(&mut &file, bytes)?;
        std::io::Seek::rewind(&mut &file)?;
        self.succeeded(command, self.with_input(command, Stdio::from(file))?)
    }

    fn succeeded(&self, command: &str, ended: Ended) -> Result<String> {
        ensure!(
            ended.status.success(),
            "`{command}` failed on {} ({}): {}{}",
            self.name,
            ended.status,
            ended.stdout,
            ended.stderr
        );
        Ok(ended.stdout.trim().to_owned())
    }

    /// Whether nobody in it hangs in an uninterruptible sleep, as users of a frozen file system do. Who is
    /// so in one look and not in a later one is busy with a disk.
    ///
    /// # Errors
    /// When somebody was found so in every look, with names; and when it does not answer.
    pub fn nobody_waits(&self) -> Result<()> {
        let mut suspects = waiting_tasks::waiting(&self.run(LIST)?)?;
        until(&format!("nobody in {} hangs in state D", self.name), WAIT_LIMIT, || {
            if suspects.is_empty() {
                return Ok(Look::Done(()));
            }
            let waiting = waiting_tasks::waiting(&self.run(LIST)?)?;
            suspects.retain(|task| waiting.contains(task));
            let names: Vec<String> = suspects.iter().map(Task::to_string).collect();
            Ok(Look::Waiting(names.join(", ")))
        })
    }

    /// Waits until a command runs in it. (The port is open long before anybody answers there.)
    ///
    /// # Errors
    /// When it does not answer within `limit`.
    pub fn await_ssh(&self, limit: Duration) -> Result<()> {
        until(&format!("{} answers over SSH", self.name), limit, || {
            let ended = self.try_run("true")?;
            Ok(match ended.status.success() {
                true => Look::Done(()),
                false => Look::Waiting(ended.stderr.trim().to_owned()),
            })
        })
    }

    /// The fingerprint by which SSH knows it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn host_key(&self) -> Result<String> {
        let mut keyscan = Command::new("ssh-keyscan");
        keyscan.args(["-T", "10", "-t", "ed25519", "-p", &self.address.port().to_string()]);
        keyscan.arg(self.address.ip().to_string()).stdin(Stdio::null());
        let ended = run(keyscan, COMMAND_LIMIT, None)?;
        let key = ended.stdout.lines().find(|l| l.contains("ssh-ed25519"));
        let key = key.and_then(|l| l.split_whitespace().nth(2));
        key.map(str::to_owned).with_context(|| format!("{} shows no host key", self.name))
    }

    /// The kernel's id of this boot.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn boot_id(&self) -> Result<String> {
        self.run("cat /proc/sys/kernel/random/boot_id")
    }
}
