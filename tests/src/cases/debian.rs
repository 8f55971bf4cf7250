//! The machine of the cases on Debian: `db`, with the agent's package installed and enrolled.

use anyhow::Result;

use super::Place;
use super::machine::{BOOT, DB, GROUP, agent_is_ready};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::protection::protect_and_keep_all;
use crate::world::{Vm, World};

/// Installs the agent's package, or upgrades to it.
pub(super) const INSTALL: &str = "DEBIAN_FRONTEND=noninteractive dpkg -i /root/azdr-agent.deb";

/// A world with `db` in it, protected. Nothing happens there by schedule.
pub(super) fn db(place: &Place) -> Result<(Lab, Guest)> {
    db_with_spare_disks(place, 0)
}

/// The same, with so many data disks more, from LUN 1, which nobody uses yet.
pub(super) fn db_with_spare_disks(place: &Place, disks: usize) -> Result<(Lab, Guest)> {
    let vm = Vm::new(GROUP, DB).with_data_disk();
    let vm = (0..disks).fold(vm, |vm, _| vm.with_data_disk());
    let lab = place.lab(World { vms: vec![vm] })?;
    let guest = lab.guest(GROUP, DB)?;
    guest.await_ssh(BOOT)?;
    guest.run(INSTALL)?;
    lab.enrol(&guest)?;
    // A machine of the lab is frozen as soon as it has booted.
    guest.run("echo 'least_uptime_s = 0' >>/etc/azdr/agent.toml && systemctl start azdr-agent")?;
    agent_is_ready(&lab, DB)?;
    protect_and_keep_all(&lab, DB)?;
    Ok((lab, guest))
}
