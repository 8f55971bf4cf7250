//! Names that are alike: no confusion, no collision.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::{Lab, Vm, World};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::judge;
use azdr_tests::protection::protect;

const SETTLE: Duration = Duration::from_secs(120);

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
    Test {
        name: "a_point_is_named_by_name_tier_date_and_vm_and_never_guessed",
        needs: Needs::Programs,
        body: points_by_description,
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

/// The name that `azdr backup show` finds.
fn shown(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let shown = lab.azdr.json(&[&["backup", "show"], arguments].concat())?;
    Ok(shown["point"]["name"].as_str().unwrap_or_default().to_owned())
}

fn points_by_description(stage: &Stage) -> Result<()> {
    let long = "long-name-".repeat(6) + "012a";
    let mut vms: Vec<Vm> = ["vm1", "vm10", &long].map(|name| Vm::new("prod", name)).into();
    vms.extend(["blue", "green"].map(|group| Vm::new(group, "web")));
    let twin = vms[3].id();
    let lab = stage.lab(World { vms })?;
    for vm in ["vm1", "vm10", &long] {
        protect(&lab, vm, &["--target-region", "westus2"])?;
        lab.azdr.run(&["backup", "configure", vm, "--monthly-retention", "2"])?.ok()?;
        lab.azdr.run(&["backup", "trigger", vm])?.ok()?;
        let point = &lab.azdr.points(vm)?[0];
        let name = point["name"].as_str().context("a name")?;
        let (base, time) = name.rsplit_once('-').context("a time")?;
        let (base, day) = base.rsplit_once('-').context("a day")?;
        ensure!(base.ends_with("-backup-monthly"), "{name}");
        for tier in point["tiers"].as_array().context("tiers")? {
            let tier = tier.as_str().context("a tier")?;
            let other = format!("{vm}-backup-{tier}-{day}-{time}");
            ensure!(shown(&lab, &[&other])? == name, "{other}");
            ensure!(shown(&lab, &[&other.to_uppercase()])? == name, "{other}");
        }
        let by_day = format!("{vm}-backup-{day}");
        ensure!(shown(&lab, &[&by_day])? == name, "{by_day}");
        ensure!(shown(&lab, &[day, "--vm", vm])? == name, "{day} of {vm}");
        ensure!(shown(&lab, &[day, "--vm", vm, "-g", "PROD"])? == name, "{day} of {vm}");
        // A tier that it does not carry, the beginning of a name, and another VM's point.
        let yearly = format!("{vm}-backup-yearly-{day}");
        let cut = format!("{}-backup-{day}", &vm[..2]);
        for wrong in [&[yearly.as_str()][..], &[&cut], &[name, "--vm", "web", "-g", "blue"]] {
            let answer = lab.azdr.run(&[&["backup", "show"], wrong].concat())?;
            ensure!(answer.code == 1 && answer.stderr.contains("no recovery point"), "{answer:?}");
        }
    }
    // Every command that takes a point takes it like that.
    let point = lab.azdr.points("vm10")?[0]["name"].as_str().context("a name")?.to_owned();
    let day = &point["vm10-backup-monthly-".len()..][..8];
    let by_day = format!("VM10-backup-{day}");
    lab.settle(SETTLE)?;
    for arguments in [
        &["backup", "explain", &by_day][..],
        &["backup", "verify", &by_day],
        &["backup", "verify", &by_day, "--region", "westus2"],
        &["backup", "pin", &by_day, "--until", "1d", "--reason", "test"],
        &["backup", "unpin", &by_day],
        &["backup", "restore", "vm10", "--backup", day, "--yes"],
    ] {
        lab.azdr.run(arguments)?.ok()?;
    }
    let verified = lab.azdr.newest_job("verify")?;
    ensure!(verified["recovery_point"] == point.as_str(), "{verified:#}");
    // Refused by the rules, so it was found.
    let kept = lab.azdr.run(&["backup", "delete", &by_day, "--yes"])?;
    ensure!(kept.code == 1 && kept.stderr.contains(&point), "{kept:?}");
    let there = lab.azdr.run(&["backup", "replicate", &by_day, "--target-region", "westus2"])?;
    ensure!(there.code == 1 && there.stderr.contains(&point), "{there:?}");
    let drill = lab.azdr.start_job(&["dr", "test", "vm10", "--backup", day])?;
    ensure!(lab.azdr.job(drill)?["recovery_point"] == point.as_str(), "another point");

    // Several that fit: all are named, nothing is done.
    lab.azdr.run(&["backup", "trigger", "vm1"])?.ok()?;
    let both = lab.azdr.points("vm1")?;
    let today = both[0]["name"].as_str().context("a name")?.to_owned();
    let names: Vec<&str> = both.iter().filter_map(|p| p["name"].as_str()).collect();
    // Another day only if midnight has passed in between.
    if names.iter().all(|name| name.contains(day)) {
        let answer = lab
            .azdr
            .run(&["backup", "pin", day, "--vm", "vm1", "--until", "1d", "--reason", "x"])?;
        ensure!(answer.code == 2, "{answer:?}");
        ensure!(names.iter().all(|name| answer.stderr.contains(name)), "{answer:?}");
        ensure!(!answer.stderr.contains("vm10-"), "{answer:?}");
    }
    ensure!(shown(&lab, &[&today])? == today, "a whole name comes first");
    for group in ["blue", "green"] {
        let policy = ["--daily-retention", "2", "--resource-group", group];
        lab.azdr.run(&[&["backup", "configure", "web"], &policy[..]].concat())?.ok()?;
        lab.azdr.run(&["backup", "trigger", "web", "-g", group])?.ok()?;
    }
    let of = |group| lab.azdr.json(&["backup", "list", "web", "-g", group]);
    let (blue, green) = (of("blue")?, of("green")?);
    let (blue, green) = (&blue["points"][0]["name"], &green["points"][0]["name"]);
    let (blue, green) = (blue.as_str().context("a name")?, green.as_str().context("a name")?);
    if blue == green {
        let answer = lab.azdr.run(&["backup", "verify", blue])?;
        ensure!(answer.code == 2, "{answer:?}");
        for group in ["blue", "green"] {
            ensure!(answer.stderr.contains(&format!("resource group {group}")), "{answer:?}");
        }
    }
    let day = blue.rsplit('-').nth(1).context("a day")?;
    let by_day = format!("web-backup-{day}");
    for place in [&["-g", "blue"][..], &["--vm", "WEB", "-g", "Blue"], &["--vm", &twin]] {
        for name in [blue, by_day.as_str()] {
            let found = lab.azdr.json(&[&["backup", "show", name], place].concat())?;
            let id = found["point"]["vm_resource_id"].as_str().unwrap_or_default();
            ensure!(id.eq_ignore_ascii_case(&twin), "{name} {place:?} is of {id}");
        }
    }
    let nobody = lab.azdr.run(&["backup", "show", day])?;
    ensure!(nobody.code == 2 && nobody.stderr.contains("--vm"), "{nobody:?}");
    lab.settle(SETTLE)
}
