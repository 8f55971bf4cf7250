//! With simulated machines, where there is no QEMU: the whole story, and what agents do when things
//! go wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::process::run;
use azdr_tests::simulated_machines::SimulatedMachine;
use azdr_tests::{Lab, Stopwatch, Vm, World, judge};
use serde_json::{Value, json};

use crate::guests::nothing_is_left;
use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "the_whole_story_is_told_with_simulated_machines",
        needs: Needs::Programs,
        body: whole_story,
    },
    Test {
        name: "a_simulated_machine_thaws_when_the_controller_dies_while_it_is_frozen",
        needs: Needs::Programs,
        body: death_while_frozen,
    },
    Test {
        name: "copies_of_a_simulated_machine_become_what_somebody_expects_and_nothing_else",
        needs: Needs::Programs,
        body: copies,
    },
];

const STORY: Duration = Duration::from_secs(180);
const LIMIT: Duration = Duration::from_secs(60);

/// The lease, as configured by default.
const LEASE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(3);

fn whole_story(stage: &Stage) -> Result<()> {
    let summary = stage.folder.join("summary.json");
    // As where there is no QEMU.
    let mut demo = stage.simulated_demo(&summary)?;
    demo.args(["--reason", "qemu-system-x86_64 is not installed"]);
    let ended = run(demo, STORY, None)?;
    ensure!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    ensure!(ended.stdout.contains("qemu-system-x86_64 is not installed"), "{}", ended.stdout);
    ensure!(ended.stdout.contains("Summary (guests: simulated)"), "{}", ended.stdout);
    let summary: Value = serde_json::from_slice(&std::fs::read(summary)?)?;
    let not_shown = summary["not_shown"].to_string();
    let holds = summary["ok"] == true
        && summary["guests"] == "simulated"
        && summary["backup"]["consistency"] == "filesystem"
        && summary["backup"]["disks"] == 2
        && summary["restore"]["data_intact"] == true
        && summary["restore"]["witness_verified"] == true
        && summary["restore"]["ssh_verified"] == "not with simulated guests"
        && summary["dr_test"]["passed"] == true
        && summary["dr_test"]["witness_verified"] == true
        && summary["dr_test"]["residue"].as_array().is_some_and(Vec::is_empty)
        && summary["azure"]["throttled"] == 0
        && not_shown.contains("real Linux")
        && not_shown.contains("SSH from outside");
    ensure!(holds, "{summary:#}");
    nothing_is_left(stage)
}

/// A running two-disk machine with an enrolled agent.
pub(crate) fn db(stage: &Stage) -> Result<(Lab, SimulatedMachine)> {
    let vms = vec![Vm::new("data", "db").with_data_disk()];
    let lab = stage.lab_with_simulated_guests(World { vms })?;
    let machine = lab.machine("data", "db")?;
    lab.enrol_simulated(&machine)?;
    agent_is_connected(&lab, "db")?;
    protect_and_keep_all(&lab, "db")?;
    Ok((lab, machine))
}

pub(crate) fn agent_is_connected(lab: &Lab, vm: &str) -> Result<()> {
    until(&format!("the agent of {vm} is connected and can freeze"), LIMIT, || {
        let answer = lab.azdr.json(&["agent", "list"])?;
        let agents = answer["agents"].as_array().cloned().unwrap_or_default();
        let ready = agents
            .iter()
            .any(|a| a["vm_name"] == vm && a["state"] == "connected" && a["can_freeze"] == true);
        Ok(if ready { Look::Done(()) } else { Look::Waiting(answer.to_string()) })
    })
}

/// Starts a backup of `db` whose snapshots Azure delays by so much, and waits until the machine is frozen.
/// Answers the job.
pub(crate) fn frozen_by_a_slow_backup(
    lab: &Lab,
    machine: &SimulatedMachine,
    delay_ms: u64,
) -> Result<i64> {
    let slow = json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "count": 2},
        "action": {"delay_ms": delay_ms},
    }]);
    lab.simulator.set_faults(&slow)?;
    let job = lab.azdr.start_job(&["backup", "trigger", "db"])?;
    until("the machine is frozen", LIMIT, || {
        Ok(if is_frozen(machine)? { Look::Done(()) } else { Look::Waiting(String::new()) })
    })?;
    Ok(job)
}

pub(crate) fn until_thawed(machine: &SimulatedMachine) -> Result<()> {
    until("the machine is thawed", LIMIT, || {
        Ok(if is_frozen(machine)? { Look::Waiting(String::new()) } else { Look::Done(()) })
    })
}

fn is_frozen(machine: &SimulatedMachine) -> Result<bool> {
    Ok(machine.listed()?.context("the machine has ended")?.frozen_ms.is_some())
}

fn death_while_frozen(stage: &Stage) -> Result<()> {
    let (mut lab, machine) = db(stage)?;
    let job = frozen_by_a_slow_backup(&lab, &machine, 9000)?;
    let since = Stopwatch::start();
    lab.controller.kill();
    until_thawed(&machine)?;
    let after = since.elapsed();
    println!("the controller killed: the machine is thawed after {after:?}");
    ensure!(after < LEASE + SLACK, "it was thawed only after {after:?}");
    lab.simulator.set_faults(&json!([]))?;
    lab.controller.start()?;
    // The run takes the snapshots once more, whole.
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    agent_is_connected(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let point = &lab.azdr.points("db")?[0];
    ensure!(point["consistency"] == "filesystem", "{point:#}");
    judge::at_rest(&lab, &["db"])
}

/// How often a machine's agent has connected.
fn sessions(lab: &Lab, vm_id: &str) -> usize {
    let log = lab.controller.log();
    let of_machine = |line: &&str| line.contains("agent connected") && line.contains(vm_id);
    log.lines().filter(of_machine).count()
}

fn copies(stage: &Stage) -> Result<()> {
    let (lab, machine) = db(stage)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let points = lab.azdr.points("db")?;
    ensure!(points[0]["consistency"] == "filesystem", "{:#}", points[0]);

    // A drill: a certificate for the run, once.
    let before = lab.controller.log().lines().count();
    lab.azdr.run(&["dr", "test", "db", "--test-region", "eastus"])?.ok()?;
    let result = &lab.azdr.newest_job("dr_test")?["result"]["dr_test"];
    let passed = result["passed"] == true && result["witness_verified"] == true;
    ensure!(passed && result["ssh_verified"] == false, "{result:#}");
    let tried = result["phases"].to_string();
    ensure!(!tried.contains("connectivity"), "there was no way to SSH: {tried}");
    let log = lab.controller.log();
    let restored = log.lines().skip(before).filter(|line| line.contains("Restored {"));
    let restored = restored.count();
    ensure!((1..=2).contains(&restored), "the drill's machine connected {restored} times");

    // A VM of its own: its agent comes back as that VM's, and its own can be backed up.
    lab.azdr.run(&["backup", "restore", "db", "--new-vm", "db-copy"])?.ok()?;
    let result = &lab.azdr.newest_job("restore_new_vm")?["result"]["restore"];
    ensure!(result["witness_verified"] == true && result["unconfirmed"].is_null(), "{result:#}");
    agent_is_connected(&lab, "db-copy")?;
    let copy = lab.machine("data", "db-copy")?;
    ensure!(sessions(&lab, &copy.vm_id) <= 3, "{}", lab.controller.log());

    // The original never noticed.
    ensure!(sessions(&lab, &machine.vm_id) == 1, "{}", lab.controller.log());
    agent_is_connected(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let point = &lab.azdr.points("db")?[0];
    ensure!(point["consistency"] == "filesystem", "{point:#}");
    judge::at_rest(&lab, &["db", "db-copy"])
}
