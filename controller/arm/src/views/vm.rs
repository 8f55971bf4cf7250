//! Virtual machines.

use std::collections::BTreeMap;

use azdr_domain::ArmId;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{arm_id, list, number, part, tags, text, texts, time};

/// A virtual machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// Its ID.
    pub id: Option<ArmId>,
    /// Its name.
    pub name: Option<String>,
    /// Its region.
    pub location: Option<String>,
    /// Its zones.
    pub zones: Vec<String>,
    /// Azure's GUID of this very machine.
    pub vm_id: Option<String>,
    /// When it was made.
    pub time_created: Option<WallTime>,
    /// For `If-Match`.
    pub etag: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `Succeeded`, `Updating`, …; says nothing about whether a guest booted.
    pub provisioning_state: Option<String>,
    /// For example `Standard_D2s_v5`.
    pub size: Option<String>,
    /// Its OS disk.
    pub os_disk: Option<OsDisk>,
    /// Its data disks, by LUN.
    pub data_disks: Vec<DataDisk>,
    /// Its network interfaces, the primary one first.
    pub nics: Vec<ArmId>,
    /// As Azure sent it.
    pub security_profile: Option<Value>,
    /// As Azure sent it.
    pub plan: Option<Value>,
    /// As Azure sent it.
    pub identity: Option<Value>,
    /// Present when read with the instance view.
    pub power_state: Option<PowerState>,
    /// All of it, as Azure sent it.
    pub raw: Value,
}

/// The disk a VM boots from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OsDisk {
    /// Its name.
    pub name: Option<String>,
    /// The managed disk.
    pub managed_disk: Option<ArmId>,
    /// `None`, `ReadOnly`, `ReadWrite`.
    pub caching: Option<String>,
    /// Its size; absent in some answers.
    pub size_bytes: Option<u64>,
    /// `Linux` or `Windows`.
    pub os_type: Option<String>,
    /// `FromImage`, `Attach`: a PATCH that swaps the disk must repeat it.
    pub create_option: Option<String>,
    /// `Detach` or `Delete`, with the VM.
    pub delete_option: Option<String>,
}

/// Another disk of a VM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DataDisk {
    /// Its place; what disks are matched by.
    pub lun: Option<u32>,
    /// Its name.
    pub name: Option<String>,
    /// The managed disk.
    pub managed_disk: Option<ArmId>,
    /// `None`, `ReadOnly`, `ReadWrite`.
    pub caching: Option<String>,
    /// Its size; absent in some answers.
    pub size_bytes: Option<u64>,
    /// `Attach`, `Empty`, …
    pub create_option: Option<String>,
    /// `Detach` or `Delete`, with the VM.
    pub delete_option: Option<String>,
    /// Whether it is being detached.
    pub to_be_detached: bool,
}

/// Whether a VM runs, by its instance view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Being made.
    Creating,
    /// On its way to running.
    Starting,
    /// Running; says nothing about the guest.
    Running,
    /// On its way to stopped.
    Stopping,
    /// Powered off: billed, and keeps its capacity and dynamic addresses.
    Stopped,
    /// On its way to deallocated.
    Deallocating,
    /// Gives its capacity back; not billed.
    Deallocated,
    /// A state this version does not know.
    Other(String),
}

impl PowerState {
    fn parse(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "creating" => Self::Creating,
            "starting" => Self::Starting,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            "deallocating" => Self::Deallocating,
            "deallocated" => Self::Deallocated,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether it is stopped or deallocated.
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Stopped | Self::Deallocated)
    }
}

impl Vm {
    /// Reads ARM's JSON.
    pub fn from_json(raw: Value) -> Self {
        let mut data_disks: Vec<DataDisk> =
            list(&raw, "/properties/storageProfile/dataDisks").iter().map(data_disk).collect();
        data_disks.sort_by_key(|disk| disk.lun);
        let mut interfaces = list(&raw, "/properties/networkProfile/networkInterfaces");
        interfaces.sort_by_key(|nic| {
            nic.pointer("/properties/primary").and_then(Value::as_bool) != Some(true)
        });
        Self {
            id: arm_id(&raw, "/id"),
            name: text(&raw, "/name"),
            location: text(&raw, "/location"),
            zones: texts(&raw, "/zones"),
            vm_id: text(&raw, "/properties/vmId"),
            time_created: time(&raw, "/properties/timeCreated"),
            etag: text(&raw, "/etag"),
            tags: tags(&raw),
            provisioning_state: text(&raw, "/properties/provisioningState"),
            size: text(&raw, "/properties/hardwareProfile/vmSize"),
            os_disk: part(&raw, "/properties/storageProfile/osDisk").map(|disk| os_disk(&disk)),
            data_disks,
            nics: interfaces.iter().filter_map(|nic| arm_id(nic, "/id")).collect(),
            security_profile: part(&raw, "/properties/securityProfile"),
            plan: part(&raw, "/plan"),
            identity: part(&raw, "/identity"),
            power_state: power_state(&raw),
            raw,
        }
    }
}

fn os_disk(disk: &Value) -> OsDisk {
    OsDisk {
        name: text(disk, "/name"),
        managed_disk: arm_id(disk, "/managedDisk/id"),
        caching: text(disk, "/caching"),
        size_bytes: gib(disk),
        os_type: text(disk, "/osType"),
        create_option: text(disk, "/createOption"),
        delete_option: text(disk, "/deleteOption"),
    }
}

fn data_disk(disk: &Value) -> DataDisk {
    DataDisk {
        lun: number(disk, "/lun").and_then(|lun| u32::try_from(lun).ok()),
        name: text(disk, "/name"),
        managed_disk: arm_id(disk, "/managedDisk/id"),
        caching: text(disk, "/caching"),
        size_bytes: gib(disk),
        create_option: text(disk, "/createOption"),
        delete_option: text(disk, "/deleteOption"),
        to_be_detached: disk.get("toBeDetached").and_then(Value::as_bool).unwrap_or(false),
    }
}

fn gib(disk: &Value) -> Option<u64> {
    number(disk, "/diskSizeGB").and_then(|gib| gib.checked_mul(1 << 30))
}

/// From `$expand=instanceView` (under `properties`), or from the instance view itself.
fn power_state(raw: &Value) -> Option<PowerState> {
    ["/properties/instanceView/statuses", "/statuses"].iter().find_map(|pointer| {
        list(raw, pointer).iter().find_map(|status| {
            let code = status.get("code")?.as_str()?;
            let (kind, word) = code.split_once('/')?;
            kind.eq_ignore_ascii_case("PowerState").then(|| PowerState::parse(word))
        })
    })
}
