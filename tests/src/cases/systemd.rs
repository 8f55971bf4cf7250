//! The agent as it is shipped, on Debian under systemd: its package is installed, its units are what
//! systemd-analyze has nothing to say about, its freeze holds; and stopping the agent, upgrading, rebooting
//! and removing it while the machine is frozen end the freeze first.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::machine::{
    BOOT, DB, Frozen, LIMIT, SLACK, agent_is_gone, agent_is_ready, is_writable, seconds, sessions,
    succeeded, text, vm_id, writer_agrees,
};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, Stopwatch, until};

pub(super) const CASE: Case = Case {
    name: "systemd",
    shows: "the packaged agent under systemd: freeze, stop, upgrade, reboot and removal in the window",
    rounds: None,
    run,
};

/// The longest that anything stays frozen, and until that is seen. A login and systemctl on an emulated
/// machine are in it, so that nothing can be said of the thaw alone.
const LONGEST: Duration = Duration::from_secs(10).saturating_add(SLACK);
/// What an orderly reboot may take, on an emulated machine.
const REBOOT: Duration = BOOT;

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db(place)?;
    let mut figures = Figures::new();
    guest.run("systemctl is-active azdr-thawd.service")?;
    let verify = "systemd-analyze verify azdr-thawd.service azdr-agent.service 2>&1";
    let said = guest.run(verify)?;
    ensure!(said.is_empty(), "systemd-analyze verify: {said}");
    guest.run("echo 20000 >/etc/lab-writer; sync; systemctl start lab-writer")?;
    debian::freezes_whole(&lab, &guest)?;

    // Stopped in the window: the agent thaws, and then ends.
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let after =
        frozen.thaws_after(&mut lab, |_| guest.run("systemctl stop azdr-agent").map(drop))?;
    ensure!(after < LONGEST, "the writer went on only after {after:?}");
    figures.push(format!("stop thaws after {}", seconds(after)));
    agent_is_gone(&lab)?;
    guest.run("systemctl start azdr-agent")?;
    comes_back(&lab, &guest, &frozen)?;

    // Upgraded in the window: dpkg has to wait for the thaw like everybody, and the new agent works.
    let before = sessions(&lab, &vm_id(&lab, DB)?);
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let since = Stopwatch::start();
    guest.run(debian::INSTALL)?;
    figures.push(format!("upgrade in the window takes {}", seconds(since.elapsed())));
    lab.simulator.set_faults(&json!([]))?;
    until("the upgraded agent has connected", LIMIT, || {
        let now = sessions(&lab, &vm_id(&lab, DB)?);
        Ok(if now > before { Look::Done(()) } else { Look::Waiting(format!("{now} sessions")) })
    })?;
    comes_back(&lab, &guest, &frozen)?;

    // Rebooted in the window.
    let (boot_id, before) = (guest.boot_id()?, sessions(&lab, &vm_id(&lab, DB)?));
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let since = Stopwatch::start();
    guest.try_run("systemctl reboot")?;
    until("it is another boot", REBOOT, || {
        let now = guest.try_run("cat /proc/sys/kernel/random/boot_id")?;
        Ok(match now.status.success() && now.stdout.trim() != boot_id {
            true => Look::Done(()),
            false => Look::Waiting(format!("{}{}", now.stdout, now.stderr)),
        })
    })?;
    figures.push(format!("answers {} after a reboot in the window", seconds(since.elapsed())));
    lab.simulator.set_faults(&json!([]))?;
    until("the agent has connected again", LIMIT, || {
        let now = sessions(&lab, &vm_id(&lab, DB)?);
        Ok(if now > before { Look::Done(()) } else { Look::Waiting(format!("{now} sessions")) })
    })?;
    comes_back(&lab, &guest, &frozen)?;

    // Removed in the window: the units end, the identity stays until it is purged.
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let since = Stopwatch::start();
    guest.run("dpkg -r azdr-agent")?;
    figures.push(format!("removal in the window takes {}", seconds(since.elapsed())));
    lab.simulator.set_faults(&json!([]))?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    is_writable(&guest)?;
    writer_agrees(&guest)?;
    agent_is_gone(&lab)?;
    guest.run(
        "! cat /proc/[0-9]*/comm 2>/dev/null | grep -q azdr && [ -e /var/lib/azdr/identity.json ]",
    )?;
    guest.run("dpkg --purge azdr-agent && [ ! -e /var/lib/azdr ] && [ ! -e /etc/azdr ]")?;
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// After something has ended a freeze: the backup claims nothing, everything takes writes, nobody hangs,
/// and the next backup is whole.
fn comes_back(lab: &Lab, guest: &Guest, frozen: &Frozen) -> Result<()> {
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = super::machine::newest(lab)?;
    ensure!(
        text(&point, "consistency") == "uncoordinated",
        "a freeze that broke counted: {point:#}"
    );
    agent_is_ready(lab, DB)?;
    debian::freezes_whole(lab, guest)
}
