//! One machine: its process, the connection to it, and what can be done to it from outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::command_line;
use super::{QemuConfig, canonical};
use crate::guests::GuestSpec;
use crate::guests::process::Process;
use crate::guests::qmp::Qmp;

/// A killed process is gone at once unless the kernel is writing for it.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A machine that was started; it may have ended since. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Machine {
    process: Process,
    pub(super) qmp: Qmp,
    disks: Vec<AttachedDisk>,
    /// Numbers this machine's backups.
    pub(super) backups: AtomicU64,
}

/// A disk of a running machine.
#[derive(Debug)]
pub(super) struct AttachedDisk {
    /// Canonical.
    path: PathBuf,
    /// QEMU's name for it.
    pub(super) node: String,
    /// Held during a backup: one at a time per disk.
    pub(super) backup: tokio::sync::Mutex<()>,
}

impl Machine {
    /// Starts the machine and returns once its processor runs.
    pub(super) async fn start(config: &QemuConfig, spec: &GuestSpec) -> anyhow::Result<Self> {
        ensure!(spec.disks.first().is_some_and(|disk| disk.lun.is_none()), "it has no OS disk");
        let mut disks = Vec::new();
        for disk in &spec.disks {
            let path = canonical(&disk.path)?;
            let node = command_line::node_name(disk);
            disks.push(AttachedDisk { path, node, backup: tokio::sync::Mutex::default() });
        }
        fs::create_dir_all(&config.run_dir)
            .with_context(|| format!("cannot create {}", config.run_dir.display()))?;
        let messages = config.run_dir.join(format!("{}.qemu.log", spec.vm_id));

        // A socket pair rather than a socket file: no path that is too long or already taken, and
        // the connection ends exactly when the process does.
        let (ours, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
        ours.set_nonblocking(true).context("cannot prepare a socket")?;
        let process = Process::spawn(command(config, spec, theirs.into(), &messages)?)
            .await
            .with_context(|| format!("cannot run {}", config.qemu.display()))?;
        let ours = tokio::net::UnixStream::from_std(ours).context("cannot prepare a socket")?;
        let connected = async {
            let qmp = Qmp::connect(ours).await?;
            let status = qmp.execute("query-status", json!({})).await?;
            ensure!(status["running"] == true, "it does not run, but is {}", status["status"]);
            anyhow::Ok(qmp)
        };
        match connected.await {
            Ok(qmp) => {
                tracing::info!(
                    vm = spec.name,
                    vm_id = spec.vm_id,
                    pid = process.id(),
                    "guest runs"
                );
                Ok(Self { process, qmp, disks, backups: AtomicU64::new(0) })
            }
            Err(e) => Err(e.context(last_words(&messages))),
        }
    }

    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Whether the machine has the disk file, given by its canonical path.
    pub(super) fn has_disk(&self, path: &Path) -> bool {
        self.disk(path).is_some()
    }

    pub(super) fn disk(&self, path: &Path) -> Option<&AttachedDisk> {
        self.disks.iter().find(|disk| disk.path == path)
    }

    /// Pulls the plug without waiting.
    pub(super) fn kill(&self) {
        self.process.kill();
    }

    /// Pulls the plug; returns once the process is gone and its disks are free.
    pub(super) async fn power_off(&self) -> anyhow::Result<()> {
        self.kill();
        self.ended().await
    }

    /// Waits for the end of a process that is about to end.
    pub(super) async fn ended(&self) -> anyhow::Result<()> {
        tokio::time::timeout(END_LIMIT, self.process.ended())
            .await
            .with_context(|| format!("process {} does not end", self.process_id()))?;
        Ok(())
    }

    pub(super) async fn reset(&self) -> anyhow::Result<()> {
        self.qmp.execute("system_reset", json!({})).await?;
        Ok(())
    }

    pub(super) async fn pause(&self) -> anyhow::Result<()> {
        self.qmp.execute("stop", json!({})).await?;
        Ok(())
    }

    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        self.qmp.execute("cont", json!({})).await?;
        Ok(())
    }
}

fn command(
    config: &QemuConfig,
    spec: &GuestSpec,
    qmp: OwnedFd,
    messages: &Path,
) -> anyhow::Result<Command> {
    let log =
        File::create(messages).with_context(|| format!("cannot create {}", messages.display()))?;
    let mut command = Command::new(&config.qemu);
    command
        .args(command_line::arguments(config, spec, qmp.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log);
    // The closure owns the descriptor, so it stays open here until the child has its own.
    // SAFETY: between fork and exec only an async-signal-safe system call is made.
    unsafe {
        command.pre_exec(move || inherit(&qmp));
    }
    Ok(command)
}

/// Runs in the child: keeps the descriptor open across `exec`.
fn inherit(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: a system call without pointers on an open descriptor.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What QEMU said before it gave up.
fn last_words(messages: &Path) -> String {
    let said = fs::read_to_string(messages).unwrap_or_default();
    match said.trim() {
        "" => "QEMU said nothing".into(),
        said => format!("QEMU said: {said}"),
    }
}
