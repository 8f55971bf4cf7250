//! The machine reboots while it is frozen for its snapshots, in good order and at once: it comes up with
//! nothing frozen, the backup is finished and claims nothing.

use anyhow::{Result, ensure};

use super::machine::{
    BOOT, DB, Frozen, LIMIT, agent_is_ready, back_up, db_with_writer, is_writable, newest, seconds,
    sessions, succeeded, text, vm_id, writer_agrees,
};
use super::{Case, Figures, Place};
use crate::judge;
use crate::poll::{Look, Stopwatch, until};
use crate::protection::protect_and_keep_all;

pub(super) const CASE: Case = Case {
    name: "guest-reboots-while-frozen",
    shows: "a machine that reboots during its snapshots comes up with nothing frozen",
    rounds: None,
    run,
};

/// A person's way, and a kernel's that has had enough.
const WAYS: [(&str, &str); 2] = [("reboot", "reboot"), ("reset", "echo b >/proc/sysrq-trigger")];

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db_with_writer(place)?;
    protect_and_keep_all(&lab, DB)?;
    let vm_id = vm_id(&lab, DB)?;
    let mut figures = Figures::new();
    for (name, command) in WAYS {
        let (boot_id, before) = (guest.boot_id()?, sessions(&lab, &vm_id));
        let frozen = Frozen::by_slow_backup(&lab, &guest, &place.folder)?;
        let since = Stopwatch::start();
        // Its connection goes with the machine: no word on how it ended.
        guest.try_run(command)?;
        until(&format!("{name}: it is another boot"), BOOT, || {
            let now = guest.try_run("cat /proc/sys/kernel/random/boot_id")?;
            Ok(match now.status.success() && now.stdout.trim() != boot_id {
                true => Look::Done(()),
                false => Look::Waiting(format!("{}{}", now.stdout, now.stderr)),
            })
        })?;
        figures.push(format!("answers {} after {name}", seconds(since.elapsed())));
        lab.simulator.set_faults(&serde_json::json!([]))?;
        succeeded(&lab.job_ended(frozen.job, LIMIT)?)?;
        let point = newest(&lab)?;
        let said = text(&point, "consistency");
        ensure!(said == "uncoordinated", "{name}: a freeze that broke counted: {point:#}");
        is_writable(&guest)?;
        until("the agent has come back", LIMIT, || {
            let now = sessions(&lab, &vm_id);
            Ok(if now > before { Look::Done(()) } else { Look::Waiting(format!("{now} sessions")) })
        })?;
        agent_is_ready(&lab, DB)?;
        writer_agrees(&guest)?;
        let point = back_up(&lab)?;
        ensure!(text(&point, "consistency") == "filesystem", "{name}: {point:#}");
    }
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}
