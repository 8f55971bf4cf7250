//! One test per recorded sequence.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use azdr_arm::{
    ArmClient, AzureError, CopySpec, Disk, DiskSpec, ErrorClass, Operation, Progress, Snapshot,
    SnapshotSpec, Started, Vm,
};
use azdr_domain::ArmId;
use serde_json::{Value, json};

use crate::cassette::Cassette;

type Test = fn(Cassette) -> Pin<Box<dyn Future<Output = ()>>>;

/// Name, recording, test.
pub(crate) const ALL: &[(&str, &str, Test)] = &[
    ("a_disk_is_created_by_one_poll_and_one_get", SNAPSHOTS, |c| Box::pin(disk(c))),
    ("a_snapshot_is_created_without_a_further_get", SNAPSHOTS, |c| Box::pin(snapshot(c))),
    ("access_is_granted_and_revoked", SNAPSHOTS, |c| Box::pin(access(c))),
    ("a_snapshot_is_deleted", SNAPSHOTS, |c| Box::pin(delete_snapshot(c))),
    ("rate_limit_headers_do_not_stop_us", SNAPSHOTS, |c| Box::pin(counted(c))),
    ("a_copy_that_succeeded_has_barely_begun", COPY, |c| Box::pin(copy(c))),
    ("a_vm_is_created_with_201", VMS, |c| Box::pin(create_vm(c))),
    ("a_vm_put_with_200_and_no_header_is_awaited", VMS, |c| Box::pin(update_vm(c))),
    ("a_stale_etag_is_a_failed_precondition", VMS, |c| Box::pin(stale_vm(c))),
    ("a_vm_is_deleted", VMS, |c| Box::pin(delete_vm(c))),
    ("a_virtual_network_and_a_group_are_deleted", VMS, |c| Box::pin(delete_group(c))),
    ("a_missing_nic_is_not_found", NICS, |c| Box::pin(missing_nic(c))),
    ("a_nic_is_created_at_once_and_deleted_with_200_and_running", NICS, |c| Box::pin(nic(c))),
];

const SNAPSHOTS: &str = "compute-20.0.0.snapshots_and_sas.yaml";
const COPY: &str = "azure-cli.copystart-sequence.json";
const VMS: &str = "virtualmachineclient.AZURECLOUD.yaml";
const NICS: &str = "interfaceclient.AZURECLOUD.yaml";
const SUB: &str = "00000000-0000-0000-0000-000000000000";

fn disk_id() -> ArmId {
    ArmId::disk(SUB, "rgname", "disknamex66bb1115").unwrap()
}

fn snapshot_id() -> ArmId {
    ArmId::snapshot(SUB, "rgname", "snapshotx66bb1115").unwrap()
}

fn vm_id() -> ArmId {
    ArmId::virtual_machine(SUB, "aks-cit-VirtualMachine", "testResource").unwrap()
}

#[track_caller]
fn running(started: Result<Started, AzureError>) -> Operation {
    match started {
        Ok(Started::Running(operation)) => operation,
        other => panic!("not running: {other:?}"),
    }
}

/// Polls to the end, through the journal, and returns the value and the number of polls.
async fn finish(client: &ArmClient, mut operation: Operation) -> (Value, u32) {
    for polls in 1..20 {
        let journalled = serde_json::to_string(&operation).unwrap();
        operation = serde_json::from_str(&journalled).unwrap();
        match client.poll(&mut operation).await.unwrap() {
            Progress::Done(value) => return (value, polls),
            Progress::Running { poll_after } => azdr_env::sleep(poll_after).await,
        }
    }
    panic!("it does not end");
}

async fn disk(cassette: Cassette) {
    let (client, _) = cassette.client();
    let spec = DiskSpec::new("eastus", snapshot_id());
    let operation = running(client.begin_create_disk(&disk_id(), &spec).await);
    assert_eq!(client.poll_after(&operation), Duration::from_secs(1));
    let (value, polls) = finish(&client, operation).await;
    let disk = Disk::from_json(value);
    assert_eq!(polls, 1);
    assert_eq!(disk.id, Some(disk_id()));
    assert_eq!(disk.size_bytes, Some(214_748_364_800));
    assert_eq!(disk.unique_id.as_deref(), Some("bc0c7a22-bbe7-4983-9749-329440853860"));
    assert_eq!(disk.disk_state.as_deref(), Some("Unattached"));
}

async fn snapshot(cassette: Cassette) {
    let (client, player) = cassette.client();
    let spec = SnapshotSpec::new("eastus", disk_id());
    let operation = running(client.begin_create_snapshot(&snapshot_id(), &spec).await);
    let (value, _) = finish(&client, operation).await;
    let taken = Snapshot::from_json(value);
    assert_eq!(taken.source_unique_id.as_deref(), Some("bc0c7a22-bbe7-4983-9749-329440853860"));
    assert!(taken.time_created.is_some());
    // The recorded GET of the snapshot was not needed.
    assert_eq!(player.skip_to("GET", "/snapshots/snapshotx66bb1115", 200), 0);
    let read = client.get_snapshot(&snapshot_id()).await.unwrap();
    assert_eq!(read.unique_id, taken.unique_id);
    assert_eq!(read.incremental, Some(false));
    assert!(read.ready());
}

async fn access(cassette: Cassette) {
    let (client, _) = cassette.client();
    let sas = client.grant_access(&snapshot_id(), Duration::from_secs(1_800)).await.unwrap();
    let shown = format!("{sas:?}");
    assert!(shown.starts_with("Sas(https://md-") && shown.ends_with("/…)"), "{shown}");
    let revoked = running(client.begin_revoke_access(&snapshot_id()).await);
    assert_eq!(finish(&client, revoked).await, (Value::Null, 1));
}

async fn delete_snapshot(cassette: Cassette) {
    let (client, _) = cassette.client();
    let operation = running(client.begin_delete_snapshot(&snapshot_id()).await);
    assert_eq!(finish(&client, operation).await, (Value::Null, 1));
}

async fn counted(cassette: Cassette) {
    let (client, _) = cassette.client();
    let spec = SnapshotSpec::new("eastus", disk_id());
    let operation = running(client.begin_create_snapshot(&snapshot_id(), &spec).await);
    finish(&client, operation).await;
    let counters = client.counters();
    assert_eq!((counters.requests, counters.throttled), (2, 0));
}

async fn copy(cassette: Cassette) {
    let (client, _) = cassette.client();
    let group = |n| format!("cli_test_completion_percent{n}_00000{n}");
    let source = ArmId::snapshot(SUB, &group(1), "snapa").unwrap();
    let target = ArmId::snapshot(SUB, &group(2), "snapb").unwrap();
    let spec = CopySpec::new("eastus", source);
    let operation = running(client.begin_copy_snapshot(&target, &spec).await);
    let (value, polls) = finish(&client, operation).await;
    let copy = Snapshot::from_json(value);
    assert_eq!(polls, 2, "one poll said InProgress");
    assert_eq!(copy.provisioning_state.as_deref(), Some("Succeeded"));
    assert_eq!(copy.completion_percent, Some(0.0));
    assert!(!copy.ready());
}

async fn create_vm(cassette: Cassette) {
    let (client, player) = cassette.client();
    player.skip_to("PUT", "/virtualMachines/testResource", 201);
    let operation = running(client.begin_create_vm(&vm_id(), json!({})).await);
    assert_eq!(client.poll_after(&operation), Duration::from_secs(5));
    let (value, _) = finish(&client, operation).await;
    let vm = Vm::from_json(value);
    assert_eq!(vm.provisioning_state.as_deref(), Some("Succeeded"));
    assert_eq!(vm.size.as_deref(), Some("Standard_D2s_v3"));
    assert_eq!(vm.nics[0].name(), "nic1");
    assert_eq!(vm.os_disk.unwrap().name.as_deref(), Some("disk1"));
    assert!(vm.vm_id.is_some() && vm.etag.is_some());
}

async fn update_vm(cassette: Cassette) {
    let (client, player) = cassette.client();
    player.skip_to("PUT", "/virtualMachines/testResource", 200);
    let operation = running(client.begin_create_vm(&vm_id(), json!({})).await);
    let (value, _) = finish(&client, operation).await;
    assert_eq!(Vm::from_json(value).provisioning_state.as_deref(), Some("Succeeded"));
}

async fn stale_vm(cassette: Cassette) {
    let (client, player) = cassette.client();
    player.skip_to("PUT", "/virtualMachines/testResource", 412);
    let error = client.begin_create_vm(&vm_id(), json!({})).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::PreconditionFailed);
    assert!(!error.is_retryable());
}

async fn delete_vm(cassette: Cassette) {
    let (client, _) = cassette.client();
    let operation = running(client.begin_delete_vm(&vm_id()).await);
    assert_eq!(finish(&client, operation).await.0, Value::Null);
    let nic = ArmId::network_interface(SUB, "aks-cit-VirtualMachine", "nic1").unwrap();
    let operation = running(client.begin_delete_network_interface(&nic).await);
    assert_eq!(finish(&client, operation).await.0, Value::Null);
}

async fn delete_group(cassette: Cassette) {
    let (client, _) = cassette.client();
    let network = ArmId::virtual_network(SUB, "aks-cit-VirtualMachine", "vnet1").unwrap();
    let operation = running(client.begin_delete_virtual_network(&network).await);
    assert_eq!(finish(&client, operation).await.0, Value::Null);
    let operation = running(client.begin_delete_resource_group(&network.group()).await);
    assert_eq!(finish(&client, operation).await.0, Value::Null);
}

async fn missing_nic(cassette: Cassette) {
    let (client, _) = cassette.client();
    let id = ArmId::network_interface(SUB, "aks-cit-Interface", "testResourcenotfound").unwrap();
    let error = client.get_network_interface(&id).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::NotFound, "ResourceNotFound"));
}

async fn nic(cassette: Cassette) {
    let (client, _) = cassette.client();
    let id = ArmId::network_interface(SUB, "aks-cit-Interface", "testResource").unwrap();
    let started = client.begin_create_network_interface(&id, json!({})).await.unwrap();
    assert!(matches!(started, Started::Done(_)), "{started:?}");
    assert_eq!(client.get_network_interface(&id).await.unwrap().id, Some(id.clone()));
    let operation = running(client.begin_delete_network_interface(&id).await);
    assert_eq!(finish(&client, operation).await.0, Value::Null);
}
