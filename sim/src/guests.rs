//! What a started VM really is: the seam between the world and the machines behind it.
//!
//! The world (the control plane) knows VMs and disks; an implementation of [`Guests`] knows how to
//! run them. Disk content is raw, sparse files, unless an implementation keeps
//! [contents](crate::content::Contents) of its own.

pub mod none;
mod process;
pub mod qemu;
mod qmp;
pub mod simulated;
pub(crate) mod sparse;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::Durability;
use crate::content::Contents;

/// A machine to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Azure's vmId (GUID, lower case); also the machine's SMBIOS product UUID.
    pub vm_id: String,
    /// For logs and the kernel command line.
    pub name: String,
    /// The OS disk first, then data disks by LUN.
    pub disks: Vec<GuestDisk>,
    /// Ways in from outside: what a public IP address and its network security group permit.
    pub forwards: Vec<Forward>,
    /// Where the serial console is appended: the boot diagnostics.
    pub serial_log: PathBuf,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDisk {
    /// `None` for the OS disk.
    pub lun: Option<u32>,
    /// Raw image; exists.
    pub path: PathBuf,
}

/// A TCP port of the guest, reachable on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Loopback address and port to listen on.
    pub listen: SocketAddr,
    /// Port inside the guest.
    pub guest_port: u16,
}

/// Runs machines. All calls are idempotent; errors are words for the simulator's log and for ARM's
/// error message.
#[async_trait]
pub trait Guests: Send + Sync {
    /// Contents in which these machines find their disks by the file names of [`GuestDisk::path`];
    /// `None`: they need files. Called once, with the state directory to begin from, if there is
    /// one, before any machine is started.
    ///
    /// # Errors
    /// The state directory cannot be read.
    fn contents(
        &self,
        _state_dir: Option<&Path>,
        _durability: Durability,
    ) -> std::io::Result<Option<Arc<dyn Contents>>> {
        Ok(None)
    }

    /// The serial console's log, of machines that do not write it to [`GuestSpec::serial_log`].
    fn serial_log(&self, _vm_id: &str) -> Option<Bytes> {
        None
    }

    /// These machines, if they are simulated ones.
    fn simulated(&self) -> Option<&simulated::SimulatedGuests> {
        None
    }

    /// Starts the machine; returns once it runs (not: once it has booted). Already running: nothing.
    async fn start(&self, spec: &GuestSpec) -> anyhow::Result<()>;

    /// Ends the machine at once, like pulling its plug. Not running: nothing.
    async fn power_off(&self, vm_id: &str) -> anyhow::Result<()>;

    /// Resets the machine, like its reset button.
    async fn restart(&self, vm_id: &str) -> anyhow::Result<()>;

    /// Lets the machine stand still, as its host does that moves or mends it: its clock stands, too. Its disks
    /// can be copied. Standing still: nothing.
    async fn pause(&self, _vm_id: &str) -> anyhow::Result<()> {
        anyhow::bail!("these machines cannot be paused")
    }

    /// Lets a paused machine go on. Not paused: nothing.
    async fn resume(&self, _vm_id: &str) -> anyhow::Result<()> {
        anyhow::bail!("these machines cannot be paused")
    }

    /// Whether the machine runs.
    async fn is_running(&self, vm_id: &str) -> bool;

    /// Writes what `source` (a disk file) holds at one instant into the new file `target` (raw,
    /// sparse) and returns when `target` is complete and durable. The disk may belong to the running
    /// machine `vm_id`. `at_instant` is called as soon as the instant is fixed: what the guest writes
    /// afterwards is not in the copy. A partial `target` is removed on failure.
    async fn snapshot_disk(
        &self,
        vm_id: Option<&str>,
        source: &Path,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()>;

    /// Ends all machines.
    async fn shut_down(&self);
}
