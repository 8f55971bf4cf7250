//! kill -9 of the controller in the middle of restores and drills of a real machine: the next one finishes
//! them, and the machine is what it was at the backup.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::machine::{
    BOOT, DB, LIMIT, back_up, db_with_writer, is_writable, succeeded, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::protection::protect;

pub(super) const CASE: Case = Case {
    name: "controller-killed-while-recovering",
    shows: "a restore and a drill of a machine survive the controller's death",
    rounds: None,
    run,
};

const VMS: &str = "Microsoft.Compute/virtualMachines";

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db_with_writer(place)?;
    protect(&lab, DB, &["--consistency", "require"])?;
    guest.run("echo precious >/root/file")?;
    back_up(&lab)?;
    lab.settle(LIMIT)?;
    let host_key = guest.host_key()?;
    let restores = [
        json!({"method": "PATCH", "resource_type": VMS, "nth": 2}),
        json!({"method": "POST", "resource_type": format!("{VMS}/start")}),
    ];
    for moment in &restores {
        guest.run("echo spoilt >/root/file; sync")?;
        let boot_id = guest.boot_id()?;
        let job = killed_at(&mut lab, moment, &["backup", "restore", DB, "--yes"])?;
        let result = &job["result"]["restore"];
        ensure!(result["witness_verified"] == true, "{result:#}");
        guest.await_ssh(BOOT)?;
        ensure!(guest.run("cat /root/file")? == "precious", "the data are not those of the backup");
        ensure!(guest.host_key()? == host_key && guest.boot_id()? != boot_id, "another machine");
        writer_agrees(&guest)?;
        is_writable(&guest)?;
        judge::at_rest(&lab, &[DB])?;
    }
    let drills = [
        json!({"method": "PUT", "resource_type": VMS}),
        json!({"method": "DELETE", "resource_type": "Microsoft.Resources/resourceGroups"}),
    ];
    for moment in &drills {
        let job = killed_at(&mut lab, moment, &["dr", "test", DB, "--test-region", "eastus"])?;
        let result = &job["result"]["dr_test"];
        let passed = result["passed"] == true && result["witness_verified"] == true;
        ensure!(passed && result["ssh_verified"] == true, "{result:#}");
        judge::at_rest(&lab, &[DB])?;
    }
    Ok(vec![format!("{} restores and {} drills finished", restores.len(), drills.len())])
}

/// Starts a job, and kills the controller when a request has been delayed; returns the job, which
/// succeeded.
fn killed_at(lab: &mut Lab, moment: &Value, command: &[&str]) -> Result<Value> {
    let fault = json!([{"match": moment, "action": {"delay_ms": 3000}}]);
    lab.simulator.set_faults(&fault)?;
    let id = lab.azdr.start_job(command)?;
    until(&format!("{moment} is under way"), LIMIT, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64();
        let nth = moment["nth"].as_u64().or(Some(1));
        Ok(if matched >= nth { Look::Done(()) } else { Look::Waiting(format!("{matched:?}")) })
    })?;
    lab.controller.kill();
    lab.simulator.set_faults(&json!([]))?;
    lab.controller.start()?;
    let job = lab.job_ended(id, BOOT)?;
    succeeded(&job)?;
    Ok(job)
}
