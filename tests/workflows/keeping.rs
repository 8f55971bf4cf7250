//! What keeps a recovery point besides its policy: pins, leases, and that it is the newest (I1, I2).

use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_controller::store::{
    Approval, CatalogueChange, DeletionHold, Item, NewRun, PointRow, RunId, RunState,
};
use azdr_controller::workflows::{self, prune, tags, verify};
use azdr_domain::pin::{PIN_TAG, Pin, parse_tag};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::PointName;
use azdr_env::WallTime;

use crate::cases::{back_up, take};
use crate::life::{Bench, Life, db};
use crate::meddling::{Plan, Side};

const DAY: Duration = Duration::from_secs(86_400);

fn reconciler(bench: &Bench, life: &Life) -> Reconciler {
    Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    }
}

fn pin_of(bench: &Bench, owner: &str, days: Option<u32>) -> Pin {
    let now = bench.env.clock.wall();
    Pin {
        owner: owner.into(),
        since: now,
        until: days.map(|d| now.plus(d * DAY)),
        reason: "audit".into(),
    }
}

fn prune_by_policy(item: &Item) -> NewRun {
    workflows::new_run(prune::RUN, &prune::Input::by_policy(item.id, db()), item.id, "test")
}

fn delete(item: &Item, point: &PointName, region: Option<&str>) -> NewRun {
    let chosen = prune::Chosen { point: point.clone(), region: region.map(str::to_owned) };
    let input = prune::Input { item: item.id, vm: db(), chosen: Some(chosen), asked: None };
    workflows::new_run(prune::RUN, &input, item.id, "alice")
}

/// Some recovery points, a day apart, oldest first.
async fn several(life: &Life, item: &Item, count: u32) -> Vec<PointName> {
    let mut points = Vec::new();
    for _ in 0..count {
        points.push(take(life, item).await);
        tokio::time::advance(DAY).await;
    }
    points
}

async fn names(life: &Life, item: &Item) -> Vec<PointName> {
    life.points(item).await.into_iter().rev().map(|p| p.name).collect()
}

async fn pin_tags(life: &Life, point: &PointRow) -> Vec<Option<String>> {
    let mut found = Vec::new();
    for snapshot in &point.snapshots {
        let snapshot = life.services.azure.get_snapshot(&snapshot.id).await.unwrap();
        found.push(tags::value(&snapshot.tags, PIN_TAG).map(str::to_owned));
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_pinned_point_outlives_its_policy_until_the_pin_lapses() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let points = several(&life, &item, 3).await;
    let pin = pin_of(&bench, "alice", Some(30));
    life.store.pin(item.id, points[0].clone(), pin.clone()).await.unwrap();
    bench.protect(&life, PolicyChange { daily: Some(1), ..PolicyChange::default() }).await;
    // The plan says who, until when and why.
    let policy = life.store.policy(item.id).await.unwrap().unwrap().policy;
    let now = bench.env.clock.wall();
    let plan = prune::retention_plan(Some(&policy), &life.points(&item).await, now);
    let reasons: Vec<_> = plan
        .keep
        .iter()
        .filter(|k| k.point == points[0])
        .flat_map(|k| k.reasons.iter().map(ToString::to_string))
        .collect();
    assert_eq!(reasons, [format!("pinned by alice until {}: audit", pin.until.unwrap())]);

    let (life, row) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    assert_eq!(names(&life, &item).await, [points[0].clone(), points[2].clone()]);
    tokio::time::advance(30 * DAY).await;
    let (life, row) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    assert_eq!(names(&life, &item).await, [points[2].clone()]);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn pins_are_shown_on_every_snapshot_and_on_copies_made_later() {
    let bench = Bench::new();
    let life = bench.life().await;
    let change = PolicyChange {
        cross_region: Some(true),
        target_region: Some("westus2".into()),
        ..PolicyChange::default()
    };
    let item = bench.protect(&life, PolicyChange::default()).await;
    let first = take(&life, &item).await;
    let reconciler = reconciler(&bench, &life);
    life.store.pin(item.id, first.clone(), pin_of(&bench, "alice", None)).await.unwrap();
    life.store.pin(item.id, first.clone(), pin_of(&bench, "bob", Some(3))).await.unwrap();
    // Azure refuses: the store has the pin all the same, and the tag is tried again.
    bench.cloud.count_from_here(Some((1, crate::cloud::Spoil::Refuse)));
    reconciler.mirror_pins().await.unwrap();
    assert_eq!(life.store.stale_pins().await.unwrap().len(), 1);
    bench.cloud.count_from_here(None);
    reconciler.mirror_pins().await.unwrap();
    assert!(life.store.stale_pins().await.unwrap().is_empty());
    bench.protect(&life, change).await;
    let input = workflows::replicate::Input {
        item: item.id,
        vm: db(),
        point: first.clone(),
        region: "westus2".into(),
        max_chains: None,
    };
    let run = workflows::new_run(workflows::replicate::RUN, &input, item.id, "test");
    let (life, row) = bench.run(life, run).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    reconciler.mirror_pins().await.unwrap();
    let point = life.points(&item).await.remove(0);
    let shown = pin_tags(&life, &point).await;
    assert_eq!(shown.len(), 4);
    for value in shown {
        let owners: Vec<_> =
            parse_tag(&value.unwrap()).unwrap().into_iter().map(|p| p.owner).collect();
        assert_eq!(owners, ["alice", "bob"]);
    }
    assert!(life.store.unpin(item.id, first.clone(), "alice".into()).await.unwrap());
    assert!(!life.store.unpin(item.id, first.clone(), "alice".into()).await.unwrap());
    assert!(life.store.unpin(item.id, first, "bob".into()).await.unwrap());
    reconciler.mirror_pins().await.unwrap();
    assert_eq!(pin_tags(&life, &point).await, [None, None, None, None]);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_point_is_deleted_on_purpose_unless_something_must_keep_it() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let points = several(&life, &item, 3).await;
    life.store.pin(item.id, points[1].clone(), pin_of(&bench, "alice", Some(3))).await.unwrap();
    let mut life = life;
    for (point, region, word) in [
        (&points[2], None, "newest restorable"),
        (&points[1], None, "pinned by alice until"),
        (&points[0], Some("westus2"), "has no copy in westus2"),
    ] {
        let row;
        (life, row) = bench.run(life, delete(&item, point, region)).await;
        assert_eq!(row.state, RunState::Failed);
        let message = row.error.unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(names(&life, &item).await, points);
    let (life, row) = bench.run(life, delete(&item, &points[0], None)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    assert_eq!(names(&life, &item).await, points[1..]);
    let left = life.services.azure.list_snapshots(crate::cloud::SUBSCRIPTION, None).await.unwrap();
    assert_eq!(left.len(), 4);
    life.end().await;
}

/// The prunes in this state, by number.
async fn prunes(life: &Life, state: RunState) -> Vec<RunId> {
    let rows = life.store.recent_runs(Some(state), None, Some("prune"), 100).await.unwrap();
    rows.iter().map(|r| r.id).collect()
}

#[tokio::test(start_paused = true)]
async fn behind_a_stuck_prune_at_most_one_more_waits_and_later_finds_everything() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let mut points = several(&life, &item, 2).await;
    bench.protect(&life, PolicyChange { daily: Some(1), ..PolicyChange::default() }).await;
    let fail = Plan { fail: Some(("delete", Side::Before)), ..Plan::default() };
    let (mut life, row) = bench.run_meddled(life, prune_by_policy(&item), fail, None).await;
    assert_eq!(row.state, RunState::Stuck, "{row:?}");
    let mut waiting = Vec::new();
    for round in 0..3 {
        let id = life.engine.submit(back_up(&item)).await.unwrap();
        let row = life.ended(id).await;
        points
            .push(serde_json::from_value(row.result.unwrap()["backup"]["point"].clone()).unwrap());
        let queued = prunes(&life, RunState::Queued).await;
        if round > 0 {
            assert_eq!(queued, waiting, "after backup {round}");
        }
        waiting = queued;
        assert_eq!(waiting.len(), 1);
        tokio::time::advance(DAY).await;
        // The one that waits outlives the controller.
        life = bench.next(life).await;
        life.ended(row.id).await;
        azdr_env::sleep(Duration::from_secs(1)).await;
    }
    // Asking for the same does not make it more; asking for something else is something else.
    assert_eq!(life.engine.submit_once(prune_by_policy(&item)).await.unwrap(), waiting[0]);
    let chosen = life.engine.submit_once(delete(&item, &points[1], None)).await.unwrap();
    assert_ne!(chosen, waiting[0]);
    assert_eq!(life.engine.submit_once(delete(&item, &points[1], None)).await.unwrap(), chosen);
    bench.meddler.mend();
    life.engine.retry(row.id, "alice").await.unwrap();
    life.settle().await;
    assert_eq!(names(&life, &item).await, points[4..]);
    // One that has started may have decided already: the next is queued again.
    assert_ne!(life.engine.submit_once(prune_by_policy(&item)).await.unwrap(), waiting[0]);
    life.settle().await;
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_deletions_are_held_pruning_deletes_nothing_and_says_so() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let points = several(&life, &item, 2).await;
    bench.protect(&life, PolicyChange { daily: Some(1), ..PolicyChange::default() }).await;
    let held = DeletionHold { since: bench.env.clock.wall(), reason: "a test".into() };
    life.store.hold_deletions(held).await.unwrap();
    let (life, row) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let result = &row.result.unwrap()["prune"];
    assert!(result["held"].as_str().unwrap().contains("held since"), "{result}");
    let (life, row) = bench.run(life, delete(&item, &points[0], None)).await;
    assert_eq!(row.error.unwrap()["kind"], "held");
    assert_eq!(names(&life, &item).await, points);
    assert_eq!(life.store.release_deletions().await.unwrap().unwrap().reason, "a test");
    let (life, row) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    assert_eq!(names(&life, &item).await, points[1..]);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_first_the_other_is_refused_use_and_deletion_of_a_point() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let points = several(&life, &item, 2).await;
    let (name, id) = (points[0].clone(), item.id);
    let claim = CatalogueChange::ClaimForPruning { item: id, name: name.clone() };
    let lease = CatalogueChange::TakeLease { item: id, name: name.clone() };
    let progress = |change: CatalogueChange| azdr_controller::store::Progress {
        changes: vec![change],
        ..Default::default()
    };
    let input = verify::Input {
        item: id,
        vm: db(),
        point: name.clone(),
        region: "eastus".into(),
        level: verify::Level::Restorable,
    };
    let other = life.engine.submit(delete(&item, &points[1], None)).await.unwrap();
    life.ended(other).await;
    let now = bench.env.clock.wall();
    // A deletion has claimed the point: no job and no person can hold it any more.
    life.store.record(other, progress(claim.clone()), now).await.unwrap();
    let run = workflows::new_run(verify::RUN, &input, id, "test");
    let (life, row) = bench.run(life, run).await;
    assert_eq!(row.state, RunState::Failed);
    assert!(row.error.unwrap()["message"].as_str().unwrap().contains("is being deleted by job"));
    let pinned = life.store.pin(id, name.clone(), pin_of(&bench, "bob", None)).await;
    assert!(pinned.unwrap_err().to_string().contains("is being deleted by job"));
    let unclaim = CatalogueChange::Unclaim { item: id, name: name.clone() };
    life.store.record(other, progress(unclaim), now).await.unwrap();
    // A job holds it: it cannot be deleted.
    life.store.record(other, progress(lease), now).await.unwrap();
    let refused = life.store.record(other, progress(claim.clone()), now).await;
    assert!(refused.unwrap_err().to_string().contains("is held by job"));
    let (life, row) = bench.run(life, delete(&item, &name, None)).await;
    assert_eq!(row.state, RunState::Failed);
    assert!(row.error.unwrap()["message"].as_str().unwrap().contains("leased by job"));
    life.end().await;
}

/// A pruning that would delete 6 of 7 points, and the job that asks about it.
async fn asking(bench: &Bench) -> (Life, Item, Vec<PointName>, RunId) {
    let life = bench.life().await;
    let item =
        bench.protect(&life, PolicyChange { daily: Some(7), ..PolicyChange::default() }).await;
    let points = several(&life, &item, 7).await;
    bench.protect(&life, PolicyChange { daily: Some(1), ..PolicyChange::default() }).await;
    let (life, row) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(row.state, RunState::Succeeded, "{row:?}");
    let held = row.result.unwrap()["prune"]["held"].as_str().unwrap().to_owned();
    assert!(held.contains("waits for approval"), "{held}");
    life.settle().await;
    assert_eq!(names(&life, &item).await, points, "it has deleted nothing");
    let queued = life.store.queued_runs(10).await.unwrap();
    assert_eq!(queued.len(), 1, "{queued:?}");
    let waiting = queued[0].waiting_for.clone().unwrap();
    assert!(waiting.contains("6 of 7") && waiting.contains("azdr job approve"), "{waiting}");
    (life, item, points, queued[0].id)
}

async fn state(life: &Life, id: RunId) -> RunState {
    life.store.run(id).await.unwrap().unwrap().state
}

async fn approve(life: &Life, id: RunId, by: &str) -> Approval {
    let now = WallTime::from_unix_ms(1);
    life.store.approve(id, by.to_owned(), vec!["anna".into()], now).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pruning_of_most_points_waits_for_a_second_person_across_restarts() {
    let bench = Bench::new();
    let (life, item, points, id) = asking(&bench).await;
    // Asked once, however often it is pruned.
    let (life, _) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(life.store.queued_runs(10).await.unwrap().len(), 1);
    life.engine.kill();
    life.end().await;
    tokio::time::advance(DAY * 30).await;
    let life = bench.life().await;
    life.settle().await;
    assert_eq!(names(&life, &item).await, points, "a restart is no approval");
    // Whoever changed the policy, and whoever had changed it when it was asked.
    for same in ["test", "anna"] {
        assert_eq!(approve(&life, id, same).await, Approval::SamePerson, "{same}");
    }
    assert_eq!(approve(&life, id, "bob").await, Approval::Taken);
    life.engine.kill();
    life.end().await;
    let life = bench.life().await;
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    assert_eq!(names(&life, &item).await, points[6..]);
    assert_eq!(approve(&life, id, "bob").await, Approval::Already);
    let history = life.engine.history(id).await.unwrap();
    let (_, decision) = &history.decisions()[0];
    assert_eq!((&decision["decision"], &decision["by"]), (&"approve".into(), &"bob".into()));
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_approved_is_all_that_goes_and_no_more_than_the_rules_still_say() {
    let bench = Bench::new();
    let (life, item, points, id) = asking(&bench).await;
    // One of them is pinned, and a new point makes another one superfluous: nobody was asked about it.
    life.store.pin(item.id, points[2].clone(), pin_of(&bench, "alice", None)).await.unwrap();
    let new = take(&life, &item).await;
    life.settle().await;
    assert_eq!(approve(&life, id, "bob").await, Approval::Taken);
    life.engine.notify();
    assert_eq!(life.ended(id).await.state, RunState::Succeeded);
    let left = [points[2].clone(), points[6].clone(), new];
    assert_eq!(names(&life, &item).await, left);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_for_approval_is_cancelled_and_withdrawn_when_the_policy_wants_them_again() {
    let bench = Bench::new();
    let (life, item, points, id) = asking(&bench).await;
    life.engine.cancel(id, "test").await.unwrap();
    assert_eq!(state(&life, id).await, RunState::Cancelled);
    assert_eq!(approve(&life, id, "bob").await, Approval::NotAsked);
    // The next pruning asks anew, and one that is small enough takes it back.
    let (life, _) = bench.run(life, prune_by_policy(&item)).await;
    let again = life.store.queued_runs(10).await.unwrap()[0].id;
    bench.protect(&life, PolicyChange { daily: Some(6), ..PolicyChange::default() }).await;
    let (life, _) = bench.run(life, prune_by_policy(&item)).await;
    assert_eq!(state(&life, again).await, RunState::Cancelled);
    assert_eq!(names(&life, &item).await, points[1..]);
    life.end().await;
}
