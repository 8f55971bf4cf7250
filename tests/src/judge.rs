//! What must be true of a world at rest, whatever was done to it: told by Azure's listing, and
//! compared with what the controller says.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Lab;

/// Restarted runs back off for seconds.
const SETTLE: Duration = Duration::from_secs(120);

/// Waits until all jobs have ended, and checks (the VMs are given by name or ID) that
/// - none is stuck;
/// - nothing temporary is left;
/// - the snapshots that exist are those of the catalogue, no more and no less;
/// - each VM runs on a complete set of disks: all its own ones, or all of one restore.
///
/// # Errors
/// When one of these is not so, with what there is instead.
pub fn at_rest(lab: &Lab, vms: &[&str]) -> Result<()> {
    lab.settle(SETTLE)?;
    for job in lab.azdr.jobs()? {
        ensure!(job["state"] != "stuck", "a job is stuck: {job:#}");
    }
    let listing = lab.simulator.listing()?;
    let left = listing.temporary(vms, &lab.kept_disks()?);
    ensure!(left.is_empty(), "left over: {left:#?}");
    snapshots_are_known(lab, vms)?;
    for name in vms {
        let found = listing.vms().into_iter().find(|vm| vm.is_called(name));
        let vm = found.with_context(|| format!("there is no VM {name} any more"))?;
        ensure!(vm.is_running(), "{name} is {}", vm.power());
        let disks = listing.disks_of(vm);
        let sets: BTreeSet<String> = disks
            .iter()
            .map(|id| set_of(id.rsplit('/').next().unwrap_or_default(), vm.name()))
            .collect();
        ensure!(sets.len() == 1, "{name} runs on a mixture of disks: {disks:#?}");
    }
    Ok(())
}

/// Which set a disk belongs to: `original`, or a restore's prefix.
fn set_of(disk: &str, vm: &str) -> String {
    match disk.strip_prefix(vm) {
        Some(_) => "original".to_owned(),
        None => disk.rsplit_once('-').map_or(disk, |(set, _)| set).to_owned(),
    }
}

fn snapshots_are_known(lab: &Lab, vms: &[&str]) -> Result<()> {
    let (mut known, mut copies) = (BTreeSet::new(), 0);
    for vm in vms {
        for point in lab.azdr.points(vm)? {
            let disks = point["disks"].as_array().cloned().unwrap_or_default();
            let replicas = point["replicas"].as_array().cloned().unwrap_or_default();
            copies += disks.len() * replicas.iter().filter(|r| r["state"] == "complete").count();
            let ids = disks.iter().filter_map(|d| d["snapshot_id"].as_str());
            known.extend(ids.map(str::to_lowercase));
        }
    }
    let listing = lab.simulator.listing()?;
    let existing: BTreeSet<String> =
        listing.snapshots().iter().map(|s| s.id().to_lowercase()).collect();
    ensure!(
        known.is_subset(&existing) && existing.len() == known.len() + copies,
        "Azure has {existing:#?}\nthe catalogue knows {known:#?} and {copies} copies"
    );
    Ok(())
}
