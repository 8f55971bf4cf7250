//! What the retention rules have to know of recovery points: a small part of their rows, read from
//! indexes alone, so that a whole fleet can be asked about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use azdr_domain::pin::Pin;
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::tier::TierSet;
use azdr_env::WallTime;
use rusqlite::{Connection, Row, params_from_iter};

use super::points::{PointRow, ReplicaState, point_name};
use super::{ItemId, RunId, Store, StoreError};

/// How a recovery point stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PointStanding {
    /// Its name.
    pub name: PointName,
    /// Where the originals are.
    pub region: Arc<str>,
    /// The instant it shows.
    pub created: WallTime,
    /// Which tiers it carries.
    pub tiers: TierSet,
    /// How many disks the VM had.
    pub disks: usize,
    /// Its snapshots, by region.
    pub parts: Vec<Part>,
    /// Copies in other regions, by region, and how far they are.
    pub replicas: Vec<(Arc<str>, ReplicaState)>,
    /// Attempts to prove it, oldest first.
    pub attempts: Vec<Attempted>,
    /// Runs that hold it.
    pub leases: Vec<RunId>,
    /// People's holds, lapsed ones included, by owner.
    pub pins: Vec<Pin>,
}

/// A point's snapshots in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub region: Arc<str>,
    /// How many the catalogue has.
    pub snapshots: usize,
    /// Somebody else has deleted one of them.
    pub missing: bool,
}

/// An attempt to prove a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Region of the copy that was tried.
    pub region: Arc<str>,
    /// What was tried.
    pub level: ProofLevel,
    /// Whether it held.
    pub passed: bool,
}

impl PointStanding {
    /// Whether a complete set of its disks is in the region.
    pub fn is_restorable_in(&self, region: &str) -> bool {
        let whole = |part: &Part| part.snapshots == self.disks && !part.missing;
        self.disks > 0
            && self.part_in(region).is_some_and(whole)
            && (region == &*self.region
                || self
                    .replicas
                    .iter()
                    .any(|(r, s)| **r == *region && *s == ReplicaState::Complete))
    }

    /// Whether somebody else has deleted one of its snapshots in the region.
    pub fn is_missing_in(&self, region: &str) -> bool {
        self.part_in(region).is_some_and(|part| part.missing)
    }

    /// Its snapshots in a region, where it has any.
    pub fn part_in(&self, region: &str) -> Option<&Part> {
        self.parts.iter().find(|part| *part.region == *region)
    }
}

impl From<&PointRow> for PointStanding {
    fn from(row: &PointRow) -> Self {
        let mut parts: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
        for snapshot in &row.snapshots {
            let (snapshots, missing) = parts.entry(&snapshot.region).or_default();
            *snapshots += 1;
            *missing |= snapshot.missing.is_some();
        }
        let part = |(region, (snapshots, missing)): (&str, (usize, bool))| Part {
            region: region.into(),
            snapshots,
            missing,
        };
        let attempted = |proof: &super::ProofRow| Attempted {
            region: proof.region.as_str().into(),
            level: proof.level,
            passed: proof.passed,
        };
        Self {
            name: row.name.clone(),
            region: row.region.as_str().into(),
            created: row.created,
            tiers: row.tiers,
            disks: row.description.disks.len(),
            parts: parts.into_iter().map(part).collect(),
            replicas: row.replicas.iter().map(|r| (r.region.as_str().into(), r.state)).collect(),
            attempts: row.proofs.iter().map(attempted).collect(),
            leases: row.leases.clone(),
            pins: row.pins.clone(),
        }
    }
}

impl Store {
    /// How a VM's recovery points stand, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn standings(&self, item: ItemId) -> Result<Vec<PointStanding>, StoreError> {
        self.read(move |c| {
            let mut all = Vec::new();
            read(c, Some(item), |_, standings| all = standings)?;
            Ok(all)
        })
        .await
    }

    /// How the recovery points of every VM that has any stand: `each` gets one VM after the other, with
    /// its points, newest first. What is in memory at once is one VM's, and some tens of bytes for each
    /// snapshot, copy and attempt of all.
    ///
    /// # Errors
    /// When the database cannot be read; then `each` has had some of the VMs.
    pub async fn each_standings<T: Send + 'static>(
        &self,
        mut each: impl FnMut(&mut T, ItemId, Vec<PointStanding>) + Send + 'static,
        mut into: T,
    ) -> Result<T, StoreError> {
        self.read(move |c| {
            read(c, None, |item, standings| each(&mut into, item, standings))?;
            Ok(into)
        })
        .await
    }
}

const OWN: &str = "SELECT item_id, id, name, region, created_ms, tiers_json,
    json_array_length(description_json, '$.disks') FROM point";

/// Reads one VM's points or everybody's, all as of one moment.
fn read(
    c: &Connection,
    vm: Option<ItemId>,
    mut each: impl FnMut(ItemId, Vec<PointStanding>),
) -> Result<(), StoreError> {
    // Nothing is written, so that dropping it is as good as a commit.
    let _as_of_one_moment = c.unchecked_transaction()?;
    let around = Around::read(c, vm)?;
    let filter = if vm.is_some() { "WHERE item_id = ?1" } else { "" };
    let mut own = c.prepare_cached(&format!("{OWN} {filter} ORDER BY item_id, created_ms, id"))?;
    let mut rows = own.query(params_from_iter(vm.map(|vm| vm.0)))?;
    let mut of_vm: Vec<PointStanding> = Vec::new();
    let mut last = None;
    let mut regions = Names::default();
    // There are few sets of tiers.
    let mut tiers: BTreeMap<String, TierSet> = BTreeMap::new();
    while let Some(r) = rows.next()? {
        let item = ItemId(r.get(0)?);
        if let Some(before) = last.replace(item)
            && before != item
        {
            of_vm.reverse();
            each(before, std::mem::take(&mut of_vm));
        }
        let text = |column| r.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        let mut standing = PointStanding {
            name: point_name(text(2)?)?,
            region: regions.shared(text(3)?),
            created: WallTime::from_unix_ms(r.get(4)?),
            tiers: match tiers.get(text(5)?) {
                Some(known) => *known,
                None => {
                    let new =
                        serde_json::from_str(text(5)?).map_err(StoreError::corrupt("tier set"))?;
                    tiers.insert(text(5)?.to_owned(), new);
                    new
                }
            },
            disks: r.get::<_, Option<u32>>(6)?.unwrap_or(0) as usize,
            parts: Vec::new(),
            replicas: Vec::new(),
            attempts: Vec::new(),
            leases: Vec::new(),
            pins: Vec::new(),
        };
        around.complete(r.get(1)?, &mut standing);
        of_vm.push(standing);
    }
    if let Some(item) = last {
        of_vm.reverse();
        each(item, of_vm);
    }
    Ok(())
}

/// What hangs on points.
struct Around {
    parts: ByPoint<Part>,
    replicas: ByPoint<(Arc<str>, ReplicaState)>,
    attempts: ByPoint<Attempted>,
    leases: ByPoint<RunId>,
    pins: ByPoint<Pin>,
}

/// Few regions have many snapshots.
#[derive(Default)]
struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
}

/// Entries by the numbers of their points.
struct ByPoint<T> {
    sorted: Vec<(i64, T)>,
    /// Every so many numbers of `sorted`: few enough for the processor's cache. In a fleet's entries a
    /// binary search alone would wait for memory a dozen times.
    landmarks: Vec<i64>,
}

impl<T> ByPoint<T> {
    const STEP: usize = 16;

    /// `sorted`: by point, and as they are to be shown.
    fn new(sorted: Vec<(i64, T)>) -> Self {
        let landmarks = sorted.iter().step_by(Self::STEP).map(|(point, _)| *point).collect();
        Self { sorted, landmarks }
    }

    fn of(&self, point: i64) -> impl Iterator<Item = &T> {
        let step = self.landmarks.partition_point(|first| *first < point).saturating_sub(1);
        let near = &self.sorted[step * Self::STEP..];
        let before = near.iter().skip_while(move |(p, _)| *p < point);
        before.take_while(move |(p, _)| *p == point).map(|(_, entry)| entry)
    }
}

impl Around {
    fn read(c: &Connection, vm: Option<ItemId>) -> Result<Self, StoreError> {
        let mut regions = Names::default();
        let mut parts: Vec<(i64, Part)> = Vec::new();
        hanging(c, vm, "snapshot", "t.region", "", |point, r| {
            let region = r.get_ref(1)?.as_str()?;
            match parts.last_mut() {
                Some((p, part)) if *p == point && *part.region == *region => part.snapshots += 1,
                _ => {
                    let region = regions.shared(region);
                    parts.push((point, Part { region, snapshots: 1, missing: false }));
                }
            }
            Ok(())
        })?;
        parts.sort_by(|a, b| (a.0, &a.1.region).cmp(&(b.0, &b.1.region)));
        // Those of one region may have come apart.
        parts.dedup_by(|later, first| {
            let same = (later.0, &later.1.region) == (first.0, &first.1.region);
            first.1.snapshots += if same { later.1.snapshots } else { 0 };
            same
        });
        hanging(c, vm, "snapshot", "t.region", "t.missing_ms IS NOT NULL", |point, r| {
            let region = r.get_ref(1)?.as_str()?;
            let place = parts.binary_search_by(|p| (p.0, &*p.1.region).cmp(&(point, region)));
            if let Ok(place) = place {
                parts[place].1.missing = true;
            }
            Ok(())
        })?;
        let mut replicas: Vec<(i64, (Arc<str>, ReplicaState))> = Vec::new();
        hanging(c, vm, "replica", "t.region, t.state", "", |point, r| {
            let region = regions.shared(r.get_ref(1)?.as_str()?);
            replicas.push((point, (region, ReplicaState::parse(r.get_ref(2)?.as_str()?))));
            Ok(())
        })?;
        replicas.sort_by(|a, b| (a.0, &a.1.0).cmp(&(b.0, &b.1.0)));
        // With time and run.
        let mut attempts: Vec<(i64, (i64, i64, Attempted))> = Vec::new();
        hanging(
            c,
            vm,
            "proof",
            "t.at_ms, t.run_id, t.region, t.level, t.passed",
            "",
            |point, r| {
                let attempted = Attempted {
                    region: regions.shared(r.get_ref(3)?.as_str()?),
                    level: r.get_ref(4)?.as_str()?.parse().unwrap_or(ProofLevel::Unproved),
                    passed: r.get(5)?,
                };
                attempts.push((point, (r.get(1)?, r.get(2)?, attempted)));
                Ok(())
            },
        )?;
        attempts.sort_by_key(|(point, (at, run, _))| (*point, *at, *run));
        let mut leases: Vec<(i64, RunId)> = Vec::new();
        hanging(c, vm, "lease", "t.run_id", "", |point, r| {
            leases.push((point, RunId(r.get(1)?)));
            Ok(())
        })?;
        leases.sort_unstable();
        let mut pins: Vec<(i64, Pin)> = Vec::new();
        hanging(c, vm, "pin", "t.owner, t.reason, t.since_ms, t.until_ms", "", |point, r| {
            pins.push((point, super::pins::pin_row(r, 1)?));
            Ok(())
        })?;
        pins.sort_by(|a, b| (a.0, &a.1.owner).cmp(&(b.0, &b.1.owner)));
        Ok(Self {
            parts: ByPoint::new(parts),
            replicas: ByPoint::new(replicas),
            attempts: ByPoint::new(attempts.into_iter().map(|(p, (_, _, a))| (p, a)).collect()),
            leases: ByPoint::new(leases),
            pins: ByPoint::new(pins),
        })
    }

    fn complete(&self, point: i64, standing: &mut PointStanding) {
        standing.parts = self.parts.of(point).cloned().collect();
        standing.replicas = self.replicas.of(point).cloned().collect();
        standing.attempts = self.attempts.of(point).cloned().collect();
        standing.leases = self.leases.of(point).copied().collect();
        standing.pins = self.pins.of(point).cloned().collect();
    }
}

/// The rows of a table that hang on points, one VM's or everybody's; the point's number comes first.
fn hanging(
    c: &Connection,
    vm: Option<ItemId>,
    table: &str,
    columns: &str,
    condition: &str,
    mut add: impl FnMut(i64, &Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    let condition = if condition.is_empty() { "TRUE" } else { condition };
    let from = match vm {
        // In this order: a VM has few points.
        Some(_) => format!(
            "point CROSS JOIN {table} t ON t.point_id = point.id WHERE point.item_id = ?1 AND"
        ),
        None => format!("{table} t WHERE"),
    };
    let mut statement =
        c.prepare_cached(&format!("SELECT t.point_id, {columns} FROM {from} {condition}"))?;
    let mut rows = statement.query(params_from_iter(vm.map(|vm| vm.0)))?;
    while let Some(r) = rows.next()? {
        add(r.get(0)?, r)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use azdr_env::{Ids, SeededIds};

    use super::*;
    use crate::store::Executor;

    const VM: &str =
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v";

    /// Points of four VMs, in no order, with all that can hang on them.
    fn random(seed: u64) -> String {
        let ids = SeededIds::new(seed);
        let below = |n: u64| ids.u64() % n;
        let regions = ["eastus", "westus", "northeurope"];
        let mut sql = String::new();
        for id in 1..5 {
            sql += &format!(
                "INSERT INTO item VALUES ({id}, 'vm', '{id}', '{VM}', 'eastus', NULL, 0);
                 INSERT INTO run (id, workflow, version, input_json, state, priority, requested_by,
                   created_ms) VALUES ({id}, 'verify', 1, '', 'running', 0, '', 0);"
            );
        }
        for point in 1..60 {
            let disk = |n| {
                format!(
                    r#"{{"lun": {n}, "id": "{VM}", "unique_id": "", "name": "", "size_bytes": 1,
                        "sku": "", "caching": ""}}"#
                )
            };
            let disks: Vec<String> = (0..below(4)).map(disk).collect();
            let description = format!(
                r#"{{"version": 1, "id": "{VM}", "vm_id": "", "location": "eastus", "size": "",
                    "os_type": "Linux", "disks": [{}]}}"#,
                disks.join(",")
            );
            let tiers = ["[]", r#"["daily"]"#, r#"["weekly","daily"]"#][below(3) as usize];
            let item = 1 + below(3);
            let created = below(20);
            sql += &format!(
                "INSERT INTO point (id, item_id, name, region, created_ms, tiers_json, consistency,
                   consistency_reason, frozen_ms, size_bytes, operation_id, nonce, description_json,
                   run_id) VALUES ({point}, {item}, 'v-backup-daily-20250101-{:04}', '{}', {created},
                   '{tiers}', 'crash', '', 0, 0, '', '', '{description}', 1);",
                point,
                regions[below(2) as usize],
            );
            for (n, region) in regions.iter().enumerate() {
                for lun in 0..below(4) {
                    let missing = if below(9) == 0 { "5" } else { "NULL" };
                    sql += &format!(
                        "INSERT INTO snapshot (point_id, region, lun, arm_key, arm_id,
                           source_disk_id, source_disk_unique_id, size_bytes, missing_ms)
                         VALUES ({point}, '{region}', {lun}, '{point}-{n}-{lun}', '{VM}', '{VM}', '',
                           1, {missing});"
                    );
                }
                let state = ["queued", "copying", "complete", "failed"][below(4) as usize];
                if below(2) == 0 {
                    sql += &format!(
                        "INSERT INTO replica VALUES ({point}, '{region}', '{state}', 1, 0, NULL, NULL);"
                    );
                }
                for run in 0..below(3) {
                    let level = ["restorable", "booted", "content"][below(3) as usize];
                    sql += &format!(
                        "INSERT INTO proof VALUES ({run}, {point}, '{region}', '{level}', {}, {}, '');",
                        below(2),
                        below(3)
                    );
                }
            }
            for run in (1..5).filter(|_| below(5) == 0) {
                sql += &format!("INSERT INTO lease VALUES ({point}, {run}, 0);");
            }
            for owner in ["zoe", "ann"].iter().filter(|_| below(5) == 0) {
                sql += &format!("INSERT INTO pin VALUES ({point}, '{owner}', 'why', 3, NULL);");
            }
        }
        sql
    }

    #[tokio::test]
    async fn it_is_what_the_whole_rows_say_of_one_vm_and_of_all() {
        for seed in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
            store.write(move |c| Ok(c.execute_batch(&random(seed))?)).await.unwrap();
            let mut expected = BTreeMap::new();
            for item in (1..5).map(ItemId) {
                let rows = store.points(item).await.unwrap();
                let standings: Vec<PointStanding> = rows.iter().map(Into::into).collect();
                assert_eq!(store.standings(item).await.unwrap(), standings, "seed {seed}");
                for (row, standing) in rows.iter().zip(&standings) {
                    for region in ["eastus", "westus", "northeurope", "nowhere"] {
                        let restorable = standing.is_restorable_in(region);
                        assert_eq!(restorable, row.is_restorable_in(region), "seed {seed}");
                        let missing = standing.is_missing_in(region);
                        assert_eq!(missing, row.is_missing_in(region), "seed {seed}");
                    }
                }
                if !rows.is_empty() {
                    expected.insert(item, standings);
                }
            }
            let add = |all: &mut BTreeMap<_, _>, item, points: Vec<PointStanding>| {
                assert!(all.insert(item, points).is_none(), "a VM came twice");
            };
            assert_eq!(store.each_standings(add, BTreeMap::new()).await.unwrap(), expected);
        }
    }

    /// The rows themselves are long, and a VM's are far apart.
    #[tokio::test]
    async fn points_and_snapshots_are_read_from_indexes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        for (sql, index) in [
            (format!("{OWN} ORDER BY item_id, created_ms, id"), "point_by_item"),
            (format!("{OWN} WHERE item_id = 1 ORDER BY item_id, created_ms, id"), "point_by_item"),
            ("SELECT t.point_id, t.region FROM snapshot t WHERE TRUE".to_owned(), "snapshot_2"),
        ] {
            let explained = format!("EXPLAIN QUERY PLAN {sql}");
            let plan: Vec<String> = store
                .read(move |c| {
                    let mut s = c.prepare(&explained)?;
                    let rows = s.query_map([], |r| r.get(3))?;
                    rows.collect::<Result<_, _>>().map_err(Into::into)
                })
                .await
                .unwrap();
            let [only] = &plan[..] else { panic!("{sql}: {plan:?}") };
            assert!(only.contains("USING COVERING INDEX") && only.contains(index), "{sql}: {only}");
        }
    }
}
