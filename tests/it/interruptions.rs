//! kill -9 of the controller at chosen moments. It is started again, and the run that was under way
//! finishes or is undone by itself.
//!
//! A moment is a request to Azure. Either a fault delays it, and the process is killed before its
//! effect; or its answer is dropped, and the process is killed right after its effect, not knowing
//! whether there was one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::lab::is_active;
use azdr_tests::poll::{Look, until};
use azdr_tests::{Lab, Vm, World};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::judge;
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_backup_survives_the_controllers_death_at_any_moment",
        needs: Needs::Programs,
        body: backup,
    },
    Test {
        name: "a_replication_survives_the_controllers_death_at_any_moment",
        needs: Needs::Programs,
        body: replicate,
    },
    Test {
        name: "a_verification_survives_the_controllers_death_at_any_moment",
        needs: Needs::Programs,
        body: verify,
    },
    Test {
        name: "a_restore_survives_the_controllers_death_at_any_moment",
        needs: Needs::Programs,
        body: restore,
    },
    Test {
        name: "a_drill_survives_the_controllers_death_at_any_moment",
        needs: Needs::Programs,
        body: drill,
    },
];

const REACHED: Duration = Duration::from_secs(60);
const ENDED: Duration = Duration::from_secs(120);

/// Long enough to be killed in.
const DELAY_MS: u64 = 3000;

/// A moment: the n-th request of a kind.
struct Moment {
    method: &'static str,
    kind: &'static str,
    nth: u64,
    /// It takes effect, and nobody hears of it.
    answer_lost: bool,
}

const fn before(method: &'static str, kind: &'static str, nth: u64) -> Moment {
    Moment { method, kind, nth, answer_lost: false }
}

const fn after(method: &'static str, kind: &'static str, nth: u64) -> Moment {
    Moment { method, kind, nth, answer_lost: true }
}

impl Moment {
    fn faults(&self) -> Value {
        let Self { method, kind, nth, answer_lost } = self;
        let action = if *answer_lost { json!("drop_after") } else { json!({"delay_ms": DELAY_MS}) };
        json!([{
            "match": {"method": method, "resource_type": kind, "nth": nth}, "action": action,
        }])
    }
}

const SNAPSHOTS: &str = "Microsoft.Compute/snapshots";
const DISKS: &str = "Microsoft.Compute/disks";
const VMS: &str = "Microsoft.Compute/virtualMachines";
const OPERATIONS: &str = "Microsoft.Compute/locations/DiskOperations";
const TAGS: &str = "Microsoft.Resources/tags";
const GROUPS: &str = "Microsoft.Resources/resourceGroups";

fn two_disks(stage: &Stage) -> Result<Lab> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect_and_keep_all(&lab, "db")?;
    Ok(lab)
}

/// Starts a job, kills the controller at the moment, starts it again, and returns the job as it ended.
fn interrupted(lab: &mut Lab, moment: &Moment, command: &[&str]) -> Result<Value> {
    let about = format!(
        "{} {} #{}{}",
        moment.method,
        moment.kind,
        moment.nth,
        if moment.answer_lost { ", its answer lost," } else { "" }
    );
    lab.simulator.set_faults(&moment.faults())?;
    let id = lab.azdr.start_job(command).with_context(|| about.clone())?;
    until(&format!("{about} is under way"), REACHED, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64().unwrap_or_default();
        if matched >= moment.nth {
            return Ok(Look::Done(()));
        }
        let job = lab.azdr.job(id)?;
        ensure!(is_active(&job), "the job ended before: {job:#}");
        Ok(Look::Waiting(job.to_string()))
    })?;
    lab.controller.kill();
    lab.simulator.set_faults(&json!([]))?;
    lab.controller.start().with_context(|| about.clone())?;
    let job = lab.job_ended(id, ENDED).with_context(|| about.clone())?;
    ensure!(job["state"] != "stuck", "after {about}: {job:#}");
    judge::at_rest(lab, &["db"]).with_context(|| format!("after {about}: {job:#}"))?;
    println!("killed at {about}: the job {}", job["state"]);
    Ok(job)
}

fn point(lab: &Lab) -> Result<String> {
    let points = lab.azdr.points("db")?;
    Ok(points.first().and_then(|p| p["name"].as_str()).context("no point")?.to_owned())
}

fn backup(stage: &Stage) -> Result<()> {
    let mut lab = two_disks(stage)?;
    for moment in [
        before("GET", VMS, 1),
        // Inside the hold.
        before("PUT", SNAPSHOTS, 1),
        before("PUT", SNAPSHOTS, 2),
        after("PUT", SNAPSHOTS, 1),
        after("PUT", SNAPSHOTS, 2),
        before("GET", SNAPSHOTS, 3),
        // After it.
        before("PATCH", TAGS, 1),
        after("PATCH", TAGS, 2),
    ] {
        let job = interrupted(&mut lab, &moment, &["backup", "trigger", "db"])?;
        // Nobody asked for it to be given up, and the cause has gone.
        ensure!(job["state"] == "succeeded", "{job:#}");
    }
    Ok(())
}

fn replicate(stage: &Stage) -> Result<()> {
    let mut lab = two_disks(stage)?;
    for moment in [
        before("PUT", SNAPSHOTS, 1),
        after("PUT", SNAPSHOTS, 1),
        after("PUT", SNAPSHOTS, 2),
        // While the data are copied.
        before("GET", SNAPSHOTS, 6),
    ] {
        lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
        let name = point(&lab)?;
        let copy = ["backup", "replicate", &name, "--target-region", "westus2"];
        let job = interrupted(&mut lab, &moment, &copy)?;
        ensure!(job["state"] == "succeeded", "{job:#}");
    }
    Ok(())
}

fn verify(stage: &Stage) -> Result<()> {
    let mut lab = two_disks(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let name = point(&lab)?;
    for moment in [
        before("PUT", DISKS, 1),
        after("PUT", DISKS, 2),
        before("POST", "Microsoft.Compute/disks/beginGetAccess", 1),
        before("GET", "blob", 2),
        before("DELETE", DISKS, 1),
        after("DELETE", DISKS, 2),
    ] {
        let job = interrupted(&mut lab, &moment, &["backup", "verify", &name])?;
        ensure!(job["state"] == "succeeded", "{job:#}");
    }
    Ok(())
}

fn restore(stage: &Stage) -> Result<()> {
    let mut lab = two_disks(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    for moment in [
        before("PUT", DISKS, 1),
        after("PUT", DISKS, 2),
        before("POST", "Microsoft.Compute/virtualMachines/powerOff", 1),
        after("POST", "Microsoft.Compute/virtualMachines/powerOff", 1),
        before("PATCH", VMS, 1),
        after("PATCH", VMS, 1),
        before("PATCH", VMS, 2),
        after("PATCH", VMS, 2),
        before("POST", "Microsoft.Compute/virtualMachines/start", 1),
        after("POST", "Microsoft.Compute/virtualMachines/start", 1),
    ] {
        let job = interrupted(&mut lab, &moment, &["backup", "restore", "db", "--yes"])?;
        ensure!(job["state"] == "succeeded", "{job:#}");
    }
    Ok(())
}

/// Without machines a drill ends for want of evidence; it is cleaned up all the same.
fn drill(stage: &Stage) -> Result<()> {
    let mut lab = two_disks(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    for moment in [
        before("PUT", GROUPS, 1),
        after("PUT", "Microsoft.Network/networkSecurityGroups", 1),
        before("PUT", "Microsoft.Network/virtualNetworks", 1),
        after("PUT", "Microsoft.Network/networkInterfaces", 1),
        after("PUT", DISKS, 1),
        before("PUT", VMS, 1),
        after("PUT", VMS, 1),
        before("GET", OPERATIONS, 1),
        before("DELETE", GROUPS, 1),
        after("DELETE", GROUPS, 1),
    ] {
        let command = ["dr", "test", "db", "--test-region", "eastus"];
        let job = interrupted(&mut lab, &moment, &command)?;
        ensure!(job["state"] == "failed", "{job:#}");
        ensure!(job["error"]["kind"] == "no_evidence", "{job:#}");
    }
    Ok(())
}
