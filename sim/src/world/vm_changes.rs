//! Changes to a VM: tags, size, disks, the OS disk.
//!
//! `dataDisks` is a whole: a disk that is not in it is detached. The OS disk is swapped by naming
//! another one of the same size. Everything is checked before anything changes, and `If-Match`
//! before that.

use std::collections::BTreeSet;

use azdr_env::WallTime;
use serde_json::{Map, Value};

use super::operations::{Effect, Work};
use super::state::{Attachment, Common, Power, Vm, provisioning};
use super::tags::{Tags, checked_tags};
use super::vms::{Wanted, attachment, managed_disk_id};
use super::volume::gib;
use super::{Accepted, ArmError, ArmId, Injected, World};
use crate::latency::Action;

impl World {
    /// Changes a VM. `whole`: the request is a PUT. Without any change (PUT only) there is no
    /// operation to poll, yet the VM is `Updating` for a while.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn change_vm(
        &mut self,
        id: &ArmId,
        body: Map<String, Value>,
        if_match: Option<&str>,
        whole: bool,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let before = self.vm(id)?.clone();
        check_etag(&before, if_match)?;
        if !self.pending_on(id).is_empty() {
            return Err(busy(id));
        }
        let wanted = Wanted::read(body)?;
        let after = self.changed(&before, wanted, whole, now)?;
        let unchanged = after == before;
        let disks_changed =
            after.disks.iter().map(|a| &a.disk).ne(before.disks.iter().map(|a| &a.disk));
        let running = matches!(before.power, Power::Running);
        let work = if running && disks_changed {
            vec![Work::PowerOff(before.vm_id.clone()), Work::Start(id.clone())]
        } else {
            Vec::new()
        };
        if injected.fail_operation.is_none() {
            self.take_disks_and_nics(Some(&before), &after);
            self.state.vms.insert(id.key(), after);
        }
        if let Some(vm) = self.state.vms.get_mut(&id.key()) {
            vm.etag += 1;
            vm.common.provisioning = provisioning::UPDATING.into();
        }
        let effect = Effect::Ready(id.clone());
        let operation = self.begin_vm(id, Action::VmUpdate, effect, work, injected, now);
        let visible = !(whole && unchanged);
        Ok(Accepted { operation: visible.then_some(operation), created: false, joined: false })
    }

    fn changed(
        &self,
        before: &Vm,
        wanted: Wanted,
        whole: bool,
        now: WallTime,
    ) -> Result<Vm, ArmError> {
        let mut vm = before.clone();
        if let Some(location) = &wanted.location
            && self.region(location)? != vm.common.location
        {
            return Err(ArmError::conflict(
                "InvalidResourceLocation",
                format!(
                    "The resource '{}' already exists in location '{}'.",
                    vm.common.id.name, vm.common.location
                ),
            ));
        }
        if let Some(tags) = wanted.tags {
            vm.common.tags = checked_tags(tags)?;
        } else if whole {
            vm.common.tags = Tags::new();
        }
        if let Some(os_disk) = &wanted.os_disk {
            vm.disks[0] = self.os_attachment(before, os_disk, now)?;
        }
        if let Some(entries) = &wanted.data_disks {
            let data = self.data_attachments(entries, &before.disks[1..], &before.common, now)?;
            vm.disks.truncate(1);
            vm.disks.extend(data);
        }
        if let Some(nics) = wanted.nics {
            if nics.is_empty() {
                return Err(ArmError::invalid(
                    "Virtual Machine must have at least one network interface.",
                ));
            }
            for nic in &nics {
                self.check_nic(&nic.nic, &vm.common)?;
            }
            let changes = nics.iter().map(|n| &n.nic).ne(vm.nics.iter().map(|n| &n.nic));
            if changes && before.power != Power::Deallocated {
                return Err(ArmError::not_allowed(
                    "Network interfaces can be added or removed only while the VM is deallocated.",
                ));
            }
            vm.nics = nics;
        }
        merge(&mut vm.top, wanted.top);
        merge(&mut vm.properties, wanted.properties);
        merge(&mut vm.storage, wanted.storage);
        Ok(vm)
    }

    /// The OS disk after the change.
    fn os_attachment(
        &self,
        vm: &Vm,
        entry: &Map<String, Value>,
        now: WallTime,
    ) -> Result<Attachment, ArmError> {
        let before = &vm.disks[0];
        let id = managed_disk_id(entry)?.unwrap_or_else(|| before.disk.clone());
        if let Some(name) = entry.get("name").and_then(Value::as_str)
            && !name.eq_ignore_ascii_case(&id.name)
        {
            return Err(ArmError::invalid(format!(
                "The value '{name}' of 'osDisk.name' does not match the name '{}' of the managed disk.",
                id.name
            )));
        }
        if id == before.disk {
            return Ok(attachment(before.disk.clone(), None, entry, Some(before)));
        }
        let disk = self.check_attachable(&id, &vm.common, now)?;
        if disk.managed_by.is_some() {
            return Err(ArmError::conflict(
                "ConflictingUserInput",
                format!("Disk '{}' is a data disk of this VM.", id.name),
            ));
        }
        let old = self.volume(&before.disk);
        let sizes = (old.map_or(0, |volume| gib(volume.size_bytes)), gib(disk.volume.size_bytes));
        if sizes.0 != sizes.1 {
            return Err(ArmError::not_allowed(format!(
                "The OS disk can be swapped only for one of the same size: {} GB is not {} GB.",
                sizes.1, sizes.0
            )));
        }
        let encryption = |volume: &super::Volume| volume.inherited.get("encryption").cloned();
        if old.is_some_and(|old| encryption(old) != encryption(&disk.volume)) {
            return Err(ArmError::not_allowed(
                "The OS disk can be swapped only for one with the same encryption settings.",
            ));
        }
        Ok(attachment(disk.common.id.clone(), None, entry, Some(before)))
    }

    /// The data disks that `entries` describe, by LUN.
    pub(super) fn data_attachments(
        &self,
        entries: &[Map<String, Value>],
        before: &[Attachment],
        vm: &Common,
        now: WallTime,
    ) -> Result<Vec<Attachment>, ArmError> {
        let mut attachments = Vec::new();
        let (mut luns, mut disks) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries {
            if entry.get("toBeDetached").and_then(Value::as_bool) == Some(true) {
                continue;
            }
            let lun =
                entry.get("lun").and_then(Value::as_u64).and_then(|lun| u32::try_from(lun).ok());
            let lun = lun.ok_or_else(|| {
                ArmError::invalid("Required parameter 'dataDisk.lun' is missing (null).")
            })?;
            let name = entry.get("name").and_then(Value::as_str);
            let named = || {
                before.iter().find(|a| name.is_some_and(|n| a.disk.name.eq_ignore_ascii_case(n)))
            };
            let id = match managed_disk_id(entry)? {
                Some(id) => id,
                None => named().map(|a| a.disk.clone()).ok_or_else(|| {
                    ArmError::invalid("Required parameter 'dataDisk.managedDisk.id' is missing (null): only existing disks are attached here.")
                })?,
            };
            if !luns.insert(lun) {
                return Err(ArmError::invalid(format!(
                    "Lun {lun} is specified for more than one disk."
                )));
            }
            if !disks.insert(id.key()) {
                return Err(ArmError::invalid(format!(
                    "Disk {} is specified more than once.",
                    id.name
                )));
            }
            let old = before.iter().find(|a| a.disk == id);
            if old.is_some_and(|old| old.lun != Some(lun)) {
                return Err(ArmError::conflict(
                    "PropertyChangeNotAllowed",
                    "Changing property 'dataDisk.lun' is not allowed.",
                ));
            }
            let disk = self.check_attachable(&id, vm, now)?;
            if old.is_none() && disk.managed_by.is_some() {
                return Err(ArmError::conflict(
                    "ConflictingUserInput",
                    format!("Disk '{}' is already attached to this VM.", id.name),
                ));
            }
            attachments.push(attachment(disk.common.id.clone(), Some(lun), entry, old));
        }
        attachments.sort_by_key(|a| a.lun);
        Ok(attachments)
    }
}

/// `If-Match`, with or without quotes.
fn check_etag(vm: &Vm, if_match: Option<&str>) -> Result<(), ArmError> {
    let Some(asked) = if_match else { return Ok(()) };
    if asked == "*" || asked.trim_matches('"') == vm.etag.to_string() {
        return Ok(());
    }
    Err(ArmError::new(
        412,
        "PreconditionFailed",
        format!(
            "Etag provided in if-match header \"{}\" does not match etag \"{}\" of resource.",
            asked.trim_matches('"'),
            vm.etag
        ),
    ))
}

pub(super) fn busy(id: &ArmId) -> ArmError {
    ArmError::conflict(
        "AnotherOperationInProgress",
        format!("Another operation on virtual machine '{}' is in progress.", id.name),
    )
}

/// Members of a request win; `null` removes; what is absent stays. Objects are merged.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (_, Value::Null) => {
                into.remove(&name);
            }
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}
