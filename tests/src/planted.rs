//! Data that are planted on both disks of a machine, and looked for again after it was destroyed and came
//! back. The commands are run by whoever asks: the demo shows them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::lab::Lab;
use crate::poll::{Look, until};

const WRITER_LIMIT: Duration = Duration::from_secs(60);
const DEATH_LIMIT: Duration = Duration::from_secs(120);

/// Runs a command in the machine, which must succeed, and returns what it printed.
pub type Shell<'a> = &'a dyn Fn(&str) -> Result<String>;

/// What the machine knew before the disaster.
#[derive(Debug)]
pub struct Planted {
    marker: String,
    payload_hash: String,
    /// The fingerprint by which SSH knows it.
    pub host_key: String,
    /// The boot in which the data were planted.
    pub boot_id: String,
    /// Steps of the writer when the data were planted.
    step: u64,
}

impl Planted {
    /// Plants a marker and 5,000,000 bytes, and starts a writer that keeps an invariant across both disks.
    ///
    /// # Errors
    /// When the machine does not answer, or its writer does not write.
    pub fn plant(guest: &Guest, shell: Shell<'_>) -> Result<Self> {
        let random = "head -c 16 /dev/urandom | md5sum | cut -c 1-32";
        let marker = shell(&format!("{random} | tee /root/marker"))?;
        let payload = "head -c 5000000 /dev/urandom >/data/payload; sha256sum /data/payload";
        let payload_hash = shell(payload)?;
        // Every 20 ms: record i on the OS disk, then on the data disk, both durably.
        shell("echo 20000 >/etc/lab-writer; sync")?;
        let step = until("the writer writes", WRITER_LIMIT, || {
            let ended = guest.try_run("lab-check")?;
            Ok(match steps(&ended.stdout) {
                Some(step) if ended.status.success() && step >= 10 => Look::Done(step),
                _ => Look::Waiting(ended.stdout.trim().to_owned()),
            })
        })?;
        shell("lab-check")?;
        Ok(Self {
            marker,
            payload_hash,
            host_key: guest.host_key()?,
            boot_id: guest.boot_id()?,
            step,
        })
    }

    /// Looks at the machine from outside: it has these data and nothing newer than the backup, on both
    /// disks, the same SSH identity, and is another boot, which is returned.
    ///
    /// # Errors
    /// When one of these is not so.
    pub fn check(&self, guest: &Guest, shell: Shell<'_>) -> Result<String> {
        let marker = shell("cat /root/marker")?;
        ensure!(marker == self.marker, "the marker is {marker}");
        let hash = shell("sha256sum /data/payload")?;
        ensure!(hash == self.payload_hash, "the payload has changed");
        let check = shell("lab-check")?;
        let step = steps(&check).context("the writer's steps")?;
        ensure!(step >= self.step, "the writer is at step {step}, it was at {}", self.step);
        shell("[ ! -e /root/written-after-the-backup ]")?;
        let host_key = guest.host_key()?;
        ensure!(host_key == self.host_key, "another host key: {host_key}");
        let boot_id = guest.boot_id()?;
        ensure!(boot_id != self.boot_id, "it was never restarted");
        Ok(boot_id)
    }
}

/// The writer's steps that are on both disks.
fn steps(check: &str) -> Option<u64> {
    check.trim().rsplit_once("applied=")?.1.parse().ok()
}

/// Overwrites both disks of a machine with zeros, from inside, and waits until it has failed to boot;
/// returns what its console said since.
///
/// # Errors
/// When it survives.
pub fn destroy(lab: &Lab, vm_id: &str, shell: Shell<'_>) -> Result<String> {
    shell("touch /root/written-after-the-backup; sync")?;
    let before = lab.simulator.console(vm_id).len();
    // In the background, and from memory: wiping reclaims what was read from the disks, and whoever needs
    // that again dies of zeros. Should it be the first process, the kernel's panic pulls the plug. The data
    // disk is first: a machine that finds no system on the other has lost both.
    shell("cp /bin/busybox /run/busybox")?;
    let zeros = |disk: &str| {
        let mib = format!("$(($(/run/busybox cat /sys/block/{disk}/size) / 2048))");
        format!("/run/busybox dd if=/dev/zero of=/dev/{disk} bs=1M count={mib} conv=fsync")
    };
    let wipe = format!("{} && {} && echo b >/proc/sysrq-trigger", zeros("vdb"), zeros("vda"));
    shell(&format!("setsid /run/busybox sh -c 'sleep 1; {wipe}' >/dev/null 2>&1 </dev/null &"))?;
    until("the machine does not boot any more", DEATH_LIMIT, || {
        let console = lab.simulator.console(vm_id);
        let since = console.get(before..).unwrap_or_default();
        Ok(match since.contains("LAB-BOOT-FAIL") {
            true => Look::Done(since.to_owned()),
            false => Look::Waiting(since.lines().last().unwrap_or_default().to_owned()),
        })
    })
}
