//! The second disk of a recovery point is that of an older one, by whatever mistake: the drill fails, the
//! restore turns back, and both name the disk. The older point itself is restored and proved.

use anyhow::{Context, Result, ensure};

use super::machine::{
    BOOT, DB, GROUP, back_up, db_with_writer, is_writable, snapshot_file, text, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "disk-of-an-older-point",
    shows: "a point whose second disk is an older one's fails its drill, and its restore turns back",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let older = back_up(&lab)?;
    writer_agrees(&guest)?;
    let newer = back_up(&lab)?;
    let data = |point| snapshot_file(&lab.simulator, point, Some(0));
    // A new file under the old name: what shares the old one's content keeps it.
    let swapped = place.folder.join("swapped");
    std::fs::copy(data(&older)?, &swapped).context("cannot copy the older disk")?;
    std::fs::copy(&swapped, data(&newer)?.with_extension("swapped"))?;
    std::fs::rename(data(&newer)?.with_extension("swapped"), data(&newer)?)?;

    let answer = lab.azdr.run(&["dr", "test", DB, "--test-region", "eastus"])?;
    ensure!(answer.code == 1, "the drill ended with {}: {}", answer.code, answer.words());
    let drill = lab.azdr.newest_job("dr_test")?;
    ensure!(drill["error"]["kind"] == "wrong_witness", "{drill:#}");
    let said = text(&drill["error"], "message").to_owned();
    ensure!(said.contains("/data (") && said.contains("which is older"), "{said}");
    judge::at_rest(&lab, &[DB])?;
    let point = &lab.azdr.points(DB)?[0];
    ensure!(point["proof"] != "booted" && point["proof_failed"] == true, "{point:#}");

    let listing = lab.simulator.listing()?;
    let disks = listing.disks_of(listing.vm(GROUP, DB)?);
    let answer =
        lab.azdr.run(&["backup", "restore", DB, "--backup", text(&newer, "name"), "--yes"])?;
    ensure!(answer.code == 1, "the restore ended with {}: {}", answer.code, answer.words());
    ensure!(answer.stderr.contains("which is older"), "{}", answer.words());
    guest.await_ssh(BOOT)?;
    let listing = lab.simulator.listing()?;
    ensure!(listing.disks_of(listing.vm(GROUP, DB)?) == disks, "it runs on other disks");
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;

    lab.azdr.run(&["backup", "restore", DB, "--backup", text(&older, "name"), "--yes"])?.ok()?;
    let result = &lab.azdr.newest_job("restore_in_place")?["result"]["restore"];
    ensure!(result["witness_verified"] == true, "{result:#}");
    guest.await_ssh(BOOT)?;
    writer_agrees(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![format!("drill and restore refused: {said}")])
}
