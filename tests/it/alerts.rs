//! Alerts: one for what went wrong, wherever the controller is killed, and resolved by what goes well.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::{Lab, LabSpec, Scheduler, Vm, World};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_failed_backup_is_one_alert_though_the_controller_is_killed_and_a_success_ends_it",
        needs: Needs::Programs,
        body: failed_backup,
    },
    Test {
        name: "an_rpo_that_is_missed_is_said_by_itself_once",
        needs: Needs::Programs,
        body: missed_rpo,
    },
    Test {
        name: "a_vm_that_is_gone_is_said_to_be_wherever_one_asks_and_a_backup_of_it_is_refused",
        needs: Needs::Programs,
        body: gone,
    },
];

const LIMIT: Duration = Duration::from_secs(120);

fn alerts(lab: &Lab, more: &[&str]) -> Result<Vec<Value>> {
    let answer = lab.azdr.json(&[&["alert", "list"], more].concat())?;
    Ok(answer["alerts"].as_array().context("no list")?.clone())
}

fn failed_backup(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    // Nobody is there to freeze it.
    protect(&lab, "db", &["--consistency", "require"])?;
    ensure!(alerts(&lab, &[])?.is_empty(), "before anything has happened");
    ensure!(lab.azdr.run(&["backup", "trigger", "db"])?.code == 1, "the backup succeeded");
    let job = lab.azdr.newest_job("backup")?["id"].clone();

    let first = alerts(&lab, &["--open", "--vm", "db"])?;
    let is_it =
        |a: &Value| a["kind"] == "backup_failed" && a["severity"] == "high" && a["job_id"] == job;
    ensure!(first.len() == 1 && is_it(&first[0]), "{first:#?}");
    let id = first[0]["vm_resource_id"].as_str().unwrap_or_default();
    ensure!(id.ends_with("/virtualMachines/db"), "{first:#?}");

    lab.controller.kill();
    lab.controller.start()?;
    ensure!(alerts(&lab, &[])? == first, "after a restart: {:#?}", alerts(&lab, &[])?);

    // Killed while another one fails, wherever that is just then.
    let second = lab.azdr.start_job(&["backup", "trigger", "db"])?;
    lab.controller.kill();
    lab.controller.start()?;
    ensure!(lab.job_ended(second, LIMIT)?["state"] == "failed", "{:#}", lab.azdr.job(second)?);
    let all = alerts(&lab, &[])?;
    let jobs: Vec<_> = all.iter().map(|a| a["job_id"].as_i64()).collect();
    ensure!(jobs == [Some(second), job.as_i64()], "each failure once: {all:#?}");
    let open = alerts(&lab, &["--open"])?;
    ensure!(open.len() == 1 && open[0]["times"] == 2, "the newest alone is open: {open:#?}");
    ensure!(open[0]["since_at"] == first[0]["raised_at"], "{open:#?}");

    protect(&lab, "db", &["--consistency", "any"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let open = alerts(&lab, &["--open"])?;
    ensure!(open.is_empty(), "{open:#?}");
    let told = alerts(&lab, &["--limit", "1"])?;
    let by = told[0]["resolution"].as_str().unwrap_or_default();
    ensure!(by.ends_with("has succeeded") && told[0]["resolved_at"].is_string(), "{told:#?}");

    // One that nobody wants to hear of any more.
    protect(&lab, "db", &["--consistency", "require"])?;
    ensure!(lab.azdr.run(&["backup", "trigger", "db"])?.code == 1, "the backup succeeded");
    let id = alerts(&lab, &["--open"])?[0]["id"].to_string();
    let close = ["alert", "close", &id, "--reason", "db is being replaced"];
    let closed = lab.azdr.json(&close)?;
    lab.controller.kill();
    lab.controller.start()?;
    ensure!(alerts(&lab, &["--open"])?.is_empty(), "{closed:#}");
    ensure!(alerts(&lab, &["--limit", "1"])?[0]["closed_by"] == closed["closed_by"], "{closed:#}");
    let again = lab.azdr.run(&close)?;
    ensure!(again.code == 1 && again.stderr.contains("db is being replaced"), "{}", again.stderr);
    let none = lab.azdr.run(&["alert", "close", "4711", "--reason", "typo"])?;
    ensure!(none.code == 1 && none.stderr.contains("there is no alert 4711"), "{}", none.stderr);
    Ok(())
}

fn missed_rpo(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect(&lab, "db", &["--rpo", "36h"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let config = lab.azdr.json(&["backup", "config-show", "db"])?;
    ensure!(config["rpo_objective"]["state"] == "met", "{config:#}");
    ensure!(config["rto_objective"]["state"] == "unknown", "nothing was measured: {config:#}");
    lab.let_pass(Duration::from_secs(37 * 3600))?;
    let open = until("the RPO is said to be missed", LIMIT, || {
        let open = alerts(&lab, &["--kind", "rpo_missed"])?;
        Ok(if open.is_empty() { Look::Waiting(String::new()) } else { Look::Done(open) })
    })?;
    let config = lab.azdr.json(&["backup", "config-show", "db"])?;
    ensure!(config["rpo_objective"]["state"] == "missed", "{config:#}");
    let metrics = lab.controller.metrics()?;
    let has = |name: &str, labels: &[&str], value: &str| {
        metrics.lines().any(|line| {
            line.starts_with(name)
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with(&format!("}} {value}"))
        })
    };
    let rpo = "objective=\"rpo\"";
    ensure!(has("azdr_rpo_objective_seconds", &[], "129600"), "{metrics}");
    ensure!(has("azdr_objective{", &[rpo, "state=\"missed\""], "1"), "{metrics}");
    ensure!(has("azdr_objective{", &[rpo, "state=\"met\""], "0"), "{metrics}");
    ensure!(has("azdr_alerts_open", &["kind=\"rpo_missed\""], "1"), "{metrics}");
    ensure!(has("azdr_alerts_open", &["kind=\"vm_gone\""], "0"), "{metrics}");
    lab.controller.kill();
    lab.controller.start()?;
    // By then it has been judged anew at least once.
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let told = alerts(&lab, &["--kind", "rpo_missed"])?;
    ensure!(told.len() == 1 && told[0]["id"] == open[0]["id"], "once: {told:#?}");
    ensure!(told[0]["resolved_at"].is_string(), "the backup ends it: {told:#?}");
    Ok(())
}

fn gone(stage: &Stage) -> Result<()> {
    let world = World { vms: vec![Vm::new("prod", "db")] };
    let scheduler = Scheduler { watches_vms: true, ..Scheduler::default() };
    let lab = stage.lab_of(LabSpec { scheduler, ..LabSpec::without_guests(world) })?;
    protect(&lab, "db", &["--verify-every", "1d"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    let id = lab.azdr.json(&["backup", "config-show", "db"])?["vm_resource_id"].clone();
    lab.simulator.delete(id.as_str().context("no ID")?, "2024-07-01")?;
    let open = until("the VM is said to be gone", LIMIT, || {
        let open = alerts(&lab, &["--open", "--kind", "vm_gone"])?;
        Ok(if open.is_empty() { Look::Waiting(String::new()) } else { Look::Done(open) })
    })?;
    let next = open[0]["next_step"].as_str().unwrap_or_default();
    ensure!(next.contains("azdr backup disable db"), "{open:#?}");

    // A listing of the VMs may be some seconds old.
    until("no listing shows it any more", LIMIT, || {
        let all = lab.azdr.json(&["vm", "list"])?;
        Ok(if all["vms"] == json!([]) { Look::Done(()) } else { Look::Waiting(all.to_string()) })
    })?;
    let before = lab.azdr.jobs()?;
    let refused = lab.azdr.run(&["backup", "trigger", "db"])?;
    for words in ["db is not in Azure", "azdr backup restore db --new-vm", "azdr backup disable db"]
    {
        ensure!(refused.code == 1 && refused.stderr.contains(words), "{}", refused.stderr);
    }
    ensure!(lab.azdr.jobs()?.len() == before.len(), "a job was begun: {before:#?}");

    let next = lab.azdr.json(&["policy", "next", "db"])?;
    ensure!(next["runs"] == json!([]) && next["gone_since_at"].is_string(), "{next:#}");
    ensure!(next["proofs"][0]["kind"] == "verification", "{next:#}");
    let config = lab.azdr.json(&["backup", "config-show", "db"])?;
    ensure!(config["next_run_at"].is_null() && config["enabled"] == true, "{config:#}");
    let point = lab.azdr.points("db")?[0]["name"].as_str().unwrap_or_default().to_owned();
    let kept = lab.azdr.json(&["backup", "explain", &point])?;
    ensure!(kept["regions"][0]["until"]["kind"] == "not_on_schedule", "{kept:#}");
    lab.azdr.run(&["backup", "disable", "db"])?.ok()?;
    ensure!(alerts(&lab, &["--open"])?.is_empty(), "{:#?}", alerts(&lab, &["--open"])?);
    Ok(())
}
