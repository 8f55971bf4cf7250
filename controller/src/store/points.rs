//! Recovery points, their snapshots, replicas and proofs, and DR tests.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// The VM at that time. Points of one VM that did not change share it.
    pub description: Arc<VmDescription>,
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
    /// was proved of a copy that is gone, pruned or deleted by somebody, proves nothing any more.
    pub fn proof(&self) -> (ProofLevel, Option<WallTime>) {
        let mut level = (ProofLevel::Unproved, None);
        for proof in self.proofs.iter().filter(|p| self.is_restorable_in(&p.region)) {
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

    pub(super) fn parse(text: &str) -> Self {
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
            read_points(c, "WHERE item_id = ?1", "ORDER BY created_ms DESC, id DESC", [item.0])
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
            read_points(c, "WHERE name = ?1 COLLATE NOCASE", "ORDER BY item_id", [name])
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

    /// The same for every VM that has such points.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn all_point_tiers(
        &self,
    ) -> Result<BTreeMap<ItemId, Vec<(WallTime, TierSet)>>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(&format!(
                "SELECT item_id, created_ms, tiers_json FROM point WHERE {WHOLE}
                     ORDER BY item_id, created_ms"
            ))?;
            let mut rows = s.query([])?;
            let mut all: BTreeMap<ItemId, Vec<(WallTime, TierSet)>> = BTreeMap::new();
            while let Some(r) = rows.next()? {
                let tiers = r.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
                let tiers = serde_json::from_str(tiers).map_err(StoreError::corrupt("tier set"))?;
                let point = (WallTime::from_unix_ms(r.get(1)?), tiers);
                all.entry(ItemId(r.get(0)?)).or_default().push(point);
            }
            all.values_mut().for_each(|points| points.reverse());
            Ok(all)
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

    /// Provisioned size of all disks in the newest point of a VM, or of every VM that has one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn newest_sizes(
        &self,
        item: Option<ItemId>,
    ) -> Result<BTreeMap<ItemId, u64>, StoreError> {
        self.read(move |c| {
            let filter = if item.is_some() { "WHERE item.id = ?1" } else { "" };
            let mut s = c.prepare_cached(&format!(
                "SELECT item.id, (SELECT p.size_bytes FROM point p WHERE p.item_id = item.id
                                  ORDER BY p.created_ms DESC, p.id DESC LIMIT 1)
                 FROM item {filter}"
            ))?;
            let mut rows = s.query(rusqlite::params_from_iter(item.map(|i| i.0)))?;
            let mut sizes = BTreeMap::new();
            while let Some(r) = rows.next()? {
                if let Some(size) = r.get::<_, Option<i64>>(1)? {
                    sizes.insert(ItemId(r.get(0)?), size.unsigned_abs());
                }
            }
            Ok(sizes)
        })
        .await
    }

    /// The recovery points of one VM, or of every VM that has any, with the attempts to prove them:
    /// `each` gets one VM after the other, with its points, newest first.
    ///
    /// # Errors
    /// When the database cannot be read; then `each` has had some of the VMs.
    pub async fn each_attempts<T: Send + 'static>(
        &self,
        item: Option<ItemId>,
        mut each: impl FnMut(&mut T, ItemId, Vec<PointAttempts>) + Send + 'static,
        mut into: T,
    ) -> Result<T, StoreError> {
        self.read(move |c| {
            let filter = if item.is_some() { "WHERE p.item_id = ?1" } else { "" };
            // As the index has them: a million points are not sorted.
            let mut s = c.prepare_cached(&format!(
                "SELECT p.id, p.item_id, p.name, a.region, a.level, a.passed, a.at_ms, a.detail,
                        a.run_id
                 FROM point p LEFT JOIN proof a ON a.point_id = p.id {filter}
                 ORDER BY p.item_id, p.created_ms, p.id"
            ))?;
            let mut rows = s.query(rusqlite::params_from_iter(item.map(|i| i.0)))?;
            let mut of_vm: Vec<PointAttempts> = Vec::new();
            let (mut last, mut last_item) = (None, None);
            let mut hand_over = |of_vm: &mut Vec<PointAttempts>, item| {
                let mut points = std::mem::take(of_vm);
                points.reverse();
                for point in &mut points {
                    point.attempts.sort_by_key(|a| (a.at, a.run));
                }
                each(&mut into, item, points);
            };
            while let Some(r) = rows.next()? {
                let (id, item): (i64, _) = (r.get(0)?, ItemId(r.get(1)?));
                if let Some(before) = last_item.replace(item)
                    && before != item
                {
                    hand_over(&mut of_vm, before);
                }
                if last.replace(id) != Some(id) {
                    of_vm.push(PointAttempts { name: r.get(2)?, attempts: Vec::new() });
                }
                // The right side is empty for a point that nobody has tried.
                if let (Some(region), Some(point)) = (r.get(3)?, of_vm.last_mut()) {
                    point.attempts.push(proof_row(r, region, 4)?);
                }
            }
            if let Some(item) = last_item {
                hand_over(&mut of_vm, item);
            }
            Ok(into)
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

/// Azure has all of the point's originals, as far as is known. The index holds those that are missing
/// only; with another one every snapshot's row would be looked at.
const WHOLE: &str = "NOT EXISTS (SELECT 1 FROM snapshot s INDEXED BY snapshot_missing
   WHERE s.point_id = point.id AND s.region = point.region AND s.missing_ms IS NOT NULL)";

/// The recovery points that `filter` chooses (`WHERE …` on columns of `point`), ordered by `order`. One
/// query per table, however many points there are.
pub(super) fn read_points<P: rusqlite::Params + Clone>(
    c: &Connection,
    filter: &str,
    order: &str,
    params: P,
) -> Result<Vec<PointRow>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT id, item_id, name, region, created_ms, tiers_json, consistency, consistency_reason,
           frozen_ms, size_bytes, operation_id, nonce, description_json, pruned_by, run_id
         FROM point {filter} {order}"
    ))?;
    let mut rows = statement.query(params.clone())?;
    let mut points = Found { places: BTreeMap::new(), rows: Vec::new() };
    // Most points of a VM have the same description, which is long: it is parsed once.
    let mut last: Option<(String, Arc<VmDescription>)> = None;
    while let Some(r) = rows.next()? {
        let text = r.get_ref(12)?.as_str().map_err(rusqlite::Error::from)?;
        let description = match &last {
            Some((same, description)) if same == text => description.clone(),
            _ => {
                let parsed: VmDescription =
                    serde_json::from_str(text).map_err(StoreError::corrupt("VM description"))?;
                let description = Arc::new(parsed);
                last = Some((text.to_owned(), description.clone()));
                description
            }
        };
        let (id, point) = point_row(r, description)?;
        points.places.insert(id, points.rows.len());
        points.rows.push(point);
    }
    if !points.rows.is_empty() {
        points.snapshots(c, filter, params.clone())?;
        points.replicas(c, filter, params.clone())?;
        points.proofs(c, filter, params.clone())?;
        points.leases(c, filter, params.clone())?;
        points.pins(c, filter, params)?;
    }
    for point in &mut points.rows {
        point.snapshots.sort_by(|a, b| (&a.region, a.lun).cmp(&(&b.region, b.lun)));
        point.replicas.sort_by(|a, b| a.region.cmp(&b.region));
        point.proofs.sort_by_key(|p| (p.at, p.run));
        point.leases.sort();
        point.pins.sort_by(|a, b| a.owner.cmp(&b.owner));
    }
    Ok(points.rows)
}

/// Points while what hangs on them is read.
struct Found {
    /// Where each is, by its number.
    places: BTreeMap<i64, usize>,
    rows: Vec<PointRow>,
}

impl Found {
    fn each<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        sql: &str,
        params: P,
        add: impl Fn(&mut PointRow, &Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let mut statement = c.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(r) = rows.next()? {
            if let Some(place) = self.places.get(&r.get(0)?) {
                add(&mut self.rows[*place], r)?;
            }
        }
        Ok(())
    }

    fn snapshots<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        filter: &str,
        params: P,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT s.point_id, s.region, s.lun, s.arm_id, s.source_disk_id, s.source_disk_unique_id,
                    s.size_bytes, s.missing_ms
             FROM point JOIN snapshot s ON s.point_id = point.id {filter}"
        );
        self.each(c, &sql, params, |point, r| {
            point.snapshots.push(SnapshotRow {
                region: r.get(1)?,
                lun: u32::try_from(r.get::<_, i64>(2)?).ok(),
                id: parse_arm_id(r.get_ref(3)?.as_str()?, 3)?,
                source_disk: parse_arm_id(r.get_ref(4)?.as_str()?, 4)?,
                source_disk_unique_id: r.get(5)?,
                size_bytes: r.get::<_, i64>(6)? as u64,
                missing: r.get::<_, Option<i64>>(7)?.map(WallTime::from_unix_ms),
            });
            Ok(())
        })
    }

    fn replicas<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        filter: &str,
        params: P,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT r.point_id, r.region, r.state, r.run_id, r.started_ms, r.finished_ms, r.error
             FROM point JOIN replica r ON r.point_id = point.id {filter}"
        );
        self.each(c, &sql, params, |point, r| {
            point.replicas.push(ReplicaRow {
                region: r.get(1)?,
                state: ReplicaState::parse(r.get_ref(2)?.as_str()?),
                run: RunId(r.get(3)?),
                started: WallTime::from_unix_ms(r.get(4)?),
                finished: r.get::<_, Option<i64>>(5)?.map(WallTime::from_unix_ms),
                error: r.get(6)?,
            });
            Ok(())
        })
    }

    fn proofs<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        filter: &str,
        params: P,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT a.point_id, a.region, a.level, a.passed, a.at_ms, a.detail, a.run_id
             FROM point JOIN proof a ON a.point_id = point.id {filter}"
        );
        self.each(c, &sql, params, |point, r| {
            point.proofs.push(proof_row(r, r.get(1)?, 2)?);
            Ok(())
        })
    }

    fn leases<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        filter: &str,
        params: P,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT l.point_id, l.run_id FROM point JOIN lease l ON l.point_id = point.id {filter}"
        );
        self.each(c, &sql, params, |point, r| {
            point.leases.push(RunId(r.get(1)?));
            Ok(())
        })
    }

    fn pins<P: rusqlite::Params>(
        &mut self,
        c: &Connection,
        filter: &str,
        params: P,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "SELECT i.point_id, i.owner, i.reason, i.since_ms, i.until_ms
             FROM point JOIN pin i ON i.point_id = point.id {filter}"
        );
        self.each(c, &sql, params, |point, r| {
            point.pins.push(super::pins::pin_row(r, 1)?);
            Ok(())
        })
    }
}

fn point_row(r: &Row<'_>, description: Arc<VmDescription>) -> Result<(i64, PointRow), StoreError> {
    let name: String = r.get(2)?;
    let tiers: String = r.get(5)?;
    let consistency: String = r.get(6)?;
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
        description,
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

pub(super) fn point_name(name: &str) -> Result<PointName, StoreError> {
    name.parse()
        .map_err(|_| StoreError::Refused(format!("stored point name {name:?} is malformed")))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::Executor;

    fn snapshot(n: u32) -> String {
        format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/snapshots/s{n}")
    }

    /// Two VMs with two points each; what hangs on them is written in another order than it is read.
    async fn two_vms(dir: &tempfile::TempDir) -> Store {
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        let vm = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v";
        let disk = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d";
        let description = format!(
            r#"{{"version": 1, "id": "{vm}", "vm_id": "", "location": "eastus", "size": "",
                "os_type": "Linux", "disks": []}}"#
        );
        let tiers = serde_json::to_string(&TierSet::only(azdr_domain::tier::Tier::Daily)).unwrap();
        let mut sql = String::new();
        for item in [1, 2] {
            sql += &format!(
                "INSERT INTO item VALUES ({item}, 'vm', '{item}', '{vm}', 'eastus', NULL, 0);
                 INSERT INTO run (id, workflow, version, input_json, state, priority, requested_by,
                   created_ms) VALUES ({item}, 'verify', 1, '', 'running', 0, '', 0);"
            );
        }
        for (id, item, day) in [(4, 1, 2), (3, 2, 1), (2, 1, 1), (1, 2, 2)] {
            sql += &format!(
                "INSERT INTO point (id, item_id, name, region, created_ms, tiers_json, consistency,
                   consistency_reason, frozen_ms, size_bytes, operation_id, nonce, description_json,
                   run_id) VALUES ({id}, {item}, 'v-backup-daily-2025010{day}-0200', 'eastus', {day},
                   '{tiers}', 'crash', '', 0, 0, '', '', '{description}', 1);
                 INSERT INTO replica VALUES ({id}, 'westus', 'complete', 1, 0, NULL, NULL);
                 INSERT INTO replica VALUES ({id}, 'northeurope', 'copying', 1, 0, NULL, NULL);
                 INSERT INTO proof VALUES (8, {id}, 'eastus', 'restorable', 1, 40, 'second');
                 INSERT INTO proof VALUES (9, {id}, 'eastus', 'booted', 0, 30, 'first');
                 INSERT INTO proof VALUES (7, {id}, 'eastus', 'booted', 1, 40, 'before it');
                 INSERT INTO lease VALUES ({id}, 2, 0), ({id}, 1, 0);
                 INSERT INTO pin VALUES ({id}, 'zoe', '', 0, NULL), ({id}, 'ann', '', 0, 5);"
            );
            for (n, (region, lun)) in
                [("westus", -1), ("eastus", 3), ("eastus", -1)].iter().enumerate()
            {
                let of = snapshot(10 * id + n as u32);
                sql += &format!(
                    "INSERT INTO snapshot (point_id, region, lun, arm_key, arm_id, source_disk_id,
                       source_disk_unique_id, size_bytes)
                     VALUES ({id}, '{region}', {lun}, '{}', '{of}', '{disk}', '', {id});",
                    of.to_lowercase()
                );
            }
        }
        store.write(move |c| Ok(c.execute_batch(&sql)?)).await.unwrap();
        store
    }

    #[tokio::test]
    async fn every_point_has_what_is_its_own_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = two_vms(&dir).await;
        for (item, ids) in [(1, [4, 2]), (2, [1, 3])] {
            let points = store.points(ItemId(item)).await.unwrap();
            assert_eq!(points.len(), 2);
            for (point, id) in points.iter().zip(ids) {
                assert_eq!(point.item, ItemId(item));
                let snapshots: Vec<_> =
                    point.snapshots.iter().map(|s| (s.id.as_str(), &*s.region, s.lun)).collect();
                let names = [2, 1, 0].map(|n| snapshot(10 * id + n));
                let expected = [
                    (names[0].as_str(), "eastus", None),
                    (names[1].as_str(), "eastus", Some(3)),
                    (names[2].as_str(), "westus", None),
                ];
                assert_eq!(snapshots, expected);
                assert!(point.snapshots.iter().all(|s| s.size_bytes == u64::from(id)));
                let regions: Vec<_> = point.replicas.iter().map(|r| &*r.region).collect();
                assert_eq!(regions, ["northeurope", "westus"]);
                let details: Vec<_> = point.proofs.iter().map(|p| &*p.detail).collect();
                assert_eq!(details, ["first", "before it", "second"]);
                assert_eq!(point.leases, [RunId(1), RunId(2)]);
                let owners: Vec<_> = point.pins.iter().map(|p| &*p.owner).collect();
                assert_eq!(owners, ["ann", "zoe"]);
            }
        }
        let named = store.points_named("V-backup-daily-20250102-0200").await.unwrap();
        assert_eq!(named.iter().map(|p| p.item.0).collect::<Vec<_>>(), [1, 2]);
        assert!(named.iter().all(|p| p.snapshots.len() == 3));
    }

    #[tokio::test]
    async fn a_listing_that_shows_all_snapshots_needs_no_comparison() {
        let dir = tempfile::tempdir().unwrap();
        let store = two_vms(&dir).await;
        let all = [10, 20, 30, 40].iter().flat_map(|id| (0..3).map(move |n| snapshot(id + n)));
        let mut keys: BTreeSet<String> = all.map(|id| id.to_lowercase()).collect();
        keys.insert("another".to_owned());
        assert!(store.has_no_snapshots_but(keys.clone()).await.unwrap());
        let one = ArmId::parse(&snapshot(21)).unwrap();
        store.snapshot_is_missing(&one, Some(WallTime::from_unix_ms(1))).await.unwrap();
        assert!(!store.has_no_snapshots_but(keys.clone()).await.unwrap());
        store.snapshot_is_missing(&one, None).await.unwrap();
        keys.remove(one.key());
        assert!(!store.has_no_snapshots_but(keys).await.unwrap());
    }
}
