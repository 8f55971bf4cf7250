//! VM descriptions from Azure's answers, and ARM bodies from VM descriptions.

use azdr_arm::{ArmClient, DiskSpec, Vm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::region::Region;
use azdr_domain::vm_description::{DiskDescription, VmDescription};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::StepCx;
use super::azure::{finish, named};
use super::tags::{self, Tags};
use crate::store::PointRow;
use crate::workflow::StepError;

/// Describes a VM as it is now, so completely that it can be built again from this alone.
///
/// # Errors
/// When a disk cannot be read, or Azure left out something that is needed.
pub async fn describe(azure: &ArmClient, vm: &Vm) -> Result<VmDescription, StepError> {
    let missing =
        |what: &str| StepError::fail("azure_incomplete", format!("Azure did not say {what}"));
    let id = vm.id.clone().ok_or_else(|| missing("the VM's id"))?;
    let location = vm.location.as_deref().ok_or_else(|| missing("the VM's region"))?;
    let location =
        Region::parse(location).map_err(|e| StepError::fail("azure_incomplete", e.to_string()))?;
    let os = vm.os_disk.as_ref().ok_or_else(|| missing("the VM's OS disk"))?;
    let mut attached = vec![(None, os.managed_disk.clone(), &os.caching, &os.delete_option)];
    for data in &vm.data_disks {
        let lun = data.lun.ok_or_else(|| missing("a data disk's LUN"))?;
        attached.push((Some(lun), data.managed_disk.clone(), &data.caching, &data.delete_option));
    }
    let mut disks = Vec::with_capacity(attached.len());
    for (lun, disk, caching, delete_option) in attached {
        let id = disk.ok_or_else(|| {
            let which = lun.map_or("OS disk".to_owned(), |n| format!("disk at LUN {n}"));
            StepError::fail("unmanaged_disk", format!("the {which} is not a managed disk"))
        })?;
        let disk = azure.get_disk(&id).await?;
        disks.push(DiskDescription {
            lun,
            name: id.name().to_owned(),
            unique_id: disk.unique_id.unwrap_or_default(),
            size_bytes: disk.size_bytes.unwrap_or_default(),
            sku: disk.sku.unwrap_or_default(),
            caching: caching.clone().unwrap_or_else(|| "None".to_owned()),
            zones: disk.zones,
            encryption: disk.encryption.unwrap_or_default(),
            hyper_v_generation: disk.hyper_v_generation,
            security_profile: disk.security_profile.unwrap_or_default(),
            purchase_plan: disk.purchase_plan.unwrap_or_default(),
            delete_option: delete_option.clone(),
            id,
        });
    }
    let interfaces = part(&vm.raw, "/properties/networkProfile/networkInterfaces");
    let first = interfaces.pointer("/0/id").and_then(Value::as_str);
    let subnet = match first.and_then(|id| ArmId::parse(id).ok()) {
        Some(nic) => match azure.get_network_interface(&nic).await {
            Ok(nic) => nic.subnet,
            Err(e) if e.is_retryable() => return Err(e.into()),
            // A backup does not fail for it: it only helps where everything else is gone.
            Err(_) => None,
        },
        None => None,
    };
    Ok(VmDescription {
        version: VmDescription::VERSION,
        id,
        vm_id: vm.vm_id.clone().unwrap_or_default().to_ascii_lowercase(),
        location,
        size: vm.size.clone().unwrap_or_default(),
        zones: vm.zones.clone(),
        os_type: os.os_type.clone().unwrap_or_else(|| "Linux".to_owned()),
        disks,
        network_interfaces: interfaces.as_array().cloned().unwrap_or_default(),
        subnet,
        security_profile: vm.security_profile.clone().unwrap_or_default(),
        plan: vm.plan.clone().unwrap_or_default(),
        identity: vm.identity.clone().unwrap_or_default(),
        tags: vm.tags.clone(),
        license_type: part(&vm.raw, "/properties/licenseType").as_str().map(str::to_owned),
    })
}

fn part(value: &Value, pointer: &str) -> Value {
    value.pointer(pointer).cloned().unwrap_or_default()
}

/// A disk to be made from one of a recovery point's snapshots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiskCopy {
    /// The disk-to-be.
    pub id: ArmId,
    /// What it is made from.
    pub snapshot: ArmId,
    /// The disk as it was at capture.
    pub original: DiskDescription,
    /// The snapshot's region, and so the disk's.
    pub location: String,
    /// That region is not the original's.
    pub abroad: bool,
}

/// One for each disk of the point in the region, named `{prefix}-os` and `{prefix}-lun{n}`.
///
/// # Errors
/// `not_restorable` when the point has no complete set of disks there.
pub fn disk_copies(
    point: &PointRow,
    region: &str,
    (subscription, group): (&str, &str),
    prefix: &str,
) -> Result<Vec<DiskCopy>, StepError> {
    if !point.is_restorable_in(region) {
        let message = format!("{} has no complete copy in {region}", point.name);
        return Err(StepError::fail("not_restorable", message));
    }
    let copies = point.snapshots_in(region).into_iter().map(|snapshot| {
        let original = point.description.disks.iter().find(|d| d.lun == snapshot.lun).cloned();
        let original = original.ok_or_else(|| {
            StepError::fail("internal", "a snapshot of the point has no description")
        })?;
        let lun = snapshot.lun.map_or_else(|| "os".to_owned(), |n| format!("lun{n}"));
        Ok(DiskCopy {
            id: named(ArmId::disk(subscription, group, &format!("{prefix}-{lun}")))?,
            snapshot: snapshot.id.clone(),
            original,
            location: region.to_owned(),
            abroad: region != point.region,
        })
    });
    copies.collect()
}

/// The list that an `each` over disks goes over.
pub fn by_name(copies: Vec<DiskCopy>) -> Vec<(String, DiskCopy)> {
    copies.into_iter().map(|c| (c.id.name().to_owned(), c)).collect()
}

/// Makes a disk like the original in everything that matters. `sku`: of another kind, when given.
///
/// # Errors
/// By class.
pub async fn create_disk<I>(
    cx: &StepCx<I>,
    copy: &DiskCopy,
    sku: Option<&str>,
) -> Result<(), StepError> {
    let (original, size) = (&copy.original, copy.original.size_bytes);
    let mut spec =
        disk_like(original, &copy.snapshot, &copy.location, size, copy.abroad, tags::of_run(cx));
    if let Some(sku) = sku {
        spec.sku = Some(sku.to_owned());
    }
    finish(cx, "create", cx.services().azure.begin_create_disk(&copy.id, &spec)).await?;
    Ok(())
}

/// A disk made from a snapshot of `original`, like it in everything that matters.
///
/// `abroad`: in another region, where the original's zones and encryption set do not exist.
pub fn disk_like(
    original: &DiskDescription,
    snapshot: &ArmId,
    location: &str,
    size_bytes: u64,
    abroad: bool,
    tags: Tags,
) -> DiskSpec {
    let present = |v: &Value| (!v.is_null()).then(|| v.clone());
    let mut spec = DiskSpec::new(location, snapshot.clone());
    spec.size_bytes = Some(size_bytes);
    spec.sku = (!original.sku.is_empty()).then(|| original.sku.clone());
    spec.hyper_v_generation = original.hyper_v_generation.clone();
    spec.security_profile = present(&original.security_profile);
    if !abroad {
        spec.zones = original.zones.clone();
        spec.encryption = present(&original.encryption);
    }
    spec.tags = tags;
    spec
}

/// A disk that a new VM is to have.
pub struct AttachedDisk<'a> {
    /// How the original was attached.
    pub original: &'a DiskDescription,
    /// The disk to attach.
    pub disk: &'a ArmId,
    /// What becomes of it with the VM: `Delete` or `Detach`.
    pub delete_option: &'a str,
}

/// The body of a VM like `original` that boots from specialised disks.
///
/// No image and no OS profile: name and users are on the disk (AZURE.md B.6).
pub fn vm_like(
    original: &VmDescription,
    location: &str,
    abroad: bool,
    disks: &[AttachedDisk<'_>],
    nic: &ArmId,
    nic_delete_option: &str,
    tags: &Tags,
) -> Value {
    let os = disks.iter().find(|d| d.original.lun.is_none());
    let os = os.map(|d| {
        json!({
            "createOption": "Attach",
            "osType": original.os_type,
            "caching": d.original.caching,
            "deleteOption": d.delete_option,
            "managedDisk": {"id": d.disk.as_str()},
        })
    });
    let data: Vec<Value> = disks
        .iter()
        .filter_map(|d| {
            Some(json!({
                "lun": d.original.lun?,
                "createOption": "Attach",
                "caching": d.original.caching,
                "deleteOption": d.delete_option,
                "managedDisk": {"id": d.disk.as_str()},
            }))
        })
        .collect();
    let mut body = json!({
        "location": location,
        "tags": tags,
        "properties": {
            "hardwareProfile": {"vmSize": original.size},
            "storageProfile": {"osDisk": os, "dataDisks": data},
            "networkProfile": {"networkInterfaces": [
                {"id": nic.as_str(),
                 "properties": {"primary": true, "deleteOption": nic_delete_option}},
            ]},
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": true}},
        },
    });
    if !abroad && !original.zones.is_empty() {
        body["zones"] = json!(original.zones);
    }
    for (key, value) in [("plan", &original.plan)] {
        if !value.is_null() {
            body[key] = value.clone();
        }
    }
    if !original.security_profile.is_null() {
        body["properties"]["securityProfile"] = original.security_profile.clone();
    }
    if let Some(license) = &original.license_type {
        body["properties"]["licenseType"] = json!(license);
    }
    body
}
