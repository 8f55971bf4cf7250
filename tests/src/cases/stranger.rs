//! Somebody makes a machine from a backup's snapshots, without azdr, and starts it beside the live source,
//! whose identity is on its disks. It is quarantined, is told nothing and talks to nobody but the controller;
//! the source keeps its session, and is the one that is frozen for its backups. Enrolled anew it is a machine of
//! its own, with backups of its own.

use std::net::{SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{
    BOOT, DB, GROUP, agent_is_ready, back_up, db_with_writer, is_writable, sessions, text, vm_id,
    writer_agrees,
};
use super::{Case, Figures, Place};
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "stranger-beside-its-source",
    shows: "a copy that nobody expects is quarantined, its live source never notices, and enrolling ends it",
    rounds: None,
    run,
};

const STRANGER: &str = "stranger";

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let (source, boot_id) = (vm_id(&lab, DB)?, guest.boot_id()?);
    let point = back_up(&lab)?;
    let disks = point["disks"].as_array().context("a point has disks")?;
    let snapshots: Vec<(Option<i64>, &str)> = disks
        .iter()
        .map(|disk| (disk["lun"].as_i64().filter(|lun| *lun >= 0), text(disk, "snapshot_id")))
        .collect();
    lab.simulator.make_machine(GROUP, STRANGER, &snapshots)?;
    let stranger = vm_id(&lab, STRANGER)?;
    until("the copy is quarantined", BOOT, || {
        let agents = lab.azdr.json(&["agent", "list"])?;
        Ok(match quarantined(&agents, &stranger) {
            true => Look::Done(()),
            false => Look::Waiting(agents.to_string()),
        })
    })?;
    ensure!(sessions(&lab, &source) == 1, "the source has connected anew");
    let restored = log_of(&lab, &stranger);
    ensure!(restored.iter().all(|line| line.contains("Restored { run: None }")), "{restored:#?}");

    // The source alone is frozen, with the copy there.
    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    ensure!(guest.boot_id()? == boot_id, "the source was restarted");
    ensure!(sessions(&lab, &source) == 1, "the source has connected anew");
    let agents = lab.azdr.json(&["agent", "list"])?;
    ensure!(quarantined(&agents, &stranger), "it is not quarantined any more: {agents:#}");
    judge::at_rest(&lab, &[DB])?;

    let copy = lab.guest(GROUP, STRANGER)?;
    copy.await_ssh(BOOT)?;
    talks_to_the_controller_alone(&lab, &copy)?;
    becomes_a_machine_of_its_own(&lab, &copy, &stranger)?;
    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(&guest)?;
    ensure!(guest.boot_id()? == boot_id, "the source was restarted");
    ensure!(sessions(&lab, &source) == 1, "the source has connected anew");
    judge::at_rest(&lab, &[DB, STRANGER])?;
    Ok(vec!["quarantined, then enrolled as itself; the source: one session, one boot".to_owned()])
}

/// Of all sockets that the agent has, one leads to another machine, and that is the controller.
fn talks_to_the_controller_alone(lab: &Lab, copy: &Guest) -> Result<()> {
    let sockets = copy.run(
        "for n in $(ls -l /proc/$(cat /run/azdr-agent.pid)/fd | sed -n 's/.*socket:.\\([0-9]*\\).$/\\1/p'); \
         do for t in tcp tcp6 udp udp6; do [ ! -e /proc/net/$t ] || \
         awk -v n=$n '$10 == n {print $3}' /proc/net/$t; done; done",
    )?;
    let controller = lab.azdr.json(&["agent", "token", STRANGER])?;
    let address: SocketAddrV4 = match text(&controller, "agent_address").parse()? {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => anyhow::bail!("{address} is not what guests dial"),
    };
    // As the kernel prints it: the address in the machine's byte order.
    let expected =
        format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let found: Vec<&str> = sockets.lines().collect();
    ensure!(found == [expected.as_str()], "{address} is {expected}; the agent has {found:?}");
    Ok(())
}

/// What an operator does, as `docs/agent.md` says.
fn becomes_a_machine_of_its_own(lab: &Lab, copy: &Guest, vm_id: &str) -> Result<()> {
    lab.enrol(copy)?;
    copy.run("kill $(cat /run/azdr-agent.pid)")?;
    agent_is_ready(lab, STRANGER)?;
    let agents = lab.azdr.json(&["agent", "list"])?;
    ensure!(!quarantined(&agents, vm_id), "it is quarantined still: {agents:#}");
    protect_and_keep_all(lab, STRANGER)?;
    lab.azdr.run(&["backup", "trigger", STRANGER])?.ok()?;
    let points = lab.azdr.points(STRANGER)?;
    ensure!(points.len() == 1, "{points:#?}");
    ensure!(text(&points[0], "consistency") == "filesystem", "{points:#?}");
    is_writable(copy)
}

/// Whether a machine is known as one that nobody expects.
fn quarantined(agents: &Value, vm_id: &str) -> bool {
    let agents = agents["agents"].as_array().into_iter().flatten();
    let of_machine = |a: &&Value| text(a, "instance_vm_id").eq_ignore_ascii_case(vm_id);
    agents.filter(of_machine).any(|a| a["quarantined"] == true)
}

/// What the controller has logged of a machine's sessions.
fn log_of(lab: &Lab, vm_id: &str) -> Vec<String> {
    let log = lab.controller.log();
    let of_machine = |line: &&str| line.contains("agent connected") && line.contains(vm_id);
    log.lines().filter(of_machine).map(str::to_owned).collect()
}
