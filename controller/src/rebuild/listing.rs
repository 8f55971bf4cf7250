//! What the subscriptions show: everything that a rebuild reads of Azure, once.

use std::collections::BTreeMap;

use azdr_arm::{ArmClient, AzureError, Disk, Snapshot, Vm};
use azdr_domain::residue::RunTag;

use crate::workflows::tags;

/// The subscriptions' VMs and azdr's resources in them.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// All VMs.
    pub vms: Vec<Vm>,
    /// All snapshots that are part of a recovery point, of any installation.
    pub snapshots: Vec<Snapshot>,
    /// All disks that restores have replaced and that are kept, of any installation.
    pub kept: Vec<Disk>,
    /// The highest run whose tag was seen, by installation.
    pub runs: BTreeMap<String, i64>,
}

/// Reads it. Changes nothing.
///
/// # Errors
/// When not all of it can be read: half a catalogue is none.
pub async fn read(azure: &ArmClient, subscriptions: &[String]) -> Result<Listing, AzureError> {
    let mut listing = Listing::default();
    for subscription in subscriptions {
        listing.vms.extend(azure.list_vms(subscription).await?);
        let snapshots = azure.list_snapshots(subscription, None).await?;
        let parts = snapshots.into_iter().filter(|s| tags::value(&s.tags, tags::POINT).is_some());
        listing.snapshots.extend(parts);
        let resources = azure.list_with_tag::<tags::Makers>(subscription, tags::RUN).await?;
        let groups = azure.list_resource_groups_with_tag(subscription, tags::RUN).await?;
        let all = resources.into_iter().map(|r| r.tags).chain(groups.into_iter().map(|g| g.tags));
        let mut kept = Vec::new();
        for disk in azure.list_with_tag::<tags::Makers>(subscription, tags::KEPT_BY).await? {
            // The listing lags: a disk may be gone.
            match azure.get_disk(&disk.id).await {
                Ok(disk) => kept.push(disk),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let replacing = kept.iter().filter_map(|d| tags::value(&d.tags, tags::KEPT_BY));
        let replacing: Vec<RunTag> = replacing.filter_map(RunTag::parse).collect();
        listing.kept.extend(kept);
        let made = all.filter_map(|t| tags::value(&t, tags::RUN).and_then(RunTag::parse));
        for tag in made.chain(replacing) {
            let highest = listing.runs.entry(tag.installation).or_default();
            *highest = tag.run.max(*highest);
        }
    }
    Ok(listing)
}

impl Listing {
    /// Installations that have recovery points here, with the number of their snapshots.
    pub fn installations(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let tag = |s: &Snapshot| tags::value(&s.tags, tags::RUN).and_then(RunTag::parse);
        for tag in self.snapshots.iter().filter_map(tag) {
            *found.entry(tag.installation).or_default() += 1;
        }
        found
    }
}
