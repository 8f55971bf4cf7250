//! What is left behind is found, shown with its cost, and deleted only when it is provably azdr's
//! temporary of a job that is over (I5).

use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_controller::reconcile::residue::{Found, Sweep, Sweeper, What};
use azdr_controller::store::{DeletionHold, RunState};
use azdr_controller::workflows::tags;
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::PolicyChange;

use crate::cases::{Case, restored_in_place, stray_disk, take, verified};
use crate::cloud::SUBSCRIPTION;
use crate::life::{Bench, Life, db};

const HOUR: Duration = Duration::from_secs(3600);

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

fn found<'a>(sweep: &'a Sweep, id: &ArmId) -> &'a Found {
    let seen = || sweep.found.iter().map(|f| f.id.to_string()).collect::<Vec<_>>();
    sweep.found.iter().find(|f| f.id == *id).unwrap_or_else(|| panic!("{id} not in {:?}", seen()))
}

/// Sweeps, lets what is started end, and answers how each ended.
pub(crate) async fn reap(bench: &Bench, life: &Life) -> Vec<(String, RunState)> {
    let sweeper = sweeper(bench, life);
    let sweep = sweeper.sweep(&[SUBSCRIPTION.to_owned()]).await.unwrap();
    let mut ended = Vec::new();
    for run in sweeper.start_reaping(&sweep).await.unwrap() {
        let row = life.ended(run).await;
        ended.push((row.workflow, row.state));
    }
    ended
}

async fn exists(life: &Life, disk: &ArmId) -> bool {
    match life.services.azure.get_disk(disk).await {
        Ok(_) => true,
        Err(e) if e.is_not_found() => false,
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test(start_paused = true)]
async fn after_every_workflow_nothing_is_residue() {
    for case in Case::ALL {
        let bench = case.bench();
        let life = bench.life().await;
        let run = case.prepare(&bench, &life).await;
        let (life, row) = bench.run(life, run).await;
        assert_eq!(row.state, RunState::Succeeded, "{case:?}: {row:?}");
        life.settle().await;
        let sweep = sweep(&bench, &life).await;
        let kept: Vec<_> = life.store.kept_disks().await.unwrap();
        let unexpected: Vec<_> =
            sweep.found.iter().filter(|f| kept.iter().all(|k| k.disk != f.id)).collect();
        assert!(unexpected.is_empty(), "{case:?}: {unexpected:#?}");
        life.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_provably_a_temporary_of_a_finished_job_is_deleted() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let run = verified(&life, &item, point).await;
    let ours = format!("1nstall.{run}");
    let late = stray_disk(&life, &format!("azdr-verify-1nstall-{run}-late"), &ours).await;
    let named_otherwise = stray_disk(&life, "precious", &ours).await;
    let of_nobody = stray_disk(&life, "azdr-verify-1nstall-999-os", "1nstall.999").await;
    let foreign = stray_disk(&life, "azdr-verify-ffffffff-1-os", "ffffffff.1").await;
    let early = sweep(&bench, &life).await;
    let early = found(&early, &late);
    assert!(matches!(early.what, What::ReapedAfter(_)), "{early:?}");
    assert_eq!(early.monthly_cents, Some(151));
    assert_eq!(early.workflow.as_deref(), Some("verify"));
    assert_eq!(reap(&bench, &life).await, []);

    tokio::time::advance(2 * HOUR).await;
    let due = sweep(&bench, &life).await;
    assert_eq!(found(&due, &late).what, What::Reaped);
    assert!(matches!(found(&due, &named_otherwise).what, What::Person(_)));
    assert!(matches!(found(&due, &of_nobody).what, What::Person(_)));
    assert!(due.found.iter().all(|f| f.id != foreign));
    let others: Vec<_> = due.others.iter().collect();
    let key = ("ffffffff".to_owned(), "Microsoft.Compute/disks".to_owned());
    assert_eq!(others, [(&key, &1)]);

    // Nothing while deletions are held.
    let held = DeletionHold { since: bench.env.clock.wall(), reason: "a test".into() };
    life.store.hold_deletions(held).await.unwrap();
    assert_eq!(reap(&bench, &life).await, []);
    life.store.release_deletions().await.unwrap();

    assert_eq!(reap(&bench, &life).await, [("reap".to_owned(), RunState::Succeeded)]);
    assert!(!exists(&life, &late).await);
    for kept in [&named_otherwise, &of_nobody, &foreign] {
        assert!(exists(&life, kept).await, "{kept}");
    }
    assert_eq!(reap(&bench, &life).await, []);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn replaced_disks_are_listed_with_their_end_and_removed_then_unless_in_use_again() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let point = take(&life, &item).await;
    let disks = restored_in_place(&bench, &life, &item, point).await;
    let until = life.store.kept_disks().await.unwrap()[0].until;
    let early = sweep(&bench, &life).await;
    assert_eq!(early.found.len(), 2);
    for disk in &disks {
        let until = until.to_string();
        assert_eq!(found(&early, disk).why, format!("replaced by job 3 and kept until {until}"));
        let tags = life.services.azure.get_tags(disk).await.unwrap();
        let kept = tags::read_kept(&tags).unwrap();
        assert_eq!((&kept.disk, kept.vm, kept.by.to_string()), (disk, db(), "1nstall.3".into()));
        assert_eq!(tags::value(&tags, tags::OWNER), None, "it is not of azdr's making");
    }
    // Somebody takes the tags off: the list says what that means.
    let os = disks.iter().find(|d| !d.name().contains("data")).unwrap();
    let names = life.services.azure.get_tags(os).await.unwrap().into_keys().collect::<Vec<_>>();
    life.services.azure.remove_tags(os, &names).await.unwrap();
    let untagged = sweep(&bench, &life).await;
    assert!(found(&untagged, os).why.contains("a rebuilt catalogue would not know it"));
    for disk in &disks {
        assert_eq!(found(&early, disk).what, What::ReapedAfter(until));
        assert_eq!(found(&early, disk).workflow.as_deref(), Some("restore_in_place"));
    }
    assert_eq!(reap(&bench, &life).await, []);
    // Somebody attaches the old data disk to another machine.
    let data = disks.iter().find(|d| d.name().contains("data")).unwrap();
    let other = ArmId::virtual_machine(SUBSCRIPTION, "prod", "other").unwrap();
    let vm = life.services.azure.get_vm(&other).await.unwrap();
    let body = serde_json::json!({"properties": {"storageProfile": {"dataDisks": [
        {"lun": 7, "createOption": "Attach", "managedDisk": {"id": data.as_str()}},
    ]}}});
    life.services.azure.begin_patch_vm(&other, body, vm.etag.as_deref()).await.unwrap();
    azdr_env::sleep(Duration::from_secs(60)).await;

    tokio::time::advance(8 * 24 * HOUR).await;
    let ended = reap(&bench, &life).await;
    let removed = || ("remove_kept_disk".to_owned(), RunState::Succeeded);
    assert_eq!(ended, [removed(), removed()]);
    for disk in &disks {
        assert_eq!(exists(&life, disk).await, disk == data, "{disk}");
    }
    assert!(life.store.kept_disks().await.unwrap().is_empty());
    // In use again: nothing says any more that it is kept.
    let tags = life.services.azure.get_tags(data).await.unwrap();
    assert!(tags.keys().all(|name| !name.starts_with("azdr:")), "{tags:?}");
    life.end().await;
}
