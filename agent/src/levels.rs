//! In which order file systems are frozen.
//!
//! A file system in an image file on another one must be frozen *before* that other one: the wrong
//! order blocks for ever. So each gets a level: level 0 is frozen first, the levels one after the
//! other, all file systems of a level at once. The root file system, /var and /var/log come last, so
//! that whatever logs can do so for as long as possible. Being mounted below another file system's
//! directory alone is no dependency: it costs 30 ms per level and gains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::mounts::{Device, Mount};

/// Stacked deeper than this is no stack but a defect.
const MAX_DEPTH: usize = 16;
const LAST: &[&str] = &["/", "/var", "/var/log"];

/// The stacking has no order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file system {device} depends on itself through its image files")]
pub struct Cycle {
    device: Device,
}

/// The level of each device in `frozen`. `backing` says on which devices' file systems one's own
/// blocks lie; devices outside `frozen` may occur there.
///
/// # Errors
/// There is no order.
pub fn levels(
    frozen: &BTreeMap<Device, PathBuf>,
    backing: &BTreeMap<Device, BTreeSet<Device>>,
) -> Result<BTreeMap<Device, u8>, Cycle> {
    let below = |device: Device| reachable(device, backing);
    let mut after: BTreeMap<Device, BTreeSet<Device>> = BTreeMap::new();
    for device in frozen.keys() {
        after.insert(*device, below(*device)?);
    }
    // `/` and its like come after everything that they do not themselves lie on.
    for (last, path) in frozen {
        if !LAST.iter().any(|place| path == Path::new(place)) {
            continue;
        }
        let foundations = below(*last)?;
        for (device, place) in frozen {
            let also_last = LAST.iter().any(|last| place == Path::new(last));
            if device != last && !also_last && !foundations.contains(device) {
                after.entry(*device).or_default().insert(*last);
            }
        }
    }
    let mut levels = BTreeMap::new();
    for device in frozen.keys() {
        levels.insert(*device, height(*device, frozen, &after, 0)?);
    }
    Ok(levels)
}

/// How many levels come before this device: the longest chain of those that must be frozen earlier.
fn height(
    device: Device,
    frozen: &BTreeMap<Device, PathBuf>,
    after: &BTreeMap<Device, BTreeSet<Device>>,
    depth: usize,
) -> Result<u8, Cycle> {
    if depth > MAX_DEPTH {
        return Err(Cycle { device });
    }
    let mut level = 0;
    for earlier in frozen.keys() {
        if after.get(earlier).is_some_and(|later| later.contains(&device)) {
            level = level.max(1 + height(*earlier, frozen, after, depth + 1)?);
        }
    }
    Ok(level)
}

fn reachable(
    device: Device,
    backing: &BTreeMap<Device, BTreeSet<Device>>,
) -> Result<BTreeSet<Device>, Cycle> {
    let mut found = BTreeSet::new();
    let mut open: Vec<Device> = backing.get(&device).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if next == device {
            return Err(Cycle { device });
        }
        if found.insert(next) {
            open.extend(backing.get(&next).into_iter().flatten());
        }
    }
    Ok(found)
}

/// On which mounted file systems the blocks of each of `devices` lie, through loop devices,
/// partitions, LVM and RAID, as `sys` (/sys) tells.
pub fn read_backing(
    sys: &Path,
    devices: impl Iterator<Item = Device>,
    mounts: &[Mount],
) -> BTreeMap<Device, BTreeSet<Device>> {
    devices
        .map(|device| {
            let mut files = BTreeSet::new();
            backing_files(&sys.join(format!("dev/block/{device}")), 0, &mut files);
            // btrfs has a number of its own: its disk is known by the source's name alone.
            for mount in mounts.iter().filter(|m| m.device == device && device.major == 0) {
                if let Some(name) = mount.source.file_name() {
                    backing_files(&sys.join("class/block").join(name), 0, &mut files);
                }
            }
            (device, files.iter().filter_map(|file| device_of(file, mounts)).collect())
        })
        .collect()
}

fn backing_files(block: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) {
    if depth > MAX_DEPTH {
        return;
    }
    // A partition's loop directory is its disk's.
    for folder in [block.to_owned(), block.join("..")] {
        if let Ok(file) = std::fs::read_to_string(folder.join("loop/backing_file")) {
            files.insert(PathBuf::from(file.trim_end_matches('\n')));
        }
    }
    for slave in std::fs::read_dir(block.join("slaves")).into_iter().flatten().flatten() {
        backing_files(&slave.path(), depth + 1, files);
    }
}

/// The file system that a path is on, by the mount table's text.
fn device_of(file: &Path, mounts: &[Mount]) -> Option<Device> {
    mounts
        .iter()
        .filter(|mount| file.starts_with(&mount.mount_point))
        // The longest path; of mounts over each other the later one.
        .max_by_key(|mount| (mount.mount_point.as_os_str().len(), mount.id))
        .map(|mount| mount.device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::parse_mountinfo;

    fn device(minor: u32) -> Device {
        Device { major: 7, minor }
    }

    fn solve(places: &[&str], backing: &[(u32, u32)]) -> Result<Vec<u8>, Cycle> {
        let frozen = (0..).zip(places).map(|(n, path)| (device(n), path.into())).collect();
        let mut edges: BTreeMap<Device, BTreeSet<Device>> = BTreeMap::new();
        for (upper, lower) in backing {
            edges.entry(device(*upper)).or_default().insert(device(*lower));
        }
        levels(&frozen, &edges).map(|levels| levels.into_values().collect())
    }

    #[test]
    fn the_root_comes_last_and_the_others_together() {
        assert_eq!(solve(&["/", "/a", "/a/b", "/c"], &[]).unwrap(), [1, 0, 0, 0]);
        assert_eq!(solve(&["/", "/var", "/c"], &[]).unwrap(), [1, 1, 0]);
        assert_eq!(solve(&["/a", "/b"], &[]).unwrap(), [0, 0]);
        assert_eq!(solve(&["/"], &[]).unwrap(), [0]);
    }

    #[test]
    fn a_file_system_in_an_image_comes_before_the_one_that_holds_the_image() {
        assert_eq!(solve(&["/a", "/b"], &[(1, 0)]).unwrap(), [1, 0]);
        assert_eq!(solve(&["/", "/a", "/b"], &[(2, 1), (1, 0)]).unwrap(), [2, 1, 0]);
        assert_eq!(solve(&["/a", "/b", "/c"], &[(2, 9), (9, 0)]).unwrap(), [1, 0, 0]);
    }

    #[test]
    fn a_root_in_an_image_still_comes_before_what_holds_it() {
        assert_eq!(solve(&["/", "/host", "/x"], &[(0, 1)]).unwrap(), [1, 2, 0]);
    }

    #[test]
    fn a_cycle_is_refused() {
        assert!(solve(&["/a", "/b"], &[(0, 1), (1, 0)]).is_err());
        assert!(solve(&["/a"], &[(0, 0)]).is_err());
    }

    #[test]
    fn image_files_are_found_below_partitions_and_volumes() {
        let sys = tempfile::tempdir().unwrap();
        let loop_dir = sys.path().join("devices/loop3/loop");
        std::fs::create_dir_all(&loop_dir).unwrap();
        std::fs::write(loop_dir.join("backing_file"), "/data/disk image\n").unwrap();
        std::fs::create_dir_all(sys.path().join("devices/loop3/loop3p1")).unwrap();
        std::fs::create_dir_all(sys.path().join("devices/dm-0/slaves")).unwrap();
        std::fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(sys.path().join(to), sys.path().join(from)).unwrap();
        };
        link("devices/dm-0/slaves/loop3p1", "devices/loop3/loop3p1");
        link("dev/block/253:0", "devices/dm-0");
        let mounts = parse_mountinfo(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             30 27 8:1 / /data rw - ext4 /dev/sda rw\n\
             31 27 253:0 / /vol rw - ext4 /dev/dm-0 rw\n",
        );
        let upper = Device { major: 253, minor: 0 };
        let lower = Device { major: 8, minor: 1 };
        let found = read_backing(sys.path(), [upper, lower].into_iter(), &mounts);
        assert_eq!(found[&upper], BTreeSet::from([lower]));
        assert_eq!(found[&lower], BTreeSet::new());
    }
}
