//! A real freeze is told from a faked one, from `sync` alone and from nothing, by what is on the disks; and
//! azdr says of each what the disks say.
//!
//! The machine writes nothing back by itself: the journal of `/data` is committed every ten minutes. A
//! file that is written before a capture, and not synced, is in it only if somebody flushed; the journal
//! is empty only if the file system was frozen.
//!
//! | capture | azdr says | journal | the file |
//! |---|---|---|---|
//! | frozen | `filesystem` | empty | there |
//! | the thaw process says *frozen* and is not | `uncoordinated` | to be replayed | (flushed before the freeze) |
//! | no agent | `uncoordinated` | to be replayed | missing |
//! | no agent, `sync` | `uncoordinated` | to be replayed | there |

use anyhow::{Result, ensure};
use serde_json::Value;

use super::machine::{
    DB, LIMIT, agent_is_gone, agent_is_ready, back_up, db, is_writable, sessions, snapshot_file,
    text, vm_id,
};
use super::{Case, Figures, Place};
use crate::disk_image::DiskImage;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::poll::{Look, until};
use crate::protection::protect_and_keep_all;
use crate::{judge, lying_thaw_process};

pub(super) const CASE: Case = Case {
    name: "quiesce-told-apart",
    shows: "a real freeze is told from a faked one, from sync alone and from nothing",
    rounds: None,
    run,
};

/// What a capture of the data disk shows.
struct Seen {
    consistency: String,
    reason: String,
    replayed: bool,
    file: Option<String>,
}

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = db(place)?;
    protect_and_keep_all(&lab, DB)?;
    guest.run("mount -o remount,commit=600 /data")?;
    for pace in ["dirty_expire_centisecs", "dirty_writeback_centisecs"] {
        guest.run(&format!("echo 60000 >/proc/sys/vm/{pace}"))?;
    }
    let mut figures = Figures::new();

    let seen = capture(place, &lab, &guest, "frozen", "")?;
    ensure!(seen.consistency == "filesystem", "{}: {}", seen.consistency, seen.reason);
    ensure!(!seen.replayed, "the journal of a frozen file system is not empty");
    ensure!(seen.file.as_deref() == Some("frozen\n"), "the file is {:?}", seen.file);
    figures.push("frozen: empty journal".to_owned());

    lying_thaw_process::install(&guest, &place.folder)?;
    renew_agent(&lab, &guest)?;
    let seen = capture(place, &lab, &guest, "faked", "")?;
    ensure!(seen.consistency == "uncoordinated", "a lie was believed: {}", seen.consistency);
    ensure!(seen.reason.contains("canary"), "the reason is {:?}", seen.reason);
    ensure!(seen.replayed, "the journal is empty, as if it had been frozen");
    figures.push(format!("faked: {}", seen.reason));
    lying_thaw_process::remove(&guest)?;

    guest.run("mv /etc/azdr/agent.toml /etc/azdr/off; kill $(cat /run/azdr-agent.pid)")?;
    agent_is_gone(&lab)?;
    for (name, flush, there) in [("nothing", "", None), ("synced", "sync", Some("synced\n"))] {
        let seen = capture(place, &lab, &guest, name, flush)?;
        ensure!(seen.consistency == "uncoordinated", "{name}: {}", seen.consistency);
        ensure!(seen.replayed, "{name}: the journal is empty, as if it had been frozen");
        ensure!(seen.file.as_deref() == there, "{name}: the file is {:?}", seen.file);
        figures.push(format!(
            "{name}: journal replayed, file {}",
            there.map_or("missing", |_| "there")
        ));
    }
    is_writable(&guest)?;
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// Writes a file that nobody syncs but `flush`, takes a backup, and looks at its disks.
fn capture(place: &Place, lab: &Lab, guest: &Guest, name: &str, flush: &str) -> Result<Seen> {
    guest.run(&format!("echo {name} >/data/{name}; {flush}"))?;
    let point: Value = back_up(lab)?;
    let copy = place.folder.join(format!("{name}.img"));
    let image = DiskImage::copy_of(&snapshot_file(&lab.simulator, &point, Some(0))?, copy)?;
    let needed = image.needs_recovery()?;
    let replayed = image.recover()?;
    ensure!(
        needed == replayed,
        "recovery is needed: {needed}; the journal was replayed: {replayed}"
    );
    Ok(Seen {
        consistency: text(&point, "consistency").to_owned(),
        reason: text(&point, "consistency_reason").to_owned(),
        replayed,
        file: image.read(&format!("/{name}"))?,
    })
}

/// Ends thaw process and agent, which are started again, and waits until they are at work.
fn renew_agent(lab: &Lab, guest: &Guest) -> Result<()> {
    for name in ["azdr-thawd", "azdr-agent"] {
        let file = format!("/run/{name}.pid");
        let before = (guest.run(&format!("cat {file}"))?, sessions(lab, &vm_id(lab, DB)?));
        guest.run(&format!("kill {}", before.0))?;
        until(&format!("{name} runs anew"), LIMIT, || {
            let now = guest.try_run(&format!("cat {file} && kill -0 $(cat {file})"))?;
            let is_new = now.status.success() && now.stdout.trim() != before.0;
            let has_connected = name == "azdr-thawd" || sessions(lab, &vm_id(lab, DB)?) > before.1;
            Ok(match is_new && has_connected {
                true => Look::Done(()),
                false => Look::Waiting(now.stdout),
            })
        })?;
    }
    agent_is_ready(lab, DB)
}
