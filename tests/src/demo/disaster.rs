//! The disaster: data are planted, the machine's disks are destroyed, the machine is restored, and
//! what came back is looked at from outside.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::screen::{Screen, quote, say, seconds, show, show_in};
use super::summary::{Restore, Summary, phases_of};
use crate::guest::Guest;
use crate::lab::Lab;
use crate::planted::{self, Planted};

const SSH_LIMIT: Duration = Duration::from_secs(90);

/// Plants data on both disks, and starts a writer that keeps an invariant across them.
pub(super) fn plant(screen: &mut Screen, db: &Guest) -> Result<Planted> {
    screen.step("Work on db: a marker, a payload, and a writer that spans both disks", || {
        let planted = Planted::plant(db, &|command| show_in(db, command))?;
        let host_key = &planted.host_key;
        say(&format!(
            "host key …{}, boot {}",
            &host_key[host_key.len().saturating_sub(12)..],
            planted.boot_id
        ));
        Ok(planted)
    })
}

/// Destroys the file systems of the machine, from inside.
pub(super) fn destroy(lab: &Lab, screen: &mut Screen, db: &Guest) -> Result<()> {
    screen.step("Disaster: both disks of db are overwritten with zeros", || {
        let listing = lab.simulator.listing()?;
        let (group, name) = super::setting::MACHINES[1];
        let vm_id = listing.vm(group, name)?.vm_id().to_owned();
        let console = planted::destroy(lab, &vm_id, &|command| show_in(db, command))?;
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
        let boot_id = planted.check(db, &|command| show_in(db, command))?;
        say(&format!("same host key, new boot {boot_id}, nothing newer than the backup"));
        if let Some(restore) = &mut summary.restore {
            restore.data_intact = true;
        }
        show(&lab.azdr, &["vm", "list"]).map(drop)
    })
}
