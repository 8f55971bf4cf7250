//! What an agent says of its file systems in a capture, cut to what is worth keeping.
//!
//! An agent is believed about its own machine, but not about how much there is to keep.

use azdr_domain::capture_record::{CanarySight, FileSystemFreeze, FileSystemNotFrozen};
use azdr_domain::machine_disk::MachineDisk;
use azdr_proto::agent::{Disk, DiskKind, FileSystemReport, FileSystemState, FileSystemWindow};

use super::hooks::cut;

/// The most that one freeze covers. Of an agent that shows more, the others count as not shown.
pub(super) const MOST_FROZEN: usize = 64;
/// With the entry that stands for all others.
const MOST_NOT_FROZEN: usize = 128;
/// An OS disk and the most data disks of a VM.
const MOST_DISKS: usize = 65;
/// Of a path, as Linux has it.
pub(super) const MOST_PATH: usize = 4_096;
const MOST_WORDS: usize = 512;

/// What it says of those that it froze, before and after.
pub(super) fn frozen(
    windows: &[FileSystemWindow],
    said: &[FileSystemReport],
) -> Vec<FileSystemFreeze> {
    windows.iter().take(MOST_FROZEN).map(|window| file_system(window, said)).collect()
}

/// The same while they are frozen still: what they are and where, and nothing of their windows.
pub(super) fn frozen_now(said: &[FileSystemReport]) -> Vec<FileSystemFreeze> {
    let now = said.iter().filter(|report| report.state() == FileSystemState::Frozen);
    let begun = |report: &FileSystemReport| FileSystemWindow {
        mount_point: report.mount_point.clone(),
        ..FileSystemWindow::default()
    };
    frozen(&now.map(begun).collect::<Vec<_>>(), said)
}

/// What it says of the others. Where there are too many, the last entry says how many are not kept.
pub(super) fn not_frozen(said: &[FileSystemReport]) -> Vec<FileSystemNotFrozen> {
    let others = || said.iter().filter(|report| report.state() != FileSystemState::Frozen);
    let count = others().count();
    let kept = if count > MOST_NOT_FROZEN { MOST_NOT_FROZEN - 1 } else { count };
    let mut all: Vec<_> = others().take(kept).map(one_not_frozen).collect();
    if count > kept {
        all.push(FileSystemNotFrozen {
            mount_point: format!("{} others", count - kept),
            file_system_type: String::new(),
            device: String::new(),
            reason: format!("not listed: more than {MOST_NOT_FROZEN} are not frozen"),
            disks: None,
        });
    }
    all
}

fn file_system(window: &FileSystemWindow, said: &[FileSystemReport]) -> FileSystemFreeze {
    const NS_PER_MS: u64 = 1_000_000;
    let after_ms = |ns: u64| ns.saturating_sub(window.frozen_from_ns) / NS_PER_MS;
    let report = said.iter().find(|report| report.mount_point == window.mount_point);
    let words = |of: fn(&FileSystemReport) -> &String| {
        report.map(|report| cut(of(report), MOST_WORDS)).unwrap_or_default()
    };
    let is_frozen = report.is_some_and(|r| r.state() == FileSystemState::Frozen);
    FileSystemFreeze {
        mount_point: cut(&window.mount_point, MOST_PATH),
        from_unix_ms: window.frozen_from_unix_ms,
        frozen_ms: after_ms(window.frozen_to_ns),
        thawed_by_agent: window.first_thaw_succeeded,
        file_system_type: words(|report| &report.file_system_type),
        device: words(|report| &report.device),
        canary: Some(CanarySight {
            blocked: window.canary_blocked,
            released_ms: (window.canary_released_ns > 0)
                .then(|| after_ms(window.canary_released_ns)),
            released_by_thaw: window.canary_released_by_thaw,
        }),
        reason: cut(&window.reason, MOST_WORDS),
        note: if is_frozen { words(|report| &report.reason) } else { String::new() },
        disks: report.and_then(disks_below),
    }
}

fn one_not_frozen(report: &FileSystemReport) -> FileSystemNotFrozen {
    FileSystemNotFrozen {
        mount_point: cut(&report.mount_point, MOST_PATH),
        file_system_type: cut(&report.file_system_type, MOST_WORDS),
        device: cut(&report.device, MOST_WORDS),
        reason: cut(&report.reason, MOST_WORDS),
        disks: disks_below(report),
    }
}

/// What a file system lies on. Of one that lies on more disks than a VM has, that is not known.
fn disks_below(report: &FileSystemReport) -> Option<Vec<MachineDisk>> {
    let disk = |disk: &Disk| match disk.kind() {
        DiskKind::Os => MachineDisk::Os,
        DiskKind::Data => MachineDisk::Lun(disk.lun),
        DiskKind::Temporary => MachineDisk::Temporary,
        DiskKind::Unknown => MachineDisk::Other(cut(&disk.name, MOST_WORDS)),
    };
    let is_known = report.disks_known && report.disks.len() <= MOST_DISKS;
    is_known.then(|| report.disks.iter().map(disk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(place: String, state: FileSystemState) -> FileSystemReport {
        let disk = Disk { kind: DiskKind::Data.into(), lun: 3, name: "sdd".to_owned() };
        FileSystemReport {
            mount_point: place,
            file_system_type: "vfat".repeat(1_000),
            reason: "é".repeat(1_000),
            state: state.into(),
            disks: vec![disk],
            disks_known: true,
            ..FileSystemReport::default()
        }
    }

    #[test]
    fn of_those_that_are_not_frozen_so_many_are_kept_and_the_others_are_counted() {
        let said = |count: usize| -> Vec<_> {
            let skipped = (0..count).map(|n| report(format!("/{n}"), FileSystemState::Skipped));
            skipped.chain([report("/".to_owned(), FileSystemState::Frozen)]).collect()
        };
        assert!(not_frozen(&said(0)).is_empty());
        let all = not_frozen(&said(128));
        assert_eq!((all.len(), all[127].mount_point.as_str()), (128, "/127"));
        assert_eq!(all[0].disks, Some(vec![MachineDisk::Lun(3)]));
        assert_eq!((all[0].reason.len(), all[0].file_system_type.len()), (512, 512));
        let most = not_frozen(&said(1_000));
        assert_eq!((most.len(), most[126].mount_point.as_str()), (128, "/126"));
        assert_eq!(most[127].mount_point, "873 others");
        assert!(most[127].reason.contains("more than 128"), "{}", most[127].reason);
        assert_eq!(most[127].disks, None, "on any disk");
    }

    #[test]
    fn of_those_that_are_frozen_no_more_are_kept_than_can_be() {
        let said: Vec<_> =
            (0..100).map(|n| report(format!("/{n}"), FileSystemState::Frozen)).collect();
        let kept = frozen_now(&said);
        assert_eq!((kept.len(), kept[63].mount_point.as_str()), (64, "/63"));
        assert_eq!((kept[0].note.len(), &kept[0].disks), (512, &Some(vec![MachineDisk::Lun(3)])));
        let mut wide = report("/wide".to_owned(), FileSystemState::Frozen);
        wide.disks = vec![wide.disks[0].clone(); 66];
        assert_eq!(frozen_now(&[wide])[0].disks, None);
    }
}
