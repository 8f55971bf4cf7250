//! Which cloud the database belongs to (I11).

use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::error::to_json;
use super::{Store, StoreError};

/// The cloud, tenant and subscriptions of a database. It never opens against others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// For example `AzureCloud` or `simulated`.
    pub cloud: String,
    /// Entra tenant.
    pub tenant_id: String,
    /// Subscription ids, sorted.
    pub subscriptions: Vec<String>,
    /// Random, drawn with the database: a later database of the same CA numbers its runs from one
    /// again, and must not take the earlier one's resources for its own.
    pub installation: String,
}

impl Store {
    /// Stamps a new database and records its first admin, in one transaction.
    ///
    /// # Errors
    /// `Refused` when it has a stamp already.
    pub async fn initialise(
        &self,
        stamp: Stamp,
        admin: String,
        certificate_serial: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| self::stamp(c, &stamp, &admin, &certificate_serial, now)).await
    }

    /// The database's stamp; `None` before `init`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read_stamp(&self) -> Result<Option<Stamp>, StoreError> {
        self.read(read).await
    }
}

pub(super) fn stamp(
    c: &Connection,
    stamp: &Stamp,
    admin: &str,
    certificate_serial: &str,
    now: WallTime,
) -> Result<(), StoreError> {
    if let Some(existing) = read(c)? {
        return Err(StoreError::Refused(format!(
            "the database is stamped already: cloud {}, tenant {}",
            existing.cloud, existing.tenant_id
        )));
    }
    c.execute_cached(
        "INSERT INTO stamp VALUES (1, ?1, ?2, ?3, ?4, ?5)",
        (
            &stamp.cloud,
            &stamp.tenant_id,
            to_json(&stamp.subscriptions),
            &stamp.installation,
            now.unix_ms(),
        ),
    )?;
    c.execute_cached(
        "INSERT INTO operator VALUES (?1, 'admin', ?2, ?3, NULL)",
        (admin, certificate_serial, now.unix_ms()),
    )?;
    Ok(())
}

fn read(c: &Connection) -> Result<Option<Stamp>, StoreError> {
    let row = c
        .query_row_cached(
            "SELECT cloud, tenant_id, subscriptions_json, installation FROM stamp",
            [],
            |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, String>(2)?, r.get(3)?)),
        )
        .optional()?;
    row.map(|(cloud, tenant_id, subscriptions, installation)| {
        let subscriptions = serde_json::from_str(&subscriptions)
            .map_err(StoreError::corrupt("subscription list"))?;
        Ok(Stamp { cloud, tenant_id, subscriptions, installation })
    })
    .transpose()
}
