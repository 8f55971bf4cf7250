//! An agent's certificate lives for 30 days; after 13 months a drill of an old point meets one that expired a
//! year ago, and recognises its machine all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::machine::{DB, LIMIT, back_up, db_with_writer};
use super::{Case, Figures, Place};
use crate::protection::protect;

pub(super) const CASE: Case = Case {
    name: "expired-certificate",
    shows: "a point whose certificate has expired boots in a drill and is recognised",
    rounds: None,
    run,
};

const TIME: Duration = Duration::from_secs(13 * 31 * 24 * 3600);

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, _) = db_with_writer(place)?;
    protect(&lab, DB, &["--consistency", "require"])?;
    back_up(&lab)?;
    lab.settle(LIMIT)?;
    // Machines that boot from now on live in that time, too.
    let shift = format!("lab.clock_shift_secs={}", TIME.as_secs());
    lab.simulator.stop()?;
    lab.simulator.start(&["--kernel-append", &shift])?;
    lab.let_pass(TIME)?;
    let agents = lab.azdr.json(&["agent", "list"])?;
    let expires = agents["agents"][0]["certificate_expires_at"].as_str().context("a date")?;
    lab.azdr.run(&["dr", "test", DB, "--test-region", "eastus"])?.ok()?;
    let result = &lab.azdr.newest_job("dr_test")?["result"]["dr_test"];
    let passed = result["passed"] == true && result["witness_verified"] == true;
    ensure!(passed, "{result:#}");
    lab.settle(LIMIT)?;
    let left = lab.simulator.listing()?.temporary(&[DB], &[]);
    ensure!(left.is_empty(), "left over: {left:#?}");
    Ok(vec![format!("the certificate was good until {expires}")])
}
