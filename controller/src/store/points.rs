//! Recovery points, their snapshots, replicas and proofs, and DR tests.

use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::CaptureRecord;
use azdr_domain::consistency::Consistency;
use azdr_domain::pin::Pin;
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::tier::TierSet;
use azdr_domain::vm_description::VmDescription;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::items::parse_arm_id;
use super::{ItemId, RunId, Store, StoreError};

/// A recovery point with everything that hangs on it.
#[derive(Clone, Debug)]
pub struct PointRow {
    /// Whose.
    pub item: ItemId,
    /// Its name.
    pub name: PointName,
    /// Where the originals are.
    pub region: String,
    /// The instant it shows.
    pub created: WallTime,
    /// Which tiers it carries.
    pub tiers: TierSet,
    /// What was achieved.
    pub consistency: Consistency,
    /// Why it is not more.
    pub consistency_reason: String,
    /// How long file systems were frozen, milliseconds.
    pub frozen_ms: u64,
    /// Provisioned size of all disks.
    pub size_bytes: u64,
    /// What its witnesses carry.
    pub nonce: String,
    /// The capture that made it.
    pub operation_id: String,
    /// The VM at that time.
    pub description: VmDescription,
    /// All snapshots, in all regions, OS disk first.
    pub snapshots: Vec<SnapshotRow>,
    /// Copies in other regions.
    pub replicas: Vec<ReplicaRow>,
    /// Attempts to prove it, oldest first.
    pub proofs: Vec<ProofRow>,
    /// Runs that hold it.
    pub leases: Vec<RunId>,
    /// People's holds, lapsed ones included, by owner.
    pub pins: Vec<Pin>,
    /// The run that is deleting it.
    pub deleted_by: Option<RunId>,
    /// The run that made it.
    pub run: RunId,
}

impl PointRow {
    /// Its snapshots in a region, OS disk first; empty where it has none.
    pub fn snapshots_in(&self, region: &str) -> Vec<&SnapshotRow> {
        self.snapshots.iter().filter(|s| s.region == region).collect()
    }

    /// Whether a complete set of its disks is in the region.
    pub fn is_restorable_in(&self, region: &str) -> bool {
        !self.description.disks.is_empty()
            && self.snapshots_in(region).len() == self.description.disks.len()
            && !self.is_missing_in(region)
            && (region == self.region
                || self
                    .replicas
                    .iter()
                    .any(|r| r.region == region && r.state == ReplicaState::Complete))
    }

    /// Whether somebody else has deleted one of its snapshots in the region.
    pub fn is_missing_in(&self, region: &str) -> bool {
        self.snapshots.iter().any(|s| s.region == region && s.missing.is_some())
    }

    /// The highest level that has been proved, and when; a later failure at any level voids it. What
    /// was proved of a copy that is gone proves nothing any more.
    pub fn proof(&self) -> (ProofLevel, Option<WallTime>) {
        let mut level = (ProofLevel::Unproved, None);
        for proof in self.proofs.iter().filter(|p| !self.is_missing_in(&p.region)) {
            if !proof.passed {
                level = (ProofLevel::Unproved, None);
            } else if proof.level >= level.0 {
                level = (proof.level, Some(proof.at));
            }
        }
        level
    }

    /// Whether the last attempt to prove it failed.
    pub fn proof_failed(&self) -> bool {
        self.proofs.last().is_some_and(|p| !p.passed)
    }
}

/// One disk of a recovery point in one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Azure region.
    pub region: String,
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// The snapshot resource.
    pub id: ArmId,
    /// The disk it was taken of.
    pub source_disk: ArmId,
    /// That disk's `uniqueId`.
    pub source_disk_unique_id: String,
    /// Provisioned size.
    pub size_bytes: u64,
    /// Azure has it no more, and azdr did not delete it: since then that is known.
    #[serde(default)]
    pub missing: Option<WallTime>,
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Asked for.
    Queued,
    /// Under way.
    Copying,
    /// All disks are there, whole.
    Complete,
    /// Given up.
    Failed,
}

impl ReplicaState {
    /// As written to the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Copying => "copying",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }

    fn parse(text: &str) -> Self {
        match text {
            "queued" => Self::Queued,
            "copying" => Self::Copying,
            "complete" => Self::Complete,
            _ => Self::Failed,
        }
    }
}

/// A copy in another region.
#[derive(Clone, Debug)]
pub struct ReplicaRow {
    /// Azure region.
    pub region: String,
    /// How far it is.
    pub state: ReplicaState,
    /// The run that makes or made it.
    pub run: RunId,
    /// When it began.
    pub started: WallTime,
    /// When it ended.
    pub finished: Option<WallTime>,
    /// Why it failed.
    pub error: Option<String>,
}

/// An attempt to prove a point.
#[derive(Clone, Debug)]
pub struct ProofRow {
    /// The run that tried.
    pub run: RunId,
    /// Region of the copy that was tried.
    pub region: String,
    /// What was tried.
    pub level: ProofLevel,
    /// Whether it held.
    pub passed: bool,
    /// When.
    pub at: WallTime,
    /// In words.
    pub detail: String,
}

/// A recovery point and the attempts to prove it.
#[derive(Clone, Debug)]
pub struct PointAttempts {
    /// Whose.
    pub item: ItemId,
    /// Its name.
    pub name: String,
    /// Oldest first.
    pub attempts: Vec<ProofRow>,
}

/// A finished DR test.
#[derive(Clone, Debug)]
pub struct DrillRow {
    /// Its run.
    pub run: RunId,
    /// Whose.
    pub item: ItemId,
    /// What was restored.
    pub point_name: String,
    /// Where.
    pub region: String,
    /// When it was declared.
    pub started: WallTime,
    /// Whether everything held.
    pub passed: bool,
    /// Declared start to the outside probe's success.
    pub rto_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Store {
    /// A VM's recovery points, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn points(&self, item: ItemId) -> Result<Vec<PointRow>, StoreError> {
        self.read(move |c| {
            read_points(c, "WHERE item_id = ?1 ORDER BY created_ms DESC, id DESC", [item.0])
        })
        .await
    }

    /// When each of a VM's points was taken and which tiers it carries, newest first: all that the
    /// schedule has to know. A point whose originals somebody has deleted fills no slot.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn point_tiers(&self, item: ItemId) -> Result<Vec<(WallTime, TierSet)>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(&format!(
                "SELECT created_ms, tiers_json FROM point WHERE item_id = ?1 AND {WHOLE}
                     ORDER BY created_ms DESC"
            ))?;
            let rows = s.query_map([item.0], |r| Ok((r.get(0)?, r.get::<_, String>(1)?)))?;
            rows.map(|row| {
                let (created, tiers) = row?;
                let tiers =
                    serde_json::from_str(&tiers).map_err(StoreError::corrupt("tier set"))?;
                Ok((WallTime::from_unix_ms(created), tiers))
            })
            .collect()
        })
        .await
    }

    /// All recovery points of a name, without regard to case: several VMs may have one of the same.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn points_named(&self, name: &str) -> Result<Vec<PointRow>, StoreError> {
        let name = name.to_owned();
        self.read(move |c| {
            read_points(c, "WHERE name = ?1 COLLATE NOCASE ORDER BY item_id", [name])
        })
        .await
    }

    /// What was seen of a capture, where it is known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn capture(&self, operation_id: &str) -> Result<Option<CaptureRecord>, StoreError> {
        let operation_id = operation_id.to_owned();
        self.read(move |c| {
            let sql = "SELECT record_json FROM capture WHERE operation_id = ?1";
            let row = c.query_row_cached(sql, [operation_id], |r| r.get::<_, String>(0));
            let text = row.optional()?;
            text.map(|text| serde_json::from_str(&text).map_err(StoreError::corrupt("capture")))
                .transpose()
        })
        .await
    }

    /// Names and tiers of a VM's points, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn point_names(&self, item: ItemId) -> Result<Vec<(PointName, TierSet)>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT name, tiers_json FROM point WHERE item_id = ?1
                 ORDER BY created_ms DESC, id DESC",
            )?;
            let rows =
                s.query_map([item.0], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
            rows.map(|row| {
                let (name, tiers) = row?;
                let tiers =
                    serde_json::from_str(&tiers).map_err(StoreError::corrupt("tier set"))?;
                Ok((point_name(&name)?, tiers))
            })
            .collect()
        })
        .await
    }

    /// Number of points and time of the newest, per item that has one; points whose originals somebody
    /// has deleted do not count.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn point_summary(&self) -> Result<Vec<(ItemId, u32, WallTime)>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(&format!(
                "SELECT item_id, count(*), max(created_ms) FROM point WHERE {WHOLE}
                     GROUP BY item_id"
            ))?;
            let rows = s.query_map([], |r| {
                Ok((ItemId(r.get(0)?), r.get(1)?, WallTime::from_unix_ms(r.get(2)?)))
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// All recovery points, or one VM's, with the attempts to prove them: by VM, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn point_attempts(
        &self,
        item: Option<ItemId>,
    ) -> Result<Vec<PointAttempts>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT p.id, p.item_id, p.name, a.region, a.level, a.passed, a.at_ms, a.detail,
                        a.run_id
                 FROM point p LEFT JOIN proof a ON a.point_id = p.id
                 WHERE ?1 IS NULL OR p.item_id = ?1
                 ORDER BY p.item_id, p.created_ms DESC, p.id DESC, a.at_ms, a.run_id",
            )?;
            let mut rows = s.query([item.map(|i| i.0)])?;
            let mut points: Vec<PointAttempts> = Vec::new();
            let mut last = None;
            while let Some(r) = rows.next()? {
                let id: i64 = r.get(0)?;
                if last.replace(id) != Some(id) {
                    let (item, name) = (ItemId(r.get(1)?), r.get(2)?);
                    points.push(PointAttempts { item, name, attempts: Vec::new() });
                }
                // The right side is empty for a point that nobody has tried.
                if let (Some(region), Some(point)) = (r.get(3)?, points.last_mut()) {
                    point.attempts.push(proof_row(r, region, 4)?);
                }
            }
            Ok(points)
        })
        .await
    }

    /// DR tests, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn drills(
        &self,
        item: Option<ItemId>,
        since: WallTime,
    ) -> Result<Vec<DrillRow>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT run_id, item_id, point_name, region, started_ms, passed, rto_ms, error
                 FROM drill WHERE (?1 IS NULL OR item_id = ?1) AND started_ms >= ?2
                 ORDER BY started_ms DESC, run_id DESC",
            )?;
            let rows = s.query_map((item.map(|i| i.0), since.unix_ms()), |r| {
                Ok(DrillRow {
                    run: RunId(r.get(0)?),
                    item: ItemId(r.get(1)?),
                    point_name: r.get(2)?,
                    region: r.get(3)?,
                    started: WallTime::from_unix_ms(r.get(4)?),
                    passed: r.get(5)?,
                    rto_ms: r.get::<_, Option<i64>>(6)?.map(|ms| ms as u64),
                    error: r.get(7)?,
                })
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }
}

/// Azure has all of the point's originals, as far as is known.
const WHOLE: &str = "NOT EXISTS (SELECT 1 FROM snapshot s WHERE s.point_id = point.id
   AND s.region = point.region AND s.missing_ms IS NOT NULL)";

pub(super) fn read_points<P: rusqlite::Params>(
    c: &Connection,
    filter: &str,
    params: P,
) -> Result<Vec<PointRow>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT id, item_id, name, region, created_ms, tiers_json, consistency, consistency_reason,
           frozen_ms, size_bytes, operation_id, nonce, description_json, pruned_by, run_id
         FROM point {filter}"
    ))?;
    let rows = statement.query_map(params, |r| Ok(point_row(r)))?;
    let mut points = Vec::new();
    for row in rows {
        let (id, mut point) = row??;
        point.snapshots = snapshots(c, id)?;
        point.replicas = replicas(c, id)?;
        point.proofs = proofs(c, id)?;
        let mut s = c.prepare_cached("SELECT run_id FROM lease WHERE point_id = ?1")?;
        point.leases = s.query_map([id], |r| r.get(0).map(RunId))?.collect::<Result<_, _>>()?;
        point.pins = super::pins::of_point(c, id)?;
        points.push(point);
    }
    Ok(points)
}

fn point_row(r: &Row<'_>) -> Result<(i64, PointRow), StoreError> {
    let name: String = r.get(2)?;
    let tiers: String = r.get(5)?;
    let consistency: String = r.get(6)?;
    let description: String = r.get(12)?;
    let point = PointRow {
        item: ItemId(r.get(1)?),
        name: point_name(&name)?,
        region: r.get(3)?,
        created: WallTime::from_unix_ms(r.get(4)?),
        tiers: serde_json::from_str(&tiers).map_err(StoreError::corrupt("tier set"))?,
        consistency: consistency.parse().map_err(|_| {
            StoreError::Refused(format!("stored consistency {consistency:?} is unknown"))
        })?,
        consistency_reason: r.get(7)?,
        frozen_ms: r.get::<_, i64>(8)? as u64,
        size_bytes: r.get::<_, i64>(9)? as u64,
        operation_id: r.get(10)?,
        nonce: r.get(11)?,
        description: serde_json::from_str(&description)
            .map_err(StoreError::corrupt("VM description"))?,
        snapshots: Vec::new(),
        replicas: Vec::new(),
        proofs: Vec::new(),
        leases: Vec::new(),
        pins: Vec::new(),
        deleted_by: r.get::<_, Option<i64>>(13)?.map(RunId),
        run: RunId(r.get(14)?),
    };
    Ok((r.get(0)?, point))
}

fn point_name(name: &str) -> Result<PointName, StoreError> {
    name.parse()
        .map_err(|_| StoreError::Refused(format!("stored point name {name:?} is malformed")))
}

fn snapshots(c: &Connection, point: i64) -> Result<Vec<SnapshotRow>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT region, lun, arm_id, source_disk_id, source_disk_unique_id, size_bytes, missing_ms
         FROM snapshot WHERE point_id = ?1 ORDER BY region, lun",
    )?;
    let rows = s.query_map([point], |r| {
        Ok(SnapshotRow {
            region: r.get(0)?,
            lun: u32::try_from(r.get::<_, i64>(1)?).ok(),
            id: parse_arm_id(&r.get::<_, String>(2)?, 2)?,
            source_disk: parse_arm_id(&r.get::<_, String>(3)?, 3)?,
            source_disk_unique_id: r.get(4)?,
            size_bytes: r.get::<_, i64>(5)? as u64,
            missing: r.get::<_, Option<i64>>(6)?.map(WallTime::from_unix_ms),
        })
    })?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

fn replicas(c: &Connection, point: i64) -> Result<Vec<ReplicaRow>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT region, state, run_id, started_ms, finished_ms, error FROM replica
         WHERE point_id = ?1 ORDER BY region",
    )?;
    let rows = s.query_map([point], |r| {
        Ok(ReplicaRow {
            region: r.get(0)?,
            state: ReplicaState::parse(&r.get::<_, String>(1)?),
            run: RunId(r.get(2)?),
            started: WallTime::from_unix_ms(r.get(3)?),
            finished: r.get::<_, Option<i64>>(4)?.map(WallTime::from_unix_ms),
            error: r.get(5)?,
        })
    })?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

fn proofs(c: &Connection, point: i64) -> Result<Vec<ProofRow>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT region, level, passed, at_ms, detail, run_id FROM proof WHERE point_id = ?1
         ORDER BY at_ms, run_id",
    )?;
    let rows = s.query_map([point], |r| proof_row(r, r.get(0)?, 1))?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

/// `from`: the column of the level, with the rest behind it.
fn proof_row(r: &Row<'_>, region: String, from: usize) -> rusqlite::Result<ProofRow> {
    let level: String = r.get(from)?;
    Ok(ProofRow {
        run: RunId(r.get(from + 4)?),
        region,
        level: level.parse().unwrap_or(ProofLevel::Unproved),
        passed: r.get(from + 1)?,
        at: WallTime::from_unix_ms(r.get(from + 2)?),
        detail: r.get(from + 3)?,
    })
}
