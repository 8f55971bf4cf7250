//! Azure does what it was asked to, and its answer is lost: one resource comes of it, not two.

use anyhow::{Context, Result, ensure};
use azdr_tests::{Lab, Vm, World};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::judge;
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_lost_answer_to_any_put_makes_one_resource",
    needs: Needs::Programs,
    body: lost_answers,
}];

fn lost(method: &str, kind: &str, nth: u64) -> Value {
    json!([{
        "match": {"method": method, "resource_type": kind, "nth": nth},
        "action": "drop_after",
    }])
}

const SNAPSHOTS: &str = "Microsoft.Compute/snapshots";
const DISKS: &str = "Microsoft.Compute/disks";
const VMS: &str = "Microsoft.Compute/virtualMachines";

fn lost_answers(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect_and_keep_all(&lab, "db")?;
    let point = || -> Result<String> {
        let points = lab.azdr.points("db")?;
        Ok(points.first().and_then(|p| p["name"].as_str()).context("no point")?.to_owned())
    };
    for nth in [1, 2] {
        with_faults(&lab, &lost("PUT", SNAPSHOTS, nth), &["backup", "trigger", "db"])?;
    }
    let newest = point()?;
    for nth in [1, 2] {
        // The second time the point is there already, and another one has to be copied.
        let name = if nth == 1 {
            newest.clone()
        } else {
            lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
            point()?
        };
        let copy = ["backup", "replicate", &name, "--target-region", "westus2"];
        with_faults(&lab, &lost("PUT", SNAPSHOTS, nth), &copy)?;
    }
    for nth in [1, 2] {
        with_faults(&lab, &lost("PUT", DISKS, nth), &["backup", "verify", &newest])?;
        with_faults(&lab, &lost("PUT", DISKS, nth), &["backup", "restore", "db", "--yes"])?;
        with_faults(&lab, &lost("PATCH", VMS, nth), &["backup", "restore", "db", "--yes"])?;
    }
    for action in ["start", "powerOff"] {
        let kind = format!("{VMS}/{action}");
        with_faults(&lab, &lost("POST", &kind, 1), &["backup", "restore", "db", "--yes"])?;
    }
    let copy = ["backup", "restore", "db", "--new-vm", "db-copy"];
    under_faults(&lab, &lost("PUT", VMS, 1), &copy)?;
    let listing = lab.simulator.listing()?;
    ensure!(listing.vms().len() == 2, "{:#?}", listing.everything());
    judge::at_rest(&lab, &["db", "db-copy"])
}

/// Runs a command, which must succeed although the fault strikes.
fn under_faults(lab: &Lab, faults: &Value, command: &[&str]) -> Result<()> {
    lab.simulator.set_faults(faults)?;
    lab.azdr.run(command)?.ok().with_context(|| format!("with {faults}"))?;
    let matched = lab.simulator.faults()?[0]["matched"].as_u64().unwrap_or_default();
    let nth = faults[0]["match"]["nth"].as_u64().unwrap_or_default();
    ensure!(matched >= nth, "{faults} did not strike during {command:?}");
    lab.simulator.set_faults(&json!([]))
}

fn with_faults(lab: &Lab, faults: &Value, command: &[&str]) -> Result<()> {
    under_faults(lab, faults, command)?;
    judge::at_rest(lab, &["db"]).with_context(|| format!("after {faults} during {command:?}"))
}
