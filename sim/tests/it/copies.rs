//! Copies to another region.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use serde_json::{Value, json};

use crate::cloud::*;

async fn percent(cloud: &Cloud, name: &str) -> f64 {
    let copy = cloud.get(&snapshot_path("dr", name), DISKS).await;
    assert_eq!(copy["properties"]["provisioningState"], "Succeeded");
    copy["properties"]["completionPercent"].as_f64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_copys_operation_succeeds_long_before_the_copy_is_complete() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let started = cloud.start_copy("s", "c").await;
    assert_eq!(started.status, 202);
    let record = cloud.done(&started).await;
    assert_eq!(record["status"], "Succeeded");
    assert!(record["properties"]["output"]["properties"].get("completionPercent").is_none());
    let early = percent(&cloud, "c").await;
    assert!(early < 30.0, "{early}");
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    let sas = format!("{}/beginGetAccess", snapshot_path("dr", "c"));
    assert_eq!(cloud.arm("POST", &sas, DISKS, grant).await.status, 409);
    let disk = json!({"location": "westus", "properties": {"creationData": {"createOption": "Copy",
        "sourceResourceId": format!("/subscriptions/{SUBSCRIPTION}{}", snapshot_path("dr", "c"))}}});
    let disk_path = "/resourceGroups/dr/providers/Microsoft.Compute/disks/d";
    assert_eq!(cloud.arm("PUT", disk_path, DISKS, disk.clone()).await.status, 409);
    wait(700).await;
    let middle = percent(&cloud, "c").await;
    assert!(middle > early && middle < 100.0, "{middle}");
    wait(1600).await;
    assert_eq!(percent(&cloud, "c").await, 100.0);
    cloud.ok("PUT", disk_path, DISKS, disk).await;
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_disk_go_in_order_and_one_at_a_time() {
    let cloud = Cloud::new().await;
    for name in ["s1", "s2", "s3"] {
        cloud.snapshot(name, "web-os").await;
    }
    cloud.snapshot("other", "web-data").await;
    assert_eq!(cloud.start_copy("s2", "c2").await.status, 202);
    let second = cloud.start_copy("s3", "c3").await;
    assert_eq!((second.status, second.code()), (409, "OperationNotAllowed"));
    assert_eq!(cloud.start_copy("other", "c-other").await.status, 202);
    wait(2000).await;
    let backwards = cloud.start_copy("s1", "c1").await;
    assert_eq!((backwards.status, backwards.code()), (409, "OperationNotAllowed"));
    assert_eq!(cloud.start_copy("s3", "c3").await.status, 202);
    wait(2000).await;
    let family = async |name: &str| {
        cloud.get(&snapshot_path("dr", name), DISKS).await["properties"]["incrementalSnapshotFamilyId"].clone()
    };
    assert_eq!(family("c2").await, family("c3").await);
    assert_ne!(family("c2").await, family("c-other").await);
}

#[tokio::test(start_paused = true)]
async fn only_incremental_snapshots_are_copied_and_a_plain_copy_does_not_cross_regions() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let source = format!("/subscriptions/{SUBSCRIPTION}{}", snapshot_path("prod", "s"));
    let body = |option: &str, incremental: bool| {
        json!({"location": "westus", "properties": {"incremental": incremental,
            "creationData": {"createOption": option, "sourceResourceId": source}}})
    };
    let path = snapshot_path("dr", "c");
    assert_eq!(cloud.arm("PUT", &path, DISKS, body("CopyStart", false)).await.status, 400);
    let plain = cloud.arm("PUT", &path, DISKS, body("Copy", true)).await;
    assert_eq!((plain.status, plain.code()), (404, "NotFound"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_dies_with_its_source_and_stays_succeeded() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let started = cloud.start_copy("s", "c").await;
    cloud.done(&started).await;
    cloud.ok("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
    wait(5000).await;
    let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
    assert_eq!(copy["properties"]["copyCompletionError"]["errorCode"], "CopySourceNotFound");
    assert_eq!(copy["properties"]["provisioningState"], "Succeeded");
    assert!(copy["properties"]["completionPercent"].as_f64().unwrap() < 100.0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_can_be_made_to_stall() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.faults(json!([{"match": {"path_contains": "/snapshots/c"}, "action": {"stall_copy_at_percent": 40.0}}])).await;
    let started = cloud.start_copy("s", "c").await;
    cloud.done(&started).await;
    wait(3_600_000 / 2).await;
    assert_eq!(percent(&cloud, "c").await, 40.0);
}

#[tokio::test(start_paused = true)]
async fn so_many_copies_may_be_in_flight_to_a_region() {
    assert_eq!(azure_sim::config::Limits::default().copies_in_flight, 100);
    assert_eq!(azure_sim::config::Limits::recorded().copies_in_flight, 100);
    let limits = azure_sim::config::Limits { copies_in_flight: 2, ..Default::default() };
    let cloud = Cloud::with(limits).await;
    for disk in ["web-os", "web-data", "web-logs"] {
        cloud.snapshot(&format!("s-{disk}"), disk).await;
    }
    for disk in ["web-os", "web-data"] {
        let copy = cloud.start_copy(&format!("s-{disk}"), &format!("c-{disk}")).await;
        assert_eq!(copy.status, 202);
    }
    // Their operations have ended; their data are still on the way.
    wait(200).await;
    let third = cloud.start_copy("s-web-logs", "c-web-logs").await;
    assert_eq!((third.status, third.code()), (409, "OperationNotAllowed"));
    let message = third.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("'westus', 2"), "{message}");
    wait(2000).await;
    assert_eq!(percent(&cloud, "c-web-os").await, 100.0);
    assert_eq!(cloud.start_copy("s-web-logs", "c-web-logs").await.status, 202);
}
