//! The world: what exists in the simulated cloud, and the rules by which it changes.
//!
//! A pure state machine. It does no I/O, starts no task and asks no clock: every call gets `now`,
//! changes [`State`], and says what must be done to disk contents and machines as [`Work`], which
//! the [`Simulator`](crate::Simulator) carries out. It must not know HTTP; its errors nevertheless
//! carry ARM's codes and statuses, because those *are* the rules.
//!
//! Invariants:
//! - Every change goes through a [`Table`], which remembers what it changed; the journal is written
//!   from that and from nothing else.
//! - A resource's effect is fixed at acceptance; the operation only says when it is reported.
//! - What a clock alone decides (a copy's progress, an access grant's expiry) is computed on
//!   reading and never stored.

mod access;
mod arm_id;
mod behind_the_back;
mod copies;
mod disks;
mod error;
mod groups;
mod immutability;
mod locks;
mod network;
mod network_rules;
mod network_writes;
mod operations;
mod rights;
mod snapshots;
mod state;
mod table;
mod tags;
mod vm_changes;
mod vm_power;
mod vms;
mod volume;

pub use access::AccessRequest;
pub use arm_id::{ArmId, Kind};
pub use disks::DiskRequest;
pub use error::ArmError;
pub use groups::GroupRequest;
pub use immutability::{Immutability, ImmutabilityRequest};
pub(crate) use locks::Intent;
pub use locks::LockRequest;
pub use network_writes::NetworkRequest;
pub use operations::{Effect, Failure, Operation, Outcome, Output, Service, Work};
pub use rights::Assignment;
pub use snapshots::SnapshotRequest;
pub use state::{
    Attachment, Common, Disk, Facts, Grant, Group, Lock, NetworkResource, NicAttachment, Power,
    Snapshot, State, Vm, provisioning,
};
pub use table::{Change, Table};
pub(crate) use tags::Tagged;
pub use tags::{TagOperation, Tags, checked_tags};
pub use vm_power::PowerAction;
pub use volume::{Creation, Progress, Volume, gib};

use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Ids, WallTime};

use crate::config::Limits;
use crate::latency::{Action, Latency};

/// What the fault plan wants to happen to the request at hand.
#[derive(Clone, Debug, Default)]
pub struct Injected {
    /// The operation that the request starts ends like this, without effect.
    pub fail_operation: Option<Failure>,
    /// The operation that the request starts takes this much longer.
    pub prolong_operation: Duration,
    /// The copy that the request starts stops at this percentage.
    pub stall_copy_at: Option<f64>,
    /// The copy that the request starts breaks at this percentage, with this code and these words.
    pub fail_copy_at: Option<(f64, String, String)>,
    /// Regions without capacity for (further) machines, lower case.
    pub no_capacity_in: Vec<String>,
}

/// What a change was answered with.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The operation to poll; `None` if the change is complete.
    pub operation: Option<String>,
    /// The resource did not exist before.
    pub created: bool,
    /// The operation is an earlier one that is still under way.
    pub joined: bool,
}

/// The simulated cloud.
pub struct World {
    /// Everything that exists.
    pub state: State,
    pub(crate) limits: Limits,
    latency: Latency,
    ids: Arc<dyn Ids>,
}

impl World {
    /// A world that holds `state`.
    pub fn new(state: State, limits: Limits, latency: Latency, ids: Arc<dyn Ids>) -> Self {
        Self { state, limits, latency, ids }
    }

    /// How long `action` takes this time.
    fn takes(&self, action: Action) -> Duration {
        self.latency.of(action)
    }

    /// A fresh GUID.
    fn guid(&self) -> String {
        self.ids.uuid().to_string()
    }

    /// The resource group that `id` is in, or ARM's 404; and the region, or ARM's 400.
    fn check_place(&self, id: &ArmId, location: &str) -> Result<String, ArmError> {
        let group = self.state.group(&id.subscription, &id.group)?;
        if group.deleting {
            return Err(ArmError::conflict(
                "ResourceGroupBeingDeleted",
                format!(
                    "The resource group '{}' is in deprovisioning state and cannot perform this \
                     operation.",
                    id.group
                ),
            ));
        }
        self.region(location)
    }

    /// The region's canonical name (`East US` is `eastus`).
    fn region(&self, location: &str) -> Result<String, ArmError> {
        let name = location.replace(' ', "").to_lowercase();
        if self.state.facts.regions.contains(&name) {
            return Ok(name);
        }
        Err(ArmError::bad_request(
            "LocationNotAvailableForResourceType",
            format!(
                "The provided location '{location}' is not available for this resource type. List \
                 of available regions is '{}'.",
                self.state.facts.regions.join(",")
            ),
        ))
    }

    /// The common part of a resource that is created now.
    fn common(&self, id: ArmId, location: String, tags: Tags, now: WallTime) -> Common {
        Common {
            id,
            location,
            tags,
            zones: Vec::new(),
            created: now,
            provisioning: provisioning::CREATING.into(),
        }
    }
}
