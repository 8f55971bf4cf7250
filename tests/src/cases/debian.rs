//! The machine of the cases on Debian: `db`, with the agent's package installed and enrolled.

use anyhow::{Result, ensure};

use super::Place;
use super::machine::{BOOT, DB, GROUP, agent_is_ready, back_up, is_writable, text, writer_agrees};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::protection::protect_and_keep_all;
use crate::world::{Vm, World};

/// Installs the agent's package, or upgrades to it.
pub(super) const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive dpkg -i /root/azdr-agent.deb";

/// A world with `db` in it, protected. Nothing happens there by schedule.
pub(super) fn db(place: &Place) -> Result<(Lab, Guest)> {
    db_installed_by(place, INSTALL)
}

/// The same by another package manager's command.
pub(super) fn db_installed_by(place: &Place, install: &str) -> Result<(Lab, Guest)> {
    db_of(place, install, 0)
}

/// The same, with so many data disks more, from LUN 1, which nobody uses yet.
pub(super) fn db_with_spare_disks(place: &Place, disks: usize) -> Result<(Lab, Guest)> {
    db_of(place, INSTALL, disks)
}

fn db_of(place: &Place, install: &str, spare_disks: usize) -> Result<(Lab, Guest)> {
    let vm = Vm::new(GROUP, DB).with_data_disk();
    let vm = (0..spare_disks).fold(vm, |vm, _| vm.with_data_disk());
    let lab = place.lab(World { vms: vec![vm] })?;
    let guest = lab.guest(GROUP, DB)?;
    guest.await_ssh(BOOT)?;
    guest.run(install)?;
    lab.enrol(&guest)?;
    // A machine of the lab is frozen as soon as it has booted.
    guest.run("echo 'least_uptime_s = 0' >>/etc/azdr/agent.toml && systemctl start azdr-agent")?;
    agent_is_ready(&lab, DB)?;
    protect_and_keep_all(&lab, DB)?;
    Ok((lab, guest))
}

/// Takes a backup with everything frozen; before and after it everything takes writes, and nobody hangs.
pub(super) fn freezes_whole(lab: &Lab, guest: &Guest) -> Result<()> {
    is_writable(guest)?;
    let point = back_up(lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(guest)
}
