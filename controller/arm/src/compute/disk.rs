//! Managed disks.

use std::collections::BTreeMap;

use azdr_domain::ArmId;
use azure_mgmt_compute::package_2024_07_01::models;
use models::creation_data::CreateOption;
use serde_json::Value;

use super::{Action, DISK, FinalResult, Started, expect_type, lossless};
use crate::bridge::sent;
use crate::client::{ArmClient, json_body};
use crate::error::{AzureError, ErrorClass};
use crate::views::Disk;

/// A disk to be made of a snapshot in the same region. Takes over what the original had: size, SKU,
/// zone, encryption, security type.
#[derive(Clone, PartialEq, Debug)]
pub struct DiskSpec {
    /// The region, the snapshot's own.
    pub location: String,
    /// At most one zone.
    pub zones: Vec<String>,
    /// For example `Premium_LRS`; Azure's default otherwise.
    pub sku: Option<String>,
    /// What it is a copy of.
    pub source_snapshot: ArmId,
    /// At least the snapshot's, which is the default; rounded up to whole GiB.
    pub size_bytes: Option<u64>,
    /// `Linux` or `Windows`; inherited from the snapshot otherwise.
    pub os_type: Option<String>,
    /// `V1` or `V2`; inherited from the snapshot otherwise.
    pub hyper_v_generation: Option<String>,
    /// The original's `encryption`, as Azure sent it.
    pub encryption: Option<Value>,
    /// The original's `securityProfile`, as Azure sent it.
    pub security_profile: Option<Value>,
    /// `AllowAll`, `AllowPrivate`, `DenyAll`: who may be granted access to the bytes.
    pub network_access_policy: Option<String>,
    /// `Enabled` or `Disabled`.
    pub public_network_access: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl DiskSpec {
    /// A disk that takes everything from its snapshot.
    pub fn new(location: impl Into<String>, source_snapshot: ArmId) -> Self {
        Self {
            location: location.into(),
            zones: Vec::new(),
            sku: None,
            source_snapshot,
            size_bytes: None,
            os_type: None,
            hyper_v_generation: None,
            encryption: None,
            security_profile: None,
            network_access_policy: None,
            public_network_access: None,
            tags: BTreeMap::new(),
        }
    }

    fn model(&self) -> Result<models::Disk, AzureError> {
        let mut creation = models::CreationData::new(CreateOption::Copy);
        creation.source_resource_id = Some(self.source_snapshot.as_str().to_owned());
        let mut properties = models::DiskProperties::new(creation);
        properties.disk_size_gb = match self.size_bytes.map(|bytes| bytes.div_ceil(1 << 30)) {
            None => None,
            Some(gib) => Some(i32::try_from(gib).map_err(|_| {
                AzureError::new(ErrorClass::Invalid, "InvalidDiskSize", "no disk is that large")
            })?),
        };
        properties.os_type = word("osType", self.os_type.as_ref())?;
        properties.hyper_v_generation = word("hyperVGeneration", self.hyper_v_generation.as_ref())?;
        properties.encryption = lossless("encryption", self.encryption.as_ref())?;
        properties.security_profile = lossless("securityProfile", self.security_profile.as_ref())?;
        properties.network_access_policy =
            word("networkAccessPolicy", self.network_access_policy.as_ref())?;
        properties.public_network_access =
            word("publicNetworkAccess", self.public_network_access.as_ref())?;

        let mut resource = models::Resource::new(self.location.clone());
        resource.tags = tag_value(&self.tags);
        let mut disk = models::Disk::new(resource);
        disk.zones.clone_from(&self.zones);
        disk.sku = match word("sku", self.sku.as_ref())? {
            None => None,
            name => Some(models::DiskSku { name, ..models::DiskSku::default() }),
        };
        disk.properties = Some(properties);
        Ok(disk)
    }
}

impl ArmClient {
    /// Reads a disk. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_disk(&self, id: &ArmId) -> Result<Disk, AzureError> {
        expect_type(id, DISK)?;
        let request = self.builders.disks().get(id.subscription(), id.resource_group(), id.name());
        Ok(Disk::from_json(json_body(&sent(request.send()).await?)?))
    }

    /// Makes a disk of a snapshot. It is usable at once, while its data still comes in.
    ///
    /// Repeating it with the same name and spec changes nothing. After a time-out the disk may
    /// exist: repeat it, or read the disk and look at its tags.
    ///
    /// # Errors
    /// `Conflict` when a disk of that name was made of something else.
    pub async fn begin_create_disk(
        &self,
        id: &ArmId,
        spec: &DiskSpec,
    ) -> Result<Started, AzureError> {
        expect_type(id, DISK)?;
        let request = self.builders.disks().create_or_update(
            id.subscription(),
            id.resource_group(),
            id.name(),
            spec.model()?,
        );
        let answer = sent(request.send()).await;
        self.begun(id, Action::Write, FinalResult::Resource, answer)
    }

    /// Deletes a disk; one that does not exist is a success. After a time-out it may be gone, or go
    /// soon: repeat it.
    ///
    /// # Errors
    /// `Conflict` while a VM has it or access to it is granted; `Locked`.
    pub async fn begin_delete_disk(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, DISK)?;
        let request =
            self.builders.disks().delete(id.subscription(), id.resource_group(), id.name());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Delete, FinalResult::Nothing, answer)
    }
}

/// A word as the builders' enum of it. Words they do not know are sent as they are.
pub(super) fn word<T>(name: &str, text: Option<&String>) -> Result<Option<T>, AzureError>
where
    T: serde::de::DeserializeOwned,
{
    let Some(text) = text else { return Ok(None) };
    serde_json::from_value(Value::String(text.clone())).map(Some).map_err(|_| {
        let message = format!("{name} cannot be \"{text}\"");
        AzureError::new(ErrorClass::Invalid, "UnsupportedValue", message)
    })
}

pub(super) fn tag_value(tags: &BTreeMap<String, String>) -> Option<Value> {
    (!tags.is_empty())
        .then(|| tags.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect())
}
