//! The demo with real machines. What else must be true of them are the lab's cases: `lab_cases.rs`.

use std::time::Duration;

use anyhow::{Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::process::run;
use serde_json::Value;

use crate::setup::{Needs, PATIENCE, Stage, Test};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_machine_is_backed_up_quiesced_destroyed_restored_and_drilled",
        needs: Needs::Guests,
        body: whole_story,
    },
    Test {
        name: "a_demo_that_is_interrupted_leaves_no_process_and_no_file",
        needs: Needs::Guests,
        body: interrupted_story,
    },
];

const LIMIT: Duration = Duration::from_secs(120);
const STORY: Duration = Duration::from_secs(600);

/// The demo is the story; here its summary is held against what must be.
fn whole_story(stage: &Stage) -> Result<()> {
    let summary = stage.folder.join("summary.json");
    let ended = run(stage.demo(&summary)?, PATIENCE + STORY, None)?;
    ensure!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    let summary: Value = serde_json::from_slice(&std::fs::read(summary)?)?;
    let holds = summary["ok"] == true
        && summary["guests"] == "qemu"
        && summary["backup"]["consistency"] == "filesystem"
        && summary["backup"]["disks"] == 2
        && summary["restore"]["data_intact"] == true
        && summary["restore"]["ssh_verified"] == true
        && summary["dr_test"]["passed"] == true
        && summary["dr_test"]["residue"].as_array().is_some_and(Vec::is_empty)
        && summary["azure"]["throttled"] == 0;
    ensure!(holds, "{summary:#}");
    nothing_is_left(stage)
}

fn interrupted_story(stage: &Stage) -> Result<()> {
    let demo = stage.demo(&stage.folder.join("summary.json"))?;
    let log = stage.folder.join("demo.log");
    let demo = stage.start("azdr-demo", demo, &log)?;
    until("the demo has enrolled its agents", PATIENCE + LIMIT, || {
        demo.check()?;
        Ok(match demo.printed().contains("azdr-agent enroll") {
            true => Look::Done(()),
            false => Look::Waiting(demo.printed()),
        })
    })?;
    demo.stop(Duration::from_secs(20))?;
    nothing_is_left(stage)
}

/// The demo's folder and processes are all in or under this test's folder.
pub(crate) fn nothing_is_left(stage: &Stage) -> Result<()> {
    let ours = stage.folder.display().to_string();
    until("nothing is left of the demo", Duration::from_secs(10), || {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&stage.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("azdr-demo-") {
                left.push(name);
            }
        }
        for process in std::fs::read_dir("/proc")?.flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&format!("{ours}/azdr-demo-")) {
                left.push(line);
            }
        }
        Ok(if left.is_empty() { Look::Done(()) } else { Look::Waiting(left.join("\n")) })
    })
}
