//! Catalogue changes: plain data that a step returns, applied in the transaction that journals the
//! step as done.
//!
//! Applying a change twice equals applying it once (I7): a step that is repeated repeats its changes.

use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::CaptureRecord;
use azdr_domain::consistency::Consistency;
use azdr_domain::recovery_point::PointName;
use azdr_domain::tier::TierSet;
use azdr_domain::vm_description::VmDescription;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::error::to_json;
use super::items::ensure_vm;
use super::points::ReplicaState;
use super::runs::{insert_run, queued_equal};
use super::{ItemId, NewRun, RunId, StoreError, alerts};
use crate::mutation::{Mutation, planted};

/// A change to the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum CatalogueChange {
    /// What was seen of a capture, for people.
    RecordCapture {
        /// The attempt.
        operation_id: String,
        /// What was seen.
        record: CaptureRecord,
    },
    /// Nothing came of a capture.
    ForgetCapture {
        /// The attempt.
        operation_id: String,
    },
    /// A recovery point now exists.
    AddPoint(Box<NewPoint>),
    /// A recovery point is gone, with its snapshots' rows.
    RemovePoint {
        /// Whose.
        item: ItemId,
        /// Its name.
        name: PointName,
    },
    /// A point's copy in another region has a new state.
    SetReplica {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
        /// Where the copy is.
        region: String,
        /// How far it is.
        state: ReplicaState,
        /// The copies' snapshots, when complete.
        snapshots: Vec<NewSnapshot>,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// A point's copies in one region are gone.
    RemoveReplica {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
        /// Where the copy was.
        region: String,
    },
    /// An attempt to prove a point, passed or not.
    AddProof {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
        /// Region of the copy that was tried.
        region: String,
        /// `restorable`, `booted` or `content`.
        level: String,
        /// Whether it held.
        passed: bool,
        /// In words.
        detail: String,
    },
    /// Blocks of one of a point's snapshots were hashed.
    RecordContent {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
        /// Of which disk; `None`: the OS disk.
        lun: Option<u32>,
        /// A [`Manifest`](azdr_domain::content::Manifest), as it is kept.
        manifest: Vec<u8>,
    },
    /// The hashes that this run has taken of a point are not all there are to be: none of them counts.
    ForgetContent {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
    },
    /// A DR test has ended.
    AddDrill {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
        /// Where.
        region: String,
        /// When it was declared.
        started: WallTime,
        /// Whether everything held.
        passed: bool,
        /// Declared start to the outside probe's success.
        rto_ms: Option<u64>,
        /// Why it failed.
        error: Option<String>,
    },
    /// This run holds a point until the run is over (I1).
    TakeLease {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
    },
    /// A point is about to be deleted: no lease can be taken on it and no pin set any more. Refused
    /// while it is leased or pinned.
    ClaimForPruning {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
    },
    /// It is not pruned after all.
    Unclaim {
        /// Whose.
        item: ItemId,
        /// The point's name.
        name: PointName,
    },
    /// A restored instance with this vmId belongs to this run.
    ExpectInstance {
        /// Azure's vmId, lower case, as read from Azure.
        vm_guid: String,
        /// Whose agent it carries.
        item: ItemId,
        /// Whether the certificate it gets becomes the VM's own.
        durable: bool,
        /// The machine becomes a VM in its own right: its resource ID and region.
        enrol_as: Option<(ArmId, String)>,
    },
    /// A VM that was to be is not: its row goes, unless something else refers to it.
    ForgetVm {
        /// Its resource ID.
        vm: ArmId,
    },
    /// Azure has no such snapshot, and azdr has not deleted it.
    SnapshotMissing {
        /// Which.
        id: ArmId,
    },
    /// A disk was replaced and is kept for a while.
    KeepDisk {
        /// Which.
        disk: ArmId,
        /// Whose.
        item: ItemId,
        /// Until when.
        until: WallTime,
    },
    /// The disk is in use again.
    UnkeepDisk {
        /// Which.
        disk: ArmId,
    },
    /// Start another run.
    StartRun(Box<NewRun>),
    /// Start another run, unless an equal one is queued: that one will see what there is by then.
    StartRunUnlessQueued(Box<NewRun>),
    /// Start another run when a second person has approved it. An item has at most one that waits.
    AskApproval {
        /// The run.
        run: Box<NewRun>,
        /// What it waits for.
        words: String,
    },
    /// A run that waits for approval is not needed any more.
    WithdrawApproval {
        /// About what.
        item: ItemId,
    },
    /// Whether the VM's tag mirrors its policy.
    SetTagProblem {
        /// Whose.
        item: ItemId,
        /// Why it does not; `None`: it does.
        problem: Option<String>,
    },
}

/// A recovery point to be recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewPoint {
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
    /// Of the capture that made it.
    pub operation_id: String,
    /// What its witnesses carry.
    pub nonce: String,
    /// The VM at that time.
    pub description: VmDescription,
    /// Its disks.
    pub snapshots: Vec<NewSnapshot>,
}

/// A snapshot to be recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// The snapshot resource.
    pub id: ArmId,
    /// The disk it was taken of.
    pub source_disk: ArmId,
    /// That disk's `uniqueId`: what defines its chain.
    pub source_disk_unique_id: String,
    /// Provisioned size.
    pub size_bytes: u64,
}

/// The column's form of a LUN.
pub(super) fn lun_column(lun: Option<u32>) -> i64 {
    lun.map_or(-1, i64::from)
}

pub(super) fn apply(
    c: &Connection,
    run: RunId,
    change: &CatalogueChange,
    now: WallTime,
) -> Result<(), StoreError> {
    use CatalogueChange as Change;
    match change {
        Change::RecordCapture { operation_id, record } => {
            c.execute_cached(
                "INSERT OR REPLACE INTO capture VALUES (?1, ?2)",
                (operation_id, to_json(record)),
            )?;
            Ok(())
        }
        Change::ForgetCapture { operation_id } => {
            c.execute_cached("DELETE FROM capture WHERE operation_id = ?1", [operation_id])?;
            Ok(())
        }
        Change::AddPoint(point) => add_point(c, run, point),
        Change::RemovePoint { item, name } => remove_point(c, *item, name, now),
        Change::SetReplica { item, name, region, state, snapshots, error } => {
            let point = point_id(c, *item, name)?;
            c.execute_cached(
                "INSERT INTO replica VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (point_id, region) DO UPDATE SET state = excluded.state,
                   started_ms = CASE WHEN run_id = excluded.run_id THEN started_ms
                     ELSE excluded.started_ms END,
                   run_id = excluded.run_id, finished_ms = excluded.finished_ms,
                   error = excluded.error",
                (
                    point,
                    region,
                    state.as_str(),
                    run.0,
                    now.unix_ms(),
                    state.is_over().then(|| now.unix_ms()),
                    error,
                ),
            )?;
            snapshots.iter().try_for_each(|s| add_snapshot(c, point, region, s))?;
            // A new copy does not show the point's pins yet.
            super::pins::changed_if_any(c, point)
        }
        Change::RemoveReplica { item, name, region } => {
            let point = point_id(c, *item, name)?;
            let key = (point, region);
            c.execute_cached("DELETE FROM snapshot WHERE point_id = ?1 AND region = ?2", key)?;
            c.execute_cached("DELETE FROM replica WHERE point_id = ?1 AND region = ?2", key)?;
            alerts::point_gone(c, *item, name.as_str(), Some(region), now)
        }
        Change::AddProof { item, name, region, level, passed, detail } => {
            let point = point_id(c, *item, name)?;
            c.execute_cached(
                "INSERT OR REPLACE INTO proof VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (run.0, point, region, level, passed, now.unix_ms(), detail),
            )?;
            match passed {
                true => alerts::proved(c, run, *item, name.as_str(), region, now),
                false => Ok(()),
            }
        }
        Change::RecordContent { item, name, lun, manifest } => {
            let point = point_id(c, *item, name)?;
            super::content::record(c, run, point, *lun, manifest, now)
        }
        Change::ForgetContent { item, name } => super::content::forget(c, run, *item, name),
        Change::AddDrill { item, name, region, started, passed, rto_ms, error } => {
            c.execute_cached(
                "INSERT OR REPLACE INTO drill VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                (
                    run.0,
                    item.0,
                    name.as_str(),
                    region,
                    started.unix_ms(),
                    now.unix_ms(),
                    passed,
                    rto_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
                    error,
                ),
            )?;
            alerts::drill_recorded(c, run, *passed, *rto_ms, now)
        }
        Change::TakeLease { item, name } => {
            let point = point_id(c, *item, name)?;
            let claimed: Option<i64> =
                c.query_row_cached("SELECT pruned_by FROM point WHERE id = ?1", [point], |r| {
                    r.get(0)
                })?;
            if let Some(run) = claimed {
                let message = format!("{name} is being deleted by job {run}");
                return Err(StoreError::Refused(message));
            }
            c.execute_cached(
                "INSERT OR IGNORE INTO lease VALUES (?1, ?2, ?3)",
                (point, run.0, now.unix_ms()),
            )?;
            Ok(())
        }
        Change::ClaimForPruning { item, name } => {
            refuse_if_leased(c, *item, name)?;
            super::pins::refuse_if_pinned(c, *item, name, now)?;
            let point = point_id(c, *item, name)?;
            c.execute_cached("UPDATE point SET pruned_by = ?2 WHERE id = ?1", (point, run.0))?;
            Ok(())
        }
        Change::Unclaim { item, name } => {
            c.execute_cached(
                "UPDATE point SET pruned_by = NULL WHERE item_id = ?1 AND name = ?2",
                (item.0, name.as_str()),
            )?;
            Ok(())
        }
        Change::ExpectInstance { vm_guid, item, durable, enrol_as } => {
            let own = match enrol_as {
                Some((vm, location)) => Some(ensure_vm(c, vm, location, Some(vm_guid), now)?.id.0),
                None => None,
            };
            c.execute_cached(
                "INSERT OR REPLACE INTO expected_instance VALUES (?1, ?2, ?3, ?4, ?5)",
                (vm_guid, item.0, run.0, durable, own),
            )?;
            Ok(())
        }
        Change::ForgetVm { vm } => forget_vm(c, vm),
        Change::SnapshotMissing { id } => {
            c.execute_cached(
                "UPDATE snapshot SET missing_ms = ?2 WHERE arm_key = ?1 AND missing_ms IS NULL",
                (id.key(), now.unix_ms()),
            )?;
            Ok(())
        }
        Change::KeepDisk { disk, item, until } => {
            c.execute_cached(
                "INSERT OR REPLACE INTO kept_disk VALUES (?1, ?2, ?3, ?4, ?5)",
                (disk.key(), disk.as_str(), item.0, run.0, until.unix_ms()),
            )?;
            Ok(())
        }
        Change::UnkeepDisk { disk } => {
            c.execute_cached("DELETE FROM kept_disk WHERE arm_key = ?1", [disk.key()])?;
            Ok(())
        }
        Change::StartRun(new) => insert_run(c, new, now).map(|_| ()),
        Change::StartRunUnlessQueued(new) => match queued_equal(c, new)? {
            Some(_) => Ok(()),
            None => insert_run(c, new, now).map(|_| ()),
        },
        Change::AskApproval { run, words } => super::approvals::ask(c, run, words, now),
        Change::WithdrawApproval { item } => super::approvals::withdraw(c, *item, now),
        Change::SetTagProblem { item, problem } => {
            c.execute_cached(
                "UPDATE policy SET tag_problem = ?2 WHERE item_id = ?1",
                (item.0, problem),
            )?;
            Ok(())
        }
    }
}

fn forget_vm(c: &Connection, vm: &ArmId) -> Result<(), StoreError> {
    let item: Option<i64> = c
        .query_row_cached("SELECT id FROM item WHERE arm_key = ?1", [vm.key()], |r| r.get(0))
        .optional()?;
    let Some(item) = item else { return Ok(()) };
    let needed: bool = c.query_row_cached(
        "SELECT EXISTS (SELECT 1 FROM policy WHERE item_id = ?1)
           OR EXISTS (SELECT 1 FROM point WHERE item_id = ?1)
           OR EXISTS (SELECT 1 FROM drill WHERE item_id = ?1)
           OR EXISTS (SELECT 1 FROM run WHERE item_id = ?1)
           OR EXISTS (SELECT 1 FROM kept_disk WHERE item_id = ?1)",
        [item],
        |r| r.get(0),
    )?;
    if needed {
        return Ok(());
    }
    for statement in [
        "DELETE FROM expected_instance WHERE own_item_id = ?1 OR item_id = ?1",
        "DELETE FROM enrolment_token WHERE item_id = ?1",
        "DELETE FROM agent_certificate WHERE item_id = ?1",
        "DELETE FROM agent WHERE item_id = ?1",
        "DELETE FROM item WHERE id = ?1",
    ] {
        c.execute_cached(statement, [item])?;
    }
    Ok(())
}

pub(super) fn add_point(c: &Connection, run: RunId, point: &NewPoint) -> Result<(), StoreError> {
    let size: u64 = point.snapshots.iter().map(|s| s.size_bytes).sum();
    c.execute_cached(
        "INSERT INTO point (item_id, name, region, created_ms, tiers_json, consistency,
           consistency_reason, frozen_ms, size_bytes, operation_id, nonce, description_json, run_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (item_id, name) DO NOTHING",
        rusqlite::params![
            point.item.0,
            point.name.as_str(),
            point.region,
            point.created.unix_ms(),
            to_json(&point.tiers),
            point.consistency.to_string(),
            point.consistency_reason,
            point.frozen_ms as i64,
            size as i64,
            point.operation_id,
            point.nonce,
            to_json(&point.description),
            run.0,
        ],
    )?;
    let id = point_id(c, point.item, &point.name)?;
    point.snapshots.iter().try_for_each(|s| add_snapshot(c, id, &point.region, s))
}

pub(super) fn add_snapshot(
    c: &Connection,
    point: i64,
    region: &str,
    snapshot: &NewSnapshot,
) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT INTO snapshot (point_id, region, lun, arm_key, arm_id, source_disk_id,
           source_disk_unique_id, size_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (point_id, region, lun) DO UPDATE SET arm_key = excluded.arm_key,
           arm_id = excluded.arm_id, missing_ms = NULL",
        (
            point,
            region,
            lun_column(snapshot.lun),
            snapshot.id.key(),
            snapshot.id.as_str(),
            snapshot.source_disk.as_str(),
            &snapshot.source_disk_unique_id,
            snapshot.size_bytes as i64,
        ),
    )?;
    Ok(())
}

fn remove_point(
    c: &Connection,
    item: ItemId,
    name: &PointName,
    now: WallTime,
) -> Result<(), StoreError> {
    refuse_if_leased(c, item, name)?;
    super::pins::refuse_if_pinned(c, item, name, now)?;
    super::pins::remove_lapsed(c, item, name)?;
    c.execute_cached(
        "DELETE FROM capture WHERE operation_id IN
           (SELECT operation_id FROM point WHERE item_id = ?1 AND name = ?2)",
        (item.0, name.as_str()),
    )?;
    c.execute_cached(
        "DELETE FROM point WHERE item_id = ?1 AND name = ?2",
        (item.0, name.as_str()),
    )?;
    alerts::point_gone(c, item, name.as_str(), None, now)
}

/// A lease keeps its point, whatever a plan said before it was taken (I1).
fn refuse_if_leased(c: &Connection, item: ItemId, name: &PointName) -> Result<(), StoreError> {
    if planted(Mutation::PruneIgnoresLeases) || planted(Mutation::PruneForgetsLineage) {
        return Ok(());
    }
    let lease = c
        .query_row_cached(
            "SELECT l.run_id FROM lease l JOIN point p ON p.id = l.point_id
             WHERE p.item_id = ?1 AND p.name = ?2",
            (item.0, name.as_str()),
            |r| r.get::<_, i64>(0),
        )
        .optional()?;
    if let Some(run) = lease {
        return Err(StoreError::Refused(format!("{name} is held by job {run}")));
    }
    Ok(())
}

pub(super) fn point_id(c: &Connection, item: ItemId, name: &PointName) -> Result<i64, StoreError> {
    c.query_row_cached(
        "SELECT id FROM point WHERE item_id = ?1 AND name = ?2",
        (item.0, name.as_str()),
        |r| r.get(0),
    )
    .optional()?
    .ok_or_else(|| StoreError::Missing(format!("recovery point {name}")))
}
