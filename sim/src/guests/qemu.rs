//! Guests that are real machines: one QEMU process per started VM.
//!
//! The processor is emulated (TCG): it is available everywhere, and what calls itself KVM on a
//! nested host may start a machine and never boot it. Every guest is sealed: it reaches the
//! addresses in [`QemuConfig::controller_forwards`] and nothing else, not even this machine; from
//! outside, its forwards lead in. Kernel and initial RAM disk come from outside, so that a disk is a
//! bare file system and a machine boots within seconds.
//!
//! It must not know what ARM calls these machines, nor what runs inside them.
//!
//! Invariants: no machine outlives this process; a disk file is never copied by reading it while a
//! machine may write to it.

mod backup;
mod command_line;
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::RwLock;

use self::machine::Machine;
use super::sparse;
use super::{GuestSpec, Guests};

/// What all machines have in common.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// The `qemu-system-x86_64` program.
    pub qemu: PathBuf,
    /// An uncompressed `vmlinux` with a PVH entry, or a `bzImage`.
    pub kernel: PathBuf,
    /// The initial RAM disk; it finds the root file system on the disk with the serial `os`.
    pub initrd: PathBuf,
    /// Where QEMU's own messages go, one file per VM. Created when missing.
    pub run_dir: PathBuf,
    /// RAM of each machine; 128 is enough for a small Linux.
    pub memory_mib: u32,
    /// What a guest can reach: an address in 10.0.2.0/24 other than .2, .3 and .15, with port, as
    /// the guest sees it (`10.0.2.100:9443`), and the address here that it leads to.
    pub controller_forwards: Vec<(String, SocketAddr)>,
    /// The `azure-sim-relay` program, which carries those connections.
    pub relay: PathBuf,
    /// Appended to the kernel's command line; may be empty.
    pub kernel_append_extra: String,
}

/// Runs guests as QEMU processes. Dropping it kills them.
#[derive(Debug)]
pub struct QemuGuests {
    config: QemuConfig,
    /// By vmId; ended machines stay until they are started again.
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    /// Taken for reading while a disk that no machine has is copied, and for writing while a
    /// machine starts with it.
    disk_locks: Mutex<BTreeMap<PathBuf, Arc<RwLock<()>>>>,
}

impl QemuGuests {
    /// No machines yet; starts nothing and checks nothing.
    pub fn new(config: QemuConfig) -> Self {
        Self { config, machines: Mutex::default(), disk_locks: Mutex::default() }
    }

    /// The process id of a running machine: for tests that kill one.
    pub fn process_id(&self, vm_id: &str) -> Option<u32> {
        Some(self.running(vm_id)?.process_id())
    }

    fn running(&self, vm_id: &str) -> Option<Arc<Machine>> {
        let machines = self.machines.lock().expect("no code panics while holding this lock");
        machines.get(vm_id).filter(|machine| machine.is_running()).cloned()
    }

    fn running_with_disk(&self, path: &Path) -> Option<Arc<Machine>> {
        let machines = self.machines.lock().expect("no code panics while holding this lock");
        machines.values().find(|machine| machine.is_running() && machine.has_disk(path)).cloned()
    }

    fn disk_lock(&self, path: &Path) -> Arc<RwLock<()>> {
        let mut locks = self.disk_locks.lock().expect("no code panics while holding this lock");
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(path.into()).or_default())
    }
}

#[async_trait]
impl Guests for QemuGuests {
    async fn start(&self, spec: &GuestSpec) -> anyhow::Result<()> {
        // In one order for everybody, so that two starts cannot wait for each other.
        let mut paths = BTreeSet::new();
        for disk in &spec.disks {
            paths.insert(canonical(&disk.path)?);
        }
        let mut guards = Vec::new();
        for path in &paths {
            guards.push(self.disk_lock(path).write_owned().await);
        }
        if self.running(&spec.vm_id).is_some() {
            return Ok(());
        }
        let machine = Machine::start(&self.config, spec)
            .await
            .with_context(|| format!("cannot start the machine of VM {}", spec.name))?;
        let mut machines = self.machines.lock().expect("no code panics while holding this lock");
        machines.insert(spec.vm_id.clone(), Arc::new(machine));
        Ok(())
    }

    async fn power_off(&self, vm_id: &str) -> anyhow::Result<()> {
        match self.running(vm_id) {
            Some(machine) => machine.power_off().await,
            None => Ok(()),
        }
    }

    async fn restart(&self, vm_id: &str) -> anyhow::Result<()> {
        let machine = self.running(vm_id).context("the machine does not run")?;
        machine.reset().await
    }

    async fn pause(&self, vm_id: &str) -> anyhow::Result<()> {
        self.running(vm_id).context("the machine does not run")?.pause().await
    }

    async fn resume(&self, vm_id: &str) -> anyhow::Result<()> {
        self.running(vm_id).context("the machine does not run")?.resume().await
    }

    async fn is_running(&self, vm_id: &str) -> bool {
        self.running(vm_id).is_some()
    }

    /// Any running machine that has the disk is asked for the copy, whatever `vm_id` says: reading
    /// a file that a machine writes to would give a torn copy.
    async fn snapshot_disk(
        &self,
        _vm_id: Option<&str>,
        source: &Path,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        let (source, target) = (canonical(source)?, target.to_owned());
        let copied = format!("cannot copy the disk {} to {}", source.display(), target.display());
        let unused = self.disk_lock(&source).read_owned().await;
        // Tasks of their own: what was begun is finished or cleaned up even when the caller leaves.
        let copying = if let Some(machine) = self.running_with_disk(&source) {
            drop(unused);
            tokio::spawn(async move { machine.back_up(&source, &target, at_instant).await })
        } else {
            tokio::task::spawn_blocking(move || {
                let _unused = unused;
                at_instant();
                Ok(sparse::copy(&source, &target)?)
            })
        };
        copying.await.context("the copying task panicked").flatten().context(copied)
    }

    async fn shut_down(&self) {
        let machines = {
            let mut machines =
                self.machines.lock().expect("no code panics while holding this lock");
            std::mem::take(&mut *machines)
        };
        for machine in machines.values() {
            machine.kill();
        }
        for machine in machines.values() {
            if let Err(e) = machine.power_off().await {
                tracing::error!(error = format!("{e:#}"), "a machine does not end");
            }
        }
    }
}

fn canonical(disk: &Path) -> anyhow::Result<PathBuf> {
    disk.canonicalize().with_context(|| format!("cannot find the disk {}", disk.display()))
}
