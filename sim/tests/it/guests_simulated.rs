//! Simulated machines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Env, sleep};
use azure_sim::Simulator;
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::guests::Guests;
use azure_sim::guests::simulated::{
    BOOTABLE, Consistency, DATA, GuestError, PowerEvent, SSH_SERVER, SimulatedGuests,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::cloud::*;

/// The world of the other tests, with machines that boot.
fn description() -> Value {
    let mut world = world();
    let os = json!({"name": "web-os", "size_bytes": 8 << 20, "files": {BOOTABLE: "elf"}});
    world["vms"][0]["os_disk"] = os;
    world
}

async fn lab() -> (Cloud, SimulatedGuests, String) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::simulated(1);
    let guests = SimulatedGuests::new(env.clone());
    let config = Config { blocking: Blocking::Inline, ..Config::fast("/nonexistent") };
    let description = serde_json::from_value(description()).unwrap();
    let behind = Arc::new(guests.clone());
    let simulator =
        Simulator::in_memory(config, &description, dir.path(), env.clone(), behind).unwrap();
    let cloud = Cloud::around(simulator, dir, env, Limits::default()).signed_in().await;
    let vm_id = guests.machines()[0].vm_id.clone();
    (cloud, guests, vm_id)
}

/// Snapshots of the OS disk and of the disk that the data is on, one after the other; their unique
/// ids.
async fn snapshots(cloud: &Cloud, of: &str) -> [String; 2] {
    let (os, data) = (format!("{of}-os"), format!("{of}-data"));
    cloud.snapshot(&os, "web-os").await;
    cloud.snapshot(&data, "web-logs").await;
    [unique_id(cloud, &os).await, unique_id(cloud, &data).await]
}

async fn unique_id(cloud: &Cloud, snapshot: &str) -> String {
    let snapshot = cloud.get(&snapshot_path("prod", snapshot), DISKS).await;
    snapshot["properties"]["uniqueId"].as_str().unwrap().to_owned()
}

fn check(guests: &SimulatedGuests, disks: &[String]) -> Consistency {
    guests.check(disks.iter().map(String::as_str))
}

#[tokio::test(start_paused = true)]
async fn unfrozen_snapshots_of_two_disks_are_torn_and_frozen_ones_are_not() {
    let (cloud, guests, vm) = lab().await;
    let torn = snapshots(&cloud, "torn").await;
    assert!(matches!(check(&guests, &torn), Consistency::Torn { .. }));
    guests.freeze(&vm).unwrap();
    let whole = snapshots(&cloud, "whole").await;
    guests.thaw(&vm).unwrap();
    let Consistency::Holds { records } = check(&guests, &whole) else { panic!("torn") };
    // Ten milliseconds a step, two steps a record, and a minute has passed.
    assert!((3000..3100).contains(&records), "{records}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(check(&guests, &whole), Consistency::Holds { records }, "a snapshot never changes");
    let mixed = [whole[0].clone(), torn[1].clone()];
    assert!(matches!(check(&guests, &mixed), Consistency::Torn { .. }));
}

#[tokio::test(start_paused = true)]
async fn even_at_one_instant_of_the_clock_unfrozen_snapshots_are_torn() {
    let (cloud, guests, _) = lab().await;
    let put = async |name: &str, disk: &str| {
        let body = json!({"location": "eastus", "properties": {"incremental": true,
            "creationData": {"createOption": "Copy", "sourceResourceId": disk_id(disk)}}});
        assert_eq!(cloud.arm("PUT", &snapshot_path("prod", name), DISKS, body).await.status, 202);
    };
    put("a", "web-os").await;
    put("b", "web-logs").await;
    let set = [unique_id(&cloud, "a").await, unique_id(&cloud, "b").await];
    assert!(matches!(check(&guests, &set), Consistency::Torn { .. }));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_frozen() {
    let (_cloud, guests, vm) = lab().await;
    guests.write_file(&vm, "/mnt/lun0/witness", "one".into()).unwrap();
    guests.freeze(&vm).unwrap();
    let data = guests.read_file(&vm, &format!("/mnt/lun3{DATA}")).unwrap().unwrap();
    sleep(Duration::from_secs(7)).await;
    let refused = guests.write_file(&vm, "/mnt/lun0/witness", "two".into());
    assert!(matches!(refused, Err(GuestError::Frozen(_))));
    assert!(matches!(guests.freeze(&vm), Err(GuestError::Frozen(_))));
    let later = guests.read_file(&vm, &format!("/mnt/lun3{DATA}")).unwrap().unwrap();
    assert_eq!(data, later);
    let machine = guests.machine(&vm).unwrap();
    assert!(guests.is_frozen(&vm));
    assert_eq!(machine.frozen, Some(Duration::from_secs(7)));
    assert_eq!(guests.thaw(&vm).unwrap(), Duration::from_secs(7));
    assert!(matches!(guests.thaw(&vm), Err(GuestError::NotFrozen(_))));
    sleep(Duration::from_secs(1)).await;
    assert_ne!(data, guests.read_file(&vm, &format!("/mnt/lun3{DATA}")).unwrap().unwrap());
    assert_eq!(guests.read_file(&vm, "/mnt/lun0/witness").unwrap().unwrap(), "one");
    let machine = guests.machine(&vm).unwrap();
    assert_eq!((machine.frozen, machine.longest_freeze), (None, Some(Duration::from_secs(7))));
}

#[tokio::test(start_paused = true)]
async fn a_restored_machine_has_what_its_disks_had_and_comes_up_with_it() {
    let (cloud, guests, vm) = lab().await;
    let mut events = guests.power_events();
    assert!(matches!(events.recv().await, Some(PowerEvent::Up(up)) if up.vm_id == vm));
    guests.write_file(&vm, "/etc/witness", "nonce".into()).unwrap();
    guests.freeze(&vm).unwrap();
    let set = snapshots(&cloud, "s").await;
    guests.thaw(&vm).unwrap();
    guests.write_file(&vm, "/etc/witness", "later".into()).unwrap();
    sleep(Duration::from_secs(60)).await;
    cloud.disk_from("new-os", "s-os").await;
    cloud.disk_from("new-data", "s-data").await;
    let nic =
        format!("{}/providers/Microsoft.Network/networkInterfaces/new", "/resourceGroups/prod");
    let subnet = cloud
        .get("/resourceGroups/prod/providers/Microsoft.Network/virtualNetworks", NETWORKS)
        .await;
    let subnet = &subnet["value"][0]["properties"]["subnets"][0]["id"];
    let body = json!({"location": "eastus", "properties": {"ipConfigurations": [{"name": "ip", "properties": {"subnet": {"id": subnet}}}]}});
    cloud.ok("PUT", &nic, NETWORKS, body).await;
    let body = json!({"location": "eastus", "properties": {
        "hardwareProfile": {"vmSize": "Standard_D2s_v3"},
        "storageProfile": {
            "osDisk": {"createOption": "Attach", "osType": "Linux", "managedDisk": {"id": disk_id("new-os")}},
            "dataDisks": [{"lun": 1, "createOption": "Attach", "managedDisk": {"id": disk_id("new-data")}}],
        },
        "networkProfile": {"networkInterfaces": [{"id": format!("/subscriptions/{SUBSCRIPTION}{nic}")}]},
    }});
    let path = "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/restored";
    cloud.ok("PUT", path, VMS, body).await;
    let Some(PowerEvent::Up(restored)) = events.recv().await else { panic!("it is not up") };
    assert_eq!(restored.name, "restored");
    assert!(!restored.torn);
    assert_eq!(guests.read_file(&restored.vm_id, "/etc/witness").unwrap().unwrap(), "nonce");
    assert!(matches!(check(&guests, &set), Consistency::Holds { .. }));
    cloud.ok("POST", &format!("{path}/restart"), VMS, Value::Null).await;
    let down =
        PowerEvent::Down { vm_id: restored.vm_id.clone(), boot_id: restored.boot_id.clone() };
    assert_eq!(events.recv().await, Some(down));
    let Some(PowerEvent::Up(again)) = events.recv().await else { panic!("it is not up") };
    assert_ne!(again.boot_id, restored.boot_id);
    cloud.ok("POST", &format!("{path}/deallocate"), VMS, Value::Null).await;
    assert!(
        matches!(events.recv().await, Some(PowerEvent::Down { boot_id, .. }) if boot_id == again.boot_id)
    );
    assert_eq!(guests.machines().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_bootable_os_disk_runs_and_never_comes_up() {
    let (cloud, guests, vm) = lab().await;
    guests.remove_file(&vm, BOOTABLE).unwrap();
    cloud.ok("POST", &format!("{WEB}/restart"), VMS, Value::Null).await;
    assert_eq!(guests.machines(), []);
    let view = cloud.get(&format!("{WEB}/instanceView"), VMS).await;
    assert_eq!(view["statuses"][1]["code"], "PowerState/running");
    let logs =
        cloud.arm("POST", &format!("{WEB}/retrieveBootDiagnosticsData"), VMS, Value::Null).await;
    let log = cloud.url("GET", logs.body["serialConsoleLogBlobUri"].as_str().unwrap()).await;
    assert!(String::from_utf8_lossy(&log.bytes).contains("No bootable device."));
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_files_are_gone_restarts_itself_into_nothing() {
    let (cloud, guests, vm) = lab().await;
    let at = |what: &str| format!("guests/{vm}/{what}");
    guests.write_file(&vm, "/mnt/lun3/kept", "x".into()).unwrap();
    let first = guests.machines()[0].boot_id.clone();
    assert_eq!(cloud.admin("POST", &at("reboot"), Value::Null).await.status, 204);
    assert_ne!(guests.machines()[0].boot_id, first);
    assert_eq!(cloud.admin("DELETE", &at("file?path=/"), Value::Null).await.status, 204);
    assert!(guests.read_file(&vm, "/mnt/lun3/kept").unwrap().is_some(), "another disk");
    assert_eq!(cloud.admin("POST", &at("reboot"), Value::Null).await.status, 204);
    assert_eq!(guests.machines(), []);
    assert_eq!(cloud.admin("POST", &at("reboot"), Value::Null).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_shared_access_signature_reads_the_tree_at_the_disks_size() {
    let (cloud, guests, _) = lab().await;
    cloud.snapshot("s", "web-os").await;
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    let sas = format!("{}/beginGetAccess", snapshot_path("prod", "s"));
    let granted = cloud.arm("POST", &sas, DISKS, grant).await;
    let record = cloud.done(&granted).await;
    let url = record["properties"]["output"]["accessSAS"].as_str().unwrap();
    let all = cloud.url("GET", url).await;
    assert_eq!(all.bytes.len(), (8 << 20) + 512);
    let tree = azure_sim::guests::simulated::Tree::from_bytes(&all.bytes).unwrap();
    assert_eq!(guests.tree(&unique_id(&cloud, "s").await), Some(tree));
}

#[tokio::test(start_paused = true)]
async fn another_process_can_play_the_agent() {
    let (cloud, guests, vm) = lab().await;
    let at = |what: &str| format!("guests/{vm}/{what}");
    let put = cloud.admin("PUT", &at("file?path=/mnt/lun3/witness"), json!("nonce")).await;
    assert_eq!(put.status, 204);
    assert_eq!(cloud.admin("POST", &at("freeze"), Value::Null).await.status, 204);
    let set = snapshots(&cloud, "s").await;
    let listed = cloud.admin("GET", "guests", Value::Null).await.body;
    assert!(listed[0]["frozen_ms"].is_u64());
    assert_eq!(listed[0]["disks"][2]["mount_point"], "/mnt/lun3");
    let late = cloud.admin("PUT", &at("file?path=/mnt/lun3/witness"), json!("x")).await;
    assert_eq!((late.status, late.code()), (409, "Frozen"));
    assert_eq!(cloud.admin("POST", &at("thaw"), Value::Null).await.status, 200);
    let read = cloud.admin("GET", &at("file?path=/mnt/lun3/witness"), Value::Null).await;
    assert_eq!(read.bytes, "\"nonce\"");
    let checked = cloud.admin("POST", "guests/check", json!({"disks": set})).await.body;
    assert_eq!(checked["holds"], true, "{checked}");
    assert_eq!(cloud.admin("POST", "guests/none/thaw", Value::Null).await.status, 404);
    assert!(!guests.is_frozen(&vm));
}

#[tokio::test(start_paused = true)]
async fn durable_disks_survive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::simulated(1);
    let state = dir.path().join("state");
    let description = serde_json::from_value(description()).unwrap();
    azure_sim::init(&state, &description, dir.path(), &env).unwrap();
    let open = || {
        let guests = SimulatedGuests::new(env.clone());
        let config = Config {
            blocking: Blocking::Inline,
            durability: Durability::Written,
            ..Config::fast(&state)
        };
        let simulator = Simulator::open(config, env.clone(), Arc::new(guests.clone())).unwrap();
        (simulator, guests)
    };
    let (simulator, guests) = open();
    simulator.start().await;
    let vm = guests.machines()[0].clone();
    let copy = tempfile::tempdir().unwrap();
    let cloud = Cloud::around(simulator, copy, env.clone(), Limits::default()).signed_in().await;
    guests.freeze(&vm.vm_id).unwrap();
    let set = snapshots(&cloud, "s").await;
    guests.thaw(&vm.vm_id).unwrap();
    guests.write_file(&vm.vm_id, "/mnt/lun0/witness", "kept".into()).unwrap();
    let whole = check(&guests, &set);
    sleep(Duration::from_secs(10)).await;
    // No shutting down: as if killed.
    drop((cloud, guests));
    let (simulator, guests) = open();
    simulator.start().await;
    let again = guests.machine(&vm.vm_id).unwrap();
    assert!(again.boot_id != vm.boot_id && !again.torn);
    assert_eq!(guests.read_file(&vm.vm_id, "/mnt/lun0/witness").unwrap().unwrap(), "kept");
    assert_eq!(check(&guests, &set), whole);
    assert!(matches!(whole, Consistency::Holds { .. }));
}

/// What answers at an address, once something does.
async fn banner(at: (&str, u16)) -> String {
    let mut caller = loop {
        match TcpStream::connect(at).await {
            Ok(caller) => break caller,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    };
    let mut said = String::new();
    caller.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn a_machine_with_a_public_address_answers_there_while_it_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system();
    let guests = SimulatedGuests::reachable(env.clone());
    // A port that is free on loopback; the machine has an address of its own there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let limits = Limits { guest_ports: vec![port], ..Limits::default() };
    let config = Config { limits: limits.clone(), ..Config::fast("/nonexistent") };
    let mut description = description();
    description["ssh_port"] = json!(port);
    description["vms"][0]["os_disk"]["files"][SSH_SERVER] = json!("");
    let description = serde_json::from_value(description).unwrap();
    let behind = Arc::new(guests.clone());
    let simulator =
        Simulator::in_memory(config, &description, dir.path(), env.clone(), behind).unwrap();
    simulator.start().await;
    let cloud = Cloud::around(simulator, dir, env, limits);
    let all = cloud.admin("GET", "resources", Value::Null).await.body;
    let all = all["resources"].as_array().unwrap();
    let address = all.iter().find_map(|r| r["reachable_at"][0].as_str()).unwrap();
    let at = (address.split(':').next().unwrap(), port);
    assert_eq!(banner(at).await, "SSH-2.0-azure_sim\r\n");
    // It restarts by itself, and is there again.
    let vm_id = guests.machines()[0].vm_id.clone();
    guests.reboot(&vm_id).unwrap();
    assert_eq!(banner(at).await, "SSH-2.0-azure_sim\r\n");
    guests.power_off(&vm_id).await.unwrap();
    // The listener goes with its task.
    tokio::task::yield_now().await;
    assert!(TcpStream::connect(at).await.is_err(), "something answers for a machine that is off");
}
