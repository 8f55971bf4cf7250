//! Immutability of snapshots (api-version 2026-03-02): until it expires, a snapshot is not deleted.
//!
//! The time counts from when the policy was first set. `updateImmutabilityPolicy` sets an unlocked
//! policy and makes it longer; only `updateImmutabilityPolicyLock` makes an unlocked one shorter,
//! removes it (zero days) or locks it; a locked one only gets longer. Codes of the refusals are not
//! documented by Microsoft.

use std::time::Duration;

use azdr_env::WallTime;
use serde::{Deserialize, Serialize};

use super::disks::not_found;
use super::operations::{Effect, Output};
use super::state::Snapshot;
use super::{Accepted, ArmError, ArmId, Injected, World};

/// Body of the two actions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImmutabilityRequest {
    /// Days since the policy's start.
    pub immutability_duration_days: u64,
    /// `Unlocked` or `Locked`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A snapshot's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Immutability {
    /// Days since its start.
    pub days: u64,
    /// It only ever gets longer.
    pub locked: bool,
    /// When it was first set.
    pub start: WallTime,
}

impl Immutability {
    /// When the snapshot can be deleted again.
    pub fn expires(&self) -> WallTime {
        self.start.plus(Duration::from_secs(self.days * 86_400))
    }
}

/// Refuses to delete a snapshot whose policy has not expired.
pub(super) fn check_deletable(snapshot: &Snapshot, now: WallTime) -> Result<(), ArmError> {
    match &snapshot.immutability {
        Some(policy) if policy.expires() > now => Err(ArmError::not_allowed(format!(
            "Snapshot {} is protected by an immutability policy until {}.",
            snapshot.common.id.name,
            policy.expires()
        ))),
        _ => Ok(()),
    }
}

impl World {
    /// Sets or changes a snapshot's policy; `lock`: by the action that may lock and shorten.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn set_immutability(
        &mut self,
        id: &ArmId,
        request: &ImmutabilityRequest,
        lock: bool,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let snapshot = self.state.snapshots.get(&id.key()).ok_or_else(|| not_found(id))?;
        let locked = match request.kind.to_lowercase().as_str() {
            "unlocked" => false,
            "locked" if lock => true,
            other => {
                return Err(ArmError::invalid(format!(
                    "The value '{other}' of parameter 'type' is invalid for this action."
                )));
            }
        };
        let days = request.immutability_duration_days;
        let old = snapshot.immutability.as_ref();
        let shorter = old.is_some_and(|old| days < old.days);
        if old.is_some_and(|old| old.locked) && (shorter || !locked) {
            return Err(ArmError::not_allowed(
                "A locked immutability policy can be extended only.",
            ));
        }
        if shorter && !lock {
            return Err(ArmError::not_allowed(
                "An immutability policy is shortened by updateImmutabilityPolicyLock only.",
            ));
        }
        let start = old.map_or(now, |old| old.start);
        let location = snapshot.common.location.clone();
        let (effect, output) = (Effect::None, Output::Resource(id.clone()));
        let operation = self.begin_disk(id, &location, effect, output, Vec::new(), injected, now);
        if injected.fail_operation.is_none()
            && let Some(snapshot) = self.state.snapshots.get_mut(&id.key())
        {
            let policy = Immutability { days, locked, start };
            snapshot.immutability = Some(policy).filter(|policy| policy.days > 0);
        }
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }
}
