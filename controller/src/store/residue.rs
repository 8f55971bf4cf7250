//! What the catalogue still wants of the things in Azure, and disks that are kept for a while.

use azdr_domain::arm_id::ArmId;
use azdr_env::WallTime;
use rusqlite::{OptionalExtension, Row};

use super::cached::Cached;
use super::items::parse_arm_id;
use super::{ItemId, RunId, Store, StoreError};

/// A disk that a restore has replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptDisk {
    /// Which.
    pub disk: ArmId,
    /// Whose.
    pub item: ItemId,
    /// The restore that replaced it.
    pub run: RunId,
    /// Until when it is kept.
    pub until: WallTime,
}

/// When the catalogue was last rebuilt from Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The run that stands for it: those before it are nobody's any more.
    pub run: RunId,
    /// When.
    pub at: WallTime,
}

/// Name of the run that stands for a rebuild among the jobs; no workflow of this name is ever started.
pub const REBUILD: &str = "rebuild";

impl Store {
    /// Which of these are no snapshot of a recovery point and no kept disk. Canonical ids in, the
    /// unwanted among them out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn not_catalogued(&self, keys: Vec<String>) -> Result<Vec<String>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM snapshot WHERE arm_key = ?1)
                   OR EXISTS (SELECT 1 FROM kept_disk WHERE arm_key = ?1)",
            )?;
            let mut unwanted = Vec::new();
            for key in keys {
                if !s.query_row([&key], |r| r.get::<_, bool>(0))? {
                    unwanted.push(key);
                }
            }
            Ok(unwanted)
        })
        .await
    }

    /// All kept disks, those due first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kept_disks(&self) -> Result<Vec<KeptDisk>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT arm_id, item_id, run_id, kept_until_ms FROM kept_disk
                 ORDER BY kept_until_ms, arm_key",
            )?;
            let rows = s.query_map([], kept_disk)?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// One kept disk; `None` when it is not kept (any more).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kept_disk(&self, disk: &ArmId) -> Result<Option<KeptDisk>, StoreError> {
        let key = disk.key().to_owned();
        self.read(move |c| {
            let row = c.query_row_cached(
                "SELECT arm_id, item_id, run_id, kept_until_ms FROM kept_disk WHERE arm_key = ?1",
                [key],
                kept_disk,
            );
            Ok(row.optional()?)
        })
        .await
    }

    /// When the catalogue was last rebuilt from Azure, if it ever was.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn rebuilt(&self) -> Result<Option<Rebuilt>, StoreError> {
        self.read(|c| {
            let row = c.query_row_cached(
                "SELECT id, created_ms FROM run WHERE workflow = ?1 ORDER BY id DESC LIMIT 1",
                [REBUILD],
                |r| Ok(Rebuilt { run: RunId(r.get(0)?), at: WallTime::from_unix_ms(r.get(1)?) }),
            );
            Ok(row.optional()?)
        })
        .await
    }
}

fn kept_disk(r: &Row<'_>) -> rusqlite::Result<KeptDisk> {
    Ok(KeptDisk {
        disk: parse_arm_id(&r.get::<_, String>(0)?, 0)?,
        item: ItemId(r.get(1)?),
        run: RunId(r.get(2)?),
        until: WallTime::from_unix_ms(r.get(3)?),
    })
}
