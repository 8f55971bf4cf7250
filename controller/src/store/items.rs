//! Protected things.

use azdr_domain::arm_id::ArmId;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::{Store, StoreError};

/// A protected thing's row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(pub i64);

/// A protected thing: today a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its row.
    pub id: ItemId,
    /// Its ARM resource ID.
    pub arm_id: ArmId,
    /// Azure region.
    pub location: String,
    /// Azure's vmId at the time it was last read, lower case.
    pub vm_guid: Option<String>,
}

impl Store {
    /// Finds or creates the row of a VM, and refreshes what Azure says of it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn ensure_vm(
        &self,
        arm_id: ArmId,
        location: String,
        vm_guid: Option<String>,
        now: WallTime,
    ) -> Result<Item, StoreError> {
        self.write(move |c| ensure_vm(c, &arm_id, &location, vm_guid.as_deref(), now)).await
    }

    /// All items, by ARM id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn items(&self) -> Result<Vec<Item>, StoreError> {
        self.read(|c| {
            let mut statement = c.prepare_cached(&format!("{SELECT} ORDER BY arm_key"))?;
            let rows = statement.query_map([], item)?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// The VMs of a name, in any group; without regard to case.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn vms_named(&self, name: &str) -> Result<Vec<Item>, StoreError> {
        let ends = format!("/virtualmachines/{}", name.to_lowercase());
        self.read(move |c| {
            // The inner one reads the keys' index alone.
            let mut statement = c.prepare_cached(&format!(
                "{SELECT} WHERE id IN
                   (SELECT id FROM item WHERE substr(arm_key, -length(?1)) = ?1) ORDER BY arm_key"
            ))?;
            let rows = statement.query_map([ends], item)?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// The item of an ARM id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn item(&self, arm_id: &ArmId) -> Result<Option<Item>, StoreError> {
        let key = arm_id.key().to_owned();
        self.read(move |c| item_by_key(c, &key)).await
    }

    /// The item whose ARM id hashes to `hash` (lower-case hexadecimal SHA-256 of the canonical id),
    /// as agents' certificates name it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn item_by_hash(&self, hash: &str) -> Result<Option<Item>, StoreError> {
        let items = self.items().await?;
        Ok(items.into_iter().find(|i| i.arm_id.hash_hex() == hash))
    }

    /// The item of a row.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub async fn item_by_id(&self, id: ItemId) -> Result<Item, StoreError> {
        self.read(move |c| {
            c.query_row_cached(&format!("{SELECT} WHERE id = ?1"), [id.0], item)
                .optional()?
                .ok_or_else(|| StoreError::Missing(format!("item {}", id.0)))
        })
        .await
    }
}

pub(super) fn ensure_vm(
    c: &Connection,
    arm_id: &ArmId,
    location: &str,
    vm_guid: Option<impl AsRef<str>>,
    now: WallTime,
) -> Result<Item, StoreError> {
    let vm_guid = vm_guid.as_ref().map(AsRef::as_ref);
    c.execute_cached(
        "INSERT INTO item (kind, arm_key, arm_id, location, vm_guid, created_ms)
         VALUES ('vm', ?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (arm_key) DO UPDATE SET arm_id = excluded.arm_id,
           location = excluded.location, vm_guid = coalesce(excluded.vm_guid, vm_guid)",
        (arm_id.key(), arm_id.as_str(), location, vm_guid, now.unix_ms()),
    )?;
    item_by_key(c, arm_id.key())?.ok_or_else(|| StoreError::Missing(arm_id.to_string()))
}

pub(super) const SELECT: &str = "SELECT id, arm_id, location, vm_guid FROM item";

pub(super) fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    let arm_id: String = row.get(1)?;
    Ok(Item {
        id: ItemId(row.get(0)?),
        arm_id: parse_arm_id(&arm_id, 1)?,
        location: row.get(2)?,
        vm_guid: row.get(3)?,
    })
}

/// Reads an ARM id from a column.
pub(super) fn parse_arm_id(text: &str, column: usize) -> rusqlite::Result<ArmId> {
    ArmId::parse(text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

pub(super) fn item_by_key(c: &Connection, key: &str) -> Result<Option<Item>, StoreError> {
    Ok(c.query_row_cached(&format!("{SELECT} WHERE arm_key = ?1"), [key], item).optional()?)
}
