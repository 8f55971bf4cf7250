//! Two controllers for one database: the data folder's lock keeps the second one out; where it fails to
//! (a copied lock, another view of a shared disk), the older one ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::controller::Addresses;
use azdr_tests::poll::{Look, until};
use azdr_tests::process::{ready, run};
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::json;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_second_controller_in_the_same_folder_is_refused_in_words",
        needs: Needs::Programs,
        body: second,
    },
    Test {
        name: "a_controller_that_a_newer_one_has_overtaken_ends_in_the_middle_of_its_work",
        needs: Needs::Programs,
        body: overtaken,
    },
];

const LIMIT: Duration = Duration::from_secs(60);

/// A configuration for the same data folder, with other addresses.
fn other_configuration(lab: &Lab) -> Result<(std::path::PathBuf, Addresses)> {
    let (ours, others) = (lab.controller.addresses(), Addresses::free()?);
    let mut text = std::fs::read_to_string(lab.controller.config())?;
    for (from, to) in [
        (ours.admin, others.admin),
        (ours.agent, others.agent),
        (ours.enroll, others.enroll),
        (ours.metrics, others.metrics),
    ] {
        text = text.replace(&from.to_string(), &to.to_string());
    }
    let path = lab.folder().join("second.toml");
    std::fs::write(&path, text)?;
    Ok((path, others))
}

fn second(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let (config, _) = other_configuration(&lab)?;
    let ready = lab.folder().join("second-ready.json");
    let mut command = stage.programs()?.command("azdr-controller");
    command.arg("run").arg("--config").arg(config).arg("--ready-file").arg(&ready);
    let ended = run(command, LIMIT, None)?;
    ensure!(ended.status.code() == Some(1), "{:?}: {}", ended.status, ended.stderr);
    let data = lab.controller.data();
    let words = format!("another controller uses {}", data.display());
    ensure!(ended.stderr.contains(&words), "no {words:?} in {}", ended.stderr);
    ensure!(!ready.exists(), "it said that it was ready");
    // The first one has noticed nothing.
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    judge::at_rest(&lab, &["db"])
}

fn overtaken(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    // The lock that the first one holds is another file's from here on.
    let lock = lab.controller.data().join("lock");
    std::fs::copy(&lock, lab.controller.data().join("copy"))?;
    std::fs::rename(lab.controller.data().join("copy"), &lock)?;

    let slow = json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "count": 2},
        "action": {"delay_ms": 5000},
    }]);
    lab.simulator.set_faults(&slow)?;
    let job = lab.azdr.start_job(&["backup", "trigger", "db"])?;
    until("its snapshots are asked for", LIMIT, || {
        let matched = lab.simulator.faults()?[0]["matched"].as_u64().unwrap_or_default();
        Ok(if matched > 0 { Look::Done(()) } else { Look::Waiting(String::new()) })
    })?;

    let (config, addresses) = other_configuration(&lab)?;
    let ready_file = lab.folder().join("second-ready.json");
    let mut command = stage.programs()?.command("azdr-controller");
    command.arg("run").arg("--config").arg(config).arg("--ready-file").arg(&ready_file);
    let newer = stage.start("azdr-controller", command, &lab.folder().join("second.log"))?;
    ready(&newer, &ready_file, LIMIT)?;

    let first = lab.controller.daemon()?;
    let words = until("the first one has ended", LIMIT, || {
        Ok(match first.check() {
            Ok(()) => Look::Waiting("it runs".to_owned()),
            Err(e) => Look::Done(e.to_string()),
        })
    })?;
    ensure!(words.contains("exit status: 1"), "{words}");
    ensure!(words.contains("error: a newer controller has opened the database"), "{words}");

    // What it was at, the newer one brings to its end: once.
    lab.simulator.set_faults(&json!([]))?;
    let context = std::fs::read_to_string(lab.controller.context())?;
    let admin = lab.controller.addresses().admin.to_string();
    let context = context.replace(&admin, &addresses.admin.to_string());
    let path = lab.controller.context().with_file_name("second.toml");
    std::fs::write(&path, context)?;
    lab.azdr = lab.azdr.with_context(&path);
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    let points = lab.azdr.points("db")?.len();
    ensure!(points == 2, "{points} recovery points");
    judge::at_rest(&lab, &["db"]).context("under the newer controller")
}
