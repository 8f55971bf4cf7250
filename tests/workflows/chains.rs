//! Copies of all points of a machine with many disks: so many disks at once as were asked for, never
//! one more, and of each disk one copy at a time, the oldest first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_controller::store::RunState;
use azdr_controller::workflows::{self, bulk, replicate, verify};
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::PolicyChange;
use serde_json::json;

use crate::cases::take;
use crate::cloud::world;
use crate::life::{Bench, db};

const DISKS: usize = 5;
const POINTS: usize = 2;

/// What was seen of copies that are not complete.
#[derive(Default)]
struct Seen {
    /// Most of them at once.
    most: usize,
    /// Source disks of which there were two at once.
    doubled: BTreeSet<String>,
    /// Targets by source disk, in the order in which they appeared.
    begun: BTreeMap<String, Vec<String>>,
}

impl Seen {
    fn begins(&mut self, disk: &str, target: &str) {
        let begun = self.begun.entry(disk.to_owned()).or_default();
        if !begun.iter().any(|t| t == target) {
            begun.push(target.to_owned());
        }
    }

    fn are_under_way(&mut self, copies: Vec<String>) {
        let all = copies.len();
        self.most = self.most.max(all);
        let disks: BTreeSet<String> = copies.into_iter().collect();
        if disks.len() < all {
            self.doubled.extend(disks);
        }
    }
}

/// A machine with five disks and two points.
async fn copied(chains: usize) -> Seen {
    let mut description = world(&[("db", false)]);
    description["vms"][0]["data_disks"] = (1..DISKS)
        .map(|lun| json!({"lun": lun, "name": format!("db-data{lun}"), "size_gb": 1}))
        .collect();
    let bench = Arc::new(Bench::with(description));
    let life = bench.life().await;
    let item = bench.protect_without_agent(&life, db(), PolicyChange::default()).await;
    let mut parts = Vec::new();
    for _ in 0..POINTS {
        let point = take(&life, &item).await;
        let key = point.to_string();
        let region = "westus2".to_owned();
        let max_chains = Some(chains);
        let input = replicate::Input { item: item.id, vm: db(), point, region, max_chains };
        let run = workflows::new_run(replicate::RUN, &input, item.id, "test");
        parts.push(bulk::Part { name: key.clone(), key, run });
        azdr_env::sleep(Duration::from_secs(60)).await;
    }
    let input = bulk::Input {
        what: bulk::What::Replicate,
        max_parallel: 1,
        parts,
        refused: Vec::new(),
        skipped: Vec::new(),
    };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let watching = tokio::spawn(watch(bench.clone(), seen.clone()));
    let run = workflows::new_run(bulk::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    watching.abort();
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    life.end().await;
    let mut seen = seen.lock().unwrap();
    std::mem::take(&mut *seen)
}

async fn watch(bench: Arc<Bench>, seen: Arc<Mutex<Seen>>) {
    let azure = bench.azure_of_its_own();
    loop {
        let listing = bench.cloud.listing().await;
        let mut under_way = Vec::new();
        for resource in listing["resources"].as_array().unwrap() {
            let is_copy = resource["type"] == "Microsoft.Compute/snapshots"
                && resource["location"] == "westus2";
            if !is_copy {
                continue;
            }
            let id = ArmId::parse(resource["id"].as_str().unwrap()).unwrap();
            let found = azure.get_snapshot(&id).await.unwrap();
            // Its name ends with the disk.
            let (_, disk) = id.name().rsplit_once('-').unwrap();
            let disk = disk.to_owned();
            seen.lock().unwrap().begins(&disk, id.name());
            if !found.ready() {
                under_way.push(disk);
            }
        }
        seen.lock().unwrap().are_under_way(under_way);
        azdr_env::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_chains_are_copied_at_once_as_were_asked_for_and_never_one_more() {
    for chains in [1, 3, 64] {
        let seen = copied(chains).await;
        assert_eq!(seen.most, chains.min(DISKS), "with at most {chains}");
        assert!(seen.doubled.is_empty(), "two at once of {:?}", seen.doubled);
        assert_eq!(seen.begun.len(), DISKS, "{:?}", seen.begun);
        for (disk, targets) in &seen.begun {
            let mut oldest_first = targets.clone();
            oldest_first.sort();
            assert_eq!(targets, &oldest_first, "of {disk}");
            assert_eq!(targets.len(), POINTS, "of {disk}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_points_are_verified_at_once_as_were_asked_for_and_never_one_more() {
    for max_parallel in [1, 2, 4] {
        let bench = Bench::new();
        let life = bench.life().await;
        let item = bench.protect(&life, PolicyChange::default()).await;
        let mut parts = Vec::new();
        for _ in 0..4 {
            let point = take(&life, &item).await;
            let (key, region) = (point.to_string(), "eastus".to_owned());
            let input = verify::Input {
                item: item.id,
                vm: db(),
                point,
                region,
                level: verify::Level::Restorable,
            };
            let run = workflows::new_run(verify::RUN, &input, item.id, "test");
            parts.push(bulk::Part { name: key.clone(), key, run });
            azdr_env::sleep(Duration::from_secs(60)).await;
        }
        let what = bulk::What::Verify;
        let (refused, skipped) = (Vec::new(), Vec::new());
        let input = bulk::Input { what, max_parallel, parts, refused, skipped };
        let run = workflows::new_run(bulk::RUN, &input, item.id, "test");
        let id = life.engine.submit(run).await.unwrap();
        let mut most = 0;
        let row = loop {
            let parts = life.store.children_of(id).await.unwrap();
            most = most.max(parts.iter().filter(|run| !run.state.is_terminal()).count());
            let row = life.store.run(id).await.unwrap().unwrap();
            if row.state.is_terminal() {
                break row;
            }
            azdr_env::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!((row.state, most), (RunState::Succeeded, max_parallel));
        life.end().await;
    }
}
