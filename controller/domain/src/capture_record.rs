//! What was seen of a capture, kept with its recovery point so that people can judge it later.
//!
//! Nothing is decided from this: the consistency is decided at the time of the capture, from monotonic
//! clocks ([`crate::consistency`]). The times here count from the agent's FROZEN.

use serde::{Deserialize, Serialize};

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
    /// What the machine's own hooks did, as attested by the agent, in the order of their `pre`.
    #[serde(default)]
    pub hooks: Vec<HookRecord>,
}

/// What one hook did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRecord {
    /// The name under which the machine's root installed it.
    pub name: String,
    /// What it is.
    pub kind: HookKind,
    /// It declares that what it prepares is an application.
    pub application: bool,
    /// Its verbs, in the order of their start.
    pub runs: Vec<HookRunRecord>,
    /// Why it did not succeed; empty when it did.
    pub problem: String,
}

/// What a hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// Runs to its end for each verb.
    Oneshot,
    /// Runs from before the freeze until after the thaw.
    Hold,
}

/// One verb of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRunRecord {
    /// Which.
    pub verb: HookVerb,
    /// How it ended, in words.
    pub end: String,
    /// Whether that is a success.
    pub succeeded: bool,
    /// `None`: it did not exit by itself.
    pub exit_code: Option<i32>,
    /// How long it took; of a `pre` of a `hold`, until it was ready.
    pub took_ms: u32,
    /// The end of its output, at most 1,024 bytes.
    pub output: String,
    /// It ran in a cgroup of its own.
    pub in_cgroup: bool,
    /// Processes that it left behind.
    pub left_behind: u32,
}

/// What a hook was run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookVerb {
    /// Before the freeze.
    Pre,
    /// After a hold that was unbroken.
    Post,
    /// After anything else.
    Abort,
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
    fn records_from_before_there_were_hooks_are_still_read() {
        let record: CaptureRecord =
            serde_json::from_str(r#"{"disks":[],"unbroken":true}"#).unwrap();
        assert_eq!((record.unbroken, record.hooks), (Some(true), vec![]));
    }

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
