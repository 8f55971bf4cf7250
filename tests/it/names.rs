//! Names that are alike: no confusion, no collision.

use anyhow::{Result, ensure};
use azdr_tests::{Vm, World};

use crate::setup::{Needs, Stage, Test};
use crate::whole_flow::protect;
use azdr_tests::judge;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "vms_of_one_name_in_two_groups_are_told_apart",
        needs: Needs::Programs,
        body: one_name_twice,
    },
    Test { name: "a_name_is_not_a_prefix_of_another", needs: Needs::Programs, body: prefixes },
    Test {
        name: "names_of_64_characters_do_not_collide_in_snapshot_names",
        needs: Needs::Programs,
        body: long_names,
    },
];

fn one_name_twice(stage: &Stage) -> Result<()> {
    let twins = ["blue", "green"].map(|group| Vm::new(group, "web").with_data_disk());
    let ids = twins.each_ref().map(Vm::id);
    let lab = stage.lab(World { vms: twins.into() })?;
    let answer = lab.azdr.run(&["backup", "trigger", "web"])?;
    ensure!(answer.code == 2 || answer.code == 1, "exit code {}", answer.code);
    for word in ["web", "blue", "green"] {
        ensure!(answer.stderr.contains(word), "no {word:?} in {}", answer.stderr);
    }
    // By group, and by resource ID in any case.
    lab.azdr.run(&["backup", "configure", "web", "--resource-group", "blue"])?.ok()?;
    lab.azdr.run(&["backup", "configure", &ids[1]])?.ok()?;
    lab.azdr.run(&["backup", "trigger", "web", "--resource-group", "BLUE"])?.ok()?;
    lab.azdr.run(&["backup", "trigger", &ids[1].to_uppercase()])?.ok()?;
    let listing = lab.simulator.listing()?;
    let snapshots = listing.snapshots();
    ensure!(snapshots.len() == 4, "{} snapshots instead of 4", snapshots.len());
    for (group, other) in [("blue", "green"), ("green", "blue")] {
        let points = lab.azdr.json(&["backup", "list", "web", "-g", group])?;
        let text = points.to_string().to_lowercase();
        ensure!(points["points"].as_array().is_some_and(|p| p.len() == 1), "{points:#}");
        ensure!(!text.contains(&format!("/resourcegroups/{other}/")), "{points:#}");
    }
    judge::at_rest(&lab, &ids.each_ref().map(String::as_str))
}

fn prefixes(stage: &Stage) -> Result<()> {
    let vms = ["vm1", "vm10", "vm"].map(|name| Vm::new("prod", name));
    let lab = stage.lab(World { vms: vms.into() })?;
    protect(&lab, "vm1", &[])?;
    protect(&lab, "vm10", &[])?;
    lab.azdr.run(&["backup", "trigger", "vm1"])?.ok()?;
    lab.azdr.run(&["backup", "trigger", "vm10"])?.ok()?;
    for (vm, count) in [("vm1", 1), ("vm10", 1), ("vm", 0), ("VM1", 1)] {
        let points = lab.azdr.points(vm)?;
        ensure!(points.len() == count, "{vm} has {} points", points.len());
        let other = points.iter().find(|p| {
            p["name"].as_str().is_none_or(|n| !n.starts_with(&format!("{}-", vm.to_lowercase())))
        });
        ensure!(other.is_none(), "{vm} shows {other:?}");
    }
    let vms = lab.azdr.json(&["vm", "list"])?;
    let vms = vms["vms"].as_array().cloned().unwrap_or_default();
    let protected = vms.iter().filter(|v| v["protected"] == true).map(|v| v["name"].clone());
    ensure!(protected.collect::<Vec<_>>() == ["vm1", "vm10"], "{vms:#?}");
    let answer = lab.azdr.run(&["backup", "trigger", "vm100"])?;
    ensure!(answer.code == 1 && answer.stderr.contains("vm100"), "{}", answer.words());
    judge::at_rest(&lab, &["vm1", "vm10", "vm"])
}

fn long_names(stage: &Stage) -> Result<()> {
    let names = ["a", "b"].map(|last| format!("{}{last}", "long-name-".repeat(6) + "012"));
    ensure!(names.iter().all(|n| n.len() == 64), "{names:?}");
    let vms = names.each_ref().map(|name| Vm::new("prod", name).with_data_disk());
    let lab = stage.lab(World { vms: vms.into() })?;
    for name in &names {
        protect(&lab, name, &["--target-region", "westus2"])?;
        lab.azdr.run(&["backup", "trigger", name])?.ok()?;
        // Twice in a minute: two points all the same.
        lab.azdr.run(&["backup", "trigger", name])?.ok()?;
    }
    judge::at_rest(&lab, &names.each_ref().map(String::as_str))?;
    let listing = lab.simulator.listing()?;
    ensure!(listing.snapshots().len() == 16, "{:#?}", listing.everything());
    let too_long = listing.snapshots().into_iter().find(|s| s.name().len() > 80);
    ensure!(too_long.is_none(), "{too_long:?}");
    for name in &names {
        lab.azdr.run(&["backup", "restore", name, "--yes"])?.ok()?;
    }
    judge::at_rest(&lab, &names.each_ref().map(String::as_str))
}
