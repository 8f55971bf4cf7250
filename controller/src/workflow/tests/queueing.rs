//! Who starts first, who starts at all, and how many may wait.

use std::time::Duration;

use super::rough::{Lab, Life, Mood, new_run};
use crate::store::{RunId, RunState, StoreError};
use crate::workflow::{RetryPolicy, RunPriority};

#[tokio::test(start_paused = true)]
async fn a_restore_behind_a_thousand_copies_starts_first() {
    let lab = Lab::new();
    let life = lab.life_with(2, RetryPolicy::AZURE).await;
    lab.world.set("do copy", Mood::Hangs);
    for _ in 0..1000 {
        life.submit("copy", &[]).await;
    }
    let restore = life.engine.submit(new_run("brief", RunPriority::Restore, &[])).await.unwrap();
    life.until(restore, RunState::Succeeded).await;
    // Two were under way, all others still wait.
    assert_eq!(life.store.unfinished_runs().await.unwrap().len(), 2);
    assert_eq!(life.store.queued_runs(2000).await.unwrap().len(), 998);
}

#[tokio::test(start_paused = true)]
async fn slots_go_by_priority_and_then_by_age() {
    let lab = Lab::new();
    let life = lab.life().await;
    // All of them want what one run has, so that they wait together and start one by one.
    lab.world.set("do brief", Mood::Hangs);
    let holder = life.submit("brief", &["vm:1"]).await;
    life.until(holder, RunState::Running).await;
    let mut runs = Vec::new();
    for priority in [
        RunPriority::Housekeeping,
        RunPriority::Verify,
        RunPriority::Replicate,
        RunPriority::Backup,
        RunPriority::Backup,
        RunPriority::Drill,
        RunPriority::Restore,
    ] {
        runs.push(life.engine.submit(new_run("brief", priority, &["vm:1"])).await.unwrap());
    }
    lab.world.mend();
    life.until(holder, RunState::Succeeded).await;
    for id in &runs {
        life.until(*id, RunState::Succeeded).await;
    }
    let ours = |id: &RunId| runs.contains(id);
    let began: Vec<_> = lab.world.runs_of("do brief").into_iter().filter(ours).collect();
    let [prune, verify, copy, backup, next_backup, drill, restore] = runs[..] else { panic!() };
    assert_eq!(began, [restore, drill, backup, next_backup, copy, verify, prune]);
}

#[tokio::test(start_paused = true)]
async fn every_eighth_slot_goes_to_the_run_that_has_waited_longest() {
    let lab = Lab::new();
    let life = lab.life_with(1, RetryPolicy::AZURE).await;
    lab.world.set("do copy", Mood::Hangs);
    // The first start.
    let first = life.submit("copy", &[]).await;
    life.until(first, RunState::Running).await;
    let submit = |priority| life.engine.submit(new_run("brief", priority, &[]));
    let humble = submit(RunPriority::Housekeeping).await.unwrap();
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected.push(submit(RunPriority::Backup).await.unwrap());
    }
    lab.world.mend();
    for id in expected.iter().chain([&humble]) {
        life.until(*id, RunState::Succeeded).await;
    }
    // Starts two to seven are backups, by age; the eighth is not.
    expected.insert(6, humble);
    assert_eq!(lab.world.runs_of("do brief"), expected);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_backups_does_not_keep_housekeeping_waiting_for_ever() {
    let lab = Lab::new();
    let life = lab.life_with(1, RetryPolicy::AZURE).await;
    lab.world.set("do copy", Mood::Hangs);
    let first = life.submit("copy", &[]).await;
    life.until(first, RunState::Running).await;
    let humble =
        life.engine.submit(new_run("brief", RunPriority::Housekeeping, &[])).await.unwrap();
    lab.world.mend();
    let mut backups = 0;
    // For every backup that starts, another two come.
    while life.row(humble).await.state == RunState::Queued {
        for _ in 0..2 {
            life.engine.submit(new_run("brief", RunPriority::Backup, &[])).await.unwrap();
            backups += 1;
        }
        azdr_env::sleep(Duration::from_millis(1)).await;
        assert!(backups < 100, "it starves");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_runs_behind_one_lock_do_not_hide_a_run_that_could_start() {
    let lab = Lab::new();
    let life = lab.life().await;
    let holder = life.in_the_middle_of(&lab, "do critical").await;
    let next = life.submit("brief", &["chain:westus2:/subscriptions/1/disks/db-os", "vm:1"]).await;
    let mut last = next;
    for _ in 0..999 {
        last = life.submit("brief", &["vm:1"]).await;
    }
    let free = life.engine.submit(new_run("brief", RunPriority::Housekeeping, &[])).await.unwrap();
    life.until(free, RunState::Succeeded).await;
    assert_eq!(life.row(last).await.waiting_for, Some(format!("job {holder} on VM 1")));
    assert_eq!(life.row(last).await.waiting_for_job, Some(holder));
    lab.world.mend();
    // One after the other they come through.
    life.until(next, RunState::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_with_words_and_takes_runs_again_when_some_have_started() {
    let lab = Lab::new();
    let life = lab.life_with(1, RetryPolicy::AZURE).await;
    life.engine.limit_queue(3);
    lab.world.set("do copy", Mood::Hangs);
    let first = life.submit("copy", &[]).await;
    life.until(first, RunState::Running).await;
    for _ in 0..3 {
        life.submit("brief", &[]).await;
    }
    let refused = life.engine.submit(new_run("brief", RunPriority::Backup, &[])).await.unwrap_err();
    assert!(matches!(refused, StoreError::QueueFull { queued: 3 }));
    let words = "3 jobs are queued already; no more are taken before some have started";
    assert_eq!(refused.to_string(), words);
    lab.world.mend();
    life.until(first, RunState::Succeeded).await;
    azdr_env::sleep(Duration::from_secs(1)).await;
    life.submit("brief", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn housekeeping_never_fills_the_queue_for_a_restore_or_a_drill() {
    let lab = Lab::new();
    let life = lab.life_with(1, RetryPolicy::AZURE).await;
    life.engine.limit_queue(3);
    for act in ["do copy", "do brief"] {
        lab.world.set(act, Mood::Hangs);
    }
    let busy = life.submit("copy", &[]).await;
    life.until(busy, RunState::Running).await;
    let submit = |priority| life.engine.submit(new_run("brief", priority, &["vm:1"]));
    // The first restore starts and holds the lock for which all others wait.
    let first = submit(RunPriority::Restore).await.unwrap();
    life.until(first, RunState::Running).await;
    for _ in 0..3 {
        submit(RunPriority::Housekeeping).await.unwrap();
    }
    for refused in [RunPriority::Housekeeping, RunPriority::Backup] {
        let refused = submit(refused).await.unwrap_err();
        assert!(matches!(refused, StoreError::QueueFull { queued: 3 }), "{refused:?}");
    }
    for urgent in [RunPriority::Restore, RunPriority::Drill, RunPriority::Drill] {
        submit(urgent).await.unwrap();
    }
    // There is an end to those, too.
    for refused in [RunPriority::Restore, RunPriority::Drill] {
        let refused = submit(refused).await.unwrap_err();
        assert!(matches!(refused, StoreError::QueueFull { queued: 3 }), "{refused:?}");
    }
}

/// How many runs of this priority are under way.
async fn in_flight(life: &Life, priority: RunPriority) -> usize {
    let rows = life.store.unfinished_runs().await.unwrap();
    rows.iter().filter(|row| row.priority == priority as u8).count()
}

#[tokio::test(start_paused = true)]
async fn drills_are_bounded_and_keep_neither_backups_nor_restores_waiting() {
    let lab = Lab::new();
    let life = lab.life_with(8, RetryPolicy::AZURE).await;
    lab.world.set("do copy", Mood::Hangs);
    // More than are looked at in one go.
    for _ in 0..300 {
        life.engine.submit(new_run("copy", RunPriority::Drill, &[])).await.unwrap();
    }
    let backup = life.engine.submit(new_run("brief", RunPriority::Backup, &[])).await.unwrap();
    life.until(backup, RunState::Succeeded).await;
    assert_eq!(in_flight(&life, RunPriority::Drill).await, 4);
    // With every other place taken, too, a restore starts; one more backup does not.
    for _ in 0..9 {
        life.engine.submit(new_run("copy", RunPriority::Backup, &[])).await.unwrap();
    }
    for _ in 0..3 {
        let restore = new_run("copy", RunPriority::Restore, &[]);
        let restore = life.engine.submit(restore).await.unwrap();
        life.until(restore, RunState::Running).await;
    }
    assert_eq!(in_flight(&life, RunPriority::Backup).await, 8);
    assert_eq!(in_flight(&life, RunPriority::Drill).await, 4);
    lab.world.mend();
    let mut changes = life.engine.subscribe();
    loop {
        changes.mark_seen();
        let queued = life.store.queued_runs(1000).await.unwrap().len();
        if queued == 0 && life.store.unfinished_runs().await.unwrap().is_empty() {
            break;
        }
        assert!(in_flight(&life, RunPriority::Drill).await <= 4);
        changes.changed().await;
    }
}
