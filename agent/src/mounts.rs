//! Which file systems there are, and which of them a freeze covers.
//!
//! Decided from the text of /proc/self/mountinfo: network, FUSE and autofs mounts are never opened
//! or stat'ed (N7). A file system is its superblock, named by `major:minor`; it may be mounted in
//! many places. What is read-only is told by the *super* options, since a service's mount namespace
//! may show a read-only bind mount of a file system that others write to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is frozen. Others need a look at how they behave first (R10).
const ALLOWED: &[&str] = &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"];

/// Why a file system that nobody can write to is not covered.
pub(crate) const READ_ONLY: &str = "read-only";

/// A superblock: `major:minor` as mountinfo has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Device {
    /// Major number; 0 for btrfs and for what has no disk.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl std::str::FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim().split_once(':').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// One line of mountinfo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The mount's id.
    pub id: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u64,
    /// Its superblock.
    pub device: Device,
    /// Which part of the file system is mounted; `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// `ext4`, …
    pub file_system_type: String,
    /// Device or name that was mounted.
    pub source: PathBuf,
    /// True when nobody can write to the superblock.
    pub read_only: bool,
}

/// Reads mountinfo's text; lines that are not as documented are left out.
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (mount, super_block) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let mut super_block = super_block.split(' ');
    Some(Mount {
        id: mount.next()?.parse().ok()?,
        parent: mount.next()?.parse().ok()?,
        device: mount.next()?.parse().ok()?,
        root: unescape(mount.next()?),
        mount_point: unescape(mount.next()?),
        file_system_type: super_block.next()?.to_owned(),
        source: unescape(super_block.next()?),
        read_only: super_block.next()?.split(',').any(|option| option == "ro"),
    })
}

/// Undoes mountinfo's escapes: `\040` is a space; also tab, newline and backslash.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                plain.push(escaped);
                at += 4;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

/// A file system on the allow-list that is not read-only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// Its superblock.
    pub device: Device,
    /// `ext4`, …
    pub file_system_type: String,
    /// Where it can be reached, the best place first: whole rather than in part, short paths first.
    pub mounts: Vec<Mount>,
}

/// A file system that a freeze does not cover, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Where.
    pub mount: Mount,
    /// Why not, in words.
    pub reason: &'static str,
}

/// What a freeze covers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// These, in the order of their devices.
    pub file_systems: Vec<FileSystem>,
    /// Not these. File systems without a block device are not even listed.
    pub skipped: Vec<Skipped>,
}

/// A mount point of the configuration where there is nothing to freeze.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("configured file system {path} {reason}")]
pub struct NotThere {
    path: PathBuf,
    reason: &'static str,
}

/// Decides what is covered. With `only`, nothing but what is mounted there.
///
/// # Errors
/// A place in `only` is not covered: better no freeze than one that leaves out what was asked for.
pub fn coverage(mounts: &[Mount], only: Option<&[PathBuf]>) -> Result<Coverage, NotThere> {
    let mut coverage = Coverage::default();
    let mut by_device: BTreeMap<Device, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts {
        by_device.entry(mount.device).or_default().push(mount);
    }
    for (device, mounts_of_device) in by_device {
        let Some(first) = mounts_of_device.first() else { continue };
        let allowed = ALLOWED.contains(&first.file_system_type.as_str());
        let chosen = |mount: &&&Mount| only.is_none_or(|paths| paths.contains(&mount.mount_point));
        let mut skip = |reason| {
            coverage.skipped.push(Skipped { mount: (*first).clone(), reason });
        };
        if !allowed {
            if first.source.starts_with("/dev") && first.file_system_type != "devtmpfs" {
                skip("its type is not on the list of what is frozen");
            }
            continue;
        }
        if first.read_only {
            skip(READ_ONLY);
            continue;
        }
        if !mounts_of_device.iter().any(|mount| chosen(&mount)) {
            skip("not among the configured file_systems");
            continue;
        }
        let mut reachable: Vec<Mount> = mounts_of_device
            .iter()
            .filter(|mount| !is_hidden(mount, mounts))
            .map(|mount| (*mount).clone())
            .collect();
        reachable.sort_by_key(|mount| {
            (mount.root != Path::new("/"), mount.mount_point.as_os_str().len(), mount.id)
        });
        coverage.file_systems.push(FileSystem {
            device,
            file_system_type: first.file_system_type.clone(),
            mounts: reachable,
        });
    }
    check_configured(&coverage, mounts, only)?;
    Ok(coverage)
}

fn check_configured(
    coverage: &Coverage,
    mounts: &[Mount],
    only: Option<&[PathBuf]>,
) -> Result<(), NotThere> {
    for path in only.unwrap_or_default() {
        let there: Vec<&Mount> = mounts.iter().filter(|m| m.mount_point == *path).collect();
        let covered =
            |m: &&Mount| coverage.file_systems.iter().any(|covered| covered.device == m.device);
        if there.is_empty() {
            return Err(NotThere { path: path.clone(), reason: "is not mounted" });
        }
        if !there.iter().any(covered) {
            let reason = "cannot be frozen: it is read-only, or its type is not on the list";
            return Err(NotThere { path: path.clone(), reason });
        }
    }
    Ok(())
}

/// True when another mount lies over this one's mount point, so that its path leads elsewhere:
/// perhaps to a dead file server.
fn is_hidden(mount: &Mount, mounts: &[Mount]) -> bool {
    let mut chain = BTreeSet::from([mount.id]);
    let mut parent = mount.parent;
    while chain.insert(parent) {
        match mounts.iter().find(|candidate| candidate.id == parent) {
            Some(found) => parent = found.parent,
            None => break,
        }
    }
    mounts.iter().any(|other| {
        !chain.contains(&other.id)
            && chain.contains(&other.parent)
            && mount.mount_point.starts_with(&other.mount_point)
    })
}

/// The root of a file system, open.
#[derive(Debug)]
pub struct OpenRoot {
    /// Its superblock.
    pub device: Device,
    /// `ext4`, …
    pub file_system_type: String,
    /// The place that was opened.
    pub mount_point: PathBuf,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// No mount of a file system could be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the root of {device} ({tried}): {reason}")]
pub struct CannotOpen {
    device: Device,
    tried: String,
    reason: String,
}

/// Opens a file system's root by its best place that really leads to it (R3, R11).
///
/// # Errors
/// None does. The freeze must then be refused, not go on without it.
pub fn open_root(file_system: &FileSystem) -> Result<OpenRoot, CannotOpen> {
    let mut reason = "every mount point of it is hidden by another mount".to_owned();
    for mount in &file_system.mounts {
        match open_mount(mount) {
            Ok(fd) => {
                return Ok(OpenRoot {
                    device: file_system.device,
                    file_system_type: file_system.file_system_type.clone(),
                    mount_point: mount.mount_point.clone(),
                    fd,
                });
            }
            Err(error) => reason = error.to_string(),
        }
    }
    let tried: Vec<_> =
        file_system.mounts.iter().map(|mount| mount.mount_point.to_string_lossy()).collect();
    Err(CannotOpen { device: file_system.device, tried: tried.join(", "), reason })
}

fn open_mount(mount: &Mount) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&mount.mount_point)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let opened = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    match opened.and_then(|id| id.trim().parse::<u64>().ok()) {
        Some(id) if id == mount.id => Ok(file.into()),
        _ => Err(io::Error::other("the path leads to another mount")),
    }
}

/// The mount table of this process.
///
/// # Errors
/// /proc is not mounted.
pub fn read_mounts() -> io::Result<Vec<Mount>> {
    // Bytes: a mount point need not be UTF-8. Escapes are ASCII, so a lossy reading only spoils
    // such names, whose mounts then fail to open: closed, not skipped.
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&String::from_utf8_lossy(&bytes)))
}

#[cfg(test)]
#[path = "mounts/tests.rs"]
mod tests;
