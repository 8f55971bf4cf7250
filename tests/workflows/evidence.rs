//! What is recorded is what was proved (I4), and what is not proved is put back (I6).

use std::collections::BTreeMap;

use azdr_controller::store::{PointRow, RunRow, RunState};
use azdr_controller::workflows::{self, prune, replicate, restore_in_place};
use azdr_domain::consistency::Consistency;
use azdr_domain::policy::{ConsistencyDemand, PolicyChange};
use azdr_domain::recovery_point::ProofLevel;
use serde_json::Value;

use crate::agents::{Behaviour, NOTE};
use crate::cases::{back_up, take};
use crate::cloud::{Cloud, Spoil};
use crate::life::{Bench, Life, db};
use crate::meddling::Plan;

async fn backup_with(
    behaviour: Behaviour,
    demand: ConsistencyDemand,
) -> (Bench, RunRow, Vec<PointRow>) {
    let bench = Bench::new();
    let life = bench.life().await;
    let change = PolicyChange { consistency: Some(demand), ..PolicyChange::default() };
    let item = bench.protect(&life, change).await;
    bench.agents_behave(behaviour).await;
    let id = life.engine.submit(back_up(&item)).await.unwrap();
    let row = life.ended(id).await;
    life.settle().await;
    let points = life.points(&item).await;
    life.end().await;
    (bench, row, points)
}

async fn snapshots(cloud: &Cloud) -> Vec<String> {
    let listing = cloud.listing().await;
    let all = listing["resources"].as_array().unwrap();
    let snapshots = all.iter().filter(|r| r["type"].as_str().unwrap().ends_with("/snapshots"));
    snapshots.map(|r| r["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_frozen_capture_is_recorded_as_filesystem_with_its_window() {
    let (bench, row, points) = backup_with(Behaviour::Well, ConsistencyDemand::Require).await;
    assert_eq!(row.state, RunState::Succeeded);
    assert_eq!(points[0].consistency, Consistency::Filesystem);
    assert_eq!(points[0].frozen_ms, 321);
    assert_eq!(points[0].snapshots.len(), 2);
    assert!(!points[0].nonce.is_empty());
    let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
    assert_eq!(seen.disks.len(), 2);
    assert!(seen.disks.iter().all(|d| seen.frozen_ms(d).is_some()), "{seen:?}");
    let proved = seen.file_systems.iter().map(|f| (f.mount_point.as_str(), f.level()));
    let level = Some(Consistency::Filesystem);
    assert_eq!(proved.collect::<Vec<_>>(), [("/", level), ("/data", level)], "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_late_request_made_before_the_freeze_is_never_taken_for_frozen() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    bench.agents_behave(Behaviour::Well).await;
    let (life, row) = bench.run_meddled(life, back_up(&item), Plan::default(), None).await;
    assert_eq!(row.state, RunState::Succeeded);
    let is_snapshot = |n: &usize| {
        let request = bench.cloud.request(*n);
        request.starts_with("PUT") && request.contains("/snapshots/")
    };
    let first = (1..=bench.cloud.requests()).find(is_snapshot).unwrap();
    let before = (snapshots(&bench.cloud).await, bench.guests.freezes().len());
    // Once more, with the same requests: the first attempt's snapshot is made as the second's freeze begins.
    let late = Some((first, Spoil::Late));
    let (life, row) = bench.run_meddled(life, back_up(&item), Plan::default(), late).await;
    assert_eq!(bench.guests.freezes().len(), before.1 + 2, "there was a second attempt");
    assert_eq!(row.state, RunState::Failed);
    let error = row.error.unwrap();
    assert!(error["message"].as_str().unwrap().contains("from before the freeze"), "{error}");
    assert_eq!(life.points(&item).await.len(), 1);
    assert_eq!(snapshots(&bench.cloud).await, before.0, "nothing is left of it");
    let (life, row) = bench.run_meddled(life, back_up(&item), Plan::default(), None).await;
    assert_eq!(row.state, RunState::Succeeded);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_which_nothing_was_frozen_lowers_the_point_and_is_named() {
    let left_out = Behaviour::LeavesOutData;
    let (bench, row, points) = backup_with(left_out, ConsistencyDemand::Prefer).await;
    assert_eq!(row.state, RunState::Succeeded);
    assert_eq!(points[0].consistency, Consistency::Uncoordinated);
    let why = "no file system of it was frozen (/data: not among the configured file_systems)";
    assert_eq!(points[0].consistency_reason, format!("LUN 3: {why}"));
    let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
    let disks: Vec<_> = seen.disks.iter().map(|d| (d.lun, seen.disk_level(d))).collect();
    let (frozen, not_frozen) = (Some(Consistency::Filesystem), Some(Consistency::Crash));
    assert_eq!(disks, [(None, frozen), (Some(3), not_frozen)], "{seen:?}");
    assert_eq!((seen.unbroken, seen.frozen_ms(&seen.disks[1])), (Some(true), None));
    assert_eq!(seen.disk_reason(&seen.disks[1]), why);

    let (bench, row, points) = backup_with(left_out, ConsistencyDemand::Require).await;
    assert_eq!(row.state, RunState::Failed);
    let error = row.error.unwrap();
    assert_eq!(error["kind"], "not_consistent");
    assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    assert!(points.is_empty());
    // What the agent says when it has frozen is enough: there was never a snapshot, and it was told to thaw
    // at once, and again when the attempt was undone.
    let written = bench.cloud.writes();
    let is_snapshot =
        |request: &&String| request.starts_with("PUT") && request.contains("/snapshots/");
    assert_eq!(written.keys().find(is_snapshot), None);
    assert_eq!((bench.guests.freezes().len(), bench.guests.thaws()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_say_which_disks_it_froze_lowers_nothing_and_it_is_said() {
    let (bench, row, points) =
        backup_with(Behaviour::KnowsNoDisks, ConsistencyDemand::Require).await;
    assert_eq!(row.state, RunState::Succeeded);
    assert_eq!(points[0].consistency, Consistency::Filesystem);
    let said = &points[0].consistency_reason;
    assert!(said.contains("does not say") && said.contains("the OS disk, LUN 3"), "{said}");
    let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
    assert!(seen.disks.iter().all(|d| seen.frozen_ms(d).is_some()), "{seen:?}");
    assert!(seen.disks.iter().all(|d| seen.disk_level(d).is_none()), "{seen:?}");
}

/// One frozen file system on a disk that Azure does not attach is no word for the disks that it does.
#[tokio::test(start_paused = true)]
async fn a_freeze_on_a_foreign_disk_claims_nothing_of_the_disks_of_the_point() {
    let elsewhere = Behaviour::FreezesElsewhere;
    let (bench, row, points) = backup_with(elsewhere, ConsistencyDemand::Prefer).await;
    assert_eq!(row.state, RunState::Succeeded);
    assert_eq!(points[0].consistency, Consistency::Uncoordinated);
    let why = "LUN 3: no file system of it was frozen";
    assert_eq!(points[0].consistency_reason, why);
    let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
    let levels: Vec<_> = seen.disks.iter().map(|d| seen.disk_level(d)).collect();
    assert_eq!(levels, [Some(Consistency::Filesystem), Some(Consistency::Crash)], "{seen:?}");

    let (_bench, row, points) = backup_with(elsewhere, ConsistencyDemand::Require).await;
    assert_eq!((row.state, points.len()), (RunState::Failed, 0));
    let error = row.error.unwrap();
    assert_eq!(error["kind"], "not_consistent");
    assert!(error["message"].as_str().unwrap().contains(why), "{error}");
}

#[tokio::test(start_paused = true)]
async fn application_is_recorded_only_when_the_hooks_are_known_to_have_ended_well() {
    for (behaviour, consistency, reason, told) in [
        (Behaviour::HooksSucceed, Consistency::Application, "application hooks", 1),
        (Behaviour::HookFails, Consistency::Filesystem, "hook 10-db: exit code 1", 1),
        (Behaviour::HooksUnheard, Consistency::Filesystem, "was not heard", 0),
        (Behaviour::Well, Consistency::Filesystem, "applications are as after a crash", 0),
    ] {
        let (bench, row, points) = backup_with(behaviour, ConsistencyDemand::Require).await;
        assert_eq!(row.state, RunState::Succeeded, "{behaviour:?}");
        assert_eq!(points[0].consistency, consistency, "{behaviour:?}");
        let said = &points[0].consistency_reason;
        assert!(said.contains(reason), "{behaviour:?}: {said}");
        let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
        assert_eq!(seen.hooks.len(), told, "{behaviour:?}: {seen:?}");
        assert_eq!(seen.unbroken, Some(true), "{behaviour:?}");
        let notes = seen.file_systems.iter().map(|f| (f.mount_point.as_str(), f.note.as_str()));
        let expected = BTreeMap::from([("/", ""), ("/data", NOTE)]);
        assert_eq!(notes.collect::<BTreeMap<_, _>>(), expected, "of no weight: {behaviour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_must_not_fail_fails_the_backup() {
    for demand in [ConsistencyDemand::Prefer, ConsistencyDemand::Require] {
        let (bench, row, points) = backup_with(Behaviour::HookForbids, demand).await;
        assert_eq!(row.state, RunState::Failed, "{demand:?}");
        let error = row.error.unwrap();
        assert_eq!(error["kind"], "hook_failed", "{demand:?}");
        assert!(error["message"].as_str().unwrap().contains("10-db"), "{error}");
        assert!(points.is_empty(), "{demand:?}");
        assert_eq!(snapshots(&bench.cloud).await, [""; 0], "{demand:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn any_doubt_about_the_hold_is_recorded_as_uncoordinated_with_its_reason() {
    for (behaviour, reason) in [
        (Behaviour::Absent, "no agent"),
        (Behaviour::RefusesToFreeze, "somebody else has frozen /"),
        (Behaviour::BrokenHold, "the lease ran out"),
        (Behaviour::ReleasedCanary, "/data: its canary did not stay blocked until the thaw"),
        (Behaviour::SilentAfterFreeze, ""),
    ] {
        let (bench, row, points) = backup_with(behaviour, ConsistencyDemand::Prefer).await;
        assert_eq!(row.state, RunState::Succeeded, "{behaviour:?}");
        assert_eq!(points[0].consistency, Consistency::Uncoordinated, "{behaviour:?}");
        let said = &points[0].consistency_reason;
        assert!(said.contains(reason), "{behaviour:?}: {said}");
        let seen = bench.store().capture(&points[0].operation_id).await.unwrap().unwrap();
        assert!(seen.disks.iter().all(|d| seen.frozen_ms(d).is_none()), "{behaviour:?}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_consistency_that_is_not_reached_fails_and_leaves_no_snapshot() {
    for behaviour in [
        Behaviour::Absent,
        Behaviour::RefusesToFreeze,
        Behaviour::BrokenHold,
        Behaviour::ReleasedCanary,
        Behaviour::SilentAfterFreeze,
    ] {
        let (bench, row, points) = backup_with(behaviour, ConsistencyDemand::Require).await;
        assert_eq!(row.state, RunState::Failed, "{behaviour:?}");
        assert_eq!(row.error.unwrap()["kind"], "not_consistent", "{behaviour:?}");
        assert!(points.is_empty(), "{behaviour:?}");
        assert_eq!(snapshots(&bench.cloud).await, [""; 0], "{behaviour:?}");
    }
}

/// LUN to disk of `db`, its power state, from the simulator.
async fn machine(bench: &Bench) -> Value {
    let listing = bench.cloud.listing().await;
    let all = listing["resources"].as_array().unwrap();
    let vm = all.iter().find(|r| r["id"].as_str().unwrap().ends_with("/virtualMachines/db"));
    let mut disks: Vec<&str> = all
        .iter()
        .filter(|r| r["managed_by"].as_str().is_some_and(|v| v.ends_with("/virtualMachines/db")))
        .map(|r| r["id"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    disks.sort_unstable();
    serde_json::json!({"power": vm.unwrap()["power"], "disks": disks})
}

async fn restore(bench: &Bench, life: &Life, behaviour: Behaviour) -> RunRow {
    let item = life.store.items().await.unwrap().remove(0);
    let point = take(life, &item).await;
    bench.agents_behave(behaviour).await;
    let declared = bench.env.clock.wall();
    let input = restore_in_place::Input { item: item.id, vm: db(), point, declared };
    let run = workflows::new_run(restore_in_place::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    life.ended(id).await
}

#[tokio::test(start_paused = true)]
async fn a_machine_with_another_witness_is_put_back_onto_its_old_disks() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let before = machine(&bench).await;
    let row = restore(&bench, &life, Behaviour::WrongWitness).await;
    assert_eq!(row.state, RunState::Failed);
    assert_eq!(row.error.unwrap()["kind"], "wrong_witness");
    assert_eq!(machine(&bench).await, before);
    assert_eq!(life.points(&item).await[0].proof().0, ProofLevel::Unproved);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_nobody_can_ask_stays_and_is_reported_unconfirmed() {
    let bench = Bench::new();
    let life = bench.life().await;
    bench.protect(&life, PolicyChange::default()).await;
    let row = restore(&bench, &life, Behaviour::Absent).await;
    assert_eq!(row.state, RunState::Succeeded);
    let result = row.result.unwrap();
    assert_ne!(result["restore"]["unconfirmed"], "");
    assert_eq!(result["restore"]["witness_verified"], false);
    let now = machine(&bench).await;
    assert!(
        now["disks"].as_array().unwrap().iter().all(|d| d.as_str().unwrap().contains("restore"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_witnessed_restore_proves_its_point_and_keeps_the_replaced_disks() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let row = restore(&bench, &life, Behaviour::Well).await;
    assert_eq!(row.state, RunState::Succeeded);
    let result = row.result.unwrap();
    assert_eq!(result["restore"]["witness_verified"], true);
    assert_eq!(result["restore"]["kept_disks"].as_array().unwrap().len(), 2);
    assert_eq!(life.points(&item).await[0].proof().0, ProofLevel::Booted);
    let listing = bench.cloud.listing().await.to_string();
    assert!(listing.contains("/disks/db-os\"") && listing.contains("/disks/db-data\""));
}

#[tokio::test(start_paused = true)]
async fn the_same_point_and_another_one_restore_one_after_the_other() {
    let bench = Bench::new();
    let life = bench.life().await;
    bench.protect(&life, PolicyChange::default()).await;
    for _ in 0..2 {
        assert_eq!(restore(&bench, &life, Behaviour::Well).await.state, RunState::Succeeded);
    }
}

#[tokio::test(start_paused = true)]
async fn a_point_older_than_the_newest_copy_is_not_replicable() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let older = take(&life, &item).await;
    tokio::time::advance(std::time::Duration::from_secs(86_400)).await;
    let newer = take(&life, &item).await;
    let mut ends = Vec::new();
    for point in [newer, older] {
        let region = "westus2".to_owned();
        let input = replicate::Input { item: item.id, vm: db(), point, region, max_chains: None };
        let run = workflows::new_run(replicate::RUN, &input, item.id, "test");
        let id = life.engine.submit(run).await.unwrap();
        ends.push(life.ended(id).await);
    }
    assert_eq!(ends[0].state, RunState::Succeeded);
    assert_eq!(ends[1].error.clone().unwrap()["kind"], "not_replicable");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_copy_is_given_up_and_removed() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    bench.cloud.simulator.set_faults(
        serde_json::from_value(serde_json::json!([
            {"match": {"method": "PUT", "path_contains": "/snapshots/", "count": 100},
             "action": {"stall_copy_at_percent": 40.0}}
        ]))
        .unwrap(),
    );
    let before = snapshots(&bench.cloud).await;
    let region = "westus2".to_owned();
    let input = replicate::Input { item: item.id, vm: db(), point, region, max_chains: None };
    let run = workflows::new_run(replicate::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Failed);
    assert_eq!(row.error.unwrap()["kind"], "copy_stalled");
    assert_eq!(snapshots(&bench.cloud).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_keeps_its_point_from_being_pruned() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let mut points = Vec::new();
    for _ in 0..3 {
        points.push(take(&life, &item).await);
        tokio::time::advance(std::time::Duration::from_secs(86_400)).await;
    }
    let change = PolicyChange { daily: Some(1), ..PolicyChange::default() };
    bench.protect(&life, change).await;
    // A verification of the oldest point that does not end: its copy of a disk is refused for ever.
    bench.cloud.simulator.set_faults(
        serde_json::from_value(serde_json::json!([
            {"match": {"method": "PUT", "path_contains": "azdr-verify", "count": 1000},
             "action": {"status": {"status": 503, "code": "ServerBusy"}}}
        ]))
        .unwrap(),
    );
    let input = workflows::verify::Input {
        item: item.id,
        vm: db(),
        point: points[0].clone(),
        region: "eastus".into(),
        level: workflows::verify::Level::Restorable,
    };
    let run = workflows::new_run(workflows::verify::RUN, &input, item.id, "test");
    life.engine.submit(run).await.unwrap();
    azdr_env::sleep(std::time::Duration::from_secs(2)).await;
    let input = prune::Input::by_policy(item.id, db());
    let run = workflows::new_run(prune::RUN, &input, item.id, "test");
    let id = life.engine.submit(run).await.unwrap();
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    let left: Vec<_> = life.points(&item).await.into_iter().map(|p| p.name).collect();
    assert_eq!(left, [points[2].clone(), points[0].clone()]);
}
