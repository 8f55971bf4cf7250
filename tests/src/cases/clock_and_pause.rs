//! The machine's clock is set while it is frozen, and its host pauses it: the limits are kept, and a backup
//! claims what is on its disks.
//!
//! A pause is played in both ways that a machine may see it: its clock stands with it, or it finds that time
//! has passed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::machine::{
    DB, DELAY_MS, Frozen, HOLD_LIMIT, LIMIT, SLACK, agent_is_ready, back_up, db_with_writer,
    is_writable, newest, seconds, snapshot_file, succeeded, text, vm_id, writer_agrees,
};
use super::{Case, Figures, Place, Rounds, machine_process};
use crate::disk_image::DiskImage;
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, Stopwatch, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "clock-and-pause",
    shows: "the clock set by an hour, and pauses by the host, in the window: limits kept, nothing wrong claimed",
    rounds: Some(Rounds { by_default: 2, in_tests: 1 }),
    run,
};

/// How late a backup's snapshots begin so that something can happen in the window before.
const MEANWHILE_MS: u64 = 3_000;
/// A pause in which the snapshots are taken, and after which the thaw is still waited for.
const SHORT: Duration = Duration::from_secs(8);
/// A pause after which nobody waits for the thaw any more: the controller waits 15 s for its answer.
const LONG: Duration = Duration::from_secs(25);
/// The same for a machine whose clock runs on: less than half of what its clock, of 32 bits, counts (HPET, 43 s). More
/// looks to its kernel as if time had gone back, and time stands still until the clock has gone round.
const LONG_BY_CLOCK: Duration = Duration::from_secs(20);

/// By how much the clock is set, in seconds, and whether pauses are long.
const ROUNDS: [(&str, bool); 2] = [("- 3600", false), ("+ 3600", true)];

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let mut figures = Figures::new();
    for (_, (shift, is_long)) in (1..=place.rounds).zip(ROUNDS.into_iter().cycle()) {
        figures.push(
            clock_is_set(place, &mut lab, &guest, shift)
                .with_context(|| format!("the clock is set by {shift} s"))?,
        );
        for (name, pause, long) in PAUSES {
            let length = if is_long { long } else { SHORT };
            figures.push(
                host_pauses(place, &lab, &guest, pause, length)
                    .map(|words| format!("{name}, {} s: {words}", length.as_secs()))
                    .with_context(|| format!("{name}, {} s", length.as_secs()))?,
            );
        }
    }
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// A backup in whose window the clock is set is whole; one that is too slow is thawed when it would be anyway.
fn clock_is_set(place: &Place, lab: &mut Lab, guest: &Guest, shift: &str) -> Result<String> {
    let set = |shift: &str| format!("date -s @$(($(date +%s) {shift})) >/dev/null");
    let back =
        if shift.starts_with('+') { shift.replace('+', "-") } else { shift.replace('-', "+") };
    let frozen = Frozen::doing(lab, guest, &place.folder, 2, MEANWHILE_MS, &set(shift))?;
    frozen.thaws_after(lab, |_| Ok(()))?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    are_clean(place, lab, &point)?;
    guest.run(&set(&back))?;
    comes_back(lab, guest)?;

    let frozen = Frozen::doing(lab, guest, &place.folder, 2, DELAY_MS, &set(shift))?;
    let after = frozen.thaws_after(lab, |_| Ok(()))?;
    ensure!(after < HOLD_LIMIT + SLACK, "the writer went on only after {after:?}");
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(lab)?;
    ensure!(text(&point, "consistency") == "uncoordinated", "too slow, and counted: {point:#}");
    guest.run(&set(&back))?;
    comes_back(lab, guest)?;
    Ok(format!(
        "clock {} s: whole, and thawed by the limit after {}",
        shift.replace(' ', ""),
        seconds(after)
    ))
}

/// Pauses or resumes.
type Pause = fn(&Lab, bool) -> Result<()>;

const PAUSES: [(&str, Pause, Duration); 2] = [
    ("paused with its clock", with_its_clock, LONG),
    ("paused while its clock runs on", but_its_clock, LONG_BY_CLOCK),
];

fn with_its_clock(lab: &Lab, paused: bool) -> Result<()> {
    let vm_id = vm_id(lab, DB)?;
    if paused { lab.simulator.pause(&vm_id) } else { lab.simulator.resume(&vm_id) }
}

/// The emulation stands still, but the time that it shows does not.
fn but_its_clock(lab: &Lab, paused: bool) -> Result<()> {
    machine_process::signal(lab, if paused { libc::SIGSTOP } else { libc::SIGCONT })
}

fn host_pauses(
    place: &Place,
    lab: &Lab,
    guest: &Guest,
    pause: Pause,
    length: Duration,
) -> Result<String> {
    let records = "wc -c </data/applied";
    let stood_at = format!("{records} >/run/stood-at");
    let frozen = Frozen::doing(lab, guest, &place.folder, 2, MEANWHILE_MS, &stood_at)?;
    pause(lab, true)?;
    let since = Stopwatch::start();
    until("it has stood still", LIMIT, || {
        let stood = since.elapsed();
        Ok(if stood >= length { Look::Done(()) } else { Look::Waiting(format!("{stood:?}")) })
    })?;
    pause(lab, false)?;
    let since = Stopwatch::start();
    until("the writer goes on", LIMIT, || {
        let ended = guest.try_run(&format!("[ $({records}) != $(cat /run/stood-at) ]"))?;
        Ok(if ended.status.success() { Look::Done(()) } else { Look::Waiting(ended.stderr) })
    })?;
    let after = since.elapsed();
    ensure!(after < HOLD_LIMIT + SLACK, "the writer went on only after {after:?}");
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    lab.simulator.set_faults(&json!([]))?;
    let point = newest(lab)?;
    let (said, reason) = (text(&point, "consistency"), text(&point, "consistency_reason"));
    // What a backup claims is on its disks.
    if said != "uncoordinated" {
        are_clean(place, lab, &point)?;
    }
    ensure!(length == SHORT || said == "uncoordinated", "{said} after {length:?}: {point:#}");
    comes_back(lab, guest)?;
    Ok(format!("{said} ({reason}), the writer goes on {} later", seconds(after)))
}

/// Whether a point's file systems were frozen when its snapshots were taken.
fn are_clean(place: &Place, lab: &Lab, point: &Value) -> Result<()> {
    for lun in [None, Some(0)] {
        let file = snapshot_file(&lab.simulator, point, lun)?;
        let image = DiskImage::copy_of(&file, place.folder.join("snapshot.img"))?;
        ensure!(!image.needs_recovery()?, "the disk {lun:?} was not frozen: {point:#}");
    }
    Ok(())
}

/// Everything takes writes, nobody hangs, and the next backup is whole.
fn comes_back(lab: &Lab, guest: &Guest) -> Result<()> {
    is_writable(guest)?;
    agent_is_ready(lab, DB)?;
    let point = back_up(lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(guest)
}
