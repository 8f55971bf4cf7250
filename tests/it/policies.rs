//! Policies for many VMs from a file, and what the controller does by itself because of a policy.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::{Lab, LabSpec, Scheduler, Vm, World};
use serde_json::Value;

use crate::setup::{Needs, Stage, Test};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "policies_from_a_file_are_given_to_all_vms_that_match",
        needs: Needs::Programs,
        body: from_a_file,
    },
    Test {
        name: "a_policy_is_checked_against_azure_and_has_its_backups_verified",
        needs: Needs::Programs,
        body: verified,
    },
    Test {
        name: "of_two_who_change_a_policy_at_once_neither_takes_back_what_the_other_did",
        needs: Needs::Programs,
        body: at_once,
    },
];

const LIMIT: Duration = Duration::from_secs(60);

const BOTH: &str = "policies:\n- name: prod\n  select: {resource_group: PROD}\n  daily: 14\n  \
                    time: \"03:00\"\n- name: web\n  select: {resource_group: prod, tags: {x: y}}\n";
const TIE: &str = "policies:\n- name: other\n  select: {resource_group: prod}\n  daily: 3\n";

fn start(stage: &Stage, vms: Vec<Vm>, scheduler: Scheduler) -> Result<Lab> {
    let spec = LabSpec::without_guests(World { vms });
    stage.lab_of(LabSpec { scheduler, ..spec })
}

fn file(lab: &Lab, text: &str) -> Result<PathBuf> {
    let path = lab.folder().join("policies.yaml");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// What becomes of each VM, by its name.
fn kinds(answer: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let vms = answer["vms"].as_array().into_iter().flatten();
    vms.map(|vm| (text(&vm["vm_name"]), text(&vm["kind"]))).collect()
}

fn of(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

fn from_a_file(stage: &Stage) -> Result<()> {
    let vms = vec![
        Vm::new("prod", "db").with_data_disk(),
        Vm::new("prod", "web"),
        Vm::new("test", "toy"),
    ];
    let lab = start(stage, vms, Scheduler { enabled: false, watches_vms: true })?;
    lab.azdr.run(&["backup", "configure", "db", "--daily-retention", "2"])?.ok()?;
    let path = file(&lab, BOTH)?;
    let path = path.to_str().context("a strange folder")?;

    // The dry run says what then happens, and changes nothing.
    let planned = lab.azdr.json(&["policy", "apply", "-f", path, "--dry-run"])?;
    ensure!(of(&kinds(&planned)) == [("db", "by_hand"), ("web", "enrolled")], "{planned:#}");
    let before = lab.azdr.json(&["policy", "list"])?;
    ensure!(before["named"] == Value::Array(vec![]), "{before:#}");
    let applied = lab.azdr.json(&["policy", "apply", "-f", path])?;
    ensure!(applied["vms"] == planned["vms"], "{applied:#}");

    let list = lab.azdr.json(&["policy", "list"])?;
    let policies = list["policies"].as_array().context("no policies")?;
    let from: Vec<_> =
        policies.iter().map(|p| (p["vm_name"].as_str(), p["origin"].as_str())).collect();
    ensure!(from == [(Some("db"), None), (Some("web"), Some("prod"))], "{list:#}");
    ensure!(
        policies[1]["daily_retention"] == 14 && policies[1]["schedule_time"] == "03:00",
        "{list:#}"
    );
    ensure!(list["uncovered"][0]["vm_name"] == "toy", "{list:#}");
    until("the tag of web", LIMIT, || {
        let listing = lab.simulator.listing()?;
        let tag = listing.vm("prod", "web")?.tag("azlin:backup-schedule");
        Ok(match tag {
            Some(tag) if tag.contains("d=14") && tag.ends_with("from=prod") => Look::Done(()),
            other => Look::Waiting(format!("{other:?}")),
        })
    })?;

    // Two policies for one VM are nobody's to choose between.
    file(&lab, TIE)?;
    let tied = lab.azdr.run(&["policy", "apply", "-f", path])?;
    ensure!(tied.code == 2, "{}", tied.words());
    ensure!(tied.stderr.contains("web: other and prod match it"), "{}", tied.words());

    // By hand, and back.
    let own = lab.azdr.run(&["backup", "configure", "web", "--daily-retention", "5"])?.ok()?;
    ensure!(own.stderr.contains("the policy came from prod"), "{}", own.words());
    let followed = lab.azdr.json(&["policy", "follow", "web"])?;
    ensure!(followed["daily_retention"] == 14 && followed["origin"] == "prod", "{followed:#}");
    let refused = lab.azdr.run(&["policy", "follow", "toy"])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("no selector matches it"),
        "{}",
        refused.words()
    );

    // Removed: its VM keeps what it has, and is spoken of.
    file(&lab, "policies: []\n")?;
    let removed = lab.azdr.json(&["policy", "apply", "-f", path, "--prune"])?;
    ensure!(of(&kinds(&removed)) == [("web", "kept")], "{removed:#}");
    let kept = lab.azdr.json(&["backup", "config-show", "web"])?;
    ensure!(kept["enabled"] == true && kept["daily_retention"] == 14, "{kept:#}");
    let problem = kept["origin_problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("does not match prod any more"), "{kept:#}");
    Ok(())
}

fn verified(stage: &Stage) -> Result<()> {
    let scheduler = Scheduler { enabled: true, watches_vms: true };
    let lab = start(stage, vec![Vm::new("prod", "db").with_data_disk()], scheduler)?;
    let configure = |more: &[&str]| lab.azdr.run(&[&["backup", "configure", "db"], more].concat());
    let typo = configure(&["--target-region", "westsu2"])?;
    ensure!(typo.code == 2 && typo.stderr.contains("did you mean westus2?"), "{}", typo.words());
    let short = configure(&["--verify-every", "5m"])?;
    ensure!(short.code == 2 && short.stderr.contains("1h to 366d"), "{}", short.words());
    let shown = configure(&[
        "--schedule",
        "daily 02:30",
        "--time-zone",
        "Europe/Berlin",
        "--consistency",
        "any",
        "--rpo",
        "12h",
        "--verify-every",
        "7d",
    ])?
    .ok()?;
    for words in ["2 disks", "`uncoordinated`", "cannot meet an RPO of 12h"] {
        ensure!(shown.stderr.contains(words), "{}", shown.words());
    }
    ensure!(shown.stdout.contains("Verification: every 7d"), "{}", shown.words());
    let due = lab.azdr.json(&["policy", "next", "db", "--count", "10"])?;
    ensure!(due["proofs"].as_array().is_some_and(|p| p.len() == 2), "{due:#}");
    ensure!(due["runs"][0]["local"].as_str().is_some_and(|l| l.contains("T02:30:00+0")), "{due:#}");

    // There is a backup, and so it is verified without anybody asking.
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    until("a verification by the schedule", LIMIT, || {
        let point = &lab.azdr.points("db")?[0];
        Ok(match point["proof"].as_str() {
            Some("restorable") => Look::Done(()),
            other => Look::Waiting(format!("{other:?}")),
        })
    })?;
    let job = lab.azdr.newest_job("verify")?;
    ensure!(job["requested_by"] == "schedule", "{job:#}");
    Ok(())
}

fn at_once(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let configure = |more: &[&str]| lab.azdr.run(&[&["backup", "configure", "db"], more].concat());
    for n in ["2", "3", "4", "5"] {
        configure(&["--daily-retention", "1", "--weekly-retention", "1"])?.ok()?;
        std::thread::scope(|s| {
            let weekly = s.spawn(|| configure(&["--weekly-retention", n])?.ok());
            let daily = configure(&["--daily-retention", n])?.ok();
            weekly.join().expect("no panic").and(daily)
        })?;
        let config = lab.azdr.json(&["backup", "config-show", "db"])?;
        let kept = (config["daily_retention"].to_string(), config["weekly_retention"].to_string());
        ensure!(kept == (n.to_owned(), n.to_owned()), "{config:#}");
        let listing = lab.simulator.listing()?;
        let tag = listing.vm("prod", "db")?.tag("azlin:backup-schedule").context("no tag")?;
        ensure!(tag.contains(&format!("d={n} w={n} ")), "the tag shows an older one: {tag}");
    }
    Ok(())
}
