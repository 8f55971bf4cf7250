//! What steps may use: Azure, the agents, the catalogue to read, and settings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use azdr_arm::ArmClient;
use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::CaptureRecord;
use azdr_domain::content::Sampling;
use azdr_domain::policy::Policy;
use azdr_domain::recovery_point::PointName;
use azdr_domain::residue::RunFacts;
use azdr_domain::tier::TierSet;
use azdr_env::WallTime;
use azdr_identity::CertificateAuthority;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::fleet::Fleet;
use crate::ssh_probe::ProbeLogin;
use crate::store::{
    ContentRow, DeletionHold, Item, ItemId, KeptDisk, PointRow, RunId, Store, StoreError,
};
use crate::workflow::StepError;

/// The world as steps see it. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Azure Resource Manager.
    pub azure: ArmClient,
    /// The agents.
    pub fleet: Fleet,
    /// The catalogue, to read. Changes are what a step returns.
    pub catalogue: Catalogue,
    /// For the keys of witnesses.
    pub authority: Arc<CertificateAuthority>,
    /// How this installation is set up.
    pub settings: Arc<Settings>,
    /// How many holds may be open at once.
    pub holds: Arc<Semaphore>,
    /// How many disks may be read whole at once: [`WHOLE_DISKS_AT_ONCE`](super::WHOLE_DISKS_AT_ONCE).
    pub whole_disks: Arc<Semaphore>,
}

/// How this installation is set up; read once, never changes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Distinguishes this installation's resources from another's in the same subscription: random,
    /// drawn with the database.
    pub installation: String,
    /// host:port at which agents reach the controller; a drill's network lets them out to it alone.
    pub agent_address: Option<String>,
    /// Snapshots live in `{prefix}{region}`.
    pub snapshot_group_prefix: String,
    /// Absolute cap on a hold.
    pub hold_limit: Duration,
    /// A hold ends when the controller is silent for this long.
    pub hold_lease: Duration,
    /// How the controller reaches a drill's SSH.
    pub drill_access: DrillAccess,
    /// How the controller reaches a production VM's SSH.
    pub probe_address: ProbeAddress,
    /// The SSH port of VMs.
    pub ssh_port: u16,
    /// How to log in there; `None`: only a banner is read.
    pub probe_login: Option<ProbeLogin>,
    /// How long a restored machine may take to report.
    pub boot_limit: Duration,
    /// A copy whose percentage does not move for this long is given up.
    pub copy_stall_limit: Duration,
    /// How long replaced disks are kept.
    pub keep_replaced: Duration,
    /// How much one pruning may delete without asking.
    pub deletion_limit: DeletionLimit,
    /// How much of each disk is hashed after a backup.
    pub sampled_blocks: Sampling,
    /// For how long a disk is read whole before what was read of it is saved: a controller that is killed
    /// reads so much again.
    pub read_for: Duration,
    /// How often to look whether something is there yet.
    pub look_again: Duration,
    /// How often to look how far a copy is, which takes hours.
    pub look_again_at_copy: Duration,
}

/// How many of a VM's recovery points one pruning may delete before it asks a second person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionLimit {
    /// Per cent of the VM's points.
    pub percent: u32,
    /// At least so many.
    pub points: u32,
}

impl DeletionLimit {
    /// Whether deleting so many of `all` points needs a second person.
    pub fn asks(self, deleted: usize, all: usize) -> bool {
        deleted > self.points as usize && deleted * 100 > all * self.percent as usize
    }
}

/// How the controller reaches a drill's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillAccess {
    /// A public IP address whose network security group admits this source alone.
    PublicIp {
        /// Address or prefix of the controller, as the NSG rule's source.
        allowed_source: String,
    },
    /// Not at all: then the agent's word is the evidence, recorded as weaker.
    None,
}

/// How the controller reaches a production VM's SSH from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAddress {
    /// At its public IP address, if it has one.
    PublicIp,
    /// At its private address: the controller is in the same network.
    PrivateIp,
    /// Not at all.
    None,
}

/// The catalogue as steps may read it.
#[derive(Clone)]
pub struct Catalogue {
    store: Store,
}

impl Catalogue {
    /// Who last changed a VM's policy.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policy_changed_by(&self, item: ItemId) -> Result<Option<String>, StepError> {
        Ok(self.store.policy_changed_by(item).await?)
    }

    /// A reading view of the store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// A VM's policy, if it has one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn policy(&self, item: ItemId) -> Result<Option<Policy>, StoreError> {
        Ok(self.store.policy(item).await?.map(|row| row.policy))
    }

    /// A VM's recovery points, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn points(&self, item: ItemId) -> Result<Vec<PointRow>, StoreError> {
        self.store.points(item).await
    }

    /// When each of a VM's points was taken and its tiers, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn point_tiers(&self, item: ItemId) -> Result<Vec<(WallTime, TierSet)>, StoreError> {
        self.store.point_tiers(item).await
    }

    /// The names of a VM's points.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn point_names(&self, item: ItemId) -> Result<BTreeSet<String>, StoreError> {
        let names = self.store.point_names(item).await?;
        Ok(names.into_iter().map(|(name, _)| name.to_string()).collect())
    }

    /// One recovery point.
    ///
    /// # Errors
    /// Fails when it is not in the catalogue (any more).
    pub async fn point(&self, item: ItemId, name: &PointName) -> Result<PointRow, StepError> {
        let points = self.store.points_named(name.as_str()).await?;
        points.into_iter().find(|p| p.item == item).ok_or_else(|| {
            StepError::fail("no_such_point", format!("there is no recovery point {name} any more"))
        })
    }

    /// What was seen of a capture, where it is known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn capture(&self, operation_id: &str) -> Result<Option<CaptureRecord>, StoreError> {
        self.store.capture(operation_id).await
    }

    /// What was hashed of a recovery point, OS disk first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn content(
        &self,
        item: ItemId,
        name: &PointName,
    ) -> Result<Vec<ContentRow>, StoreError> {
        self.store.content(item, name.clone()).await
    }

    /// The catalogue's row of a VM.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn item(&self, vm: &ArmId) -> Result<Option<Item>, StoreError> {
        self.store.item(vm).await
    }

    /// Why nothing may be deleted now, if so.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn deletion_hold(&self) -> Result<Option<DeletionHold>, StoreError> {
        self.store.deletion_hold().await
    }

    /// Whether a recovery point or a kept disk of the catalogue is this resource.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn wants(&self, id: &ArmId) -> Result<bool, StoreError> {
        Ok(self.store.not_catalogued(vec![id.key().to_owned()]).await?.is_empty())
    }

    /// A disk that a restore replaced and that is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn kept_disk(&self, disk: &ArmId) -> Result<Option<KeptDisk>, StoreError> {
        self.store.kept_disk(disk).await
    }

    /// When a run ended; `None` when it is not over, or not known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run_ended(&self, run: RunId) -> Result<Option<WallTime>, StoreError> {
        Ok(self.store.run(run).await?.and_then(|row| row.finished))
    }

    /// What is known of a run that a tag names, and the resources that its journal names (canonical
    /// ids; only for one that is over).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run_facts(&self, run: RunId) -> Result<(RunFacts, BTreeSet<String>), StoreError> {
        let mut named = BTreeSet::new();
        let rebuilt = self.store.rebuilt().await?;
        let facts = match (self.store.run(run).await?, rebuilt) {
            (None, Some(rebuilt)) if run < rebuilt.run => {
                RunFacts::BeforeRebuild { rebuilt: rebuilt.at }
            }
            (None, _) => RunFacts::Unknown,
            (Some(row), _) => match row.finished.filter(|_| row.state.is_terminal()) {
                None => RunFacts::Live,
                Some(at) => {
                    for entry in self.store.journal(run).await? {
                        made_in(&entry.payload, &mut named);
                    }
                    RunFacts::Ended { at, leaves: super::leaves(&row.workflow, row.state) }
                }
            },
        };
        Ok((facts, named))
    }

    /// Whether the VM's agent has ever enrolled.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_agent(&self, item: ItemId) -> Result<bool, StoreError> {
        match self.store.newest_certificate(item).await? {
            Some(newest) => Ok(!newest.revoked),
            None => self.store.may_have_agent(item).await,
        }
    }
}

/// Where journals name what their run makes.
const MADE: [&str; 9] =
    ["id", "new", "group", "nsg", "vnet", "public_ip", "nic", "machine", "own_vm"];
/// And where such names are inside. Nothing else is looked into: beside what is made, journals name
/// machines, disks and snapshots that were there before.
const HOLDERS: [&str; 6] = ["disks", "snapshots", "copies", "target", "os", "data"];

/// Collects the resource ids of what a journal entry says that its run makes.
fn made_in(payload: &Value, made: &mut BTreeSet<String>) {
    match payload {
        Value::Array(values) => values.iter().for_each(|v| made_in(v, made)),
        Value::Object(fields) => {
            for (name, value) in fields {
                if HOLDERS.contains(&name.as_str()) {
                    made_in(value, made);
                }
                let id = value.as_str().filter(|_| MADE.contains(&name.as_str()));
                if let Some(Ok(id)) = id.map(ArmId::parse) {
                    made.insert(id.key().to_owned());
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_journal_is_evidence_of_what_its_run_made_and_of_nothing_else_that_it_names() {
        let disk = |name: &str| {
            format!("/subscriptions/1/resourceGroups/g/providers/Microsoft.Compute/disks/{name}")
        };
        let made = |payload: Value| {
            let mut made = BTreeSet::new();
            made_in(&payload, &mut made);
            let name = |key: String| key.rsplit('/').next().unwrap_or_default().to_owned();
            made.into_iter().map(name).collect::<Vec<_>>()
        };
        let copy = json!({
            "id": disk("copy"), "snapshot": disk("snapshot"),
            "original": {"id": disk("original"), "name": "original"},
        });
        let drill = json!({"nic": disk("nic"), "disks": [copy], "subnet": disk("subnet")});
        assert_eq!(made(drill), ["copy", "nic"]);
        // The list of an `each`: keys and payloads.
        assert_eq!(made(json!([["os", copy], ["plain", disk("plain")]])), ["copy"]);
        let swap = json!({"os": {"new": disk("new"), "current": disk("old"), "original": copy}});
        assert_eq!(made(swap), ["new"]);
        let before = json!({"data_before": [{"managedDisk": {"id": disk("before")}}]});
        assert!(made(before).is_empty());
        let described = json!({"vm": {"id": disk("vm"), "disks": [{"id": disk("its")}]}});
        assert!(made(described).is_empty());
    }
}
