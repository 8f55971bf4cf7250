//! Snapshots of the catalogue that Azure has no more, and those that are elsewhere now.

use std::collections::BTreeSet;

use azdr_domain::arm_id::ArmId;
use azdr_env::WallTime;

use super::cached::Cached;
use super::items::parse_arm_id;
use super::{Store, StoreError};

/// A snapshot as the catalogue has it.
#[derive(Clone, Debug)]
pub struct CataloguedSnapshot {
    /// The resource.
    pub id: ArmId,
    /// Key of the VM.
    pub vm: String,
    /// Name of the recovery point.
    pub point: String,
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// Where it is.
    pub region: String,
    /// It is the original, and no copy.
    pub original: bool,
    /// `uniqueId` of the disk that it shows.
    pub source_disk_unique_id: String,
    /// Provisioned size.
    pub size_bytes: u64,
    /// Known to be missing since then.
    pub missing: Option<WallTime>,
}

impl Store {
    /// All snapshots of recovery points that are not being deleted, in the order of their ids.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn catalogued_snapshots(&self) -> Result<Vec<CataloguedSnapshot>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT s.arm_id, i.arm_key, p.name, s.lun, s.region, s.region = p.region,
                   s.source_disk_unique_id, s.size_bytes, s.missing_ms
                 FROM snapshot s JOIN point p ON p.id = s.point_id JOIN item i ON i.id = p.item_id
                 WHERE p.pruned_by IS NULL ORDER BY s.arm_key",
            )?;
            let rows = s.query_map([], |r| {
                Ok(CataloguedSnapshot {
                    id: parse_arm_id(&r.get::<_, String>(0)?, 0)?,
                    vm: r.get(1)?,
                    point: r.get(2)?,
                    lun: u32::try_from(r.get::<_, i64>(3)?).ok(),
                    region: r.get(4)?,
                    original: r.get(5)?,
                    source_disk_unique_id: r.get(6)?,
                    size_bytes: r.get::<_, i64>(7)? as u64,
                    missing: r.get::<_, Option<i64>>(8)?.map(WallTime::from_unix_ms),
                })
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// Whether no snapshot is known to be missing, and all of them are among these keys: then there is
    /// nothing to compare. Most of the time it is so, and asking costs no look at any point.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn has_no_snapshots_but(&self, keys: BTreeSet<String>) -> Result<bool, StoreError> {
        self.read(move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM snapshot WHERE missing_ms IS NOT NULL)";
            if c.query_row_cached(sql, [], |r| r.get(0))? {
                return Ok(false);
            }
            let mut s = c.prepare_cached("SELECT arm_key FROM snapshot ORDER BY arm_key")?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                if !keys.contains(r.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// How many snapshots are known to be missing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn missing_snapshots(&self) -> Result<u64, StoreError> {
        self.read(|c| {
            let sql = "SELECT count(*) FROM snapshot WHERE missing_ms IS NOT NULL";
            Ok(c.query_row_cached(sql, [], |r| r.get::<_, i64>(0))? as u64)
        })
        .await
    }

    /// Records that Azure has no such snapshot (`Some`: since it is known), or has it again.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn snapshot_is_missing(
        &self,
        id: &ArmId,
        since: Option<WallTime>,
    ) -> Result<(), StoreError> {
        let key = id.key().to_owned();
        self.write(move |c| {
            c.execute_cached(
                "UPDATE snapshot SET missing_ms = ?2 WHERE arm_key = ?1",
                (key, since.map(WallTime::unix_ms)),
            )?;
            Ok(())
        })
        .await
    }

    /// Records that a snapshot has another resource ID now.
    ///
    /// # Errors
    /// When the database cannot be written, or another snapshot has that ID.
    pub async fn snapshot_is_elsewhere(&self, from: &ArmId, to: ArmId) -> Result<(), StoreError> {
        let from = from.key().to_owned();
        self.write(move |c| {
            c.execute_cached(
                "UPDATE snapshot SET arm_key = ?2, arm_id = ?3, missing_ms = NULL
                 WHERE arm_key = ?1",
                (from, to.key(), to.as_str()),
            )?;
            Ok(())
        })
        .await
    }
}
