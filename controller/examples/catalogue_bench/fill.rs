//! Writes the catalogue as runs have: through the store, in the order of time, each run with the
//! changes that its workflow makes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use azdr_controller::store::change::{NewPoint, NewSnapshot};
use azdr_controller::store::{
    CatalogueChange, CertificateScope, Entry, Event, Executor, ItemId, NewRun, Progress,
    QueueLimit, ReplicaState, RunState, Store, StoreError, VmSeen,
};
use azdr_controller::workflows::{backup, dr_test, new_run, replicate, verify};
use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::{CanarySight, CaptureRecord, DiskCapture, FileSystemFreeze};
use azdr_domain::consistency::Consistency;
use azdr_domain::machine_disk::MachineDisk;
use azdr_domain::machine_evidence::WitnessRecord;
use azdr_domain::pin::Pin;
use azdr_domain::recovery_point::{VmDescription, snapshot_name};
use azdr_domain::region::Region;
use azdr_env::{Env, WallTime};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::task::unconstrained;

use crate::fleet::{Dice, Fleet, HOME, SUBSCRIPTION, TARGET, Vm};
use crate::history::{History, Past, Point, What};

/// Runs that are written at once.
const AT_ONCE: usize = 512;
/// One point of so many is pinned.
const PINNED: usize = 1000;

/// Everything that is written.
pub(crate) struct Catalogue<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) history: &'a History,
    pub(crate) env: &'a Env,
}

impl Catalogue<'_> {
    /// Fills an initialised database.
    pub(crate) async fn write(&self, database: &Path) -> anyhow::Result<()> {
        let store = Store::open(database, Executor::BlockingPool)?;
        // Most of it is written to places all over the indexes.
        store
            .write(|c| {
                c.execute_batch("PRAGMA cache_size = -1000000")?;
                Ok(c.query_row("PRAGMA wal_autocheckpoint = 50000", [], |_| Ok(()))?)
            })
            .await?;
        let items = self.vms(&store).await?;
        let indexes = drop_indexes(&store).await?;
        let journal = journal()?;
        let begun = self.env.clock.monotonic();
        let all = self.history.runs.len();
        let mut next = 0;
        for (n, runs) in self.history.runs.chunks(AT_ONCE).enumerate() {
            let queued = runs.iter().map(|run| {
                let item = items[run.vm as usize];
                store.queue_run(self.new_run(run, item), QueueLimit::NONE, at(run))
            });
            // Unconstrained: in this order, so that a point is there before its copy, and that the same
            // seed makes the same catalogue.
            let ids = unconstrained(try_join_all(queued)).await?;
            let ended = ids.iter().zip(runs).enumerate().map(|(place, (id, run))| {
                let progress =
                    self.progress(run, items[run.vm as usize], n * AT_ONCE + place, &journal);
                store.record(*id, progress, at(run))
            });
            unconstrained(try_join_all(ended)).await?;
            let done = n * AT_ONCE + runs.len();
            if done >= next || done == all {
                let spent = self.env.clock.monotonic().since(begun).as_secs_f64();
                eprintln!("  {done:>9} of {all} runs, {spent:.0} s");
                next += all.div_ceil(10);
            }
        }
        eprintln!("  indexes and pins");
        store.write(move |c| Ok(c.execute_batch(&indexes)?)).await?;
        self.pins(&store, &items).await?;
        Ok(())
    }

    /// VMs with policies and certificates; answers their rows.
    async fn vms(&self, store: &Store) -> anyhow::Result<Vec<ItemId>> {
        let began =
            WallTime::from_unix_ms(self.history.runs[0].at_ms).minus(Duration::from_secs(3600));
        let policies = self.fleet.policies.clone();
        store.set_named_policies(policies, vec![], "bench".to_owned(), began).await?;
        let seen = |vm: &Vm| -> anyhow::Result<VmSeen> {
            Ok(VmSeen { id: vm.id.clone(), region: Region::parse(HOME)?, tags: vm.tags.clone() })
        };
        let seen = self.fleet.vms.iter().map(seen).collect::<anyhow::Result<_>>()?;
        store.follow_selectors(seen, began).await?;
        let rows = store.items().await?;
        let rows: BTreeMap<&str, ItemId> = rows.iter().map(|i| (i.arm_id.key(), i.id)).collect();
        let row = |vm: &Vm| rows.get(vm.id.key()).copied().context("every VM has a policy");
        let items: Vec<ItemId> = self.fleet.vms.iter().map(row).collect::<anyhow::Result<_>>()?;
        let not_after = self.env.clock.wall().plus(Duration::from_secs(20 * 86_400));
        for chunk in self.fleet.vms.iter().zip(&items).collect::<Vec<_>>().chunks(AT_ONCE) {
            let written = chunk.iter().map(async |(vm, item)| -> Result<(), StoreError> {
                let (guid, home) = (Some(vm.guid.clone()), HOME.to_owned());
                store.ensure_vm(vm.id.clone(), home, guid, began).await?;
                store.set_tag_problem(**item, None, began).await?;
                let serial = format!("{:032x}", item.0);
                let now = self.env.clock.wall();
                store
                    .add_certificate(serial, **item, CertificateScope::Vm, not_after, None, now)
                    .await
            });
            try_join_all(written).await?;
        }
        Ok(items)
    }

    fn point(&self, run: &Past) -> (&Vm, &Point, &VmDescription) {
        let vm = &self.fleet.vms[run.vm as usize];
        let points = &self.history.points[run.vm as usize];
        let n = usize::from(run.point);
        // It was resized once.
        let description = &vm.descriptions[usize::from(n * 2 > points.len())];
        (vm, &points[n], description)
    }

    fn new_run(&self, run: &Past, item: ItemId) -> NewRun {
        let (vm, point, _) = self.point(run);
        let vm = vm.id.clone();
        let (name, by) = (point.name.clone(), "schedule");
        match run.what {
            What::Backup => new_run(backup::RUN, &backup::Input { item, vm, tier: None }, item, by),
            What::Replicate => {
                let region = TARGET.to_owned();
                let input = replicate::Input { item, vm, point: name, region, max_chains: None };
                new_run(replicate::RUN, &input, item, by)
            }
            What::Verify => {
                let input = verify::Input {
                    item,
                    vm,
                    point: name,
                    region: HOME.to_owned(),
                    level: verify::Level::Restorable,
                };
                new_run(verify::RUN, &input, item, by)
            }
            What::Drill => {
                let input = json!({"item": item, "vm": vm, "point": name, "region": TARGET,
                    "resource_group": null, "declared": at(run)});
                new_run(dr_test::RUN, &input, item, by)
            }
        }
    }

    /// All of a run at once: its changes, its end, and for the newest backups their journals.
    fn progress(&self, run: &Past, item: ItemId, n: usize, journal: &[Entry]) -> Progress {
        let (vm, point, description) = self.point(run);
        let name = point.name.clone();
        let mut dice = Dice(n as u64 ^ 0x5eed);
        let mut progress = Progress {
            state: Some(if run.passed { RunState::Succeeded } else { RunState::Failed }),
            spent: Some(Duration::from_millis(20_000 + dice.below(60_000))),
            ..Progress::default()
        };
        let proof = |level: &str, region: &str| CatalogueChange::AddProof {
            item,
            name: name.clone(),
            region: region.to_owned(),
            level: level.to_owned(),
            passed: run.passed,
            detail: if run.passed {
                "read 3 samples of each disk"
            } else {
                "the disk could not be read"
            }
            .to_owned(),
        };
        match run.what {
            What::Backup => {
                let operation_id = dice.hex();
                let capture = capture(description, point.at, &mut dice);
                let frozen_ms = capture.thaw_asked_ms.unwrap_or(0);
                progress.changes = vec![
                    CatalogueChange::RecordCapture {
                        operation_id: operation_id.clone(),
                        record: capture,
                    },
                    CatalogueChange::AddPoint(Box::new(NewPoint {
                        item,
                        name: name.clone(),
                        region: HOME.to_owned(),
                        created: point.at,
                        tiers: point.tiers,
                        consistency: Consistency::Filesystem,
                        consistency_reason: "every file system was frozen throughout".to_owned(),
                        frozen_ms,
                        operation_id,
                        nonce: dice.hex(),
                        description: description.clone(),
                        snapshots: snapshots(vm, point, description, HOME),
                    })),
                ];
                progress.result =
                    Some(json!({"backup": {"point": point.name, "replication_region": null}}));
                if usize::from(run.point) + 1 == self.history.points[run.vm as usize].len() {
                    progress.entries = journal.to_vec();
                }
            }
            What::Replicate => {
                let copied = || snapshots(vm, point, description, TARGET);
                progress.changes = vec![CatalogueChange::SetReplica {
                    item,
                    name: name.clone(),
                    region: TARGET.to_owned(),
                    state: if run.passed { ReplicaState::Complete } else { ReplicaState::Failed },
                    snapshots: if run.passed { copied() } else { vec![] },
                    error: (!run.passed).then(|| "the copy stalled at 40 %".to_owned()),
                }];
            }
            What::Verify => progress.changes = vec![proof("restorable", HOME)],
            What::Drill => {
                progress.changes = vec![
                    proof("booted", TARGET),
                    CatalogueChange::AddDrill {
                        item,
                        name: name.clone(),
                        region: TARGET.to_owned(),
                        started: at(run),
                        passed: run.passed,
                        rto_ms: run.passed.then(|| 90_000 + dice.below(300_000)),
                        error: (!run.passed).then(|| "SSH did not answer".to_owned()),
                    },
                ];
            }
        }
        progress
    }

    /// Pins whose tags Azure shows already.
    async fn pins(&self, store: &Store, items: &[ItemId]) -> anyhow::Result<()> {
        let mut n = 0;
        for (points, item) in self.history.points.iter().zip(items) {
            for point in points {
                n += 1;
                if n % PINNED == 0 {
                    let pin = Pin {
                        owner: "alice".to_owned(),
                        reason: "before the migration".to_owned(),
                        since: point.at,
                        until: None,
                    };
                    store.pin(*item, point.name.clone(), pin).await?;
                }
            }
        }
        for stale in store.stale_pins().await? {
            store.pins_are_mirrored(&stale).await?;
        }
        Ok(())
    }
}

/// Drops the indexes that nothing needs while the catalogue is written, and answers what makes them
/// again: at once they are made in seconds, and entry by entry in minutes.
async fn drop_indexes(store: &Store) -> Result<String, StoreError> {
    store
        .write(|c| {
            let mut found = c.prepare(
                "SELECT name, sql FROM sqlite_master
                 WHERE type = 'index' AND sql IS NOT NULL AND instr(sql, 'WHERE') = 0",
            )?;
            let rows =
                found.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
            let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
            for (name, _) in &rows {
                c.execute_batch(&format!("DROP INDEX {name}"))?;
            }
            Ok(rows.into_iter().map(|(_, sql)| sql + ";\n").collect())
        })
        .await
}

fn at(run: &Past) -> WallTime {
    WallTime::from_unix_ms(run.at_ms)
}

fn snapshots(
    vm: &Vm,
    point: &Point,
    description: &VmDescription,
    region: &str,
) -> Vec<NewSnapshot> {
    let group = format!("azdr-{region}");
    let snapshot = |disk: &azdr_domain::DiskDescription| NewSnapshot {
        lun: disk.lun,
        id: ArmId::snapshot(
            SUBSCRIPTION,
            &group,
            snapshot_name(&point.name, &vm.id, disk.lun).as_str(),
        )
        .expect("the names of snapshots are valid"),
        source_disk: disk.id.clone(),
        source_disk_unique_id: disk.unique_id.clone(),
        size_bytes: disk.size_bytes,
    };
    description.disks.iter().map(snapshot).collect()
}

fn capture(description: &VmDescription, at: WallTime, dice: &mut Dice) -> CaptureRecord {
    let thaw = 900 + dice.below(900);
    let disk = |disk: &azdr_domain::DiskDescription| DiskCapture {
        lun: disk.lun,
        asked_ms: 3,
        done_ms: Some(thaw - 5),
    };
    let file_system = |(n, _): (usize, _)| FileSystemFreeze {
        mount_point: if n == 0 { "/".to_owned() } else { format!("/srv/data{n}") },
        from_unix_ms: at.unix_ms(),
        frozen_ms: thaw + 20,
        thawed_by_agent: true,
        file_system_type: "ext4".to_owned(),
        device: format!("8:{}", 16 * n),
        canary: Some(CanarySight {
            blocked: true,
            released_ms: Some(thaw + 19),
            released_by_thaw: true,
        }),
        reason: String::new(),
        note: String::new(),
        disks: Some(vec![if n == 0 { MachineDisk::Os } else { MachineDisk::Lun(n as u32) }]),
    };
    let mut witness = |n: usize| WitnessRecord {
        digest: format!("{:064x}", dice.below(u64::MAX)),
        mount_point: if n == 0 { "/".to_owned() } else { format!("/srv/data{n}") },
        disk: if n == 0 { "os".to_owned() } else { format!("lun {n}") },
        file_system_uuid: format!("{:08x}-0000-4000-8000-000000000000", dice.below(1 << 32)),
        vm_id: "da560509-fad4-4f76-a9f1-63614eda019a".to_owned(),
        written_at_unix_ms: at.unix_ms(),
    };
    let witnesses = (0..description.disks.len()).map(&mut witness).collect();
    // As many and as long as a usual machine's.
    let host_key = |n: u8| format!("SHA256:{}", char::from(b'A' + n).to_string().repeat(43));
    CaptureRecord {
        witnesses,
        ssh_host_keys: (0..3).map(host_key).collect(),
        disks: description.disks.iter().map(disk).collect(),
        file_systems: description.disks.iter().enumerate().map(file_system).collect(),
        thaw_asked_ms: Some(thaw),
        unbroken: Some(true),
        not_frozen: Vec::new(),
        hooks: Vec::new(),
    }
}

/// What a backup journals, as its golden file has it.
fn journal() -> anyhow::Result<Vec<Entry>> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/workflows/golden/backup-v1.json");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let known = [Event::Items, Event::Started, Event::Checkpoint, Event::Done];
    let entry = |entry: &Value| -> anyhow::Result<Entry> {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let event = known.into_iter().find(|event| event.as_str() == text("event"));
        let event = event.with_context(|| format!("unknown event {}", text("event")))?;
        Ok((text("step"), text("item"), event, entry["payload"].clone()))
    };
    document["entries"].as_array().context("a journal has entries")?.iter().map(entry).collect()
}
