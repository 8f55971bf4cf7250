//! What exists in the simulated Azure, as the simulator itself says: independent of azdr.

use anyhow::{Context, Result};
use serde_json::Value;

/// The tag that says which run made a resource.
pub const RUN_TAG: &str = "azdr:run";

/// A listing of everything.
#[derive(Clone, Debug)]
pub struct Listing(Value);

/// One resource or resource group.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a>(&'a Value);

impl Listing {
    /// From `/_sim/resources`.
    pub fn new(document: Value) -> Self {
        Self(document)
    }

    /// All resources.
    pub fn resources(&self) -> impl Iterator<Item = Resource<'_>> {
        self.0["resources"].as_array().into_iter().flatten().map(Resource)
    }

    /// Resources of a type: `Microsoft.Compute/snapshots`; in any case.
    pub fn of_type(&self, kind: &str) -> impl Iterator<Item = Resource<'_>> {
        self.resources().filter(move |r| r.kind().eq_ignore_ascii_case(kind))
    }

    /// All snapshots.
    pub fn snapshots(&self) -> Vec<Resource<'_>> {
        self.of_type("Microsoft.Compute/snapshots").collect()
    }

    /// All disks.
    pub fn disks(&self) -> Vec<Resource<'_>> {
        self.of_type("Microsoft.Compute/disks").collect()
    }

    /// All machines.
    pub fn vms(&self) -> Vec<Resource<'_>> {
        self.of_type("Microsoft.Compute/virtualMachines").collect()
    }

    /// The machine of a name in a resource group.
    ///
    /// # Errors
    /// When there is none.
    pub fn vm(&self, group: &str, name: &str) -> Result<Resource<'_>> {
        self.vms()
            .into_iter()
            .find(|r| r.name().eq_ignore_ascii_case(name) && r.group().eq_ignore_ascii_case(group))
            .with_context(|| format!("there is no VM {name} in {group}"))
    }

    /// The disks attached to a machine, by resource ID; sorted.
    pub fn disks_of(&self, vm: Resource<'_>) -> Vec<String> {
        let attached = |r: &Resource<'_>| {
            r.0["managed_by"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(vm.id()))
        };
        let disks = self.disks().into_iter().filter(attached);
        let mut ids: Vec<String> = disks.map(|r| r.id().to_owned()).collect();
        ids.sort();
        ids
    }

    /// Names of the resource groups.
    pub fn groups(&self) -> Vec<&str> {
        let groups = self.0["groups"].as_array().into_iter().flatten();
        groups.filter_map(|g| g["name"].as_str()).collect()
    }

    /// IDs of all resources, and names of all groups: what must be the same before and after.
    pub fn everything(&self) -> Vec<String> {
        let mut all: Vec<String> = self.resources().map(|r| r.id().to_owned()).collect();
        all.extend(self.groups().into_iter().map(|name| format!("group {name}")));
        all.sort();
        all
    }

    /// What runs made and nobody is meant to keep: everything tagged with a run but snapshots, the
    /// machines of these names with their disks and interfaces, and `kept` resources.
    pub fn temporary(&self, vms: &[&str], kept: &[String]) -> Vec<String> {
        let vms: Vec<Resource<'_>> = self
            .vms()
            .into_iter()
            .filter(|vm| vms.iter().any(|name| vm.name().eq_ignore_ascii_case(name)))
            .collect();
        let mut kept: Vec<String> = kept.iter().map(|id| id.to_lowercase()).collect();
        for vm in &vms {
            kept.push(vm.id().to_lowercase());
            kept.extend(self.disks_of(*vm).iter().map(|id| id.to_lowercase()));
        }
        let is_kept = |r: &Resource<'_>| {
            kept.contains(&r.id().to_lowercase())
                || r.kind().eq_ignore_ascii_case("Microsoft.Compute/snapshots")
                || r.kind().eq_ignore_ascii_case("Microsoft.Network/networkInterfaces")
                    && vms.iter().any(|vm| vm.tag(RUN_TAG) == r.tag(RUN_TAG))
        };
        let left = self.resources().filter(|r| r.tag(RUN_TAG).is_some() && !is_kept(r));
        let mut left: Vec<String> = left.map(|r| r.id().to_owned()).collect();
        let groups = self.0["groups"].as_array().into_iter().flatten();
        let of_run = groups.filter(|g| g["tags"][RUN_TAG].is_string());
        left.extend(of_run.filter_map(|g| g["name"].as_str()).map(|n| format!("group {n}")));
        left
    }

    /// Whether an operation is still under way.
    pub fn is_quiet(&self) -> bool {
        self.0["unfinished_operations"].as_u64() == Some(0)
    }
}

impl<'a> Resource<'a> {
    fn text(self, field: &str) -> &'a str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// ARM resource ID.
    pub fn id(self) -> &'a str {
        self.text("id")
    }

    /// Last part of the ID.
    pub fn name(self) -> &'a str {
        self.id().rsplit('/').next().unwrap_or_default()
    }

    /// Name of its resource group.
    pub fn group(self) -> &'a str {
        self.id().split('/').nth(4).unwrap_or_default()
    }

    /// `Microsoft.Compute/disks`, …
    pub fn kind(self) -> &'a str {
        self.text("type")
    }

    /// Region.
    pub fn location(self) -> &'a str {
        self.text("location")
    }

    /// A machine's power state.
    pub fn power(self) -> &'a str {
        self.text("power")
    }

    /// Whether a machine runs.
    pub fn is_running(self) -> bool {
        self.power().eq_ignore_ascii_case("running")
    }

    /// A machine's vmId.
    pub fn vm_id(self) -> &'a str {
        self.text("vm_id")
    }

    /// `address:port` at which a machine can be reached from outside.
    pub fn reachable_at(self) -> Option<&'a str> {
        self.0["reachable_at"].as_array()?.first()?.as_str()
    }

    /// The value of a tag, whose name is compared in any case.
    pub fn tag(self, name: &str) -> Option<&'a str> {
        let tags = self.0["tags"].as_object()?;
        tags.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?.1.as_str()
    }

    /// The whole record.
    pub fn record(self) -> &'a Value {
        self.0
    }
}
