//! What file systems lie on: through partitions, loop devices, device-mapper volumes (LVM, multipath,
//! encryption), RAID and bcache down to disks, as sysfs tells.
//!
//! Nothing is guessed: a device of a kind that is not known here may be written to by something that is
//! frozen too early, and may lie on a disk that is not in the snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::mounts::{Device, Mount, device_of};

/// Stacked deeper than this is no stack but a defect.
const MAX_DEPTH: usize = 16;
/// Disks in memory: on no disk at all.
const MEMORY: &[&str] = &["zram", "ram"];
/// They look like disks and are somebody else's machine.
const REMOTE: &[&str] = &["nbd", "rbd", "drbd"];

/// What one file system lies on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ground {
    /// The mounted file systems that hold its image files.
    pub below: BTreeSet<Device>,
    /// The kernel's names of its own disks.
    pub disks: BTreeSet<String>,
    /// What cannot be told, in words.
    pub unknown: BTreeSet<String>,
}

/// What `wanted` lie on, and all that those lie on. With an entry for each.
pub fn grounds(
    sys: &Path,
    wanted: impl Iterator<Item = Device>,
    mounts: &[Mount],
) -> BTreeMap<Device, Ground> {
    let mut found = BTreeMap::new();
    let mut open: Vec<Device> = wanted.collect();
    while let Some(device) = open.pop() {
        if found.contains_key(&device) {
            continue;
        }
        let ground = ground(sys, device, mounts);
        open.extend(&ground.below);
        found.insert(device, ground);
    }
    found
}

/// All disks that a file system lies on, directly or through image files.
pub fn disks(device: Device, grounds: &BTreeMap<Device, Ground>) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![device]);
    let mut disks = BTreeSet::new();
    while let Some(ground) = open.pop().filter(|d| seen.insert(*d)).and_then(|d| grounds.get(&d)) {
        disks.extend(ground.disks.iter().cloned());
        open.extend(&ground.below);
    }
    disks
}

/// The kernel's names of all disks that a block device lies on, itself if it is one; image files end the way.
pub(crate) fn disks_below(sys: &Path, name: &str) -> BTreeSet<String> {
    let mut walk = Walk { sys, files: BTreeSet::new(), ground: Ground::default() };
    walk.block(&sys.join("class/block").join(name), 0);
    walk.ground.disks
}

fn ground(sys: &Path, device: Device, mounts: &[Mount]) -> Ground {
    let Some(mount) = mounts.iter().find(|mount| mount.device == device) else {
        return Ground::default();
    };
    let mut walk = Walk { sys, files: BTreeSet::new(), ground: Ground::default() };
    match mount.file_system_type.as_str() {
        // Nothing on any disk.
        "tmpfs" | "ramfs" | "devtmpfs" | "rootfs" => {}
        "overlay" => walk.files.extend(mount.upper.clone()),
        "btrfs" => walk.btrfs(mount),
        _ if device.major == 0 => {
            walk.unknown(format!("{} {}", mount.file_system_type, mount.source.display()));
        }
        _ => walk.block(&sys.join(format!("dev/block/{device}")), 0),
    }
    for source in &mount.more_sources {
        match walk.named(source) {
            Some(block) => walk.block(&block, 0),
            None => walk.unknown(source.display().to_string()),
        }
    }
    let Walk { files, mut ground, .. } = walk;
    ground.below = files.iter().filter_map(|file| device_of(file, mounts)).collect();
    if mount.file_system_type == "overlay" {
        // Seen from inside a container, the folder is not where it seems to be.
        ground.below.remove(&device);
    }
    ground
}

struct Walk<'a> {
    sys: &'a Path,
    files: BTreeSet<PathBuf>,
    ground: Ground,
}

impl Walk<'_> {
    fn unknown(&mut self, what: String) {
        self.ground.unknown.insert(what);
    }

    /// The folder of a block device that is called by a path in /dev.
    fn named(&self, source: &Path) -> Option<PathBuf> {
        let class = |name: &std::ffi::OsStr| Some(self.sys.join("class/block").join(name));
        let there = |path: &PathBuf| path.exists();
        if let Some(found) = source.file_name().and_then(class).filter(there) {
            return Some(found);
        }
        // A volume's name is device-mapper's, not the kernel's.
        if let Ok(name) = source.strip_prefix("/dev/mapper") {
            let volumes = fs::read_dir(self.sys.join("class/block")).ok()?.flatten();
            let is_it = |folder: &PathBuf| {
                fs::read_to_string(folder.join("dm/name"))
                    .is_ok_and(|n| Path::new(n.trim()) == name)
            };
            return volumes.map(|entry| entry.path()).find(is_it);
        }
        let target = fs::read_link(source).ok()?;
        target.file_name().and_then(class).filter(there)
    }

    /// btrfs has a number of its own, and keeps account of its devices.
    fn btrfs(&mut self, mount: &Mount) {
        let block = self.named(&mount.source);
        let name = block.as_deref().and_then(|block| fs::canonicalize(block).ok());
        let name = name.as_deref().and_then(Path::file_name);
        let systems = fs::read_dir(self.sys.join("fs/btrfs")).into_iter().flatten().flatten();
        let folders = systems.map(|entry| entry.path().join("devices"));
        let found = name.and_then(|name| folders.into_iter().find(|f| f.join(name).exists()));
        let Some(found) = found else {
            let source = mount.source.display();
            return self
                .unknown(format!("btrfs of {source}, whose devices are not listed in sysfs"));
        };
        for device in fs::read_dir(found).into_iter().flatten().flatten() {
            self.block(&device.path(), 0);
        }
    }

    fn block(&mut self, folder: &Path, depth: usize) {
        let Ok(block) = fs::canonicalize(folder) else {
            return self.unknown(format!("{}, which is not in sysfs", folder.display()));
        };
        let name = block.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if depth > MAX_DEPTH {
            return self.unknown(format!("{name}, which lies deeper than {MAX_DEPTH} devices"));
        }
        if block.join("partition").exists() {
            return self.block(&block.join(".."), depth + 1);
        }
        if name.starts_with("loop") {
            return match fs::read_to_string(block.join("loop/backing_file")) {
                Ok(file) => {
                    self.files.insert(PathBuf::from(file.trim_end_matches('\n')));
                }
                Err(_) => self.unknown(format!("{name}, which has no file")),
            };
        }
        let stacked = ["dm", "md", "bcache"].iter().any(|kind| block.join(kind).exists());
        let slaves: Vec<PathBuf> = fs::read_dir(block.join("slaves"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|slave| slave.path())
            .collect();
        if stacked && !slaves.is_empty() {
            return slaves.iter().for_each(|slave| self.block(slave, depth + 1));
        }
        let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        if MEMORY.iter().any(|kind| name.strip_prefix(kind).is_some_and(number)) {
            return;
        }
        let remote = REMOTE.iter().any(|kind| name.starts_with(kind));
        // Only what hangs on a bus has a device.
        if !stacked && !remote && slaves.is_empty() && block.join("device").exists() {
            self.ground.disks.insert(name);
        } else {
            self.unknown(format!("{name}, a device of a kind that is not known"));
        }
    }
}

#[cfg(test)]
#[path = "stack/tests.rs"]
mod tests;
