//! Statuses, headers and bodies.

use serde_json::{Value, json};

use crate::cloud::*;

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_accepted_with_a_stub_and_both_headers() {
    let cloud = Cloud::new().await;
    let body = json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
    let answer = cloud.arm("PUT", &snapshot_path("prod", "s"), DISKS, body).await;
    assert_eq!(answer.status, 202);
    assert!(answer.body.get("id").is_none() && answer.body.get("name").is_none());
    assert_eq!(answer.body["properties"]["provisioningState"], "Updating");
    let (aao, location) =
        (answer.header("azure-asyncoperation").unwrap(), answer.header("location").unwrap());
    assert!(aao.contains("/DiskOperations/") && aao.contains("api-version=2024-03-02"));
    assert!(location.contains("monitor=true"));
    assert!(answer.header("x-ms-request-id").is_some());
    let running = cloud.url("GET", aao).await;
    assert_eq!((running.status, &running.body["status"]), (200, &json!("InProgress")));
    assert_eq!(cloud.url("GET", location).await.status, 202);
    let record = cloud.done(&answer).await;
    assert_eq!(record["status"], "Succeeded");
    let output = &record["properties"]["output"];
    assert_eq!(output["properties"]["diskSizeBytes"], 8 << 20);
    let result = cloud.url("GET", location).await;
    assert_eq!((result.status, &result.body), (200, output));
}

#[tokio::test(start_paused = true)]
async fn polling_urls_must_be_used_as_they_are() {
    let cloud = Cloud::new().await;
    let answer = cloud.arm("POST", &format!("{WEB}/powerOff"), VMS, Value::Null).await;
    let url = answer.header("azure-asyncoperation").unwrap();
    let rebuilt = url.split("&s=").next().unwrap();
    assert_eq!(cloud.url("GET", rebuilt).await.status, 404);
    assert_eq!(cloud.url("GET", url).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn power_operations_delete_and_changes_of_a_vm_have_their_own_shapes() {
    let cloud = Cloud::new().await;
    let stop = cloud.arm("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
    assert_eq!(stop.status, 202);
    assert!(stop.bytes.is_empty() && stop.header("location").is_some());
    let record = cloud.done(&stop).await;
    assert!(record.get("properties").is_none());
    let monitor = cloud.url("GET", stop.header("location").unwrap()).await;
    assert_eq!((monitor.status, monitor.bytes.len()), (200, 0));

    let patch = cloud.arm("PATCH", WEB, VMS, json!({"tags": {"a": "b"}})).await;
    assert_eq!(
        (patch.status, &patch.body["properties"]["provisioningState"]),
        (200, &json!("Updating"))
    );
    assert!(patch.header("azure-asyncoperation").is_some() && patch.header("location").is_none());
    cloud.done(&patch).await;

    // A PUT that changes nothing: 200, Updating, and nothing to poll.
    let vm = cloud.get(WEB, VMS).await;
    let put = cloud.arm("PUT", WEB, VMS, vm).await;
    assert_eq!(
        (put.status, &put.body["properties"]["provisioningState"]),
        (200, &json!("Updating"))
    );
    assert!(put.header("azure-asyncoperation").is_none());
    wait(500).await;
    assert_eq!(cloud.get(WEB, VMS).await["properties"]["provisioningState"], "Succeeded");

    assert_eq!(cloud.ok("DELETE", WEB, VMS, Value::Null).await.status, 202);
    assert_eq!(cloud.arm("DELETE", WEB, VMS, Value::Null).await.status, 204);
    assert_eq!(cloud.arm("GET", WEB, VMS, Value::Null).await.code(), "ResourceNotFound");
}

#[tokio::test(start_paused = true)]
async fn arm_refuses_what_it_does_not_know() {
    let cloud = Cloud::new().await;
    let no_version = cloud
        .url("GET", &format!("https://management.azure.com/subscriptions/{SUBSCRIPTION}{WEB}"))
        .await;
    assert_eq!((no_version.status, no_version.code()), (400, "MissingApiVersionParameter"));
    let old = cloud.arm("GET", WEB, "2015-06-15", Value::Null).await;
    assert_eq!((old.status, old.code()), (400, "NoRegisteredProviderFound"));
    let kind = "/resourceGroups/prod/providers/Microsoft.Compute/galleries/g";
    assert_eq!(cloud.arm("GET", kind, DISKS, Value::Null).await.code(), "InvalidResourceType");
    let group = "/resourceGroups/none/providers/Microsoft.Compute/disks/d";
    let missing = cloud.arm("GET", group, DISKS, Value::Null).await;
    assert_eq!((missing.status, missing.code()), (404, "ResourceGroupNotFound"));
    assert_eq!(missing.header("x-ms-failure-cause"), Some("gateway"));
    let shouted = cloud.arm("GET", &WEB.to_uppercase(), VMS, Value::Null).await;
    assert_eq!(shouted.status, 200);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_demanded_and_expire() {
    let cloud = Cloud::new().await;
    let url =
        format!("https://management.azure.com/subscriptions/{SUBSCRIPTION}?api-version=2021-04-01");
    let bare = http::Request::get(&url).body(Default::default()).unwrap();
    let answer = cloud.simulator.handle(bare).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(cloud.url("GET", &url).await.status, 200);
    cloud.admin("POST", "clock/advance", json!({"ms": 3_600_000})).await;
    let expired = cloud.url("GET", &url).await;
    assert_eq!((expired.status, expired.code()), (401, "ExpiredAuthenticationToken"));
}

#[tokio::test(start_paused = true)]
async fn listings_are_paged_and_a_last_page_may_be_empty() {
    let limits = azure_sim::config::Limits { page_size: 3, ..Default::default() };
    let cloud = Cloud::with(limits).await;
    let first = cloud.get("/resourceGroups/prod/providers/Microsoft.Compute/disks", DISKS).await;
    assert_eq!(first["value"].as_array().unwrap().len(), 3);
    let next = cloud.url("GET", first["nextLink"].as_str().unwrap()).await;
    assert_eq!(next.body, json!({"value": []}));
}

#[tokio::test(start_paused = true)]
async fn pages_may_be_empty_in_the_middle_and_ids_in_a_case_of_their_own() {
    let limits = azure_sim::config::Limits {
        page_size: 1,
        empty_pages: true,
        mixed_case_ids: true,
        ..Default::default()
    };
    let cloud = Cloud::with(limits).await;
    let path = "/resourceGroups/prod/providers/Microsoft.Compute/disks";
    let mut page = cloud.get(path, DISKS).await;
    let (mut ids, mut empty) = (Vec::new(), 0);
    loop {
        let value = page["value"].as_array().cloned().unwrap_or_default();
        empty += usize::from(value.is_empty());
        ids.extend(value.iter().map(|disk| disk["id"].as_str().unwrap_or_default().to_owned()));
        let Some(next) = page["nextLink"].as_str() else { break };
        page = cloud.url("GET", next).await.body;
    }
    assert_eq!((ids.len(), empty), (3, 4));
    assert!(ids[0].contains("/resourcegroups/PROD/"), "{ids:?}");
    assert!(ids[0].eq_ignore_ascii_case(&disk_id("web-data")));
    let alone = cloud.get(&disk_path("web-data"), DISKS).await;
    assert_eq!(alone["id"], disk_id("web-data"));
}

#[tokio::test(start_paused = true)]
async fn retry_after_comes_with_operations_where_it_is_asked_for_and_else_never() {
    let waiting = azure_sim::config::Limits { retry_after_secs: Some(7), ..Default::default() };
    for (limits, expected) in [(Default::default(), None), (waiting, Some("7"))] {
        let cloud = Cloud::with(limits).await;
        let stop = cloud.arm("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
        assert_eq!(stop.header("retry-after"), expected);
        for header in ["azure-asyncoperation", "location"] {
            let poll = cloud.url("GET", stop.header(header).unwrap()).await;
            assert_eq!(poll.header("retry-after"), expected, "{header}");
        }
        cloud.done(&stop).await;
        // What has ended is waited for no longer.
        let ended = cloud.url("GET", stop.header("azure-asyncoperation").unwrap()).await;
        assert_eq!(ended.header("retry-after"), None);
        assert_eq!(cloud.arm("GET", WEB, VMS, Value::Null).await.header("retry-after"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn vms_have_etags_and_disks_and_snapshots_have_none() {
    let cloud = Cloud::new().await;
    let put = cloud.snapshot("s", "web-os").await;
    for (path, put) in [(snapshot_path("prod", "s"), Some(put)), (disk_path("web-os"), None)] {
        let got = cloud.arm("GET", &path, DISKS, Value::Null).await;
        for answer in put.iter().chain([&got]) {
            assert_eq!((answer.header("etag"), answer.body.get("etag")), (None, None), "{path}");
        }
        // A condition that cannot hold is not even looked at.
        let url = format!(
            "https://management.azure.com/subscriptions/{SUBSCRIPTION}{path}?api-version={DISKS}"
        );
        let tags = json!({"tags": {"a": "b"}});
        let patched = cloud.send("PATCH", &url, &[("if-match", "\"7\"")], tags).await;
        assert_eq!(patched.status, 202);
        cloud.done(&patched).await;
    }
    let vm = cloud.arm("GET", WEB, VMS, Value::Null).await;
    assert!(vm.header("etag").is_some() && vm.body["etag"].is_string());
}
