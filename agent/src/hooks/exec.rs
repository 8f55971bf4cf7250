//! Starting a program from a descriptor that was checked (R20): what needs `unsafe`.
//!
//! Between fork and exec only calls that are safe there are made: no allocation, no locks. The program
//! gets: standard input from /dev/null, standard output and error into the given pipe, descriptors 3 and
//! 4 if it holds something, and nothing else that is open here; a session (so a process group) and, if
//! one is given, a cgroup of its own; an environment of `PATH` and `LC_ALL`; the directory `/`; umask
//! 077; no core file (it might land on a file system that is about to be frozen); and none of the protection
//! from the out-of-memory killer that the agent's unit has.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Stdio;
use std::ptr;

use libc::c_char;
use tokio::process::{Child, Command};

const ENVIRONMENT: [&CStr; 2] =
    [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C"];
/// What a `hold` hook says READY on.
const READY_FD: RawFd = 3;
/// What ends when it must release.
const RELEASE_FD: RawFd = 4;
/// What the program is read from: `#!` programs are opened again by their interpreter, so that it must
/// stay open there.
const PROGRAM_FD: RawFd = 5;
/// That descriptor, by the name under which an interpreter opens it again. Not by none, as `execveat` can:
/// the interpreter is then given one in /dev/fd, which not every machine has.
const PROGRAM_PATH: &CStr = c"/proc/self/fd/5";
/// Arguments with the program's own name.
const MAX_ARGV: usize = 32;
const MAX_OPEN_FILES: libc::rlim_t = 1_024;
/// A process's line in /proc.
const STAT_SIZE: usize = 1_024;

/// What is to be started.
pub(super) struct Start<'a> {
    pub(super) program: &'a File,
    /// With the program's name first.
    pub(super) argv: Vec<CString>,
    /// Standard output and error.
    pub(super) output: OwnedFd,
    /// Gets the new process's line of /proc/self/stat before the program begins.
    pub(super) identity: &'a File,
    pub(super) cgroup: Option<&'a File>,
    /// Where READY is said, and what ends for the release.
    pub(super) hold: Option<(OwnedFd, OwnedFd)>,
}

/// Starts it.
///
/// # Errors
/// `ENOEXEC`: neither an executable nor a script with a `#!` line.
pub(super) fn start(start: Start<'_>) -> io::Result<Child> {
    if start.argv.len() > MAX_ARGV {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    // All that the new process moves to a number of its own comes from above those numbers. And those
    // numbers are taken here, so that the pipe through which a failed start is told is none of them.
    let program = above(start.program.as_raw_fd())?;
    let identity = above(start.identity.as_raw_fd())?;
    let cgroup = start.cgroup.map(|file| above(file.as_raw_fd())).transpose()?;
    let hold = match &start.hold {
        Some((ready, release)) => Some((above(ready.as_raw_fd())?, above(release.as_raw_fd())?)),
        None => None,
    };
    let mut taken = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        if file.as_raw_fd() > PROGRAM_FD {
            break;
        }
        taken.push(file);
    }
    let argv = start.argv;
    let mut command = Command::new("/proc/self/exe");
    command
        .stdin(Stdio::null())
        .stdout(start.output.try_clone()?)
        .stderr(start.output)
        .current_dir("/");
    let fds = Fds {
        program: program.as_raw_fd(),
        identity: identity.as_raw_fd(),
        cgroup: cgroup.as_ref().map(AsRawFd::as_raw_fd),
        hold: hold.as_ref().map(|(ready, release)| (ready.as_raw_fd(), release.as_raw_fd())),
    };
    // SAFETY: `become_program` only makes system calls, and the descriptors stay open until the new
    // process has its own copies.
    unsafe { command.pre_exec(move || Err(become_program(&fds, &argv))) };
    command.spawn()
}

/// A copy of a descriptor above those that a program gets.
fn above(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed, and the new descriptor belongs to nobody else.
    unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PROGRAM_FD + 1) {
            ..0 => Err(io::Error::last_os_error()),
            copy => Ok(OwnedFd::from_raw_fd(copy)),
        }
    }
}

#[derive(Clone, Copy)]
struct Fds {
    program: RawFd,
    identity: RawFd,
    cgroup: Option<RawFd>,
    hold: Option<(RawFd, RawFd)>,
}

/// In the new process: everything up to the program's first instruction. Returns only when that failed.
fn become_program(fds: &Fds, argv: &[CString]) -> io::Error {
    let mut arguments = [ptr::null::<c_char>(); MAX_ARGV + 1];
    arguments.iter_mut().zip(argv).for_each(|(slot, argument)| *slot = argument.as_ptr());
    let mut environment = [ptr::null::<c_char>(); ENVIRONMENT.len() + 1];
    environment.iter_mut().zip(ENVIRONMENT).for_each(|(slot, text)| *slot = text.as_ptr());
    let limit = |most| libc::rlimit { rlim_cur: most, rlim_max: most };
    let (no_core, files) = (limit(0), limit(MAX_OPEN_FILES));
    // SAFETY: system calls with pointers to live, terminated texts and arrays.
    unsafe {
        if let Some(entrance) = fds.cgroup {
            // Where that is refused, the process group must do: the parent looks.
            libc::write(entrance, c"0".as_ptr().cast(), 1);
        }
        if libc::setsid() < 0
            || libc::setrlimit(libc::RLIMIT_CORE, &no_core) < 0
            || libc::setrlimit(libc::RLIMIT_NOFILE, &files) < 0
        {
            return io::Error::last_os_error();
        }
        libc::umask(0o077);
        be_no_more_spared_than_others();
        if leave_identity(fds.identity) < 0 {
            return io::Error::last_os_error();
        }
        let held = fds.hold.is_none_or(|(ready, release)| {
            libc::dup2(ready, READY_FD) >= 0 && libc::dup2(release, RELEASE_FD) >= 0
        });
        if !held || libc::dup2(fds.program, PROGRAM_FD) < 0 {
            return io::Error::last_os_error();
        }
        // Closed at the exec, but not before: a failure is told through one of them. Before Linux 5.11
        // this fails, and all of them are that way already.
        let close = libc::CLOSE_RANGE_CLOEXEC;
        if fds.hold.is_none() {
            libc::syscall(libc::SYS_close_range, READY_FD, RELEASE_FD, close);
        }
        libc::syscall(libc::SYS_close_range, PROGRAM_FD + 1, u32::MAX, close);
        libc::execve(PROGRAM_PATH.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// Lets the kernel's out-of-memory killer take this process like any other: it, and what it leaves running,
/// must not be spared at others' cost as the agent is. That can always be given up; where /proc is not to be
/// written to, a program that runs is worth more than one that does not.
///
/// # Safety
/// Only system calls; may be called between fork and exec, and only in a process whose memory is its own: the
/// kernel gives those who share it the same.
unsafe fn be_no_more_spared_than_others() {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: the texts are live and terminated.
    unsafe {
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), flags);
        if score >= 0 {
            libc::write(score, c"0".as_ptr().cast(), 1);
            libc::close(score);
        }
    }
}

/// Copies this process's line of /proc to `to`: who it is stays known, should the agent die now.
///
/// # Safety
/// Only system calls; may be called between fork and exec.
unsafe fn leave_identity(to: RawFd) -> isize {
    let mut line = [0u8; STAT_SIZE];
    // SAFETY: the buffer is as long as said.
    unsafe {
        let stat = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if stat < 0 {
            return -1;
        }
        let len = libc::read(stat, line.as_mut_ptr().cast(), line.len());
        libc::close(stat);
        if len <= 0 { -1 } else { libc::write(to, line.as_ptr().cast(), len.unsigned_abs()) }
    }
}

/// Sends a signal to a process group; true when there is one.
pub(super) fn signal_group(group: u32, signal: libc::c_int) -> bool {
    let Ok(group) = i32::try_from(group) else { return false };
    // SAFETY: no memory is passed. Groups 0 and 1 would be this process's own, and everybody.
    group > 1 && unsafe { libc::kill(-group, signal) } == 0
}

/// Kills one process.
pub(super) fn kill(process: u32) {
    if let Ok(process @ 2..) = i32::try_from(process) {
        // SAFETY: no memory is passed. A cgroup shows a process that has no number here as 0, which would be
        // this process's own group.
        unsafe { libc::kill(process, libc::SIGKILL) };
    }
}

/// Whether a file system lives in memory, so that it is gone after a reboot and in no snapshot.
///
/// # Errors
/// The kernel's.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    // SAFETY: the kernel fills the struct, of which zeros are a value.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(file.as_raw_fd(), &raw mut found) < 0 {
            return Err(io::Error::last_os_error());
        }
        // ramfs has no constant there.
        Ok([libc::TMPFS_MAGIC as u64, 0x8584_58f6].contains(&(found.f_type as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_opened_again_from_its_own_descriptor() {
        assert_eq!(PROGRAM_PATH.to_str().unwrap(), format!("/proc/self/fd/{PROGRAM_FD}"));
    }
}
