//! Verifications and drills that policies ask for: on time, inside the budget, never twice.

use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_controller::reconcile::proofs::{Idle, ProofBudget};
use azdr_controller::store::{Item, RunId, RunRow, RunState};
use azdr_controller::workflows::{self, backup, verify};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::PointName;
use tokio_util::sync::CancellationToken;

use crate::cloud::world;
use crate::life::{Bench, Life, vm};
use crate::meddling::{Plan, Side};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: u32 = 86_400;
const ALL: ProofBudget = ProofBudget { verifications: 4, drills: 1 };

fn reconciler(bench: &Bench, life: &Life) -> Reconciler {
    Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    }
}

fn verified_daily() -> PolicyChange {
    PolicyChange { verify_every_secs: Some(DAY), ..PolicyChange::default() }
}

/// Runs of a workflow, oldest first.
async fn runs(life: &Life, workflow: &'static str) -> Vec<RunRow> {
    let mut runs = life.store.recent_runs(None, None, Some(workflow), 100).await.unwrap();
    runs.reverse();
    runs
}

/// Takes a recovery point of this machine and lets what follows from it end.
async fn take(life: &Life, item: &Item) -> PointName {
    let input = backup::Input { item: item.id, vm: item.arm_id.clone(), tier: None };
    let run = workflows::new_run(backup::RUN, &input, item.id, "test");
    let row = life.ended(life.engine.submit(run).await.unwrap()).await;
    let point = row.result.unwrap_or_else(|| panic!("the backup failed: {:?}", row.error));
    life.settle().await;
    serde_json::from_value(point["backup"]["point"].clone()).unwrap()
}

/// Machines under a policy, each with a recovery point.
async fn protected(bench: &Bench, life: &Life, names: &[&str], change: &PolicyChange) -> Vec<Item> {
    let mut items = vec![];
    for name in names {
        let item = bench.protect_vm(life, vm(name), change.clone()).await;
        take(life, &item).await;
        items.push(item);
    }
    items
}

#[tokio::test(start_paused = true)]
async fn the_newest_unproved_point_is_verified_once_and_again_when_it_is_due_and_there_is_a_new_one()
 {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = protected(&bench, &life, &["db"], &verified_daily()).await.remove(0);
    tokio::time::advance(HOUR).await;
    let newest = take(&life, &item).await;
    let loops = reconciler(&bench, &life);
    let mut idle = Idle::default();
    // Looking twice in a row starts one, and so does looking again when it is over.
    for _ in 0..2 {
        loops.start_due_proofs(ALL, &mut idle).await.unwrap();
    }
    life.settle().await;
    loops.start_due_proofs(ALL, &mut idle).await.unwrap();
    life.settle().await;
    let seen = runs(&life, "verify").await;
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].state, &*seen[0].requested_by), (RunState::Succeeded, "schedule"));
    let input: verify::Input = serde_json::from_value(seen[0].input.clone()).unwrap();
    assert_eq!(input.point, newest);

    // A day later the older point is what is left to prove, and after that nothing is.
    for (days, expected) in [(1, 2), (2, 2), (3, 2)] {
        tokio::time::advance(24 * HOUR).await;
        loops.start_due_proofs(ALL, &mut idle).await.unwrap();
        life.settle().await;
        assert_eq!(runs(&life, "verify").await.len(), expected, "day {days}");
    }
    // A new point is proved as soon as it is there: the proof is overdue.
    take(&life, &item).await;
    loops.start_due_proofs(ALL, &mut idle).await.unwrap();
    life.settle().await;
    assert_eq!(runs(&life, "verify").await.len(), 3);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_the_budget_allows_and_the_longest_overdue_go_first() {
    let bench = Bench::with(world(&[("a", false), ("b", false), ("c", false)]));
    let life = bench.life().await;
    let items = protected(&bench, &life, &["c", "a", "b"], &verified_daily()).await;
    tokio::time::advance(HOUR).await;
    let loops = reconciler(&bench, &life);
    let two = ProofBudget { verifications: 2, drills: 0 };
    let mut idle = Idle::default();
    loops.start_due_proofs(two, &mut idle).await.unwrap();
    loops.start_due_proofs(two, &mut idle).await.unwrap();
    let first: Vec<_> = runs(&life, "verify").await.iter().filter_map(|r| r.item).collect();
    // `c` was put under its policy first.
    assert_eq!(first, [items[0].id, items[1].id]);
    let none = ProofBudget { verifications: 0, drills: 0 };
    life.settle().await;
    loops.start_due_proofs(none, &mut idle).await.unwrap();
    assert_eq!(runs(&life, "verify").await.len(), 2);
    loops.start_due_proofs(two, &mut idle).await.unwrap();
    life.settle().await;
    assert_eq!(runs(&life, "verify").await[2].item, Some(items[2].id));
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_at_growing_distances() {
    let bench = Bench::new();
    let life = bench.life().await;
    protected(&bench, &life, &["db"], &verified_daily()).await;
    bench.meddler.arm(RunId(0), Plan::default());
    let loops = reconciler(&bench, &life);
    let mut idle = Idle::default();
    let mut starts = vec![];
    for _ in 0..48 {
        let before = runs(&life, "verify").await.len();
        loops.start_due_proofs(ALL, &mut idle).await.unwrap();
        let seen = runs(&life, "verify").await;
        if seen.len() > before {
            // Its snapshots cannot be read: the plan step fails for good.
            let run = seen[before].id;
            bench.meddler.arm(run, Plan { fail: Some(("plan", Side::Before)), ..Plan::default() });
            assert_eq!(life.ended(run).await.state, RunState::Failed);
            starts.push(seen[before].created);
        }
        azdr_env::sleep(Duration::from_secs(1800)).await;
    }
    let pauses: Vec<u64> =
        starts.windows(2).map(|w| (w[1].since(w[0]).as_secs() + 900) / 1800).collect();
    // In half hours, looked at every half hour; the policy asks for one a day.
    assert_eq!(pauses.len(), 4, "{pauses:?}");
    assert!(pauses.windows(2).all(|w| w[1] > w[0]), "{pauses:?}");
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_write_neither_loses_a_proof_nor_starts_one_twice() {
    let names = ["a", "b", "c"];
    let mut crashes = 0;
    for side in [Side::Before, Side::After] {
        for write in 1..=6 {
            let bench = Bench::with(world(&[("a", false), ("b", false), ("c", false)]));
            let mut life = bench.life().await;
            protected(&bench, &life, &names, &verified_daily()).await;
            tokio::time::advance(HOUR).await;
            bench.meddler.arm(RunId(0), Plan { crash: Some((write, side)), ..Plan::default() });
            let loops = reconciler(&bench, &life);
            let crashed = tokio::select! {
                biased;
                () = life.mortal.dead() => true,
                () = async {
                    let _ = loops.start_due_proofs(ALL, &mut Idle::default()).await;
                    life.settle().await;
                } => false,
            };
            // A crash that has not come by now must not come later.
            bench.meddler.arm(RunId(0), Plan::default());
            if crashed {
                crashes += 1;
                life = bench.next(life).await;
            }
            let loops = reconciler(&bench, &life);
            for _ in 0..2 {
                loops.start_due_proofs(ALL, &mut Idle::default()).await.unwrap();
                life.settle().await;
            }
            let seen = runs(&life, "verify").await;
            let mut items: Vec<_> = seen.iter().filter_map(|r| r.item).collect();
            items.sort();
            items.dedup();
            assert_eq!((seen.len(), items.len()), (3, 3), "write {write} {side:?}: {seen:#?}");
            assert!(seen.iter().all(|r| r.state == RunState::Succeeded));
            life.end().await;
        }
    }
    assert_eq!(crashes, 12);
}

#[tokio::test(start_paused = true)]
async fn drills_are_held_one_at_a_time_where_the_copies_are() {
    let bench = Bench::with(world(&[("a", false), ("b", false)]));
    let life = bench.life().await;
    let change = PolicyChange {
        drill_every_secs: Some(30 * DAY),
        target_region: Some("westus2".into()),
        ..PolicyChange::default()
    };
    protected(&bench, &life, &["a", "b"], &change).await;
    tokio::time::advance(HOUR).await;
    let stop = CancellationToken::new();
    let loops = reconciler(&bench, &life);
    let running = tokio::spawn(loops.keep_proofs(ALL, Duration::from_secs(30), stop.clone()));
    azdr_env::sleep(6 * HOUR).await;
    stop.cancel();
    running.await.unwrap();
    life.settle().await;
    let seen = runs(&life, "dr_test").await;
    let mut items: Vec<_> = seen.iter().filter_map(|r| r.item).collect();
    items.dedup();
    assert!(items.len() >= 2, "{seen:#?}");
    assert!(seen.iter().all(|r| r.input["region"] == "westus2" && r.requested_by == "schedule"));
    // One ends before the next begins.
    for pair in seen.windows(2) {
        assert!(pair[0].finished.unwrap() <= pair[1].created, "{pair:#?}");
    }
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_off_asks_for_no_proof() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = protected(&bench, &life, &["db"], &verified_daily()).await.remove(0);
    let mut policy = life.store.policy(item.id).await.unwrap().unwrap().policy;
    policy.enabled = false;
    let now = bench.env.clock.wall();
    life.store.set_policy(item.id, policy, "test".into(), now).await.unwrap();
    reconciler(&bench, &life).start_due_proofs(ALL, &mut Idle::default()).await.unwrap();
    assert_eq!(runs(&life, "verify").await.len(), 0);
    life.end().await;
}
