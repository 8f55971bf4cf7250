//! Virtual machines: reading a request, creating and deleting.

use azdr_env::WallTime;
use serde_json::{Map, Value};

use super::disks::{active_sas, check_source_ready, not_found};
use super::operations::{Begin, Effect, Failure, Output, Service, Work};
use super::state::{Attachment, Common, Disk, NicAttachment, Power, Vm, provisioning};
use super::tags::{Tags, checked_tags};
use super::{Accepted, ArmError, ArmId, Injected, Kind, World};
use crate::latency::Action;

/// A VM as a request describes it.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) location: Option<String>,
    pub(super) tags: Option<Tags>,
    pub(super) zones: Option<Vec<String>>,
    pub(super) os_disk: Option<Map<String, Value>>,
    pub(super) data_disks: Option<Vec<Map<String, Value>>>,
    pub(super) nics: Option<Vec<NicAttachment>>,
    pub(super) top: Map<String, Value>,
    pub(super) properties: Map<String, Value>,
    pub(super) storage: Map<String, Value>,
}

/// Members that a request may carry because the client read them, and that are ignored.
const READ_ONLY: [&str; 5] =
    ["provisioningState", "vmId", "timeCreated", "instanceView", "resources"];

impl Wanted {
    /// Reads a PUT or PATCH body.
    pub(super) fn read(mut body: Map<String, Value>) -> Result<Self, ArmError> {
        let mut wanted = Self {
            location: text(&body, "location"),
            tags: typed(body.remove("tags"), "tags")?,
            zones: typed(body.remove("zones"), "zones")?,
            ..Self::default()
        };
        for name in ["identity", "plan", "extendedLocation"] {
            if let Some(value) = body.remove(name) {
                wanted.top.insert(name.to_owned(), value);
            }
        }
        let mut properties: Map<String, Value> =
            typed(body.remove("properties"), "properties")?.unwrap_or_default();
        properties.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
        if let Some(storage) = properties.remove("storageProfile") {
            let mut storage: Map<String, Value> =
                typed(Some(storage), "storageProfile")?.unwrap_or_default();
            wanted.os_disk = typed(storage.remove("osDisk"), "osDisk")?;
            wanted.data_disks = typed(storage.remove("dataDisks"), "dataDisks")?;
            wanted.storage = storage;
        }
        if let Some(network) = properties.remove("networkProfile") {
            let interfaces: Option<Vec<Value>> =
                typed(network.get("networkInterfaces").cloned(), "networkInterfaces")?;
            let interfaces = interfaces.unwrap_or_default();
            wanted.nics = Some(interfaces.iter().map(nic_reference).collect::<Result<_, _>>()?);
        }
        wanted.properties = properties;
        Ok(wanted)
    }
}

fn text(body: &Map<String, Value>, name: &str) -> Option<String> {
    Some(body.get(name)?.as_str()?.to_owned())
}

fn typed<T: serde::de::DeserializeOwned>(
    value: Option<Value>,
    name: &str,
) -> Result<Option<T>, ArmError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value).map(Some).map_err(|e| {
            ArmError::invalid(format!("The value of parameter '{name}' is invalid: {e}"))
        }),
    }
}

fn nic_reference(value: &Value) -> Result<NicAttachment, ArmError> {
    let id = value["id"].as_str().unwrap_or_default();
    let nic = ArmId::parse(id).filter(|id| id.kind == Kind::Nic).ok_or_else(|| {
        ArmError::invalid(format!("The value '{id}' of 'networkInterfaces.id' is not valid."))
    })?;
    let properties = value["properties"].as_object().cloned().unwrap_or_default();
    Ok(NicAttachment { nic, properties })
}

/// The disk that an entry of `osDisk` or `dataDisks` names.
pub(super) fn managed_disk_id(entry: &Map<String, Value>) -> Result<Option<ArmId>, ArmError> {
    let Some(id) = entry.get("managedDisk").and_then(|d| d.get("id")).and_then(Value::as_str)
    else {
        return Ok(None);
    };
    ArmId::parse(id).filter(|id| id.kind == Kind::Disk).map(Some).ok_or_else(|| {
        ArmError::invalid(format!("The value '{id}' of 'managedDisk.id' is not valid."))
    })
}

/// An attachment of `disk` as `entry` describes it.
pub(super) fn attachment(
    disk: ArmId,
    lun: Option<u32>,
    entry: &Map<String, Value>,
    before: Option<&Attachment>,
) -> Attachment {
    let mut extra = entry.clone();
    for known in [
        "name",
        "lun",
        "caching",
        "deleteOption",
        "createOption",
        "managedDisk",
        "diskSizeGB",
        "osType",
        "toBeDetached",
    ] {
        extra.remove(known);
    }
    let or_before = |name: &str, old: fn(&Attachment) -> String, default: &str| {
        text(entry, name).or_else(|| before.map(old)).unwrap_or_else(|| default.to_owned())
    };
    Attachment {
        disk,
        lun,
        caching: or_before(
            "caching",
            |a| a.caching.clone(),
            if lun.is_none() { "ReadWrite" } else { "None" },
        ),
        delete_option: or_before("deleteOption", |a| a.delete_option.clone(), "Detach"),
        create_option: or_before("createOption", |a| a.create_option.clone(), "Attach"),
        extra,
    }
}

impl World {
    /// Creates a VM from existing disks, or changes one (see `vm_changes.rs`).
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_vm(
        &mut self,
        id: &ArmId,
        body: Map<String, Value>,
        if_match: Option<&str>,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        if self.state.vms.get(&id.key()).is_some() {
            return self.change_vm(id, body, if_match, true, injected, now);
        }
        if if_match.is_some_and(|tag| tag != "*") {
            return Err(ArmError::new(412, "PreconditionFailed", "The resource does not exist."));
        }
        let wanted = Wanted::read(body)?;
        let location = wanted.location.as_deref().ok_or_else(|| {
            ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            )
        })?;
        let location = self.check_place(id, location)?;
        let mut common = self.common(
            id.clone(),
            location,
            checked_tags(wanted.tags.clone().unwrap_or_default())?,
            now,
        );
        common.zones = wanted.zones.clone().unwrap_or_default();
        let vm = self.new_vm(common, wanted, now)?;
        self.check_vm_quota(id, &vm.common.location)?;
        let mut injected = injected.clone();
        self.fail_without_capacity(&vm.common.location, &mut injected);
        self.take_disks_and_nics(None, &vm);
        let effect =
            Effect::Power { vm: id.clone(), to: Power::Running, back_to: Power::Deallocated };
        let work = vec![Work::Start(id.clone())];
        self.state.vms.insert(id.key(), vm);
        self.assign_addresses(id);
        let operation = self.begin_vm(id, Action::VmCreate, effect, work, &injected, now);
        Ok(Accepted { operation: Some(operation), created: true, joined: false })
    }

    fn new_vm(&self, common: Common, wanted: Wanted, now: WallTime) -> Result<Vm, ArmError> {
        let required = |name: &str| {
            ArmError::invalid(format!("Required parameter '{name}' is missing (null)."))
        };
        let size = wanted.properties.get("hardwareProfile").and_then(|p| p["vmSize"].as_str());
        if size.is_none_or(str::is_empty) {
            return Err(required("hardwareProfile.vmSize"));
        }
        let os_disk = wanted.os_disk.as_ref().ok_or_else(|| required("storageProfile.osDisk"))?;
        let option = text(os_disk, "createOption").unwrap_or_default();
        if !option.eq_ignore_ascii_case("Attach") {
            return Err(ArmError::invalid(format!(
                "The value '{option}' of 'osDisk.createOption' is not supported here: attach a disk."
            )));
        }
        for (present, name) in [
            (wanted.storage.get("imageReference").is_some_and(|v| !v.is_null()), "imageReference"),
            (wanted.properties.get("osProfile").is_some_and(|v| !v.is_null()), "osProfile"),
        ] {
            if present {
                return Err(ArmError::invalid(format!(
                    "Parameter '{name}' is not allowed when the OS disk is attached."
                )));
            }
        }
        let os_id = managed_disk_id(os_disk)?.ok_or_else(|| required("osDisk.managedDisk.id"))?;
        let os = self.check_attachable(&os_id, &common, now)?;
        let os_type = text(os_disk, "osType")
            .or_else(|| text(&os.volume.inherited, "osType"))
            .ok_or_else(|| required("osDisk.osType"))?;
        check_plan(os, &wanted.top)?;
        check_security(os, &wanted.properties)?;
        let mut disks = vec![attachment(os.common.id.clone(), None, os_disk, None)];
        let entries = wanted.data_disks.clone().unwrap_or_default();
        disks.extend(self.data_attachments(&entries, &[], &common, now)?);
        let nics = wanted.nics.clone().unwrap_or_default();
        if nics.is_empty() {
            return Err(ArmError::invalid(
                "Virtual Machine must have at least one network interface.",
            ));
        }
        for nic in &nics {
            self.check_nic(&nic.nic, &common)?;
        }
        Ok(Vm {
            vm_id: self.guid(),
            etag: 1,
            power: Power::Starting,
            disks,
            os_type,
            nics,
            top: wanted.top,
            properties: wanted.properties,
            storage: wanted.storage,
            start_error: None,
            common,
        })
    }

    /// The disk, if the VM can attach it.
    pub(super) fn check_attachable(
        &self,
        id: &ArmId,
        vm: &Common,
        now: WallTime,
    ) -> Result<&Disk, ArmError> {
        let disk = self.state.disks.get(&id.key()).ok_or_else(|| {
            ArmError::new(404, "NotFound", format!("Disk {} is not found.", id.name))
        })?;
        if disk.common.location != vm.location {
            return Err(ArmError::bad_request(
                "BadRequest",
                format!(
                    "Disk {} is in region '{}', the VM is in '{}'.",
                    id.name, disk.common.location, vm.location
                ),
            ));
        }
        if disk.managed_by.as_ref().is_some_and(|owner| *owner != vm.id) {
            let owner = disk.managed_by.as_ref().map(ArmId::shouted).unwrap_or_default();
            return Err(ArmError::conflict(
                "ConflictingUserInput",
                format!(
                    "Disk '{}' cannot be attached as the disk is already owned by VM '{owner}'.",
                    id.name
                ),
            ));
        }
        if disk.volume.active_grant(now).is_some() {
            return Err(active_sas(id));
        }
        if !disk.common.zones.is_empty() && disk.common.zones != vm.zones {
            return Err(ArmError::bad_request(
                "BadRequest",
                format!("Disk {} and the VM are not in the same availability zone.", id.name),
            ));
        }
        if disk.common.provisioning == provisioning::DELETING {
            return Err(ArmError::not_allowed(format!("Disk {} is being deleted.", id.name)));
        }
        check_source_ready(&disk.common)?;
        Ok(disk)
    }

    pub(super) fn check_nic(&self, id: &ArmId, vm: &Common) -> Result<(), ArmError> {
        let nic = self.state.networks.get(&id.key()).ok_or_else(|| {
            ArmError::bad_request(
                "InvalidResourceReference",
                format!("Resource {id} referenced by resource {} was not found.", vm.id),
            )
        })?;
        if nic.common.location != vm.location {
            return Err(ArmError::bad_request(
                "InvalidResourceReference",
                format!("Network interface {} is in region '{}'.", id.name, nic.common.location),
            ));
        }
        if let Some(user) = nic.used_by.as_ref().filter(|user| **user != vm.id) {
            return Err(ArmError::bad_request(
                "NicInUse",
                format!("Network Interface {id} is used by existing resource {user}."),
            ));
        }
        Ok(())
    }

    /// Moves the ownership of disks and interfaces from what the VM had to what it has.
    pub(super) fn take_disks_and_nics(&mut self, before: Option<&Vm>, after: &Vm) {
        let id = &after.common.id;
        for old in before.into_iter().flat_map(|vm| &vm.disks) {
            if let Some(disk) = self.state.disks.get_mut(&old.disk.key()) {
                disk.managed_by = None;
            }
        }
        for new in &after.disks {
            if let Some(disk) = self.state.disks.get_mut(&new.disk.key()) {
                disk.managed_by = Some(id.clone());
            }
        }
        for old in before.into_iter().flat_map(|vm| &vm.nics) {
            if let Some(nic) = self.state.networks.get_mut(&old.nic.key()) {
                nic.used_by = None;
            }
        }
        for new in &after.nics {
            if let Some(nic) = self.state.networks.get_mut(&new.nic.key()) {
                nic.used_by = Some(id.clone());
            }
        }
    }

    /// Refuses a VM (more) that would be allocated in the region.
    pub(super) fn check_vm_quota(&self, id: &ArmId, location: &str) -> Result<(), ArmError> {
        let Some(limit) = self.limits.vms_per_region else { return Ok(()) };
        let prefix = format!("/subscriptions/{}/", id.subscription).to_lowercase();
        let allocated = self.state.vms.with_prefix(&prefix).filter(|(_, vm)| {
            vm.common.location == location && vm.power != Power::Deallocated && vm.common.id != *id
        });
        let allocated = allocated.count();
        if allocated < limit {
            return Ok(());
        }
        Err(ArmError::not_allowed(format!(
            "Operation could not be completed as it results in exceeding approved Total Regional Cores \
             quota. Additional details - Location: {location}, Current Limit: {limit}, Current Usage: \
             {allocated}, Additional Required: 1."
        )))
    }

    pub(super) fn fail_without_capacity(&self, location: &str, injected: &mut Injected) {
        if injected.no_capacity_in.iter().any(|region| region == location) {
            injected.fail_operation.get_or_insert(Failure {
                code: "AllocationFailed".into(),
                message:
                    "Allocation failed. We do not have sufficient capacity for the requested VM \
                          size in this region."
                        .into(),
            });
        }
    }

    pub(super) fn begin_vm(
        &mut self,
        id: &ArmId,
        action: Action,
        effect: Effect,
        work: Vec<Work>,
        injected: &Injected,
        now: WallTime,
    ) -> String {
        let location = self.state.common(id).map(|c| c.location.clone()).unwrap_or_default();
        let begin = Begin {
            subscription: id.subscription.clone(),
            location,
            service: Service::Compute,
            takes: self.takes(action),
            effect,
            output: Output::None,
            work,
        };
        self.begin(begin, injected, now)
    }

    /// Deletes a VM; a missing one is `None`. Disks, interfaces and addresses go with it where
    /// their `deleteOption` says so.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn delete_vm(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Option<Accepted>, ArmError> {
        let Some(vm) = self.state.vms.get(&id.key()) else { return Ok(None) };
        let work = vec![Work::PowerOff(vm.vm_id.clone())];
        self.preempt(id, now);
        let effect = Effect::VmDelete(id.clone());
        let operation = self.begin_vm(id, Action::VmDelete, effect, work, injected, now);
        if let Some(vm) = self.state.vms.get_mut(&id.key()) {
            vm.common.provisioning = provisioning::DELETING.into();
        }
        Ok(Some(Accepted { operation: Some(operation), created: false, joined: false }))
    }

    /// Removes a VM at the end of its deletion.
    pub(super) fn remove_vm(&mut self, id: &ArmId, at: WallTime) {
        let Some(vm) = self.state.vms.remove(&id.key()) else { return };
        for attachment in &vm.disks {
            if let Some(disk) = self.state.disks.get_mut(&attachment.disk.key()) {
                disk.managed_by = None;
            }
            if attachment.delete_option.eq_ignore_ascii_case("Delete") {
                self.remove(&attachment.disk, at);
            }
        }
        for attachment in &vm.nics {
            let option = attachment.properties.get("deleteOption").and_then(Value::as_str);
            self.release_nic(
                &attachment.nic,
                option.is_some_and(|o| o.eq_ignore_ascii_case("Delete")),
            );
        }
        self.remove_locks_of(id);
    }

    /// The VM, or ARM's 404.
    pub(super) fn vm(&self, id: &ArmId) -> Result<&Vm, ArmError> {
        self.state.vms.get(&id.key()).ok_or_else(|| not_found(id))
    }
}

/// A disk that descends from a marketplace image carries its plan; the VM must repeat it.
fn check_plan(disk: &Disk, top: &Map<String, Value>) -> Result<(), ArmError> {
    let Some(needed) = disk.volume.inherited.get("purchasePlan").filter(|p| !p.is_null()) else {
        return Ok(());
    };
    let given = top.get("plan").cloned().unwrap_or_default();
    let same = |name: &str| {
        needed[name]
            .as_str()
            .unwrap_or_default()
            .eq_ignore_ascii_case(given[name].as_str().unwrap_or_default())
    };
    if same("name") && same("publisher") && same("product") {
        return Ok(());
    }
    Err(ArmError::bad_request(
        "VMMarketplaceInvalidInput",
        "Creating a virtual machine from Marketplace image or a custom image sourced from a Marketplace \
         image requires Plan information in the request.",
    ))
}

/// A Trusted Launch or confidential disk needs a VM of the same security type.
fn check_security(disk: &Disk, properties: &Map<String, Value>) -> Result<(), ArmError> {
    let of =
        |value: Option<&Value>| value.and_then(|v| v["securityType"].as_str()).map(str::to_owned);
    let needed = of(disk.volume.inherited.get("securityProfile"));
    let given = of(properties.get("securityProfile"));
    match needed {
        Some(needed) if needed != "Standard" => {
            // A confidential disk names its encryption: `ConfidentialVM_…`.
            let family = needed.split('_').next().unwrap_or_default();
            if given.as_deref().is_some_and(|given| given.eq_ignore_ascii_case(family)) {
                return Ok(());
            }
            Err(ArmError::bad_request(
                "BadRequest",
                format!(
                    "Security type of VM is not compatible with the security type '{needed}' of attached OS Disk."
                ),
            ))
        }
        _ => Ok(()),
    }
}
