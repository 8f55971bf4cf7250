//! What needs `unsafe`: calls to the kernel that the standard library does not have, a child process
//! without a program of its own, and waiting for descriptors that tokio does not know.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

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

/// What a file system has left for others than root.
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) of_bytes: u64,
    /// `None`: this file system has no fixed number of files.
    pub(crate) files: Option<u64>,
}

/// How much room there is on the file system of `fd`. Does not wait for its disk.
///
/// # Errors
/// The kernel's.
pub(crate) fn room(fd: BorrowedFd<'_>) -> io::Result<Room> {
    // SAFETY: plain old data, for which zeroes are valid.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid descriptor, and a struct of the size that the call expects.
    if unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Room {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        of_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        files: (found.f_files > 0).then_some(found.f_favail),
    })
}

/// Our directory there belongs to somebody else. Not an error number of Linux.
const NOT_OURS: i32 = 254;

/// Makes our directory `folder` at `root` if it is not there, and in it creates, syncs, renames and
/// removes a file, in a child process. When that takes longer than `limit` the child is killed, and this
/// call comes back once the child is gone: a thread in it waits as one that can be killed does, whatever
/// the child hangs in.
///
/// # Errors
/// The disk's; `TimedOut`; our directory there belongs to somebody else.
pub(crate) fn try_write(root: BorrowedFd<'_>, folder: &CStr, limit: Duration) -> io::Result<()> {
    // SAFETY: the child makes system calls only, with memory that was there before: nothing that another
    // thread may have been in the middle of (allocation, locks) is touched.
    let child = unsafe { libc::fork() };
    match child {
        0 => write_and_exit(root.as_raw_fd(), folder),
        -1 => return Err(io::Error::last_os_error()),
        _ => {}
    }
    let ended = ends_within(child, limit);
    if !matches!(ended, Ok(true)) {
        // SAFETY: it is our child and has not been waited for: the number is nobody else's.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: our child, and a valid pointer.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match ended? {
        false => Err(io::ErrorKind::TimedOut.into()),
        true if !libc::WIFEXITED(status) => Err(io::Error::other("the test write was killed")),
        true => match libc::WEXITSTATUS(status) {
            0 => Ok(()),
            NOT_OURS => {
                let folder = folder.to_string_lossy();
                Err(io::Error::other(format!("{folder} there belongs to somebody else")))
            }
            error => Err(io::Error::from_raw_os_error(error)),
        },
    }
}

fn ends_within(child: libc::pid_t, limit: Duration) -> io::Result<bool> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid entry.
    match unsafe { libc::poll(&raw mut poll, 1, millis) } {
        0 => Ok(false),
        n if n > 0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child: nothing but system calls.
fn write_and_exit(root: i32, folder: &CStr) -> ! {
    // SAFETY: every pointer is to memory that is valid for the call; the process ends at its end.
    unsafe {
        // Should it hang for ever, it must not keep the parent's connections and files open.
        libc::dup2(root, 3);
        libc::syscall(libc::SYS_close_range, 4, libc::c_uint::MAX, 0);
        let end = |result: libc::c_long| {
            if result < 0 {
                libc::_exit(*libc::__errno_location());
            }
            result as i32
        };
        libc::mkdirat(3, folder.as_ptr(), 0o700);
        let directory = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let ours = end(libc::openat(3, folder.as_ptr(), directory).into());
        let mut found: libc::stat = std::mem::zeroed();
        end(libc::fstat(ours, &raw mut found).into());
        if found.st_uid != libc::geteuid() || found.st_mode & 0o022 != 0 {
            libc::_exit(NOT_OURS);
        }
        let (new, name) = (c"probe.new", c"probe");
        libc::unlinkat(ours, new.as_ptr(), 0);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = end(libc::openat(ours, new.as_ptr(), flags, 0o600).into());
        let content = [b'p'; 4096];
        let written = libc::write(file, content.as_ptr().cast(), content.len());
        let failed = written != content.len() as isize || libc::fsync(file) < 0;
        if failed {
            let error = if written >= 0 && written < content.len() as isize {
                libc::ENOSPC
            } else {
                *libc::__errno_location()
            };
            libc::unlinkat(ours, new.as_ptr(), 0);
            libc::_exit(error);
        }
        end(libc::renameat(ours, new.as_ptr(), ours, name.as_ptr()).into());
        end(libc::fsync(ours).into());
        end(libc::unlinkat(ours, name.as_ptr(), 0).into());
        libc::_exit(0)
    }
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
