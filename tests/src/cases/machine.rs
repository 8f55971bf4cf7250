//! The machine of most cases: a running VM `db` with two disks and an enrolled agent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Place;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::poll::{Look, Stopwatch, until};
use crate::process::Daemon;
use crate::simulator::Simulator;
use crate::waiting_tasks::{LIST, waiting};
use crate::world::{Vm, World};

/// For an emulated machine on a busy host to boot.
pub(super) const BOOT: Duration = Duration::from_secs(240);
/// For anything else.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// The lease, as configured by default.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// For the emulated machine to notice, thaw and write, and for us to see it.
pub(super) const SLACK: Duration = Duration::from_secs(3);

/// The longest that anything stays frozen, as configured by default.
pub(super) const HOLD_LIMIT: Duration = Duration::from_secs(10);

/// How late a slow backup's snapshots begin: later than anything stays frozen (10 s by default), so that what
/// ends the freeze is never the end of the snapshots.
pub(super) const DELAY_MS: u64 = 12_000;

/// Its name, and its group's.
pub(super) const DB: &str = "db";
pub(super) const GROUP: &str = "data";

const SNAPSHOTS: &str = "Microsoft.Compute/snapshots";

/// A world with `db` in it; it has no policy yet. Nothing happens there by schedule.
pub(super) fn db(place: &Place) -> Result<(Lab, Guest)> {
    let lab = place.lab(World { vms: vec![Vm::new(GROUP, DB).with_data_disk()] })?;
    let guest = lab.guest(GROUP, DB)?;
    guest.await_ssh(BOOT)?;
    lab.enrol(&guest)?;
    agent_is_ready(&lab, DB)?;
    Ok((lab, guest))
}

/// The same, with a writer that spans both disks.
pub(super) fn db_with_writer(place: &Place) -> Result<(Lab, Guest)> {
    let (lab, guest) = db(place)?;
    // Microseconds between two steps.
    guest.run("echo 20000 >/etc/lab-writer; sync")?;
    writer_agrees(&guest)?;
    Ok((lab, guest))
}

/// Waits until an agent is connected and can freeze.
pub(super) fn agent_is_ready(lab: &Lab, vm: &str) -> Result<()> {
    until(&format!("the agent of {vm} is connected and can freeze"), LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?;
        let agents = answer["agents"].as_array().cloned().unwrap_or_default();
        let ready = agents
            .iter()
            .any(|a| a["vm_name"] == vm && a["state"] == "connected" && a["can_freeze"] == true);
        Ok(if ready { Look::Done(()) } else { Look::Waiting(answer.to_string()) })
    })
}

/// Waits until no agent is connected.
pub(super) fn agent_is_gone(lab: &Lab) -> Result<()> {
    until("the agent is gone", LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?.to_string();
        Ok(match answer.contains("\"connected\"") {
            false => Look::Done(()),
            true => Look::Waiting(answer),
        })
    })
}

/// How often a machine's agent has connected, in all lives of the controller.
pub(super) fn sessions(lab: &Lab, vm_id: &str) -> usize {
    let log = lab.controller.log();
    let of_machine = |line: &&str| line.contains("agent connected") && line.contains(vm_id);
    log.lines().filter(of_machine).count()
}

/// Azure's vmId of a machine.
pub(super) fn vm_id(lab: &Lab, name: &str) -> Result<String> {
    Ok(lab.simulator.listing()?.vm(GROUP, name)?.vm_id().to_owned())
}

/// Waits until the writer's invariant holds across both disks.
///
/// # Errors
/// At once when it is broken.
pub(super) fn writer_agrees(guest: &Guest) -> Result<()> {
    until("the writer's invariant holds", LIMIT, || {
        let ended = guest.try_run("lab-check")?;
        ensure!(!ended.stdout.contains("BROKEN"), "{}", ended.stdout);
        Ok(match ended.status.success() {
            true => Look::Done(()),
            false => Look::Waiting(ended.stdout),
        })
    })
}

/// Whether both file systems take writes (a frozen one would let this hang), and nobody hangs.
pub(super) fn is_writable(guest: &Guest) -> Result<()> {
    guest.run("echo x >/root/writable && echo x >/data/writable && sync && rm /root/writable /data/writable")?;
    guest.nobody_waits()
}

/// Takes a backup of `db` and returns its recovery point.
pub(super) fn back_up(lab: &Lab) -> Result<Value> {
    lab.azdr.run(&["backup", "trigger", DB])?.ok()?;
    newest(lab)
}

/// The newest recovery point of `db`.
pub(super) fn newest(lab: &Lab) -> Result<Value> {
    lab.azdr.points(DB)?.into_iter().next().context("db has no recovery point")
}

/// A text of a document.
pub(super) fn text<'a>(document: &'a Value, field: &str) -> &'a str {
    document[field].as_str().unwrap_or_default()
}

/// Whether a job ended well.
pub(super) fn succeeded(job: &Value) -> Result<()> {
    ensure!(job["state"] == "succeeded", "{job:#}");
    Ok(())
}

/// Makes Azure begin the next snapshots of so many disks late.
fn delay_snapshots(lab: &Lab, guest: &Guest, disks: u32, delay_ms: u64) -> Result<()> {
    writer_agrees(guest)?;
    lab.simulator.set_faults(&json!([{
        "match": {"method": "PUT", "resource_type": SNAPSHOTS, "count": disks},
        "action": {"delay_ms": delay_ms},
    }]))
}

/// In the machine, with `$m`, how far the writer was: says when it goes on.
const UNTIL_THAWED: &str =
    "while [ $(wc -c </data/applied) = $m ]; do usleep 20000; done; echo THAWED";

/// A machine that a backup has frozen, and that will stay so until something ends it.
pub(super) struct Frozen {
    /// The backup.
    pub(super) job: i64,
    /// In the machine: looks at the writer. Its connection ends when the machine stands still for long.
    watcher: Daemon,
}

impl Frozen {
    /// Freezes the machine by a backup whose snapshots Azure takes too long to begin.
    pub(super) fn by_slow_backup(lab: &Lab, guest: &Guest, folder: &Path) -> Result<Self> {
        Self::by_backup_delayed(lab, guest, folder, DELAY_MS)
    }

    /// The same by a backup whose snapshots begin so late.
    pub(super) fn by_backup_delayed(
        lab: &Lab,
        guest: &Guest,
        folder: &Path,
        delay_ms: u64,
    ) -> Result<Self> {
        delay_snapshots(lab, guest, 2, delay_ms)?;
        let job = lab.azdr.start_job(&["backup", "trigger", DB])?;
        until("the machine is frozen", LIMIT, || {
            let matched = lab.simulator.faults()?[0]["matched"].as_u64();
            Ok(match matched >= Some(1) {
                true => Look::Done(()),
                false => Look::Waiting(format!("{matched:?}")),
            })
        })?;
        // The writer stands still, and then goes on. (The shell's tools are read from the frozen disk,
        // which is no hindrance.)
        let watch = format!(
            "n=$(wc -c </data/applied); usleep 300000; m=$(wc -c </data/applied); \
             {LIST}; [ $n = $m ] && echo FROZEN; {UNTIL_THAWED}"
        );
        let watcher = guest.start(&watch, &folder.join(format!("watch-{job}")))?;
        let frozen = Self { job, watcher };
        // It logs in first; this is within the time that anything stays frozen.
        let while_frozen = Duration::from_millis(delay_ms) * 2 / 3;
        frozen.said("FROZEN", "the writer stands still", while_frozen)?;
        // What is asked for when it is thawed can be seen: somebody waits now.
        let printed = frozen.watcher.printed();
        let listing = printed.split("FROZEN").next().unwrap_or_default();
        ensure!(!waiting(listing)?.is_empty(), "nobody waits in a frozen machine: {listing}");
        Ok(frozen)
    }

    /// Freezes the machine by a backup of so many disks, whose snapshots Azure begins so late, and does something in
    /// it as soon as it is frozen.
    pub(super) fn doing(
        lab: &Lab,
        guest: &Guest,
        folder: &Path,
        disks: u32,
        delay_ms: u64,
        act: &str,
    ) -> Result<Self> {
        delay_snapshots(lab, guest, disks, delay_ms)?;
        // A writer may stand still for other reasons: an operation's process is there as well.
        let watch = format!(
            "m=$(wc -c </data/applied); echo WATCHING; \
             while n=$m; usleep 300000; m=$(wc -c </data/applied); \
             [ $n != $m ] || [ $(pidof azdr-thawd | wc -w) -lt 2 ]; do :; done; \
             echo FROZEN; {act}; echo DONE; {UNTIL_THAWED}"
        );
        let jobs = lab.azdr.jobs()?.len();
        let watcher = guest.start(&watch, &folder.join(format!("watch-after-{jobs}")))?;
        let mut frozen = Self { job: 0, watcher };
        frozen.said("WATCHING", "the writer is looked at", LIMIT)?;
        frozen.job = lab.azdr.start_job(&["backup", "trigger", DB])?;
        frozen.said("DONE", "it is frozen, and something is done", LIMIT)?;
        Ok(frozen)
    }

    /// Does something to the frozen machine; returns how long after that its writer went on.
    pub(super) fn thaws_after(
        &self,
        lab: &mut Lab,
        act: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<Duration> {
        let since = Stopwatch::start();
        act(lab)?;
        self.said("THAWED", "the writer goes on", Duration::from_secs(30))?;
        let after = since.elapsed();
        lab.simulator.set_faults(&json!([]))?;
        Ok(after)
    }

    fn said(&self, word: &str, what: &str, limit: Duration) -> Result<()> {
        until(what, limit, || {
            let printed = self.watcher.printed();
            // As a line of its own: a shell that refuses the script shows all of it.
            let said = printed.lines().any(|line| line == word);
            Ok(if said { Look::Done(()) } else { Look::Waiting(printed) })
        })
    }
}

/// Seconds, for a figure.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The file that holds what a recovery point's snapshot of a disk has: of the OS disk (`None`) or of a
/// LUN.
pub(super) fn snapshot_file(
    simulator: &Simulator,
    point: &Value,
    lun: Option<i64>,
) -> Result<std::path::PathBuf> {
    let disks = point["disks"].as_array().context("a point has disks")?;
    let disk = disks.iter().find(|disk| disk["lun"].as_i64() == Some(lun.unwrap_or(-1)));
    let id = disk.and_then(|disk| disk["snapshot_id"].as_str());
    let id = id.with_context(|| format!("no snapshot of LUN {lun:?} in {point:#}"))?;
    simulator.content(id)
}
