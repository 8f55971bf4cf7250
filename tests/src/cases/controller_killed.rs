//! kill -9 of the controller while a machine is frozen: the lease runs out, nobody has to tell the machine;
//! the run then takes the snapshots once more, whole.

use anyhow::{Result, ensure};

use super::machine::{
    DB, Frozen, LEASE, LIMIT, SLACK, agent_is_ready, back_up, db_with_writer, is_writable, seconds,
    succeeded, text, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "controller-killed-while-frozen",
    shows: "a frozen machine thaws when the controller dies, and its backup is finished by the next one",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let after = frozen.thaws_after(&mut lab, |lab| {
        lab.controller.kill();
        Ok(())
    })?;
    ensure!(after < LEASE + SLACK, "the writer went on only after {after:?}");
    lab.controller.start()?;
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    agent_is_ready(&lab, DB)?;
    judge::at_rest(&lab, &[DB])?;

    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![format!("the writer went on after {}", seconds(after))])
}
