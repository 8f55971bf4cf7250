//! Which file systems there are, and which of them a freeze covers.
//!
//! Decided from the text of mountinfo: network, FUSE and autofs mounts are never opened or stat'ed, nor
//! walked through (N7). A file system is its superblock, named by `major:minor`; it may be mounted in
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

use azdr_proto::agent::Disk;

/// What is frozen. Others need a look at how they behave first (R10).
const ALLOWED: &[&str] = &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"];
/// Through directories of these a path can be walked without waiting for anybody else.
const LOCAL: &[&str] = &[
    "bcachefs", "cramfs", "devtmpfs", "erofs", "exfat", "iso9660", "jfs", "nilfs2", "ntfs3",
    "overlay", "proc", "ramfs", "reiserfs", "rootfs", "squashfs", "sysfs", "tmpfs", "udf", "vfat",
    "zfs",
];
/// On no disk of this machine: the kernel's own accounts, memory, and other machines. What is of none of
/// these types is named when it is not frozen, so that a type that nobody has thought of is seen.
const NO_DISK: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "bdev",
    "binder",
    "binfmt_misc",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "coda",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "dlm",
    "efivarfs",
    "functionfs",
    "fusectl",
    "gfs2meta",
    "glusterfs",
    "hugetlbfs",
    "lustre",
    "mqueue",
    "ncpfs",
    "nfs",
    "nfs4",
    "nfsd",
    "nsfs",
    "ocfs2_dlmfs",
    "pipefs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "smb3",
    "smbfs",
    "sockfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "usbfs",
    "virtiofs",
    "xenfs",
];
/// They keep what is theirs in folders of other file systems, which are judged by themselves.
const STACKED: &[&str] = &["aufs", "ecryptfs", "overlay", "shiftfs"];
/// What is mounted here is frozen last: whoever logs can do so for as long as possible.
const LAST: &[&str] = &["/", "/var", "/var/log"];

/// Which of the machine's file systems a freeze is to cover.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// Nothing but what is mounted at these places.
    pub only: Option<Vec<PathBuf>>,
    /// Types beside those that are always frozen.
    pub more_types: Vec<String>,
}

impl Choice {
    fn allows(&self, file_system_type: &str) -> bool {
        ALLOWED.contains(&file_system_type) || self.more_types.iter().any(|t| t == file_system_type)
    }

    fn chooses(&self, mount: &Mount) -> bool {
        // Places in containers are not what an operator means by a path.
        let only = self.only.as_ref();
        only.is_none_or(|paths| mount.is_plain() && paths.contains(&mount.mount_point))
    }
}

/// True for the type of a file system that may be added to what is frozen: it is known to lie on a block
/// device of this machine, and has nobody else to wait for.
pub fn may_be_added(file_system_type: &str) -> bool {
    ["bcachefs", "jfs", "nilfs2", "reiserfs"].contains(&file_system_type)
}

/// In whose mount namespace a mount was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Seen {
    /// This process's.
    Here,
    /// That of PID 1, which is another one.
    Init,
    /// That of this process.
    By(u32),
}

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
    /// Further devices that it lies on, as its options name them: XFS's log and real-time section.
    pub more_sources: Vec<PathBuf>,
    /// The folder that takes the writes to an overlay.
    pub upper: Option<PathBuf>,
    /// In whose namespace.
    pub seen: Seen,
}

impl Mount {
    /// True where its mount point is a path as people mean it: not in a container.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.seen, Seen::Here | Seen::Init)
    }

    /// False for what has nothing of its own on a disk here. Many that have do not name a device: the
    /// source of ZFS is a data set (`tank/data`), that of UBIFS a volume. What FUSE shows is kept by a
    /// process, in files of other mounts or on other machines, unless it names a device.
    fn may_be_on_a_disk(&self) -> bool {
        let kind = self.file_system_type.as_str();
        let is_of_a_process = kind == "fuse" || kind.starts_with("fuse.");
        let names_a_device = self.source.starts_with("/dev") && kind != "devtmpfs";
        names_a_device || !(is_of_a_process || NO_DISK.contains(&kind) || STACKED.contains(&kind))
    }

    /// True for a file system that is frozen among the last.
    fn comes_last(&self) -> bool {
        self.is_plain() && LAST.iter().any(|place| self.mount_point == Path::new(place))
    }

    /// The path by which this process reaches its mount point.
    fn way(&self, proc: &Path) -> PathBuf {
        let pid = match self.seen {
            Seen::Here => return self.mount_point.clone(),
            Seen::Init => 1,
            Seen::By(pid) => pid,
        };
        let below = self.mount_point.strip_prefix("/").unwrap_or(&self.mount_point);
        proc.join(pid.to_string()).join("root").join(below)
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self.seen {
            Seen::Here | Seen::Init => self.mount_point.to_string_lossy().into_owned(),
            Seen::By(pid) => {
                format!("{} (in a container: process {pid})", self.mount_point.display())
            }
        }
    }
}

/// Reads mountinfo's text; lines that are not as documented are left out.
pub fn parse_mountinfo(text: &str, seen: Seen) -> Vec<Mount> {
    text.lines().filter_map(|line| parse_line(line, seen)).collect()
}

fn parse_line(line: &str, seen: Seen) -> Option<Mount> {
    let (mount, super_block) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let mut super_block = super_block.split(' ');
    let (file_system_type, source) = (super_block.next()?, super_block.next()?);
    let options: Vec<&str> = super_block.next()?.split(',').collect();
    let values = |name: &'static str| {
        let value = move |option: &&str| option.strip_prefix(name).map(unescape);
        options.iter().filter_map(value)
    };
    Some(Mount {
        id: mount.next()?.parse().ok()?,
        parent: mount.next()?.parse().ok()?,
        device: mount.next()?.parse().ok()?,
        root: unescape(mount.next()?),
        mount_point: unescape(mount.next()?),
        file_system_type: file_system_type.to_owned(),
        source: unescape(source),
        read_only: options.contains(&"ro"),
        more_sources: values("logdev=").chain(values("rtdev=")).collect(),
        upper: values("upperdir=").next(),
        seen,
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
    /// Where it can be reached, the best place first: in this namespace rather than in another, whole
    /// rather than in part, short paths first.
    pub mounts: Vec<Mount>,
    /// Why it cannot be reached anywhere, when `mounts` is empty.
    pub unreachable: &'static str,
    /// To be frozen among the last.
    pub last: bool,
}

/// A file system that a freeze does not cover, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Where.
    pub mount: Mount,
    /// Why not, in words.
    pub reason: &'static str,
    /// All disks that it lies on; `None`: they are not known, or nobody has looked.
    pub disks: Option<Vec<Disk>>,
}

/// What a freeze covers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// These, in the order of their devices.
    pub file_systems: Vec<FileSystem>,
    /// Not these. What certainly has nothing on a disk of this machine is not even listed.
    pub skipped: Vec<Skipped>,
    /// Those of the skipped that would be covered if somebody could write to them.
    pub read_only: Vec<FileSystem>,
}

/// A mount point of the configuration where there is nothing to freeze.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("configured file system {path} {reason}")]
pub struct NotThere {
    path: PathBuf,
    reason: &'static str,
}

/// Decides what is covered.
///
/// # Errors
/// A place that was chosen is not covered: better no freeze than one that leaves out what was asked for.
pub fn coverage(mounts: &[Mount], choice: &Choice) -> Result<Coverage, NotThere> {
    let coverage = what_is_there(mounts, choice);
    check_chosen(&coverage, mounts, choice)?;
    Ok(coverage)
}

/// What would be covered if it were not all or nothing.
pub fn what_is_there(mounts: &[Mount], choice: &Choice) -> Coverage {
    let mut coverage = Coverage::default();
    let mut by_device: BTreeMap<Device, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts {
        by_device.entry(mount.device).or_default().push(mount);
    }
    for (device, mounts_of_device) in by_device {
        let Some(first) = mounts_of_device.first() else { continue };
        let mut skip = |reason| {
            coverage.skipped.push(Skipped { mount: (*first).clone(), reason, disks: None });
        };
        if !choice.allows(&first.file_system_type) {
            if first.may_be_on_a_disk() {
                skip("its type is not on the list of what is frozen");
            }
            continue;
        }
        let chosen = mounts_of_device.iter().any(|mount| choice.chooses(mount));
        if first.read_only {
            skip("read-only");
            if chosen {
                coverage.read_only.push(file_system(device, &mounts_of_device, mounts));
            }
            continue;
        }
        if !chosen {
            skip("not among the configured file_systems");
            continue;
        }
        coverage.file_systems.push(file_system(device, &mounts_of_device, mounts));
    }
    coverage
}

/// Places that were chosen and where nothing is mounted at all.
pub fn not_mounted<'a>(mounts: &[Mount], choice: &'a Choice) -> Vec<&'a Path> {
    let is_there =
        |path: &&PathBuf| mounts.iter().any(|m| m.mount_point == **path && choice.chooses(m));
    let chosen = choice.only.iter().flatten();
    chosen.filter(|path| !is_there(path)).map(PathBuf::as_path).collect()
}

fn file_system(device: Device, of_device: &[&Mount], mounts: &[Mount]) -> FileSystem {
    let (mut reachable, mut unreachable) = (Vec::new(), "");
    for mount in of_device {
        match obstacle(mount, mounts) {
            None => reachable.push((*mount).clone()),
            Some(reason) => unreachable = reason,
        }
    }
    reachable.sort_by_key(|mount: &Mount| {
        (mount.seen, mount.root != Path::new("/"), mount.mount_point.as_os_str().len(), mount.id)
    });
    FileSystem {
        device,
        file_system_type: of_device.first().map(|m| m.file_system_type.clone()).unwrap_or_default(),
        mounts: reachable,
        unreachable,
        last: of_device.iter().any(|mount| mount.comes_last()),
    }
}

fn check_chosen(coverage: &Coverage, mounts: &[Mount], choice: &Choice) -> Result<(), NotThere> {
    for path in choice.only.iter().flatten() {
        let there: Vec<&Mount> =
            mounts.iter().filter(|m| m.mount_point == *path && choice.chooses(m)).collect();
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

/// Why a mount's path must not be walked: another mount lies over its mount point, so that the path
/// leads elsewhere, perhaps to a dead file server; or the way there leads through one.
fn obstacle(mount: &Mount, mounts: &[Mount]) -> Option<&'static str> {
    let here = || mounts.iter().filter(|other| other.seen == mount.seen);
    let mut chain = BTreeSet::from([mount.id]);
    let mut parent = mount.parent;
    while chain.insert(parent) {
        match here().find(|candidate| candidate.id == parent) {
            Some(found) => {
                let kind = found.file_system_type.as_str();
                if !ALLOWED.contains(&kind) && !LOCAL.contains(&kind) {
                    return Some("the way to it leads through a mount that may never answer");
                }
                parent = found.parent;
            }
            None => break,
        }
    }
    let hidden = here().any(|other| {
        !chain.contains(&other.id)
            && chain.contains(&other.parent)
            && mount.mount_point.starts_with(&other.mount_point)
    });
    hidden.then_some("every mount point of it is hidden by another mount")
}

/// On which file system a path of this namespace is, by the mount table's text.
pub fn device_of(path: &Path, mounts: &[Mount]) -> Option<Device> {
    mounts
        .iter()
        .filter(|mount| mount.seen == Seen::Here && path.starts_with(&mount.mount_point))
        // The longest path; of mounts over each other the later one.
        .max_by_key(|mount| (mount.mount_point.as_os_str().len(), mount.id))
        .map(|mount| mount.device)
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
pub fn open_root(proc: &Path, file_system: &FileSystem) -> Result<OpenRoot, CannotOpen> {
    let mut reason = file_system.unreachable.to_owned();
    for mount in &file_system.mounts {
        match open_mount(proc, mount) {
            Ok(fd) => {
                return Ok(OpenRoot {
                    device: file_system.device,
                    file_system_type: file_system.file_system_type.clone(),
                    mount_point: mount.place().into(),
                    fd,
                });
            }
            Err(error) => reason = in_words(&error),
        }
    }
    let tried: Vec<_> = file_system.mounts.iter().map(Mount::place).collect();
    Err(CannotOpen { device: file_system.device, tried: tried.join(", "), reason })
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        // Nothing but a security module denies root a directory.
        io::ErrorKind::PermissionDenied => format!(
            "{error}: azdr-agent must run as root; if it does, SELinux or AppArmor denies it: look at \
             the audit log"
        ),
        _ => error.to_string(),
    }
}

fn open_mount(proc: &Path, mount: &Mount) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(mount.way(proc))?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let opened = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    match opened.and_then(|id| id.trim().parse::<u64>().ok()) {
        Some(id) if id == mount.id => Ok(file.into()),
        _ => Err(io::Error::other("the path leads to another mount")),
    }
}

#[cfg(test)]
#[path = "mounts/tests.rs"]
mod tests;
