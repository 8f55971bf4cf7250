//! Somebody makes a machine from a backup's snapshots, without azdr, and starts it beside the live source,
//! whose identity is on its disks. It is quarantined and told nothing; the source keeps its session, and
//! is the one that is frozen for its backups.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{
    BOOT, DB, GROUP, back_up, db_with_writer, is_writable, sessions, text, vm_id, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "stranger-beside-its-source",
    shows: "a copy that nobody expects is quarantined, and its live source never notices",
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
    Ok(vec!["quarantined; the source: one session, one boot".to_owned()])
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
