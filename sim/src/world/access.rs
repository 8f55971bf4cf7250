//! Granting and revoking read access to contents (shared access signatures).

use std::time::Duration;

use azdr_env::WallTime;
use serde::Deserialize;

use super::disks::{check_source_ready, not_found};
use super::operations::{Effect, Output};
use super::state::Grant;
use super::volume::Volume;
use super::{Accepted, ArmError, ArmId, Injected, Kind, World};

/// Body of `beginGetAccess`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRequest {
    /// `Read`; writing is not simulated.
    pub access: String,
    /// Life of the grant.
    pub duration_in_seconds: u64,
}

impl World {
    /// Grants read access. `sign` makes the path and query of the URL from the grant's id.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn begin_get_access(
        &mut self,
        id: &ArmId,
        request: &AccessRequest,
        sign: impl FnOnce(&Volume, &str) -> String,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        self.check_exportable(id, now)?;
        if !request.access.eq_ignore_ascii_case("Read") {
            return Err(ArmError::invalid(format!(
                "The value '{}' of parameter 'access' is invalid: only Read is supported here.",
                request.access
            )));
        }
        if request.duration_in_seconds == 0 {
            return Err(ArmError::invalid(
                "Required parameter 'durationInSeconds' is missing (null).",
            ));
        }
        let grant = Grant {
            id: self.guid(),
            expires: now.plus(Duration::from_secs(request.duration_in_seconds)),
        };
        let volume = self.volume(id).ok_or_else(|| not_found(id))?;
        let grant = volume.active_grant(now).cloned().map_or(grant.clone(), |active| Grant {
            id: active.id,
            expires: active.expires.max(grant.expires),
        });
        let output = Output::Access(sign(volume, &grant.id));
        let location = self.state.common(id).map(|c| c.location.clone()).unwrap_or_default();
        let operation =
            self.begin_disk(id, &location, Effect::None, output, Vec::new(), injected, now);
        if injected.fail_operation.is_none()
            && let Some(volume) = self.volume_mut(id)
        {
            let name = grant.id.clone();
            if let Some(expired) = volume.grant.replace(grant) {
                self.state.grants.remove(&expired.id);
            }
            self.state.grants.insert(name, id.clone());
        }
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }

    /// Revokes read access; without a grant it succeeds too.
    ///
    /// # Errors
    /// ARM's 404.
    pub fn end_get_access(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let location =
            self.state.common(id).map(|c| c.location.clone()).ok_or_else(|| not_found(id))?;
        let operation =
            self.begin_disk(id, &location, Effect::None, Output::None, Vec::new(), injected, now);
        if injected.fail_operation.is_none()
            && let Some(ended) = self.volume_mut(id).and_then(|volume| volume.grant.take())
        {
            self.state.grants.remove(&ended.id);
        }
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }

    fn check_exportable(&self, id: &ArmId, now: WallTime) -> Result<(), ArmError> {
        let common = self.state.common(id).ok_or_else(|| not_found(id))?;
        check_source_ready(common)?;
        if let Some(disk) = self.state.disks.get(&id.key())
            && self.writer(disk).is_some()
        {
            return Err(ArmError::not_allowed(format!(
                "Disk {} is attached to a running VM and cannot be exported.",
                id.name
            )));
        }
        if let Some(snapshot) = self.state.snapshots.get(&id.key())
            && !snapshot.is_complete(now)
        {
            return Err(ArmError::not_allowed(format!(
                "Snapshot {} cannot be exported: its copy is {} percent complete.",
                id.name,
                snapshot.percent(now)
            )));
        }
        let policy = self.volume(id).and_then(|v| v.extra.get("networkAccessPolicy")?.as_str());
        if policy.is_some_and(|policy| policy.eq_ignore_ascii_case("DenyAll")) {
            return Err(ArmError::not_allowed(format!(
                "Export of {} is not allowed by its networkAccessPolicy 'DenyAll'.",
                id.name
            )));
        }
        Ok(())
    }

    /// The volume of a disk or snapshot.
    pub fn volume(&self, id: &ArmId) -> Option<&Volume> {
        match id.kind {
            Kind::Disk => self.state.disks.get(&id.key()).map(|disk| &disk.volume),
            Kind::Snapshot => self.state.snapshots.get(&id.key()).map(|snapshot| &snapshot.volume),
            _ => None,
        }
    }

    pub(super) fn volume_mut(&mut self, id: &ArmId) -> Option<&mut Volume> {
        match id.kind {
            Kind::Disk => self.state.disks.get_mut(&id.key()).map(|disk| &mut disk.volume),
            Kind::Snapshot => self.state.snapshots.get_mut(&id.key()).map(|s| &mut s.volume),
            _ => None,
        }
    }

    /// The file and size behind an active grant.
    pub fn granted(&self, unique_id: &str, grant: &str, now: WallTime) -> Option<(String, u64)> {
        let volume = self.volume(self.state.grants.get(grant)?)?;
        let matches = volume.unique_id == unique_id
            && volume.active_grant(now).is_some_and(|active| active.id == grant);
        matches.then(|| (volume.file(), volume.size_bytes))
    }
}
