//! Pins: people's holds on recovery points, and which of them Azure's tags show.

use azdr_domain::pin::Pin;
use azdr_domain::recovery_point::PointName;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};

use super::cached::Cached;
use super::change::point_id;
use super::points::{PointRow, read_points};
use super::{ItemId, Store, StoreError};
use crate::mutation::{Mutation, planted};

/// A point whose tags do not show its pins yet.
#[derive(Clone, Debug)]
pub struct StalePins {
    /// The point, with its pins and the snapshots that carry the tags.
    pub point: PointRow,
    /// Which change this is; for [`Store::pins_are_mirrored`].
    pub version: i64,
}

impl Store {
    /// Sets or changes a person's pin.
    ///
    /// # Errors
    /// `Refused` when the point is being deleted, `Missing` when there is none.
    pub async fn pin(&self, item: ItemId, name: PointName, pin: Pin) -> Result<(), StoreError> {
        self.write(move |c| {
            let point = point_id(c, item, &name)?;
            let claimed: Option<i64> =
                c.query_row_cached("SELECT pruned_by FROM point WHERE id = ?1", [point], |r| {
                    r.get(0)
                })?;
            if let Some(run) = claimed {
                return Err(StoreError::Refused(format!("{name} is being deleted by job {run}")));
            }
            insert(c, point, &pin)?;
            changed(c, point)
        })
        .await
    }

    /// Removes a person's pin; answers whether there was one.
    ///
    /// # Errors
    /// `Missing` when there is no such point.
    pub async fn unpin(
        &self,
        item: ItemId,
        name: PointName,
        owner: String,
    ) -> Result<bool, StoreError> {
        self.write(move |c| {
            let point = point_id(c, item, &name)?;
            let key = (point, owner);
            let removed =
                c.execute_cached("DELETE FROM pin WHERE point_id = ?1 AND owner = ?2", key)?;
            if removed > 0 {
                changed(c, point)?;
            }
            Ok(removed > 0)
        })
        .await
    }

    /// Points whose tags do not show their pins, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stale_pins(&self) -> Result<Vec<StalePins>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT id, pins_version FROM point WHERE pins_version <> pins_mirrored ORDER BY id",
            )?;
            let rows: Vec<(i64, i64)> =
                s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut stale = Vec::with_capacity(rows.len());
            for (id, version) in rows {
                if let Some(point) = read_points(c, "WHERE point.id = ?1", "", [id])?.pop() {
                    stale.push(StalePins { point, version });
                }
            }
            Ok(stale)
        })
        .await
    }

    /// Records that the tags show the pins as of `version`; a later change stays to be written.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn pins_are_mirrored(&self, stale: &StalePins) -> Result<(), StoreError> {
        let (item, name, version) = (stale.point.item, stale.point.name.clone(), stale.version);
        self.write(move |c| {
            c.execute_cached(
                "UPDATE point SET pins_mirrored = ?3 WHERE item_id = ?1 AND name = ?2",
                (item.0, name.as_str(), version),
            )?;
            Ok(())
        })
        .await
    }
}

pub(super) fn insert(c: &Connection, point: i64, pin: &Pin) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT OR REPLACE INTO pin VALUES (?1, ?2, ?3, ?4, ?5)",
        (point, &pin.owner, &pin.reason, pin.since.unix_ms(), pin.until.map(WallTime::unix_ms)),
    )?;
    Ok(())
}

/// A point's pins, lapsed ones included, by owner.
pub(super) fn of_point(c: &Connection, point: i64) -> Result<Vec<Pin>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT owner, reason, since_ms, until_ms FROM pin WHERE point_id = ?1 ORDER BY owner",
    )?;
    let rows = s.query_map([point], |r| pin_row(r, 0))?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

/// `from`: the column of the owner, with the rest behind it.
pub(super) fn pin_row(r: &Row<'_>, from: usize) -> rusqlite::Result<Pin> {
    Ok(Pin {
        owner: r.get(from)?,
        reason: r.get(from + 1)?,
        since: WallTime::from_unix_ms(r.get(from + 2)?),
        until: r.get::<_, Option<i64>>(from + 3)?.map(WallTime::from_unix_ms),
    })
}

fn changed(c: &Connection, point: i64) -> Result<(), StoreError> {
    c.execute_cached("UPDATE point SET pins_version = pins_version + 1 WHERE id = ?1", [point])?;
    Ok(())
}

/// Has the tags of a pinned point written again: snapshots of it are new.
pub(super) fn changed_if_any(c: &Connection, point: i64) -> Result<(), StoreError> {
    match of_point(c, point)?.is_empty() {
        true => Ok(()),
        false => changed(c, point),
    }
}

/// A pin keeps its point, whatever a plan said before it was set (I1).
pub(super) fn refuse_if_pinned(
    c: &Connection,
    item: ItemId,
    name: &PointName,
    now: WallTime,
) -> Result<(), StoreError> {
    if planted(Mutation::PruneIgnoresPins) {
        return Ok(());
    }
    let owner = c
        .query_row_cached(
            "SELECT n.owner FROM pin n JOIN point p ON p.id = n.point_id
             WHERE p.item_id = ?1 AND p.name = ?2 AND (n.until_ms IS NULL OR n.until_ms > ?3)",
            (item.0, name.as_str(), now.unix_ms()),
            |r| r.get::<_, String>(0),
        )
        .optional()?;
    match owner {
        Some(owner) => Err(StoreError::Refused(format!("{name} is pinned by {owner}"))),
        None => Ok(()),
    }
}

/// Lapsed pins go with their point.
pub(super) fn remove_lapsed(
    c: &Connection,
    item: ItemId,
    name: &PointName,
) -> Result<(), StoreError> {
    c.execute_cached(
        "DELETE FROM pin WHERE point_id IN
           (SELECT id FROM point WHERE item_id = ?1 AND name = ?2)",
        (item.0, name.as_str()),
    )?;
    Ok(())
}
