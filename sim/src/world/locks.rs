//! Management locks: inherited downwards, they bind the control plane whoever asks.

use serde::Deserialize;

use super::state::Lock;
use super::{ArmError, ArmId, World};

/// Body of a PUT on a lock.
#[derive(Clone, Debug, Deserialize)]
pub struct LockRequest {
    /// Level and notes.
    pub properties: LockProperties,
}

/// `properties` of a lock.
#[derive(Clone, Debug, Deserialize)]
pub struct LockProperties {
    /// `CanNotDelete` or `ReadOnly`.
    pub level: String,
    /// Free text.
    pub notes: Option<String>,
}

/// What a request wants to do to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// GET.
    Read,
    /// PUT, PATCH, and POST actions.
    Write,
    /// DELETE.
    Delete,
}

fn key(scope: &str, name: &str) -> String {
    format!("{scope}/providers/microsoft.authorization/locks/{name}").to_lowercase()
}

impl World {
    /// Refuses what a lock on the resource or above it forbids.
    pub(crate) fn check_locks(&self, path: &str, intent: Intent) -> Result<(), ArmError> {
        if intent == Intent::Read {
            return Ok(());
        }
        let path = path.to_lowercase();
        for (_, lock) in self.state.locks.iter() {
            let above = path == lock.scope || path.starts_with(&format!("{}/", lock.scope));
            // Deleting a group deletes what is locked inside it.
            let below = intent == Intent::Delete && lock.scope.starts_with(&format!("{path}/"));
            let forbids = lock.level.eq_ignore_ascii_case("ReadOnly") || intent == Intent::Delete;
            if (above || below) && forbids {
                let what = if intent == Intent::Delete { "delete" } else { "write" };
                return Err(ArmError::conflict(
                    "ScopeLocked",
                    format!(
                        "The scope '{path}' cannot perform {what} operation because following \
                         scope(s) are locked: '{}'. Please remove the lock and try again.",
                        lock.scope
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Creates or changes a lock; `true` if it is new.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_lock(
        &mut self,
        scope: &str,
        name: &str,
        request: LockRequest,
    ) -> Result<bool, ArmError> {
        let level = ["CanNotDelete", "ReadOnly"]
            .into_iter()
            .find(|level| level.eq_ignore_ascii_case(&request.properties.level))
            .ok_or_else(|| {
                ArmError::bad_request(
                    "LockPropertiesLevelInvalid",
                    format!("The lock level '{}' is not valid.", request.properties.level),
                )
            })?;
        let lock = Lock {
            id: format!("{scope}/providers/Microsoft.Authorization/locks/{name}"),
            scope: scope.to_lowercase(),
            name: name.to_owned(),
            level: level.to_owned(),
            notes: request.properties.notes,
        };
        let key = key(scope, name);
        let created = self.state.locks.get(&key).is_none();
        self.state.locks.insert(key, lock);
        Ok(created)
    }

    /// The lock.
    pub fn lock(&self, scope: &str, name: &str) -> Option<&Lock> {
        self.state.locks.get(&key(scope, name))
    }

    /// Removes a lock; `false` if there is none.
    pub fn delete_lock(&mut self, scope: &str, name: &str) -> bool {
        self.state.locks.remove(&key(scope, name)).is_some()
    }

    /// The locks on `scope` and below it.
    pub fn locks_at<'a>(&'a self, scope: &str) -> impl Iterator<Item = &'a Lock> {
        let scope = scope.to_lowercase();
        self.state
            .locks
            .iter()
            .map(|(_, lock)| lock)
            .filter(move |lock| lock.scope == scope || lock.scope.starts_with(&format!("{scope}/")))
    }

    pub(super) fn remove_locks_of(&mut self, id: &ArmId) {
        self.remove_locks_below(&id.key());
    }

    pub(super) fn remove_locks_below(&mut self, scope: &str) {
        let keys: Vec<String> =
            self.locks_at(scope).map(|lock| key(&lock.scope, &lock.name)).collect();
        for key in keys {
            self.state.locks.remove(&key);
        }
    }
}
