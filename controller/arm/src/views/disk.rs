//! Disks and snapshots.

use std::collections::BTreeMap;

use azdr_domain::ArmId;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{arm_id, part, size_bytes, tags, text, texts, time};

/// A managed disk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Its ID.
    pub id: Option<ArmId>,
    /// Its region.
    pub location: Option<String>,
    /// Its zones.
    pub zones: Vec<String>,
    /// For example `Premium_LRS`.
    pub sku: Option<String>,
    /// Its provisioned size.
    pub size_bytes: Option<u64>,
    /// Changes when a disk is made anew under the same name: what a chain of snapshots is about.
    pub unique_id: Option<String>,
    /// `Attached`, `Unattached`, `Reserved`, `ActiveSAS`, …
    pub disk_state: Option<String>,
    /// `Succeeded`, `Updating`, …
    pub provisioning_state: Option<String>,
    /// The VM that has it.
    pub managed_by: Option<ArmId>,
    /// `Linux` or `Windows`, for an OS disk.
    pub os_type: Option<String>,
    /// `V1` or `V2`.
    pub hyper_v_generation: Option<String>,
    /// As Azure sent it.
    pub encryption: Option<Value>,
    /// As Azure sent it.
    pub security_profile: Option<Value>,
    /// As Azure sent it; a VM made from this disk must repeat it as its `plan`.
    pub purchase_plan: Option<Value>,
    /// Of the background copy; meaningful for Premium SSD v2 and Ultra only.
    pub completion_percent: Option<f64>,
    /// When it was made.
    pub time_created: Option<WallTime>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// All of it, as Azure sent it.
    pub raw: Value,
}

impl Disk {
    /// Reads ARM's JSON.
    pub fn from_json(raw: Value) -> Self {
        Self {
            id: arm_id(&raw, "/id"),
            location: text(&raw, "/location"),
            zones: texts(&raw, "/zones"),
            sku: text(&raw, "/sku/name"),
            size_bytes: size_bytes(&raw),
            unique_id: text(&raw, "/properties/uniqueId"),
            disk_state: text(&raw, "/properties/diskState"),
            provisioning_state: text(&raw, "/properties/provisioningState"),
            managed_by: arm_id(&raw, "/managedBy"),
            os_type: text(&raw, "/properties/osType"),
            hyper_v_generation: text(&raw, "/properties/hyperVGeneration"),
            encryption: part(&raw, "/properties/encryption"),
            security_profile: part(&raw, "/properties/securityProfile"),
            purchase_plan: part(&raw, "/properties/purchasePlan"),
            completion_percent: percent(&raw),
            time_created: time(&raw, "/properties/timeCreated"),
            tags: tags(&raw),
            raw,
        }
    }
}

/// A snapshot of a disk, or a copy of one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its ID.
    pub id: Option<ArmId>,
    /// Its region.
    pub location: Option<String>,
    /// For example `Standard_ZRS`.
    pub sku: Option<String>,
    /// The provisioned size of its disk; not what is billed.
    pub size_bytes: Option<u64>,
    /// Its own unique id.
    pub unique_id: Option<String>,
    /// `ActiveSAS` while access is granted, and so on.
    pub disk_state: Option<String>,
    /// `Succeeded` says nothing about a copy: see [`Snapshot::ready`].
    pub provisioning_state: Option<String>,
    /// Whether it is incremental; only such can be copied to another region.
    pub incremental: Option<bool>,
    /// `Copy`, `CopyStart`, …
    pub create_option: Option<String>,
    /// The disk, or for a copy the snapshot, that it was made of.
    pub source_resource_id: Option<ArmId>,
    /// The unique id of the disk it was made of. (A copy has another value here.)
    pub source_unique_id: Option<String>,
    /// The family that its increments belong to.
    pub incremental_snapshot_family_id: Option<String>,
    /// 0 to 100; absent for a snapshot that was complete at once, and in the output of an operation.
    pub completion_percent: Option<f64>,
    /// Why a copy will never complete.
    pub copy_error: Option<CopyError>,
    /// `Pending`, `Available`, `InstantAccess`, `AvailableWithInstantAccess`.
    pub access_state: Option<String>,
    /// `Linux` or `Windows`, for an OS disk's.
    pub os_type: Option<String>,
    /// `V1` or `V2`.
    pub hyper_v_generation: Option<String>,
    /// As Azure sent it.
    pub encryption: Option<Value>,
    /// As Azure sent it.
    pub security_profile: Option<Value>,
    /// As Azure sent it.
    pub purchase_plan: Option<Value>,
    /// As Azure sent it: until when it cannot be deleted.
    pub immutability_policy: Option<Value>,
    /// When it was made.
    pub time_created: Option<WallTime>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// All of it, as Azure sent it.
    pub raw: Value,
}

/// Why a copy will never complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyError {
    /// `CopySourceNotFound` is the only documented one.
    pub code: String,
    /// Azure's words.
    pub message: String,
}

impl Snapshot {
    /// Reads ARM's JSON.
    pub fn from_json(raw: Value) -> Self {
        let error = part(&raw, "/properties/copyCompletionError");
        Self {
            id: arm_id(&raw, "/id"),
            location: text(&raw, "/location"),
            sku: text(&raw, "/sku/name"),
            size_bytes: size_bytes(&raw),
            unique_id: text(&raw, "/properties/uniqueId"),
            disk_state: text(&raw, "/properties/diskState"),
            provisioning_state: text(&raw, "/properties/provisioningState"),
            incremental: raw.pointer("/properties/incremental").and_then(Value::as_bool),
            create_option: text(&raw, "/properties/creationData/createOption"),
            source_resource_id: arm_id(&raw, "/properties/creationData/sourceResourceId"),
            source_unique_id: text(&raw, "/properties/creationData/sourceUniqueId"),
            incremental_snapshot_family_id: text(&raw, "/properties/incrementalSnapshotFamilyId"),
            completion_percent: percent(&raw),
            copy_error: error.map(|error| CopyError {
                code: text(&error, "/errorCode").unwrap_or_default(),
                message: text(&error, "/errorMessage").unwrap_or_default(),
            }),
            access_state: text(&raw, "/properties/snapshotAccessState"),
            os_type: text(&raw, "/properties/osType"),
            hyper_v_generation: text(&raw, "/properties/hyperVGeneration"),
            encryption: part(&raw, "/properties/encryption"),
            security_profile: part(&raw, "/properties/securityProfile"),
            purchase_plan: part(&raw, "/properties/purchasePlan"),
            immutability_policy: part(&raw, "/properties/immutabilityPolicy"),
            time_created: time(&raw, "/properties/timeCreated"),
            tags: tags(&raw),
            raw,
        }
    }

    /// Whether disks can be made of it and its bytes read: provisioned, accessible, copied to 100 %,
    /// without a copy error.
    ///
    /// For a copy (`CopyStart`) an absent percentage does not count as complete: the output of its
    /// operation lacks the field, one second after a copy of hours began.
    pub fn ready(&self) -> bool {
        let is = |value: &Option<String>, words: &[&str]| {
            value.as_ref().is_some_and(|v| words.iter().any(|word| v.eq_ignore_ascii_case(word)))
        };
        let accessible = self.access_state.is_none()
            || is(&self.access_state, &["Available", "AvailableWithInstantAccess"]);
        let complete = match self.completion_percent {
            Some(percent) => percent >= 100.0,
            None => !is(&self.create_option, &["CopyStart"]),
        };
        is(&self.provisioning_state, &["Succeeded"])
            && accessible
            && complete
            && self.copy_error.is_none()
    }
}

fn percent(value: &Value) -> Option<f64> {
    value.pointer("/properties/completionPercent").and_then(Value::as_f64)
}
