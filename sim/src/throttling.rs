//! How many requests Azure takes: token buckets of its front door and of its providers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A class of requests with limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// The front door: GET.
    ArmReads,
    /// The front door: PUT, PATCH, POST.
    ArmWrites,
    /// The front door: DELETE.
    ArmDeletes,
    /// PUT of a VM.
    VmCreate,
    /// Changes and power operations of a VM.
    VmUpdate,
    /// Deleting and deallocating a VM.
    VmDelete,
    /// GET of one VM, its instance view, its boot diagnostics.
    VmGet,
    /// Listing VMs.
    VmList,
    /// Polling a VM's operation.
    VmOperation,
    /// PUT of a snapshot; access to snapshots.
    SnapshotCreate,
    /// Access to disks.
    DiskHydrate,
    /// PUT and PATCH of a disk, PATCH of a snapshot.
    DiskUpdate,
    /// Deleting disks and snapshots.
    DiskDelete,
    /// GET of disks and snapshots, one or many.
    DiskGet,
    /// Polling an operation of a disk or snapshot.
    DiskOperation,
    /// GET on the network.
    NetworkReads,
    /// Everything else on the network.
    NetworkWrites,
}

/// Who shares a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A principal in a subscription.
    Principal,
    /// A subscription.
    Subscription,
    /// A subscription in a region.
    Region,
    /// A VM.
    Vm,
}

/// A bucket: full at first, refilled evenly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// As the remaining-requests header and the refusal call it.
    pub name: String,
    /// Who shares it.
    pub per: Per,
    /// Requests that it holds.
    pub burst: u32,
    /// Requests that it gets back in `per_secs`.
    pub refill: u32,
    /// Seconds; at least one.
    pub per_secs: u32,
}

/// Buckets by class of request. A request needs a token of each bucket of its classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Throttling(pub BTreeMap<Meter, Vec<Bucket>>);

impl Throttling {
    /// As documented, and as remaining-requests headers of recorded traffic show.
    pub fn azure() -> Self {
        use Meter::*;
        let bucket = |name: &str, per, burst, refill, per_secs| Bucket {
            name: name.to_owned(),
            per,
            burst,
            refill,
            per_secs,
        };
        let arm = |name: &str, burst, refill| {
            vec![
                bucket(name, Per::Principal, burst, refill, 1),
                bucket(&format!("global-{name}"), Per::Subscription, 15 * burst, 15 * refill, 1),
            ]
        };
        let compute = |name: &str, vm: Option<u32>, all: u32| {
            let of_vm = vm.map(|vm| bucket(name, Per::Vm, 3 * vm, vm, 60));
            let of_all = bucket(&format!("{name}Subscription"), Per::Region, 3 * all, all, 60);
            of_vm.into_iter().chain([of_all]).collect()
        };
        let disks = |name: &str, short, long| {
            vec![
                bucket(&format!("{name}3Min"), Per::Region, short, short, 180),
                bucket(&format!("{name}30Min"), Per::Region, long, long, 1800),
            ]
        };
        let network = |name: &str, all| vec![bucket(name, Per::Region, all, all, 300)];
        Self(BTreeMap::from([
            (ArmReads, arm("reads", 250, 25)),
            (ArmWrites, arm("writes", 200, 10)),
            (ArmDeletes, arm("deletes", 200, 10)),
            (VmCreate, compute("PutVM", Some(4), 500)),
            (VmUpdate, compute("UpdateVM", Some(4), 500)),
            (VmDelete, compute("DeleteVM", Some(4), 500)),
            (VmGet, compute("LowCostGetVM", Some(12), 8000)),
            (VmList, compute("HighCostGet", None, 300)),
            (VmOperation, compute("GetOperation", Some(15), 5000)),
            (SnapshotCreate, disks("HighCostSnapshotCreateHydrate", 1000, 8000)),
            (DiskHydrate, disks("HighCostDiskHydrate", 1000, 8000)),
            (DiskUpdate, disks("CreateUpdateDisks", 3000, 25_000)),
            (DiskDelete, disks("DeleteDisks", 3000, 24_000)),
            (DiskGet, disks("LowCostGet", 15_000, 120_000)),
            (DiskOperation, disks("GetOperation", 50_000, 400_000)),
            (NetworkReads, network("NetworkReads", 10_000)),
            (NetworkWrites, network("NetworkWrites", 1000)),
        ]))
    }
}
