//! Virtual machines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use serde_json::{Value, json};

use crate::cloud::*;

async fn power(cloud: &Cloud, vm: &str) -> String {
    let view = cloud.get(&format!("{vm}/instanceView"), VMS).await;
    view["statuses"][1]["code"].as_str().unwrap().to_owned()
}

async fn etag(cloud: &Cloud) -> String {
    cloud.get(WEB, VMS).await["etag"].as_str().unwrap().to_owned()
}

async fn patch_if(cloud: &Cloud, etag: &str, body: Value) -> Answer {
    let url =
        format!("https://management.azure.com/subscriptions/{SUBSCRIPTION}{WEB}?api-version={VMS}");
    cloud.send("PATCH", &url, &[("if-match", etag)], body).await
}

#[tokio::test(start_paused = true)]
async fn a_change_with_a_stale_etag_is_refused() {
    let cloud = Cloud::new().await;
    let old = etag(&cloud).await;
    let change = patch_if(&cloud, &old, json!({"tags": {"n": "1"}})).await;
    assert_eq!(change.status, 200);
    cloud.done(&change).await;
    let stale = patch_if(&cloud, &old, json!({"tags": {"n": "2"}})).await;
    assert_eq!((stale.status, stale.code()), (412, "PreconditionFailed"));
    assert!(stale.body["error"]["message"].as_str().unwrap().contains("does not match etag"));
    assert_ne!(etag(&cloud).await, old);
}

#[tokio::test(start_paused = true)]
async fn the_os_disk_is_swapped_for_one_of_the_same_size_only() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("new-os", "s").await;
    let big = json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 32}});
    cloud.ok("PUT", &disk_path("big"), DISKS, big).await;
    let swap = |name: &str| {
        json!({"properties": {"storageProfile": {"osDisk": {"name": name, "createOption": "Attach",
            "managedDisk": {"id": disk_id(name)}}}}})
    };
    let refused = cloud.arm("PATCH", WEB, VMS, swap("big")).await;
    assert_eq!(refused.status, 409);
    cloud.ok("POST", &format!("{WEB}/powerOff"), VMS, Value::Null).await;
    cloud.ok("PATCH", WEB, VMS, swap("new-os")).await;
    let vm = cloud.get(WEB, VMS).await;
    assert_eq!(vm["properties"]["storageProfile"]["osDisk"]["name"], "new-os");
    assert_eq!(vm["properties"]["storageProfile"]["dataDisks"].as_array().unwrap().len(), 2);
    let old = cloud.get(&disk_path("web-os"), DISKS).await;
    assert_eq!(old["properties"]["diskState"], "Unattached");
    assert!(old.get("managedBy").is_none());
    let new = cloud.get(&disk_path("new-os"), DISKS).await;
    assert!(new["managedBy"].as_str().unwrap().contains("/resourceGroups/PROD/"));
    cloud.ok("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    assert_eq!(power(&cloud, WEB).await, "PowerState/running");
}

#[tokio::test(start_paused = true)]
async fn data_disks_that_are_left_out_are_detached() {
    let cloud = Cloud::new().await;
    let keep = json!({"properties": {"storageProfile": {"dataDisks": [
        {"lun": 3, "createOption": "Attach", "managedDisk": {"id": disk_id("web-logs")}}]}}});
    cloud.ok("PATCH", WEB, VMS, keep).await;
    let vm = cloud.get(WEB, VMS).await;
    let disks = vm["properties"]["storageProfile"]["dataDisks"].as_array().unwrap();
    assert_eq!(disks.len(), 1);
    assert_eq!((&disks[0]["name"], &disks[0]["lun"]), (&json!("web-logs"), &json!(3)));
    let detached = cloud.get(&disk_path("web-data"), DISKS).await;
    assert_eq!(detached["properties"]["diskState"], "Unattached");
}

fn vm_body(os: &str, nic: &str) -> Value {
    json!({
        "location": "eastus",
        "tags": {"drill": "yes"},
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
            "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux",
                "deleteOption": "Delete", "managedDisk": {"id": disk_id(os)}}},
            "networkProfile": {"networkInterfaces": [{"id": nic, "properties": {"deleteOption": "Delete"}}]},
        },
    })
}

const NETWORK: &str = "/resourceGroups/prod/providers/Microsoft.Network";

async fn nic(cloud: &Cloud, name: &str) -> String {
    let address = json!({"location": "eastus", "sku": {"name": "Standard"}, "properties": {"publicIPAllocationMethod": "Static"}});
    let ip = format!("{NETWORK}/publicIPAddresses/{name}-ip");
    cloud.ok("PUT", &ip, NETWORKS, address).await;
    let subnet = format!(
        "/subscriptions/{SUBSCRIPTION}{NETWORK}/virtualNetworks/prod-eastus-vnet/subnets/default"
    );
    let body = json!({"location": "eastus", "properties": {"ipConfigurations": [{"name": "one", "properties": {
        "subnet": {"id": subnet},
        "publicIPAddress": {"id": format!("/subscriptions/{SUBSCRIPTION}{ip}"), "properties": {"deleteOption": "Delete"}},
    }}]}});
    let made =
        cloud.ok("PUT", &format!("{NETWORK}/networkInterfaces/{name}"), NETWORKS, body).await;
    assert_eq!(
        (made.status, &made.body["properties"]["provisioningState"]),
        (201, &json!("Succeeded"))
    );
    made.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_made_from_a_restored_disk_and_takes_with_it_what_it_should() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("drill-os", "s").await;
    let nic = nic(&cloud, "drill-nic").await;
    let path = "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/drill";
    let taken = cloud.arm("PUT", path, VMS, vm_body("web-os", &nic)).await;
    assert_eq!((taken.status, taken.code()), (409, "ConflictingUserInput"));
    let created = cloud.arm("PUT", path, VMS, vm_body("drill-os", &nic)).await;
    assert_eq!(
        (created.status, &created.body["properties"]["provisioningState"]),
        (201, &json!("Creating"))
    );
    assert_eq!(created.header("etag"), Some("\"1\""));
    assert!(
        created.header("azure-asyncoperation").is_some() && created.header("location").is_none()
    );
    cloud.done(&created).await;
    let vm = cloud.get(path, VMS).await;
    assert_eq!(vm["etag"], "\"2\"");
    assert_ne!(vm["properties"]["vmId"], cloud.get(WEB, VMS).await["properties"]["vmId"]);
    assert_eq!(power(&cloud, path).await, "PowerState/running");

    let nic_path = format!("{NETWORK}/networkInterfaces/drill-nic");
    let in_use = cloud.arm("DELETE", &nic_path, NETWORKS, Value::Null).await;
    assert_eq!((in_use.status, in_use.code()), (400, "NicInUse"));
    cloud.ok("DELETE", path, VMS, Value::Null).await;
    for (path, version) in [
        (disk_path("drill-os"), DISKS),
        (nic_path, NETWORKS),
        (format!("{NETWORK}/publicIPAddresses/drill-nic-ip"), NETWORKS),
    ] {
        assert_eq!(cloud.arm("GET", &path, version, Value::Null).await.status, 404, "{path}");
    }
    // The first VM's deleteOption is the default: its disks stay.
    cloud.ok("DELETE", WEB, VMS, Value::Null).await;
    assert_eq!(
        cloud.get(&disk_path("web-os"), DISKS).await["properties"]["diskState"],
        "Unattached"
    );
}

#[tokio::test(start_paused = true)]
async fn allocation_can_fail_on_start_and_the_vm_stays_deallocated() {
    let cloud = Cloud::new().await;
    cloud.ok("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
    assert_eq!(power(&cloud, WEB).await, "PowerState/deallocated");
    let vm = cloud.get(WEB, VMS).await;
    assert!(vm["properties"]["storageProfile"]["osDisk"].get("diskSizeGB").is_none());
    cloud.faults(json!([{"action": {"capacity_gone": {"region": "eastus"}}}])).await;
    let start = cloud.arm("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    assert_eq!(start.status, 202);
    let record = cloud.done(&start).await;
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("Failed"), &json!("AllocationFailed"))
    );
    assert_eq!(power(&cloud, WEB).await, "PowerState/deallocated");
    cloud.faults(json!([])).await;
    cloud.ok("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    assert_eq!(power(&cloud, WEB).await, "PowerState/running");
}

#[tokio::test(start_paused = true)]
async fn allocation_can_fail_on_create_and_the_vm_is_there_all_the_same() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("drill-os", "s").await;
    let nic = nic(&cloud, "drill-nic").await;
    let path = "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/drill";
    cloud.faults(json!([{"action": {"capacity_gone": {"region": "eastus"}}}])).await;
    // Accepted: it is the operation that fails.
    let create = cloud.arm("PUT", path, VMS, vm_body("drill-os", &nic)).await;
    assert_eq!(create.status, 201);
    let record = cloud.done(&create).await;
    assert_eq!(
        (&record["status"], &record["error"]["code"]),
        (&json!("Failed"), &json!("AllocationFailed"))
    );
    // Whoever gives up has a VM to delete, and a disk that it holds.
    let vm = cloud.get(path, VMS).await;
    assert_eq!(vm["properties"]["provisioningState"], "Failed");
    let disk = cloud.get(&disk_path("drill-os"), DISKS).await;
    assert!(disk["managedBy"].is_string(), "{disk}");
    cloud.faults(json!([])).await;
    cloud.ok("DELETE", path, VMS, Value::Null).await;
    assert_eq!(cloud.arm("GET", path, VMS, Value::Null).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn deleting_an_interface_answers_with_both_headers_and_no_body() {
    let cloud = Cloud::new().await;
    nic(&cloud, "lone").await;
    let path = format!("{NETWORK}/networkInterfaces/lone");
    let deleted = cloud.arm("DELETE", &path, NETWORKS, Value::Null).await;
    // Azure was seen to answer 200 and 202; either way there is an operation to wait for.
    assert!(matches!(deleted.status, 200 | 202), "{deleted:?}");
    assert!(deleted.bytes.is_empty());
    assert!(deleted.header("azure-asyncoperation").unwrap().contains("/operations/"));
    assert!(deleted.header("location").unwrap().contains("/operationResults/"));
    // The network's operations say nothing but how they stand.
    assert_eq!(cloud.done(&deleted).await, json!({"status": "Succeeded"}));
    assert_eq!(cloud.arm("GET", &path, NETWORKS, Value::Null).await.status, 404);
    assert_eq!(cloud.arm("DELETE", &path, NETWORKS, Value::Null).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn stopping_overtakes_starting_and_starting_waits() {
    let cloud = Cloud::new().await;
    cloud.ok("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
    let start = cloud.arm("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    let stop = cloud.arm("POST", &format!("{WEB}/powerOff"), VMS, Value::Null).await;
    let early = cloud.arm("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    assert_eq!((early.status, early.code()), (409, "AnotherOperationInProgress"));
    assert_eq!(cloud.done(&start).await["error"]["code"], "OperationPreempted");
    assert_eq!(cloud.done(&stop).await["status"], "Succeeded");
    assert_eq!(power(&cloud, WEB).await, "PowerState/stopped");
}

#[tokio::test(start_paused = true)]
async fn a_public_address_is_a_way_in_as_far_as_security_groups_permit() {
    let cloud = Cloud::new().await;
    let ways = async || {
        let listing = cloud.admin("GET", "resources", Value::Null).await.body;
        let all = listing["resources"].as_array().unwrap().clone();
        all.into_iter().find(|r| r["vm_id"].is_string()).unwrap()["reachable_at"].clone()
    };
    let open = ways().await;
    let [way] = open.as_array().unwrap().as_slice() else { panic!("one way in, not {open}") };
    let way = way.as_str().unwrap();
    assert!(way.starts_with("127.") && way.ends_with(".1:22"), "{way}");
    let group = format!("{NETWORK}/networkSecurityGroups/prod-eastus-nsg");
    cloud
        .ok(
            "PUT",
            &group,
            NETWORKS,
            json!({"location": "eastus", "properties": {"securityRules": []}}),
        )
        .await;
    assert_eq!(ways().await, json!([]));
}

#[tokio::test(start_paused = true)]
async fn more_vms_than_the_quota_are_refused_with_409() {
    let limits = azure_sim::config::Limits { vms_per_region: Some(1), ..Default::default() };
    let cloud = Cloud::with(limits).await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("new-os", "s").await;
    let nic = nic(&cloud, "new-nic").await;
    let body = json!({"location": "eastus", "properties": {
        "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
        "storageProfile": {"osDisk": {
            "createOption": "Attach", "osType": "Linux", "managedDisk": {"id": disk_id("new-os")}}},
        "networkProfile": {"networkInterfaces": [{"id": nic}]},
    }});
    let new = WEB.replace("/web", "/new");
    let refused = cloud.arm("PUT", &new, VMS, body.clone()).await;
    assert_eq!((refused.status, refused.code()), (409, "OperationNotAllowed"));
    assert!(refused.body["error"]["message"].as_str().is_some_and(|m| m.contains("quota")));
    cloud.ok("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await;
    cloud.ok("PUT", &new, VMS, body).await;
    let start = cloud.arm("POST", &format!("{WEB}/start"), VMS, Value::Null).await;
    assert_eq!((start.status, start.code()), (409, "OperationNotAllowed"));
}
