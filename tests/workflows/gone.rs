//! A VM that somebody has deleted: said once, left alone but for proofs of its backups, and taken up again
//! when it is back.

use std::time::Duration;

use azdr_arm::{Progress, Started};
use azdr_controller::reconcile::Reconciler;
use azdr_controller::reconcile::proofs::ProofBudget;
use azdr_controller::store::{AlertFilter, PolicyRow, RunRow, RunState};
use azdr_controller::workflows::{backup, new_run};
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::policy_tag::POLICY_TAG;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cloud::SUBSCRIPTION;
use crate::life::{Bench, Life, vm};

fn reconciler(bench: &Bench, life: &Life) -> Reconciler {
    Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    }
}

async fn take_inventory(bench: &Bench, life: &Life) {
    // A listing of Azure may be a little old.
    tokio::time::advance(Duration::from_secs(300)).await;
    reconciler(bench, life).take_inventory(&[SUBSCRIPTION.to_owned()]).await.unwrap();
}

async fn row(life: &Life) -> PolicyRow {
    let item = life.store.item(&vm("db")).await.unwrap().unwrap();
    life.store.policy(item.id).await.unwrap().unwrap()
}

/// Kinds of all alerts with whether they are open, newest first.
async fn alerts(life: &Life) -> Vec<(String, bool)> {
    let filter = AlertFilter { limit: 10, ..AlertFilter::default() };
    let (rows, _) = life.store.alerts(filter).await.unwrap();
    rows.into_iter().map(|a| (a.kind, a.resolved.is_none())).collect()
}

/// Its disks and network interfaces are still there, as Azure leaves them.
async fn make_again(life: &Life, was: &azdr_arm::Vm) {
    let os = was.os_disk.as_ref().unwrap().managed_disk.as_ref().unwrap();
    let again = json!({
        "location": "eastus",
        "properties": {
            "hardwareProfile": {"vmSize": was.size},
            "storageProfile": {"osDisk": {
                "createOption": "Attach", "osType": "Linux", "managedDisk": {"id": os.as_str()},
            }},
            "networkProfile": {"networkInterfaces": [{"id": was.nics[0].as_str()}]},
        },
    });
    let azure = &life.services.azure;
    done(life, azure.begin_create_vm(was.id.as_ref().unwrap(), again).await.unwrap()).await;
}

async fn done(life: &Life, started: Started) {
    let Started::Running(mut operation) = started else { return };
    while let Progress::Running { poll_after } =
        life.services.azure.poll(&mut operation).await.unwrap()
    {
        azdr_env::sleep(poll_after).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_vm_is_recorded_once_and_its_tag_is_left_alone_until_it_is_back() {
    let bench = Bench::new();
    let life = bench.life().await;
    let azure = &life.services.azure;
    let db = vm("db");
    let item = life.store.ensure_vm(db.clone(), "eastus".into(), None, bench.env.clock.wall());
    let item = item.await.unwrap();
    let now = bench.env.clock.wall();
    life.store.set_policy(item.id, Policy::default(), "alice".into(), now).await.unwrap();
    take_inventory(&bench, &life).await;
    assert_eq!((row(&life).await.tag_problem, row(&life).await.gone), (None, None));

    let was = azure.get_vm(&db).await.unwrap();
    done(&life, azure.begin_delete_vm(&db).await.unwrap()).await;
    take_inventory(&bench, &life).await;
    let gone = row(&life).await;
    let since = gone.gone.unwrap();
    assert_eq!(gone.tag_problem.as_deref(), Some("the VM is not in Azure any more"));
    assert_eq!(alerts(&life).await, [("vm_gone".to_owned(), true)]);
    take_inventory(&bench, &life).await;
    assert_eq!(row(&life).await.gone, Some(since), "the first sight counts");
    assert_eq!(alerts(&life).await.len(), 1);

    // Hours of the loop that writes tags again: not one request.
    let asked = azure.counters().requests;
    let stop = CancellationToken::new();
    let loops = tokio::spawn(reconciler(&bench, &life).keep_tags(stop.clone()));
    azdr_env::sleep(Duration::from_secs(6 * 3600)).await;
    stop.cancel();
    loops.await.unwrap();
    assert_eq!(azure.counters().requests, asked);

    make_again(&life, &was).await;
    take_inventory(&bench, &life).await;
    let back = row(&life).await;
    assert_eq!((back.gone, back.tag_problem), (None, None));
    let tags = azure.get_tags(&db).await.unwrap();
    assert!(tags.contains_key(POLICY_TAG), "its tag was written again: {tags:?}");
    assert_eq!(alerts(&life).await, [("vm_gone".to_owned(), false)]);
    life.end().await;
}

/// The tag loop finds it first, where no inventory has.
#[tokio::test(start_paused = true)]
async fn a_vm_that_was_never_there_is_found_gone_by_the_first_tag_that_is_refused() {
    let bench = Bench::new();
    let life = bench.life().await;
    let now = bench.env.clock.wall();
    let item = life.store.ensure_vm(vm("never"), "eastus".into(), None, now).await.unwrap();
    life.store.set_policy(item.id, Policy::default(), "alice".into(), now).await.unwrap();
    let stop = CancellationToken::new();
    let loops = tokio::spawn(reconciler(&bench, &life).keep_tags(stop.clone()));
    azdr_env::sleep(Duration::from_secs(3600)).await;
    stop.cancel();
    loops.await.unwrap();
    assert!(life.store.policy(item.id).await.unwrap().unwrap().gone.is_some());
    assert_eq!(alerts(&life).await, [("vm_gone".to_owned(), true)]);
    life.end().await;
}

/// Runs of a workflow, oldest first.
async fn runs(life: &Life, workflow: &'static str) -> Vec<RunRow> {
    let mut runs = life.store.recent_runs(None, None, Some(workflow), 100).await.unwrap();
    runs.reverse();
    runs
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_vm_that_is_gone_is_backed_up_until_it_is_back_and_its_backups_are_proved() {
    const DAY: u32 = 86_400;
    let day = Duration::from_secs(DAY.into());
    let bench = Bench::new();
    let life = bench.life().await;
    let change = PolicyChange {
        schedule_time: Some("02:00".into()),
        verify_every_secs: Some(DAY),
        drill_every_secs: Some(30 * DAY),
        ..PolicyChange::default()
    };
    let item = bench.protect(&life, change).await;
    let input = backup::Input { item: item.id, vm: item.arm_id.clone(), tier: None };
    for _ in 0..2 {
        let run = new_run(backup::RUN, &input, item.id, "test");
        life.ended(life.engine.submit(run).await.unwrap()).await;
        life.settle().await;
    }
    let azure = &life.services.azure;
    let was = azure.get_vm(&item.arm_id).await.unwrap();
    done(&life, azure.begin_delete_vm(&item.arm_id).await.unwrap()).await;
    take_inventory(&bench, &life).await;

    let stop = CancellationToken::new();
    let (loops, tick) = (reconciler(&bench, &life), Duration::from_secs(300));
    let schedule = tokio::spawn(loops.clone().keep_schedule(tick, stop.clone()));
    let proofs = loops.keep_proofs(ProofBudget::default(), tick, stop.clone());
    let proofs = tokio::spawn(proofs);
    azdr_env::sleep(3 * day).await;
    assert_eq!(runs(&life, "backup").await.len(), 2, "three nights, and none that can only fail");
    let verified = runs(&life, "verify").await;
    assert!(verified.iter().all(|r| r.state == RunState::Succeeded), "{verified:#?}");
    assert_eq!(verified.len(), 2, "each of them once");
    let drills = runs(&life, "dr_test").await;
    assert_eq!(drills.iter().map(|r| r.state).collect::<Vec<_>>(), [RunState::Succeeded]);
    assert_eq!(alerts(&life).await, [("vm_gone".to_owned(), true)]);

    make_again(&life, &was).await;
    take_inventory(&bench, &life).await;
    azdr_env::sleep(Duration::from_secs(3600)).await;
    let made_up = runs(&life, "backup").await;
    assert_eq!((made_up.len(), &*made_up[2].requested_by), (3, "schedule (late)"));
    assert_eq!(made_up[2].state, RunState::Succeeded, "{:?}", made_up[2].error);
    azdr_env::sleep(day).await;
    let after = runs(&life, "backup").await;
    assert_eq!((after.len(), &*after[3].requested_by), (4, "schedule"));
    stop.cancel();
    schedule.await.unwrap();
    proofs.await.unwrap();
    life.end().await;
}
