//! The whole cycle, again and again on one machine: work, back up, destroy both disks, restore, and look at
//! what came back from outside.

use anyhow::{Result, ensure};

use super::machine::{
    BOOT, DB, LIMIT, agent_is_ready, back_up, db, is_writable, seconds, text, vm_id,
};
use super::{Case, Figures, Place, Rounds};
use crate::judge;
use crate::planted::{self, Planted};
use crate::poll::Stopwatch;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "full-cycle",
    shows: "what is backed up, destroyed and restored comes back, seen from outside over SSH",
    rounds: Some(Rounds { by_default: 10, in_tests: 1 }),
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db(place)?;
    protect_and_keep_all(&lab, DB)?;
    let vm_id = vm_id(&lab, DB)?;
    let shell = |command: &str| guest.run(command);
    let mut times = Vec::new();
    for round in 1..=place.rounds {
        let what = || format!("cycle {round}");
        let since = Stopwatch::start();
        let data = Planted::plant(&guest, &shell).map_err(|e| e.context(what()))?;
        let point = back_up(&lab)?;
        ensure!(text(&point, "consistency") == "filesystem", "{}: {point:#}", what());
        planted::destroy(&lab, &vm_id, &shell).map_err(|e| e.context(what()))?;
        ensure!(!guest.try_run("true")?.status.success(), "{}: it still answers", what());
        let name = text(&point, "name");
        lab.azdr.run(&["backup", "restore", DB, "--backup", name, "--yes"])?.ok()?;
        let result = &lab.azdr.newest_job("restore_in_place")?["result"]["restore"];
        let is_proved = result["witness_verified"] == true
            && result["ssh_verified"] == true
            && result["unconfirmed"].is_null();
        ensure!(is_proved, "{}: {result:#}", what());
        guest.await_ssh(BOOT)?;
        data.check(&guest, &shell).map_err(|e| e.context(what()))?;
        agent_is_ready(&lab, DB)?;
        is_writable(&guest)?;
        lab.settle(LIMIT)?;
        times.push(since.elapsed());
    }
    judge::at_rest(&lab, &[DB])?;
    let longest = times.iter().max().copied().unwrap_or_default();
    Ok(vec![
        format!("{} cycles in a row", times.len()),
        format!("{} at most", seconds(longest)),
        "same data, hash and host key, another boot".to_owned(),
    ])
}
