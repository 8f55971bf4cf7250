//! What needs `unsafe`: calls to the kernel that the standard library does not have, and waiting for
//! descriptors that tokio does not know.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use azdr_thawd_client::Client;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `_IOR(0x15, 0, struct fsuuid2)` of linux/fs.h, since Linux 6.9.
const FS_IOC_GETFSUUID: libc::Ioctl = 0x8011_1500u32 as libc::Ioctl;

#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// Writes a file system's dirty data to its disk and waits for it. Blocks while it is frozen by
/// somebody else, or its disk is stuck.
///
/// # Errors
/// The disk's.
pub(crate) fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a valid descriptor, and no memory is passed.
    if unsafe { libc::syncfs(fd.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The UUID of a file system, if the kernel tells it.
pub(crate) fn file_system_uuid(fd: BorrowedFd<'_>) -> Option<String> {
    let mut found = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes at most the 17 bytes of the struct, whose size the request encodes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut found) };
    if result < 0 || found.len != 16 {
        return None;
    }
    let hex: String = found.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range| hex.get(range).unwrap_or_default();
    Some(format!(
        "{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    ))
}

/// Sets a file's times to now. Blocks while its file system is frozen.
///
/// # Errors
/// The disk's.
pub(crate) fn touch(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a valid descriptor, and no memory is passed.
    if unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets tokio wait for changes of one of the kernel's tables, such as the mount table.
///
/// # Errors
/// No descriptors are left.
pub(crate) fn watch_for_changes(table: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a file owns its descriptor, which stays open and the same until the file is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(table, Interest::PRIORITY) };
    watched.map_err(io::Error::from)
}

/// Lets tokio wait for the thaw process's answers.
///
/// # Errors
/// No descriptors are left.
pub(crate) fn watch(thawd: Client) -> io::Result<AsyncFd<Client>> {
    // SAFETY: a client owns its socket, which stays open and the same until the client is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(thawd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

fn whole_file() -> libc::flock {
    // SAFETY: all zeroes are a valid value: from the start of the file to its end, whatever that is.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Locks a file as `lockf` does, for this open file description; false when somebody else has.
///
/// # Errors
/// The file system knows no locks.
pub(crate) fn lock_whole_file(file: &File) -> io::Result<bool> {
    let lock = whole_file();
    // SAFETY: a valid descriptor and a valid struct, which the kernel only reads.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        error => Err(error),
    }
}

/// True when somebody holds a lock on a file.
pub(crate) fn is_locked(file: &File) -> bool {
    let mut lock = whole_file();
    // SAFETY: a valid descriptor and a valid struct, which the kernel writes to.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    asked == 0 && lock.l_type != libc::F_UNLCK as libc::c_short
}
