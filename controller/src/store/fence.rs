//! Only the newest controller may write to runs.
//!
//! The data directory's lock keeps two controllers apart on one machine. On a shared or copied disk it
//! may not: then the database itself says who came last, and the other one's writes are refused.

use rusqlite::Connection;

use super::cached::Cached;
use super::{Store, StoreError};

impl Store {
    /// Takes the next epoch, and answers a handle whose writes carry it: they are refused with
    /// [`StoreError::Fenced`] once somebody else has taken a later one. Handles of earlier epochs,
    /// in this process or another, cannot write from here on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn take_over(&self) -> Result<Self, StoreError> {
        let plain = Self { inner: self.inner.clone(), epoch: None };
        let epoch = plain
            .write(|c| {
                let sql = "UPDATE controller_epoch SET epoch = epoch + 1 RETURNING epoch";
                Ok(c.query_row_cached(sql, [], |r| r.get::<_, i64>(0))?)
            })
            .await?;
        Ok(Self { epoch: Some(epoch), ..plain })
    }

    /// Refuses when somebody else has taken a later epoch. For what is done outside the database:
    /// asked just before, it leaves a newer controller's work alone even where nothing is written for
    /// minutes. One read of one row.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] then, or when the database cannot be read.
    pub async fn check_newest(&self) -> Result<(), StoreError> {
        match self.epoch {
            None => Ok(()),
            epoch => self.read(move |c| check(c, epoch)).await,
        }
    }

    /// Whether writes of this handle carry an epoch.
    pub fn has_taken_over(&self) -> bool {
        self.epoch.is_some()
    }
}

/// Refuses when `epoch` is not the newest.
pub(super) fn check(c: &Connection, epoch: Option<i64>) -> Result<(), StoreError> {
    let Some(ours) = epoch else { return Ok(()) };
    let newest: i64 =
        c.prepare_cached("SELECT epoch FROM controller_epoch")?.query_row([], |r| r.get(0))?;
    if newest == ours { Ok(()) } else { Err(StoreError::Fenced { ours, newest }) }
}
