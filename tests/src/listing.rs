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

    /// What runs made and nobody is meant to keep: everything tagged with a run but snapshots, these
    /// machines (by name or ID) with their disks and what their own run has made around them, and `kept`
    /// resources.
    pub fn temporary(&self, vms: &[&str], kept: &[String]) -> Vec<String> {
        let vms: Vec<Resource<'_>> =
            self.vms().into_iter().filter(|vm| vms.iter().any(|name| vm.is_called(name))).collect();
        let mut kept: Vec<String> = kept.iter().map(|id| id.to_lowercase()).collect();
        for vm in &vms {
            kept.push(vm.id().to_lowercase());
            kept.extend(self.disks_of(*vm).iter().map(|id| id.to_lowercase()));
        }
        let is_kept = |r: &Resource<'_>| {
            kept.contains(&r.id().to_lowercase())
                || r.kind().eq_ignore_ascii_case("Microsoft.Compute/snapshots")
                || r.kind().to_lowercase().starts_with("microsoft.network/")
                    && vms.iter().any(|vm| vm.tag(RUN_TAG) == r.tag(RUN_TAG))
        };
        let left = self.resources().filter(|r| r.tag(RUN_TAG).is_some() && !is_kept(r));
        let mut left: Vec<String> = left.map(|r| r.id().to_owned()).collect();
        let groups = self.0["groups"].as_array().into_iter().flatten();
        let of_run = groups.filter(|g| {
            let run = g["tags"][RUN_TAG].as_str();
            run.is_some() && !vms.iter().any(|vm| vm.tag(RUN_TAG) == run)
        });
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

    /// Whether this is its name or its ID.
    pub fn is_called(self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name) || self.id().eq_ignore_ascii_case(name)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(kind: &str, name: &str, run: Option<&str>, managed_by: Option<&str>) -> Value {
        let id =
            format!("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/{kind}/{name}");
        let tags = run.map_or_else(|| json!({}), |run| json!({"AZDR:run": run}));
        let managed_by = managed_by.map(|vm| {
            format!(
                "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/{vm}"
            )
        });
        let kind = format!("Microsoft.Compute/{kind}");
        json!({"id": id, "type": kind, "tags": tags, "managed_by": managed_by, "power": "Running"})
    }

    #[test]
    fn what_a_run_left_behind_is_told_from_what_it_was_to_make() {
        let listing = Listing::new(json!({
            "groups": [
                {"name": "g", "tags": {}},
                {"name": "azdr-drill-7", "tags": {RUN_TAG: "i.7"}},
            ],
            "resources": [
                resource("virtualMachines", "db", None, None),
                resource("disks", "restored", Some("i.1"), Some("DB")),
                resource("disks", "replaced", Some("i.0"), None),
                resource("disks", "test-disk", Some("i.2"), None),
                resource("disks", "somebody-elses", None, None),
                resource("snapshots", "point", Some("i.3"), None),
                resource("virtualMachines", "copy", Some("i.4"), None),
            ],
            "unfinished_operations": 0,
        }));
        let replaced = listing.disks()[1].id().to_owned();
        let left = |vms: &[&str]| listing.temporary(vms, std::slice::from_ref(&replaced));
        let names: Vec<String> = left(&["db", "copy"])
            .iter()
            .map(|id| id.rsplit('/').next().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["test-disk", "group azdr-drill-7"]);
        // A machine that nobody named, and disks of one that is not looked at.
        assert_eq!(left(&[]).len(), 4);
        assert_eq!(listing.disks_of(listing.vm("G", "DB").unwrap()).len(), 1);
        assert!(listing.vm("g", "d").is_err());
    }
}
