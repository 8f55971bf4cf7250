//! Whatever ends the agent in the window thaws before it does anything else: stop, restart, upgrade, removal,
//! reboot and power-off, with only the data disk frozen and a limit that is far away. So neither the limit
//! nor anybody's own waiting for a frozen disk can be taken for the thaw.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::data_frozen::{claims_nothing, everything, freeze, last_thaw, only_data, thaws_first};
use super::guest_killed::machine_is_gone;
use super::machine::{
    BOOT, DB, GROUP, LIMIT, agent_is_gone, agent_is_ready, is_writable, seconds, sessions, vm_id,
    writer_agrees,
};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};

pub(super) const CASE: Case = Case {
    name: "systemd-thaws-first",
    shows: "stop, restart, upgrade, removal, reboot and power-off in the window thaw first, and at once",
    rounds: None,
    run,
};

/// What ends the agent, and what starts it again where that does not.
const ENDS: [(&str, &str, &str); 4] = [
    ("stop", "systemctl stop azdr-agent", "systemctl start azdr-agent"),
    ("restart", "systemctl restart azdr-agent", "true"),
    ("upgrade", debian::INSTALL, "true"),
    ("removal", "dpkg -r azdr-agent", debian::INSTALL),
];

/// Until a shutdown has happened, with something frozen; where the emulation is slower, twice what it takes with
/// nothing frozen.
const SHUTDOWN: Duration = Duration::from_secs(10);

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db(place)?;
    guest.run("echo 20000 >/etc/lab-writer; sync; systemctl start lab-writer")?;
    writer_agrees(&guest)?;
    only_data(&mut lab, &guest)?;
    let vm_id = vm_id(&lab, DB)?;
    let mut figures = Figures::new();
    for (what, command, start) in ENDS {
        let before = sessions(&lab, &vm_id);
        figures.push(thaws_first(place, &mut lab, &guest, what, command)?);
        if start != "true" {
            agent_is_gone(&lab)?;
            guest.run(start)?;
        }
        has_connected(&lab, &vm_id, before)?;
        is_writable(&guest)?;
        writer_agrees(&guest)?;
    }

    // What a shutdown takes on this host anyway.
    let without = shutdown(&lab, &guest, &vm_id, "reboot")?;
    comes_up(&lab, &guest, &vm_id)?;
    figures.push(format!("reboot with nothing frozen: shut down after {}", seconds(without)));
    for what in ["reboot", "poweroff"] {
        let frozen = freeze(place, &lab, &guest)?;
        let took = shutdown(&lab, &guest, &vm_id, what)?;
        lab.simulator.set_faults(&serde_json::json!([]))?;
        comes_up(&lab, &guest, &vm_id)?;
        let thaw = last_thaw(&guest, "--boot=-1", 0).with_context(|| what.to_owned())?;
        thaw.was_asked_for().with_context(|| what.to_owned())?;
        claims_nothing(&lab, &frozen).with_context(|| what.to_owned())?;
        let limit = SHUTDOWN.max(without * 2);
        ensure!(took < limit, "{what} took {took:?}, allowed are {limit:?}");
        figures.push(format!(
            "{what}: {:.2} s from the agent's being told to the thaw, shut down after {}",
            thaw.took().as_secs_f64(),
            seconds(took)
        ));
        is_writable(&guest)?;
        writer_agrees(&guest)?;
    }

    everything(&lab, &guest)?;
    debian::freezes_whole(&lab, &guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

fn has_connected(lab: &Lab, vm_id: &str, before: usize) -> Result<()> {
    until("the agent has connected again", LIMIT, || {
        let now = sessions(lab, vm_id);
        Ok(if now > before { Look::Done(()) } else { Look::Waiting(format!("{now} sessions")) })
    })?;
    agent_is_ready(lab, DB)
}

/// `systemctl reboot` or `poweroff`: from the command to the kernel's own last words, by the machine's
/// clock, which is printed before them.
fn shutdown(lab: &Lab, guest: &Guest, vm_id: &str, what: &str) -> Result<Duration> {
    let ended = |console: &str| ends_of(console).last().copied();
    let before = ends_of(&lab.simulator.console(vm_id)).len();
    // Its connection goes with the machine: no word on how it ended.
    let said = guest.try_run(&format!("cat /proc/uptime; systemctl {what}"))?.stdout;
    let since: f64 = said.split_whitespace().next().context("no time")?.parse()?;
    let at = until(&format!("the machine has shut down ({what})"), BOOT, || {
        let console = lab.simulator.console(vm_id);
        Ok(match ended(&console).filter(|_| ends_of(&console).len() > before) {
            Some(at) => Look::Done(at),
            None => Look::Waiting(console.lines().last().unwrap_or_default().to_owned()),
        })
    })?;
    if what == "poweroff" {
        machine_is_gone(lab)?;
        lab.simulator.power_on(lab.simulator.listing()?.vm(GROUP, DB)?.id())?;
    }
    Ok(Duration::try_from_secs_f64((at - since).max(0.0))?)
}

/// When the kernel said that it restarts or powers down, each time, in seconds of its boot.
fn ends_of(console: &str) -> Vec<f64> {
    let last_words = |line: &&str| {
        line.contains("] reboot: Restarting system") || line.contains("] reboot: Power down")
    };
    let time = |line: &str| line.rsplit_once('[')?.1.split_once(']')?.0.trim().parse().ok();
    console.lines().filter(last_words).filter_map(time).collect()
}

/// After a shutdown.
fn comes_up(lab: &Lab, guest: &Guest, vm_id: &str) -> Result<()> {
    let before = sessions(lab, vm_id);
    guest.await_ssh(BOOT)?;
    has_connected(lab, vm_id, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_last_words_have_their_time() {
        let console = "LAB-BOOT-OK boot_id=1\n[   61.250000] reboot: Restarting system\n\
                       LAB-BOOT-OK boot_id=2\n[  7.5] other\n\u{1b}[0m[   80.500000] reboot: Power down\n";
        assert_eq!(ends_of(console), [61.25, 80.5]);
    }
}
