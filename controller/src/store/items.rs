//! Protected things and their policies.

use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::Policy;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::error::to_json;
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

/// A VM's policy as stored.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// What it says.
    pub policy: Policy,
    /// When backups were last switched on: earlier due times are not caught up.
    pub enabled_since: WallTime,
    /// Why the VM's tag does not mirror it, if it does not.
    pub tag_problem: Option<String>,
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

    /// A VM's policy.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policy(&self, id: ItemId) -> Result<Option<PolicyRow>, StoreError> {
        self.read(move |c| read_policy(c, id)).await
    }

    /// Stores a VM's policy.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_policy(
        &self,
        id: ItemId,
        policy: Policy,
        by: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "INSERT INTO policy (item_id, policy_json, enabled, enabled_since_ms, updated_ms,
                   updated_by) VALUES (?1, ?2, ?3, ?4, ?4, ?5)
                 ON CONFLICT (item_id) DO UPDATE SET policy_json = excluded.policy_json,
                   enabled_since_ms = CASE WHEN enabled THEN enabled_since_ms
                     ELSE excluded.enabled_since_ms END,
                   enabled = excluded.enabled, updated_ms = excluded.updated_ms,
                   updated_by = excluded.updated_by",
                (id.0, to_json(&policy), policy.enabled, now.unix_ms(), by),
            )?;
            Ok(())
        })
        .await
    }

    /// Records whether the VM's tag mirrors its policy.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_tag_problem(
        &self,
        id: ItemId,
        problem: Option<String>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "UPDATE policy SET tag_problem = ?2 WHERE item_id = ?1",
                (id.0, problem),
            )?;
            Ok(())
        })
        .await
    }

    /// All enabled policies with their items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn enabled_policies(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        let all = self.policies().await?;
        Ok(all.into_iter().filter(|(_, row)| row.policy.enabled).collect())
    }

    /// Policies, with their items, that the VM's tag does not mirror.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policies_not_mirrored(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.policies_where("tag_problem IS NOT NULL").await
    }

    /// All policies with their items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policies(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.policies_where("TRUE").await
    }

    async fn policies_where(
        &self,
        condition: &'static str,
    ) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!(
                "{SELECT} WHERE id IN (SELECT item_id FROM policy WHERE {condition})
                 ORDER BY arm_key"
            ))?;
            let items: Vec<Item> = statement.query_map([], item)?.collect::<Result<_, _>>()?;
            let mut result = Vec::with_capacity(items.len());
            for item in items {
                if let Some(policy) = read_policy(c, item.id)? {
                    result.push((item, policy));
                }
            }
            Ok(result)
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

const SELECT: &str = "SELECT id, arm_id, location, vm_guid FROM item";

fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
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

pub(super) fn read_policy(c: &Connection, id: ItemId) -> Result<Option<PolicyRow>, StoreError> {
    let row = c
        .query_row_cached(
            "SELECT policy_json, enabled_since_ms, tag_problem FROM policy WHERE item_id = ?1",
            [id.0],
            |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?)),
        )
        .optional()?;
    row.map(|(json, since, tag_problem)| {
        Ok(PolicyRow {
            policy: serde_json::from_str(&json).map_err(StoreError::corrupt("policy"))?,
            enabled_since: WallTime::from_unix_ms(since),
            tag_problem,
        })
    })
    .transpose()
}
