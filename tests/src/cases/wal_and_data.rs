//! A log on one disk and data on another agree in every backup, whatever the order and the delays of the
//! snapshots; and where each disk is frozen only for its own snapshot they do not, which shows that they
//! could disagree.
//!
//! The writer in the machine appends record i to the log on the OS disk, durably, and then to the data on
//! the data disk, durably. In copies of one instant: data ≤ log ≤ data + 1.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::machine::{
    DB, GROUP, back_up, db_with_writer, is_writable, newest, snapshot_file, text, writer_agrees,
};
use super::{Case, Figures, Place, Rounds};
use crate::disk_image::DiskImage;
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "wal-and-data",
    shows: "log and data on two disks agree in every backup, and not where each disk is frozen alone",
    rounds: Some(Rounds { by_default: 20, in_tests: 4 }),
    run,
};

/// How often each disk is frozen only for its own snapshot.
const CONTROLS: u32 = 3;
/// Delays of a round's first and second snapshot, in milliseconds.
const DELAYS: [(u64, u64); 5] = [(0, 0), (700, 0), (0, 700), (300, 300), (0, 1500)];

/// The last records of log and data.
#[derive(Clone, Copy, Debug)]
struct Records {
    log: u64,
    data: u64,
}

impl Records {
    /// Whether copies of one instant may look so.
    fn agree(self) -> bool {
        self.data <= self.log && self.log <= self.data + 1
    }
}

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let (mut longest_ms, mut last) = (0, 0);
    for (round, (first, second)) in (1..=place.rounds).zip(DELAYS.into_iter().cycle()) {
        lab.simulator.set_faults(&delays(first, second))?;
        let point = back_up(&lab)?;
        let what = format!("round {round} (delays {first} ms, {second} ms)");
        let achieved = text(&point, "consistency");
        ensure!(
            achieved == "filesystem",
            "{what}: {achieved}: {}",
            text(&point, "consistency_reason")
        );
        let records = records(place, &lab, &point)?;
        ensure!(records.agree(), "{what}: violated: {records:?}");
        ensure!(records.log > last, "{what}: nothing was written since the round before");
        last = records.log;
        longest_ms = longest_ms.max(point["frozen_ms"].as_u64().context("frozen_ms")?);
    }
    lab.simulator.set_faults(&json!([]))?;
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;

    let mut behind = 0;
    for control in 1..=CONTROLS {
        let records = frozen_one_by_one(place, &lab, &guest, control)?;
        ensure!(!records.agree(), "control {control}: not violated: {records:?}");
        behind = behind.max(records.data.saturating_sub(records.log));
    }
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    Ok(vec![
        format!("{} rounds, {last} records, 0 violations", place.rounds),
        format!("frozen for {longest_ms} ms at most"),
        format!(
            "each disk alone: {CONTROLS} of {CONTROLS} violated, log up to {behind} records behind"
        ),
    ])
}

fn delays(first: u64, second: u64) -> Value {
    let delayed = |nth: u64, delay_ms: u64| {
        json!({
            "match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "nth": nth},
            "action": {"delay_ms": delay_ms},
        })
    };
    let both = [(1, first), (2, second)].into_iter().filter(|(_, delay_ms)| *delay_ms > 0);
    both.map(|(nth, delay_ms)| delayed(nth, delay_ms)).collect()
}

/// What a recovery point's snapshots hold.
fn records(place: &Place, lab: &Lab, point: &Value) -> Result<Records> {
    let file = |lun| snapshot_file(&lab.simulator, point, lun);
    in_images(place, &file(None)?, &file(Some(0))?)
}

fn in_images(place: &Place, os: &std::path::Path, data: &std::path::Path) -> Result<Records> {
    let last = |image: &std::path::Path, copy: &str, file: &str| -> Result<u64> {
        let image = DiskImage::copy_of(image, place.folder.join(copy))?;
        image.recover()?;
        let text = image.read(file)?.with_context(|| format!("there is no {file}"))?;
        let mut last = 0;
        for line in text.lines() {
            last += 1;
            ensure!(line == format!("{last:07}"), "{file}: record {last} is {line:?}");
        }
        Ok(last)
    };
    Ok(Records {
        log: last(os, "os.img", "/var/lib/lab/wal")?,
        data: last(data, "data.img", "/applied")?,
    })
}

/// Freezes each disk for its own snapshot only, as a tool does that knows of one disk at a time.
fn frozen_one_by_one(place: &Place, lab: &Lab, guest: &Guest, control: u32) -> Result<Records> {
    let point = newest(lab)?;
    let disks = point["disks"].as_array().context("a point has disks")?;
    let mut files = Vec::new();
    for (lun, mount) in [(-1, "/"), (0, "/data")] {
        let disk = disks.iter().find(|disk| disk["lun"] == lun);
        let disk = disk.and_then(|d| d["source_disk_id"].as_str()).context("a disk's source")?;
        guest.run(&format!("fsfreeze --freeze {mount}"))?;
        let taken = lab.simulator.snapshot(disk, &format!("control-{control}{lun}"));
        guest.run(&format!("fsfreeze --unfreeze {mount}"))?;
        files.push(lab.simulator.content(&taken?)?);
        goes_on(guest)?;
    }
    ensure!(lab.simulator.listing()?.vm(GROUP, DB)?.is_running(), "db does not run");
    in_images(place, &files[0], &files[1])
}

/// Waits until the writer has taken a few steps.
fn goes_on(guest: &Guest) -> Result<()> {
    let count = || -> Result<u64> { Ok(guest.run("wc -c </data/applied")?.parse::<u64>()? / 8) };
    let before = count()?;
    until("the writer goes on", super::machine::LIMIT, || {
        let now = count()?;
        Ok(if now > before + 3 { Look::Done(()) } else { Look::Waiting(format!("record {now}")) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_one_instant_have_at_most_one_record_more_in_the_log() {
        let agree = |log, data| Records { log, data }.agree();
        assert!(agree(7, 7) && agree(8, 7));
        assert!(!agree(6, 7) && !agree(9, 7));
    }
}
