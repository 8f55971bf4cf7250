//! Snapshots that somebody deletes or moves behind azdr's back: the catalogue learns of it, says so, and
//! what is gone protects nothing.

use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_controller::reconcile::residue::Sweeper;
use azdr_controller::store::{Item, PointRow, RunState};
use azdr_controller::workflows::{self, prune, replicate, verify};
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::recovery_point::{PointName, ProofLevel};
use azdr_domain::region::Region;
use azure_sim::faults::{Action, Fault, Match};

use crate::cases::{take, verified};
use crate::cloud::SUBSCRIPTION;
use crate::life::{Bench, Life, db};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOME: &str = "eastus";

async fn sweep(bench: &Bench, life: &Life) {
    let sweeper = Sweeper::new(Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    });
    sweeper.sweep(&[SUBSCRIPTION.to_owned()]).await.unwrap();
}

async fn row(life: &Life, item: &Item, name: &PointName) -> PointRow {
    life.points(item).await.into_iter().find(|p| p.name == *name).unwrap()
}

/// Two points, a day apart.
async fn two(bench: &Bench, life: &Life) -> (Item, PointName, PointName) {
    let item = bench.protect(life, PolicyChange::default()).await;
    let first = take(life, &item).await;
    azdr_env::sleep(DAY).await;
    let second = take(life, &item).await;
    (item, first, second)
}

async fn somebody_deletes(life: &Life, id: &ArmId) {
    life.services.azure.begin_delete_snapshot(id).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_point_whose_snapshot_somebody_deletes_is_neither_restorable_nor_proved_any_more() {
    let bench = Bench::new();
    let life = bench.life().await;
    let (item, first, second) = two(&bench, &life).await;
    verified(&life, &item, second.clone()).await;
    sweep(&bench, &life).await;
    let before = row(&life, &item, &second).await;
    assert!(before.is_restorable_in(HOME));
    assert_eq!(before.proof().0, ProofLevel::Restorable);
    assert_eq!(life.store.missing_snapshots().await.unwrap(), 0);
    assert_eq!(life.store.point_summary().await.unwrap()[0].1, 2);

    somebody_deletes(&life, &before.snapshots[1].id).await;
    sweep(&bench, &life).await;
    let after = row(&life, &item, &second).await;
    assert!(!after.is_restorable_in(HOME));
    assert_eq!(after.proof().0, ProofLevel::Unproved);
    assert_eq!(after.snapshots.iter().filter(|s| s.missing.is_some()).count(), 1);
    assert_eq!(life.store.missing_snapshots().await.unwrap(), 1);
    // It is neither the newest one nor fills a slot.
    assert_eq!(life.store.point_summary().await.unwrap()[0].1, 1);
    assert_eq!(life.store.point_tiers(item.id).await.unwrap().len(), 1);
    let points = life.points(&item).await;
    let why = prune::protection(&points, &first, HOME, bench.env.clock.wall());
    assert!(!why.is_empty(), "the older point is the newest restorable one now");
    let why = prune::protection(&points, &second, HOME, bench.env.clock.wall());
    assert!(why.is_empty(), "{why:?}");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn pruning_looks_whether_what_is_to_be_kept_is_there() {
    let bench = Bench::new();
    let life = bench.life().await;
    let (item, first, second) = two(&bench, &life).await;
    let newest = row(&life, &item, &second).await;
    somebody_deletes(&life, &newest.snapshots[0].id).await;
    // Nobody has swept. One daily point is wanted: by the catalogue, the one that is gone.
    let change = PolicyChange { daily: Some(1), ..PolicyChange::default() };
    let policy = Policy::default().apply(&change, &Region::parse(HOME).unwrap()).unwrap();
    let now = bench.env.clock.wall();
    life.store.set_policy(item.id, policy, "test".into(), now).await.unwrap();
    let run = workflows::new_run(prune::RUN, &prune::Input::by_policy(item.id, db()), item.id, "t");
    let id = life.engine.submit(run).await.unwrap();
    let ended = life.ended(id).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:?}");
    assert!(row(&life, &item, &first).await.is_restorable_in(HOME));
    assert!(!row(&life, &item, &second).await.is_restorable_in(HOME));
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_somebody_moves_is_followed_and_one_that_comes_back_is_no_more_missing() {
    let bench = Bench::new();
    let life = bench.life().await;
    let (item, first, second) = two(&bench, &life).await;
    let rename = |id: &ArmId, to: &str| {
        let action = Action::Rename { id: id.to_string(), to: to.to_owned() };
        bench.cloud.simulator.set_faults(vec![Fault { matching: Match::default(), action }]);
    };
    let was = row(&life, &item, &first).await.snapshots[0].id.clone();
    rename(&was, "precious");
    sweep(&bench, &life).await;
    sweep(&bench, &life).await;
    let moved = row(&life, &item, &first).await;
    assert!(moved.is_restorable_in(HOME));
    assert!(moved.snapshots.iter().any(|s| s.id.name() == "precious"), "{:?}", moved.snapshots);
    verified(&life, &item, first).await;

    // Without its tags nobody can tell what it is: missing, until it is back.
    let id = row(&life, &item, &second).await.snapshots[0].id.clone();
    let azure = &life.services.azure;
    let tags = azure.get_snapshot(&id).await.unwrap().tags;
    azure.remove_tags(&id, &tags.keys().cloned().collect::<Vec<_>>()).await.unwrap();
    rename(&id, "old");
    sweep(&bench, &life).await;
    sweep(&bench, &life).await;
    assert!(!row(&life, &item, &second).await.is_restorable_in(HOME));
    let there = ArmId::snapshot(id.subscription(), id.resource_group(), "old").unwrap();
    rename(&there, id.name());
    azure.get_snapshot(&there).await.unwrap_err();
    azure.merge_tags(&id, tags).await.unwrap();
    sweep(&bench, &life).await;
    assert!(row(&life, &item, &second).await.is_restorable_in(HOME));
    life.end().await;
}

const AWAY: &str = "westus2";

async fn copied(life: &Life, item: &Item, point: &PointName) {
    let region = AWAY.to_owned();
    let input = replicate::Input {
        item: item.id,
        vm: db(),
        point: point.clone(),
        region,
        max_chains: None,
    };
    let id = life.engine.submit(workflows::new_run(replicate::RUN, &input, item.id, "t")).await;
    let ended = life.ended(id.unwrap()).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:?}");
}

/// Found by simulation (seed 4 of 30 days and 10 VMs): the part that was left had the name that the new
/// copy wanted, and the replica could never be made whole again.
#[tokio::test(start_paused = true)]
async fn a_replica_that_has_lost_a_part_is_made_whole_and_keeps_the_other() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    copied(&life, &item, &point).await;
    let parts = row(&life, &item, &point).await;
    let parts: Vec<ArmId> = parts.snapshots_in(AWAY).into_iter().map(|s| s.id.clone()).collect();
    somebody_deletes(&life, &parts[0]).await;
    sweep(&bench, &life).await;
    assert!(!row(&life, &item, &point).await.is_restorable_in(AWAY));
    let azure = &life.services.azure;
    let kept = azure.get_snapshot(&parts[1]).await.unwrap().unique_id;
    copied(&life, &item, &point).await;
    assert!(row(&life, &item, &point).await.is_restorable_in(AWAY));
    assert_eq!(azure.get_snapshot(&parts[1]).await.unwrap().unique_id, kept);
    azure.get_snapshot(&parts[0]).await.unwrap();
    life.end().await;
}

/// Found by simulation (seed 0 of 30 days and 10 VMs): the originals were missing, the replica pruned,
/// and the point was still called proved by what had been proved of the replica.
#[tokio::test(start_paused = true)]
async fn what_was_proved_of_a_copy_that_is_gone_proves_nothing() {
    let bench = Bench::new();
    let life = bench.life().await;
    let (item, first, second) = two(&bench, &life).await;
    copied(&life, &item, &first).await;
    let region = AWAY.to_owned();
    let input = verify::Input {
        item: item.id,
        vm: db(),
        point: first.clone(),
        region,
        level: verify::Level::Restorable,
    };
    let id = life.engine.submit(workflows::new_run(verify::RUN, &input, item.id, "t")).await;
    assert_eq!(life.ended(id.unwrap()).await.state, RunState::Succeeded);
    assert_eq!(row(&life, &item, &first).await.proof().0, ProofLevel::Restorable);
    // A newer copy, so that a person may delete the older one.
    copied(&life, &item, &second).await;
    let region = AWAY.to_owned();
    let verified = verify::Input {
        item: item.id,
        vm: db(),
        point: second.clone(),
        region,
        level: verify::Level::Restorable,
    };
    let id = life.engine.submit(workflows::new_run(verify::RUN, &verified, item.id, "t")).await;
    assert_eq!(life.ended(id.unwrap()).await.state, RunState::Succeeded);
    let chosen = prune::Chosen { point: first.clone(), region: Some(AWAY.to_owned()) };
    let input = prune::Input { item: item.id, vm: db(), chosen: Some(chosen), asked: None };
    let id = life.engine.submit(workflows::new_run(prune::RUN, &input, item.id, "t")).await;
    let ended = life.ended(id.unwrap()).await;
    assert_eq!(ended.state, RunState::Succeeded, "{ended:?}");
    assert_eq!(row(&life, &item, &first).await.proof().0, ProofLevel::Unproved);
    life.end().await;
}
