//! How strict and how fast a simulator is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::latency::Profile;
use crate::throttling::Throttling;

/// Configuration of a [`Simulator`](crate::Simulator).
#[derive(Clone, Debug)]
pub struct Config {
    /// The state directory, made by [`init`](crate::init).
    pub state_dir: PathBuf,
    /// How long things take.
    pub profile: Profile,
    /// Seeds the variation of those times.
    pub seed: u64,
    /// Quotas and strictness.
    pub limits: Limits,
    /// Where blocking file work runs.
    pub blocking: Blocking,
    /// Whether answers wait until the journal is on the disk.
    pub durability: Durability,
}

impl Config {
    /// Fast, durable, on a multi-threaded runtime.
    pub fn fast(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            profile: Profile::Fast,
            seed: 0,
            limits: Limits::default(),
            blocking: Blocking::Pool,
            durability: Durability::Fsync,
        }
    }
}

/// Where blocking file work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// On the runtime's pool of threads for it.
    Pool,
    /// Where it is asked for: for deterministic tests on one thread with paused time.
    Inline,
}

/// Whether answers wait until the journal is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// An answered change survives `kill -9` and power loss.
    Fsync,
    /// An answered change survives `kill -9`.
    Written,
    /// There is no journal: the world lives as long as the process.
    None,
}

/// Quotas and strictness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Incremental snapshots alive per disk.
    pub snapshots_per_disk: usize,
    /// Snapshots per disk within five minutes; `None`: any number.
    pub snapshots_per_disk_in_5_minutes: Option<usize>,
    /// Cross-region copies in flight per subscription and target region.
    pub copies_in_flight: usize,
    /// Entries per page of a listing.
    pub page_size: usize,
    /// `Retry-After` on answers that start or report a running operation.
    pub retry_after_secs: Option<u64>,
    /// Life of an access token.
    pub token_secs: u64,
    /// How long an ended operation can be asked for.
    pub operation_record_secs: u64,
    /// Length of the opaque certificate that polling URLs carry, as Azure's do.
    pub polling_url_padding: usize,
    /// Token buckets; `None`: any number of requests is taken.
    pub throttling: Option<Throttling>,
    /// Every page of a listing is followed by an empty one.
    pub empty_pages: bool,
    /// Listings show ids in a case of their own.
    pub mixed_case_ids: bool,
    /// VMs that may be allocated per subscription and region.
    pub vms_per_region: Option<usize>,
    /// TCP ports of a guest that its public address forwards, if its security groups permit it.
    pub guest_ports: Vec<u16>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshots_per_disk: 500,
            snapshots_per_disk_in_5_minutes: None,
            copies_in_flight: 100,
            page_size: 100,
            retry_after_secs: None,
            token_secs: 3600,
            operation_record_secs: 24 * 3600,
            polling_url_padding: 0,
            throttling: None,
            empty_pages: false,
            mixed_case_ids: false,
            vms_per_region: None,
            guest_ports: vec![22],
        }
    }
}

impl Limits {
    /// As Azure has them. Without `empty_pages`: an empty page in the middle of a listing was seen, but
    /// one in one listing, of clusters; one behind every page would make each listing cost twice as many
    /// requests as at Azure. Clients are tested with it by its own switch.
    pub fn recorded() -> Self {
        Self {
            snapshots_per_disk_in_5_minutes: Some(7),
            polling_url_padding: 2048,
            throttling: Some(Throttling::azure()),
            mixed_case_ids: true,
            ..Self::default()
        }
    }
}
