//! A copy of a machine is made as a new VM and boots beside its live source, with the source's disks, keys
//! and certificate on them. It ends with an identity of its own; the source never notices; each is frozen
//! for its own backups.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{
    DB, LIMIT, agent_is_ready, back_up, db_with_writer, is_writable, sessions, snapshot_file, text,
    vm_id, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::disk_image::DiskImage;
use crate::judge;
use crate::lab::Lab;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "clone-beside-its-source",
    shows: "a copy that boots beside its live source ends as a machine of its own, and the source never notices",
    rounds: None,
    run,
};

const COPY: &str = "db-copy";

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let point = back_up(&lab)?;
    let (boot_id, source) = (guest.boot_id()?, vm_id(&lab, DB)?);
    lab.azdr.run(&["backup", "restore", DB, "--new-vm", COPY])?.ok()?;
    let result = &lab.azdr.newest_job("restore_new_vm")?["result"]["restore"];
    ensure!(result["witness_verified"] == true, "{result:#}");
    agent_is_ready(&lab, COPY)?;
    agent_is_ready(&lab, DB)?;

    // Two machines, each by its own name, and none that nobody knows.
    let agents = lab.azdr.json(&["agent", "list"])?;
    let agents = agents["agents"].as_array().context("agents")?;
    ensure!(agents.len() == 2, "{agents:#?}");
    let is_own = |a: &Value| a["quarantined"] == false && a["restored_instance"] == false;
    ensure!(agents.iter().all(is_own), "{agents:#?}");
    let copy = vm_id(&lab, COPY)?;
    let boots: Vec<&str> = agents.iter().map(|a| text(a, "boot_id")).collect();
    ensure!(copy != source && boots[0] != boots[1], "{agents:#?}");

    // The source: the same boot, the same session, and its writer has not stopped.
    ensure!(guest.boot_id()? == boot_id, "the source was restarted");
    ensure!(
        sessions(&lab, &source) == 1,
        "the source has connected {} times",
        sessions(&lab, &source)
    );
    writer_agrees(&guest)?;

    // Each is frozen for its own backup, and what is on the disks then is its own identity.
    let of_source = back_up(&lab)?;
    protect_and_keep_all(&lab, COPY)?;
    lab.azdr.run(&["backup", "trigger", COPY])?.ok()?;
    let of_copy = lab.azdr.points(COPY)?.into_iter().next().context("no point of the copy")?;
    for point in [&of_source, &of_copy] {
        ensure!(point["consistency"] == "filesystem", "{point:#}");
    }
    let before = identity(place, &lab, &point)?;
    let now = identity(place, &lab, &of_source)?;
    let own = identity(place, &lab, &of_copy)?;
    ensure!(now == before, "the source's identity has changed");
    ensure!(
        text(&own, "vm_id").eq_ignore_ascii_case(&copy),
        "the copy takes itself for {}",
        text(&own, "vm_id")
    );
    for field in ["key_pem", "chain_pem"] {
        ensure!(
            !text(&own, field).is_empty() && own[field] != before[field],
            "the copy has its source's {field}"
        );
    }
    ensure!(own["ca_pem"] == before["ca_pem"], "the copy trusts another authority");
    ensure!(sessions(&lab, &source) == 1, "the source has connected anew");
    is_writable(&guest)?;
    lab.settle(LIMIT)?;
    judge::at_rest(&lab, &[DB, COPY])?;
    Ok(vec![
        format!("{COPY} has key, certificate and vmId of its own"),
        "the source: one session, one boot".to_owned(),
    ])
}

/// What the agent has stored, in a recovery point.
fn identity(place: &Place, lab: &Lab, point: &Value) -> Result<Value> {
    let file = snapshot_file(&lab.simulator, point, None)?;
    let image = DiskImage::copy_of(&file, place.folder.join("identity.img"))?;
    image.recover()?;
    let stored = image.read("/var/lib/azdr/identity.json")?.context("no identity is stored")?;
    serde_json::from_str(&stored).context("the stored identity is no JSON")
}
