//! Token buckets.

use azure_sim::config::Limits;
use azure_sim::throttling::{Meter, Throttling};
use serde_json::{Value, json};

use crate::cloud::*;

fn limits() -> Limits {
    Limits { throttling: Some(Throttling::azure()), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn the_front_door_takes_a_burst_and_then_so_many_a_second() {
    let cloud = Cloud::with(limits()).await;
    let group = "/resourceGroups/prod";
    let first = cloud.arm("GET", group, RESOURCES, Value::Null).await;
    assert_eq!(first.header("x-ms-ratelimit-remaining-subscription-reads"), Some("249"));
    assert_eq!(first.header("x-ms-ratelimit-remaining-subscription-global-reads"), Some("3749"));
    for _ in 0..249 {
        assert_eq!(cloud.arm("GET", group, RESOURCES, Value::Null).await.status, 200);
    }
    let refused = cloud.arm("GET", group, RESOURCES, Value::Null).await;
    assert_eq!((refused.status, refused.code()), (429, "TooManyRequests"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Writes have a bucket of their own.
    let tags = json!({"tags": {"a": "b"}});
    let write = cloud.arm("PATCH", group, RESOURCES, tags).await;
    assert_eq!(write.header("x-ms-ratelimit-remaining-subscription-writes"), Some("199"));
    wait(1000).await;
    let mut taken = 0;
    while cloud.arm("GET", group, RESOURCES, Value::Null).await.status == 200 {
        taken += 1;
    }
    assert_eq!(taken, 25);
    assert_eq!(cloud.admin("GET", "requests", Value::Null).await.body["throttled"], 2);
}

#[tokio::test(start_paused = true)]
async fn polling_a_vms_operation_too_often_is_refused_in_the_compute_providers_way() {
    let cloud = Cloud::with(limits()).await;
    let stop = cloud.arm("POST", &format!("{WEB}/powerOff"), VMS, Value::Null).await;
    assert_eq!(
        stop.header("x-ms-ratelimit-remaining-resource"),
        Some("Microsoft.Compute/UpdateVM;11,Microsoft.Compute/UpdateVMSubscription;1499")
    );
    let url = stop.header("azure-asyncoperation").unwrap_or_default();
    for _ in 0..45 {
        assert_eq!(cloud.url("GET", url).await.status, 200);
    }
    let refused = cloud.url("GET", url).await;
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("OperationNotAllowed")));
    assert!(refused.body.get("error").is_none());
    let target = refused.body["details"][0]["target"].as_str().unwrap_or_default();
    let target: Value = serde_json::from_str(target).unwrap_or_default();
    assert_eq!(target["operationGroup"], "GetOperation");
    assert_eq!(refused.header("retry-after"), Some("4"));
    wait(4000).await;
    assert_eq!(cloud.url("GET", url).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn snapshots_show_both_of_their_buckets_as_recorded() {
    let cloud = Cloud::with(limits()).await;
    let put = cloud.snapshot("s", "web-os").await;
    assert_eq!(
        put.header("x-ms-ratelimit-remaining-resource"),
        Some(
            "Microsoft.Compute/HighCostSnapshotCreateHydrate3Min;999,\
             Microsoft.Compute/HighCostSnapshotCreateHydrate30Min;7999"
        )
    );
}

#[test]
fn buckets_are_configuration_and_on_in_the_recorded_limits_only() {
    assert_eq!(Limits::default().throttling, None);
    let recorded = Limits::recorded();
    let text = serde_json::to_string(&recorded).unwrap();
    assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), recorded);
    let changed = json!({"throttling": {"arm_reads": [
        {"name": "reads", "per": "principal", "burst": 2, "refill": 1, "per_secs": 10}]}});
    let changed: Limits = serde_json::from_value(changed).unwrap();
    assert!(changed.throttling.is_some_and(|t| t.0[&Meter::ArmReads][0].burst == 2));
}
