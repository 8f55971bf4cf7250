//! Snapshots, and their copies in other regions.

use std::collections::BTreeMap;

use azdr_domain::ArmId;
use azure_mgmt_compute::package_2024_07_01::models;
use models::creation_data::CreateOption;
use serde_json::Value;

use super::disk::{tag_value, word};
use super::{Action, FinalResult, SNAPSHOT, Started, expect_type, lossless};
use crate::bridge::{DISK_API, sent};
use crate::client::{ArmClient, json_body};
use crate::error::AzureError;
use crate::views::Snapshot;

/// A snapshot to be taken of a disk: always incremental.
#[derive(Clone, PartialEq, Debug)]
pub struct SnapshotSpec {
    /// The region, the disk's own.
    pub location: String,
    /// The disk; must be in the same subscription.
    pub source_disk: ArmId,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `Standard_LRS` or `Standard_ZRS`; Azure takes ZRS where the region has it otherwise.
    pub sku: Option<String>,
    /// `AllowAll` (Azure's default), `AllowPrivate`, `DenyAll`. The last two also keep *us* from
    /// reading its bytes; disks can be made of it all the same.
    pub network_access_policy: Option<String>,
    /// `Enabled` (Azure's default) or `Disabled`.
    pub public_network_access: Option<String>,
}

impl SnapshotSpec {
    /// A snapshot without tags, with Azure's defaults.
    pub fn new(location: impl Into<String>, source_disk: ArmId) -> Self {
        Self {
            location: location.into(),
            source_disk,
            tags: BTreeMap::new(),
            sku: None,
            network_access_policy: None,
            public_network_access: None,
        }
    }
}

/// A copy of an incremental snapshot, made in another region (or the same one).
#[derive(Clone, PartialEq, Debug)]
pub struct CopySpec {
    /// The region of the copy.
    pub location: String,
    /// What is copied; must stay until the copy is complete.
    pub source_snapshot: ArmId,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// `Standard_LRS` or `Standard_ZRS`.
    pub sku: Option<String>,
    /// `encryption` with the target region's disk encryption set, as Azure writes it.
    pub encryption: Option<Value>,
    /// As in [`SnapshotSpec::network_access_policy`].
    pub network_access_policy: Option<String>,
    /// As in [`SnapshotSpec::public_network_access`].
    pub public_network_access: Option<String>,
}

impl CopySpec {
    /// A copy without tags, with Azure's defaults.
    pub fn new(location: impl Into<String>, source_snapshot: ArmId) -> Self {
        Self {
            location: location.into(),
            source_snapshot,
            tags: BTreeMap::new(),
            sku: None,
            encryption: None,
            network_access_policy: None,
            public_network_access: None,
        }
    }
}

/// What both have in common.
struct Body<'a> {
    location: &'a str,
    option: CreateOption,
    source: &'a ArmId,
    tags: &'a BTreeMap<String, String>,
    sku: Option<&'a String>,
    encryption: Option<&'a Value>,
    network_access_policy: Option<&'a String>,
    public_network_access: Option<&'a String>,
}

impl Body<'_> {
    fn model(self) -> Result<models::Snapshot, AzureError> {
        let mut creation = models::CreationData::new(self.option);
        creation.source_resource_id = Some(self.source.as_str().to_owned());
        let mut properties = models::SnapshotProperties::new(creation);
        // False by default, and a full snapshot cannot be copied to another region.
        properties.incremental = Some(true);
        properties.encryption = lossless("encryption", self.encryption)?;
        properties.network_access_policy = word("networkAccessPolicy", self.network_access_policy)?;
        properties.public_network_access = word("publicNetworkAccess", self.public_network_access)?;
        let mut resource = models::Resource::new(self.location.to_owned());
        resource.tags = tag_value(self.tags);
        let mut snapshot = models::Snapshot::new(resource);
        snapshot.sku = match word("sku", self.sku)? {
            None => None,
            name => Some(models::SnapshotSku { name, ..models::SnapshotSku::default() }),
        };
        snapshot.properties = Some(properties);
        Ok(snapshot)
    }
}

impl ArmClient {
    /// Takes an incremental snapshot of a disk.
    ///
    /// The final value is the operation's own output, without a further request (a machine may be
    /// frozen meanwhile): it lacks `completionPercent`, so read the snapshot before trusting
    /// [`Snapshot::ready`] for Premium SSD v2 and Ultra disks.
    ///
    /// Repeating it succeeds and **keeps the first content**. So an existing snapshot is ours only if
    /// `timeCreated`, source disk `uniqueId` and tags agree; after a time-out it may exist: look.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the answer was lost.
    pub async fn begin_create_snapshot(
        &self,
        id: &ArmId,
        spec: &SnapshotSpec,
    ) -> Result<Started, AzureError> {
        let body = Body {
            location: &spec.location,
            option: CreateOption::Copy,
            source: &spec.source_disk,
            tags: &spec.tags,
            sku: spec.sku.as_ref(),
            encryption: None,
            network_access_policy: spec.network_access_policy.as_ref(),
            public_network_access: spec.public_network_access.as_ref(),
        };
        self.put_snapshot(id, body, FinalResult::Output).await
    }

    /// Starts a copy of a snapshot (`CopyStart`).
    ///
    /// The operation succeeds after a second, when the copy has barely begun: poll
    /// [`ArmClient::get_snapshot`] until [`Snapshot::ready`], or until `copy_error` is set. A copy
    /// that stalls never fails by itself. Copies of one disk go in creation order, one at a time.
    ///
    /// Repeating it while the copy exists changes nothing. After a time-out it may exist: look.
    ///
    /// # Errors
    /// `NotFound` when the source does not exist; `Denied` without rights on it.
    pub async fn begin_copy_snapshot(
        &self,
        id: &ArmId,
        spec: &CopySpec,
    ) -> Result<Started, AzureError> {
        let body = Body {
            location: &spec.location,
            option: CreateOption::CopyStart,
            source: &spec.source_snapshot,
            tags: &spec.tags,
            sku: spec.sku.as_ref(),
            encryption: spec.encryption.as_ref(),
            network_access_policy: spec.network_access_policy.as_ref(),
            public_network_access: spec.public_network_access.as_ref(),
        };
        self.put_snapshot(id, body, FinalResult::Resource).await
    }

    async fn put_snapshot(
        &self,
        id: &ArmId,
        body: Body<'_>,
        result: FinalResult,
    ) -> Result<Started, AzureError> {
        expect_type(id, SNAPSHOT)?;
        let request = self.builders.snapshots().create_or_update(
            id.subscription(),
            id.resource_group(),
            id.name(),
            body.model()?,
        );
        let answer = sent(request.send()).await;
        self.begun(id, Action::Write, result, answer)
    }

    /// Reads a snapshot. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_snapshot(&self, id: &ArmId) -> Result<Snapshot, AzureError> {
        expect_type(id, SNAPSHOT)?;
        let request =
            self.builders.snapshots().get(id.subscription(), id.resource_group(), id.name());
        Ok(Snapshot::from_json(json_body(&sent(request.send()).await?)?))
    }

    /// All snapshots of a subscription, or of one of its resource groups; empty for a group that
    /// does not exist. A time-out changes nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_snapshots(
        &self,
        subscription: &str,
        resource_group: Option<&str>,
    ) -> Result<Vec<Snapshot>, AzureError> {
        let scope = match resource_group {
            Some(group) => ArmId::resource_group_id(subscription, group),
            // Any valid group serves to have the subscription checked.
            None => ArmId::resource_group_id(subscription, "g"),
        }
        .map_err(super::invalid_id)?;
        let prefix = match resource_group {
            Some(_) => scope.as_str().to_owned(),
            None => format!("/subscriptions/{}", scope.subscription()),
        };
        let path = format!("{prefix}/providers/{SNAPSHOT}?api-version={DISK_API}");
        match self.list_json(&path).await {
            Ok(items) => Ok(items.into_iter().map(Snapshot::from_json).collect()),
            Err(error) if resource_group.is_some() && error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a snapshot; one that does not exist is a success. After a time-out it may be gone, or
    /// go soon: repeat it.
    ///
    /// # Errors
    /// `Conflict` while access to it is granted; `Locked`.
    pub async fn begin_delete_snapshot(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_type(id, SNAPSHOT)?;
        let request =
            self.builders.snapshots().delete(id.subscription(), id.resource_group(), id.name());
        let answer = sent(request.send()).await;
        self.begun(id, Action::Delete, FinalResult::Nothing, answer)
    }
}
