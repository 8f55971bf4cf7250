//! The disaster: data are planted, the machine's disks are destroyed, the machine is restored, and
//! what came back is looked at from outside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::screen::{Screen, quote, say, seconds, show, show_in};
use super::summary::{Restore, Summary, phases_of};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::poll::{Look, until};

const WRITER_LIMIT: Duration = Duration::from_secs(60);
const DEATH_LIMIT: Duration = Duration::from_secs(120);
const SSH_LIMIT: Duration = Duration::from_secs(90);

/// What the machine knew before the disaster.
#[derive(Debug)]
pub(super) struct Planted {
    marker: String,
    payload_hash: String,
    host_key: String,
    boot_id: String,
    /// Steps of the writer when the data were planted.
    step: u64,
}

/// Plants data on both disks, and starts a writer that keeps an invariant across them.
pub(super) fn plant(screen: &mut Screen, db: &Guest) -> Result<Planted> {
    screen.step("Work on db: a marker, a payload, and a writer that spans both disks", || {
        let random = "head -c 16 /dev/urandom | md5sum | cut -c 1-32";
        let marker = show_in(db, &format!("{random} | tee /root/marker"))?;
        let payload = "head -c 5000000 /dev/urandom >/data/payload; sha256sum /data/payload";
        let payload_hash = show_in(db, payload)?;
        // Every 20 ms: record i on the OS disk, then on the data disk, both durably.
        show_in(db, "echo 20000 >/etc/lab-writer; sync")?;
        let step = until("the writer writes", WRITER_LIMIT, || {
            let ended = db.try_run("lab-check")?;
            Ok(match steps(&ended.stdout) {
                Some(step) if ended.status.success() && step >= 10 => Look::Done(step),
                _ => Look::Waiting(ended.stdout.trim().to_owned()),
            })
        })?;
        show_in(db, "lab-check")?;
        let (host_key, boot_id) = (db.host_key()?, db.boot_id()?);
        say(&format!(
            "host key …{}, boot {boot_id}",
            &host_key[host_key.len().saturating_sub(12)..]
        ));
        Ok(Planted { marker, payload_hash, host_key, boot_id, step })
    })
}

/// The writer's steps that are on both disks.
fn steps(check: &str) -> Option<u64> {
    check.trim().rsplit_once("applied=")?.1.parse().ok()
}

/// Destroys the file systems of the machine, from inside.
pub(super) fn destroy(lab: &Lab, screen: &mut Screen, db: &Guest) -> Result<()> {
    screen.step("Disaster: both disks of db are overwritten with zeros", || {
        let listing = lab.simulator.listing()?;
        let (group, name) = super::setting::MACHINES[1];
        let vm_id = listing.vm(group, name)?.vm_id().to_owned();
        show_in(db, "touch /root/written-after-the-backup; sync")?;
        // In the background, and without the disks once begun: a shell needs none of its files to
        // pull the machine's plug.
        let wipe = "dd if=/dev/zero of=/dev/vdb bs=1M; dd if=/dev/zero of=/dev/vda bs=1M; \
                    echo LAB-WIPED >/dev/console; echo b >/proc/sysrq-trigger";
        show_in(db, &format!("setsid sh -c 'sleep 1; {wipe}' >/dev/null 2>&1 </dev/null &"))?;
        let console = until("db does not boot any more", DEATH_LIMIT, || {
            let console = lab.simulator.console(&vm_id);
            let after = console.rsplit_once("LAB-WIPED").map(|(_, after)| after.to_owned());
            Ok(match after {
                Some(after) if after.contains("LAB-BOOT-FAIL") => Look::Done(after),
                _ => Look::Waiting(console.lines().last().unwrap_or_default().to_owned()),
            })
        })?;
        say("its console:");
        console.lines().filter(|l| l.contains("LAB-")).for_each(quote);
        println!("  $ {}", db.line("true"));
        let ended = db.try_run("true")?;
        ended.stderr.lines().for_each(quote);
        ensure!(!ended.status.success(), "db still answers over SSH");
        Ok(())
    })
}

/// Restores it in place.
pub(super) fn restore(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    point: &str,
) -> Result<()> {
    screen.step("Restore db in place", || {
        show(&lab.azdr, &["backup", "restore", "db", "--backup", point, "--yes"])?;
        let job = lab.azdr.newest_job("restore_in_place")?;
        let result = &job["result"]["restore"];
        let is = |name: &str| result[name].as_bool().unwrap_or_default();
        summary.restore = Some(Restore {
            rto_seconds: seconds(result, "rto_ms"),
            phases: phases_of(result),
            data_intact: false,
            ssh_verified: summary.ssh.of(is("ssh_verified")),
            witness_verified: is("witness_verified"),
        });
        ensure!(is("witness_verified"), "the agent did not show the recovery point: {result}");
        ensure!(result["unconfirmed"].is_null(), "unconfirmed: {}", result["unconfirmed"]);
        Ok(())
    })
}

/// Looks at what came back.
pub(super) fn inspect(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    db: &Guest,
    planted: &Planted,
) -> Result<()> {
    screen.step("Look at db from outside: data, hash, invariant, SSH identity", || {
        db.await_ssh(SSH_LIMIT)?;
        let marker = show_in(db, "cat /root/marker")?;
        ensure!(marker == planted.marker, "the marker is {marker}");
        let hash = show_in(db, "sha256sum /data/payload")?;
        ensure!(hash == planted.payload_hash, "the payload has changed");
        let check = show_in(db, "lab-check")?;
        let step = steps(&check).context("the writer's steps")?;
        ensure!(step >= planted.step, "the writer is at step {step}, it was at {}", planted.step);
        show_in(db, "[ ! -e /root/written-after-the-backup ]")?;
        let host_key = db.host_key()?;
        ensure!(host_key == planted.host_key, "another host key: {host_key}");
        let boot_id = db.boot_id()?;
        ensure!(boot_id != planted.boot_id, "it was never restarted");
        say(&format!("same host key, new boot {boot_id}, nothing newer than the backup"));
        if let Some(restore) = &mut summary.restore {
            restore.data_intact = true;
        }
        show(&lab.azdr, &["vm", "list"]).map(drop)
    })
}
