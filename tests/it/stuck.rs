//! A job that gets stuck for real: somebody has locked what it must delete. The ways out, as a person
//! takes them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::listing::RUN_TAG;
use azdr_tests::poll::{Look, until};
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::db;
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_drill_stuck_on_a_lock_names_it_and_passes_when_retried_without_it",
        needs: Needs::Programs,
        body: retry,
    },
    Test {
        name: "a_drill_stuck_on_a_lock_is_undone_when_asked_to_and_the_lock_is_gone",
        needs: Needs::Programs,
        body: undo,
    },
    Test {
        name: "what_an_abandoned_drill_leaves_is_listed_as_residue_and_goes_later",
        needs: Needs::Programs,
        body: abandon,
    },
];

const LIMIT: Duration = Duration::from_secs(120);
/// Longer than azdr waits before it deletes what an ended job has left.
const GRACE: Duration = Duration::from_secs(2 * 3600);

/// A drill, stuck on the disk that is returned.
fn stuck_drill(lab: &Lab) -> Result<(i64, String)> {
    let slow = json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/virtualMachines", "count": 1},
        "action": {"delay_ms": 4000},
    }]);
    lab.simulator.set_faults(&slow)?;
    let job = lab.azdr.start_job(&["dr", "test", "db", "--test-region", "eastus"])?;
    // The machine is asked for when its disks are there.
    until("the drill's machine is asked for", LIMIT, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64().unwrap_or_default();
        Ok(if matched > 0 { Look::Done(()) } else { Look::Waiting(String::new()) })
    })?;
    let listing = lab.simulator.listing()?;
    let made = listing.disks().into_iter().find(|disk| disk.tag(RUN_TAG).is_some());
    let disk = made.context("the drill has no disk")?.id().to_owned();
    lab.simulator.lock(&disk, Some("CanNotDelete"))?;
    let ended = lab.job_ended(job, LIMIT)?;
    names_what_is_in_the_way(lab, &ended, job, &disk)?;
    Ok((job, disk))
}

fn names_what_is_in_the_way(lab: &Lab, ended: &Value, job: i64, disk: &str) -> Result<()> {
    ensure!(ended["state"] == "stuck", "{ended:#}");
    let named = ended["stuck"]["resources"].as_array().cloned().unwrap_or_default();
    let is_it = |id: &Value| id.as_str().is_some_and(|id| id.eq_ignore_ascii_case(disk));
    ensure!(named.iter().any(is_it), "{disk} is not named: {ended:#}");
    let shown = lab.azdr.run(&["job", "show", &job.to_string()])?.ok()?.stdout;
    ensure!(shown.to_lowercase().contains(&disk.to_lowercase()), "{shown}");
    for way_out in ["azdr job retry", "azdr job abandon"] {
        ensure!(shown.contains(&format!("{way_out} {job}")), "no {way_out} in {shown}");
    }
    ensure!(shown.contains("lock"), "{shown}");
    Ok(())
}

/// A machine that boots and has a point to boot it from.
fn ready_for_a_drill(stage: &Stage) -> Result<(Lab, Vec<String>)> {
    let (lab, _) = db(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let before = lab.simulator.listing()?.everything();
    Ok((lab, before))
}

fn nothing_is_left(lab: &Lab, before: &[String]) -> Result<()> {
    judge::at_rest(lab, &["db"])?;
    let after = lab.simulator.listing()?.everything();
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    Ok(())
}

fn retry(stage: &Stage) -> Result<()> {
    let (lab, before) = ready_for_a_drill(stage)?;
    let (job, disk) = stuck_drill(&lab)?;
    let id = job.to_string();
    // Still in the way: stuck as before.
    lab.azdr.run(&["job", "retry", &id])?.ok()?;
    let ended = lab.job_ended(job, LIMIT)?;
    names_what_is_in_the_way(&lab, &ended, job, &disk)?;
    lab.simulator.lock(&disk, None)?;
    lab.azdr.run(&["job", "retry", &id])?.ok()?;
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    ensure!(ended["result"]["dr_test"]["passed"] == true, "{ended:#}");
    nothing_is_left(&lab, &before)
}

fn undo(stage: &Stage) -> Result<()> {
    let (lab, before) = ready_for_a_drill(stage)?;
    let (job, disk) = stuck_drill(&lab)?;
    lab.simulator.lock(&disk, None)?;
    lab.azdr.run(&["job", "undo", &job.to_string()])?.ok()?;
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "failed", "{ended:#}");
    let why = ended["error"]["message"].as_str().unwrap_or_default();
    ensure!(why.contains("lock"), "why it was undone: {ended:#}");
    nothing_is_left(&lab, &before)
}

fn abandon(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let before = lab.simulator.listing()?.everything();
    let (job, disk) = stuck_drill(&lab)?;
    let reason = ["--reason", "the lock is not ours"];
    lab.azdr.run(&[&["job", "abandon", &job.to_string()], &reason[..]].concat())?.ok()?;
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "failed" && ended["error"]["kind"] == "abandoned", "{ended:#}");

    let listing = lab.simulator.listing()?;
    let there: Vec<String> = listing.everything();
    let left: Vec<&String> = there.iter().filter(|id| !before.contains(id)).collect();
    ensure!(left.iter().any(|id| id.eq_ignore_ascii_case(&disk)), "{left:#?}");
    let shown = lab.azdr.run(&["residue", "list"])?.ok()?.stdout.to_lowercase();
    for id in &left {
        // A group is listed as `group NAME`.
        let name = id.rsplit(['/', ' ']).next().unwrap_or(id).to_lowercase();
        ensure!(shown.contains(&name), "{id} is not listed:\n{shown}");
    }
    let residue = lab.azdr.json(&["residue", "list"])?;
    let listed = residue["resources"].as_array().cloned().unwrap_or_default();
    let of_disk = listed
        .iter()
        .find(|r| r["resource_id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(&disk)));
    let of_disk = of_disk.with_context(|| format!("{residue:#}"))?;
    ensure!(of_disk["job_id"] == job && of_disk["workflow"] == "dr_test", "{of_disk:#}");

    // With the lock gone and the grace period over azdr deletes it after all: all of it is provably
    // the job's.
    lab.simulator.lock(&disk, None)?;
    lab.let_pass(GRACE)?;
    until("the residue is gone", LIMIT, || {
        let there = lab.simulator.listing()?.everything();
        let left: Vec<_> = there.into_iter().filter(|id| !before.contains(id)).collect();
        Ok(if left.is_empty() { Look::Done(()) } else { Look::Waiting(format!("{left:?}")) })
    })?;
    judge::at_rest(&lab, &["db"])
}
