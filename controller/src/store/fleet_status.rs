//! The whole fleet in few reads: one row per VM, found by indexes, however many points there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use azdr_domain::alert::VmFacts;
use azdr_domain::arm_id::ArmId;
use azdr_domain::coverage::ExpectedTimes;
use azdr_domain::objective::LastDrill;
use azdr_domain::policy::Policy;
use azdr_domain::tier::{Tier, TierSet};
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};

use super::cached::Cached;
use super::items::parse_arm_id;
use super::{ItemId, RunId, Store, StoreError};

/// What a screen has to know of a VM.
#[derive(Clone, Debug)]
pub struct FleetRow {
    /// Its row.
    pub item: ItemId,
    /// Its ARM resource ID.
    pub vm: ArmId,
    /// Its policy, if it has one; VMs of the same policy share it.
    pub policy: Option<Arc<Policy>>,
    /// When its policy was last switched on.
    pub enabled_since: WallTime,
    /// When its newest recovery point was taken.
    pub newest: Option<WallTime>,
    /// When its oldest one was.
    pub oldest: Option<WallTime>,
    /// The newest one that carries the lowest tier of its policy; looked up only where the policy
    /// retains no daily points, and else `newest`.
    pub newest_of_lowest: Option<WallTime>,
    /// When one of its points was last proved.
    pub proved: Option<WallTime>,
    /// When an attempt to prove one last failed.
    pub proof_failed: Option<WallTime>,
    /// When the first point was taken that came after the last proof, if any has.
    pub unproved_since: Option<WallTime>,
    /// The newest one that can be restored somewhere; looked up only where the policy has an RPO, and
    /// else `newest`.
    pub newest_restorable: Option<WallTime>,
    /// What its last drill has shown.
    pub last_drill: Option<LastDrill>,
    /// When its last drill that passed was begun.
    pub drilled: Option<WallTime>,
    /// Since when Azure has the VM no more, as far as is known.
    pub gone: Option<WallTime>,
}

impl FleetRow {
    /// As the rules see it; `None` without an enabled policy.
    pub fn facts<'a>(&'a self, expected: &mut ExpectedTimes, now: WallTime) -> Option<VmFacts<'a>> {
        let policy = self.policy.as_deref().filter(|p| p.enabled)?;
        Some(VmFacts {
            vm: self.vm.name(),
            policy,
            enabled_since: self.enabled_since,
            gone: self.gone,
            newest: self.newest,
            newest_of_lowest: self.newest_of_lowest,
            newest_restorable: self.newest_restorable,
            proved: self.proved,
            unproved_since: self.unproved_since,
            expected: expected.of(policy, now),
        })
    }
}

/// Jobs that are not over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenRuns {
    /// Not started.
    pub queued: u32,
    /// Going forward.
    pub running: u32,
    /// Going back.
    pub undoing: u32,
    /// Waiting for a person, oldest first.
    pub stuck: Vec<RunId>,
}

const FLEET: &str = "SELECT i.id, i.arm_id, p.policy_json, p.enabled_since_ms,
    (SELECT created_ms FROM point WHERE item_id = i.id ORDER BY created_ms DESC LIMIT 1),
    (SELECT created_ms FROM point WHERE item_id = i.id ORDER BY created_ms LIMIT 1),
    f.passed_ms, f.failed_ms,
    (SELECT passed FROM drill WHERE item_id = i.id ORDER BY started_ms DESC LIMIT 1),
    (SELECT started_ms FROM drill WHERE item_id = i.id AND passed = 1
       ORDER BY started_ms DESC LIMIT 1),
    (SELECT rto_ms FROM drill WHERE item_id = i.id ORDER BY started_ms DESC LIMIT 1), p.gone_ms,
    f.unproved_ms
  FROM item i LEFT JOIN policy p ON p.item_id = i.id LEFT JOIN item_proof f ON f.item_id = i.id ";

const ALL: &str = "WHERE i.kind = 'vm' ORDER BY i.arm_key";
const ONE: &str = "WHERE i.kind = 'vm' AND i.id = ?1";

/// Points of a VM that are not being deleted and of which some region has all disks, newest first.
const NEWEST_RESTORABLE: &str = "SELECT p.created_ms FROM point p
  WHERE p.item_id = ?1 AND p.pruned_by IS NULL AND EXISTS (SELECT 1 FROM snapshot s
    WHERE s.point_id = p.id AND NOT EXISTS (SELECT 1 FROM snapshot m
        WHERE m.point_id = p.id AND m.region = s.region AND m.missing_ms IS NOT NULL)
      AND (s.region = p.region OR EXISTS (SELECT 1 FROM replica r
        WHERE r.point_id = p.id AND r.region = s.region AND r.state = 'complete')))
  ORDER BY p.created_ms DESC LIMIT 1";

const NEWEST_FIRST: &str =
    "SELECT created_ms, tiers_json FROM point WHERE item_id = ?1 ORDER BY created_ms DESC";

impl Store {
    /// All VMs that the catalogue knows, by ARM id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn fleet(&self) -> Result<Vec<FleetRow>, StoreError> {
        self.read(|c| {
            let mut known = Known::default();
            let mut statement = c.prepare_cached(&format!("{FLEET}{ALL}"))?;
            let mut rows = statement.query([])?;
            let mut fleet = Vec::new();
            while let Some(row) = rows.next()? {
                fleet.push(whole_row(c, row, &mut known)?);
            }
            Ok(fleet)
        })
        .await
    }

    /// The same of one VM; `None` when the catalogue has no such one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn fleet_vm(&self, item: ItemId) -> Result<Option<FleetRow>, StoreError> {
        self.read(move |c| fleet_row_of(c, item)).await
    }

    /// Jobs that are not over, and how many recovery points there are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_runs(&self) -> Result<(OpenRuns, u64), StoreError> {
        self.read(|c| {
            let mut open = OpenRuns {
                queued: c.query_row_cached("SELECT n FROM queue_length", [], |r| r.get(0))?,
                ..OpenRuns::default()
            };
            let mut s = c.prepare_cached(
                "SELECT id, state FROM run WHERE state IN ('running', 'undoing', 'stuck') ORDER BY id",
            )?;
            let mut rows = s.query([])?;
            while let Some(row) = rows.next()? {
                match row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)? {
                    "running" => open.running += 1,
                    "undoing" => open.undoing += 1,
                    _ => open.stuck.push(RunId(row.get(0)?)),
                }
            }
            let points: i64 = c.query_row_cached("SELECT count(*) FROM point", [], |r| r.get(0))?;
            Ok((open, points.unsigned_abs()))
        })
        .await
    }
}

/// Policies by their text: a fleet has few, and reading one costs more than all the rest of its row.
type Known = BTreeMap<String, Arc<Policy>>;

/// One VM; `None` when there is no such row.
pub(super) fn fleet_row_of(c: &Connection, item: ItemId) -> Result<Option<FleetRow>, StoreError> {
    let mut statement = c.prepare_cached(&format!("{FLEET}{ONE}"))?;
    let mut rows = statement.query([item.0])?;
    rows.next()?.map(|row| whole_row(c, row, &mut Known::default())).transpose()
}

fn whole_row(c: &Connection, row: &Row<'_>, known: &mut Known) -> Result<FleetRow, StoreError> {
    let mut vm = fleet_row(row)?;
    let Some(text) = row.get::<_, Option<String>>(2)? else { return Ok(vm) };
    let policy = match known.get(&text) {
        Some(policy) => policy.clone(),
        None => {
            let policy = serde_json::from_str(&text);
            let policy: Arc<Policy> = Arc::new(policy.map_err(StoreError::corrupt("policy"))?);
            known.insert(text, Arc::clone(&policy));
            policy
        }
    };
    if let Some(lowest) = policy.retention.tiers().iter().last()
        && lowest != Tier::Daily
    {
        vm.newest_of_lowest = newest_of(c, vm.item, lowest)?;
    }
    if policy.rpo.is_some() {
        let newest = c.query_row_cached(NEWEST_RESTORABLE, [vm.item.0], |r| r.get(0)).optional()?;
        vm.newest_restorable = newest.map(WallTime::from_unix_ms);
    }
    vm.policy = Some(policy);
    Ok(vm)
}

fn fleet_row(r: &Row<'_>) -> rusqlite::Result<FleetRow> {
    let time = |column| r.get::<_, Option<i64>>(column).map(|ms| ms.map(WallTime::from_unix_ms));
    let newest = time(4)?;
    Ok(FleetRow {
        item: ItemId(r.get(0)?),
        vm: parse_arm_id(&r.get::<_, String>(1)?, 1)?,
        policy: None,
        enabled_since: time(3)?.unwrap_or(WallTime::from_unix_ms(0)),
        newest,
        oldest: time(5)?,
        newest_of_lowest: newest,
        proved: time(6)?,
        proof_failed: time(7)?,
        unproved_since: time(12)?,
        newest_restorable: newest,
        last_drill: match (r.get(8)?, r.get::<_, Option<i64>>(10)?) {
            (None, _) => None,
            (Some(false), _) => Some(LastDrill::Failed),
            (Some(true), None) => Some(LastDrill::Unmeasured),
            (Some(true), Some(ms)) => {
                Some(LastDrill::Took(Duration::from_millis(ms.unsigned_abs())))
            }
        },
        drilled: time(9)?,
        gone: time(11)?,
    })
}

/// Stops at the first that carries it, which is nearly always the newest.
fn newest_of(c: &Connection, item: ItemId, tier: Tier) -> Result<Option<WallTime>, StoreError> {
    let mut s = c.prepare_cached(NEWEST_FIRST)?;
    let mut rows = s.query([item.0])?;
    while let Some(row) = rows.next()? {
        let tiers: TierSet = serde_json::from_str(&row.get::<_, String>(1)?)
            .map_err(StoreError::corrupt("tier set"))?;
        if tiers.contains(tier) {
            return Ok(Some(WallTime::from_unix_ms(row.get(0)?)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Executor;

    /// A screen must not take longer because there are more points.
    #[tokio::test]
    async fn no_point_proof_or_drill_is_scanned() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        let plan: Vec<String> = store
            .read(|c| {
                let mut s = c.prepare(&format!("EXPLAIN QUERY PLAN {FLEET}{ALL}"))?;
                let rows = s.query_map([], |r| r.get(3))?;
                rows.collect::<Result<_, _>>().map_err(Into::into)
            })
            .await
            .unwrap();
        let of = |table: &str| plan.iter().filter(move |l| l.contains(table)).collect::<Vec<_>>();
        assert_eq!(of("SEARCH point USING COVERING INDEX point_by_item").len(), 2, "{plan:#?}");
        assert_eq!(of("SEARCH drill USING").len(), 3, "{plan:#?}");
        assert_eq!(of("SCAN").len(), 1, "only the VMs themselves: {plan:#?}");
    }

    #[tokio::test]
    async fn a_vm_shows_its_last_proof_drill_and_points() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        let point = |name: &str, ms: i64, tiers: &str| {
            format!(
                "INSERT INTO point (item_id, name, region, created_ms, tiers_json, consistency,
                   consistency_reason, frozen_ms, size_bytes, operation_id, nonce, description_json,
                   run_id) VALUES (1, '{name}', 'eastus', {ms}, '{tiers}', 'crash', '', 0, 0, '', '',
                   '{{}}', 1);"
            )
        };
        let policy = serde_json::to_string(&Policy {
            retention: azdr_domain::policy::Retention {
                daily: 0,
                weekly: 4,
                monthly: 0,
                yearly: 0,
            },
            ..Policy::default()
        })
        .unwrap();
        let weekly = serde_json::to_string(&TierSet::only(Tier::Weekly)).unwrap();
        let daily = serde_json::to_string(&TierSet::only(Tier::Daily)).unwrap();
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v";
        let sql = format!(
            "INSERT INTO item VALUES (1, 'vm', '{}', '{id}', 'eastus', NULL, 0);
             INSERT INTO policy (item_id, policy_json, enabled, enabled_since_ms, updated_ms, updated_by)
               VALUES (1, '{policy}', 1, 5, 0, 'alice');
             {}{}{}
             INSERT INTO proof VALUES (1, 1, 'eastus', 'restorable', 1, 40, '');
             INSERT INTO proof VALUES (2, 2, 'eastus', 'restorable', 0, 60, '');
             INSERT INTO proof VALUES (3, 1, 'eastus', 'restorable', 1, 50, '');
             INSERT INTO drill VALUES (4, 1, 'a', 'eastus', 70, 75, 1, 9, NULL);
             INSERT INTO drill VALUES (5, 1, 'a', 'eastus', 80, 85, 0, NULL, 'no boot');",
            id.to_lowercase(),
            point("a", 10, &weekly),
            point("b", 20, &weekly),
            point("c", 30, &daily),
        );
        store.write(move |c| Ok(c.execute_batch(&sql)?)).await.unwrap();
        let fleet = store.fleet().await.unwrap();
        let ms = |at: Option<WallTime>| at.map(WallTime::unix_ms);
        let vm = &fleet[0];
        assert_eq!((ms(vm.oldest), ms(vm.newest)), (Some(10), Some(30)));
        assert_eq!(ms(vm.newest_of_lowest), Some(20));
        assert_eq!((ms(vm.proved), ms(vm.proof_failed)), (Some(50), Some(60)));
        assert_eq!((vm.last_drill, ms(vm.drilled)), (Some(LastDrill::Failed), Some(70)));
        assert_eq!(store.open_runs().await.unwrap(), (OpenRuns::default(), 3));
    }
}
