//! Hashes of recovery points' blocks, as they were taken of the points' own snapshots.
//!
//! Read by themselves, when they are needed: they are far larger than everything else of a point.

use azdr_domain::content::{Hashes, ManifestError};
use azdr_domain::recovery_point::PointName;
use azdr_env::WallTime;
use rusqlite::Connection;

use super::cached::Cached;
use super::change::lun_column;
use super::{ItemId, RunId, Store, StoreError};

/// The hashes of one disk.
#[derive(Clone, Debug)]
pub struct ContentRow {
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// The run that took them.
    pub run: RunId,
    /// When.
    pub taken: WallTime,
    /// What they are, if they are what was written.
    pub hashes: Result<Hashes, ManifestError>,
}

impl Store {
    /// What was hashed of a point, OS disk first; empty where nothing was.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn content(
        &self,
        item: ItemId,
        name: PointName,
    ) -> Result<Vec<ContentRow>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT c.lun, c.run_id, c.taken_ms, c.manifest FROM point p
                 JOIN content c ON c.point_id = p.id
                 WHERE p.item_id = ?1 AND p.name = ?2 ORDER BY c.lun",
            )?;
            let rows = s.query_map((item.0, name.as_str()), |r| {
                Ok(ContentRow {
                    lun: u32::try_from(r.get::<_, i64>(0)?).ok(),
                    run: RunId(r.get(1)?),
                    taken: WallTime::from_unix_ms(r.get(2)?),
                    hashes: Hashes::from_bytes(r.get_ref(3)?.as_blob()?),
                })
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }
}

/// Adds or, for a step that is repeated, replaces one disk's.
pub(super) fn record(
    c: &Connection,
    run: RunId,
    point: i64,
    lun: Option<u32>,
    manifest: &[u8],
    now: WallTime,
) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT OR REPLACE INTO content VALUES (?1, ?2, ?3, ?4, ?5)",
        (point, lun_column(lun), run.0, now.unix_ms(), manifest),
    )?;
    Ok(())
}

/// Removes what this run has added, if the point is still there.
pub(super) fn forget(
    c: &Connection,
    run: RunId,
    item: ItemId,
    name: &PointName,
) -> Result<(), StoreError> {
    c.execute_cached(
        "DELETE FROM content WHERE run_id = ?3 AND point_id IN
           (SELECT id FROM point WHERE item_id = ?1 AND name = ?2)",
        (item.0, name.as_str(), run.0),
    )?;
    Ok(())
}
