//! Content: hashed after a backup, compared later.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_tests::{Lab, Vm, World, judge};

use crate::setup::{Needs, Stage, Test};
use azdr_tests::protection::protect;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_changed_copy_is_told_from_the_content_that_was_hashed_after_the_backup",
    needs: Needs::Programs,
    body: changed_copy,
}];

const SETTLE: Duration = Duration::from_secs(60);
const BLOCK: u64 = 64 * 1024;

fn changed_copy(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let disk = contents(&lab)?.into_keys().next().context("there is no disk")?;
    for n in 1..=20 {
        let file = std::fs::File::options().write(true).open(&disk)?;
        file.write_all_at(&vec![n as u8; BLOCK as usize], (20 + n) * BLOCK)?;
    }
    protect(&lab, "db", &["--cross-region", "--target-region", "westus2"])?;

    // As the lab's controllers are: nothing is hashed.
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let without = name_of_newest(&lab)?;
    let refused = lab.azdr.run(&["backup", "verify", &without, "--level", "content"])?;
    ensure!(refused.code == 1, "exit code {}: {}", refused.code, refused.words());
    for words in ["no content hashes were taken", "content.sampled_blocks"] {
        ensure!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }

    lab.controller.reconfigure("sampled_blocks = 0", "sampled_blocks = 300")?;
    lab.controller.start()?;
    let before = contents(&lab)?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(SETTLE)?;
    let point = name_of_newest(&lab)?;
    ensure!(point != without, "{point}");
    let shown = lab.azdr.json(&["backup", "show", &point])?;
    let hashed = &shown["content_hashes"][0];
    ensure!(hashed["blocks"] == 20 && hashed["sampled"] == 20, "{shown:#}");
    for region in ["eastus", "westus2"] {
        let level = ["--level", "content"];
        let args = [&["backup", "verify", &point, "--region", region], &level[..]].concat();
        let said = lab.azdr.run(&args)?.ok()?.stdout;
        ensure!(said.contains("20 of all 20 blocks with data equal"), "{said}");
    }
    ensure!(lab.azdr.points("db")?[0]["proof"] == "content", "the proof is not recorded");
    let report = lab.azdr.json(&["backup", "verification-report"])?;
    ensure!(report["overall"]["content_compared"] == 1, "{report:#}");

    // Snapshot and copy share their bytes: one of them gets its own, and one bit of those flips.
    let new = contents(&lab)?.into_keys().find(|path| !before.contains_key(path));
    flip(&new.context("the backup made no snapshot")?, 25 * BLOCK + 7)?;
    let (mut good, mut bad) = (0, 0);
    for region in ["eastus", "westus2"] {
        let level = ["--level", "content"];
        let args = [&["backup", "verify", &point, "--region", region], &level[..]].concat();
        let answer = lab.azdr.run(&args)?;
        if answer.code == 0 {
            good += 1;
            continue;
        }
        bad += 1;
        let offset = format!("at byte {}: expected BLAKE3 ", 25 * BLOCK);
        for words in ["1 of 20 sampled blocks of the OS disk differ", &offset] {
            ensure!(answer.stderr.contains(words), "no {words:?} in {}", answer.stderr);
        }
    }
    ensure!((good, bad) == (1, 1), "{good} good, {bad} bad");
    let report = lab.azdr.json(&["backup", "verification-report"])?;
    let error = report["vms"][0]["failed"][0]["error"].as_str().unwrap_or_default();
    ensure!(error.contains("expected BLAKE3"), "{report:#}");
    judge::at_rest(&lab, &["db"])
}

fn name_of_newest(lab: &Lab) -> Result<String> {
    let points = lab.azdr.points("db")?;
    Ok(points.first().and_then(|p| p["name"].as_str()).context("no recovery point")?.to_owned())
}

/// The simulator's files of disks and snapshots, with their inodes.
fn contents(lab: &Lab) -> Result<BTreeMap<PathBuf, u64>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(lab.simulator.state().join("disks"))? {
        let entry = entry?;
        all.insert(entry.path(), entry.metadata()?.ino());
    }
    Ok(all)
}

fn flip(path: &Path, offset: u64) -> Result<()> {
    let apart = path.with_extension("apart");
    std::fs::copy(path, &apart)?;
    let file = std::fs::File::options().read(true).write(true).open(&apart)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1], offset)?;
    Ok(std::fs::rename(&apart, path)?)
}
