//! The scenarios of `docs/runbook.md`, command by command, on simulated machines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::cli::Answer;
use azdr_tests::simulated_machines::SimulatedMachine;
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::agent_is_connected;
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "runbook_1_a_corrupted_vm_is_put_back_by_a_restore_in_place",
        needs: Needs::Programs,
        body: corruption,
    },
    Test {
        name: "runbook_2_a_vm_is_recovered_elsewhere_while_its_own_region_is_down",
        needs: Needs::Programs,
        body: region_outage,
    },
    Test {
        name: "runbook_3_deleted_data_come_back_from_a_point_in_time",
        needs: Needs::Programs,
        body: data_loss,
    },
    Test {
        name: "runbook_4_the_quarterly_drill_says_what_passed_and_what_was_not_tested",
        needs: Needs::Programs,
        body: quarterly_drill,
    },
];

const SETTLE: Duration = Duration::from_secs(120);
const MINUTE: Duration = Duration::from_secs(60);
const FILE: &str = "/data/critical-files";

/// A machine with an enrolled agent, whose backups are copied to the other region.
fn protected(lab: &Lab, name: &str) -> Result<SimulatedMachine> {
    let machine = lab.machine("prod", name)?;
    lab.enrol_simulated(&machine)?;
    agent_is_connected(lab, name)?;
    protect(lab, name, &["--cross-region", "--target-region", "westus2"])?;
    lab.azdr.run(&["backup", "configure", name, "--daily-retention", "100"])?.ok()?;
    Ok(machine)
}

fn lab_of(stage: &Stage, names: &[&str]) -> Result<Lab> {
    let vms = names.iter().map(|name| Vm::new("prod", name).with_data_disk()).collect();
    let lab = stage.lab_with_simulated_guests(World { vms })?;
    Ok(lab)
}

/// Takes a backup and waits for its copy.
fn back_up(lab: &Lab, vm: &str) -> Result<Value> {
    lab.azdr.run(&["backup", "trigger", vm])?.ok()?;
    lab.settle(SETTLE)?;
    lab.azdr.points(vm)?.into_iter().next().context("no recovery point")
}

fn name(point: &Value) -> &str {
    point["name"].as_str().unwrap_or_default()
}

fn has(answer: &Answer, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(answer.words().contains(word), "no {word:?} in {}", answer.words());
    }
    Ok(())
}

/// There is no shell through azdr: it names the command that is one.
fn ssh_is_named(lab: &Lab, command: &str) -> Result<()> {
    let answer = lab.azdr.run(&["ssh", "db", command])?;
    ensure!(answer.code == 2, "exit code {}", answer.code);
    has(&answer, &[&format!("Run: ssh db '{command}'")])
}

fn corruption(stage: &Stage) -> Result<()> {
    let lab = lab_of(stage, &["db"])?;
    let machine = protected(&lab, "db")?;
    machine.write(FILE, b"as it should be")?;
    let point = back_up(&lab, "db")?;
    machine.write(FILE, b"#@!%")?;

    has(&lab.azdr.run(&["backup", "list", "db"])?.ok()?, &[name(&point)])?;
    let restored = lab.azdr.run(&["backup", "restore", "db", "--backup", name(&point), "--yes"])?;
    let restored = restored.ok()?;
    let told = [
        "Estimated downtime: 10-15 minutes (a default: nothing was measured yet)",
        "Restore complete",
        "RTO (Recovery Time): ",
        "VM status: Running",
        "Recovery point shown by agent: yes",
    ];
    has(&restored, &told)?;
    ssh_is_named(&lab, "systemctl status")?;
    ensure!(machine.read(FILE)?.as_deref() == Some(b"as it should be"), "the file is not back");

    // The next one is estimated from what this one took.
    let again = lab.azdr.run(&["backup", "restore", "db", "--yes"])?.ok()?;
    has(&again, &["(measured: 1 restore of this VM)"])?;
    judge::at_rest(&lab, &["db"])
}

fn region_outage(stage: &Stage) -> Result<()> {
    let lab = lab_of(stage, &["db"])?;
    let machine = protected(&lab, "db")?;
    machine.write(FILE, b"wanted elsewhere")?;
    let point = back_up(&lab, "db")?;
    let nowhere = ["dr", "failover", "db", "--target-region", "northeurope", "--yes"];
    let refused = lab.azdr.run(&nowhere)?;
    ensure!(refused.code == 1, "exit code {}", refused.code);
    let what_is = format!("{} is the newest in westus2", name(&point));
    has(&refused, &["no complete recovery point in northeurope", &what_is])?;

    lab.simulator.set_faults(&json!([
        {"match": {}, "action": {"region_down": {"region": "eastus"}}},
    ]))?;
    let status = lab.azdr.run(&["backup", "replication-status", "db"])?.ok()?;
    has(&status, &["Completed (1):", "-> westus2  ok"])?;
    let failover = ["dr", "failover", "db", "--target-region", "westus2", "--yes"];
    let answer = lab.azdr.run(&failover)?.ok()?;
    let told = ["Failover complete", "RTO (Recovery Time): ", "RPO (age of the backup): "];
    has(&answer, &told)?;
    has(&answer, &["Region: westus2", "Recovery point shown by agent: yes"])?;
    let result = &lab.azdr.newest_job("restore_new_vm")?["result"]["restore"];
    let recorded = |field: &str| result[field].as_u64().is_some_and(|ms| ms > 0);
    ensure!(recorded("rto_ms") && recorded("rpo_ms"), "{result:#}");
    let listing = lab.simulator.listing()?;
    let new_vm = listing.vm("prod-westus2", "db-westus2")?;
    ensure!(new_vm.is_running() && new_vm.location() == "westus2", "{:#}", new_vm.record());
    let copy = lab.machine("prod-westus2", "db-westus2")?;
    ensure!(copy.read(FILE)?.as_deref() == Some(b"wanted elsewhere"), "the data are not there");

    lab.simulator.set_faults(&json!([]))?;
    // It is a VM in its own right, and the original is what it was.
    agent_is_connected(&lab, "db-westus2")?;
    agent_is_connected(&lab, "db")?;
    let again = lab.azdr.run(&failover)?;
    ensure!(again.code == 1 && again.stderr.contains("exists already"), "{}", again.words());
    judge::at_rest(&lab, &["db", "db-westus2"])
}

fn data_loss(stage: &Stage) -> Result<()> {
    let mut lab = lab_of(stage, &["db"])?;
    let machine = protected(&lab, "db")?;
    machine.write(FILE, b"deleted by accident")?;
    let good = back_up(&lab, "db")?;
    lab.let_pass(10 * MINUTE)?;
    agent_is_connected(&lab, "db")?;
    machine.remove(FILE)?;
    let bad = back_up(&lab, "db")?;

    has(&lab.azdr.run(&["backup", "list", "db", "--since", "7d"])?.ok()?, &[name(&good)])?;
    has(&lab.azdr.run(&["backup", "verify", name(&good)])?.ok()?, &["Result: PASS"])?;
    // Nothing is as old as that.
    let early = lab.azdr.run(&["backup", "restore", "db", "--at", "2h", "--yes"])?;
    ensure!(early.code == 1, "exit code {}", early.code);
    let first = format!("the first one after it is {}", name(&good));
    has(&early, &["no backup that can be restored was taken at or before", &first])?;
    let at = good["created_at"].as_str().context("when it was taken")?;
    let restored = lab.azdr.run(&["backup", "restore", "db", "--at", at, "--yes"])?.ok()?;
    let later = format!("{} was taken after it", name(&bad));
    has(&restored, &[&format!("Backup: {}", name(&good)), "the newest one at or before", &later])?;
    ssh_is_named(&lab, "ls -la /data/critical-files")?;
    ensure!(machine.read(FILE)?.as_deref() == Some(b"deleted by accident"), "it is not back");
    judge::at_rest(&lab, &["db"])
}

fn quarterly_drill(stage: &Stage) -> Result<()> {
    let lab = lab_of(stage, &["db", "app", "late"])?;
    for vm in ["db", "app"] {
        protected(&lab, vm)?;
        back_up(&lab, vm)?;
    }
    let drills = lab.azdr.run(&["dr", "test-all", "--resource-group", "prod"])?.ok()?;
    has(&drills, &["[1/2] ", "[2/2] ", "RTO: ", "All DR tests passed (2/2 passed)"])?;
    has(&drills, &["Average RTO: ", "Success rate: 100%"])?;
    let nobody = lab.azdr.run(&["dr", "test-all", "-g", "elsewhere"])?;
    ensure!(nobody.code == 1, "a test of nothing has passed: {}", nobody.words());

    let rate = lab.azdr.json(&["dr", "success-rate", "--days", "90"])?;
    ensure!(rate["compliance"] == "passing" && rate["overall"]["total"] == 2, "{rate:#}");
    let report = lab.azdr.json(&["backup", "verification-report", "--days", "90"])?;
    let overall = &report["overall"];
    ensure!(overall["total"] == 2 && overall["passed"] == 2, "{report:#}");
    let history = lab.azdr.run(&["dr", "test-history", "--days", "90"])?.ok()?;
    has(&history, &["PASS", "Total tests: 2", "not enough data (2 tests, 29 are needed)"])?;

    // A VM that was never backed up: the whole fails, and the report is honest.
    protected(&lab, "late")?;
    let rate = lab.azdr.json(&["dr", "success-rate"])?;
    ensure!(rate["compliance"] == "incomplete", "{rate:#}");
    let drills = lab.azdr.run(&["dr", "test-all"])?;
    ensure!(drills.code == 1, "exit code {}", drills.code);
    has(&drills, &["late", "has no complete recovery point in westus2", "1 of 3 DR tests"])?;
    let rate = lab.azdr.json(&["dr", "success-rate"])?;
    let untested = rate["untested"].to_string();
    ensure!(rate["overall"]["total"] == 4 && untested.contains("/late"), "{rate:#}");
    judge::at_rest(&lab, &["db", "app", "late"])
}
