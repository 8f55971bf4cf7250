//! Managed disks.

use azdr_env::WallTime;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::operations::{Begin, Effect, Output, Service, Work};
use super::state::{Disk, Power, provisioning};
use super::tags::{Tags, checked_tags};
use super::volume::{Creation, Volume, gib};
use super::{Accepted, ArmError, ArmId, Injected, Kind, World};
use crate::latency::Action;

/// Body of a PUT or PATCH on a disk. Unknown members are kept or ignored as ARM does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DiskRequest {
    /// Region.
    pub location: Option<String>,
    /// Tags.
    pub tags: Option<Tags>,
    /// Zones.
    pub zones: Option<Vec<String>>,
    /// `{"name": …}`.
    pub sku: Option<Value>,
    /// Everything else.
    pub properties: Map<String, Value>,
}

/// `creationData` of a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreationData {
    pub(super) create_option: String,
    #[serde(alias = "sourceUri")]
    pub(super) source_resource_id: Option<String>,
    #[serde(flatten)]
    pub(super) extra: Map<String, Value>,
}

/// Takes `creationData` out of a request's properties.
pub(super) fn creation_data(properties: &mut Map<String, Value>) -> Result<CreationData, ArmError> {
    let missing = || ArmError::invalid("Required parameter 'creationData' is missing (null).");
    let mut value = properties.remove("creationData").ok_or_else(missing)?;
    if let Some(data) = value.as_object_mut() {
        data.remove("sourceUniqueId");
    }
    serde_json::from_value(value).map_err(|e| ArmError::invalid(format!("creationData: {e}")))
}

pub(super) fn sku_name(sku: Option<&Value>) -> Option<String> {
    Some(sku?.get("name")?.as_str()?.to_owned())
}

pub(super) fn check_name(kind: &str, name: &str) -> Result<(), ArmError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    if !name.is_empty() && name.len() <= 80 && name.chars().all(legal) {
        return Ok(());
    }
    Err(ArmError::invalid(format!(
        "The entity name '{name}' is invalid according to its validation rule: \
         ^[^_\\W][\\w-._]{{0,79}}(?<![-.])$ ({kind})."
    )))
}

impl World {
    /// Creates a disk, or changes one.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_disk(
        &mut self,
        id: &ArmId,
        request: DiskRequest,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        match self.state.disks.get(&id.key()) {
            Some(disk) if disk.volume.broken => self.remove(id, now),
            Some(_) => {
                // A second PUT while the first is under way waits for the first.
                if let Some(operation) = self.creating(id) {
                    let operation = Some(operation);
                    return Ok(Accepted { operation, created: false, joined: true });
                }
                return self.patch_disk(id, request, injected, now);
            }
            None => {}
        }
        check_name("disks", &id.name)?;
        let location = request.location.as_deref().ok_or_else(|| {
            ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            )
        })?;
        let location = self.check_place(id, location)?;
        let tags = checked_tags(request.tags.unwrap_or_default())?;
        let mut properties = request.properties;
        let creation = creation_data(&mut properties)?;
        let asked = properties.remove("diskSizeGB").and_then(|v| v.as_u64());
        let source = self.disk_source(&creation, &location, now)?;
        let size_bytes = new_size(asked, source.as_ref().map(|(_, volume, _)| volume.size_bytes))?;
        let unique_id = self.guid();
        let (inherited, extra) =
            Volume::describe(properties, source.as_ref().map(|(_, volume, _)| volume));
        let volume = Volume {
            unique_id,
            size_bytes,
            sku: sku_name(request.sku.as_ref()).unwrap_or_else(|| "Standard_LRS".into()),
            creation: Creation {
                option: creation.create_option,
                source: source.as_ref().map(|(id, ..)| id.clone()),
                source_unique_id: source.as_ref().map(|(_, volume, _)| volume.unique_id.clone()),
                extra: creation.extra,
            },
            inherited,
            extra,
            grant: None,
            broken: false,
        };
        let file = volume.file();
        let work = match source {
            None => Work::CreateEmpty { file, size_bytes },
            Some((_, volume, vm_id)) => {
                Work::Capture { vm_id, source: volume.file(), target: file, size_bytes }
            }
        };
        let mut common = self.common(id.clone(), location, tags, now);
        common.zones = request.zones.unwrap_or_default();
        let operation = self.begin_disk(
            &common.id,
            &common.location,
            Effect::Create(id.clone()),
            Output::Resource(id.clone()),
            vec![work],
            injected,
            now,
        );
        self.state.disks.insert(id.key(), Disk { common, volume, managed_by: None });
        Ok(Accepted { operation: Some(operation), created: true, joined: false })
    }

    /// The resource to copy, its volume, and the running machine that writes to it.
    fn disk_source(
        &self,
        creation: &CreationData,
        location: &str,
        now: WallTime,
    ) -> Result<Option<(ArmId, Volume, Option<String>)>, ArmError> {
        match creation.create_option.to_lowercase().as_str() {
            "empty" => return Ok(None),
            "copy" => {}
            other => {
                return Err(ArmError::bad_request(
                    "BadRequest",
                    format!("Disk create option '{other}' is not supported."),
                ));
            }
        }
        let text = creation.source_resource_id.as_deref().ok_or_else(|| {
            ArmError::invalid(
                "Required parameter 'creationData.sourceResourceId' is missing (null).",
            )
        })?;
        let id = ArmId::parse(text).ok_or_else(|| {
            ArmError::invalid(format!("The value '{text}' of 'sourceResourceId' is not valid."))
        })?;
        let missing = || ArmError::missing_reference(text);
        let (common, volume, vm_id) = match id.kind {
            Kind::Disk => {
                let disk = self.state.disks.get(&id.key()).ok_or_else(missing)?;
                (&disk.common, &disk.volume, self.writer(disk))
            }
            Kind::Snapshot => {
                let snapshot = self.state.snapshots.get(&id.key()).ok_or_else(missing)?;
                if !snapshot.is_complete(now) {
                    return Err(ArmError::not_allowed(format!(
                        "Snapshot {} is not in a usable state: its copy is {} percent complete.",
                        snapshot.common.id.name,
                        snapshot.percent(now)
                    )));
                }
                (&snapshot.common, &snapshot.volume, None)
            }
            _ => return Err(ArmError::invalid(format!("'{text}' is not a disk or snapshot."))),
        };
        if common.location != location {
            return Err(missing());
        }
        check_source_ready(common)?;
        Ok(Some((common.id.clone(), volume.clone(), vm_id)))
    }

    /// The `vmId` of the running machine that writes to the disk.
    pub(super) fn writer(&self, disk: &Disk) -> Option<String> {
        let vm = self.state.vms.get(&disk.managed_by.as_ref()?.key())?;
        let runs = matches!(vm.power, Power::Running | Power::Starting | Power::Stopping);
        runs.then(|| vm.vm_id.clone())
    }

    /// Changes tags, SKU, size and other properties of a disk.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn patch_disk(
        &mut self,
        id: &ArmId,
        request: DiskRequest,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let tags = request.tags.map(checked_tags).transpose()?;
        let disk = self.state.disks.get(&id.key()).ok_or_else(|| not_found(id))?;
        check_changeable(&disk.common)?;
        let mut properties = request.properties;
        let creation = properties.remove("creationData");
        if let Some(option) = creation.as_ref().and_then(|c| c["createOption"].as_str())
            && !option.eq_ignore_ascii_case(&disk.volume.creation.option)
        {
            return Err(changed_property("disk.creationData.createOption"));
        }
        let old = disk.volume.size_bytes;
        let asked = properties.remove("diskSizeGB").and_then(|v| v.as_u64());
        if asked.is_some_and(|asked| asked < gib(old)) {
            return Err(ArmError::bad_request(
                "ResizeDiskError",
                format!(
                    "Changing property 'diskSizeGB' from {} is not allowed: disks cannot be shrunk.",
                    gib(old)
                ),
            ));
        }
        if asked.is_some_and(|asked| asked > gib(old)) && self.writer(disk).is_some() {
            return Err(ArmError::not_allowed(format!(
                "Cannot resize disk {} while it is attached to a running VM.",
                id.name
            )));
        }
        let location = disk.common.location.clone();
        let grow = asked.filter(|asked| *asked > gib(old));
        let work =
            grow.map(|asked| Work::Grow { file: disk.volume.file(), size_bytes: asked << 30 });
        let operation = self.begin_disk(
            id,
            &location,
            Effect::Ready(id.clone()),
            Output::Resource(id.clone()),
            work.into_iter().collect(),
            injected,
            now,
        );
        if let Some(disk) = self.state.disks.get_mut(&id.key()) {
            disk.common.provisioning = provisioning::UPDATING.into();
            if injected.fail_operation.is_none() {
                if let Some(tags) = tags {
                    disk.common.tags = tags;
                }
                if let Some(sku) = sku_name(request.sku.as_ref()) {
                    disk.volume.sku = sku;
                }
                if let Some(asked) = grow {
                    disk.volume.size_bytes = asked << 30;
                }
                disk.volume.merge(properties);
            }
        }
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }

    /// Deletes a disk; a missing one is `None`.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn delete_disk(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Option<Accepted>, ArmError> {
        let Some(disk) = self.state.disks.get(&id.key()) else { return Ok(None) };
        if let Some(vm) = &disk.managed_by {
            return Err(ArmError::not_allowed(format!(
                "Disk {} is attached to VM {}.",
                id.name,
                vm.shouted()
            )));
        }
        if disk.volume.active_grant(now).is_some() {
            return Err(active_sas(id));
        }
        Ok(Some(self.begin_delete(id, injected, now)))
    }

    /// Starts the deletion of a disk or snapshot.
    pub(super) fn begin_delete(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Accepted {
        let location = self.state.common(id).map(|c| c.location.clone()).unwrap_or_default();
        let effect = Effect::Delete(id.clone());
        let operation =
            self.begin_disk(id, &location, effect, Output::None, Vec::new(), injected, now);
        if let Some(common) = self.state.common_mut(id) {
            common.provisioning = provisioning::DELETING.into();
        }
        Accepted { operation: Some(operation), created: false, joined: false }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a record in all but name, used in this module's family only"
    )]
    pub(super) fn begin_disk(
        &mut self,
        id: &ArmId,
        location: &str,
        effect: Effect,
        output: Output,
        work: Vec<Work>,
        injected: &Injected,
        now: WallTime,
    ) -> String {
        let takes = self.takes(match id.kind {
            Kind::Snapshot if !work.is_empty() => Action::Snapshot,
            _ => Action::Disk,
        });
        let begin = Begin {
            subscription: id.subscription.clone(),
            location: location.to_owned(),
            service: Service::Disk,
            takes,
            effect,
            output,
            work,
        };
        self.begin(begin, injected, now)
    }

    /// Removes a disk, snapshot or network resource at the end of its deletion.
    pub(super) fn remove(&mut self, id: &ArmId, at: WallTime) {
        match id.kind {
            Kind::Disk => {
                if let Some(disk) = self.state.disks.remove(&id.key()) {
                    self.state.forget_grant(&disk.volume);
                    self.state.garbage.push(disk.volume.file());
                }
            }
            Kind::Snapshot => self.remove_snapshot(id, at),
            Kind::Vm => self.remove_vm(id, at),
            _ => self.remove_network(id),
        }
        self.remove_locks_of(id);
    }
}

impl Volume {
    /// Overwrites descriptions with those of a request; `null` removes.
    pub(super) fn merge(&mut self, properties: Map<String, Value>) {
        for (name, value) in properties {
            if super::volume::READ_ONLY.contains(&name.as_str()) {
                continue;
            }
            let into = if super::volume::INHERITED.contains(&name.as_str()) {
                &mut self.inherited
            } else {
                &mut self.extra
            };
            if value.is_null() {
                into.remove(&name);
            } else {
                into.insert(name, value);
            }
        }
    }
}

/// The exact size of a new disk: the source's own when the caller asks for as many GiB as Azure
/// shows for it.
fn new_size(asked_gib: Option<u64>, source_bytes: Option<u64>) -> Result<u64, ArmError> {
    match (asked_gib, source_bytes) {
        (Some(asked), None) if asked > 0 => Ok(asked << 30),
        (_, None) => {
            Err(ArmError::invalid("Required parameter 'disk.diskSizeGB' is missing (null)."))
        }
        (None, Some(bytes)) => Ok(bytes),
        (Some(asked), Some(bytes)) if asked == gib(bytes) => Ok(bytes),
        (Some(asked), Some(bytes)) if asked > gib(bytes) => Ok(asked << 30),
        (Some(asked), Some(bytes)) => Err(ArmError::bad_request(
            "BadRequest",
            format!(
                "Disk size {asked} GB is smaller than the size of its source, {} GB.",
                gib(bytes)
            ),
        )),
    }
}

/// Refuses changes to what is not there yet, or not for long.
pub(super) fn check_changeable(common: &super::Common) -> Result<(), ArmError> {
    let word = common.provisioning.as_str();
    if word == provisioning::CREATING || word == provisioning::DELETING {
        return Err(ArmError::conflict(
            "AnotherOperationInProgress",
            format!(
                "Resource {} is in provisioning state {word} and cannot be changed.",
                common.id
            ),
        ));
    }
    Ok(())
}

/// Refuses to read what has no complete content.
pub(super) fn check_source_ready(common: &super::Common) -> Result<(), ArmError> {
    let unusable = [provisioning::CREATING, provisioning::FAILED, provisioning::DELETING];
    if unusable.contains(&common.provisioning.as_str()) {
        return Err(ArmError::not_allowed(format!(
            "Resource {} is in provisioning state {} and cannot be used.",
            common.id, common.provisioning
        )));
    }
    Ok(())
}

pub(super) fn active_sas(id: &ArmId) -> ArmError {
    ArmError::not_allowed(format!(
        "There is an active shared access signature outstanding for {} {}. Call EndGetAccess before \
         attaching or deleting it.",
        if id.kind == Kind::Disk { "disk" } else { "snapshot" },
        id.name
    ))
}

pub(super) fn changed_property(name: &str) -> ArmError {
    ArmError::conflict(
        "PropertyChangeNotAllowed",
        format!("Changing property '{name}' is not allowed."),
    )
}

/// ARM's 404 for a resource.
pub(super) fn not_found(id: &ArmId) -> ArmError {
    ArmError::resource_not_found(&format!("{}/{}", id.kind.type_name(), id.name), &id.group)
}
