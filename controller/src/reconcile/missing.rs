//! Finds snapshots of the catalogue that Azure has no more, and those that somebody has moved.
//!
//! Somebody may delete, move or re-create azdr's snapshots behind its back. What is gone is marked so:
//! its point is not restorable there any more, fills no slot and is not counted as the newest one, and
//! it says so. What is found again under another ID, told by its tags and confirmed by what it is a
//! snapshot of, is followed. Nothing in Azure is changed.

use std::collections::BTreeMap;

use azdr_domain::arm_id::ArmId;

use super::Reconciler;
use super::residue::{Listed, SweepError};
use crate::mutation::{Mutation, planted};
use crate::store::CataloguedSnapshot;
use crate::workflows::tags;

/// What a snapshot's tags say it is: VM, point, LUN, region.
type Identity = (String, String, String, String);

impl Reconciler {
    /// Compares the catalogue's snapshots with a whole listing of these subscriptions. The listing may
    /// lag, so nothing is called missing before its own ID has been asked for.
    ///
    /// # Errors
    /// When Azure or the store does not answer; what was found until then is recorded.
    pub(super) async fn compare_snapshots(
        &self,
        listed: &[Listed],
        subscriptions: &[String],
    ) -> Result<(), SweepError> {
        if planted(Mutation::MissingUnnoticed) {
            return Ok(());
        }
        let mut by_key = BTreeMap::new();
        for l in listed.iter().filter(|l| l.id.is_type("Microsoft.Compute/snapshots")) {
            by_key.insert(l.id.key(), l);
        }
        let keys = by_key.keys().map(|key| (*key).to_owned()).collect();
        if self.store.has_no_snapshots_but(keys).await? {
            return Ok(());
        }
        let catalogued = self.store.catalogued_snapshots().await?;
        let gone: Vec<&CataloguedSnapshot> = catalogued
            .iter()
            .filter(|s| !by_key.contains_key(s.id.key()))
            .filter(|s| {
                subscriptions.iter().any(|sub| sub.eq_ignore_ascii_case(s.id.subscription()))
            })
            .collect();
        for back in catalogued.iter().filter(|s| s.missing.is_some()) {
            if by_key.contains_key(back.id.key()) {
                tracing::info!(snapshot = %back.id, point = back.point, "a missing snapshot is back");
                self.store.snapshot_is_missing(&back.id, None).await?;
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        for s in &catalogued {
            by_key.remove(s.id.key());
        }
        let mut elsewhere: BTreeMap<Identity, Vec<&ArmId>> = BTreeMap::new();
        for l in by_key.into_values() {
            elsewhere.entry(said(l)).or_default().push(&l.id);
        }
        for s in gone {
            let seen = elsewhere.get(&is(s)).map(Vec::as_slice).unwrap_or_default();
            self.look_at(s, seen).await?;
        }
        Ok(())
    }

    /// Looks at one snapshot that a listing did not show; `candidates` say that they are it.
    async fn look_at(
        &self,
        s: &CataloguedSnapshot,
        candidates: &[&ArmId],
    ) -> Result<(), SweepError> {
        let azure = &self.services.azure;
        if s.missing.is_none() {
            match azure.get_snapshot(&s.id).await {
                Ok(_) => return Ok(()),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        if let [there] = candidates {
            let found = azure.get_snapshot(there).await;
            let same = |f: &azdr_arm::Snapshot| {
                f.ready()
                    && f.size_bytes == Some(s.size_bytes)
                    && (!s.original
                        || f.source_unique_id
                            .as_ref()
                            .is_some_and(|id| id.eq_ignore_ascii_case(&s.source_disk_unique_id)))
            };
            match found {
                Ok(found) if same(&found) => {
                    tracing::warn!(from = %s.id, to = %there, point = s.point,
                        "somebody has moved a snapshot of a recovery point; followed");
                    self.store.snapshot_is_elsewhere(&s.id, (*there).clone()).await?;
                    return Ok(());
                }
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        if s.missing.is_none() {
            tracing::error!(snapshot = %s.id, point = s.point, region = s.region,
                "somebody has deleted a snapshot: its recovery point cannot be restored there");
            self.store.snapshot_is_missing(&s.id, Some(self.env.clock.wall())).await?;
        }
        Ok(())
    }
}

fn said(l: &Listed) -> Identity {
    let tags = tags::read_snapshot(&l.tags);
    let region = l.location.as_deref().unwrap_or_default().to_ascii_lowercase();
    (tags.vm.to_ascii_lowercase(), tags.point, tags.lun, region)
}

fn is(s: &CataloguedSnapshot) -> Identity {
    let lun = s.lun.map_or_else(|| "os".to_owned(), |n| n.to_string());
    (s.vm.clone(), s.point.clone(), lun, s.region.clone())
}
