//! The process of the machine `db`, which is the simulator's child: what befalls it befalls the machine.

use anyhow::{Context, Result, bail};

use super::machine::{DB, vm_id};
use crate::lab::Lab;

/// Sends it a signal.
///
/// # Errors
/// When it does not run.
pub(super) fn signal(lab: &Lab, signal: i32) -> Result<()> {
    let Some(process) = process(lab)? else { bail!("no process runs {DB}") };
    // SAFETY: a system call without pointers; the process is our child's child and runs.
    match unsafe { libc::kill(process, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("cannot signal the machine's process"),
    }
}

/// Its id, while it runs.
///
/// # Errors
/// When the simulator does not run.
pub(super) fn process(lab: &Lab) -> Result<Option<libc::pid_t>> {
    let simulator = lab.simulator.daemon().context("the simulator does not run")?.id();
    of_machine(simulator, &vm_id(lab, DB)?)
}

/// The process that runs a machine, by the vmId on its command line.
fn of_machine(simulator: u32, vm_id: &str) -> Result<Option<libc::pid_t>> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Whatever ends meanwhile is not it.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let is_child = status.lines().any(|l| l == format!("PPid:\t{simulator}"));
        if is_child && String::from_utf8_lossy(&line).contains(&format!("-uuid\0{vm_id}\0")) {
            return Ok(Some(process));
        }
    }
    Ok(None)
}
