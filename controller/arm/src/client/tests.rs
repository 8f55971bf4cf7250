use std::collections::BTreeMap;
use std::collections::HashSet;

use azdr_domain::ArmId;
use serde_json::json;

use super::*;
use crate::lro::{Progress, Started};
use crate::testing::{SUB, TOKEN, answer, client, operation_url, snapshot_id, vm_id};
use crate::transport::TransportError;
use crate::{CopySpec, DiskSpec, SnapshotSpec};

fn disk_id() -> ArmId {
    ArmId::disk(SUB, "g", "d").unwrap()
}

fn body(request: &HttpRequest) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_goes_through_the_builders_with_our_headers_and_the_right_body() {
    let (client, script) = client();
    let url = operation_url("1?api-version=2024-03-02");
    script.answer(answer(202, &[("azure-asyncoperation", &url)], &json!({})));
    script.answer(answer(200, &[], &json!({"status": "InProgress"})));
    let output = json!({"name": "x", "properties": {"provisioningState": "Succeeded"}});
    script.answer(answer(
        200,
        &[],
        &json!({"status": "Succeeded", "properties": {"output": output}}),
    ));
    let spec = SnapshotSpec {
        tags: BTreeMap::from([("azdr:run".to_owned(), "r".to_owned())]),
        sku: Some("Standard_ZRS".to_owned()),
        public_network_access: Some("Disabled".to_owned()),
        ..SnapshotSpec::new("westeurope", disk_id())
    };
    let Started::Running(mut operation) =
        client.begin_create_snapshot(&snapshot_id("x"), &spec).await.unwrap()
    else {
        panic!("not running")
    };
    let progress = client.poll(&mut operation).await.unwrap();
    assert!(matches!(progress, Progress::Running { .. }), "{progress:?}");
    assert_eq!(client.poll(&mut operation).await.unwrap(), Progress::Done(output));

    let requests = script.requests();
    let put = &requests[0];
    let sent = body(put);
    assert_eq!(sent["properties"]["incremental"], true);
    assert_eq!(sent["properties"]["creationData"]["createOption"], "Copy");
    assert_eq!(sent["properties"]["creationData"]["sourceResourceId"], disk_id().as_str());
    assert_eq!(sent["properties"]["publicNetworkAccess"], "Disabled");
    assert_eq!(sent["sku"]["name"], "Standard_ZRS");
    assert_eq!(sent["tags"], json!({"azdr:run": "r"}));
    assert_eq!(put.headers["authorization"], format!("Bearer {TOKEN}"));
    assert!(put.headers["authorization"].is_sensitive());
    assert_eq!(put.headers["content-type"], "application/json");
    assert!(put.headers["user-agent"].to_str().unwrap().starts_with("azdr "));
    assert_eq!(requests[1].url.as_str(), url);
    let ids: HashSet<_> =
        requests.iter().map(|r| r.headers["x-ms-client-request-id"].clone()).collect();
    assert_eq!(ids.len(), 3, "a fresh id per request");
}

#[tokio::test(start_paused = true)]
async fn requests_have_the_paths_and_versions_that_azure_expects() {
    let (client, script) = client();
    for _ in 0..7 {
        script.answer(answer(200, &[], &json!({})));
    }
    client.get_vm_with_instance_view(&vm_id()).await.unwrap();
    client.begin_power_off(&vm_id(), true).await.unwrap();
    client.begin_start(&vm_id()).await.unwrap();
    client
        .begin_create_disk(&disk_id(), &DiskSpec::new("westeurope", snapshot_id("x")))
        .await
        .unwrap();
    client
        .begin_copy_snapshot(&snapshot_id("y"), &CopySpec::new("eastus", snapshot_id("x")))
        .await
        .unwrap();
    client.list_by_tag(SUB, "azdr:run", "it's").await.unwrap();
    client.get_tags(&vm_id()).await.unwrap();
    let compute = format!("/subscriptions/{SUB}/resourceGroups/g/providers/Microsoft.Compute");
    assert_eq!(
        script.lines(),
        [
            format!(
                "GET {compute}/virtualMachines/vm1?api-version=2024-07-01&%24expand=instanceView"
            ),
            format!(
                "POST {compute}/virtualMachines/vm1/powerOff?api-version=2024-07-01&skipShutdown=true"
            ),
            format!("POST {compute}/virtualMachines/vm1/start?api-version=2024-07-01"),
            format!("PUT {compute}/disks/d?api-version=2024-03-02"),
            format!("PUT {compute}/snapshots/y?api-version=2024-03-02"),
            format!(
                "GET /subscriptions/{SUB}/resources?$filter=tagName%20eq%20%27azdr%3Arun%27%20and%20\
                 tagValue%20eq%20%27it%27%27s%27&api-version=2021-04-01"
            ),
            format!(
                "GET {compute}/virtualMachines/vm1/providers/Microsoft.Resources/tags/default\
                 ?api-version=2021-04-01"
            ),
        ]
    );
    let requests = script.requests();
    assert_eq!(body(&requests[4])["properties"]["creationData"]["createOption"], "CopyStart");
    assert_eq!(body(&requests[4])["properties"]["incremental"], true);
}

#[tokio::test(start_paused = true)]
async fn a_restored_disk_keeps_what_the_original_had_or_is_refused() {
    let (client, script) = client();
    script.answer(answer(202, &[("location", &operation_url("1"))], &Value::Null));
    let encryption =
        json!({"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": "/x"});
    let mut spec = DiskSpec {
        zones: vec!["2".to_owned()],
        sku: Some("PremiumV2_LRS".to_owned()),
        size_bytes: Some((64 << 30) + 1),
        hyper_v_generation: Some("V2".to_owned()),
        os_type: Some("Linux".to_owned()),
        encryption: Some(encryption.clone()),
        security_profile: Some(json!({"securityType": "TrustedLaunch"})),
        ..DiskSpec::new("westeurope", snapshot_id("x"))
    };
    client.begin_create_disk(&disk_id(), &spec).await.unwrap();
    let sent = body(&script.requests()[0]);
    assert_eq!(sent["zones"], json!(["2"]));
    assert_eq!(sent["sku"]["name"], "PremiumV2_LRS");
    assert_eq!(sent["properties"]["diskSizeGB"], 65);
    assert_eq!(sent["properties"]["encryption"], encryption);
    assert_eq!(sent["properties"]["securityProfile"]["securityType"], "TrustedLaunch");
    assert_eq!(sent["properties"]["hyperVGeneration"], "V2");

    spec.encryption = Some(json!({"type": "EncryptionAtRestWithPlatformKey", "newThing": 1}));
    let error = client.begin_create_disk(&disk_id(), &spec).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Invalid, "UnsupportedProperty"));
    assert_eq!(script.requests().len(), 1, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn an_error_carries_its_class_its_ids_and_its_resource() {
    let (client, script) = client();
    let body = json!({"error": {"code": "ResourceNotFound", "message": "no \"x\""}});
    script.answer(answer(404, &[("x-ms-request-id", "azures")], &body));
    let error = client.get_snapshot(&snapshot_id("x")).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::NotFound, "ResourceNotFound"));
    assert_eq!(error.request_id.as_deref(), Some("azures"));
    let sent = script.requests()[0].headers["x-ms-client-request-id"].clone();
    assert_eq!(error.client_request_id.as_deref(), sent.to_str().ok());
    assert_eq!(error.resource.as_deref(), Some(snapshot_id("x").as_str()));
}

#[tokio::test(start_paused = true)]
async fn deleting_what_is_missing_succeeds() {
    let (client, script) = client();
    let gone = json!({"error": {"code": "ResourceGroupNotFound", "message": ""}});
    script.answer(answer(404, &[], &gone)).answer(answer(204, &[], &Value::Null));
    script.answer(answer(404, &[], &gone));
    let done = Started::Done(Value::Null);
    assert_eq!(client.begin_delete_snapshot(&snapshot_id("x")).await.unwrap(), done);
    assert_eq!(client.begin_delete_vm(&vm_id()).await.unwrap(), done);
    let nic = ArmId::network_interface(SUB, "g", "n").unwrap();
    assert_eq!(client.begin_delete_network_interface(&nic).await.unwrap(), done);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_write_leaves_the_outcome_unknown_and_a_refused_connection_does_not() {
    let (client, script) = client();
    script.fail(TransportError::maybe_sent("reset")).fail(TransportError::not_sent("refused"));
    script.fail(TransportError::maybe_sent("reset")).hang().hang();
    let id = snapshot_id("x");
    let class = async || client.begin_delete_snapshot(&id).await.unwrap_err().class;
    assert_eq!(class().await, ErrorClass::OutcomeUnknown);
    assert_eq!(class().await, ErrorClass::Unavailable);
    assert_eq!(client.get_snapshot(&id).await.unwrap_err().class, ErrorClass::Unavailable);
    assert_eq!(class().await, ErrorClass::OutcomeUnknown, "no answer in time");
    assert_eq!(client.get_snapshot(&id).await.unwrap_err().class, ErrorClass::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_retried_but_a_401_once() {
    let (client, script) = client();
    script.answer(answer(503, &[("retry-after", "17")], &Value::Null));
    let error = client.get_vm(&vm_id()).await.unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(17)));
    assert_eq!(script.requests().len(), 1);
    let refused = json!({"error": {"code": "ExpiredAuthenticationToken", "message": ""}});
    script.answer(answer(401, &[], &refused)).answer(answer(200, &[], &json!({"name": "vm1"})));
    assert_eq!(client.get_vm(&vm_id()).await.unwrap().name.as_deref(), Some("vm1"));
    script.answer(answer(401, &[], &refused)).answer(answer(401, &[], &refused));
    assert_eq!(client.get_vm(&vm_id()).await.unwrap_err().class, ErrorClass::Denied);
    assert_eq!(client.counters().requests, 5);
}

#[tokio::test(start_paused = true)]
async fn throttling_is_counted_and_slows_its_own_bucket_down() {
    let (client, script) = client();
    let body = json!({"code": "OperationNotAllowed", "message": "slow",
        "details": [{"code": "TooManyRequests", "target": "HighCostSnapshotCreateHydrate3Min"}]});
    script.answer(answer(429, &[("retry-after", "30")], &body));
    script.answer(answer(200, &[], &json!({}))).answer(answer(200, &[], &json!({})));
    let spec = SnapshotSpec::new("westeurope", disk_id());
    let error = client.begin_create_snapshot(&snapshot_id("x"), &spec).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Throttled);
    let now = || client.core.env.clock.monotonic().as_duration();
    let before = now();
    client.get_vm(&vm_id()).await.unwrap();
    assert_eq!(now(), before, "reads go on");
    client.begin_create_snapshot(&snapshot_id("x"), &spec).await.unwrap();
    assert!(now() - before >= Duration::from_secs(30));
    let counters = client.counters();
    assert_eq!((counters.requests, counters.throttled), (3, 1));
    assert_eq!(counters.by_class[&OperationClass::HighCostSnapshot].throttled, 1);
    assert_eq!(counters.by_class[&OperationClass::Writes].requests, 2);
}

#[tokio::test(start_paused = true)]
async fn reserved_snapshot_writes_do_not_wait() {
    let (client, script) = client();
    for _ in 0..3 {
        script.answer(answer(200, &[], &json!({})));
    }
    let spec = SnapshotSpec::new("westeurope", disk_id());
    let reservation = client.reserve_snapshot_writes(2).await;
    // Somebody else empties the bucket meanwhile.
    client.core.budget.learn(SUB, OperationClass::HighCostSnapshot, 0.0);
    let now = || client.core.env.clock.monotonic().as_duration();
    let before = now();
    for name in ["x", "y"] {
        reservation.client().begin_create_snapshot(&snapshot_id(name), &spec).await.unwrap();
    }
    assert_eq!(now(), before);
    client.begin_create_snapshot(&snapshot_id("z"), &spec).await.unwrap();
    assert!(now() > before);
}

#[tokio::test(start_paused = true)]
async fn listings_follow_links_over_empty_pages_and_not_to_foreign_hosts() {
    let (client, script) = client();
    let next = |n| format!("https://management.azure.com:443/next?$skiptoken={n}");
    script.answer(answer(200, &[], &json!({"value": [{"name": "a"}], "nextLink": next(1)})));
    script.answer(answer(200, &[], &json!({"value": [], "nextLink": next(2)})));
    script.answer(answer(200, &[], &json!({"value": [{"name": "b"}]})));
    let vms = client.list_vms(SUB).await.unwrap();
    assert_eq!(vms.iter().filter_map(|vm| vm.name.as_deref()).collect::<Vec<_>>(), ["a", "b"]);
    script.answer(answer(200, &[], &json!({"value": [], "nextLink": "https://evil.example/"})));
    let error = client.list_vms(SUB).await.unwrap_err();
    assert_eq!(error.code, "ForeignNextLink");
    assert_eq!(script.requests().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn our_token_goes_to_our_endpoint_and_names_below_it() {
    let (client, _) = client();
    let own = |url: &str| client.core.own_url(url).is_some();
    assert!(own("https://management.azure.com/x?y=1"));
    assert!(own("https://management.azure.com:443/x"));
    assert!(own("https://MANAGEMENT.azure.com/x"));
    assert!(own("https://westeurope.management.azure.com/x"));
    assert!(!own("https://evil-management.azure.com/x"));
    assert!(!own("https://management.azure.com.evil.example/x"));
    assert!(!own("https://management.azure.com:8443/x"));
    assert!(!own("http://management.azure.com/x"));
    assert!(!own("https://user@management.azure.com/x"));
    assert!(!own("/relative"));
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_type_is_refused_before_anything_is_sent() {
    let (client, script) = client();
    let error = client.begin_delete_disk(&vm_id()).await.unwrap_err();
    assert_eq!(error.code, "WrongResourceType");
    assert!(client.begin_delete_resource_group(&vm_id()).await.is_err());
    assert!(client.begin_delete_public_ip(&vm_id()).await.is_err());
    assert!(script.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_patched_with_if_match_and_read_with_its_etag() {
    let (client, script) = client();
    script.answer(answer(200, &[("etag", "\"7\"")], &json!({"name": "vm1"})));
    script.answer(answer(
        412,
        &[],
        &json!({"error": {"code": "PreconditionFailed", "message": ""}}),
    ));
    let vm = client.get_vm(&vm_id()).await.unwrap();
    let etag = vm.etag.unwrap();
    let error = client.begin_patch_vm(&vm_id(), json!({}), Some(&etag)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::PreconditionFailed);
    assert_eq!(script.requests()[1].headers["if-match"], "\"7\"");
}

#[tokio::test(start_paused = true)]
async fn a_group_is_made_only_when_it_is_missing() {
    let (client, script) = client();
    let group = ArmId::resource_group_id(SUB, "g").unwrap();
    let there = json!({"location": "westeurope", "properties": {"provisioningState": "Succeeded"}});
    script.answer(answer(200, &[], &there));
    let ensure =
        async || client.ensure_resource_group(&group, "westeurope", &BTreeMap::new()).await;
    ensure().await.unwrap();
    let gone = json!({"error": {"code": "ResourceGroupNotFound", "message": ""}});
    script.answer(answer(404, &[], &gone)).answer(answer(201, &[], &there));
    ensure().await.unwrap();
    let deleting = json!({"properties": {"provisioningState": "Deleting"}});
    script.answer(answer(200, &[], &deleting));
    assert!(ensure().await.unwrap_err().is_retryable());
    assert_eq!(script.requests().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn ranges_are_read_without_a_token_and_checked() {
    let (client, script) = client();
    let url = "https://md-1.z1.blob.storage.azure.net/abcd?sv=1&sig=TOPSECRET";
    let sas = crate::Sas::from_value(&json!({"accessSAS": url})).unwrap();
    let part = |status, range: &str, body: &'static str| HttpResponse {
        status,
        headers: pipeline::header_map([("content-range", range)].into_iter()),
        body: Bytes::from_static(body.as_bytes()),
    };
    script.answer(part(206, "bytes 4-7/100", "abcd"));
    assert_eq!(client.read_range(&sas, 4, 4).await.unwrap(), "abcd");
    let request = &script.requests()[0];
    assert_eq!(request.url.as_str(), url);
    assert_eq!(request.headers["range"], "bytes=4-7");
    assert!(!request.headers.contains_key("authorization"));
    // The end of the disk may cut it short.
    script.answer(part(206, "bytes 98-99/100", "ab"));
    assert_eq!(client.read_range(&sas, 98, 4).await.unwrap(), "ab");
    for wrong in [
        part(200, "", "abcd"),
        part(206, "bytes 4-5/100", "ab"),
        part(206, "bytes 5-8/100", "abcd"),
    ] {
        script.answer(wrong);
        let error = client.read_range(&sas, 4, 4).await.unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (ErrorClass::Failed, "NotTheRange"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_boot_log_is_its_last_part_and_may_be_absent() {
    let (client, script) = client();
    let uris = json!({"serialConsoleLogBlobUri": "https://blob.example/log?sig=1"});
    let total: u64 = (1 << 20) + 5;
    script.answer(answer(200, &[], &uris));
    script.answer(answer(
        206,
        &[("content-range", &format!("bytes 0-1048575/{total}"))],
        &json!(1),
    ));
    script.answer(answer(206, &[], &json!("login:")));
    let log = client.boot_diagnostics_log(&vm_id()).await.unwrap();
    assert_eq!(log.as_deref(), Some("\"login:\""));
    assert_eq!(script.requests()[2].headers["range"], "bytes=5-1048580");
    script.answer(answer(200, &[], &json!({})));
    assert_eq!(client.boot_diagnostics_log(&vm_id()).await.unwrap(), None);
    let off = json!({"error": {"code": "OperationNotAllowed", "message": "not enabled"}});
    script.answer(answer(409, &[], &off));
    assert_eq!(client.boot_diagnostics_log(&vm_id()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_operation_of_another_endpoint_is_not_polled() {
    let (client, script) = client();
    script.answer(answer(202, &[("location", &operation_url("1"))], &Value::Null));
    let Started::Running(operation) = client.begin_start(&vm_id()).await.unwrap() else {
        panic!("not running")
    };
    let text = serde_json::to_string(&operation).unwrap().replace("management.azure.com", "sim:1");
    let mut moved = serde_json::from_str(&text).unwrap();
    let error = client.poll(&mut moved).await.unwrap_err();
    assert_eq!(error.code, "ForeignOperationUrl");
    assert_eq!(script.requests().len(), 1);
}
