//! No secret in any log at any level, nor in the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::world::CLIENT_SECRET;
use azdr_tests::{Lab, LabSpec, Vm, World};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "no_secret_reaches_a_log_or_the_database",
    needs: Needs::Programs,
    body: no_secret,
}];

/// What secrets look like: an access grant's signature, a bearer token, an enrolment token, a key.
const LOOKS: [&str; 6] = ["sig=", "sig%3D", "Bearer ey", "eyJ", "PRIVATE KEY", "client_secret="];

fn no_secret(stage: &Stage) -> Result<()> {
    let world = World { vms: vec![Vm::new("prod", "db").with_data_disk()] };
    let log_filter = "trace".to_owned();
    let mut lab = stage.lab_of(LabSpec { log_filter, ..LabSpec::without_guests(world) })?;
    let mut tokens = work(&lab)?;
    tokens.push(enrol(stage, &lab)?);
    lab.controller.stop()?;

    let mut files = vec![stage.folder.join("controller.log"), stage.folder.join("agent/log")];
    files.extend(files_in(&lab.controller.data())?);
    let database = files.iter().any(|f| f.extension().is_some_and(|e| e == "db"));
    ensure!(database, "where is the database? {files:?}");
    let log = lab.controller.log();
    ensure!(log.contains("TRACE"), "the log is not at its most talkative");
    let mut found = Vec::new();
    for file in files {
        // The authority's own key has to be somewhere; its file is private.
        if file.ends_with("authority.pem") {
            continue;
        }
        let bytes = std::fs::read(&file)?;
        let secrets = tokens.iter().map(String::as_str).chain([CLIENT_SECRET]).chain(LOOKS);
        for secret in secrets {
            if let Some(at) = find(&bytes, secret) {
                let context = &bytes[at.saturating_sub(200)..bytes.len().min(at + 60)];
                let context = String::from_utf8_lossy(context).into_owned();
                found.push(format!("{}: {secret:?} in …{context}…", file.display()));
            }
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n\n"));
    Ok(())
}

/// Uses everything that has to do with secrets; returns those that were shown.
fn work(lab: &Lab) -> Result<Vec<String>> {
    protect(lab, "db", &["--target-region", "westus2"])?;
    crate::operators::add(lab, "bob", "viewer", &[])?.run(&["operator", "renew"])?.ok()?;
    let token = lab.azdr.json(&["agent", "token", "db"])?;
    let token = token["token"].as_str().context("a token")?.to_owned();
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(Duration::from_secs(60))?;
    let point = lab.azdr.points("db")?[0]["name"].as_str().context("a point")?.to_owned();
    lab.azdr.run(&["backup", "verify", &point])?.ok()?;
    lab.azdr.run(&["backup", "verify", &point, "--region", "westus2"])?.ok()?;
    lab.azdr.run(&["backup", "restore", "db", "--yes"])?.ok()?;
    // A grant whose answer is lost, and data that cannot be read.
    let faults = serde_json::json!([
        {"match": {"path_contains": "beginGetAccess"}, "action": "drop_after"},
        {"match": {"path_contains": "/sas/"},
         "action": {"status": {"status": 403, "code": "AuthenticationFailed"}}},
    ]);
    lab.simulator.set_faults(&faults)?;
    lab.azdr.run(&["backup", "verify", &point])?;
    lab.simulator.set_faults(&serde_json::json!([]))?;
    Ok(vec![token])
}

/// Enrols an agent, which logs everything, and lets it work.
fn enrol(stage: &Stage, lab: &Lab) -> Result<String> {
    let listing = lab.simulator.listing()?;
    let agent = stage.host_agent("agent", lab, listing.vm("prod", "db")?.vm_id())?;
    let token = lab.azdr.json(&["agent", "token", "db"])?;
    let ended = agent.enrol(&token)?;
    ensure!(ended.status.success(), "{ended:?}");
    let log = stage.folder.join("agent/log");
    std::fs::write(&log, format!("{}{}", ended.stdout, ended.stderr))?;
    let session = agent.start()?;
    until("the agent is connected", Duration::from_secs(60), || {
        let agents = lab.azdr.json(&["agent", "list"])?.to_string();
        Ok(match agents.contains("\"connected\"") {
            true => Look::Done(()),
            false => Look::Waiting(agents),
        })
    })?;
    session.stop(Duration::from_secs(30))?;
    ensure!(session.printed().contains("TRACE"), "the agent's log is not at its most talkative");
    Ok(token["token"].as_str().context("a token")?.to_owned())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_in(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}
