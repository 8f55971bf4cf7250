//! Everything that a run must leave as it was when it is undone, and what it must not touch at all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::life::Bench;

/// The groups that all runs share: made once, they stay.
const SHARED: [&str; 2] = ["azdr-eastus", "azdr-westus2"];

/// Everything that exists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Untouchable {
    /// Groups with their tags; the shared ones are left out.
    groups: BTreeMap<String, Value>,
    /// Resources by id, as the simulator lists them: tags, power state, disks by LUN, open access to
    /// bytes, contents.
    resources: BTreeMap<String, Value>,
    /// The whole documents of the machines in `prod` as Azure shows them, etag included.
    machines: BTreeMap<String, Value>,
}

/// What exists now.
pub(crate) async fn untouchable(bench: &Bench) -> Untouchable {
    let listing = bench.cloud.listing().await;
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let all = |kind: &str| listing[kind].as_array().unwrap().clone();
    let groups = all("groups").into_iter().map(|g| (text(&g["name"]), g));
    let resources: BTreeMap<String, Value> =
        all("resources").into_iter().map(|r| (text(&r["id"]), r)).collect();
    let mut machines = BTreeMap::new();
    for (id, _) in resources.iter().filter(|(id, _)| id.contains("/virtualMachines/")) {
        if !id.to_lowercase().contains("/resourcegroups/prod/") {
            continue;
        }
        let mut machine = bench.cloud.machine(id.rsplit('/').next().unwrap()).await;
        // It tells the time.
        machine["properties"].as_object_mut().unwrap().remove("instanceView");
        machines.insert(id.clone(), machine);
    }
    let groups = groups.filter(|(name, _)| !SHARED.contains(&name.as_str())).collect();
    Untouchable { groups, resources, machines }
}

impl Untouchable {
    /// The types of what carries this run's tag, each once.
    pub(crate) fn of_run(&self, tag: &str) -> Vec<String> {
        let tagged = |r: &&Value| r["tags"]["azdr:run"] == tag;
        let groups = self.groups.values().filter(tagged).map(|_| "group".to_owned());
        let kind = |r: &Value| r["type"].as_str().unwrap().to_owned();
        let all = groups.chain(self.resources.values().filter(tagged).map(kind));
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The same, without what a machine keeps of having been stopped, changed and changed back: its
    /// etag, and that its disks were attached once more.
    pub(crate) fn changed_and_changed_back(mut self) -> Self {
        for machine in self.machines.values_mut() {
            machine.as_object_mut().unwrap().remove("etag");
            let profile = &mut machine["properties"]["storageProfile"];
            forget_how_attached(&mut profile["osDisk"]);
            profile["dataDisks"].as_array_mut().unwrap().iter_mut().for_each(forget_how_attached);
        }
        self
    }
}

fn forget_how_attached(disk: &mut Value) {
    disk.as_object_mut().unwrap().remove("createOption");
}
