//! Writes a rebuilt catalogue, whole or not at all.

use azdr_domain::arm_id::ArmId;
use azdr_domain::pin::Pin;
use azdr_domain::policy::Policy;
use azdr_env::WallTime;
use serde_json::json;

use super::cached::Cached;
use super::change::{NewPoint, NewSnapshot, add_point, add_snapshot, point_id};
use super::error::to_json;
use super::items::{ensure_vm, item_by_key};
use super::points::ReplicaState;
use super::{DeletionHold, REBUILD, RunId, Stamp, Store, StoreError, deletion_hold, pins, stamp};

/// Everything that a rebuilt database begins with.
#[derive(Clone, Debug)]
pub struct Rebuild {
    /// With the old installation.
    pub stamp: Stamp,
    /// Name and certificate serial of the first admin.
    pub admin: (String, String),
    /// VMs with what is known of them.
    pub items: Vec<RebuiltItem>,
    /// Disks that restores have replaced.
    pub kept_disks: Vec<RebuiltKept>,
    /// Number of the run that stands for the rebuild; later ones count from here.
    pub run: i64,
    /// Nothing is deleted until it is released.
    pub hold: DeletionHold,
}

/// A VM.
#[derive(Clone, Debug)]
pub struct RebuiltItem {
    /// Its ARM resource ID.
    pub id: ArmId,
    /// Azure region.
    pub location: String,
    /// Azure's vmId, as read from Azure.
    pub vm_guid: Option<String>,
    /// From its tag.
    pub policy: Option<Policy>,
    /// Oldest first.
    pub points: Vec<RebuiltPoint>,
}

/// A disk that a restore has replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltKept {
    /// Which.
    pub disk: ArmId,
    /// Whose it was.
    pub vm: ArmId,
    /// Azure region.
    pub location: String,
    /// Until when it is kept.
    pub until: WallTime,
    /// The restore that replaced it.
    pub run: i64,
}

/// A recovery point.
#[derive(Clone, Debug)]
pub struct RebuiltPoint {
    /// With an item that is not known yet.
    pub point: NewPoint,
    /// The run that made it.
    pub run: i64,
    /// Its copies, as far as anything of them is there.
    pub replicas: Vec<RebuiltReplica>,
    /// People's holds.
    pub pins: Vec<Pin>,
}

/// A copy in another region.
#[derive(Clone, Debug)]
pub struct RebuiltReplica {
    /// Azure region.
    pub region: String,
    /// The run that made it.
    pub run: i64,
    /// When it was begun.
    pub started: WallTime,
    /// Its snapshots.
    pub snapshots: Vec<NewSnapshot>,
    /// Why it is not whole, if so.
    pub problem: Option<String>,
}

impl Store {
    /// Writes a rebuilt catalogue into a new database, in one transaction.
    ///
    /// # Errors
    /// `Refused` when the database has a stamp; nothing is written then.
    pub async fn rebuild(&self, rebuild: Rebuild, now: WallTime) -> Result<(), StoreError> {
        self.write(move |c| {
            let (admin, serial) = &rebuild.admin;
            stamp::stamp(c, &rebuild.stamp, admin, serial, now)?;
            deletion_hold::hold(c, &rebuild.hold)?;
            let (vms, points) =
                (rebuild.items.len(), rebuild.items.iter().map(|i| i.points.len()).sum::<usize>());
            for item in rebuild.items {
                write_item(c, item, now)?;
            }
            for kept in &rebuild.kept_disks {
                let none = None::<&str>;
                let item = match item_by_key(c, kept.vm.key())? {
                    Some(item) => item,
                    None => ensure_vm(c, &kept.vm, &kept.location, none, now)?,
                };
                c.execute_cached(
                    "INSERT INTO kept_disk VALUES (?1, ?2, ?3, ?4, ?5)",
                    (
                        kept.disk.key(),
                        kept.disk.as_str(),
                        item.id.0,
                        kept.run,
                        kept.until.unix_ms(),
                    ),
                )?;
            }
            // Those before it are nobody's any more, and their numbers are not given again.
            c.execute_cached(
                "INSERT INTO run (id, workflow, version, input_json, state, priority, requested_by,
                   created_ms, started_ms, finished_ms, result_json)
                 VALUES (?1, ?2, 1, '{}', 'succeeded', 0, ?3, ?4, ?4, ?4, ?5)",
                (
                    rebuild.run,
                    REBUILD,
                    admin,
                    now.unix_ms(),
                    to_json(&json!({"rebuild": {"vms": vms, "points": points}})),
                ),
            )?;
            Ok(())
        })
        .await
    }
}

fn write_item(
    c: &rusqlite::Connection,
    item: RebuiltItem,
    now: WallTime,
) -> Result<(), StoreError> {
    let row = ensure_vm(c, &item.id, &item.location, item.vm_guid.as_ref(), now)?;
    c.execute_cached(
        "INSERT INTO unrecorded_certificates VALUES (?1, ?2)",
        (row.id.0, now.unix_ms()),
    )?;
    if let Some(policy) = &item.policy {
        c.execute_cached(
            "INSERT INTO policy (item_id, policy_json, enabled, enabled_since_ms, updated_ms,
               updated_by) VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
            (row.id.0, to_json(policy), policy.enabled, now.unix_ms(), REBUILD),
        )?;
    }
    for rebuilt in item.points {
        let point = NewPoint { item: row.id, ..rebuilt.point };
        add_point(c, RunId(rebuilt.run), &point)?;
        let id = point_id(c, row.id, &point.name)?;
        // A point whose originals are gone still has the size of its disks.
        c.execute_cached(
            "UPDATE point SET size_bytes = ?2 WHERE id = ?1",
            (id, point.description.size_bytes() as i64),
        )?;
        for replica in rebuilt.replicas {
            c.execute_cached(
                "INSERT INTO replica VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    id,
                    &replica.region,
                    match replica.problem {
                        None => ReplicaState::Complete.as_str(),
                        Some(_) => ReplicaState::Failed.as_str(),
                    },
                    replica.run,
                    replica.started.unix_ms(),
                    now.unix_ms(),
                    &replica.problem,
                ),
            )?;
            for snapshot in &replica.snapshots {
                add_snapshot(c, id, &replica.region, snapshot)?;
            }
        }
        for pin in &rebuilt.pins {
            pins::insert(c, id, pin)?;
        }
        pins::changed_if_any(c, id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{CertificateScope, Executor, ItemId};

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(days: u32) -> WallTime {
        WallTime::from_unix_ms(1_764_576_000_000).plus(days * DAY)
    }

    /// A database that was rebuilt on day 10, with one VM.
    async fn rebuilt(dir: &tempfile::TempDir) -> (Store, ItemId) {
        let store = Store::open(&dir.path().join("azdr.db"), Executor::Inline).unwrap();
        let subscription = "00000000-0000-0000-0000-000000000001";
        let rebuild = Rebuild {
            stamp: Stamp {
                cloud: "simulated".into(),
                tenant_id: "t".into(),
                subscriptions: vec![subscription.into()],
                installation: "0a1b2c3d".into(),
            },
            admin: ("alice".into(), "serial".into()),
            items: vec![RebuiltItem {
                id: ArmId::virtual_machine(subscription, "prod", "db").unwrap(),
                location: "eastus".into(),
                vm_guid: Some("guid".into()),
                policy: None,
                points: Vec::new(),
            }],
            kept_disks: Vec::new(),
            run: 1007,
            hold: DeletionHold { since: at(10), reason: "rebuilt".into() },
        };
        store.rebuild(rebuild.clone(), at(10)).await.unwrap();
        // Whole or not at all: a second time it changes nothing.
        assert!(store.rebuild(rebuild, at(11)).await.is_err());
        let item = store.items().await.unwrap()[0].id;
        (store, item)
    }

    async fn shown(store: &Store, item: ItemId, serial: &str, issued: u32) -> Option<bool> {
        let (issued, until) = (at(issued), at(issued + 30));
        let taken = store.take_in_certificate(item, serial.into(), issued, until, at(12)).await;
        taken.unwrap().map(|c| c.superseded)
    }

    #[tokio::test]
    async fn certificates_from_before_are_taken_in_until_they_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let (store, item) = rebuilt(&dir).await;
        assert_eq!(shown(&store, item, "newest", 9).await, Some(false));
        // A clone shows an older one: it is of no use at the door of the VM itself.
        assert_eq!(shown(&store, item, "older", 3).await, Some(true));
        // Issued after the rebuild, and not recorded: not by this controller.
        assert_eq!(shown(&store, item, "stranger", 11).await, None);
        assert_eq!(store.revoke_certificates(item, at(12)).await.unwrap(), 2);
        assert_eq!(shown(&store, item, "another", 8).await, None);
        assert!(store.certificate("newest").await.unwrap().unwrap().revoked);
    }

    #[tokio::test]
    async fn a_clone_that_comes_first_does_not_lock_the_vm_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, item) = rebuilt(&dir).await;
        assert_eq!(shown(&store, item, "older", 3).await, Some(false));
        assert_eq!(shown(&store, item, "newest", 9).await, Some(false));
        let newest = store.newest_certificate(item).await.unwrap().unwrap();
        assert_eq!((newest.serial.as_str(), newest.scope), ("newest", CertificateScope::Vm));
    }

    #[tokio::test]
    async fn new_runs_count_from_the_rebuild() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = rebuilt(&dir).await;
        assert_eq!(store.rebuilt().await.unwrap().unwrap().run, RunId(1007));
        let run = crate::store::NewRun {
            workflow: "verify".into(),
            version: 1,
            input: serde_json::Value::Null,
            priority: 0,
            item: None,
            parent: None,
            requested_by: "test".into(),
        };
        let limit = crate::store::QueueLimit::NONE;
        assert_eq!(store.queue_run(run, limit, at(12)).await.unwrap(), RunId(1008));
    }
}
