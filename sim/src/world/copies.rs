//! Copies of snapshots: inside a region (`Copy`), and in the background to any region
//! (`CopyStart`).
//!
//! A `CopyStart` reports its *operation* done within a second. The copy itself then goes from 0 to
//! 100 percent, visible on the resource only; it never fails through its operation or its
//! `provisioningState`. Statuses and codes of the refusals below are not documented by Microsoft;
//! the rules are:
//!
//! - incremental snapshots only, of a source that is itself complete;
//! - one copy in flight per chain, whatever the target;
//! - in creation order per chain and target region (gaps are allowed, going back is not);
//! - at most 100 in flight per subscription and target region;
//! - the source goes away before 100 percent: the copy is dead (`CopySourceNotFound`).

use azdr_env::WallTime;

use super::disks::{CreationData, check_source_ready};
use super::snapshots::{Source, source_id};
use super::state::Snapshot;
use super::{ArmError, ArmId, Injected, Kind, World};

impl World {
    /// `createOption: Copy` of a snapshot: inside one region only.
    pub(super) fn local_copy_source(
        &self,
        id: &ArmId,
        text: &str,
        incremental: bool,
        location: &str,
        now: WallTime,
    ) -> Result<Source, ArmError> {
        let source = self.state.snapshots.get(&id.key());
        // Across regions Azure says, misleadingly, that the source does not exist.
        let source = source
            .filter(|source| source.common.location == location)
            .ok_or_else(|| ArmError::missing_reference(text))?;
        if !source.is_complete(now) {
            return Err(incomplete(source, now));
        }
        check_source_ready(&source.common)?;
        Ok(Source {
            id: source.common.id.clone(),
            volume: source.volume.clone(),
            family: if incremental { source.family.clone() } else { None },
            copied_family: None,
            source_created: None,
            progress: None,
            vm_id: None,
            immutable: true,
        })
    }

    /// `createOption: CopyStart`.
    pub(super) fn copy_start_source(
        &self,
        target: &ArmId,
        creation: &CreationData,
        incremental: bool,
        location: &str,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Source, ArmError> {
        let (text, id) = source_id(creation)?;
        if id.kind != Kind::Snapshot {
            return Err(ArmError::bad_request(
                "BadRequest",
                "CopyStart needs an incremental snapshot as its source.",
            ));
        }
        let source = self
            .state
            .snapshots
            .get(&id.key())
            .ok_or_else(|| ArmError::missing_reference(&text))?;
        if !incremental || !source.incremental {
            return Err(ArmError::bad_request(
                "BadRequest",
                "CopyStart is supported for incremental snapshots only: set 'incremental' to true.",
            ));
        }
        if !source.is_complete(now) {
            return Err(incomplete(source, now));
        }
        check_source_ready(&source.common)?;
        let chain = source.family.clone().unwrap_or_default();
        let family = self.check_chain(source, &chain, target, location, now)?;
        Ok(Source {
            id: source.common.id.clone(),
            volume: source.volume.clone(),
            family: Some(family.unwrap_or_else(|| self.guid())),
            copied_family: Some(chain),
            source_created: Some(source.common.created),
            progress: Some(self.new_progress(injected, now)),
            vm_id: None,
            immutable: true,
        })
    }

    /// Checks the rules of the chain; returns the family that its copies in the target region have.
    fn check_chain(
        &self,
        source: &Snapshot,
        chain: &str,
        target: &ArmId,
        location: &str,
        now: WallTime,
    ) -> Result<Option<String>, ArmError> {
        let mut in_flight = 0;
        for copy in self.state.copying.iter().filter_map(|key| self.state.snapshots.get(key)) {
            let over = copy.percent(now) >= 100.0 || copy.has_failed(now) || copy.volume.broken;
            if copy.copied_family.is_none() || over {
                continue;
            }
            if copy.copied_family.as_deref() == Some(chain) {
                return Err(ArmError::not_allowed(format!(
                    "Snapshot {} of the same disk is still being copied ({} percent). Snapshots of a \
                     disk are copied one at a time.",
                    copy.common.id.name,
                    copy.percent(now)
                )));
            }
            let common = &copy.common;
            let same_subscription =
                common.id.subscription.eq_ignore_ascii_case(&target.subscription);
            in_flight += usize::from(same_subscription && common.location == location);
        }
        if in_flight >= self.limits.copies_in_flight {
            return Err(ArmError::not_allowed(format!(
                "The maximum number of copies in flight to region '{location}', {}, has been reached.",
                self.limits.copies_in_flight
            )));
        }
        let mut family = None;
        for copy in self.copies_of_chain(chain, location, now) {
            if copy.source_created > Some(source.common.created) {
                return Err(ArmError::not_allowed(format!(
                    "Snapshots of a disk must be copied in the order of their creation: {} is newer \
                     than {} and has been copied to '{location}'.",
                    copy.common.id.name, source.common.id.name
                )));
            }
            family = family.or_else(|| copy.family.clone());
        }
        Ok(family)
    }

    /// The live copies that this chain has in a region.
    fn copies_of_chain<'a>(
        &'a self,
        chain: &str,
        location: &'a str,
        now: WallTime,
    ) -> impl Iterator<Item = &'a Snapshot> {
        let keys = self.state.copies_of.get(chain).into_iter().flatten();
        keys.filter_map(|key| self.state.snapshots.get(key)).filter(move |copy| {
            copy.common.location == location && !copy.volume.broken && !copy.has_failed(now)
        })
    }

    /// The source of these copies has gone.
    pub(super) fn break_copies_of(&mut self, source: &ArmId, at: WallTime) {
        let reading = |snapshot: &Snapshot| {
            snapshot.copied_family.is_some()
                && snapshot.volume.creation.source.as_ref() == Some(source)
                && snapshot.percent(at) < 100.0
        };
        let broken: Vec<String> = self
            .state
            .copying
            .iter()
            .filter(|key| self.state.snapshots.get(key).is_some_and(reading))
            .cloned()
            .collect();
        for key in broken {
            let Some(copy) = self.state.snapshots.get_mut(&key) else { continue };
            let Some(progress) = &mut copy.progress else { continue };
            let before = progress.clone();
            let reached = progress.percent(at);
            progress.error = Some((
                reached,
                "CopySourceNotFound".into(),
                "The source snapshot of the copy was not found.".into(),
            ));
            self.state.unindex_copy(&key, Some(&before));
        }
    }
}

fn incomplete(source: &Snapshot, now: WallTime) -> ArmError {
    ArmError::not_allowed(format!(
        "Snapshot {} is itself still being copied ({} percent).",
        source.common.id.name,
        source.percent(now)
    ))
}
