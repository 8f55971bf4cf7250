//! The VM's disks of which a freeze would cover nothing: whatever else is frozen, a backup with one of them
//! is not `filesystem`. Judged as the controller judges it: disks are told by their place in Azure, and
//! where nothing that would be frozen lies on a disk with one, none is known to be left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use azdr_proto::agent::{Disk, DiskKind, NotCovered};

use crate::bounds::clip;
use crate::survey::Plan;
use crate::{disks, stack};

/// Devices that are written to without a file system, by the kernel's names.
pub(crate) struct Used {
    /// Swap.
    pub(crate) swap: Vec<String>,
    /// Nothing is mounted from them.
    pub(crate) raw: Vec<String>,
}

/// Each of these disks, with what is known to be on it.
pub(crate) fn unfrozen_disks(sys: &Path, plan: &Plan, used: &Used) -> Vec<NotCovered> {
    let below: Vec<&Disk> = plan.file_systems.iter().flat_map(|planned| &planned.disks).collect();
    let placed = |disk: &&Disk| matches!(disk.kind(), DiskKind::Os | DiskKind::Data);
    if below.iter().any(|disk| disk.kind() == DiskKind::Unknown) && !below.iter().any(placed) {
        return Vec::new();
    }
    let of_snapshots = disks_of_the_vm(sys).into_iter();
    let left_out = of_snapshots.filter(|disk| !below.iter().any(|other| is_same(disk, other)));
    left_out
        .map(|disk| {
            let why = what_is_on(sys, &disk, plan, used);
            NotCovered {
                what: disks::in_words(&disk),
                kind: "disk".to_owned(),
                reason: clip(format!(
                    "nothing on it is frozen, so that a backup cannot be `filesystem`: {why}"
                )),
            }
        })
        .collect()
}

/// Those of which snapshots are taken, in the order of their places.
fn disks_of_the_vm(sys: &Path) -> Vec<Disk> {
    let entries = fs::read_dir(sys.join("class/block")).into_iter().flatten().flatten();
    let names = entries.filter(|entry| {
        let folder = entry.path();
        let size = fs::read_to_string(folder.join("size")).unwrap_or_default();
        // A controller may show a disk that has just been detached for a while.
        !folder.join("partition").exists() && size.trim().parse::<u64>().is_ok_and(|size| size > 0)
    });
    let found = names.map(|entry| disks::disk(sys, &entry.file_name().to_string_lossy()));
    let mut found: Vec<Disk> =
        found.filter(|disk| matches!(disk.kind(), DiskKind::Os | DiskKind::Data)).collect();
    found.sort_by(|a, b| (a.kind, a.lun, &a.name).cmp(&(b.kind, b.lun, &b.name)));
    // A disk that is reached by several ways is one disk.
    found.dedup_by(|a, b| is_same(a, b));
    found
}

fn is_same(one: &Disk, other: &Disk) -> bool {
    (one.kind, one.lun) == (other.kind, other.lun)
}

fn what_is_on(sys: &Path, disk: &Disk, plan: &Plan, used: &Used) -> String {
    let is_it = |other: &Disk| is_same(disk, other);
    let lies_on_it = |name: &&String| {
        let below: BTreeSet<String> = stack::disks_below(sys, name);
        below.iter().any(|name| is_it(&disks::disk(sys, name)))
    };
    let skipped = plan.skipped.iter().filter(|s| s.disks.iter().flatten().any(is_it));
    let mut on_it: Vec<String> =
        skipped.map(|s| format!("{} is not ({})", s.mount.place(), s.reason)).collect();
    on_it.extend(used.swap.iter().filter(lies_on_it).map(|name| format!("/dev/{name} is swap")));
    on_it.extend(
        (used.raw.iter().filter(lies_on_it))
            .map(|name| format!("nothing is mounted from /dev/{name}")),
    );
    let unknown = plan.skipped.iter().filter(|s| s.disks.is_none()).map(|s| s.mount.place());
    let unknown: Vec<String> = unknown.take(3).collect();
    match (on_it.is_empty(), unknown.is_empty()) {
        (true, true) => on_it.push("nothing that is mounted is known to lie on it".to_owned()),
        (_, true) => {}
        (_, false) => {
            on_it.push(format!("it is not known on which disks {} may be", unknown.join(", ")))
        }
    }
    on_it.join("; ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::mounts::Choice;
    use crate::survey::tests::{DATA, Machine, OS};
    use crate::survey::{Scope, plan};

    const TABLE: &str = "\
        27 1 8:0 / / rw - ext4 /dev/sda rw\n\
        31 27 8:32 / /data rw - xfs /dev/sdc rw\n\
        32 27 8:48 / /left rw - ext4 /dev/sdd rw\n";

    /// The OS disk, the temporary one, and LUNs 0 to 4, of which the last has a partition.
    fn machine(table: &str) -> Machine {
        let machine = Machine::new(table);
        machine.disk("sda", "8:0", 0, OS);
        machine.disk("sdb", "8:16", 1, OS);
        for (lun, (name, number)) in
            [("sdc", "8:32"), ("sdd", "8:48"), ("sde", "8:64"), ("sdf", "8:80"), ("sdg", "8:96")]
                .into_iter()
                .enumerate()
        {
            let block = machine.disk(name, number, lun as u32, DATA);
            if name == "sdg" {
                fs::create_dir(block.join("sdg1")).unwrap();
                fs::write(block.join("sdg1/partition"), "1").unwrap();
                fs::write(block.join("sdg1/size"), "1024").unwrap();
                let class = machine.scope().roots.sys.join("class/block");
                symlink(block.join("sdg1"), class.join("sdg1")).unwrap();
            }
        }
        machine
    }

    fn left_out(machine: &Machine, only: Option<&[&str]>) -> Vec<(String, String)> {
        let only = only.map(|only| only.iter().map(Into::into).collect());
        let scope = Scope { choice: Choice { only, ..Choice::default() }, ..machine.scope() };
        let used = Used { swap: vec!["sdg1".to_owned()], raw: vec!["sde".to_owned()] };
        let found = unfrozen_disks(&scope.roots.sys, &plan(&scope).unwrap(), &used);
        assert!(found.iter().all(|n| n.kind == "disk" && n.reason.contains("`filesystem`: ")));
        let why = |n: NotCovered| (n.what, n.reason.split_once("`: ").unwrap().1.to_owned());
        found.into_iter().map(why).collect()
    }

    fn told(what: &str, why: &str) -> (String, String) {
        (what.to_owned(), why.to_owned())
    }

    #[test]
    fn a_disk_of_which_nothing_is_frozen_is_named_with_what_is_on_it() {
        let machine = machine(TABLE);
        let unused = [
            told("LUN 2 (sde)", "nothing is mounted from /dev/sde"),
            told("LUN 3 (sdf)", "nothing that is mounted is known to lie on it"),
            told("LUN 4 (sdg)", "/dev/sdg1 is swap"),
        ];
        assert_eq!(left_out(&machine, None), unused, "the temporary disk is in no snapshot");
        let why = "/left is not (not among the configured file_systems)";
        let chosen = left_out(&machine, Some(&["/", "/data"]));
        assert_eq!(chosen[0], told("LUN 1 (sdd)", why));
        assert_eq!(chosen[1..], unused);
    }

    #[test]
    fn what_may_lie_on_any_disk_is_said_and_an_empty_disk_is_none() {
        let zfs = "40 27 0:40 / /tank rw - zfs tank rw\n";
        let machine = machine(&format!("{TABLE}{zfs}"));
        let class = machine.scope().roots.sys.join("class/block");
        fs::write(class.join("sdf/size"), "0\n").unwrap();
        let why = "it is not known on which disks /tank may be";
        let found = left_out(&machine, None);
        assert_eq!(found[0].1, format!("nothing is mounted from /dev/sde; {why}"));
        assert_eq!(found[1], told("LUN 4 (sdg)", &format!("/dev/sdg1 is swap; {why}")));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn where_no_frozen_file_systems_disk_is_known_none_is_said_to_be_left_out() {
        let machine = machine(&format!("{TABLE}41 27 254:0 / /virtual rw - ext4 /dev/vda rw\n"));
        machine.disk("vda", "254:0", 0, "00000000-1111-8899-0000-000000000000");
        assert_eq!(left_out(&machine, Some(&["/virtual"])), []);
        assert_eq!(
            left_out(&machine, None).len(),
            3,
            "one is known: what is not on the others is not"
        );
        assert_eq!(left_out(&machine, Some(&["/", "/data"])).len(), 4);
    }
}
