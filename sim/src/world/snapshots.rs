//! Snapshots of disks. Copies of snapshots are in `copies.rs`.

use std::time::Duration;

use azdr_env::WallTime;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::disks::{
    CreationData, active_sas, changed_property, check_changeable, check_name, check_source_ready,
    creation_data, not_found, sku_name,
};
use super::immutability::check_deletable;
use super::operations::{Effect, Output, Work};
use super::state::{Snapshot, provisioning};
use super::tags::{Tags, checked_tags};
use super::volume::{Creation, Progress, Volume};
use super::{Accepted, ArmError, ArmId, Injected, Kind, World};
use crate::latency::Action;

/// Body of a PUT or PATCH on a snapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SnapshotRequest {
    /// Region.
    pub location: Option<String>,
    /// Tags.
    pub tags: Option<Tags>,
    /// `{"name": …}`.
    pub sku: Option<Value>,
    /// Everything else.
    pub properties: Map<String, Value>,
}

/// What a new snapshot is made from, after all checks.
pub(super) struct Source {
    pub(super) id: ArmId,
    pub(super) volume: Volume,
    pub(super) family: Option<String>,
    pub(super) copied_family: Option<String>,
    pub(super) source_created: Option<WallTime>,
    pub(super) progress: Option<Progress>,
    /// The running machine that writes to the source.
    pub(super) vm_id: Option<String>,
    /// The source's content never changes.
    pub(super) immutable: bool,
}

impl World {
    /// Creates a snapshot or a copy of one. On an existing name it succeeds and leaves the content
    /// as it was: the snapshot keeps its first point in time.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_snapshot(
        &mut self,
        id: &ArmId,
        request: SnapshotRequest,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        match self.state.snapshots.get(&id.key()) {
            Some(snapshot) if snapshot.volume.broken => self.remove(id, now),
            Some(_) => return self.patch_snapshot(id, request, injected, now),
            None => {}
        }
        check_name("snapshots", &id.name)?;
        let location = request.location.as_deref().ok_or_else(|| {
            ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            )
        })?;
        let location = self.check_place(id, location)?;
        let tags = checked_tags(request.tags.unwrap_or_default())?;
        let mut properties = request.properties;
        let incremental =
            properties.remove("incremental").and_then(|v| v.as_bool()).unwrap_or(false);
        let creation = creation_data(&mut properties)?;
        let source = match creation.create_option.to_lowercase().as_str() {
            "copy" => self.copy_source(id, &creation, incremental, &location, now)?,
            "copystart" => {
                self.copy_start_source(id, &creation, incremental, &location, injected, now)?
            }
            other => {
                return Err(ArmError::bad_request(
                    "BadRequest",
                    format!("Snapshot create option '{other}' is not supported."),
                ));
            }
        };
        let unique_id = self.guid();
        let (inherited, extra) = Volume::describe(properties, Some(&source.volume));
        let volume = Volume {
            unique_id,
            size_bytes: source.volume.size_bytes,
            sku: sku_name(request.sku.as_ref()).unwrap_or_else(|| "Standard_ZRS".into()),
            creation: Creation {
                option: creation.create_option,
                source: Some(source.id.clone()),
                source_unique_id: Some(source.volume.unique_id.clone()),
                extra: creation.extra,
            },
            inherited,
            extra,
            grant: None,
            broken: false,
        };
        let work = source.work(volume.file());
        let operation = self.begin_disk(
            id,
            &location,
            Effect::Create(id.clone()),
            Output::Resource(id.clone()),
            vec![work],
            injected,
            now,
        );
        let snapshot = Snapshot {
            common: self.common(id.clone(), location, tags, now),
            volume,
            incremental,
            family: source.family,
            copied_family: source.copied_family,
            source_created: source.source_created,
            progress: source.progress,
            immutability: None,
        };
        self.state.index_snapshot(&id.key(), &snapshot);
        if injected.fail_operation.is_some() {
            self.state.unindex_copy(&id.key(), snapshot.progress.as_ref());
        }
        self.state.snapshots.insert(id.key(), snapshot);
        Ok(Accepted { operation: Some(operation), created: true, joined: false })
    }

    /// `createOption: Copy`, of a disk or of a snapshot in the same region.
    fn copy_source(
        &self,
        target: &ArmId,
        creation: &CreationData,
        incremental: bool,
        location: &str,
        now: WallTime,
    ) -> Result<Source, ArmError> {
        let (text, id) = source_id(creation)?;
        if id.kind == Kind::Snapshot {
            return self.local_copy_source(&id, &text, incremental, location, now);
        }
        let disk =
            self.state.disks.get(&id.key()).ok_or_else(|| ArmError::missing_reference(&text))?;
        if disk.common.location != location {
            return Err(ArmError::missing_reference(&text));
        }
        check_source_ready(&disk.common)?;
        if incremental && !id.subscription.eq_ignore_ascii_case(&target.subscription) {
            return Err(ArmError::bad_request(
                "BadRequest",
                "An incremental snapshot must be created in the subscription of its disk.",
            ));
        }
        let mut progress = None;
        if incremental {
            self.check_snapshot_quotas(&disk.volume, now)?;
            if disk.volume.is_background_copied() {
                progress = Some(self.new_progress(&Injected::default(), now));
            }
        }
        Ok(Source {
            id: disk.common.id.clone(),
            volume: disk.volume.clone(),
            // One family per disk: derived from what identifies the disk.
            family: incremental.then(|| family_of_disk(&disk.volume.unique_id)),
            copied_family: None,
            source_created: None,
            progress,
            vm_id: self.writer(disk),
            immutable: false,
        })
    }

    pub(super) fn new_progress(&self, injected: &Injected, now: WallTime) -> Progress {
        let takes_ms = self.takes(Action::Copy).as_millis() as u64;
        let (stall_at, breaks_at) = (injected.stall_copy_at, injected.fail_copy_at.clone());
        Progress { started: now, takes_ms, stall_at, error: None, breaks_at }
    }

    fn check_snapshot_quotas(&self, disk: &Volume, now: WallTime) -> Result<(), ArmError> {
        let none = std::collections::BTreeSet::new();
        let alive = self.state.snapshots_of.get(&disk.unique_id).unwrap_or(&none);
        let count = alive.len();
        let pending = if disk.is_background_copied() {
            let snapshots = alive.iter().filter_map(|(_, key)| self.state.snapshots.get(key));
            snapshots.filter(|snapshot| snapshot.percent(now) < 100.0).count()
        } else {
            0
        };
        if count >= self.limits.snapshots_per_disk {
            return Err(ArmError::not_allowed(format!(
                "The maximum number of incremental snapshots of a disk, {}, has been reached.",
                self.limits.snapshots_per_disk
            )));
        }
        if let Some(limit) = self.limits.snapshots_per_disk_in_5_minutes {
            let recent = alive
                .iter()
                .rev()
                .take_while(|(created, _)| now.since(*created) < Duration::from_secs(300))
                .take(limit)
                .count();
            if recent >= limit {
                return Err(ArmError::not_allowed(format!(
                    "{recent} incremental snapshots of this disk were created within five minutes, \
                     which is the maximum.",
                )));
            }
        }
        if pending >= 3 {
            return Err(ArmError::not_allowed("Three snapshots of this disk are pending already."));
        }
        Ok(())
    }

    /// Changes tags, SKU and other properties; never the content.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn patch_snapshot(
        &mut self,
        id: &ArmId,
        request: SnapshotRequest,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let tags = request.tags.map(checked_tags).transpose()?;
        let snapshot = self.state.snapshots.get(&id.key()).ok_or_else(|| not_found(id))?;
        let option =
            request.properties.get("creationData").and_then(|c| c["createOption"].as_str());
        if option.is_some_and(|o| !o.eq_ignore_ascii_case(&snapshot.volume.creation.option)) {
            return Err(changed_property("snapshot.creationData.createOption"));
        }
        let incremental = request.properties.get("incremental").and_then(Value::as_bool);
        if incremental.is_some_and(|incremental| incremental != snapshot.incremental) {
            return Err(changed_property("snapshot.incremental"));
        }
        // A second PUT while the first is under way waits for the first.
        let joined = self.creating(id);
        if joined.is_none() {
            check_changeable(&snapshot.common)?;
        }
        let location = snapshot.common.location.clone();
        let accepted = Accepted { operation: joined.clone(), created: false, joined: true };
        let operation = joined.is_none().then(|| {
            let (effect, output) = (Effect::Ready(id.clone()), Output::Resource(id.clone()));
            self.begin_disk(id, &location, effect, output, Vec::new(), injected, now)
        });
        if let Some(snapshot) = self.state.snapshots.get_mut(&id.key()) {
            if operation.is_some() {
                snapshot.common.provisioning = provisioning::UPDATING.into();
            }
            if injected.fail_operation.is_none() {
                if let Some(tags) = tags {
                    snapshot.common.tags = tags;
                }
                if let Some(sku) = sku_name(request.sku.as_ref()) {
                    snapshot.volume.sku = sku;
                }
                snapshot.volume.merge(request.properties);
            }
        }
        Ok(operation.map_or(accepted, |operation| Accepted {
            operation: Some(operation),
            created: false,
            joined: false,
        }))
    }

    /// Deletes a snapshot; a missing one is `None`.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn delete_snapshot(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Option<Accepted>, ArmError> {
        let Some(snapshot) = self.state.snapshots.get(&id.key()) else { return Ok(None) };
        if snapshot.volume.active_grant(now).is_some() {
            return Err(active_sas(id));
        }
        check_deletable(snapshot, now)?;
        Ok(Some(self.begin_delete(id, injected, now)))
    }

    /// Removes a snapshot at the end of its deletion; copies that still read it break.
    pub(super) fn remove_snapshot(&mut self, id: &ArmId, at: WallTime) {
        let Some(snapshot) = self.state.snapshots.remove(&id.key()) else { return };
        self.break_copies_of(id, at);
        self.state.unindex_snapshot(&id.key(), &snapshot);
        self.state.forget_grant(&snapshot.volume);
        self.state.garbage.push(snapshot.volume.file());
    }
}

impl Source {
    fn work(&self, target: String) -> Work {
        let source = self.volume.file();
        if self.immutable {
            return Work::Share { source, target };
        }
        Work::Capture {
            vm_id: self.vm_id.clone(),
            source,
            target,
            size_bytes: self.volume.size_bytes,
        }
    }
}

/// The id of what a snapshot is to be made from.
pub(super) fn source_id(creation: &CreationData) -> Result<(String, ArmId), ArmError> {
    let text = creation.source_resource_id.clone().ok_or_else(|| {
        ArmError::invalid("Required parameter 'creationData.sourceResourceId' is missing (null).")
    })?;
    let id = ArmId::parse(&text)
        .filter(|id| matches!(id.kind, Kind::Disk | Kind::Snapshot))
        .ok_or_else(|| {
            ArmError::invalid(format!("The value '{text}' of 'sourceResourceId' is not valid."))
        })?;
    Ok((text, id))
}

/// A GUID that is the same for all snapshots of one disk, and not the disk's own.
fn family_of_disk(unique_id: &str) -> String {
    let turned = |c: char| c.to_digit(16).map_or(c, |d| char::from_digit(15 - d, 16).unwrap_or(c));
    unique_id.chars().map(turned).collect()
}
