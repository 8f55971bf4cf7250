//! A restore that Azure refuses somewhere, at each of its changes in turn: the command ends with 1 and
//! names the reason, and the VM runs on the disks that it had.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_restore_that_is_refused_at_any_of_its_changes_leaves_the_vm_on_its_old_disks",
    needs: Needs::Programs,
    body: refused,
}];

const SETTLE: Duration = Duration::from_secs(120);
/// What a restore in place changes at Azure, and cannot do without.
const CHANGES: [(&str, &str); 4] = [
    ("PUT", "Microsoft.Compute/disks"),
    ("PATCH", "Microsoft.Compute/virtualMachines"),
    ("POST", "Microsoft.Compute/virtualMachines/powerOff"),
    ("POST", "Microsoft.Compute/virtualMachines/start"),
];
/// What replaced disks are kept until: without it they are kept, too, and that is said.
const DISPENSABLE: &str = "PATCH Microsoft.Resources/tags";

fn refused(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect(&lab, "db", &[])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let restore = ["backup", "restore", "db", "--yes"];
    let before = changes(&lab)?;
    lab.azdr.run(&restore)?.ok()?;
    lab.settle(SETTLE)?;
    let made: BTreeMap<String, u64> = changes(&lab)?
        .into_iter()
        .map(|(kind, count)| (kind.clone(), count - before.get(&kind).copied().unwrap_or(0)))
        .filter(|(kind, count)| *count > 0 && !kind.eq_ignore_ascii_case(DISPENSABLE))
        .collect();
    let known: BTreeSet<String> =
        CHANGES.iter().map(|(m, kind)| format!("{m} {kind}").to_lowercase()).collect();
    let found: BTreeSet<String> = made.keys().map(|kind| kind.to_lowercase()).collect();
    ensure!(found == known, "a restore changes {made:#?}");
    for (kind, count) in &made {
        let (method, resource_type) = kind.split_once(' ').context("a method")?;
        for nth in 1..=*count {
            let disks = disks(&lab)?;
            lab.simulator.set_faults(&json!([{
                "match": {"method": method, "resource_type": resource_type, "nth": nth},
                "action": {"status": {"status": 403, "code": "AuthorizationFailed",
                    "message": "not by you"}},
            }]))?;
            let answer = lab.azdr.run(&restore)?;
            let what = format!("{kind}, number {nth}, is refused");
            ensure!(answer.code == 1, "{what}: exit code {}: {}", answer.code, answer.words());
            ensure!(answer.stderr.contains("AuthorizationFailed"), "{what}: {}", answer.words());
            lab.simulator.set_faults(&json!([]))?;
            judge::at_rest(&lab, &["db"]).context(what.clone())?;
            ensure!(disks == self::disks(&lab)?, "{what}: the VM runs on other disks");
        }
    }
    // What is refused once is not refused for ever.
    lab.azdr.run(&restore)?.ok()?;
    judge::at_rest(&lab, &["db"])
}

/// How many requests that change something there were, by kind.
fn changes(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let requests: Value = lab.simulator.requests()?;
    let kinds = requests["requests"].as_object().context("counts by kind")?;
    let changes = kinds.iter().filter(|(kind, _)| {
        !kind.starts_with("GET ") && (kind.contains("Microsoft.Compute") || kind.contains("/tags"))
    });
    Ok(changes.map(|(kind, count)| (kind.clone(), count.as_u64().unwrap_or(0))).collect())
}

fn disks(lab: &Lab) -> Result<Vec<String>> {
    let listing = lab.simulator.listing()?;
    let vm = listing.vm("prod", "db")?;
    ensure!(vm.is_running(), "db is {}", vm.power());
    Ok(listing.disks_of(vm))
}
