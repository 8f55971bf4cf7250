//! What is refused for lack of rights, and what immutability protects.

use serde_json::{Value, json};

use crate::cloud::*;

const IMMUTABLE: &str = "2026-03-02";

async fn only(cloud: &Cloud, assignments: Value) {
    assert_eq!(cloud.admin("PUT", "assignments/client", assignments).await.status, 204);
}

fn group(name: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}")
}

#[tokio::test(start_paused = true)]
async fn what_no_assignment_permits_is_refused() {
    let cloud = Cloud::new().await;
    only(
        &cloud,
        json!([{"scope": group("prod"), "actions": ["*"], "not_actions": ["*/delete"]},
            {"scope": group("dr"), "actions": ["*/read"]}]),
    )
    .await;
    cloud.snapshot("s", "web-os").await;
    let delete = cloud.arm("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
    assert_eq!((delete.status, delete.code()), (403, "AuthorizationFailed"));
    let message = delete.body["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("'Microsoft.Compute/snapshots/delete'"), "{message}");
    assert_eq!(cloud.start_copy("s", "c").await.code(), "AuthorizationFailed");
    let group = cloud.arm("GET", "/resourceGroups/dr", RESOURCES, Value::Null).await;
    assert_eq!(group.status, 200);
    assert_eq!(cloud.arm("GET", "/resources", RESOURCES, Value::Null).await.status, 200);
    assert_eq!(cloud.admin("DELETE", "assignments/client", Value::Null).await.status, 204);
    cloud.ok("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_needs_a_right_on_its_source_too() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let reader = json!({"scope": group("prod"), "actions": ["*/read"]});
    let owner = json!({"scope": group("dr"), "actions": ["*"]});
    only(&cloud, json!([reader, owner])).await;
    let refused = cloud.start_copy("s", "c").await;
    assert_eq!((refused.status, refused.code()), (403, "LinkedAuthorizationFailed"));
    let message = refused.body["error"]["message"].as_str().unwrap_or_default();
    // Of disks, although the source is a snapshot.
    assert!(message.contains("'Microsoft.Compute/disks/beginGetAccess/action'"), "{message}");
    let exporter = json!({"scope": group("prod"),
        "actions": ["*/read", "Microsoft.Compute/disks/beginGetAccess/action"]});
    only(&cloud, json!([exporter, owner])).await;
    let started = cloud.start_copy("s", "c").await;
    assert_eq!(started.status, 202);
    cloud.done(&started).await;
}

const NETWORK: &str = "/resourceGroups/prod/providers/Microsoft.Network";

#[tokio::test(start_paused = true)]
async fn an_interface_needs_a_right_on_its_subnet_and_a_vm_one_on_its_interface() {
    let cloud = Cloud::new().await;
    cloud.ok("PUT", "/resourceGroups/own", RESOURCES, json!({"location": "eastus"})).await;
    let subnet = format!(
        "/subscriptions/{SUBSCRIPTION}{NETWORK}/virtualNetworks/prod-eastus-vnet/subnets/default"
    );
    let interface = |group: &str| {
        format!("/resourceGroups/{group}/providers/Microsoft.Network/networkInterfaces/n")
    };
    let body = json!({"location": "eastus", "properties": {"ipConfigurations": [
        {"name": "one", "properties": {"subnet": {"id": subnet}}}]}});
    let refused = |answer: &Answer, action: &str, on: &str| {
        assert_eq!((answer.status, answer.code()), (403, "LinkedAuthorizationFailed"));
        let message = answer.body["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains(&format!("'{action}'")) && message.contains(on), "{message}");
    };
    let owner = json!({"scope": group("own"), "actions": ["*"]});
    let reader = json!({"scope": group("prod"), "actions": ["*/read"]});
    only(&cloud, json!([owner, reader])).await;
    let join = "Microsoft.Network/virtualNetworks/subnets/join/action";
    let put = cloud.arm("PUT", &interface("own"), NETWORKS, body.clone()).await;
    refused(&put, join, &subnet);
    let joiner = json!({"scope": group("prod"), "actions": ["*/read", join]});
    only(&cloud, json!([owner, joiner])).await;
    cloud.ok("PUT", &interface("own"), NETWORKS, body.clone()).await;

    // A machine of one's own with an interface of somebody else's.
    assert_eq!(cloud.admin("DELETE", "assignments/client", Value::Null).await.status, 204);
    cloud.ok("PUT", &interface("prod"), NETWORKS, body).await;
    let disk = json!({"location": "eastus", "properties": {
        "creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    let disk_path = "/resourceGroups/own/providers/Microsoft.Compute/disks/os";
    cloud.ok("PUT", disk_path, DISKS, disk).await;
    let theirs = format!("/subscriptions/{SUBSCRIPTION}{}", interface("prod"));
    let vm = json!({"location": "eastus", "properties": {
        "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
        "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux",
            "managedDisk": {"id": format!("/subscriptions/{SUBSCRIPTION}{disk_path}")}}},
        "networkProfile": {"networkInterfaces": [{"id": theirs}]},
    }});
    let path = "/resourceGroups/own/providers/Microsoft.Compute/virtualMachines/m";
    only(&cloud, json!([owner, joiner])).await;
    let join = "Microsoft.Network/networkInterfaces/join/action";
    refused(&cloud.arm("PUT", path, VMS, vm.clone()).await, join, &theirs);
    let joiner = json!({"scope": group("prod"), "actions": ["*/read", join]});
    only(&cloud, json!([owner, joiner])).await;
    assert_eq!(cloud.ok("PUT", path, VMS, vm).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn an_immutable_snapshot_is_deleted_after_its_time_only() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let path = snapshot_path("prod", "s");
    let set = async |action: &str, days: u64, kind: &str| {
        let body = json!({"immutabilityDurationDays": days, "type": kind});
        cloud.arm("POST", &format!("{path}/{action}"), IMMUTABLE, body).await
    };
    let (plain, lock) = ("updateImmutabilityPolicy", "updateImmutabilityPolicyLock");
    let old = cloud.arm("POST", &format!("{path}/{plain}"), DISKS, json!({})).await;
    assert_eq!(old.status, 404, "it is newer than that");
    let made = set(plain, 2, "Unlocked").await;
    assert_eq!(made.status, 202);
    assert_eq!(cloud.done(&made).await["status"], "Succeeded");
    let policy = cloud.get(&path, IMMUTABLE).await["properties"]["immutabilityPolicy"].clone();
    assert_eq!((&policy["type"], &policy["isPolicyExpired"]), (&json!("Unlocked"), &json!(false)));
    let delete = cloud.arm("DELETE", &path, IMMUTABLE, Value::Null).await;
    assert_eq!((delete.status, delete.code()), (409, "OperationNotAllowed"));
    let group = cloud.arm("DELETE", "/resourceGroups/prod", RESOURCES, Value::Null).await;
    assert_eq!(group.status, 409);
    assert_eq!(set(plain, 1, "Unlocked").await.status, 409, "shorter, without the right to");
    assert_eq!(set(plain, 1, "Locked").await.status, 400);
    assert_eq!(set(lock, 1, "Locked").await.status, 202);
    assert_eq!(set(lock, 0, "Locked").await.status, 409, "locked: only ever longer");
    assert_eq!(set(lock, 1, "Unlocked").await.status, 409);
    cloud.admin("POST", "clock/advance", json!({"ms": 86_400_000_u64})).await;
    let cloud = cloud.signed_in().await;
    let policy = cloud.get(&path, IMMUTABLE).await["properties"]["immutabilityPolicy"].clone();
    assert_eq!(policy["isPolicyExpired"], true);
    cloud.ok("DELETE", &path, IMMUTABLE, Value::Null).await;
}
