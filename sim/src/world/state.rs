//! What exists.

use std::collections::{BTreeMap, BTreeSet};

use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::immutability::Immutability;
use super::operations::Operation;
use super::rights::Assignment;
use super::table::{Change, Table};
use super::tags::Tags;
use super::volume::{Progress, Volume};
use super::{ArmError, ArmId, Kind};

/// Words for a resource's `provisioningState`.
pub mod provisioning {
    /// Exists and is complete.
    pub const SUCCEEDED: &str = "Succeeded";
    /// A change is under way.
    pub const UPDATING: &str = "Updating";
    /// Comes into being.
    pub const CREATING: &str = "Creating";
    /// Goes away.
    pub const DELETING: &str = "Deleting";
    /// The last change failed.
    pub const FAILED: &str = "Failed";
}

/// What was decided when the world was made, and never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Subscription GUIDs.
    pub subscriptions: Vec<String>,
    /// Tenant GUID.
    pub tenant: String,
    /// Region names (`eastus`).
    pub regions: Vec<String>,
    /// Application ids and their secrets.
    pub clients: BTreeMap<String, String>,
    /// The client id that managed identity tokens carry.
    pub managed_identity: String,
    /// What `X-IDENTITY-HEADER` must say at the App Service style endpoint.
    pub identity_header: String,
    /// Signs tokens, SAS URLs and polling URLs; hexadecimal.
    pub signing_key: String,
}

/// What every resource has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// Id.
    pub id: ArmId,
    /// Region.
    pub location: String,
    /// Tags.
    pub tags: Tags,
    /// Availability zones.
    pub zones: Vec<String>,
    /// When the resource came into being.
    pub created: WallTime,
    /// `provisioningState`; see [`provisioning`].
    pub provisioning: String,
}

/// A resource group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Subscription GUID.
    pub subscription: String,
    /// Name.
    pub name: String,
    /// Region of its metadata.
    pub location: String,
    /// Tags.
    pub tags: Tags,
    /// Its deletion is under way.
    pub deleting: bool,
}

/// A managed disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Common part.
    pub common: Common,
    /// Content and its descriptions.
    pub volume: Volume,
    /// The VM that it is attached to.
    pub managed_by: Option<ArmId>,
}

/// A snapshot of a disk, or a copy of such a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Common part.
    pub common: Common,
    /// Content and its descriptions.
    pub volume: Volume,
    /// Incremental, or full.
    pub incremental: bool,
    /// Snapshots of one disk in one region share it.
    pub family: Option<String>,
    /// The chain that a `CopyStart` copy continues: the source snapshot's family.
    pub copied_family: Option<String>,
    /// When the source of a `CopyStart` copy was created.
    pub source_created: Option<WallTime>,
    /// The background copy; `None` when the snapshot was complete from the first moment.
    pub progress: Option<Progress>,
    /// Keeps it from being deleted.
    #[serde(default)]
    pub immutability: Option<Immutability>,
}

impl Snapshot {
    /// The unique id of what it counts as a snapshot of.
    pub(super) fn counted_source(&self) -> Option<&String> {
        self.volume.creation.source_unique_id.as_ref().filter(|_| self.incremental)
    }

    /// How much of the content has arrived, in percent; 100 when nothing needed to.
    pub fn percent(&self, now: WallTime) -> f64 {
        self.progress.as_ref().map_or(100.0, |progress| progress.percent(now))
    }

    /// The content is complete and will stay so.
    pub fn is_complete(&self, now: WallTime) -> bool {
        self.percent(now) >= 100.0
            && self.progress.as_ref().is_none_or(|progress| progress.failure(now).is_none())
    }

    /// Its background copy has broken.
    pub(super) fn has_failed(&self, now: WallTime) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.failure(now).is_some())
    }
}

/// Read access that was granted to a disk or snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Names the grant in its URL.
    pub id: String,
    /// It ends by itself.
    pub expires: WallTime,
}

/// What a VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// `PowerState/starting`.
    Starting,
    /// `PowerState/running`.
    Running,
    /// `PowerState/stopping`.
    Stopping,
    /// `PowerState/stopped`: still billed.
    Stopped,
    /// `PowerState/deallocating`.
    Deallocating,
    /// `PowerState/deallocated`.
    Deallocated,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The disk.
    pub disk: ArmId,
    /// `None` for the OS disk.
    pub lun: Option<u32>,
    /// `None`, `ReadOnly` or `ReadWrite`.
    pub caching: String,
    /// `Detach` or `Delete`, when the VM is deleted.
    pub delete_option: String,
    /// As the caller wrote it.
    pub create_option: String,
    /// Other fields of the caller (`writeAcceleratorEnabled`, …).
    pub extra: Map<String, Value>,
}

/// A network interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicAttachment {
    /// The interface.
    pub nic: ArmId,
    /// `properties` of the reference: `primary`, `deleteOption`.
    pub properties: Map<String, Value>,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// Common part.
    pub common: Common,
    /// Azure's `vmId`.
    pub vm_id: String,
    /// Bumped at every change.
    pub etag: u64,
    /// Power state.
    pub power: Power,
    /// The OS disk first, then data disks by LUN.
    pub disks: Vec<Attachment>,
    /// Linux or Windows.
    pub os_type: String,
    /// Network interfaces.
    pub nics: Vec<NicAttachment>,
    /// Top-level members that are kept as written: `identity`, `plan`, `extendedLocation`.
    pub top: Map<String, Value>,
    /// Members of `properties` that are kept as written: `hardwareProfile`, …
    pub properties: Map<String, Value>,
    /// Members of `storageProfile` that are kept as written: `diskControllerType`, …
    pub storage: Map<String, Value>,
    /// Why the last start failed.
    pub start_error: Option<String>,
}

/// A network resource: properties are kept as a document, references are resolved on reading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkResource {
    /// Common part.
    pub common: Common,
    /// `resourceGuid`.
    pub guid: String,
    /// Changes at every change.
    pub etag: String,
    /// `sku`.
    pub sku: Option<Value>,
    /// `properties` as ARM shows them, without what other resources decide.
    pub properties: Map<String, Value>,
    /// Of an interface: the VM. Of a public address: the interface.
    pub used_by: Option<ArmId>,
    /// Of a virtual network: next host number by subnet name.
    pub next_host: BTreeMap<String, u32>,
}

/// A management lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// The id of the lock itself.
    pub id: String,
    /// Lower-case id of what it locks.
    pub scope: String,
    /// Name.
    pub name: String,
    /// `CanNotDelete` or `ReadOnly`.
    pub level: String,
    /// Free text.
    pub notes: Option<String>,
}

/// Everything that exists, and what follows from it.
#[derive(Debug)]
pub struct State {
    /// What never changes.
    pub facts: Facts,
    /// Resource groups.
    pub groups: Table<Group>,
    /// Disks.
    pub disks: Table<Disk>,
    /// Snapshots.
    pub snapshots: Table<Snapshot>,
    /// Virtual machines.
    pub vms: Table<Vm>,
    /// Network resources of all kinds.
    pub networks: Table<NetworkResource>,
    /// Management locks.
    pub locks: Table<Lock>,
    /// Long-running operations.
    pub operations: Table<Operation>,
    /// Role assignments by principal.
    pub assignments: Table<Vec<Assignment>>,
    /// Single numbers: the clock's offset.
    pub numbers: Table<i64>,
    /// Derived: keys of snapshots whose background copy may still run.
    pub(super) copying: BTreeSet<String>,
    /// Derived: when those copies end by themselves (a stalled one does not).
    pub(super) copy_ends: BTreeSet<(WallTime, String)>,
    /// Derived: incremental snapshots by their source's unique id, in order of creation.
    pub(super) snapshots_of: BTreeMap<String, BTreeSet<(WallTime, String)>>,
    /// Derived: `CopyStart` copies by the chain that they continue.
    pub(super) copies_of: BTreeMap<String, BTreeSet<String>>,
    /// Derived: operations that have not ended, by due time.
    pub(super) pending: BTreeSet<(WallTime, String)>,
    /// Derived: the same by the key of the resource that they change.
    pub(super) pending_on: BTreeMap<String, BTreeSet<(WallTime, String)>>,
    /// Derived: what each grant of read access is for.
    pub(super) grants: BTreeMap<String, ArmId>,
    /// Derived: operations that have ended, by when.
    pub(super) ended: BTreeSet<(WallTime, String)>,
    /// Content files that nothing refers to any more.
    pub(super) garbage: Vec<String>,
}

impl State {
    /// An empty world.
    pub fn new(facts: Facts) -> Self {
        Self {
            facts,
            groups: Table::new("groups"),
            disks: Table::new("disks"),
            snapshots: Table::new("snapshots"),
            vms: Table::new("vms"),
            networks: Table::new("networks"),
            locks: Table::new("locks"),
            operations: Table::new("operations"),
            assignments: Table::new("assignments"),
            numbers: Table::new("numbers"),
            copying: BTreeSet::new(),
            copy_ends: BTreeSet::new(),
            snapshots_of: BTreeMap::new(),
            copies_of: BTreeMap::new(),
            pending: BTreeSet::new(),
            pending_on: BTreeMap::new(),
            grants: BTreeMap::new(),
            ended: BTreeSet::new(),
            garbage: Vec::new(),
        }
    }

    /// Takes one journalled change.
    ///
    /// # Errors
    /// The record cannot be read: the journal was written by another version.
    pub fn apply(&mut self, change: &Change) -> Result<(), serde_json::Error> {
        let known = self.groups.apply(change)?
            || self.disks.apply(change)?
            || self.snapshots.apply(change)?
            || self.vms.apply(change)?
            || self.networks.apply(change)?
            || self.locks.apply(change)?
            || self.operations.apply(change)?
            || self.assignments.apply(change)?
            || self.numbers.apply(change)?;
        if known { Ok(()) } else { Err(serde::de::Error::custom(format!("table {}", change.t))) }
    }

    /// What has changed since the last call.
    pub fn drain_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.groups.drain(&mut changes);
        self.disks.drain(&mut changes);
        self.snapshots.drain(&mut changes);
        self.vms.drain(&mut changes);
        self.networks.drain(&mut changes);
        self.locks.drain(&mut changes);
        self.operations.drain(&mut changes);
        self.assignments.drain(&mut changes);
        self.numbers.drain(&mut changes);
        changes
    }

    /// Everything as changes: a checkpoint.
    pub fn all_as_changes(&mut self) -> Vec<Change> {
        self.groups.touch_all();
        self.disks.touch_all();
        self.snapshots.touch_all();
        self.vms.touch_all();
        self.networks.touch_all();
        self.locks.touch_all();
        self.operations.touch_all();
        self.assignments.touch_all();
        self.numbers.touch_all();
        self.drain_changes()
    }

    /// From now on no change is noted: [`drain_changes`](Self::drain_changes) finds nothing.
    pub fn forget_changes(&mut self) {
        self.groups.forget_changes();
        self.disks.forget_changes();
        self.snapshots.forget_changes();
        self.vms.forget_changes();
        self.networks.forget_changes();
        self.locks.forget_changes();
        self.operations.forget_changes();
        self.assignments.forget_changes();
        self.numbers.forget_changes();
    }

    /// Builds what follows from the tables, after loading them.
    pub fn derive(&mut self) {
        let snapshots: Vec<(String, Snapshot)> =
            self.snapshots.iter().map(|(key, snapshot)| (key.clone(), snapshot.clone())).collect();
        for (key, snapshot) in &snapshots {
            self.index_snapshot(key, snapshot);
        }
        let disks = self.disks.iter().map(|(_, d)| (&d.volume, &d.common.id));
        let snapshots = self.snapshots.iter().map(|(_, s)| (&s.volume, &s.common.id));
        self.grants = disks
            .chain(snapshots)
            .filter_map(|(volume, id)| Some((volume.grant.as_ref()?.id.clone(), id.clone())))
            .collect();
        let operations: Vec<Operation> = self.operations.iter().map(|(_, o)| o.clone()).collect();
        for operation in operations {
            match &operation.outcome {
                None => self.index_pending(&operation),
                Some(outcome) => {
                    self.ended.insert((outcome.at, operation.id.clone()));
                }
            }
        }
    }

    pub(super) fn index_pending(&mut self, operation: &Operation) {
        let entry = (operation.due, operation.id.clone());
        if let Some(target) = operation.target() {
            self.pending_on.entry(target.key()).or_default().insert(entry.clone());
        }
        self.pending.insert(entry);
    }

    pub(super) fn unindex_pending(&mut self, entry: &(WallTime, String)) {
        self.pending.remove(entry);
        let operation = self.operations.get(&entry.1);
        let Some(key) = operation.and_then(Operation::target).map(ArmId::key) else { return };
        remove_from(&mut self.pending_on, &key, entry);
    }

    pub(super) fn index_snapshot(&mut self, key: &str, snapshot: &Snapshot) {
        let created = (snapshot.common.created, key.to_owned());
        if let Some(source) = snapshot.counted_source() {
            self.snapshots_of.entry(source.clone()).or_default().insert(created);
        }
        if let Some(chain) = &snapshot.copied_family {
            self.copies_of.entry(chain.clone()).or_default().insert(key.to_owned());
        }
        if let Some(progress) = snapshot.progress.as_ref().filter(|p| p.error.is_none()) {
            self.copying.insert(key.to_owned());
            if let Some(end) = progress.ends() {
                self.copy_ends.insert((end, key.to_owned()));
            }
        }
    }

    pub(super) fn unindex_snapshot(&mut self, key: &str, snapshot: &Snapshot) {
        let created = (snapshot.common.created, key.to_owned());
        if let Some(source) = snapshot.counted_source() {
            remove_from(&mut self.snapshots_of, source, &created);
        }
        if let Some(chain) = &snapshot.copied_family {
            remove_from(&mut self.copies_of, chain, &created.1);
        }
        self.unindex_copy(key, snapshot.progress.as_ref());
    }

    pub(super) fn note_grant(&mut self, volume: &Volume, of: &ArmId) {
        if let Some(grant) = &volume.grant {
            self.grants.insert(grant.id.clone(), of.clone());
        }
    }

    pub(super) fn forget_grant(&mut self, volume: &Volume) {
        if let Some(grant) = &volume.grant {
            self.grants.remove(&grant.id);
        }
    }

    /// The background copy is over.
    pub(super) fn unindex_copy(&mut self, key: &str, progress: Option<&Progress>) {
        self.copying.remove(key);
        if let Some(end) = progress.and_then(Progress::ends) {
            self.copy_ends.remove(&(end, key.to_owned()));
        }
    }

    /// Content files that nothing refers to any more; each is named once.
    pub fn take_garbage(&mut self) -> Vec<String> {
        std::mem::take(&mut self.garbage)
    }

    /// The content files that something refers to.
    pub fn content_files(&self) -> BTreeSet<String> {
        let disks = self.disks.iter().map(|(_, disk)| disk.volume.file());
        disks.chain(self.snapshots.iter().map(|(_, snapshot)| snapshot.volume.file())).collect()
    }

    /// The resource group, or ARM's 404.
    pub fn group(&self, subscription: &str, name: &str) -> Result<&Group, ArmError> {
        self.groups
            .get(&group_key(subscription, name))
            .ok_or_else(|| ArmError::group_not_found(name))
    }

    /// What every resource of this id has.
    pub fn common(&self, id: &ArmId) -> Option<&Common> {
        let key = id.key();
        match id.kind {
            Kind::Disk => self.disks.get(&key).map(|disk| &disk.common),
            Kind::Snapshot => self.snapshots.get(&key).map(|snapshot| &snapshot.common),
            Kind::Vm => self.vms.get(&key).map(|vm| &vm.common),
            _ => self.networks.get(&key).map(|resource| &resource.common),
        }
    }

    /// As [`common`](Self::common), to be changed.
    pub fn common_mut(&mut self, id: &ArmId) -> Option<&mut Common> {
        let key = id.key();
        match id.kind {
            Kind::Disk => self.disks.get_mut(&key).map(|disk| &mut disk.common),
            Kind::Snapshot => self.snapshots.get_mut(&key).map(|snapshot| &mut snapshot.common),
            Kind::Vm => self.vms.get_mut(&key).map(|vm| &mut vm.common),
            _ => self.networks.get_mut(&key).map(|resource| &mut resource.common),
        }
    }

    /// What every resource in the subscription has (in the group, if one is named), kind by kind, in
    /// key order after `after`.
    pub fn all_common<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a String, &'a Common)> {
        let disks = self.disks.with_prefix_after(prefix, after).map(|(k, d)| (k, &d.common));
        let snapshots =
            self.snapshots.with_prefix_after(prefix, after).map(|(k, s)| (k, &s.common));
        let vms = self.vms.with_prefix_after(prefix, after).map(|(k, vm)| (k, &vm.common));
        let networks = self.networks.with_prefix_after(prefix, after).map(|(k, n)| (k, &n.common));
        disks.chain(snapshots).chain(vms).chain(networks)
    }

    /// The same, those alone that are `wanted`, in order of their keys across all types.
    pub(crate) fn all_common_in_order<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        wanted: impl Fn(&Common) -> bool + Copy + 'a,
    ) -> impl Iterator<Item = (&'a String, &'a Common)> {
        type Source<'a> = Box<dyn Iterator<Item = (&'a String, &'a Common)> + 'a>;
        let is_wanted = move |(_, common): &(&String, &Common)| wanted(common);
        let disks = self.disks.with_prefix_after(prefix, after).map(|(k, d)| (k, &d.common));
        let snapshots =
            self.snapshots.with_prefix_after(prefix, after).map(|(k, s)| (k, &s.common));
        let vms = self.vms.with_prefix_after(prefix, after).map(|(k, vm)| (k, &vm.common));
        let networks = self.networks.with_prefix_after(prefix, after).map(|(k, n)| (k, &n.common));
        let mut sources: [(Source<'a>, Option<(&String, &Common)>); 4] = [
            (Box::new(disks.filter(is_wanted)) as Source<'a>, None),
            (Box::new(snapshots.filter(is_wanted)), None),
            (Box::new(vms.filter(is_wanted)), None),
            (Box::new(networks.filter(is_wanted)), None),
        ];
        for (source, next) in &mut sources {
            *next = source.next();
        }
        std::iter::from_fn(move || {
            let waiting = sources.iter_mut().filter(|(_, next)| next.is_some());
            let (source, next) = waiting.min_by_key(|(_, next)| next.map(|(key, _)| key))?;
            std::mem::replace(next, source.next())
        })
    }
}

/// Removes an entry and, with the last one, its place.
fn remove_from<T: Ord>(index: &mut BTreeMap<String, BTreeSet<T>>, key: &str, entry: &T) {
    if let Some(entries) = index.get_mut(key) {
        entries.remove(entry);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

/// A resource group's key.
pub(crate) fn group_key(subscription: &str, name: &str) -> String {
    format!("/subscriptions/{subscription}/resourcegroups/{name}").to_lowercase()
}
