//! What schedule and retention are said to do, and then do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::judge;
use azdr_tests::{Lab, Vm, World};
use serde_json::Value;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "what_is_explained_simulated_and_compared_is_what_happens",
    needs: Needs::Programs,
    body: forecasts,
}];

const DAY: Duration = Duration::from_secs(24 * 3600);
const SETTLE: Duration = Duration::from_secs(60);

fn back_up(lab: &Lab) -> Result<String> {
    lab.azdr.run(&["backup", "trigger", "web"])?.ok()?;
    lab.settle(SETTLE)?;
    Ok(lab.azdr.points("web")?[0]["name"].as_str().unwrap_or_default().to_owned())
}

/// The one entry of a list, or why there is not one.
fn only(list: &Value) -> Result<&Value> {
    let list = list.as_array().context("no list")?;
    ensure!(list.len() == 1, "{list:#?}");
    Ok(&list[0])
}

fn forecasts(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "web")] })?;
    let planned = lab.azdr.json(&["policy", "simulate", "web", "--daily", "2", "--days", "30"])?;
    ensure!(
        planned["runs"].as_array().is_some_and(|r| r.len() >= 29),
        "without a policy: {planned:#}"
    );
    protect(&lab, "web", &[])?;
    let older = back_up(&lab)?;
    lab.let_pass(DAY)?;
    let newer = back_up(&lab)?;
    let before = lab.azdr.points("web")?;

    let next = lab.azdr.json(&["policy", "next", "web", "--count", "10"])?;
    let runs = next["runs"].as_array().context("no runs")?;
    ensure!(runs.len() == 10 && runs[0]["tiers"][0] == "daily", "{next:#}");

    let explained = lab.azdr.json(&["backup", "explain", &newer])?;
    let region = only(&explained["regions"])?;
    let kinds: Vec<&str> = region["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["kind"].as_str())
        .collect();
    ensure!(kinds == ["slot", "newest_restorable"], "{explained:#}");
    ensure!(region["reasons"][0]["rank"] == 1 && region["reasons"][0]["of"] == 2, "{explained:#}");
    ensure!(region["until"]["kind"] == "run", "{explained:#}");
    let outage = lab.azdr.run(&["backup", "explain", &older, "--region", "westus2"])?;
    ensure!(outage.code == 1 && outage.stderr.contains("no complete copy"), "{}", outage.words());

    let simulated = lab.azdr.json(&["policy", "simulate", "web", "--days", "30"])?;
    let month = simulated["months"].as_array().and_then(|m| m.last()).context("no months")?;
    ensure!(only(&month["holdings"])?["recovery_points"] == 2, "{month:#}");
    let cost = lab.azdr.json(&["backup", "cost", "web", "--daily", "30"])?;
    ensure!(cost["now"]["recovery_points"] == 2, "{cost:#}");
    let cents = |policy: &str| cost[policy]["total_usd_cents"].as_u64().unwrap_or(0);
    ensure!(
        0 < cents("present_policy") && cents("present_policy") < cents("new_policy"),
        "{cost:#}"
    );
    let all = lab.azdr.json(&["policy", "list"])?;
    ensure!(only(&all["policies"])?["vm_name"] == "web", "{all:#}");

    // What `show` prints is a policy that changes nothing.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, lab.azdr.run(&["policy", "show", "web"])?.ok()?.stdout)?;
    let file = file.to_str().context("a strange folder")?;
    let same = lab.azdr.json(&["policy", "diff", "web", "-f", file])?;
    ensure!(same["before"] == same["after"] && same["entries"] == Value::Array(vec![]), "{same:#}");

    // Nothing of all that changed anything; the other policy does what was announced.
    ensure!(lab.azdr.points("web")? == before, "the points are not what they were");
    let diff = lab.azdr.json(&["policy", "diff", "web", "--daily", "1"])?;
    let at_once: Vec<&Value> = diff["entries"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|e| e["kind"] == "at_once")
        .collect();
    ensure!(at_once.len() == 1 && at_once[0]["recovery_point"] == *older, "{diff:#}");
    let configured =
        lab.azdr.run(&["backup", "configure", "web", "--daily-retention", "1"])?.ok()?;
    ensure!(configured.stdout.contains("per month"), "{}", configured.stdout);
    back_up(&lab)?;
    let left = lab.azdr.points("web")?;
    ensure!(left.len() == 2 && left.iter().all(|p| p["name"] != *older), "{left:#?}");
    judge::at_rest(&lab, &["web"])
}
