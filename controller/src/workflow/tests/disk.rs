//! A full disk and a read-only database: said in words, and over when the cause is.

use std::time::Duration;

use super::rough::{Lab, Life, Mood, new_run};
use crate::store::{RunState, StoreError};
use crate::workflow::RunPriority;

/// SQLite answers SQLITE_FULL from here on, or not any more.
async fn fill(life: &Life, full: bool) {
    let most = if full { 1 } else { 1_000_000 };
    let pragma = life.store.write(move |c| Ok(c.pragma_update(None, "max_page_count", most)?));
    pragma.await.unwrap();
}

/// Writes until no page that is there already has room.
async fn until_full(life: &Life) -> StoreError {
    loop {
        let mut run = new_run("copy", RunPriority::Housekeeping, &["vm:nobody"]);
        run.requested_by = "x".repeat(500);
        if let Err(e) = life.engine.submit(run).await {
            return e;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_in_words_and_passes_without_a_restart() {
    let lab = Lab::new();
    let life = lab.life().await;
    lab.world.set("do copy", Mood::Hangs);
    let id = life.in_the_middle_of(&lab, "do critical").await;
    fill(&life, true).await;
    let refused = until_full(&life).await;
    let words = "the database cannot be written: its disk is full (database or disk is full)";
    assert_eq!(refused.to_string(), words);
    assert_eq!(life.store.check_writable().await.unwrap_err().to_string(), words);
    assert!(life.store.trouble().unwrap().contains("its disk is full"));
    let before = life.store.journal(id).await.unwrap().len();
    // The hold goes on to its end, whatever the disk says; its *done* waits.
    lab.world.mend();
    azdr_env::sleep(Duration::from_secs(600)).await;
    let row = life.row(id).await;
    assert_eq!(row.state, RunState::Running);
    assert!(life.store.journal(id).await.unwrap().len() <= before + 1);

    fill(&life, false).await;
    life.store.check_writable().await.unwrap();
    assert_eq!(life.store.trouble(), None);
    life.until(id, RunState::Succeeded).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_only_database_is_said_in_words_too() {
    let lab = Lab::new();
    let life = lab.life().await;
    let pragma = |on: bool| life.store.with_writer(|c| c.pragma_update(None, "query_only", on));
    pragma(true).unwrap();
    let run = new_run("brief", RunPriority::Backup, &[]);
    let refused = life.engine.submit(run.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unwritable(w) if w.contains("read-only")),
        "{refused:?}"
    );
    assert!(life.store.trouble().is_some());
    pragma(false).unwrap();
    let id = life.engine.submit(run).await.unwrap();
    life.until(id, RunState::Succeeded).await;
    assert_eq!(life.store.trouble(), None);
}
