//! The hook that comes with azdr for any unit of systemd, under systemd: the unit does nothing while the machine
//! is frozen and runs again afterwards, also when the agent is stopped or killed meanwhile.

use anyhow::{Context, Result, ensure};
use azdr_env::WallTime;

use super::data_frozen::{claims_nothing, freeze, only_data};
use super::machine::{DB, LIMIT, agent_is_ready, back_up, is_writable, text};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::poll::{Look, until};

pub(super) const CASE: Case = Case {
    name: "systemd-unit-hook",
    shows: "a unit is paused for the window by the hook that comes with azdr, and always started again",
    rounds: None,
    run,
};

/// Notes the time where nothing is ever frozen: what stops it is the hook alone.
const UNIT: &str = "[Service]\nExecStart=/bin/sh -c 'while :; do date +%%s%%3N >>/run/ticks; usleep 50000; done'\n";
const INSTALL: &str = "install -d -m 0755 /etc/azdr/hooks.d && \
    sed 's/^units=.*/units=\"app.service\"/' /usr/share/doc/azdr-agent/hooks/systemd-units \
    >/etc/azdr/hooks.d/50-app && chmod 0700 /etc/azdr/hooks.d/50-app && \
    systemctl daemon-reload && systemctl start app && systemctl start lab-writer";

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db(place)?;
    guest.write("/etc/systemd/system/app.service", UNIT.as_bytes())?;
    guest.run("echo 20000 >/etc/lab-writer; sync")?;
    guest.run(INSTALL)?;
    let mut figures = Figures::new();

    // A whole backup: no tick in its window, and ticks after it.
    let first = invocation(&guest)?;
    let point = back_up(&lab)?;
    let reason = text(&point, "consistency_reason");
    ensure!(text(&point, "consistency") == "application", "{reason}: {point:#}");
    runs_again(&guest, &first)?;
    let show = lab.azdr.json(&["backup", "show", text(&point, "name")])?;
    let windows = show["capture"]["file_systems"].as_array().context("file systems")?;
    ensure!(windows.len() == 2, "{show:#}");
    let ticks = guest.run("cat /run/ticks")?;
    let ticks: Vec<i64> = ticks.lines().filter_map(|tick| tick.parse().ok()).collect();
    for window in windows {
        let from = window["frozen_from_at"].as_str().and_then(|at| at.parse::<WallTime>().ok());
        let from = from.with_context(|| format!("no beginning: {window:#}"))?.unix_ms();
        let lasted = window["frozen_ms"].as_i64().filter(|ms| *ms > 0);
        let to = from + lasted.with_context(|| format!("no length: {window:#}"))?;
        let within = ticks.iter().filter(|tick| (from..=to).contains(tick)).count();
        ensure!(within == 0, "the unit ran {within} times in the window: {window:#}");
        ensure!(ticks.iter().any(|tick| *tick < from), "it did not run before the window");
        ensure!(ticks.iter().any(|tick| *tick > to), "it did not run after the window");
    }
    figures.push(format!("application, {} ticks, none of them in the window", ticks.len()));

    // With only /data frozen the machine can be asked, and the agent ended.
    only_data(&mut lab, &guest)?;
    for (what, command) in [
        ("stopped", "systemctl stop azdr-agent"),
        ("killed", "systemctl kill --kill-whom=main --signal=KILL azdr-agent"),
    ] {
        let before = invocation(&guest)?;
        let frozen = freeze(place, &lab, &guest)?;
        let state = guest.try_run("systemctl is-active app")?.stdout;
        ensure!(state.trim() == "inactive", "{what}: in the window the unit is {state}");
        let after = frozen.thaws_after(&mut lab, |_| guest.run(command).map(drop))?;
        runs_again(&guest, &before).with_context(|| format!("the agent was {what}"))?;
        ensure!(
            guest.run("ls /run/azdr-stopped-units 2>/dev/null; true")?.is_empty(),
            "{what}: noted"
        );
        claims_nothing(&lab, &frozen)?;
        if what == "stopped" {
            guest.run("systemctl start azdr-agent")?;
        }
        agent_is_ready(&lab, DB)?;
        is_writable(&guest)?;
        figures.push(format!(
            "agent {what}: thawed after {:.1} s, the unit runs",
            after.as_secs_f64()
        ));
    }
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// By which systemd tells one run of the unit from another.
fn invocation(guest: &Guest) -> Result<String> {
    let id = guest.run("systemctl show -P InvocationID app")?;
    ensure!(!id.is_empty(), "the unit does not run");
    Ok(id)
}

/// Waits until the unit was started again.
fn runs_again(guest: &Guest, before: &str) -> Result<()> {
    until("the unit runs again", LIMIT, || {
        let now = guest.run("systemctl is-active app; systemctl show -P InvocationID app; true")?;
        let is_new = now.starts_with("active") && !now.contains(before);
        Ok(if is_new { Look::Done(()) } else { Look::Waiting(now) })
    })
}
