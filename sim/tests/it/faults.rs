//! The fault plan.

use serde_json::{Value, json};

use crate::cloud::*;

fn snapshot_body() -> Value {
    json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("web-os")}}})
}

#[tokio::test(start_paused = true)]
async fn dropped_after_means_that_it_has_happened_and_before_that_it_has_not() {
    let cloud = Cloud::new().await;
    cloud
        .faults(json!([
            {"match": {"resource_type": "Microsoft.Compute/snapshots", "method": "PUT", "nth": 1}, "action": "drop_before"},
            {"match": {"resource_type": "Microsoft.Compute/snapshots", "method": "PUT", "nth": 2}, "action": "drop_after"},
        ]))
        .await;
    let path = snapshot_path("prod", "s");
    let before = cloud.arm("PUT", &path, DISKS, snapshot_body()).await;
    assert!(before.dropped);
    assert_eq!(cloud.arm("GET", &path, DISKS, Value::Null).await.status, 404);
    let after = cloud.arm("PUT", &path, DISKS, snapshot_body()).await;
    assert!(after.dropped);
    wait(500).await;
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["provisioningState"], "Succeeded");
    let counted = cloud.admin("GET", "requests", Value::Null).await.body;
    assert_eq!(counted["requests"]["PUT Microsoft.Compute/snapshots"], 2);
    assert_eq!(counted["dropped"], 2);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_says_so_with_status_200_and_can_be_repeated() {
    let cloud = Cloud::new().await;
    cloud
        .faults(json!([{"match": {"method": "PUT"}, "action": {"fail_operation": {"code": "InternalError", "message": "no"}}}]))
        .await;
    let path = snapshot_path("prod", "s");
    let put = cloud.arm("PUT", &path, DISKS, snapshot_body()).await;
    assert_eq!(put.status, 202);
    let record = cloud.done(&put).await;
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("Failed"), &json!("InternalError"))
    );
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["provisioningState"], "Failed");
    cloud.snapshot("s", "web-os").await;
    let snapshot = cloud.get(&path, DISKS).await;
    assert_eq!(snapshot["properties"]["provisioningState"], "Succeeded");
    assert!(cloud.content(&snapshot["properties"]["uniqueId"]).exists());
}

#[tokio::test(start_paused = true)]
async fn an_operation_can_be_made_to_take_for_ever_or_as_good_as() {
    let cloud = Cloud::new().await;
    cloud
        .faults(
            json!([{"match": {"method": "PUT"}, "action": {"prolong_operation_ms": 1_800_000}}]),
        )
        .await;
    let path = snapshot_path("prod", "s");
    let put = cloud.arm("PUT", &path, DISKS, snapshot_body()).await;
    assert_eq!(put.status, 202);
    wait(1_790_000).await;
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["provisioningState"], "Creating");
    wait(20_000).await;
    assert_eq!(cloud.done(&put).await["status"], "Succeeded");
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn throttling_comes_in_both_envelopes() {
    let cloud = Cloud::new().await;
    cloud
        .faults(json!([
            {"match": {"nth": 1}, "action": {"status": {"status": 429, "code": "TooManyRequests", "retry_after": 7}}},
            {"match": {"nth": 2}, "action": {"status": {"status": 429, "code": "OperationNotAllowed"}}},
        ]))
        .await;
    let plain = cloud.arm("GET", WEB, VMS, Value::Null).await;
    assert_eq!(
        (plain.status, plain.code(), plain.header("retry-after")),
        (429, "TooManyRequests", Some("7"))
    );
    let bare = cloud.arm("GET", WEB, VMS, Value::Null).await;
    assert_eq!((bare.status, &bare.body["code"]), (429, &json!("OperationNotAllowed")));
    assert!(bare.body["details"][0]["target"].is_string());
    assert_eq!(cloud.admin("GET", "requests", Value::Null).await.body["throttled"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_region_can_be_down() {
    let cloud = Cloud::new().await;
    cloud.faults(json!([{"action": {"region_down": {"region": "eastus"}}}])).await;
    assert_eq!(cloud.arm("GET", WEB, VMS, Value::Null).await.status, 503);
    assert_eq!(
        cloud.arm("PUT", &snapshot_path("prod", "s"), DISKS, snapshot_body()).await.status,
        503
    );
    assert_eq!(cloud.arm("GET", "/resourceGroups/dr", RESOURCES, Value::Null).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_stop_what_it_began() {
    let cloud = Cloud::new().await;
    let path = snapshot_path("prod", "s");
    {
        let request = cloud.arm("PUT", &path, DISKS, snapshot_body());
        futures::pin_mut!(request);
        // Polled once, then dropped.
        let _ = futures::poll!(&mut request);
    }
    wait(500).await;
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_region_is_down_for_a_while_polls_included() {
    let cloud = Cloud::new().await;
    let put = cloud.arm("PUT", &snapshot_path("prod", "s"), DISKS, snapshot_body()).await;
    let poll = put.header("azure-asyncoperation").unwrap_or_default();
    cloud
        .faults(json!([{"match": {"from_ms": 60_000, "until_ms": 120_000},
            "action": {"region_down": {"region": "eastus"}}}]))
        .await;
    assert_eq!(cloud.url("GET", poll).await.status, 200);
    wait(60_000).await;
    assert_eq!(cloud.url("GET", poll).await.status, 503);
    assert_eq!(cloud.arm("GET", WEB, VMS, Value::Null).await.status, 503);
    wait(60_000).await;
    assert_eq!(cloud.url("GET", poll).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_copy_can_be_made_to_break() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.snapshot("later", "web-os").await;
    let breaks = json!({"percent": 60.0, "code": "InternalCopyError", "message": "broken"});
    cloud
        .faults(json!([{"match": {"path_contains": "/snapshots/c"},
            "action": {"fail_copy_at_percent": breaks}}]))
        .await;
    let started = cloud.start_copy("s", "c").await;
    assert_eq!(cloud.done(&started).await["status"], "Succeeded");
    let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
    assert!(copy["properties"].get("copyCompletionError").is_none());
    wait(5000).await;
    let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
    assert_eq!(copy["properties"]["completionPercent"], 60.0);
    assert_eq!(copy["properties"]["provisioningState"], "Succeeded");
    assert_eq!(copy["properties"]["copyCompletionError"]["errorCode"], "InternalCopyError");
    // A broken copy is in nobody's way.
    assert_eq!(cloud.start_copy("later", "c2").await.status, 202);
}

#[tokio::test(start_paused = true)]
async fn resources_vanish_and_change_their_names_behind_the_back() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let id = |name: &str| format!("/subscriptions/{SUBSCRIPTION}{}", snapshot_path("prod", name));
    let rename = json!({"id": id("s"), "to": "other"});
    assert_eq!(cloud.admin("POST", "resources/rename", rename).await.status, 204);
    let gone = cloud.arm("GET", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
    assert_eq!(gone.status, 404);
    let other = cloud.get(&snapshot_path("prod", "other"), DISKS).await;
    assert_eq!(other["name"], "other");
    cloud.start_copy("other", "c").await;
    assert_eq!(
        cloud.admin("POST", "resources/delete", json!({"id": id("other")})).await.status,
        204
    );
    let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
    assert_eq!(copy["properties"]["copyCompletionError"]["errorCode"], "CopySourceNotFound");
    // In the plan: an attached disk vanishes just before the VM is asked for.
    cloud
        .faults(json!([{"match": {"resource_type": "Microsoft.Compute/virtualMachines"},
            "action": {"delete": {"id": disk_id("web-data")}}}]))
        .await;
    assert_eq!(cloud.arm("GET", &disk_path("web-data"), DISKS, Value::Null).await.status, 200);
    assert_eq!(cloud.arm("GET", WEB, VMS, Value::Null).await.status, 200);
    assert_eq!(cloud.arm("GET", &disk_path("web-data"), DISKS, Value::Null).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_lock_comes_and_goes_with_the_plan() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let scope = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/prod");
    cloud
        .faults(json!([
            {"match": {"method": "DELETE", "nth": 1}, "action": {"lock": {"scope": scope, "level": "CanNotDelete"}}},
            {"match": {"method": "DELETE", "nth": 2}, "action": {"unlock": {"scope": scope}}},
        ]))
        .await;
    let path = snapshot_path("prod", "s");
    assert_eq!(cloud.arm("DELETE", &path, DISKS, Value::Null).await.code(), "ScopeLocked");
    cloud.ok("DELETE", &path, DISKS, Value::Null).await;
}
