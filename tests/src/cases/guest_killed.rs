//! The machine's plug is pulled while it is frozen: its disks are as they were frozen, and it boots with
//! nothing frozen.

use anyhow::{Result, ensure};

use super::machine::{
    BOOT, DB, Frozen, GROUP, LIMIT, agent_is_ready, back_up, db_with_writer, is_writable, seconds,
    succeeded, text, writer_agrees,
};
use super::machine_process::{process, signal};
use super::{Case, Figures, Place};
use crate::disk_image::DiskImage;
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, Stopwatch, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "guest-killed-while-frozen",
    shows: "a machine that loses its power while it is frozen boots, with nothing frozen",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let boot_id = guest.boot_id()?;
    let vm = lab.simulator.listing()?.vm(GROUP, DB)?.id().to_owned();
    let disks = lab.simulator.listing()?.disks_of(lab.simulator.listing()?.vm(GROUP, DB)?);
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    pull_the_plug(&lab)?;
    for disk in &disks {
        let image =
            DiskImage::copy_of(&lab.simulator.content(disk)?, place.folder.join("dead.img"))?;
        ensure!(!image.needs_recovery()?, "{disk} was not frozen when its machine died");
    }
    let since = Stopwatch::start();
    lab.simulator.power_on(&vm)?;
    guest.await_ssh(BOOT)?;
    let booted = since.elapsed();
    ensure!(guest.boot_id()? != boot_id, "it is still the same boot");
    lab.simulator.set_faults(&serde_json::json!([]))?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = super::machine::newest(&lab)?;
    ensure!(
        text(&point, "consistency") == "uncoordinated",
        "a freeze that broke counted: {point:#}"
    );
    is_writable(&guest)?;
    writer_agrees(&guest)?;
    agent_is_ready(&lab, DB)?;
    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![
        format!("{} disks clean", disks.len()),
        format!("answers {} after power-on", seconds(booted)),
    ])
}

/// kill -9 of the machine's process.
fn pull_the_plug(lab: &Lab) -> Result<()> {
    signal(lab, libc::SIGKILL)?;
    machine_is_gone(lab)
}

/// Waits until no process runs `db`.
pub(super) fn machine_is_gone(lab: &Lab) -> Result<()> {
    until("the machine is gone", LIMIT, || {
        Ok(match process(lab)? {
            None => Look::Done(()),
            Some(process) => Look::Waiting(format!("process {process} is there")),
        })
    })
}
