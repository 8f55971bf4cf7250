//! Backups that are due start by themselves, once, and on time.

use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_domain::policy::PolicyChange;
use tokio_util::sync::CancellationToken;

use crate::life::Bench;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_daily_backup_runs_once_a_day_and_a_missed_one_is_made_up_once() {
    let bench = Bench::new();
    let life = bench.life().await;
    let change = PolicyChange { schedule_time: Some("02:00".into()), ..PolicyChange::default() };
    let item = bench.protect(&life, change).await;
    // Nobody is asked here: agents would only make the clock tick.
    life.without_agents();
    let reconciler = Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    };
    let stop = CancellationToken::new();
    let schedule = reconciler.clone().keep_schedule(Duration::from_secs(300), stop.clone());
    let running = tokio::spawn(schedule);
    // It is 08:00; the first run is due tomorrow at 02:00, and at most 15 minutes of jitter later.
    azdr_env::sleep(17 * HOUR).await;
    assert_eq!(life.points(&item).await.len(), 0);
    azdr_env::sleep(2 * HOUR).await;
    assert_eq!(life.points(&item).await.len(), 1);
    azdr_env::sleep(24 * HOUR).await;
    assert_eq!(life.points(&item).await.len(), 2);
    let due = life.points(&item).await[0].created.to_string();
    assert!(due.starts_with("2025-12-03T02:"), "{due}");

    // The controller is away for three days: what was missed is made up once.
    stop.cancel();
    running.await.unwrap();
    tokio::time::advance(72 * HOUR).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(reconciler.keep_schedule(Duration::from_secs(300), stop.clone()));
    azdr_env::sleep(HOUR).await;
    assert_eq!(life.points(&item).await.len(), 3);
    let runs = life.store.recent_runs(None, None, Some("backup"), 10).await.unwrap();
    assert_eq!(runs[0].requested_by, "schedule (late)");
    assert_eq!(runs[1].requested_by, "schedule");
    stop.cancel();
    running.await.unwrap();
}
