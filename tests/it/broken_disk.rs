//! A disk under the database that is really full, or really read-only: a small file system that the
//! test makes in memory and takes away again.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use azdr_tests::mounted::{Mounted, done};
use azdr_tests::poll::{Look, Stopwatch, until};
use azdr_tests::process::run;
use azdr_tests::programs::is_installed;
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::json;

use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::{agent_is_connected, db, frozen_by_a_slow_backup, until_thawed};
use azdr_tests::protection::protect_and_keep_all;

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_full_disk_is_said_in_words_and_passes_without_a_restart",
        needs: Needs::Mounts,
        body: full,
    },
    Test {
        name: "a_machine_thaws_when_the_controllers_disk_becomes_read_only_while_it_is_frozen",
        needs: Needs::Mounts,
        body: read_only_while_frozen,
    },
];

const LIMIT: Duration = Duration::from_secs(60);
/// The longest that anything stays frozen by default, and a bit.
const HOLD: Duration = Duration::from_secs(10 + 3);

/// The kernel's own counterpart of a failing disk: an error of the file system, which makes it read-only under
/// everybody who uses it.
fn fail(disk: &Mounted) -> Result<()> {
    let mut find = Command::new("findmnt");
    find.args(["-no", "SOURCE"]).arg(disk.path());
    let device = done(find)?;
    let name = device.trim().rsplit('/').next().context("no device")?.to_owned();
    let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
    std::fs::write(&trigger, "1").with_context(|| trigger.clone())
}

/// ext4 in an image file; it becomes read-only at its first error, as is usual.
fn ext4(image: &Path, at: &Path) -> Result<Mounted> {
    Mounted::image(image, at, "errors=remount-ro")
}

/// Whether file systems can be mounted here.
///
/// # Errors
/// When not, in words.
pub(crate) fn may_mount() -> Result<()> {
    for program in ["mkfs.ext4", "e2fsck", "mount", "findmnt"] {
        ensure!(is_installed(program), "{program} is not installed");
    }
    let folder = tempfile::tempdir()?;
    let _tried = Mounted::in_memory(folder.path(), 1 << 20)?;
    ensure!(Path::new("/dev/loop-control").exists(), "there are no loop devices");
    Ok(())
}

fn writable(lab: &Lab) -> Result<bool> {
    let metrics = lab.controller.metrics()?;
    let line = metrics.lines().find(|l| l.starts_with("azdr_database_writable"));
    match line.and_then(|l| l.rsplit(' ').next()) {
        Some("1") => Ok(true),
        Some("0") => Ok(false),
        other => bail!("azdr_database_writable is {other:?}"),
    }
}

fn full(stage: &Stage) -> Result<()> {
    let data = Mounted::in_memory(&stage.folder.join("data"), 8 << 20)?;
    let lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    protect_and_keep_all(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    lab.settle(LIMIT)?;
    ensure!(writable(&lab)?, "it is not writable to begin with");
    let process = lab.controller.daemon()?.id();

    let filler = data.path().join("filler");
    let mut file = std::fs::File::create(&filler)?;
    let full = loop {
        if let Err(e) = file.write_all(&[7; 4096]) {
            break e;
        }
    };
    ensure!(full.raw_os_error() == Some(libc::ENOSPC), "{full}");
    // The log has some room of its own; then a commit meets the full disk.
    let refused = until("a change is refused", LIMIT, || {
        let answer = lab.azdr.run(&["backup", "trigger", "db", "--no-wait"])?;
        Ok(if answer.code == 0 { Look::Waiting(answer.stdout) } else { Look::Done(answer) })
    })?;
    ensure!(refused.code != 0 && refused.stdout.is_empty(), "{}", refused.words());
    for words in ["nothing was changed", "the database cannot be written: its disk is full"] {
        ensure!(refused.stderr.contains(words), "no {words:?} in {}", refused.stderr);
    }
    let ready = lab.controller.probe("/readyz");
    let why = format!("{:#}", ready.err().context("it says that it is ready")?);
    ensure!(why.contains("status 503") && why.contains("its disk is full"), "{why}");
    ensure!(!writable(&lab)?, "the metric says that the database can be written");
    // What is known can still be read.
    ensure!(!lab.azdr.points("db")?.is_empty(), "the recovery points cannot be read");

    std::fs::remove_file(&filler)?;
    drop(file);
    until("it is ready again", LIMIT, || {
        Ok(match lab.controller.probe("/readyz") {
            Ok(_) => Look::Done(()),
            Err(e) => Look::Waiting(format!("{e:#}")),
        })
    })?;
    ensure!(writable(&lab)?, "the metric says that the database cannot be written");
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    ensure!(lab.controller.daemon()?.is_running(), "the controller has ended");
    ensure!(lab.controller.daemon()?.id() == process, "the controller was restarted");
    judge::at_rest(&lab, &["db"])
}

fn read_only_while_frozen(stage: &Stage) -> Result<()> {
    let memory = Mounted::in_memory(&stage.folder.join("memory"), 64 << 20)?;
    let image = memory.path().join("data.ext4");
    std::fs::File::create(&image)?.set_len(48 << 20)?;
    let mut format = Command::new("mkfs.ext4");
    format.args(["-q", "-F"]).arg(&image);
    done(format)?;
    let at = stage.folder.join("data");
    let disk = ext4(&image, &at)?;
    let mut private = Command::new("chmod");
    private.arg("0700").arg(&at);
    done(private)?;
    let (mut lab, machine) = db(stage)?;

    let job = frozen_by_a_slow_backup(&lab, &machine, 4000)?;
    let since = Stopwatch::start();
    fail(&disk)?;
    until_thawed(&machine)?;
    let after = since.elapsed();
    ensure!(after < HOLD, "it was thawed only after {after:?}");
    let ended = lab.controller.daemon()?.check().err();
    println!("the disk failed: thawed after {after:?}; the controller ended: {ended:?}");
    if ended.is_none() {
        let why = format!("{:#}", lab.controller.probe("/readyz").err().context("it is ready")?);
        ensure!(why.contains("status 503") && why.contains("cannot be written"), "{why}");
        ensure!(!writable(&lab)?, "the metric says that the database can be written");
    }
    // Such a disk comes back only by being mounted anew; so does the controller.
    lab.simulator.set_faults(&json!([]))?;
    lab.controller.kill();
    drop(disk);
    let mut check = Command::new("e2fsck");
    check.arg("-fy").arg(&image);
    // 1: errors were found and mended.
    let checked = run(check, LIMIT, None)?;
    ensure!(matches!(checked.status.code(), Some(0 | 1)), "{}{}", checked.stdout, checked.stderr);
    let mended = ext4(&image, &at)?;
    lab.controller.start()?;
    let ended = lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    agent_is_connected(&lab, "db")?;
    lab.azdr.run(&["backup", "trigger", "db"])?.ok()?;
    judge::at_rest(&lab, &["db"])?;
    lab.controller.kill();
    drop(mended);
    Ok(())
}
