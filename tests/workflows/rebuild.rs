//! A used world, its database lost: the catalogue is rebuilt from Azure, and compared with what it was.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_controller::rebuild::{self, Report, listing};
use azdr_controller::reconcile::Reconciler;
use azdr_controller::reconcile::residue::{Sweep, Sweeper, What};
use azdr_controller::store::{Executor, Item, PointRow, ReplicaState, RunState, Stamp, Store};
use azdr_controller::workflows::{self, prune, replicate, restore_in_place, restore_new_vm, tags};
use azdr_domain::arm_id::ArmId;
use azdr_domain::pin::Pin;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::recovery_point::PointName;
use azdr_domain::vm_description::VmDescription;
use serde_json::Value;

use crate::cases::{Case, restored_in_place, stray_disk, take, verified};
use crate::cloud::{SUBSCRIPTION, Spoil, world};
use crate::life::{Bench, Life, db};
use crate::residue::reap;
use crate::untouchable::untouchable;

const DAY: Duration = Duration::from_secs(86_400);

fn other() -> ArmId {
    ArmId::virtual_machine(SUBSCRIPTION, "prod", "other").unwrap()
}

/// What is compared: every field of a point but those that no tag carries.
fn fields(points: &[PointRow]) -> Vec<Vec<(&'static str, String)>> {
    let one = |p: &PointRow| {
        vec![
            ("name", p.name.to_string()),
            ("region", p.region.clone()),
            ("created", p.created.unix_ms().to_string()),
            ("tiers", p.tiers.to_string()),
            ("consistency", p.consistency.to_string()),
            ("consistency_reason", p.consistency_reason.clone()),
            ("frozen_ms", p.frozen_ms.to_string()),
            ("size_bytes", p.size_bytes.to_string()),
            ("operation_id", p.operation_id.clone()),
            ("nonce", p.nonce.clone()),
            ("description", serde_json::to_string(&*p.description).unwrap()),
            ("snapshots", format!("{:?}", p.snapshots)),
            (
                "replicas",
                p.replicas
                    .iter()
                    .map(|r| format!("{} {:?} {}", r.region, r.state, r.run))
                    .collect(),
            ),
            ("pins", format!("{:?}", p.pins)),
            ("proofs", p.proofs.len().to_string()),
            ("leases", format!("{:?}", p.leases)),
        ]
    };
    points.iter().map(one).collect()
}

/// `point.field: before -> after` of everything that differs.
fn differences(before: &[PointRow], after: &[PointRow]) -> Vec<String> {
    let (was, is) = (fields(before), fields(after));
    let name = |p: &[(&str, String)]| p[0].1.clone();
    let mut found = Vec::new();
    for old in &was {
        match is.iter().find(|new| name(new) == name(old)) {
            None => found.push(format!("{}: gone", name(old))),
            Some(new) => {
                for ((field, a), (_, b)) in old.iter().zip(new) {
                    if a != b {
                        found.push(format!("{}.{field}: {a} -> {b}", name(old)));
                    }
                }
            }
        }
    }
    found.extend(
        is.iter()
            .filter(|new| was.iter().all(|old| name(old) != name(new)))
            .map(|new| format!("{}: new", name(new))),
    );
    found
}

/// Loses the database and rebuilds it.
async fn lose_and_rebuild(bench: &Bench, life: Life) -> (Life, Report) {
    let azure = bench.azure_of_its_own();
    life.end().await;
    for file in ["azdr.db", "azdr.db-wal", "azdr.db-shm"] {
        let _ = std::fs::remove_file(bench.cloud.dir.path().join(file));
    }
    let listing = listing::read(&azure, &[SUBSCRIPTION.to_owned()]).await.unwrap();
    let now = bench.env.clock.wall();
    let (mut rebuilt, report) = rebuild::plan(&listing, "1nstall", now);
    rebuilt.stamp = Stamp {
        cloud: "simulated".into(),
        tenant_id: "t".into(),
        subscriptions: vec![SUBSCRIPTION.into()],
        installation: report.installation.clone(),
    };
    rebuilt.admin = ("alice".into(), "serial".into());
    let store = Store::open(&bench.cloud.dir.path().join("azdr.db"), Executor::Inline).unwrap();
    store.rebuild(rebuilt.clone(), now).await.unwrap();
    // A second time it is refused: nothing is rebuilt over a catalogue.
    assert!(store.rebuild(rebuilt, now).await.is_err());
    drop(store);
    (bench.life().await, report)
}

/// Sets a VM's policy in the store and in its tag, as the API does.
async fn set_policy(bench: &Bench, life: &Life, vm: &ArmId, change: PolicyChange) -> Item {
    let now = bench.env.clock.wall();
    let region = azdr_domain::region::Region::parse("eastus").unwrap();
    let policy = Policy::default().apply(&change, &region).unwrap();
    let item = life.store.ensure_vm(vm.clone(), "eastus".into(), None, now).await.unwrap();
    life.store.set_policy(item.id, policy.clone(), "test".into(), now).await.unwrap();
    let tag = (azdr_domain::policy_tag::POLICY_TAG.to_owned(), policy.tag_value(None));
    life.services.azure.merge_tags(vm, [tag].into()).await.unwrap();
    item
}

async fn copy(life: &Life, item: &Item, point: &PointName) {
    let input = replicate::Input {
        item: item.id,
        vm: item.arm_id.clone(),
        point: point.clone(),
        region: "westus2".into(),
        max_chains: None,
    };
    let run = workflows::new_run(replicate::RUN, &input, item.id, "test");
    let run = life.engine.submit(run).await.unwrap();
    assert_eq!(life.ended(run).await.state, RunState::Succeeded);
}

async fn policy(life: &Life, item: &Item) -> Policy {
    life.store.policy(item.id).await.unwrap().unwrap().policy
}

/// The restored machine is what the description says: size, zones, tags, and each disk at its LUN with
/// its size, SKU, caching and zones.
async fn same_machine(life: &Life, description: &VmDescription, vm: &azdr_arm::Vm) {
    assert_eq!(vm.raw["properties"]["hardwareProfile"]["vmSize"], description.size.as_str());
    let zones = |raw: &Value| -> Vec<String> {
        let all = raw["zones"].as_array().into_iter().flatten();
        all.map(|z| z.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(zones(&vm.raw), description.zones);
    let user_tags = |tags: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let ours = |name: &str| name.starts_with("azdr:") || name.starts_with("azlin:");
        tags.iter().filter(|(k, _)| !ours(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    assert_eq!(user_tags(&vm.tags), user_tags(&description.tags));
    let profile = &vm.raw["properties"]["storageProfile"];
    let data = profile["dataDisks"].as_array().unwrap();
    assert_eq!(data.len() + 1, description.disks.len());
    for disk in &description.disks {
        let attached = match disk.lun {
            None => &profile["osDisk"],
            Some(lun) => data.iter().find(|d| d["lun"] == lun).unwrap(),
        };
        assert_eq!(attached["caching"], disk.caching.as_str(), "{}", disk.name);
        let id = ArmId::parse(attached["managedDisk"]["id"].as_str().unwrap()).unwrap();
        let found = life.services.azure.get_disk(&id).await.unwrap();
        assert_eq!(found.size_bytes, Some(disk.size_bytes), "{}", disk.name);
        assert_eq!(found.sku.as_deref(), Some(disk.sku.as_str()), "{}", disk.name);
        assert_eq!(found.zones, disk.zones, "{}", disk.name);
    }
}

async fn retag(life: &Life, point: &PointRow, disk: usize, name: &str, value: &str) {
    let id = &point.snapshots_in(&point.region)[disk].id;
    let tag = [(name.to_owned(), value.to_owned())].into();
    life.services.azure.merge_tags(id, tag).await.unwrap();
}

async fn point(life: &Life, item: &Item, name: &PointName) -> PointRow {
    life.points(item).await.into_iter().find(|p| p.name == *name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lost_catalogue_is_rebuilt_and_a_machine_that_is_gone_comes_back_from_its_point_alone() {
    let mut described = world(&[("db", true), ("other", false)]);
    described["vms"][0]["zone"] = "2".into();
    described["vms"][0]["tags"] = serde_json::json!({"role": "database"});
    let bench = Bench::with(described);
    let life = bench.life().await;
    // db has an agent, four points, a copy and a pin; other has no agent and one point.
    let item = bench.protect(&life, PolicyChange::default()).await;
    let weekly = PolicyChange { weekly: Some(4), ..PolicyChange::default() };
    set_policy(&bench, &life, &db(), weekly.clone()).await;
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(take(&life, &item).await);
        tokio::time::advance(DAY).await;
    }
    verified(&life, &item, names[2].clone()).await;
    copy(&life, &item, &names[1]).await;
    let now = bench.env.clock.wall();
    let pin = Pin {
        owner: "alice".into(),
        since: azdr_env::WallTime::from_unix_ms(now.unix_ms() / 1000 * 1000),
        until: None,
        reason: "evidence".into(),
    };
    life.store.pin(item.id, names[1].clone(), pin).await.unwrap();
    let reconciler = Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    };
    reconciler.mirror_pins().await.unwrap();
    let second = set_policy(&bench, &life, &other(), PolicyChange::default()).await;
    let input = workflows::backup::Input { item: second.id, vm: other(), tier: None };
    let run = workflows::new_run(workflows::backup::RUN, &input, second.id, "test");
    let run = life.engine.submit(run).await.unwrap();
    assert_eq!(life.ended(run).await.state, RunState::Succeeded);
    life.settle().await;
    let before = (life.points(&item).await, life.points(&second).await);
    let policies = (policy(&life, &item).await, policy(&life, &second).await);
    // Somebody edits tags: tiers of the third point, a part of a description, a name.
    let third = point(&life, &item, &names[2]).await;
    retag(&life, &third, 0, tags::TIERS, "hourly").await;
    retag(&life, &third, 1, "azdr:description-0", "{\"cut").await;
    let fourth = point(&life, &item, &names[3]).await;
    retag(&life, &fourth, 1, tags::POINT, "db-backup-yearly-20200101-0000").await;

    let (life, report) = lose_and_rebuild(&bench, life).await;
    assert_eq!(report.installation, "1nstall");
    assert_eq!((report.vms, report.policies, report.points), (2, 2, 4));
    assert_eq!((report.replicas, report.pins), (1, 1));
    let items = life.store.items().await.unwrap();
    let find = |vm: ArmId| items.iter().find(|i| i.arm_id == vm).cloned().unwrap();
    let (item, second) = (find(db()), find(other()));
    assert!(item.vm_guid.is_some());
    assert_eq!(policies.0.retention.weekly, 4);
    assert_eq!((policy(&life, &item).await, policy(&life, &second).await), policies);
    // Exactly this differs.
    let mut expected = vec![
        format!("{}: gone", names[3]),
        // The edited snapshot claims nothing; the other one's word counts.
        format!("{}.proofs: 1 -> 0", names[2]),
    ];
    let mut differs = differences(&before.0, &life.points(&item).await);
    expected.sort();
    differs.sort();
    assert_eq!(differs, expected);
    assert_eq!(differences(&before.1, &life.points(&second).await), [""; 0]);
    let said = |words: &str| report.lost.iter().any(|l| l.contains(words));
    for words in [
        "they do not lead to its name",
        "the disk at LUN 3 is missing in eastus",
        "do not agree on its tiers",
        "is cut short or damaged",
        "proofs",
    ] {
        assert!(said(words), "{words}: {:#?}", report.lost);
    }

    // Later jobs do not take the numbers of earlier ones.
    let rebuilt = life.store.rebuilt().await.unwrap().unwrap();
    assert!(rebuilt.run.0 > 1000);
    // Backups go on; nothing is deleted until it is released.
    set_policy(&bench, &life, &db(), PolicyChange { daily: Some(1), ..PolicyChange::default() })
        .await;
    tokio::time::advance(DAY).await;
    take(&life, &item).await;
    assert_eq!(life.points(&item).await.len(), 4);
    let by_policy = prune::Input::by_policy(item.id, db());
    let by_policy = workflows::new_run(prune::RUN, &by_policy, item.id, "test");
    let (life, row) = bench.run(life, by_policy.clone()).await;
    let held = row.result.unwrap()["prune"]["held"].as_str().unwrap().to_owned();
    assert!(held.contains("held since"), "{held}");
    assert_eq!(life.points(&item).await.len(), 4);
    assert!(life.store.release_deletions().await.unwrap().is_some());
    let (life, row) = bench.run(life, by_policy).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let left: Vec<_> = life.points(&item).await.into_iter().map(|p| p.name).collect();
    assert_eq!(left.len(), 2, "the newest and the pinned one: {left:?}");
    assert!(left.contains(&names[1]));

    // The group of both machines, with their network, is gone; and so is the database, once more.
    let group = ArmId::resource_group_id(SUBSCRIPTION, "prod").unwrap();
    life.services.azure.begin_delete_resource_group(&group).await.unwrap();
    azdr_env::sleep(Duration::from_secs(30)).await;
    assert!(life.services.azure.get_vm(&db()).await.unwrap_err().is_not_found());
    let (life, report) = lose_and_rebuild(&bench, life).await;
    assert!(report.lost.iter().any(|l| l.starts_with("db is not in Azure any more")));
    let item = life.store.item(&db()).await.unwrap().unwrap();
    let newest = life.points(&item).await.remove(0);
    let new_vm = ArmId::virtual_machine(SUBSCRIPTION, "prod", "db-restored").unwrap();
    let input = restore_new_vm::Input {
        item: item.id,
        vm: db(),
        point: newest.name.clone(),
        new_vm: new_vm.clone(),
        declared: bench.env.clock.wall(),
        failover: None,
    };
    let run = workflows::new_run(restore_new_vm::RUN, &input, item.id, "test");
    let (life, row) = bench.run(life, run).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let result = &row.result.unwrap()["restore"];
    assert_eq!(result["witness_verified"], true, "{result}");
    let vm = life.services.azure.get_vm(&new_vm).await.unwrap();
    same_machine(&life, &newest.description, &vm).await;
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_whose_group_and_network_are_gone_and_that_fails_leaves_neither() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let group = ArmId::resource_group_id(SUBSCRIPTION, "prod").unwrap();
    life.services.azure.begin_delete_resource_group(&group).await.unwrap();
    azdr_env::sleep(Duration::from_secs(30)).await;
    bench.agents_behave(crate::agents::Behaviour::WrongWitness).await;
    let new_vm = ArmId::virtual_machine(SUBSCRIPTION, "prod", "db-restored").unwrap();
    let declared = bench.env.clock.wall();
    let failover = None;
    let input =
        restore_new_vm::Input { item: item.id, vm: db(), point, new_vm, declared, failover };
    let run = workflows::new_run(restore_new_vm::RUN, &input, item.id, "test");
    let (life, row) = bench.run(life, run).await;
    assert_eq!(row.state, RunState::Failed, "{row:?}");
    let left = life.services.azure.get_resource_group(&group).await;
    assert!(left.unwrap_err().is_not_found());
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_point_whose_originals_are_damaged_comes_back_by_its_copy_and_strangers_are_left_alone() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let name = take(&life, &item).await;
    copy(&life, &item, &name).await;
    let whole = point(&life, &item, &name).await;
    let azure = &life.services.azure;
    azure.begin_delete_snapshot(&whole.snapshots_in("eastus")[1].id).await.unwrap();
    // Another installation has a point of the other VM.
    let second = set_policy(&bench, &life, &other(), PolicyChange::default()).await;
    let input = workflows::backup::Input { item: second.id, vm: other(), tier: None };
    let run = workflows::new_run(workflows::backup::RUN, &input, second.id, "test");
    let run = life.engine.submit(run).await.unwrap();
    assert_eq!(life.ended(run).await.state, RunState::Succeeded);
    let theirs = life.points(&second).await.remove(0);
    retag(&life, &theirs, 0, tags::RUN, "ffffffff.3").await;
    azdr_env::sleep(Duration::from_secs(5)).await;

    let (life, report) = lose_and_rebuild(&bench, life).await;
    assert_eq!((report.vms, report.points, report.replicas), (1, 1, 1));
    let item = life.store.item(&db()).await.unwrap().unwrap();
    let rebuilt = point(&life, &item, &name).await;
    assert!(!rebuilt.is_restorable_in("eastus") && rebuilt.is_restorable_in("westus2"));
    assert_eq!(rebuilt.size_bytes, whole.size_bytes);
    for words in [
        "1 snapshot of installation ffffffff",
        "the disk at LUN 3 is missing in eastus; its copies elsewhere are whole",
        "the policy of other: another installation has its recovery points",
    ] {
        assert!(report.lost.iter().any(|l| l.contains(words)), "{words}: {:#?}", report.lost);
    }
    life.end().await;
}

fn sweeper(bench: &Bench, life: &Life) -> Sweeper {
    Sweeper::new(Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    })
}

async fn sweep(bench: &Bench, life: &Life) -> std::sync::Arc<Sweep> {
    sweeper(bench, life).sweep(&[SUBSCRIPTION.to_owned()]).await.unwrap()
}

/// Sweeps and lets what is started end; answers the workflows that ran.
#[tokio::test(start_paused = true)]
async fn replaced_disks_are_kept_to_their_end_by_a_rebuilt_catalogue_too_unless_in_doubt() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let disks = restored_in_place(&bench, &life, &item, point).await;
    let before = life.store.kept_disks().await.unwrap();
    let azure = &life.services.azure;
    // The old data disk is in use again; a disk of somebody's has been given the tags of the other.
    let data = disks.iter().find(|d| d.name().contains("data")).unwrap().clone();
    let os = disks.iter().find(|d| **d != data).unwrap().clone();
    let vm = azure.get_vm(&other()).await.unwrap();
    let body = serde_json::json!({"properties": {"storageProfile": {"dataDisks": [
        {"lun": 7, "createOption": "Attach", "managedDisk": {"id": data.as_str()}},
    ]}}});
    azure.begin_patch_vm(&other(), body, vm.etag.as_deref()).await.unwrap();
    let copy = stray_disk(&life, "precious", "ffffffff.1").await;
    azure.merge_tags(&copy, azure.get_tags(&os).await.unwrap()).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;

    let (life, report) = lose_and_rebuild(&bench, life).await;
    assert_eq!(report.kept_disks, 1);
    for words in [
        format!("disk {}: a restore had replaced it, and it is attached again", data.name()),
        format!("disk precious: its tags are those of {}", os.name()),
    ] {
        assert!(report.lost.iter().any(|l| l.contains(&words)), "{words}: {:#?}", report.lost);
    }
    let kept = life.store.kept_disks().await.unwrap();
    assert_eq!(kept.len(), 1);
    let known = before.iter().find(|k| k.disk == os).unwrap();
    assert_eq!((&kept[0].disk, kept[0].run), (&os, known.run));
    assert_eq!(kept[0].until.unix_ms() / 1000, known.until.unix_ms() / 1000);
    let shown = sweep(&bench, &life).await;
    let found = |id: &ArmId| shown.found.iter().find(|f| f.id == *id).unwrap();
    assert!(found(&os).why.starts_with("replaced by job"), "{:?}", found(&os));
    assert!(found(&os).monthly_cents.is_some_and(|cents| cents > 0));
    for left in [&data, &copy] {
        assert!(matches!(found(left).what, What::Person(_)), "{:?}", found(left));
    }

    // Nothing before an admin has released it, and nothing before its days are over.
    assert_eq!(reap(&bench, &life).await, []);
    life.store.release_deletions().await.unwrap();
    assert_eq!(reap(&bench, &life).await, []);
    tokio::time::advance(8 * DAY).await;
    assert_eq!(reap(&bench, &life).await, [("remove_kept_disk".to_owned(), RunState::Succeeded)]);
    let azure = &life.services.azure;
    assert!(azure.get_disk(&os).await.unwrap_err().is_not_found());
    for left in [&data, &copy] {
        azure.get_disk(left).await.unwrap();
    }
    assert!(life.store.kept_disks().await.unwrap().is_empty());
    life.end().await;
}

/// A catalogue that is lost when the first of two disks has been copied.
async fn lost_while_copying() -> (Bench, Life, Report, Item, PointRow) {
    let (prepared, run) = Case::Replicate.prepared();
    let begin = async || {
        let bench = Bench::again(prepared, 43);
        let life = bench.life().await;
        azdr_env::sleep(Duration::from_secs(1)).await;
        (bench, life)
    };
    let (whole, life) = begin().await;
    let (life, row) =
        whole.run_meddled(life, run.clone(), crate::meddling::Plan::default(), None).await;
    assert_eq!(row.state, RunState::Succeeded);
    life.end().await;
    let is_copy = |n: &usize| {
        whole.cloud.request(*n).starts_with("PUT")
            && whole.cloud.request(*n).contains("/snapshots/")
    };
    let first = (1..=whole.cloud.requests()).find(is_copy).unwrap();
    let (bench, life) = begin().await;
    bench.cloud.count_from_here(Some((first, Spoil::CrashAfter)));
    life.engine.submit(run.clone()).await.unwrap();
    life.mortal.dead().await;
    bench.cloud.count_from_here(None);
    let (life, report) = lose_and_rebuild(&bench, life).await;
    let item = life.store.item(&db()).await.unwrap().unwrap();
    let point = life.points(&item).await.remove(0);
    (bench, life, report, item, point)
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_not_whole_is_shown_after_a_rebuild_and_taken_up() {
    let (bench, life, report, item, point) = lost_while_copying().await;
    assert_eq!((report.points, report.replicas), (1, 0));
    let said = |l: &String| l.contains("in westus2 lacks") && l.contains("takes up what is there");
    assert!(report.lost.iter().any(said), "{:#?}", report.lost);
    let replica = &point.replicas[0];
    assert_eq!((&*replica.region, replica.state), ("westus2", ReplicaState::Failed));
    assert!(replica.error.as_ref().unwrap().contains("lacks the"), "{replica:?}");
    let shown = sweep(&bench, &life).await;
    assert_eq!(shown.found.len(), 1, "{:#?}", shown.found);
    let begun = shown.found[0].clone();
    assert!(begun.why.contains("for a copy that is not whole"), "{begun:?}");
    // What may go on is not reaped, however long it takes.
    life.store.release_deletions().await.unwrap();
    tokio::time::advance(DAY).await;
    assert_eq!(reap(&bench, &life).await, []);
    let made = life.services.azure.get_snapshot(&begun.id).await.unwrap().time_created;
    copy(&life, &item, &point.name).await;
    let point = life.points(&item).await.remove(0);
    assert!(point.is_restorable_in("westus2"));
    let taken_up = life.services.azure.get_snapshot(&begun.id).await.unwrap();
    assert_eq!(taken_up.time_created, made, "it was copied anew");
    assert_eq!(sweep(&bench, &life).await.found.len(), 0);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_not_whole_is_reaped_after_a_rebuild_when_a_newer_one_is_there() {
    let (bench, life, _, item, old) = lost_while_copying().await;
    let begun = sweep(&bench, &life).await.found[0].id.clone();
    tokio::time::advance(DAY).await;
    let newer = take(&life, &item).await;
    copy(&life, &item, &newer).await;
    assert_eq!(reap(&bench, &life).await, [], "deletions are held");
    life.store.release_deletions().await.unwrap();
    assert_eq!(reap(&bench, &life).await, [("reap".to_owned(), RunState::Succeeded)]);
    assert!(life.services.azure.get_snapshot(&begun).await.unwrap_err().is_not_found());
    let points = life.points(&item).await;
    assert!(points[0].is_restorable_in("westus2") && points[0].name == newer);
    assert!(points[1].is_restorable_in("eastus") && points[1].name == old.name);
    assert_eq!(sweep(&bench, &life).await.found.len(), 0);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_of_the_first_version_is_still_finished() {
    let bench = Bench::new();
    let life = bench.life().await;
    let mut run = Case::RestoreNewVm.prepare(&bench, &life).await;
    run.version = restore_new_vm::FIRST;
    life.settle().await;
    let crash = Some((12, Spoil::CrashAfter));
    bench.cloud.count_from_here(crash);
    let (life, row) = bench.run(life, run).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    assert_eq!(row.version, restore_new_vm::FIRST);
    let steps = life.engine.history(row.id).await.unwrap();
    assert_eq!(steps.records_of("group").count(), 0);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_in_place_of_the_first_version_is_still_finished() {
    let bench = Bench::new();
    let life = bench.life().await;
    let mut run = Case::RestoreInPlace.prepare(&bench, &life).await;
    run.version = restore_in_place::FIRST;
    life.settle().await;
    bench.cloud.count_from_here(Some((12, Spoil::CrashAfter)));
    let (life, row) = bench.run(life, run).await;
    assert_eq!((row.state, row.version), (RunState::Succeeded, restore_in_place::FIRST));
    let steps = life.engine.history(row.id).await.unwrap();
    assert_eq!(steps.records_of("mark_replaced").count(), 0);
    assert_eq!(life.store.kept_disks().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn temporaries_of_a_drill_and_a_verification_that_the_catalogue_forgot_are_reaped() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    set_policy(&bench, &life, &db(), PolicyChange::default()).await;
    let point = take(&life, &item).await;
    while bench.cloud.listing().await["unfinished_operations"] != 0 {
        azdr_env::sleep(Duration::from_secs(1)).await;
    }
    let before = untouchable(&bench).await;
    // The drill's machine says nothing, and the verification cannot read: both wait.
    bench.agents_behave(crate::agents::Behaviour::Absent).await;
    bench.cloud.simulator.set_faults(
        serde_json::from_value(serde_json::json!([
            {"match": {"method": "POST", "path_contains": "beginGetAccess", "count": 1000},
             "action": {"status": {"status": 503, "code": "ServerBusy"}}}
        ]))
        .unwrap(),
    );
    let (vm, region) = (db(), "eastus".to_owned());
    let input = workflows::verify::Input {
        item: item.id,
        vm,
        point: point.clone(),
        region,
        level: workflows::verify::Level::Restorable,
    };
    let verify = workflows::new_run(workflows::verify::RUN, &input, item.id, "test");
    let verify = life.engine.submit(verify).await.unwrap();
    let (vm, region, declared) = (db(), "eastus".to_owned(), bench.env.clock.wall());
    let resource_group = None;
    let input = workflows::dr_test::Input {
        item: item.id,
        vm,
        point,
        region,
        resource_group,
        declared: Some(declared),
        keep: Duration::ZERO,
    };
    let drill = workflows::new_run(workflows::dr_test::RUN, &input, item.id, "test");
    let drill = life.engine.submit(drill).await.unwrap();
    azdr_env::sleep(Duration::from_secs(30)).await;
    let during = untouchable(&bench).await;
    let made = |run| during.of_run(&format!("1nstall.{run}"));
    assert_eq!(made(verify), ["Microsoft.Compute/disks"]);
    assert!(made(drill).contains(&"Microsoft.Compute/virtualMachines".to_owned()));
    assert!(made(drill).contains(&"group".to_owned()));
    life.engine.kill();
    bench.cloud.simulator.set_faults(Vec::new());

    let (life, _) = lose_and_rebuild(&bench, life).await;
    assert!(life.store.run(drill).await.unwrap().is_none());
    tokio::time::advance(Duration::from_secs(2 * 3600)).await;
    // Not before somebody has looked at what was rebuilt.
    assert_eq!(reap(&bench, &life).await, []);
    assert!(life.store.release_deletions().await.unwrap().is_some());
    let mut reaped = 0;
    loop {
        let ended = reap(&bench, &life).await;
        if ended.is_empty() {
            break;
        }
        assert!(ended.iter().all(|(_, state)| *state == RunState::Succeeded), "{ended:?}");
        reaped += ended.len();
        assert!(reaped < 10, "it never ends");
    }
    assert!(reaped >= 2, "of two runs");
    assert_eq!(untouchable(&bench).await, before);
    life.end().await;
}
