//! The main job from end to end, on machines that are mere records: policy, backup, list, copy,
//! verification, retention.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::{Lab, Vm, World};
use serde_json::Value;

use crate::setup::{Needs, Stage, Test};
use azdr_tests::judge;
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_vm_is_backed_up_copied_verified_and_restored",
        needs: Needs::Programs,
        body: main_job,
    },
    Test {
        name: "a_backup_that_must_be_consistent_fails_without_an_agent_and_leaves_nothing",
        needs: Needs::Programs,
        body: required_consistency,
    },
    Test {
        name: "retention_deletes_what_no_tier_wants_and_keeps_the_newest_proved_point",
        needs: Needs::Programs,
        body: retention,
    },
    Test {
        name: "a_drill_without_any_evidence_fails_and_leaves_nothing",
        needs: Needs::Programs,
        body: drill,
    },
    Test { name: "a_copy_of_a_vm_is_made_as_a_new_vm", needs: Needs::Programs, body: new_vm },
];

const DAY: Duration = Duration::from_secs(24 * 3600);
const SETTLE: Duration = Duration::from_secs(60);

fn text<'a>(document: &'a Value, field: &str) -> &'a str {
    document[field].as_str().unwrap_or_default()
}

fn main_job(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect(&lab, "db", &["--cross-region", "--target-region", "westus2"])?;
    let config = lab.azdr.json(&["backup", "config-show", "db"])?;
    ensure!(config["tag_written"] == true && config["target_region"] == "westus2", "{config:#}");
    let listing = lab.simulator.listing()?;
    let tag = listing.vm("prod", "db")?.tag("azlin:backup-schedule").unwrap_or_default();
    ensure!(tag.contains("westus2"), "the VM's tag is {tag:?}");

    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    let points = lab.azdr.points("db")?;
    let point = points.first().context("no recovery point")?;
    let name = text(point, "name").to_owned();
    ensure!(name.starts_with("db-backup-daily-"), "the point is named {name}");
    ensure!(point["consistency"] == "uncoordinated", "{point:#}");
    ensure!(text(point, "consistency_reason").contains("agent"), "{point:#}");
    ensure!(point["frozen_ms"] == 0 && point["proof"] == "unproved", "{point:#}");
    lab.settle(SETTLE)?;

    let status = lab.azdr.json(&["backup", "replication-status", "db"])?;
    ensure!(status["entries"][0]["state"] == "complete", "{status:#}");
    let listing = lab.simulator.listing()?;
    let of = |region: &str| listing.snapshots().iter().filter(|s| s.location() == region).count();
    ensure!((of("eastus"), of("westus2")) == (2, 2), "{:#?}", listing.everything());

    for region in ["eastus", "westus2"] {
        lab.azdr.run(&["backup", "verify", &name, "--region", region])?.ok()?;
    }
    ensure!(lab.azdr.points("db")?[0]["proof"] == "restorable", "the proof is not recorded");

    lab.azdr.run(&["backup", "restore", "db", "--backup", &name, "--yes"])?.ok()?;
    let restore = lab.azdr.newest_job("restore_in_place")?;
    let result = &restore["result"]["restore"];
    // There is no machine: nobody can say whether it is up.
    ensure!(result["ssh_verified"] == false, "{result:#}");
    ensure!(!text(result, "unconfirmed").is_empty(), "{result:#}");
    let listing = lab.simulator.listing()?;
    let disks = listing.disks_of(listing.vm("prod", "db")?);
    ensure!(disks.iter().all(|id| id.contains("azdr-restore")), "it runs on {disks:#?}");
    ensure!(listing.disks().len() == 4, "the replaced disks are not kept: {disks:#?}");
    judge::at_rest(&lab, &["db"])
}

fn required_consistency(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect(&lab, "db", &["--consistency", "require"])?;
    let answer = lab.azdr.run(&["backup", "trigger", "db"])?;
    ensure!(answer.code == 1, "exit code {}: {}", answer.code, answer.words());
    for word in ["agent", "prefer"] {
        ensure!(answer.stderr.contains(word), "no {word:?} in {}", answer.stderr);
    }
    ensure!(lab.azdr.points("db")?.is_empty(), "there is a point");
    ensure!(lab.simulator.listing()?.snapshots().is_empty(), "there are snapshots");
    judge::at_rest(&lab, &["db"])
}

/// With two daily backups to keep, four days.
fn retention(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "web")] })?;
    protect(&lab, "web", &[])?;
    let mut names = Vec::new();
    for day in 0..4 {
        if day > 0 {
            lab.let_pass(DAY)?;
        }
        lab.azdr.run(&["backup", "trigger", "web"])?.ok()?;
        lab.settle(SETTLE)?;
        names.push(text(&lab.azdr.points("web")?[0], "name").to_owned());
        match day {
            // The only point whose restorability is proved: kept whatever the tiers say.
            0 => drop(lab.azdr.run(&["backup", "verify", &names[0]])?.ok()?),
            2 => {
                kept(&lab, &[&names[2], &names[1], &names[0]])?;
                lab.azdr.run(&["backup", "verify", &names[2]])?.ok()?;
            }
            _ => {}
        }
    }
    kept(&lab, &[&names[3], &names[2]])?;
    judge::at_rest(&lab, &["web"])
}

fn kept(lab: &Lab, expected: &[&str]) -> Result<()> {
    let points = lab.azdr.points("web")?;
    let found: Vec<&str> = points.iter().map(|p| text(p, "name")).collect();
    ensure!(found == expected, "kept are {found:?} instead of {expected:?}");
    Ok(())
}

fn drill(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect(&lab, "db", &["--target-region", "westus2"])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let before = lab.simulator.listing()?.everything();
    let answer = lab.azdr.run(&["dr", "test", "db"])?;
    ensure!(answer.code == 1, "exit code {}: {}", answer.code, answer.words());
    for word in ["agent", "SSH", "nothing can be proved"] {
        ensure!(answer.stderr.contains(word), "no {word:?} in {}", answer.stderr);
    }
    let job = lab.azdr.newest_job("dr_test")?;
    ensure!(job["error"]["kind"] == "no_evidence", "{job:#}");
    lab.settle(SETTLE)?;
    let after = lab.simulator.listing()?.everything();
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    let history = lab.azdr.json(&["dr", "test-history", "db"])?;
    ensure!(history["tests"][0]["passed"] == false, "{history:#}");
    judge::at_rest(&lab, &["db"])
}

fn new_vm(stage: &Stage) -> Result<()> {
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db").with_data_disk()] })?;
    protect(&lab, "db", &[])?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.azdr.run(&["backup", "restore", "db", "--new-vm", "db-copy"])?.ok()?;
    lab.settle(SETTLE)?;
    let listing = lab.simulator.listing()?;
    let original = listing.disks_of(listing.vm("prod", "db")?);
    ensure!(
        original.iter().all(|id| !id.contains("azdr")),
        "the original has changed: {original:#?}"
    );
    let copy = listing.vms().into_iter().find(|vm| vm.name() == "db-copy").context("no db-copy")?;
    ensure!(copy.is_running(), "db-copy is {}", copy.power());
    ensure!(listing.disks_of(copy).len() == 2, "db-copy has {:#?}", listing.disks_of(copy));
    Ok(())
}
