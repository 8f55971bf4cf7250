//! Protection: policy, backup, replication, verification.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::screen::{Screen, rounded, say, show};
use super::summary::{Backup, Replication, Summary, Verification};
use crate::lab::Lab;
use crate::poll::Stopwatch;
use crate::world::TARGET_REGION;

/// An idle machine must not be frozen for longer.
const FROZEN_LIMIT_MS: u64 = 1500;
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// Gives `db` a policy.
pub(super) fn configure(lab: &Lab, screen: &mut Screen, freezable: bool) -> Result<()> {
    screen.step("Configure: 7 daily and 4 weekly backups, copied to another region", || {
        let demand = if freezable { "require" } else { "prefer" };
        let retention = ["--daily-retention", "7", "--weekly-retention", "4"];
        let copies = ["--cross-region", "--target-region", TARGET_REGION, "--consistency", demand];
        show(&lab.azdr, &[&["backup", "configure", "db"], &retention[..], &copies[..]].concat())?;
        show(&lab.azdr, &["backup", "config-show", "db"]).map(drop)
    })
}

/// Takes a backup; returns the recovery point's name.
pub(super) fn back_up(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    freezable: bool,
) -> Result<String> {
    screen.step("Back up: all disks at one instant", || {
        let answer = show(&lab.azdr, &["backup", "trigger", "db"])?;
        let points = lab.azdr.points("db")?;
        let [point] = &points[..] else { anyhow::bail!("{} recovery points", points.len()) };
        let text = |name: &str| point[name].as_str().unwrap_or_default().to_owned();
        let backup = Backup {
            point: text("name"),
            consistency: text("consistency"),
            disks: point["disks"].as_array().map_or(0, Vec::len),
            frozen_ms: point["frozen_ms"].as_u64().context("frozen_ms")?,
            seconds: rounded(answer.took.as_secs_f64()),
        };
        summary.backup = Some(backup.clone());
        say(&format!("consistency {}, frozen for {} ms", backup.consistency, backup.frozen_ms));
        ensure!(backup.disks == 2, "{} disks instead of 2", backup.disks);
        if freezable {
            let achieved = &backup.consistency;
            ensure!(achieved == "filesystem", "consistency {achieved} instead of filesystem");
            ensure!(
                (1..FROZEN_LIMIT_MS).contains(&backup.frozen_ms),
                "frozen for {} ms; less than {FROZEN_LIMIT_MS} is allowed",
                backup.frozen_ms
            );
        } else {
            ensure!(backup.consistency == "uncoordinated", "consistency {}", backup.consistency);
        }
        Ok(backup.point)
    })
}

/// Lists backups.
pub(super) fn list(lab: &Lab, screen: &mut Screen, point: &str) -> Result<()> {
    screen.step("List the backups", || {
        let answer = show(&lab.azdr, &["backup", "list", "db"])?;
        ensure!(answer.stdout.contains(point), "{point} is not in the list");
        Ok(())
    })
}

/// Waits for the copy in the other region that the policy has queued.
pub(super) fn replicate(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    point: &str,
) -> Result<()> {
    screen.step("Replicate to the other region (queued by the backup)", || {
        let watch = Stopwatch::start();
        show(&lab.azdr, &["backup", "replication-status", "db"])?;
        let job = lab.azdr.newest_job("replicate")?["id"].as_i64().context("a job's number")?;
        show(&lab.azdr, &["job", "watch", &job.to_string()])?;
        show(&lab.azdr, &["backup", "replication-status", "db"])?;
        let job = lab.job_ended(job, COPY_LIMIT)?;
        ensure!(job["state"] == "succeeded", "the replication is {}", job["state"]);
        let status = lab.azdr.json(&["backup", "replication-status", "db"])?;
        let entries = status["entries"].as_array().context("entries")?;
        let complete = entries.iter().any(|e| {
            e["recovery_point"] == point
                && e["target_region"] == TARGET_REGION
                && e["state"] == "complete"
        });
        ensure!(complete, "{point} is not complete in {TARGET_REGION}: {status}");
        let listing = lab.simulator.listing()?;
        let there = listing.snapshots().iter().filter(|s| s.location() == TARGET_REGION).count();
        ensure!(there == 2, "Azure has {there} snapshots in {TARGET_REGION} instead of 2");
        let seconds = rounded(watch.elapsed().as_secs_f64());
        summary.replication = Some(Replication { region: TARGET_REGION.to_owned(), seconds });
        Ok(())
    })
}

/// Proves that the recovery point can be restored.
pub(super) fn verify(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    point: &str,
) -> Result<()> {
    screen.step("Verify: make test disks of the backup and read them", || {
        let answer = show(&lab.azdr, &["backup", "verify", point])?;
        let job = lab.azdr.newest_job("verify")?;
        let disks = job["result"]["verify"]["disks"].as_array().context("verified disks")?;
        let read: u64 = disks.iter().filter_map(|d| d["bytes_read"].as_u64()).sum();
        summary.verification = Some(Verification {
            disks: disks.len(),
            bytes_read: read,
            seconds: rounded(answer.took.as_secs_f64()),
        });
        ensure!(disks.len() == 2 && read > 0, "{} disks, {read} bytes read", disks.len());
        ensure!(lab.azdr.points("db")?[0]["proof"] == "restorable", "the proof is not recorded");
        let left = lab.simulator.listing()?.temporary(&[], &[]);
        ensure!(left.is_empty(), "test disks are left behind: {}", left.join(", "));
        Ok(())
    })
}
