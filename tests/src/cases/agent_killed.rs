//! kill -9 of the agent while its machine is frozen: the thaw process notices at once, and the backup claims
//! nothing.

use anyhow::{Result, ensure};

use super::machine::{
    DB, Frozen, LEASE, LIMIT, SLACK, agent_is_ready, back_up, db_with_writer, is_writable, newest,
    seconds, succeeded, text, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "agent-killed-while-frozen",
    shows: "a frozen machine thaws when its agent dies, and a freeze that broke does not count",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
    let after = frozen
        .thaws_after(&mut lab, |_| guest.run("kill -9 $(cat /run/azdr-agent.pid)").map(drop))?;
    ensure!(after < LEASE + SLACK, "the writer went on only after {after:?}");
    succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
    let point = newest(&lab)?;
    ensure!(point["consistency"] == "uncoordinated", "a freeze that broke counted: {point:#}");
    agent_is_ready(&lab, DB)?;

    // Without any death it is frozen throughout.
    let point = back_up(&lab)?;
    ensure!(text(&point, "consistency") == "filesystem", "{point:#}");
    writer_agrees(&guest)?;
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(vec![format!("the writer went on after {}", seconds(after))])
}
