//! One case per workflow: how the world is prepared, and what is run.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use azdr_controller::store::{Item, NewRun, RunId, RunState};
use azdr_controller::workflows::azure::Resource;
use azdr_controller::workflows::{
    self, backup, bulk, dr_test, hash_content, prune, reap, remove_kept_disk, replicate,
    restore_in_place, restore_new_vm, tags, verify,
};
use azdr_domain::arm_id::ArmId;
use azdr_domain::content::{BLOCK_BYTES, Sampling};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::PointName;

use crate::agents::Behaviour;
use crate::cloud::{SUBSCRIPTION, world_of_images};
use crate::folder;
use crate::life::{Bench, Life, Prepared, db};
use crate::ssh::{FIRST_PUBLIC_ADDRESS, Ssh};
use crate::untouchable::Untouchable;

/// A workflow's case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Backup,
    /// Of a machine whose agent never enrolled: nothing is frozen.
    BackupWithoutAgent,
    Replicate,
    Verify,
    /// Level `content`, of disks with data.
    VerifyContent,
    HashContent,
    /// All of disks that take several calls to be read.
    VerifyWhole,
    HashWhole,
    RestoreInPlace,
    /// Of a machine that is deallocated.
    RestoreInPlaceOfDeallocated,
    RestoreNewVm,
    /// The original's group and network are gone with it.
    RestoreNewVmFromNothing,
    Failover,
    DrTest,
    /// In a group that was there before, and with a public address.
    DrTestInGivenGroup,
    DrTestKept,
    Bulk,
    Prune,
    /// With copies in another region.
    PruneWithReplicas,
    DeletePoint,
    Reap,
    RemoveKeptDisk,
}

impl Case {
    pub(crate) const ALL: [Self; 22] = [
        Self::Backup,
        Self::BackupWithoutAgent,
        Self::Replicate,
        Self::Verify,
        Self::VerifyContent,
        Self::HashContent,
        Self::VerifyWhole,
        Self::HashWhole,
        Self::RestoreInPlace,
        Self::RestoreInPlaceOfDeallocated,
        Self::RestoreNewVm,
        Self::RestoreNewVmFromNothing,
        Self::Failover,
        Self::DrTest,
        Self::DrTestInGivenGroup,
        Self::DrTestKept,
        Self::Bulk,
        Self::Prune,
        Self::PruneWithReplicas,
        Self::DeletePoint,
        Self::Reap,
        Self::RemoveKeptDisk,
    ];

    pub(crate) fn workflow(self) -> &'static str {
        match self {
            Self::Backup | Self::BackupWithoutAgent => backup::RUN.0,
            Self::Replicate => replicate::RUN.0,
            Self::Verify | Self::VerifyContent | Self::VerifyWhole => verify::RUN.0,
            Self::HashContent | Self::HashWhole => hash_content::RUN.0,
            Self::RestoreInPlace | Self::RestoreInPlaceOfDeallocated => restore_in_place::RUN.0,
            Self::RestoreNewVm | Self::RestoreNewVmFromNothing | Self::Failover => {
                restore_new_vm::RUN.0
            }
            Self::DrTest | Self::DrTestInGivenGroup => dr_test::RUN.0,
            Self::DrTestKept => dr_test::KEPT.0,
            Self::Bulk => bulk::RUN.0,
            Self::Prune | Self::PruneWithReplicas | Self::DeletePoint => prune::RUN.0,
            Self::Reap => reap::RUN.0,
            Self::RemoveKeptDisk => remove_kept_disk::RUN.0,
        }
    }

    /// The types of the resources that carry its run's tag when it has succeeded, where it leaves a
    /// machine; nothing where it makes nothing.
    pub(crate) fn makes(self) -> &'static [&'static str] {
        const DISKS: &str = "Microsoft.Compute/disks";
        const VM: &str = "Microsoft.Compute/virtualMachines";
        const NIC: &str = "Microsoft.Network/networkInterfaces";
        const VNET: &str = "Microsoft.Network/virtualNetworks";
        match self {
            Self::RestoreInPlace | Self::RestoreInPlaceOfDeallocated => &[DISKS],
            Self::RestoreNewVm => &[DISKS, VM, NIC],
            Self::RestoreNewVmFromNothing | Self::Failover => &[DISKS, VM, NIC, VNET, "group"],
            _ => &[],
        }
    }

    /// What existed before a run and after it was undone, comparably.
    pub(crate) fn undone(self, exists: Untouchable) -> Untouchable {
        match self {
            Self::RestoreInPlace | Self::RestoreInPlaceOfDeallocated => {
                exists.changed_and_changed_back()
            }
            _ => exists,
        }
    }

    /// The world that the workflow needs, at rest, and the run; made once.
    pub(crate) fn prepared(self) -> &'static (Prepared, NewRun) {
        static WORLDS: [OnceLock<(Prepared, NewRun)>; Case::ALL.len()] =
            [const { OnceLock::new() }; Case::ALL.len()];
        let place = Self::ALL.iter().position(|c| *c == self).unwrap();
        WORLDS[place].get_or_init(|| {
            // On a clock of its own.
            let make = async move {
                let bench = self.bench();
                let life = bench.life().await;
                let run = self.prepare(&bench, &life).await;
                (bench.keep(life).await, run)
            };
            let thread = std::thread::spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().start_paused(true).build().unwrap().block_on(make)
            });
            thread.join().unwrap()
        })
    }

    /// The world that it begins with.
    pub(crate) fn bench(self) -> Bench {
        if matches!(self, Self::VerifyContent | Self::HashContent) {
            return with_data();
        }
        if matches!(self, Self::VerifyWhole | Self::HashWhole) {
            let bench = with_data_apart();
            self.slow_down(&bench);
            return bench;
        }
        let mut bench = Bench::new();
        if self == Self::DrTestInGivenGroup {
            bench.ssh = Some(Ssh::new());
        }
        bench
    }

    /// Reads take so long that a call of a step has time for one span.
    pub(crate) fn slow_down(self, bench: &Bench) {
        if matches!(self, Self::VerifyWhole | Self::HashWhole) {
            bench.cloud.read_takes.store(15, Ordering::SeqCst);
        }
    }

    /// Makes the world that the workflow needs, and the run.
    pub(crate) async fn prepare(self, bench: &Bench, life: &Life) -> NewRun {
        if self == Self::BackupWithoutAgent {
            bench.agents_behave(Behaviour::Absent).await;
            let policy = PolicyChange::default();
            return back_up(&bench.protect_without_agent(life, db(), policy).await);
        }
        let item = bench.protect(life, PolicyChange::default()).await;
        match self {
            Self::Backup | Self::BackupWithoutAgent => back_up(&item),
            Self::Replicate => {
                let point = take(life, &item).await;
                let input = replicate::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    region: "westus2".into(),
                    max_chains: None,
                };
                workflows::new_run(replicate::RUN, &input, item.id, "test")
            }
            Self::Verify => {
                let point = take(life, &item).await;
                let input = verify::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    region: "eastus".into(),
                    level: verify::Level::Restorable,
                };
                workflows::new_run(verify::RUN, &input, item.id, "test")
            }
            Self::HashContent => hash(&item, take(life, &item).await),
            Self::VerifyContent => {
                let point = take(life, &item).await;
                let id = life.engine.submit(hash(&item, point.clone())).await.unwrap();
                assert_eq!(life.ended(id).await.state, RunState::Succeeded);
                verify_content(&item, point, "eastus")
            }
            Self::HashWhole => hash_all(&item, take(life, &item).await),
            Self::VerifyWhole => {
                let point = take(life, &item).await;
                let id = life.engine.submit(hash_all(&item, point.clone())).await.unwrap();
                assert_eq!(life.ended(id).await.state, RunState::Succeeded);
                verify_content(&item, point, "eastus")
            }
            Self::RestoreInPlace | Self::RestoreInPlaceOfDeallocated => {
                let point = take(life, &item).await;
                if self == Self::RestoreInPlaceOfDeallocated {
                    life.services.azure.begin_deallocate(&db()).await.unwrap();
                    azdr_env::sleep(Duration::from_secs(60)).await;
                }
                let declared = bench.env.clock.wall();
                let input = restore_in_place::Input { item: item.id, vm: db(), point, declared };
                workflows::new_run(restore_in_place::RUN, &input, item.id, "test")
            }
            Self::RestoreNewVm | Self::RestoreNewVmFromNothing => {
                let point = take(life, &item).await;
                if self == Self::RestoreNewVmFromNothing {
                    let group = ArmId::resource_group_id(SUBSCRIPTION, "prod").unwrap();
                    life.services.azure.begin_delete_resource_group(&group).await.unwrap();
                    azdr_env::sleep(Duration::from_secs(60)).await;
                }
                let new_vm = ArmId::virtual_machine(SUBSCRIPTION, "prod", "db-restored").unwrap();
                let declared = bench.env.clock.wall();
                let input = restore_new_vm::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    new_vm,
                    declared,
                    failover: None,
                };
                workflows::new_run(restore_new_vm::RUN, &input, item.id, "test")
            }
            Self::Failover => {
                let point = take(life, &item).await;
                copied(life, &item, point.clone()).await;
                let new_vm =
                    ArmId::virtual_machine(SUBSCRIPTION, "prod-westus2", "db-westus2").unwrap();
                let taken = life.points(&item).await[0].created;
                let region = "westus2".into();
                let failover = restore_new_vm::Failover { region, subnet: None, taken };
                let input = restore_new_vm::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    new_vm,
                    declared: bench.env.clock.wall(),
                    failover: Some(failover),
                };
                workflows::new_run(restore_new_vm::RUN, &input, item.id, "test")
            }
            Self::DrTest | Self::DrTestKept | Self::DrTestInGivenGroup => {
                let point = take(life, &item).await;
                let (run, keep) = match self {
                    Self::DrTestKept => (dr_test::KEPT, Duration::from_secs(90)),
                    _ => (dr_test::RUN, Duration::ZERO),
                };
                let given = self == Self::DrTestInGivenGroup;
                if given {
                    give_group_and_address(life).await;
                }
                let input = dr_test::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    region: "eastus".into(),
                    resource_group: given.then(|| GIVEN_GROUP.to_owned()),
                    declared: Some(bench.env.clock.wall()),
                    keep,
                };
                workflows::new_run(run, &input, item.id, "test")
            }
            Self::Bulk => {
                let mut parts = Vec::new();
                for _ in 0..2 {
                    let point = take(life, &item).await;
                    let key = point.to_string();
                    let input = verify::Input {
                        item: item.id,
                        vm: db(),
                        point,
                        region: "eastus".into(),
                        level: verify::Level::Restorable,
                    };
                    let run = workflows::new_run(verify::RUN, &input, item.id, "test");
                    parts.push(bulk::Part { name: key.clone(), key, run });
                    tokio::time::advance(Duration::from_secs(86_400)).await;
                }
                let (what, max_parallel) = (bulk::What::Verify, 2);
                let (refused, skipped) = (Vec::new(), Vec::new());
                let input = bulk::Input { what, max_parallel, parts, refused, skipped };
                workflows::new_run(bulk::RUN, &input, item.id, "test")
            }
            Self::Prune | Self::PruneWithReplicas => {
                let copied = PolicyChange {
                    cross_region: Some(true),
                    target_region: Some("westus2".into()),
                    ..PolicyChange::default()
                };
                let is_copied = self == Self::PruneWithReplicas;
                let kept = if is_copied { copied } else { PolicyChange::default() };
                bench.protect(life, kept.clone()).await;
                for _ in 0..3 {
                    take(life, &item).await;
                    // A jump: nothing in between is of interest.
                    tokio::time::advance(Duration::from_secs(86_400)).await;
                }
                // The policy now wants one of the three.
                let change = PolicyChange { daily: Some(1), ..kept };
                bench.protect(life, change).await;
                let input = prune::Input::by_policy(item.id, db());
                workflows::new_run(prune::RUN, &input, item.id, "test")
            }
            Self::DeletePoint => {
                let point = take(life, &item).await;
                tokio::time::advance(Duration::from_secs(86_400)).await;
                take(life, &item).await;
                let chosen = Some(prune::Chosen { point, region: None });
                let input = prune::Input { item: item.id, vm: db(), chosen, asked: None };
                workflows::new_run(prune::RUN, &input, item.id, "test")
            }
            Self::Reap => {
                let point = take(life, &item).await;
                let run = verified(life, &item, point).await;
                let targets = vec![
                    late_test_disk(bench, life, run, "os").await,
                    late_test_disk(bench, life, run, "lun3").await,
                ];
                tokio::time::advance(Duration::from_secs(7200)).await;
                let input = reap::Input { tag: format!("1nstall.{run}"), targets };
                life.engine.new_run(reap::RUN.0, &input, None, "test")
            }
            Self::RemoveKeptDisk => {
                let point = take(life, &item).await;
                let disk = restored_in_place(bench, life, &item, point).await.remove(0);
                tokio::time::advance(Duration::from_secs(8 * 86_400)).await;
                let input = remove_kept_disk::Input { item: item.id, vm: db(), disk };
                workflows::new_run(remove_kept_disk::RUN, &input, item.id, "test")
            }
        }
    }
}

/// Copies a point to the other region.
pub(crate) async fn copied(life: &Life, item: &Item, point: PointName) {
    let input = replicate::Input {
        item: item.id,
        vm: db(),
        point,
        region: "westus2".into(),
        max_chains: None,
    };
    let run = workflows::new_run(replicate::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
}

/// The world of `db`, whose disks have blocks with data and some without.
pub(crate) fn with_data() -> Bench {
    let os = [(0, 1), (1, 2), (4, 3), (5, 4), (6, 5)];
    with_images((8, &os), (4, &[(2, 6), (3, 7)]))
}

/// The same with data far apart, in several spans.
pub(crate) fn with_data_apart() -> Bench {
    with_images((131, &[(0, 1), (63, 2), (64, 3), (130, 4)]), (70, &[(66, 5)]))
}

/// The world of `db` with an OS disk and a data disk: how many blocks each has, and which are filled with
/// what.
pub(crate) fn with_images(os: (u64, &[(u64, u8)]), data: (u64, &[(u64, u8)])) -> Bench {
    let images = folder::new();
    let image = |name: &str, (size, blocks): (u64, &[(u64, u8)])| {
        let path = images.path().join(name);
        write_blocks(&path, size, blocks);
        path
    };
    Bench::with(world_of_images("db", &image("os", os), &image("data", data)))
}

/// A file of so many blocks, of which these are filled and the others are holes.
pub(crate) fn write_blocks(path: &Path, size: u64, blocks: &[(u64, u8)]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size * BLOCK_BYTES).unwrap();
    for (n, fill) in blocks {
        file.write_all_at(&vec![*fill; BLOCK_BYTES as usize], n * BLOCK_BYTES).unwrap();
    }
}

/// Hashes two blocks of each disk of a point.
pub(crate) fn hash(item: &Item, point: PointName) -> NewRun {
    let input = hash_content::Input { item: item.id, vm: db(), point, blocks: Sampling::Blocks(2) };
    workflows::new_run(hash_content::RUN, &input, item.id, "test")
}

/// Hashes all of each disk of a point.
pub(crate) fn hash_all(item: &Item, point: PointName) -> NewRun {
    let input = hash_content::Input { item: item.id, vm: db(), point, blocks: Sampling::All };
    workflows::new_run(hash_content::RUN, &input, item.id, "test")
}

/// Compares a point's copy with its hashes.
pub(crate) fn verify_content(item: &Item, point: PointName, region: &str) -> NewRun {
    let (region, level) = (region.to_owned(), verify::Level::Content);
    let input = verify::Input { item: item.id, vm: db(), point, region, level };
    workflows::new_run(verify::RUN, &input, item.id, "test")
}

/// Where drills are to take place.
const GIVEN_GROUP: &str = "lab";

/// Makes the group, and sees that the next public IP has the address at which SSH answers.
async fn give_group_and_address(life: &Life) {
    let azure = &life.services.azure;
    let group = ArmId::resource_group_id(SUBSCRIPTION, GIVEN_GROUP).unwrap();
    azure.ensure_resource_group(&group, "eastus", &tags::Tags::new()).await.unwrap();
    let id = ArmId::public_ip(SUBSCRIPTION, GIVEN_GROUP, "trial").unwrap();
    let body = serde_json::json!({
        "location": "eastus", "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
    });
    azure.begin_create_public_ip(&id, body).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;
    let address = azure.get_public_ip(&id).await.unwrap().ip_address.unwrap();
    assert_eq!(address, FIRST_PUBLIC_ADDRESS.to_string());
    azure.begin_delete_public_ip(&id).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;
}

/// Verifies a point, to have a run that is over.
pub(crate) async fn verified(life: &Life, item: &Item, point: PointName) -> RunId {
    let input = verify::Input {
        item: item.id,
        vm: db(),
        point,
        region: "eastus".into(),
        level: verify::Level::Restorable,
    };
    let run = workflows::new_run(verify::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    id
}

/// A test disk of a verification that Azure made when nobody expected it any more.
pub(crate) async fn late_test_disk(
    bench: &Bench,
    life: &Life,
    run: RunId,
    suffix: &str,
) -> reap::Target {
    let name = format!("azdr-verify-1nstall-{run}-{suffix}");
    let id = stray_disk(life, &name, &format!("1nstall.{run}")).await;
    reap::Target { id, kind: Resource::Disk, created: Some(bench.env.clock.wall()) }
}

/// A disk that carries azdr's tags.
pub(crate) async fn stray_disk(life: &Life, name: &str, tag: &str) -> ArmId {
    let azure = &life.services.azure;
    let snapshots = azure.list_snapshots(SUBSCRIPTION, None).await.unwrap();
    let source = snapshots.into_iter().find_map(|s| s.id).unwrap();
    let id = ArmId::disk(SUBSCRIPTION, "azdr-eastus", name).unwrap();
    let mut spec = azdr_arm::DiskSpec::new("eastus", source);
    spec.tags = [(tags::RUN, tag), (tags::OWNER, tags::OWNED)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    azure.begin_create_disk(&id, &spec).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;
    id
}

/// Restores in place; answers the disks that were replaced and are kept.
pub(crate) async fn restored_in_place(
    bench: &Bench,
    life: &Life,
    item: &Item,
    point: PointName,
) -> Vec<ArmId> {
    let declared = bench.env.clock.wall();
    let input = restore_in_place::Input { item: item.id, vm: db(), point, declared };
    let run = workflows::new_run(restore_in_place::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let kept = life.store.kept_disks().await.unwrap();
    assert_eq!(kept.len(), 2);
    kept.into_iter().map(|k| k.disk).collect()
}

pub(crate) fn back_up(item: &Item) -> NewRun {
    let input = backup::Input { item: item.id, vm: db(), tier: None };
    workflows::new_run(backup::RUN, &input, item.id, "test")
}

/// Takes a recovery point and lets what follows from it end.
pub(crate) async fn take(life: &Life, item: &Item) -> PointName {
    let id = life.engine.submit(back_up(item)).await.unwrap();
    let row = life.ended(id).await;
    let point = row.result.unwrap_or_else(|| panic!("the backup failed: {:?}", row.error));
    life.settle().await;
    serde_json::from_value(point["backup"]["point"].clone()).unwrap()
}
