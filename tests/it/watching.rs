//! `azdr … --watch` while the controller is killed and started again.

use std::time::Duration;

use anyhow::{Result, ensure};
use azdr_tests::poll::{Look, until};
use azdr_tests::process::Daemon;
use azdr_tests::{Vm, World};

use crate::setup::{Needs, Stage, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_watched_list_goes_on_after_the_controllers_death",
    needs: Needs::Programs,
    body: goes_on,
}];

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until it has printed these words; what it has printed by then.
fn printed(watch: &Daemon, words: &str) -> Result<String> {
    until(&format!("azdr says {words:?}"), LIMIT, || {
        watch.check()?;
        let text = watch.printed();
        Ok(if text.contains(words) { Look::Done(text) } else { Look::Waiting(text) })
    })
}

fn goes_on(stage: &Stage) -> Result<()> {
    let mut lab = stage.lab(World { vms: vec![Vm::new("prod", "db")] })?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("watch.log");
    let watch = lab.azdr.start(&["policy", "list", "--watch", "--interval", "1"], &log)?;
    printed(&watch, "No VM has a backup policy")?;
    for _ in 0..2 {
        let before = watch.printed().matches("lost the controller").count();
        lab.controller.kill();
        until("azdr says that the controller is lost", LIMIT, || {
            watch.check()?;
            let text = watch.printed();
            let said = text.matches("lost the controller").count();
            Ok(if said > before { Look::Done(()) } else { Look::Waiting(text) })
        })?;
        lab.controller.start()?;
        until("azdr says that the controller is back", LIMIT, || {
            watch.check()?;
            let text = watch.printed();
            let said = text.matches("The controller is back.").count();
            Ok(if said > before { Look::Done(()) } else { Look::Waiting(text) })
        })?;
    }
    lab.azdr.run(&["backup", "configure", "db"])?.ok()?;
    let text = printed(&watch, "\n+ db ")?;
    // Said once each, and nothing else but the change.
    ensure!(text.matches("lost the controller").count() == 2, "{text}");
    ensure!(text.contains("\n- No VM has a backup policy"), "{text}");
    watch.signal(libc::SIGINT);
    until("azdr ends", LIMIT, || {
        let is_running = watch.is_running();
        Ok(if is_running { Look::Waiting("it runs".to_owned()) } else { Look::Done(()) })
    })
}
