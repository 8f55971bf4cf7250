//! People who work in the same subscription and know nothing of azdr: they restart machines, delete
//! what looks old, and rename what they do not understand.

use std::collections::BTreeSet;

use azure_sim::faults::{Action, Fault, Match};
use azure_sim::world::State;
use http::Method;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::event::Event;
use crate::kinds::Kind;
use crate::trouble::Trouble;
use crate::world::{AWAY, HOME, SUBSCRIPTION, World, machine, vm_key};

/// What they know of machines that must live on: a fleet that loses all its VMs shows nothing.
pub struct Strangers {
    dice: Dice,
    vms: usize,
    deleted_vms: usize,
    renamed: u32,
    /// The last run whose names they have taken.
    taken: i64,
    /// Points of which they have deleted a part: VM, name, region.
    broken: BTreeSet<(String, String, String)>,
}

/// The tag of what strangers make.
pub const OWNER: &str = "team";

/// Snapshots that have been there for so long are nobody's work in progress.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(6 * 3600);

impl Strangers {
    /// Beside a fleet of so many VMs.
    pub fn new(world: &World, vms: usize) -> Self {
        Self {
            dice: world.dice("strangers"),
            vms,
            deleted_vms: 0,
            renamed: 0,
            taken: 0,
            broken: BTreeSet::new(),
        }
    }

    /// Somebody starts a machine, or restarts it.
    pub async fn touch_power(&self, world: &World) {
        let n = self.dice.below(self.vms as u64) as usize;
        let (group, name) = machine(n);
        let key = vm_key(&group, &name);
        let action = if self.dice.one_in(2) { "restart" } else { "start" };
        disturb(world, format!("somebody asks {name} to {action}"));
        let path = format!("{key}/{action}?api-version=2024-07-01");
        let status = world.cloud.by_somebody_else(Method::POST, &path, &Value::Null).await;
        if matches!(status, 200..300) {
            world.record.count(Kind::PowerTouched, 1);
        }
    }

    /// Somebody deletes something.
    pub async fn delete(&mut self, world: &World) {
        match self.dice.below(20) {
            0..6 => self.delete_snapshot(world, HOME, Kind::SnapshotDeleted).await,
            6..11 => self.delete_snapshot(world, AWAY, Kind::ReplicaDeleted).await,
            11..13 => {
                let keys: Vec<String> = look(world, |azure| {
                    let unused = |(_, d): &(&String, &azure_sim::world::Disk)| {
                        d.managed_by.is_none() && !d.common.tags.contains_key("azdr:run")
                    };
                    azure.disks.iter().filter(unused).map(|(key, _)| key.clone()).collect()
                });
                self.delete_one(world, &keys, "2024-03-02", Kind::DiskDeleted).await;
            }
            13..16 => self.delete_all_of_a_vm(world).await,
            _ => self.delete_vm(world).await,
        }
    }

    async fn delete_snapshot(&mut self, world: &World, region: &str, kind: Kind) {
        let keys: Vec<String> = look(world, |azure| {
            let there = azure.snapshots.iter().filter(|(_, s)| s.common.location == region);
            there.map(|(key, _)| key.clone()).collect()
        });
        self.delete_one(world, &keys, "2024-03-02", kind).await;
    }

    /// Whether they have deleted a part of the point there.
    pub fn have_broken(&self, vm: &str, point: &str, region: &str) -> bool {
        self.broken.contains(&(vm.to_owned(), point.to_owned(), region.to_owned()))
    }

    /// Somebody makes disks with the names that the next jobs will want for a test disk. They say on
    /// them whose they are: [`OWNER`].
    pub async fn take_names(&mut self, world: &World) {
        let latest = {
            let known = world.known.lock().expect("only looked up and put in");
            known.keys().next_back().map_or(0, |id| id.0)
        };
        for run in self.taken.max(latest) + 1..=latest + 3 {
            self.taken = run;
            let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/azdr-{HOME}");
            let disk = format!("{group}/providers/Microsoft.Compute/disks");
            let path = format!("{disk}/azdr-verify-1nstall-{run}-os?api-version=2024-03-02");
            let body = json!({
                "location": HOME, "tags": {OWNER: "somebody else"},
                "sku": {"name": "Standard_LRS"},
                "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 4},
            });
            let status = world.cloud.by_somebody_else(Method::PUT, &path, &body).await;
            if matches!(status, 200..300) {
                world.record.count(Kind::NameTaken, 1);
            }
        }
    }

    /// Looks whether some job has just made a machine or a disk, and now and then deletes it.
    pub async fn watch(&mut self, world: &World) {
        let of_a_drill = |key: &str| key.contains("azdr-drill-") || key.contains("azdr-verify-");
        let vms: Vec<String> = look(world, |azure| {
            azure.vms.iter().map(|(k, _)| k.clone()).filter(|k| of_a_drill(k)).collect()
        });
        if !vms.is_empty() && self.dice.one_in(4) {
            return self.delete_one(world, &vms, "2024-07-01", Kind::TemporaryDeleted).await;
        }
        let disks: Vec<String> = look(world, |azure| {
            let not_theirs = azure.disks.iter().filter(|(_, d)| !d.common.tags.contains_key(OWNER));
            not_theirs.map(|(k, _)| k.clone()).filter(|k| of_a_drill(k)).collect()
        });
        if !disks.is_empty() && self.dice.one_in(4) {
            self.delete_one(world, &disks, "2024-03-02", Kind::TemporaryDeleted).await;
        }
    }

    async fn delete_all_of_a_vm(&mut self, world: &World) {
        let (group, name) = machine(self.dice.below(self.vms as u64) as usize);
        let vm = vm_key(&group, &name);
        let region = if self.dice.one_in(2) { HOME } else { AWAY };
        let keys: Vec<String> = look(world, |azure| {
            let its = azure.snapshots.iter().filter(|(_, s)| {
                s.common.location == region
                    && s.common.tags.get("azdr:vm-0").is_some_and(|v| v.eq_ignore_ascii_case(&vm))
            });
            its.map(|(key, _)| key.clone()).collect()
        });
        for key in &keys {
            self.delete_this(world, key, "2024-03-02", Kind::AllDeleted).await;
        }
    }

    /// At most one VM in three is ever deleted, and never the first.
    async fn delete_vm(&mut self, world: &World) {
        if self.deleted_vms >= self.vms / 3 {
            return;
        }
        let n = 1 + self.dice.below(self.vms as u64 - 1) as usize;
        let (group, name) = machine(n);
        let key = vm_key(&group, &name);
        if look(world, |azure| azure.vms.get(&key).is_some()) {
            self.deleted_vms += 1;
            self.delete_this(world, &key, "2024-07-01", Kind::VmDeleted).await;
        }
    }

    async fn delete_one(&mut self, world: &World, keys: &[String], api: &str, kind: Kind) {
        if let Some(key) = self.dice.pick(keys).cloned() {
            self.delete_this(world, &key, api, kind).await;
        }
    }

    async fn delete_this(&mut self, world: &World, key: &str, api: &str, kind: Kind) {
        self.broken.extend(part_of(world, key));
        world.cloud.tell(&Event::TakenAway(key.to_owned()));
        let path = format!("{key}?api-version={api}");
        let status = world.cloud.by_somebody_else(Method::DELETE, &path, &Value::Null).await;
        if matches!(status, 200..300) {
            world.record.count(kind, 1);
        }
    }

    /// A snapshot gets another name, at some request from now on.
    pub async fn rename(&mut self, world: &World, trouble: &mut Trouble) {
        let keys: Vec<String> = world.cloud.simulator.look(|azure, now| {
            let old = azure.snapshots.iter().filter(|(_, s)| now.since(s.common.created) > SETTLED);
            old.map(|(key, _)| key.clone()).collect()
        });
        let Some(id) = self.dice.pick(&keys).cloned() else { return };
        // A prune that is under way may leave it behind, as a part without the others.
        self.broken.extend(part_of(world, &id));
        self.renamed += 1;
        let to = format!("renamed-{}", self.renamed);
        disturb(world, format!("{id} is renamed to {to}"));
        let action = Action::Rename { id, to };
        let matching = Match { nth: Some(1 + self.dice.below(50)), ..Match::default() };
        trouble.add(&world.cloud, Some(Kind::Renamed), Fault { matching, action }).await;
    }
}

/// VM, point and region that a snapshot is a part of.
fn part_of(world: &World, key: &str) -> Option<(String, String, String)> {
    look(world, |azure| {
        let snapshot = azure.snapshots.get(key)?;
        let tag = |name: &str| snapshot.common.tags.get(name).cloned();
        let vm = tag("azdr:vm-0")?.to_lowercase();
        Some((vm, tag("azdr:point")?, snapshot.common.location.clone()))
    })
}

fn look<T>(world: &World, look: impl FnOnce(&State) -> T) -> T {
    world.cloud.simulator.look(|azure, _| look(azure))
}

fn disturb(world: &World, what: String) {
    world.cloud.tell(&Event::Disturbance(what));
}
