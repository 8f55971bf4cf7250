//! `docs/getting-started.md`: every `azdr` command line of it is run as printed, in its order, at a
//! terminal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_env::WallTime;
use azdr_tests::{Lab, LabSpec, Vm, World, judge};

use crate::guide::lines::{self, Line};
use crate::guide::terminal::{Seen, type_in};
use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::agent_is_connected;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "every_command_line_of_getting_started_does_what_it_is_there_for",
    needs: Needs::Programs,
    body: followed,
}];

const DOCUMENT: &str = include_str!("../../docs/getting-started.md");
const NAME: &str = "azdr";
const DB: &str = "prod-db-vm";
const SETTLE: Duration = Duration::from_secs(120);
/// 2025-12-01 08:00 UTC.
const LAST: i64 = 1_764_576_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is asked on the way, and answered; what is told.
const SPECIAL: &[(&str, &[&str], &str)] = &[
    ("azdr operator add bob ", &[], "bob"),
    ("azdr --context-file bob/context.toml whoami", &[], "operator"),
    ("azdr operator list", &[], "vera"),
    ("azdr backup trigger ", &[], "✓ Backup created successfully"),
    ("azdr backup list ", &[], "Daily (9):"),
    ("azdr backup verify ", &[], "PASS - backup is restorable"),
    (
        "azdr backup restore prod-db-vm --backup prod-db-vm-backup-daily-20251201-0800 --new-vm",
        &[],
        "✓ Restore",
    ),
    ("azdr backup restore ", &["yes"], "✓ Restore complete"),
    ("azdr residue list", &[], "prod-db-vm-os"),
    ("azdr job list", &[], "approv"),
    ("azdr job show ", &[], "-backup-daily-20251123-0800"),
    ("azdr policy next ", &[], "2025-12-02"),
];

/// Nine daily backups, the last of which is still to be taken.
fn lab(stage: &Stage) -> Result<Lab> {
    let spec = LabSpec::with_simulated_guests(World { vms: vec![Vm::new("prod", DB)] });
    let last = WallTime::from_unix_ms(LAST);
    let mut lab = Lab::start_at(stage.programs()?, &stage.folder, spec, last.minus(8 * DAY))?;
    lab.enrol_simulated(&lab.machine("prod", DB)?)?;
    agent_is_connected(&lab, DB)?;
    lab.azdr.run(&["backup", "configure", DB, "--daily-retention", "9"])?.ok()?;
    for day in (1..=8).rev() {
        lab.let_pass_until(last.minus(day * DAY))?;
        agent_is_connected(&lab, DB)?;
        lab.azdr.run(&["backup", "trigger", DB])?.ok()?;
        lab.settle(SETTLE)?;
    }
    lab.let_pass_until(last)?;
    agent_is_connected(&lab, DB)?;
    Ok(lab)
}

fn followed(stage: &Stage) -> Result<()> {
    let document = lines::read(DOCUMENT, NAME)?;
    let ours: Vec<&Line> = document.commands.iter().filter(|line| line.runs(NAME)).collect();
    ensure!(ours.len() > 20, "only {} command lines are found", ours.len());
    for (line, ..) in SPECIAL {
        ensure!(ours.iter().any(|l| l.text.starts_with(line)), "{line:?} is in no line");
    }
    let lab = lab(stage)?;
    let bin = stage.folder.join("bin");
    std::fs::create_dir(&bin)?;
    std::os::unix::fs::symlink(stage.programs()?.path("azdr"), bin.join(NAME))?;
    for line in ours {
        prepare(&lab, &line.text).with_context(|| format!("before {:?}", line.text))?;
        let seen = typed(&lab, &line.text)?;
        let what =
            || format!("line {}: {}\nexit {}\n{}", line.number, line.text, seen.code, seen.screen);
        ensure!(seen.code == 0, "{}", what());
        let told = SPECIAL.iter().find(|(begin, ..)| line.text.starts_with(begin));
        ensure!(told.is_none_or(|(.., told)| seen.screen.contains(told)), "{}", what());
    }
    judge::at_rest(&lab, &[DB, "prod-db-vm-trial"])
}

/// What the reader does between two lines.
fn prepare(lab: &Lab, line: &str) -> Result<()> {
    if line.starts_with("azdr backup trigger") {
        // The reader has had no backups yet, and these are to be kept.
        lab.azdr.run(&["backup", "configure", DB, "--daily-retention", "9"])?.ok()?;
    }
    if line.starts_with("azdr job list") {
        // A slip of the finger.
        lab.azdr.run(&["backup", "configure", DB, "--daily-retention", "2"])?.ok()?;
        lab.azdr.run(&["backup", "trigger", DB])?.ok()?;
        lab.settle(SETTLE)?;
    }
    if line.starts_with("azdr policy diff") {
        let path = lab.folder().join("new.yaml");
        let policy = std::fs::read_to_string(&path)?;
        ensure!(policy.contains("daily: 2\n"), "{policy}");
        std::fs::write(&path, policy.replace("daily: 2\n", "daily: 3\n"))?;
    }
    Ok(())
}

fn typed(lab: &Lab, line: &str) -> Result<Seen> {
    // The number of the pruning that waits.
    let line = match line.contains(" ID") {
        true => line.replace(" ID", &format!(" {}", lab.azdr.newest_job("prune")?["id"])),
        false => line.to_owned(),
    };
    let mut shell = lab.azdr.shell(&line);
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = lab.folder().join("bin");
    shell.env("PATH", format!("{}:{path}", bin.display())).current_dir(lab.folder());
    let answers = SPECIAL.iter().find(|(begin, ..)| line.starts_with(begin));
    type_in(shell, answers.map_or(&[], |(_, answers, _)| answers))
}
