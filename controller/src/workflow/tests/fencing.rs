//! Two controllers on one database.

use std::time::Duration;

use super::rough::{Lab, Mood};
use crate::store::{Event, Executor, Progress, QueueLimit, RunState, Store, StoreError};

#[tokio::test(start_paused = true)]
async fn an_older_controller_is_refused_and_stops_everything() {
    let lab = Lab::new();
    let old = lab.life().await;
    lab.world.set("do scratch", Mood::Waits);
    let id = old.submit("rough", &["vm:1"]).await;
    old.until(id, RunState::Running).await;

    // The same file, another connection: as another process would.
    let new = lab.life().await;
    lab.world.mend();
    new.until(id, RunState::Succeeded).await;
    old.engine.fenced().await;
    let journal = old.store.journal(id).await.unwrap();
    let done = journal.iter().filter(|e| e.event == Event::Done).count();
    assert_eq!(done, 6, "each step once");
    assert_eq!(lab.world.calls("do finish"), 1);
    let later = super::rough::new_run("rough", crate::workflow::RunPriority::Backup, &[]);
    assert!(old.engine.submit(later.clone()).await.is_err());
    new.engine.submit(later).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_controller_does_not_call_a_waiting_step_again() {
    let lab = Lab::new();
    let old = lab.life().await;
    lab.world.set("do copy", Mood::Waits);
    let id = old.submit("copy", &[]).await;
    old.until(id, RunState::Running).await;
    // It asks again every half minute, and has nothing to write for ten.
    azdr_env::sleep(Duration::from_secs(100)).await;
    let (calls, writes) = (lab.world.calls("do copy"), old.store.journal(id).await.unwrap().len());
    assert_eq!(calls, 4);

    let path = lab.dir.path().join("db");
    let newer = Store::open(&path, Executor::Inline).unwrap().take_over().await.unwrap();
    old.engine.fenced().await;
    azdr_env::sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.world.calls("do copy"), calls);
    assert_eq!(newer.journal(id).await.unwrap().len(), writes);
}

#[tokio::test]
async fn writes_of_an_older_epoch_are_refused_with_words_and_change_nothing() {
    let lab = Lab::new();
    let path = lab.dir.path().join("db");
    let open = || Store::open(&path, Executor::BlockingPool).unwrap();
    let (first, second) = (open(), open());
    let old = first.take_over().await.unwrap();
    let now = azdr_env::WallTime::from_unix_ms(0);
    let run = super::rough::new_run("rough", crate::workflow::RunPriority::Backup, &[]);
    let limit = QueueLimit { most: 10, counted_to: u8::MAX };
    let id = old.queue_run(run, limit, now).await.unwrap();
    let new = second.take_over().await.unwrap();
    for refused in [
        old.try_start_run(id, Vec::new(), now).await.map(|_| ()),
        old.record(id, Progress::default(), now).await.map(|_| ()),
        old.request_cancel(id, serde_json::Value::Null, now).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::Fenced { ours: 1, newest: 2 }), "{refused:?}");
        let words = "a newer controller has opened the database (epoch 2, ours is 1)";
        assert_eq!(refused.to_string(), words);
    }
    assert_eq!(new.run(id).await.unwrap().unwrap().state, RunState::Queued);
    assert!(new.try_start_run(id, Vec::new(), now).await.unwrap());
}
