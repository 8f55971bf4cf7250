//! The whole fleet on one screen.

use std::time::Duration;

use anyhow::{Result, ensure};
use azdr_tests::{Vm, World};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "the_status_counts_what_is_covered_missing_and_unproved",
    needs: Needs::Programs,
    body: status,
}];

const SETTLE: Duration = Duration::from_secs(60);

fn status(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: ["db", "web"].map(|name| Vm::new("prod", name)).into() })?;
    let count = |what: &str| -> Result<u64> {
        let status = lab.azdr.json(&["status"])?;
        let part = &status[what];
        Ok(part["vms"].as_u64().or(part.as_u64()).unwrap_or(u64::MAX))
    };
    let counts = |wanted: &[(&str, u64)]| -> Result<()> {
        for (what, wanted) in wanted {
            ensure!(count(what)? == *wanted, "{what}: {:#}", lab.azdr.json(&["status"])?);
        }
        Ok(())
    };
    counts(&[("vms", 2), ("not_covered", 2), ("covered", 0), ("never_backed_up", 0)])?;
    protect(&lab, "db", &["--target-region", "westus2"])?;
    counts(&[("not_covered", 1), ("never_backed_up", 1), ("unproved", 0)])?;
    // Nobody has said how often it is to be tested.
    counts(&[("drills_due", 0), ("drills_not_asked_for", 1)])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    counts(&[("covered", 1), ("never_backed_up", 0), ("overdue", 0), ("unproved", 1)])?;
    counts(&[("recovery_points", 1), ("jobs_running", 0), ("jobs_stuck", 0), ("gone", 0)])?;
    let name = lab.azdr.points("db")?[0]["name"].as_str().unwrap_or_default().to_owned();
    lab.azdr.run(&["backup", "verify", &name])?.ok()?;
    counts(&[("unproved", 0), ("drills_failed", 0)])?;
    // Nobody can say of a machine that is a mere record whether it has booted.
    ensure!(lab.azdr.run(&["dr", "test", "db"])?.code == 1, "the test passed");
    lab.azdr.run(&["backup", "configure", "db", "--drill-every", "30d", "--rpo", "24h"])?.ok()?;
    counts(&[("drills_failed", 1), ("drills_due", 1), ("drills_not_asked_for", 0), ("vms", 2)])?;
    let status = lab.azdr.json(&["status"])?;
    let met = |what: &str| (status[what]["met"].as_u64(), status[what]["missed"]["vms"].as_u64());
    ensure!(met("rpo") == (Some(1), Some(0)), "a backup of now is no day old: {status:#}");
    ensure!(met("rto") == (Some(0), Some(1)), "the last test has failed: {status:#}");
    ensure!(status["alerts_critical"] == 1 && status["alerts_high"] == 1, "{status:#}");
    lab.azdr.run(&["backup", "disable", "db"])?.ok()?;
    counts(&[("covered", 0), ("not_covered", 2), ("drills_due", 0)])
}
