//! Everything that goes wrong, by name, and how often it did.
//!
//! A fault is counted when it has happened, not when it was planned.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in reports.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    /// The controller dies while nothing in particular happens ([`crate::doom`]).
    Crash = "controller killed";
    /// It dies just before a request would leave.
    CrashBeforeRequest = "controller killed before a request";
    /// It dies when Azure has carried a request out, and does not learn of it.
    CrashAfterRequest = "controller killed after a request";
    /// It dies just before a commit.
    CrashBeforeCommit = "controller killed before a commit";
    /// It dies between a commit and its answer.
    CrashAfterCommit = "controller killed after a commit";
    /// An agent's process dies ([`crate::machines::Machines::crash_agent`]).
    AgentCrash = "agent killed";
    /// A machine is cut off from the controller ([`crate::machines::Machines::partition`]).
    Partition = "agent cut off";
    /// A request never arrives ([`crate::cloud::Weather`], as all up to the storm of 429s but one).
    RequestLost = "request lost";
    /// An answer never arrives.
    AnswerLost = "answer lost";
    /// An answer comes late.
    AnswerDelayed = "answer delayed";
    /// A request arrives twice.
    RequestTwice = "request doubled";
    /// An agent's answer comes a second time, up to a minute later ([`crate::machines`]).
    AnswerTwice = "answer doubled";
    /// 500 or 503.
    ServerError = "server error";
    /// 429 in a storm of them.
    Throttled = "throttled";
    /// A copy stops for good ([`crate::trouble`], as the next four).
    StalledCopy = "copy stalled";
    /// A copy breaks.
    BrokenCopy = "copy broken";
    /// A long operation fails.
    OperationFailed = "operation failed";
    /// A quota is used up: 409.
    Quota = "quota used up";
    /// A resource gets another name.
    Renamed = "snapshot renamed";
    /// A machine could not be made or started for want of capacity.
    NoCapacity = "no capacity";
    /// A request was refused since its region is down.
    RegionDown = "region down";
    /// A request was refused because of somebody's lock.
    Locked = "locked";
    /// Somebody starts or restarts a machine ([`crate::strangers`], as all up to the clock).
    PowerTouched = "machine restarted by somebody";
    /// Somebody deletes an original snapshot.
    SnapshotDeleted = "snapshot deleted by somebody";
    /// Somebody deletes a replica's snapshot.
    ReplicaDeleted = "replica deleted by somebody";
    /// Somebody deletes a protected VM.
    VmDeleted = "VM deleted by somebody";
    /// Somebody deletes a running job's temporary.
    TemporaryDeleted = "temporary deleted by somebody";
    /// Somebody deletes a disk that nothing uses: replaced and kept.
    DiskDeleted = "kept disk deleted by somebody";
    /// Somebody tidies away the VM's snapshots, all of one region.
    AllDeleted = "all snapshots of a VM deleted by somebody";
    /// Somebody makes a disk with the name that a verification will want for its own.
    NameTaken = "name of a temporary taken by somebody";
    /// The controller's clock is set wrong ([`crate::clock`]).
    ClockWrong = "clock set wrong";
    /// A policy's zone has changed its offset.
    DstChange = "daylight saving changed";
    /// A second controller was started beside the first.
    SecondController = "second controller";
    /// The database was opened for another cloud.
    OtherStamp = "database opened for another cloud";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often each kind has happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<Kind, u64>);

impl Tally {
    /// It has happened so often more.
    pub fn add(&mut self, kind: Kind, times: u64) {
        if times > 0 {
            *self.0.entry(kind).or_default() += times;
        }
    }

    /// By name; what never happened is there with 0.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let count = |kind: &Kind| self.0.get(kind).copied().unwrap_or_default();
        Kind::ALL.iter().map(|k| (k.to_string(), count(k))).collect()
    }
}
