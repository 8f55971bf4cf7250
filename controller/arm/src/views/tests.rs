use serde_json::json;

use super::*;

#[test]
fn a_copy_is_ready_only_at_a_hundred_percent_without_error() {
    let copy = |percent: Value, error: Value| {
        Snapshot::from_json(json!({"properties": {
            "creationData": {"createOption": "CopyStart"}, "provisioningState": "Succeeded",
            "completionPercent": percent, "copyCompletionError": error}}))
    };
    assert!(!copy(json!(0.0), Value::Null).ready());
    assert!(!copy(json!(99.9), Value::Null).ready());
    assert!(copy(json!(100), Value::Null).ready());
    assert!(!copy(Value::Null, Value::Null).ready(), "the output of its operation proves nothing");
    let dead = copy(json!(40), json!({"errorCode": "CopySourceNotFound", "errorMessage": "gone"}));
    assert!(!dead.ready());
    assert_eq!(dead.copy_error.unwrap().code, "CopySourceNotFound");
}

#[test]
fn a_snapshot_is_ready_when_it_is_provisioned_and_accessible() {
    let snapshot = |properties: Value| Snapshot::from_json(json!({"properties": properties}));
    assert!(snapshot(json!({"provisioningState": "Succeeded"})).ready());
    assert!(!snapshot(json!({"provisioningState": "Updating"})).ready());
    assert!(!snapshot(json!({})).ready());
    let state = |state| json!({"provisioningState": "Succeeded", "snapshotAccessState": state});
    assert!(!snapshot(state("Pending")).ready());
    assert!(!snapshot(state("InstantAccess")).ready());
    assert!(snapshot(state("AvailableWithInstantAccess")).ready());
}

#[test]
fn views_bear_unknown_and_missing_parts() {
    let odd = json!({"id": 7, "name": null, "tags": {"a": "b", "n": 1}, "zones": "1",
        "properties": {"timeCreated": "no date", "provisioningState": "New", "osType": "Plan9",
            "storageProfile": {"osDisk": null, "dataDisks": [{"lun": -1}, {"lun": 3, "x": {}}]},
            "instanceView": {"statuses": [{}, {"code": "PowerState/hibernated"}]}}});
    let vm = Vm::from_json(odd.clone());
    assert_eq!(vm.id, None);
    assert_eq!(vm.tags, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    assert_eq!(vm.power_state, Some(PowerState::Other("hibernated".to_owned())));
    assert_eq!(vm.data_disks.iter().map(|d| d.lun).collect::<Vec<_>>(), [None, Some(3)]);
    assert_eq!(Disk::from_json(odd.clone()).os_type.as_deref(), Some("Plan9"));
    assert_eq!(Snapshot::from_json(odd).time_created, None);
    Vm::from_json(Value::Null);
    Disk::from_json(json!([]));
    assert!(NetworkInterface::from_json(Value::Null).private_ip.is_none());
}

#[test]
fn a_disk_without_bytes_is_measured_by_its_gibibytes() {
    let disk = Disk::from_json(json!({"properties": {"diskSizeGB": 200}}));
    assert_eq!(disk.size_bytes, Some(214_748_364_800));
}

#[test]
fn the_primary_interface_comes_first() {
    let nic = |name| {
        format!(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/{name}"
        )
    };
    let vm = Vm::from_json(json!({"properties": {"networkProfile": {"networkInterfaces": [
        {"id": nic("a"), "properties": {"primary": false}},
        {"id": nic("b"), "properties": {"primary": true}}]}}}));
    let names: Vec<_> = vm.nics.iter().map(ArmId::name).collect();
    assert_eq!(names, ["b", "a"]);
}

#[test]
fn views_survive_the_journal() {
    let snapshot = Snapshot::from_json(json!({"name": "x", "properties": {
        "timeCreated": "2021-04-06T03:59:28.9612345+00:00", "completionPercent": 12.5}}));
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
}
