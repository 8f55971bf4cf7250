//! azdr's pure rules, and the types they are about.
//!
//! Nothing here does I/O, waits, or asks what time it is: each rule is a function of what is known
//! and of `now`, and gives its answer with reasons. Whoever calls it fetches the facts and carries the
//! answer out. That makes the rules cheap to test against thousands of random histories, and lets
//! `explain` and `simulate` show exactly what the scheduler and the pruner would do.
//!
//! A tour, in the order of a recovery point's life:
//!
//! 1. [`arm_id`], [`name`], [`region`]: what things are called in Azure, validated before it reaches a
//!    URL and compared without regard to case.
//! 2. [`policy`]: what a person wants for a VM, its limits, and [`policy_tag`], its mirror in a tag;
//!    [`selection`]: which named policy a VM gets.
//! 3. [`schedule`]: when a run is due, and which [`tier`]s its point carries, by the calendar
//!    [`period`]s of the policy's time zone.
//! 4. [`consistency`]: what the capture achieved, from causal evidence alone (invariant I4).
//! 5. [`proving`]: when a verification or a drill is due. [`recovery_point`] and [`vm_description`]: the point's names, its proof, and what it needs to
//!    remember of the VM to rebuild it.
//! 6. [`retention`]: which points are kept and why, which may go (invariants I1 and I2), and [`pin`]:
//!    a person's hold.
//! 7. [`forecast`]: all of that run forward over the real catalogue, for `explain` and `simulate`.
//! 8. [`residue`]: what nobody wants any more and azdr may delete (invariant I5), and the [`cost`] of things.
//! 9. [`content`]: which blocks of a disk are hashed, and what it is worth when a copy's are equal.
//!    [`machine_disk`]: on which of a machine's disks something lies, as far as it is known;
//!    [`machine_evidence`]: whether a restored machine is what it was restored from, and well;
//!    [`ssh_evidence`]: what its SSH shows of that from outside.
//!    [`rto`] and [`verification`]: what drills and verifications have shown, for reports; [`copying`] and
//!    [`restore_choice`]: what to expect of a copy, and of a restore.
//! 10. [`objective`]: what is asked of backups and drills, and whether it is so; [`alert`]: what somebody
//!     should look at, in words.
//!
//! This crate must not know of Azure's API, of the catalogue or of agents.

pub mod alert;
pub mod arm_id;
pub mod capture_record;
pub mod consistency;
pub mod content;
pub mod copying;
pub mod cost;
pub mod coverage;
pub mod forecast;
pub mod interval;
pub mod machine_disk;
pub mod machine_evidence;
pub mod name;
pub mod objective;
pub mod period;
pub mod pin;
pub mod point_reference;
pub mod policy;
pub mod policy_tag;
pub mod proving;
pub mod recovery_point;
pub mod region;
pub mod residue;
pub mod restore_choice;
pub mod retention;
pub mod rto;
pub mod schedule;
pub mod selection;
pub mod ssh_evidence;
pub mod tier;
pub mod verification;
pub mod vm_description;

pub use arm_id::{ArmId, ArmIdError, RESOURCE_GROUP_TYPE};
pub use capture_record::CaptureRecord;
pub use consistency::{CaptureEvidence, Consistency, FreezeEvidence, PutEvidence, ThawAttestation};
pub use interval::{Interval, IntervalError};
pub use name::{NameError, NameKind, ResourceName};
pub use period::Period;
pub use pin::{PIN_TAG, Pin};
pub use policy::{
    ConsistencyDemand, Policy, PolicyChange, PolicyError, Retention, Schedule, SpanField,
    TimeOfDay, ZoneName,
};
pub use policy_tag::{POLICY_TAG, PolicyTag};
pub use recovery_point::{PointName, PointNameError, ProofLevel, snapshot_name};
pub use region::{Region, RegionError};
pub use retention::{
    Delete, DeleteReason, Hold, HoldKind, Keep, KeepReason, LineageFact, LineageNeed, PointFacts,
    RetentionPlan,
};
pub use schedule::{Due, History, TierNotRetained};
pub use selection::{Decision, NamedPolicy, PolicyName, Present, Selector};
pub use tier::{Tier, TierSet};
pub use vm_description::{DiskDescription, VmDescription};
