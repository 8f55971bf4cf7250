//! How long things take under the recorded profile, told by the simulator's own operation records: that
//! is how Azure's were measured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::time::Duration;

use azdr_env::{WallTime, sleep};
use azure_sim::config::Limits;
use azure_sim::latency::Profile;
use serde_json::{Value, json};

use crate::cloud::*;

async fn cloud() -> Cloud {
    // Buckets are another test's matter.
    Cloud::of(Limits { throttling: None, ..Limits::recorded() }, Profile::Recorded, world()).await
}

/// Waits for the operation's success; how long it took, by its record.
async fn took(cloud: &Cloud, answer: &Answer) -> f64 {
    let url = answer.header("azure-asyncoperation").unwrap_or_else(|| panic!("{answer:?}"));
    loop {
        let record = cloud.url("GET", url).await.body;
        if record["status"] == "InProgress" {
            sleep(Duration::from_millis(500)).await;
            continue;
        }
        assert_eq!(record["status"], "Succeeded", "{record}");
        let at = |name: &str| record[name].as_str().unwrap().parse::<WallTime>().unwrap();
        return at("endTime").since(at("startTime")).as_secs_f64();
    }
}

async fn operation(cloud: &Cloud, method: &str, path: &str, version: &str, body: Value) -> f64 {
    let answer = cloud.arm(method, path, version, body).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    took(cloud, &answer).await
}

/// Seconds as recorded at the providers, least and most, wild outliers (one in ten or so) left out.
const RECORDED: [(&str, f64, f64); 8] = [
    ("snapshot", 0.4, 1.2),
    ("disk", 0.1, 0.6),
    ("start", 5.6, 35.7),
    ("powerOff", 3.0, 16.0),
    ("restart", 0.2, 2.9),
    ("deallocate", 33.0, 46.0),
    ("create", 4.0, 210.0),
    ("delete", 0.4, 42.0),
];

#[tokio::test(start_paused = true)]
async fn operations_take_as_long_as_they_were_recorded_to_take() {
    let cloud = cloud().await;
    let mut measured: Vec<(&str, f64)> = Vec::new();
    for round in 0..5 {
        let name = format!("s{round}");
        let body = json!({"location": "eastus", "properties": {"incremental": true,
            "creationData": {"createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
        let path = snapshot_path("prod", &name);
        measured.push(("snapshot", operation(&cloud, "PUT", &path, DISKS, body).await));
        let tags = json!({"tags": {"round": name}});
        measured.push(("disk", operation(&cloud, "PATCH", &path, DISKS, tags).await));
        let grant = json!({"access": "Read", "durationInSeconds": 600});
        for (action, body) in [("beginGetAccess", grant), ("endGetAccess", Value::Null)] {
            let path = format!("{path}/{action}");
            measured.push(("disk", operation(&cloud, "POST", &path, DISKS, body).await));
        }
        measured.push(("disk", operation(&cloud, "DELETE", &path, DISKS, Value::Null).await));
        for action in ["powerOff", "start", "restart", "deallocate", "start"] {
            let path = format!("{WEB}/{action}");
            measured.push((action, operation(&cloud, "POST", &path, VMS, Value::Null).await));
        }
        // Otherwise there would be too many snapshots in five minutes.
        sleep(Duration::from_secs(300)).await;
    }
    measured.extend(a_vms_life(&cloud).await);
    for (what, least, most) in RECORDED {
        let all: Vec<f64> = measured.iter().filter(|m| m.0 == what).map(|m| m.1).collect();
        assert!(!all.is_empty(), "{what}");
        assert!(all.iter().all(|s| (least..=most).contains(s)), "{what}: {all:?}");
        // They vary, as recorded ones do.
        assert!(
            all.len() == 1 || all.iter().any(|s| (s - all[0]).abs() > 0.001),
            "{what}: {all:?}"
        );
    }
}

/// A machine is made from a disk, and deleted again.
async fn a_vms_life(cloud: &Cloud) -> [(&'static str, f64); 2] {
    let disk = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    operation(cloud, "PUT", &disk_path("os"), DISKS, disk).await;
    let network = "/resourceGroups/prod/providers/Microsoft.Network";
    let subnet = format!(
        "/subscriptions/{SUBSCRIPTION}{network}/virtualNetworks/prod-eastus-vnet/subnets/default"
    );
    let nic = format!("{network}/networkInterfaces/n");
    let body = json!({"location": "eastus", "properties": {"ipConfigurations": [
        {"name": "one", "properties": {"subnet": {"id": subnet}}}]}});
    assert_eq!(cloud.arm("PUT", &nic, NETWORKS, body).await.status, 201);
    sleep(Duration::from_secs(60)).await;
    let vm = json!({"location": "eastus", "properties": {
        "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
        "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux",
            "managedDisk": {"id": disk_id("os")}}},
        "networkProfile": {"networkInterfaces": [
            {"id": format!("/subscriptions/{SUBSCRIPTION}{nic}")}]},
    }});
    let path = "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/made";
    let create = operation(cloud, "PUT", path, VMS, vm).await;
    [("create", create), ("delete", operation(cloud, "DELETE", path, VMS, Value::Null).await)]
}

#[tokio::test(start_paused = true)]
async fn a_copys_operation_ends_in_seconds_and_its_data_take_minutes() {
    let cloud = cloud().await;
    let body = json!({"location": "eastus", "properties": {"incremental": true,
        "creationData": {"createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
    operation(&cloud, "PUT", &snapshot_path("prod", "s"), DISKS, body).await;
    let started = cloud.start_copy("s", "c").await;
    // Recorded: 1.2 s, and then a copy at 0 %.
    assert!(took(&cloud, &started).await <= 1.2);
    let percent = async || {
        let copy = cloud.get(&snapshot_path("dr", "c"), DISKS).await;
        assert_eq!(copy["properties"]["provisioningState"], "Succeeded");
        copy["properties"]["completionPercent"].as_f64().unwrap()
    };
    let mut minutes = 0;
    let mut last = percent().await;
    assert!(last < 5.0, "{last}");
    while last < 100.0 {
        sleep(Duration::from_secs(60)).await;
        minutes += 1;
        let now = percent().await;
        assert!(now > last, "{now} after {last}");
        last = now;
    }
    assert!((1..=10).contains(&minutes), "{minutes}");
}

/// Their own times were never recorded: longer than the polls that were, shorter than machines take.
#[tokio::test(start_paused = true)]
async fn changes_of_vms_networks_and_groups_take_seconds_to_minutes() {
    let cloud = cloud().await;
    let patch = operation(&cloud, "PATCH", WEB, VMS, json!({"tags": {"a": "b"}})).await;
    assert!((2.0..=30.0).contains(&patch), "{patch}");
    let clock = || cloud.simulator_clock();
    let network = json!({"location": "westus", "properties": {
        "addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}}});
    let path = "/resourceGroups/dr/providers/Microsoft.Network/virtualNetworks/v";
    let before = clock();
    let put = cloud.arm("PUT", path, NETWORKS, network).await;
    let url = put.header("azure-asyncoperation").unwrap().to_owned();
    while cloud.url("GET", &url).await.body["status"] == "InProgress" {
        sleep(Duration::from_millis(100)).await;
    }
    let network = clock().since(before).as_secs_f64();
    assert!((1.0..=10.2).contains(&network), "{network}");

    let before = clock();
    let delete = cloud.arm("DELETE", "/resourceGroups/dr", RESOURCES, Value::Null).await;
    let url = delete.header("location").unwrap().to_owned();
    while cloud.url("GET", &url).await.status == 202 {
        sleep(Duration::from_secs(1)).await;
    }
    let group = clock().since(before).as_secs_f64();
    assert!((30.0..=181.0).contains(&group), "{group}");
}
