//! What was answered survives.

use serde_json::{Value, json};

use crate::cloud::*;

#[tokio::test(start_paused = true)]
async fn everything_answered_is_there_after_a_crash() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let copy = cloud.start_copy("s", "c").await;
    cloud.done(&copy).await;
    cloud.ok("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
    let before = cloud.admin("GET", "resources", Value::Null).await.body;
    let cloud = cloud.reopen().await;
    assert_eq!(cloud.admin("GET", "resources", Value::Null).await.body, before);
    let second = cloud.start_copy("s", "again").await;
    assert_eq!(second.status, 409, "the copy in flight is still in flight");
    wait(2000).await;
    let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
    assert_eq!(copy["properties"]["completionPercent"], 100.0);
    let cloud = cloud.reopen().await;
    assert_eq!(cloud.get(&snapshot_path("dr", "c"), DISKS).await, copy);
}

#[tokio::test(start_paused = true)]
async fn an_operation_in_flight_is_taken_up_again() {
    let cloud = Cloud::new().await;
    let body = json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    let put = cloud.arm("PUT", &disk_path("new"), DISKS, body).await;
    let stop = cloud.arm("POST", &format!("{WEB}/powerOff"), VMS, Value::Null).await;
    let cloud = cloud.reopen().await;
    assert_eq!(cloud.done(&put).await["status"], "Succeeded");
    assert_eq!(cloud.done(&stop).await["status"], "Succeeded");
    let disk = cloud.get(&disk_path("new"), DISKS).await;
    assert_eq!(
        std::fs::metadata(cloud.content(&disk["properties"]["uniqueId"])).unwrap().len(),
        1 << 30
    );
}

#[tokio::test(start_paused = true)]
async fn a_torn_last_line_is_dropped_and_an_orphaned_content_removed() {
    use std::io::Write;
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let journal = cloud.dir.path().join("state/journal.1.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"[{\"t\":\"disks\",\"k\":\"/subscr").unwrap();
    let orphan = cloud.dir.path().join("state/disks/orphan.raw");
    std::fs::write(&orphan, "x").unwrap();
    let cloud = cloud.reopen().await;
    cloud.get(&snapshot_path("prod", "s"), DISKS).await;
    assert!(!orphan.exists() && !journal.exists());
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_is_used_once_at_a_time() {
    let cloud = Cloud::new().await;
    let guests = std::sync::Arc::new(azure_sim::guests::none::NoGuests::new(
        azure_sim::config::Blocking::Inline,
    ));
    let config = azure_sim::Config::fast(cloud.dir.path().join("state"));
    let second = azure_sim::Simulator::open(config, azdr_env::Env::simulated(2), guests);
    assert!(matches!(second.err(), Some(azure_sim::PersistenceError::InUse { .. })));
}
