//! What is different with simulated machines: they are looked at through the simulator instead of over
//! SSH, and the writer that spans the disks is their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_env::{Ids, OsIds};

use super::screen::{Screen, say, show};
use super::summary::Summary;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::simulated_machines::{LOG, Listed, SimulatedMachine};
use crate::world::REGION;

const UP_LIMIT: Duration = Duration::from_secs(30);
const MARKER: &str = "/root/marker";
const PAYLOAD: &str = "/mnt/lun0/payload";
const LATER: &str = "/root/written-after-the-backup";
const PAYLOAD_WORDS: usize = 256 << 10;

/// What the machine knew before the disaster.
#[derive(Debug)]
pub(super) struct Planted {
    marker: Vec<u8>,
    payload: Vec<u8>,
    boot_id: String,
    /// Records of the writer when the data were planted.
    records: u64,
}

/// Waits until a machine is up.
pub(super) fn await_up(machine: &SimulatedMachine) -> Result<Listed> {
    until(&format!("{} is up", machine.name), UP_LIMIT, || {
        Ok(match machine.listed()? {
            Some(listed) => Look::Done(listed),
            None => Look::Waiting("it is not listed".to_owned()),
        })
    })
}

/// Plants data on both disks; the machine's writer, which keeps an invariant across them, is at work.
pub(super) fn plant(lab: &Lab, screen: &mut Screen, db: &SimulatedMachine) -> Result<Planted> {
    screen.step("Work on db: a marker, a payload, and a writer that spans both disks", || {
        let marker = format!("{:032x}\n", OsIds.u64()).into_bytes();
        let words = (0..PAYLOAD_WORDS).map(|_| OsIds.u64().to_le_bytes());
        let payload = words.collect::<Vec<_>>().concat();
        db.write(MARKER, &marker)?;
        db.write(PAYLOAD, &payload)?;
        say(&format!("{MARKER}, {PAYLOAD} ({} KiB)", payload.len() >> 10));
        let boot_id = await_up(db)?.boot_id;
        let records = until("the writer writes", UP_LIMIT, || {
            Ok(match records(db)? {
                records @ 10.. => Look::Done(records),
                records => Look::Waiting(format!("{records} records")),
            })
        })?;
        say(&format!("the writer: {}, boot {boot_id}", invariant(lab, db)?));
        Ok(Planted { marker, payload, boot_id, records })
    })
}

/// Records in the writer's log.
fn records(db: &SimulatedMachine) -> Result<u64> {
    let Some(log) = db.read(LOG)? else { return Ok(0) };
    // A line per boot: `1-57 0c9b…`.
    let log = String::from_utf8(log)?;
    let last = log.lines().last().and_then(|line| line.split(['-', ' ']).nth(1));
    last.map_or(Ok(0), |last| last.parse().with_context(|| format!("the log says {log}")))
}

/// What the writer has written, if its disks belong together.
fn invariant(lab: &Lab, db: &SimulatedMachine) -> Result<String> {
    let disks: Vec<String> = await_up(db)?.disks.into_iter().map(|disk| disk.unique_id).collect();
    ensure!(disks.len() == 2, "{} disks instead of 2", disks.len());
    lab.simulator.machines()?.check(&disks)
}

/// The simulator's word on the snapshots of the backup: are they from one instant?
pub(super) fn check_snapshots(lab: &Lab, screen: &mut Screen) -> Result<()> {
    screen.step("Look into the snapshots, without azdr: the writer's invariant", || {
        let listing = lab.simulator.listing()?;
        // Copies may be on their way already.
        let snapshots = listing.snapshots().into_iter().filter(|s| s.location() == REGION);
        let files = snapshots.filter_map(|s| s.record()["file"].as_str());
        let unique_ids: Vec<String> =
            files.map(|file| file.trim_end_matches(".raw").to_owned()).collect();
        ensure!(unique_ids.len() == 2, "{} snapshots instead of 2", unique_ids.len());
        say(&format!("one instant: {}", lab.simulator.machines()?.check(&unique_ids)?));
        Ok(())
    })
}

/// Deletes every file of the machine, and restarts it.
pub(super) fn destroy(lab: &Lab, screen: &mut Screen, db: &SimulatedMachine) -> Result<()> {
    screen.step("Disaster: every file on both disks of db is deleted", || {
        db.write(LATER, b"lost\n")?;
        db.remove("/mnt/lun0/")?;
        db.remove("/")?;
        db.reboot()?;
        ensure!(db.listed()?.is_none(), "db is up all the same");
        let (group, name) = super::setting::MACHINES[1];
        let listing = lab.simulator.listing()?;
        ensure!(listing.vm(group, name)?.is_running(), "db does not run any more");
        say("Azure says that db runs; nothing ever comes of it: there is no system on its disk");
        until("the agent of db is gone", UP_LIMIT, || {
            let answer = lab.azdr.json(&["agent", "list"])?;
            let agents = answer["agents"].as_array().context("agents")?;
            let is_there = agents.iter().any(|a| a["vm_name"] == name && a["state"] == "connected");
            Ok(if is_there { Look::Waiting(answer.to_string()) } else { Look::Done(()) })
        })?;
        show(&lab.azdr, &["agent", "list"]).map(drop)
    })
}

/// Looks at what came back.
pub(super) fn inspect(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    db: &SimulatedMachine,
    planted: &Planted,
) -> Result<()> {
    screen.step("Look at db from outside: data, invariant, boot", || {
        let up = await_up(db)?;
        ensure!(db.read(MARKER)?.as_ref() == Some(&planted.marker), "the marker has changed");
        ensure!(db.read(PAYLOAD)?.as_ref() == Some(&planted.payload), "the payload has changed");
        ensure!(db.read(LATER)?.is_none(), "{LATER} is there");
        ensure!(!up.torn, "the writer found its disks torn at boot");
        let records = records(db)?;
        ensure!(records >= planted.records, "{records} records; there were {}", planted.records);
        ensure!(up.boot_id != planted.boot_id, "it was never restarted");
        say("marker and payload are what they were, nothing is newer than the backup");
        say(&format!("the writer: {}, new boot {}", invariant(lab, db)?, up.boot_id));
        if let Some(restore) = &mut summary.restore {
            restore.data_intact = true;
        }
        show(&lab.azdr, &["vm", "list"]).map(drop)
    })
}
