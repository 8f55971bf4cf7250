//! A machine whose agent is stopped: a backup says that nobody coordinated it, or is refused and leaves
//! nothing where it must be consistent.

use anyhow::{Result, ensure};

use super::machine::{
    DB, LIMIT, agent_is_gone, back_up, db_with_writer, is_writable, text, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "agent-absent",
    shows: "without its agent a machine's backup says so, or is refused and leaves nothing",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    guest.run("mv /etc/azdr/agent.toml /etc/azdr/off; kill $(cat /run/azdr-agent.pid)")?;
    agent_is_gone(&lab)?;
    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "uncoordinated", "{point:#}");
    lab.azdr.run(&["backup", "configure", DB, "--consistency", "require"])?.ok()?;
    let before = lab.simulator.listing()?.everything();
    let answer = lab.azdr.run(&["backup", "trigger", DB])?;
    ensure!(answer.code == 1 && answer.stderr.contains("agent"), "{}", answer.words());
    lab.settle(LIMIT)?;
    ensure!(lab.simulator.listing()?.everything() == before, "snapshots are left behind");
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![format!("said: {}", text(&point, "consistency_reason"))])
}
