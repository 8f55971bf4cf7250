//! The controller's disk is full in the middle of a hold: the machine is thawed all the same, and the
//! backup ends well when there is room again.

use std::time::Duration;

use azdr_controller::store::{RunState, Store, StoreError};
use azdr_domain::policy::PolicyChange;

use crate::cases::back_up;
use crate::life::Bench;

async fn set_pages(store: &Store, most: u32) {
    let pragma = store.write(move |c| Ok(c.pragma_update(None, "max_page_count", most)?));
    pragma.await.unwrap();
}

/// A short entry of the journal may still fit into a page that is there already, which a disk that is full
/// would not take: each is made to need a page more.
const NEEDS_A_PAGE: &str = "CREATE TEMP TRIGGER needs_a_page AFTER INSERT ON journal
    BEGIN INSERT INTO write_probe VALUES (zeroblob(32768)); END";

async fn fill(store: &Store) -> StoreError {
    set_pages(store, 1).await;
    store.write(|c| Ok(c.execute_batch(NEEDS_A_PAGE)?)).await.unwrap();
    loop {
        let filled =
            store.write(|c| Ok(c.execute("INSERT INTO write_probe VALUES (zeroblob(500))", [])?));
        if let Err(e) = filled.await {
            return e;
        }
    }
}

async fn make_room(store: &Store) {
    set_pages(store, 1_000_000).await;
    store.write(|c| Ok(c.execute_batch("DROP TRIGGER needs_a_page")?)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_does_not_keep_a_machine_frozen() {
    let bench = Bench::new();
    let life = bench.life().await;
    let item = bench.protect(&life, PolicyChange::default()).await;
    let id = life.engine.submit(back_up(&item)).await.unwrap();
    let mut changes = life.engine.subscribe();
    while !life.engine.progress(id).values().any(|p| p.detail == "frozen") {
        changes.changed().await;
    }
    assert_eq!(bench.guests.thaws(), 0);
    assert!(matches!(fill(&life.store).await, StoreError::Unwritable(_)));
    azdr_env::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.guests.thaws(), 1, "thawed while nothing can be written");
    assert!(life.store.check_writable().await.is_err());
    azdr_env::sleep(Duration::from_secs(120)).await;

    make_room(&life.store).await;
    let row = life.ended(id).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!(life.store.trouble(), None);
    life.settle().await;
    assert_eq!(life.points(&item).await.len(), 1);
    life.end().await;
}
