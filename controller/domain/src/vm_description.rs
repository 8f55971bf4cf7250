//! The description of a VM at the time of a recovery point.
//!
//! With the VM, its group or its region gone, the point alone must be enough to rebuild it. What azdr
//! decides on is typed; what it only hands back to Azure stays as Azure wrote it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arm_id::ArmId;
use crate::region::Region;

/// A VM as it was. Serialised as JSON; unknown fields are ignored, missing optional ones are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmDescription {
    /// The version of this form, [`VmDescription::VERSION`] when written by this program.
    pub version: u32,
    /// The VM's resource ID.
    pub id: ArmId,
    /// Azure's own GUID for the machine.
    pub vm_id: String,
    /// Where it ran.
    pub location: Region,
    /// For example `Standard_D4s_v5`.
    pub size: String,
    /// Availability zones, empty when it was in none.
    #[serde(default)]
    pub zones: Vec<String>,
    /// `Linux` or `Windows`, as Azure says.
    pub os_type: String,
    /// The OS disk first, then data disks by LUN.
    pub disks: Vec<DiskDescription>,
    /// `networkProfile.networkInterfaces`, as Azure wrote each.
    #[serde(default)]
    pub network_interfaces: Vec<Value>,
    /// The subnet of its first network interface, where that could be read.
    #[serde(default)]
    pub subnet: Option<ArmId>,
    /// `securityProfile`: trusted launch, confidential VM, encryption at host.
    #[serde(default)]
    pub security_profile: Value,
    /// `plan`: without it a marketplace image's copy cannot be started.
    #[serde(default)]
    pub plan: Value,
    /// `identity`.
    #[serde(default)]
    pub identity: Value,
    /// The VM's tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// For example `Windows_Server`.
    #[serde(default)]
    pub license_type: Option<String>,
}

impl VmDescription {
    /// The version that this program writes.
    pub const VERSION: u32 = 1;

    /// The provisioned size of all disks.
    pub fn size_bytes(&self) -> u64 {
        self.disks.iter().map(|d| d.size_bytes).sum()
    }

    /// The OS disk.
    pub fn os_disk(&self) -> Option<&DiskDescription> {
        self.disks.iter().find(|d| d.lun.is_none())
    }
}

/// One disk as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskDescription {
    /// `None` for the OS disk.
    pub lun: Option<u32>,
    /// The disk's resource ID.
    pub id: ArmId,
    /// Azure's GUID of the disk, which defines its chain of snapshots.
    pub unique_id: String,
    /// The name under which the VM lists it.
    pub name: String,
    /// Provisioned size.
    pub size_bytes: u64,
    /// For example `Premium_LRS`.
    pub sku: String,
    /// `None`, `ReadOnly` or `ReadWrite`, as Azure says.
    pub caching: String,
    /// Availability zones, empty for a regional disk.
    #[serde(default)]
    pub zones: Vec<String>,
    /// `encryption`, as Azure wrote it.
    #[serde(default)]
    pub encryption: Value,
    /// `V1` or `V2`; empty for a data disk.
    #[serde(default)]
    pub hyper_v_generation: Option<String>,
    /// `securityProfile` of the disk.
    #[serde(default)]
    pub security_profile: Value,
    /// `purchasePlan` of the disk.
    #[serde(default)]
    pub purchase_plan: Value,
    /// `Detach` or `Delete`: what becomes of the disk when its VM is deleted.
    #[serde(default)]
    pub delete_option: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_or_newer_description_still_reads() {
        let id = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute";
        let json = serde_json::json!({
            "version": 1,
            "id": format!("{id}/virtualMachines/vm"),
            "vm_id": "00000000-0000-0000-0000-000000000001",
            "location": "East US",
            "size": "Standard_B2s",
            "os_type": "Linux",
            "from_the_future": true,
            "disks": [
                {"lun": null, "id": format!("{id}/disks/os"), "unique_id": "u1", "name": "os",
                 "size_bytes": 30, "sku": "Premium_LRS", "caching": "ReadWrite"},
                {"lun": 0, "id": format!("{id}/disks/d0"), "unique_id": "u2", "name": "d0",
                 "size_bytes": 4, "sku": "Premium_LRS", "caching": "None"},
            ],
        });
        let vm: VmDescription = serde_json::from_value(json).unwrap();
        assert_eq!(vm.size_bytes(), 34);
        assert_eq!(vm.os_disk().unwrap().name, "os");
        let again = serde_json::from_str(&serde_json::to_string(&vm).unwrap()).unwrap();
        assert_eq!(vm, again);
    }
}
