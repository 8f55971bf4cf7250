//! What azdr reads of Azure's resources: small and tolerant.
//!
//! Unknown fields and unknown values are normal, and so are missing parts (the answer to a PUT is a
//! stub). So every view is read from JSON by hand, cannot fail, and keeps the whole answer in `raw`.

use std::collections::BTreeMap;

use azdr_domain::ArmId;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod disk;
mod listed;
mod vm;

pub use disk::{CopyError, Disk, Snapshot};
pub(crate) use listed::Listed;
pub use listed::WantedTags;
pub use vm::{DataDisk, OsDisk, PowerState, Vm};

/// One line of a listing of resources.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResourceSummary {
    /// Its ID.
    pub id: ArmId,
    /// For example `Microsoft.Compute/snapshots`, as Azure wrote it.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its region.
    pub location: Option<String>,
    /// When it was made; absent unless the listing asked for it.
    #[serde(default)]
    pub created: Option<WallTime>,
}

/// A resource group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResourceGroup {
    /// Its ID.
    pub id: Option<ArmId>,
    /// Its region.
    pub location: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `Succeeded`, `Deleting`, …
    pub provisioning_state: Option<String>,
}

impl ResourceGroup {
    /// Reads ARM's JSON.
    pub fn from_json(value: &Value) -> Self {
        Self {
            id: arm_id(value, "/id"),
            location: text(value, "/location"),
            tags: tags(value),
            provisioning_state: text(value, "/properties/provisioningState"),
        }
    }
}

/// A network interface.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Its ID.
    pub id: Option<ArmId>,
    /// Its region.
    pub location: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `Succeeded`, `Updating`, …
    pub provisioning_state: Option<String>,
    /// The VM that has it.
    pub virtual_machine: Option<ArmId>,
    /// The private address of its primary configuration.
    pub private_ip: Option<String>,
    /// The subnet of its primary configuration.
    pub subnet: Option<ArmId>,
    /// The public address resource of its primary configuration.
    pub public_ip: Option<ArmId>,
    /// All of it, as Azure sent it.
    pub raw: Value,
}

impl NetworkInterface {
    /// Reads ARM's JSON.
    pub fn from_json(raw: Value) -> Self {
        let configurations = list(&raw, "/properties/ipConfigurations");
        let primary = configurations
            .iter()
            .find(|c| c.pointer("/properties/primary").and_then(Value::as_bool) == Some(true))
            .or(configurations.first())
            .cloned()
            .unwrap_or_default();
        Self {
            id: arm_id(&raw, "/id"),
            location: text(&raw, "/location"),
            tags: tags(&raw),
            provisioning_state: text(&raw, "/properties/provisioningState"),
            virtual_machine: arm_id(&raw, "/properties/virtualMachine/id"),
            private_ip: text(&primary, "/properties/privateIPAddress"),
            subnet: arm_id(&primary, "/properties/subnet/id"),
            public_ip: arm_id(&primary, "/properties/publicIPAddress/id"),
            raw,
        }
    }
}

/// A public IP address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PublicIp {
    /// Its ID.
    pub id: Option<ArmId>,
    /// The address, once there is one.
    pub ip_address: Option<String>,
    /// Its DNS name.
    pub fqdn: Option<String>,
    /// `Succeeded`, `Updating`, …
    pub provisioning_state: Option<String>,
    /// All of it, as Azure sent it.
    pub raw: Value,
}

impl PublicIp {
    /// Reads ARM's JSON.
    pub fn from_json(raw: Value) -> Self {
        Self {
            id: arm_id(&raw, "/id"),
            ip_address: text(&raw, "/properties/ipAddress"),
            fqdn: text(&raw, "/properties/dnsSettings/fqdn"),
            provisioning_state: text(&raw, "/properties/provisioningState"),
            raw,
        }
    }
}

/// As [`Value::pointer`], for the plain names of ARM: that one unescapes every name into a new string.
fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, name| value.get(name))
}

pub(crate) fn text(value: &Value, pointer: &str) -> Option<String> {
    at(value, pointer).and_then(Value::as_str).map(str::to_owned)
}

fn number(value: &Value, pointer: &str) -> Option<u64> {
    at(value, pointer).and_then(Value::as_u64)
}

fn arm_id(value: &Value, pointer: &str) -> Option<ArmId> {
    ArmId::parse(at(value, pointer)?.as_str()?).ok()
}

fn time(value: &Value, pointer: &str) -> Option<WallTime> {
    at(value, pointer)?.as_str()?.parse().ok()
}

fn list(value: &Value, pointer: &str) -> Vec<Value> {
    at(value, pointer).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// A part that is kept as it is; null counts as absent.
fn part(value: &Value, pointer: &str) -> Option<Value> {
    at(value, pointer).filter(|v| !v.is_null()).cloned()
}

pub(crate) fn tags(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.get("tags").and_then(Value::as_object);
    pairs
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `diskSizeBytes`, or `diskSizeGB` where that is all there is.
fn size_bytes(value: &Value) -> Option<u64> {
    number(value, "/properties/diskSizeBytes").or_else(|| {
        number(value, "/properties/diskSizeGB").and_then(|gib| gib.checked_mul(1 << 30))
    })
}

#[cfg(test)]
mod tests;
