//! The agent's RPM under systemd, by the package manager that it is for: it installs, the agent freezes, and upgrade
//! and removal in the window thaw first. (The system is Debian: `rpm` knows nothing of what is installed there.)

use anyhow::{Result, ensure};

use super::data_frozen::{only_data, thaws_first};
use super::machine::{
    DB, LIMIT, agent_is_gone, agent_is_ready, is_writable, sessions, vm_id, writer_agrees,
};
use super::{Case, Figures, Place, debian};
use crate::judge;
use crate::poll::{Look, until};

pub(super) const CASE: Case = Case {
    name: "rpm",
    shows: "the agent's RPM under systemd: install and freeze, upgrade and removal in the window thaw first",
    rounds: None,
    run,
};

/// Debian's `rpm` wants to be asked twice, and cannot know that glibc is there.
const INSTALL: &str = "rpm -i --nodeps --force-debian /root/azdr-agent.rpm";
const UPGRADE: &str = "rpm -U --force --nodeps --force-debian /root/azdr-agent.rpm";
const REMOVE: &str = "rpm -e --force-debian azdr-agent";

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db_installed_by(place, INSTALL)?;
    ensure!(!guest.try_run("dpkg -s azdr-agent")?.status.success(), "it is dpkg's package");
    guest.run(
        "rpm -q azdr-agent && systemctl is-active azdr-thawd && systemctl is-enabled azdr-agent",
    )?;
    guest.run("echo 20000 >/etc/lab-writer; sync; systemctl start lab-writer")?;
    writer_agrees(&guest)?;
    debian::freezes_whole(&lab, &guest)?;

    only_data(&mut lab, &guest)?;
    let vm_id = vm_id(&lab, DB)?;
    let mut figures = Figures::new();
    let before = sessions(&lab, &vm_id);
    figures.push(thaws_first(place, &mut lab, &guest, "upgrade", UPGRADE)?);
    until("the upgraded agent has connected", LIMIT, || {
        let now = sessions(&lab, &vm_id);
        Ok(if now > before { Look::Done(()) } else { Look::Waiting(format!("{now} sessions")) })
    })?;
    agent_is_ready(&lab, DB)?;
    figures.push(thaws_first(place, &mut lab, &guest, "removal", REMOVE)?);
    agent_is_gone(&lab)?;
    is_writable(&guest)?;
    writer_agrees(&guest)?;
    guest.run(
        "! cat /proc/[0-9]*/comm 2>/dev/null | grep -q azdr && ! rpm -q azdr-agent && \
         [ ! -e /usr/sbin/azdr-agent ] && [ ! -e /usr/lib/systemd/system/azdr-thawd.service ] && \
         [ -z \"$(systemctl list-units --all --plain --no-legend 'azdr-*')\" ] && \
         [ -e /var/lib/azdr/identity.json ]",
    )?;
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}
