//! Whether azdr may delete anything at all.

use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};

use super::cached::Cached;
use super::{Store, StoreError};

/// Nothing is deleted until an admin releases it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionHold {
    /// Since when.
    pub since: WallTime,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for DeletionHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nothing is deleted: held since {} ({})", self.since, self.reason)
    }
}

impl Store {
    /// The hold, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn deletion_hold(&self) -> Result<Option<DeletionHold>, StoreError> {
        self.read(|c| {
            let row = c.query_row_cached("SELECT since_ms, reason FROM deletion_hold", [], |r| {
                Ok(DeletionHold { since: WallTime::from_unix_ms(r.get(0)?), reason: r.get(1)? })
            });
            Ok(row.optional()?)
        })
        .await
    }

    /// From now on nothing is deleted.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn hold_deletions(&self, held: DeletionHold) -> Result<(), StoreError> {
        self.write(move |c| hold(c, &held)).await
    }

    /// Ends it; answers what there was.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn release_deletions(&self) -> Result<Option<DeletionHold>, StoreError> {
        let held = self.deletion_hold().await?;
        self.write(|c| {
            c.execute_cached("DELETE FROM deletion_hold", [])?;
            Ok(())
        })
        .await?;
        Ok(held)
    }
}

pub(super) fn hold(c: &Connection, hold: &DeletionHold) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT OR REPLACE INTO deletion_hold VALUES (1, ?1, ?2)",
        (hold.since.unix_ms(), &hold.reason),
    )?;
    Ok(())
}
