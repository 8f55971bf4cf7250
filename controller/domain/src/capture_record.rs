//! What was seen of a capture, kept with its recovery point so that people can judge it later.
//!
//! The consistency is not decided from this, but at the time of the capture, from monotonic clocks
//! ([`crate::consistency`]); what a restored machine must show is ([`crate::machine_evidence`]). The times
//! here count from the agent's FROZEN.

use serde::{Deserialize, Serialize};

use crate::consistency::Consistency;
use crate::machine_disk::{MachineDisk, any_is_on};
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
    /// Whether the agent attests one unbroken freeze and shows it for every file system; `None`: it did
    /// not answer, or nothing was frozen.
    #[serde(default)]
    pub unbroken: Option<bool>,
    /// The witnesses that were written: a machine made from the point must show all of them. Empty
    /// without a freeze, and from agents that did not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessRecord>,
    /// The machine's SSH host keys, as its agent told them: a machine made from the point has the same.
    /// Fingerprints as of `ssh-keygen -l`; empty where they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_host_keys: Vec<String>,
    /// File systems on disks that the freeze did not cover, as the agent says.
    #[serde(default)]
    pub not_frozen: Vec<FileSystemNotFrozen>,
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
    /// It has a `check`, which a machine made from the point must pass.
    #[serde(default)]
    pub check: bool,
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

impl DiskCapture {
    /// In words.
    fn name(&self) -> String {
        self.lun.map_or_else(|| "the OS disk".to_owned(), |lun| format!("LUN {lun}"))
    }
}

impl CaptureRecord {
    /// For how long file systems are known to have been frozen around this disk's snapshot: from
    /// FROZEN until thaw was asked for; `None` with a [doubt](Self::disk_doubt). Whether one of them is on
    /// this disk may not be known: [`Self::disk_level`].
    pub fn frozen_ms(&self, disk: &DiskCapture) -> Option<u64> {
        self.thaw_asked_ms.filter(|_| self.disk_doubt(disk).is_none())
    }

    /// Whether a file system of this disk was frozen; `None`: not known.
    pub fn has_frozen(&self, lun: Option<u32>) -> Option<bool> {
        let disks = self.file_systems.iter().map(|f| f.disks.as_deref());
        any_is_on(&MachineDisk::of_point(lun), disks)
    }

    /// What is known of this disk by itself; `None`: the freeze encloses its snapshot, and it is not known
    /// whether a file system of it was frozen.
    pub fn disk_level(&self, disk: &DiskCapture) -> Option<Consistency> {
        if self.disk_doubt(disk).is_some() {
            return Some(Consistency::Crash);
        }
        self.has_frozen(disk.lun).map(|_| Consistency::Filesystem)
    }

    /// Why its level is not `filesystem`, in words; empty when it is.
    pub fn disk_reason(&self, disk: &DiskCapture) -> String {
        let unknown = || match self.has_frozen(disk.lun) {
            None => "the agent does not say on which disks the frozen file systems are".to_owned(),
            Some(_) => String::new(),
        };
        self.disk_doubt(disk).unwrap_or_else(unknown)
    }

    /// The disks of which no file system was frozen, with the reasons that are known.
    pub fn disks_left_out(&self) -> Vec<String> {
        let left_out = self.disks.iter().filter(|d| self.has_frozen(d.lun) == Some(false));
        left_out.map(|d| format!("{}: {}", d.name(), self.why_left_out(d))).collect()
    }

    /// The disks of which it is not known whether a file system was frozen.
    pub fn disks_unknown(&self) -> Vec<String> {
        let unknown = self.disks.iter().filter(|d| self.has_frozen(d.lun).is_none());
        unknown.map(DiskCapture::name).collect()
    }

    fn why_left_out(&self, disk: &DiskCapture) -> String {
        let place = MachineDisk::of_point(disk.lun);
        let is_there =
            |f: &&FileSystemNotFrozen| any_is_on(&place, [f.disks.as_deref()]) == Some(true);
        let there = self.not_frozen.iter().filter(is_there);
        let names: Vec<_> = there.map(|f| format!("{}: {}", f.mount_point, f.reason)).collect();
        match names.as_slice() {
            [] => "no file system of it was frozen".to_owned(),
            names => format!("no file system of it was frozen ({})", names.join("; ")),
        }
    }

    /// Why no freeze is known to enclose this disk's snapshot, in words: it must have been asked for and
    /// done between FROZEN and the request to thaw, the agent must show an unbroken freeze, and not say that
    /// it froze on other disks only.
    pub fn disk_doubt(&self, disk: &DiskCapture) -> Option<String> {
        self.doubt_in_time(disk)
            .map(str::to_owned)
            .or_else(|| (self.has_frozen(disk.lun) == Some(false)).then(|| self.why_left_out(disk)))
    }

    fn doubt_in_time(&self, disk: &DiskCapture) -> Option<&'static str> {
        match (self.thaw_asked_ms, disk.done_ms, self.unbroken) {
            (None, _, _) => Some("nothing was frozen"),
            (_, None, _) => Some("it was not seen to succeed"),
            (Some(thaw), Some(done), _) if done > thaw => {
                Some("it succeeded only after thaw was asked for")
            }
            (_, _, None) => Some("the agent did not confirm the freeze"),
            (_, _, Some(false)) => Some("the freeze was broken"),
            (_, _, Some(true)) => None,
        }
    }

    /// Why the agent's word on an unbroken freeze is not enough, if so: a file system of `frozen`, which
    /// it said were frozen, is not shown to have been so throughout.
    pub fn unproved<'a>(&self, frozen: impl IntoIterator<Item = &'a str>) -> Option<String> {
        if self.file_systems.is_empty() {
            return Some("the agent shows no file system that was frozen".to_owned());
        }
        for mount_point in frozen {
            if !self.file_systems.iter().any(|f| f.mount_point == mount_point) {
                return Some(format!("{mount_point}: the agent shows nothing of its freeze"));
            }
        }
        self.file_systems.iter().find_map(|f| Some(format!("{}: {}", f.mount_point, f.doubt()?)))
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
    /// `ext4`, …; empty where the agent does not say.
    #[serde(default)]
    pub file_system_type: String,
    /// `major:minor` of its superblock; empty where the agent does not say.
    #[serde(default)]
    pub device: String,
    /// What its canary showed; `None` for captures before canaries.
    #[serde(default)]
    pub canary: Option<CanarySight>,
    /// Why the agent does not count it as frozen throughout; empty: it does.
    #[serde(default)]
    pub reason: String,
    /// What is worth knowing of its freeze and takes nothing from its level, in the agent's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// All disks that it lies on; `None`: not known, and so for agents that did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<MachineDisk>>,
}

/// A process that touches a file as soon as everything is frozen: proof that it was, until the thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanarySight {
    /// It was seen blocked.
    pub blocked: bool,
    /// When it went on, milliseconds after the begin of this file system's freeze; `None`: not known.
    pub released_ms: Option<u64>,
    /// The first FITHAW succeeded, and it went on after the thaw was asked for, and not before.
    pub released_by_thaw: bool,
}

/// A file system that a freeze did not cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystemNotFrozen {
    /// Where it is mounted.
    pub mount_point: String,
    /// `vfat`, …
    pub file_system_type: String,
    /// `major:minor` of its superblock.
    pub device: String,
    /// Why not, in the agent's words.
    pub reason: String,
    /// All disks that it lies on; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<MachineDisk>>,
}

impl FileSystemFreeze {
    /// Why this is no proof that it was frozen throughout, in words.
    pub fn doubt(&self) -> Option<&str> {
        let sight = self.canary.as_ref();
        match sight {
            _ if !self.reason.is_empty() => Some(&self.reason),
            _ if !self.thawed_by_agent => Some("somebody else thawed it"),
            None => Some("nobody looked whether it was frozen"),
            Some(sight) if !sight.blocked => Some("its canary was not seen blocked"),
            Some(sight) if !sight.released_by_thaw => {
                Some("its canary did not stay blocked until the thaw")
            }
            Some(_) => None,
        }
    }

    /// What is known of this file system by itself: frozen throughout, or no more than after pulling
    /// the plug; `None` for captures before canaries.
    pub fn level(&self) -> Option<Consistency> {
        self.canary?;
        Some(if self.doubt().is_none() { Consistency::Filesystem } else { Consistency::Crash })
    }
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
        for (thaw, unbroken, done, words) in [
            (None, None, Some(10), "nothing was frozen"),
            (Some(80), Some(true), None, "not seen to succeed"),
            (Some(80), Some(true), Some(81), "only after thaw"),
            (Some(80), None, Some(10), "did not confirm"),
            (Some(80), Some(false), Some(10), "broken"),
        ] {
            assert!(record(thaw, unbroken).disk_doubt(&disk(done)).unwrap().contains(words));
        }
    }

    #[test]
    fn a_disk_without_a_frozen_file_system_is_no_frozen_disk_and_an_unknown_one_is_neither() {
        let frozen = |mount_point: &str, disks| FileSystemFreeze {
            mount_point: mount_point.into(),
            from_unix_ms: 0,
            frozen_ms: 80,
            thawed_by_agent: true,
            file_system_type: "ext4".into(),
            device: "8:1".into(),
            canary: None,
            reason: String::new(),
            note: String::new(),
            disks,
        };
        let record = |of_data: Option<Vec<MachineDisk>>| {
            let disk = |lun| DiskCapture { lun, asked_ms: 1, done_ms: Some(70) };
            CaptureRecord {
                disks: vec![disk(None), disk(Some(0)), disk(Some(1))],
                file_systems: vec![
                    frozen("/", Some(vec![MachineDisk::Os])),
                    frozen("/data", of_data),
                ],
                thaw_asked_ms: Some(80),
                unbroken: Some(true),
                not_frozen: vec![FileSystemNotFrozen {
                    mount_point: "/left".into(),
                    file_system_type: "ext4".into(),
                    device: "8:48".into(),
                    reason: "not among the configured file_systems".into(),
                    disks: Some(vec![MachineDisk::Lun(1)]),
                }],
                ..CaptureRecord::default()
            }
        };
        let (file_system, crash) = (Some(Consistency::Filesystem), Some(Consistency::Crash));
        let levels = |record: &CaptureRecord| -> Vec<_> {
            record.disks.iter().map(|d| record.disk_level(d)).collect()
        };

        let left_out = record(Some(vec![MachineDisk::Lun(0)]));
        assert_eq!(levels(&left_out), [file_system, file_system, crash]);
        assert_eq!(left_out.disks.iter().filter(|d| left_out.frozen_ms(d).is_some()).count(), 2);
        let why = "no file system of it was frozen (/left: not among the configured file_systems)";
        assert_eq!(left_out.disk_reason(&left_out.disks[2]), why);
        assert_eq!(left_out.disks_left_out(), [format!("LUN 1: {why}")]);
        assert_eq!(
            (left_out.disk_reason(&left_out.disks[0]), left_out.disks_unknown()),
            (String::new(), vec![])
        );

        let spanning = record(Some(vec![MachineDisk::Lun(0), MachineDisk::Lun(1)]));
        assert_eq!(levels(&spanning), [file_system; 3]);
        assert_eq!(spanning.disks_left_out(), [""; 0]);

        // An agent that does not tell, and one that does not recognise any disk.
        let other = |name: &str| Some(vec![MachineDisk::Other(name.into())]);
        for (of_root, of_data) in [(None, None), (other("vda"), other("vdb"))] {
            let mut unknown = record(of_data);
            unknown.file_systems[0].disks = of_root;
            assert_eq!(levels(&unknown), [None; 3]);
            assert_eq!(unknown.frozen_ms(&unknown.disks[2]), Some(80));
            assert!(unknown.disk_reason(&unknown.disks[2]).contains("does not say on which disks"));
            assert_eq!(unknown.disks_unknown(), ["the OS disk", "LUN 0", "LUN 1"]);
            assert_eq!(unknown.disks_left_out(), [""; 0]);
        }
        // One that does recognise the VM's disks, of which this is none.
        for of_data in [None, other("sdx")] {
            let foreign = record(of_data);
            assert_eq!(levels(&foreign), [file_system, crash, crash]);
            assert_eq!(foreign.disks_unknown(), [""; 0]);
            let named = "LUN 0: no file system of it was frozen".to_owned();
            assert_eq!(foreign.disks_left_out(), [named, format!("LUN 1: {why}")]);
        }
        let broken = CaptureRecord { unbroken: Some(false), ..left_out };
        assert_eq!(levels(&broken), [crash; 3]);
        assert_eq!(broken.disk_reason(&broken.disks[2]), "the freeze was broken");
    }

    #[test]
    fn a_file_system_is_proved_frozen_by_its_canary_and_the_thaw_together() {
        let sight = CanarySight { blocked: true, released_ms: Some(80), released_by_thaw: true };
        let whole = FileSystemFreeze {
            mount_point: "/data".into(),
            from_unix_ms: 0,
            frozen_ms: 80,
            thawed_by_agent: true,
            file_system_type: "ext4".into(),
            device: "8:1".into(),
            canary: Some(sight),
            reason: String::new(),
            note: "late".into(),
            disks: None,
        };
        let record = |file_systems: Vec<FileSystemFreeze>| CaptureRecord {
            file_systems,
            ..CaptureRecord::default()
        };
        assert_eq!(whole.level(), Some(Consistency::Filesystem));
        assert_eq!(record(vec![whole.clone()]).unproved(["/data"]), None);
        let other = record(vec![whole.clone()]).unproved(["/data", "/"]).unwrap();
        assert_eq!(other, "/: the agent shows nothing of its freeze");
        assert!(record(vec![]).unproved([]).unwrap().contains("no file system"));
        let with = |canary: CanarySight| FileSystemFreeze { canary: Some(canary), ..whole.clone() };
        for (doubtful, words) in [
            (FileSystemFreeze { reason: "read-only".into(), ..whole.clone() }, "read-only"),
            (FileSystemFreeze { thawed_by_agent: false, ..whole.clone() }, "somebody else"),
            (with(CanarySight { blocked: false, ..sight }), "not seen blocked"),
            (with(CanarySight { released_by_thaw: false, ..sight }), "until the thaw"),
        ] {
            assert_eq!(doubtful.level(), Some(Consistency::Crash), "{words}");
            let why = record(vec![whole.clone(), doubtful]).unproved(["/data"]).unwrap();
            assert!(why.starts_with("/data: ") && why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_record_from_before_canaries_is_read_and_claims_nothing_of_them() {
        let text = r#"{"disks":[],"file_systems":[{"mount_point":"/","from_unix_ms":1,"frozen_ms":2,
            "thawed_by_agent":true}],"thaw_asked_ms":3,"unbroken":true}"#;
        let record: CaptureRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.file_systems[0].level(), None);
        assert!(record.unproved(["/"]).is_some() && record.not_frozen.is_empty());
    }
}
