//! Bulk jobs and kept drills: what becomes of them when their command or the controller goes away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::db;
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "all_backups_are_verified_and_copied_though_the_controller_is_killed_meanwhile",
        needs: Needs::Programs,
        body: survives,
    },
    Test {
        name: "a_copy_that_fails_leaves_the_others_alone_and_fails_the_whole",
        needs: Needs::Programs,
        body: one_fails,
    },
    Test {
        name: "a_drills_machine_is_kept_across_a_restart_and_goes_when_it_is_told_to",
        needs: Needs::Programs,
        body: kept,
    },
];

const LIMIT: Duration = Duration::from_secs(120);

/// A VM with three backups.
fn three_backups(stage: &Stage) -> Result<Lab> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect_and_keep_all(&lab, "db")?;
    for _ in 0..3 {
        lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
        lab.settle(LIMIT)?;
    }
    Ok(lab)
}

fn states(job: &Value) -> Vec<&str> {
    let items = job["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["state"].as_str()).collect()
}

fn survives(stage: &Stage) -> Result<()> {
    let mut lab = three_backups(stage)?;
    for (command, workflow) in [
        (&["backup", "verify-all", "db", "--max-parallel", "2"][..], "verify"),
        (&["backup", "replicate-all", "db", "--target-region", "westus2"], "replicate"),
    ] {
        let id = lab.azdr.start_job(command)?;
        until("a part of it has begun", LIMIT, || {
            let job = lab.azdr.job(id)?;
            let begun = states(&job).iter().any(|state| *state != "queued");
            Ok(if begun { Look::Done(()) } else { Look::Waiting(job.to_string()) })
        })?;
        lab.controller.kill();
        lab.controller.start()?;
        let job = lab.job_ended(id, LIMIT)?;
        ensure!(job["state"] == "succeeded" && states(&job) == ["succeeded"; 3], "{job:#}");
        let parts: Vec<Value> =
            lab.azdr.jobs()?.into_iter().filter(|part| part["child_of"] == id).collect();
        ensure!(parts.len() == 3, "a part was lost or doubled: {parts:#?}");
        ensure!(parts.iter().all(|part| part["workflow"] == workflow), "{parts:#?}");
        // Nothing is left to do, and that is said.
        let again = lab.azdr.run(command)?.ok()?;
        ensure!(again.stdout.contains("Found 0 un"), "{}", again.words());
    }
    let points = lab.azdr.points("db")?;
    for point in &points {
        let copied = point["replicas"][0]["state"] == "complete";
        ensure!(point["proof"] == "restorable" && copied, "{point:#}");
    }
    let jobs = lab.azdr.json(&["backup", "replication-jobs", "--status", "completed"])?;
    let jobs = jobs["jobs"].as_array().cloned().unwrap_or_default();
    ensure!(jobs.len() == 3 && jobs[0]["vm_name"] == "db", "{jobs:#?}");
    // Oldest first, as Azure demands: the newest is the last that was started.
    ensure!(jobs[0]["recovery_point"] == points[0]["name"], "{jobs:#?}");
    judge::at_rest(&lab, &["db"])
}

fn one_fails(stage: &Stage) -> Result<()> {
    let lab = three_backups(stage)?;
    // The first disk of a test that is made is refused.
    lab.simulator.set_faults(&json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/disks", "count": 1},
        "action": {"status": {"status": 403, "code": "AuthorizationFailed"}},
    }]))?;
    let answer = lab.azdr.run(&["backup", "verify-all", "db"])?;
    ensure!(answer.code == 1, "exit code {}: {}", answer.code, answer.words());
    for words in ["1 of 3 verifications did not succeed", "Success rate: 66.6%", "FAILED"] {
        ensure!(answer.words().contains(words), "no {words:?} in {}", answer.words());
    }
    let job = lab.azdr.newest_job("bulk")?;
    let mut found = states(&job);
    found.sort_unstable();
    ensure!(found == ["failed", "succeeded", "succeeded"], "{job:#}");
    // The report says what is not proved, and the next time only that is tried.
    let report = lab.azdr.json(&["backup", "verification-report", "--vm", "db"])?;
    let summary = &report["vms"][0]["summary"];
    ensure!(summary["passed"] == 2 && summary["total"] == 3, "{report:#}");
    let again = lab.azdr.run(&["backup", "verify-all", "db"])?.ok()?;
    ensure!(again.stdout.contains("Found 1 unverified backup "), "{}", again.words());
    judge::at_rest(&lab, &["db"])
}

fn kept(stage: &Stage) -> Result<()> {
    let (mut lab, _machine) = db(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let before = lab.simulator.listing()?.everything();
    let drill = ["dr", "test", "db", "--test-region", "eastus", "--keep", "2h"];
    let answer = lab.azdr.run(&drill)?.ok()?;
    for words in ["DR test PASSED", "RTO (Recovery Time Objective): ", "is kept until "] {
        ensure!(answer.words().contains(words), "no {words:?} in {}", answer.words());
    }
    let job = lab.azdr.newest_job("dr_test_kept")?;
    let id = job["id"].as_i64().context("a job's number")?;
    ensure!(job["state"] == "running", "{job:#}");
    // The result is history already, and the machine nobody's residue.
    let history = lab.azdr.json(&["dr", "test-history", "db"])?;
    let test = &history["tests"][0];
    ensure!(test["passed"] == true && test["job_id"] == id, "{history:#}");
    let test_vm = |lab: &Lab| -> Result<bool> {
        let listing = lab.simulator.listing()?;
        let found = listing.vms().iter().any(|vm| vm.name().contains("dr-test") && vm.is_running());
        Ok(found)
    };
    lab.controller.kill();
    lab.controller.start()?;
    ensure!(test_vm(&lab)?, "the machine is gone");
    let residue = lab.azdr.json(&["residue", "list"])?;
    ensure!(residue["resources"].as_array().is_some_and(Vec::is_empty), "{residue:#}");
    let held = lab.azdr.points("db")?;
    let name = held[0]["name"].as_str().unwrap_or_default();
    let delete = lab.azdr.run(&["backup", "delete", name, "--yes"])?;
    ensure!(delete.code == 1 && delete.stderr.contains(&format!("job {id}")), "{}", delete.words());

    // Told to go, it goes; the drill has passed all the same.
    lab.azdr.run(&["job", "cancel", &id.to_string()])?.ok()?;
    let job = lab.job_ended(id, LIMIT)?;
    ensure!(job["state"] == "cancelled", "{job:#}");
    ensure!(job["result"]["dr_test"]["passed"] == true, "{job:#}");
    lab.settle(LIMIT)?;
    let after = lab.simulator.listing()?.everything();
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    ensure!(lab.azdr.json(&["dr", "test-history", "db"])? == history, "history has changed");

    // Left alone, it goes when its time is over.
    lab.azdr.run(&drill)?.ok()?;
    let job = lab.azdr.newest_job("dr_test_kept")?;
    lab.let_pass(Duration::from_secs(2 * 3600))?;
    let ended = lab.job_ended(job["id"].as_i64().context("a job's number")?, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    ensure!(!test_vm(&lab)?, "the machine is still there");
    judge::at_rest(&lab, &["db"])
}
