//! What was seen of a capture, kept with its recovery point so that people can judge it later.
//!
//! The consistency is not decided from this, but at the time of the capture, from monotonic clocks
//! ([`crate::consistency`]); what a restored machine must show is ([`crate::machine_evidence`]). The times here count from the agent's FROZEN.

use serde::{Deserialize, Serialize};

use crate::machine_evidence::WitnessRecord;

/// How a point was captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRecord {
    /// Every disk's snapshot, as seen by the controller.
    pub disks: Vec<DiskCapture>,
    /// Every file system's freeze, as attested by the agent; empty without one.
    #[serde(default)]
    pub file_systems: Vec<FileSystemFreeze>,
    /// When thaw was asked for, milliseconds after FROZEN; `None`: nothing was frozen.
    #[serde(default)]
    pub thaw_asked_ms: Option<u64>,
    /// Whether the agent attests one unbroken freeze; `None`: it did not answer, or nothing was frozen.
    #[serde(default)]
    pub unbroken: Option<bool>,
    /// The witnesses that were written: a machine made from the point must show all of them. Empty
    /// without a freeze, and from agents that did not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessRecord>,
}

/// When one disk's snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCapture {
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// When it was asked for, milliseconds after FROZEN (after the first request, without a freeze).
    pub asked_ms: u64,
    /// When it was seen to have succeeded, likewise; `None`: not seen.
    pub done_ms: Option<u64>,
}

impl CaptureRecord {
    /// For how long file systems are known to have been frozen around this disk's snapshot: from
    /// FROZEN until thaw was asked for, if the snapshot was asked for and done in between and the
    /// agent attests that the freeze was unbroken.
    pub fn frozen_ms(&self, disk: &DiskCapture) -> Option<u64> {
        let thaw = self.thaw_asked_ms?;
        let within = disk.done_ms.is_some_and(|done| done <= thaw);
        (within && self.unbroken == Some(true)).then_some(thaw)
    }
}

/// One file system's freeze, by the agent's clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemFreeze {
    /// Where it is mounted.
    pub mount_point: String,
    /// Begin, by the wall clock: milliseconds since 1970.
    pub from_unix_ms: i64,
    /// For how long, by the monotonic clock.
    pub frozen_ms: u64,
    /// The agent's own thaw found it frozen still: nobody else had thawed it.
    pub thawed_by_agent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_counts_as_frozen_only_within_an_unbroken_freeze() {
        let disk = |done_ms| DiskCapture { lun: None, asked_ms: 1, done_ms };
        let record = |thaw_asked_ms, unbroken| CaptureRecord {
            thaw_asked_ms,
            unbroken,
            ..CaptureRecord::default()
        };
        assert_eq!(record(Some(80), Some(true)).frozen_ms(&disk(Some(80))), Some(80));
        assert_eq!(record(Some(80), Some(true)).frozen_ms(&disk(Some(81))), None);
        assert_eq!(record(Some(80), Some(true)).frozen_ms(&disk(None)), None);
        assert_eq!(record(Some(80), Some(false)).frozen_ms(&disk(Some(10))), None);
        assert_eq!(record(Some(80), None).frozen_ms(&disk(Some(10))), None);
        assert_eq!(record(None, None).frozen_ms(&disk(Some(10))), None);
    }
}
