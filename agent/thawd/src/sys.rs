//! libc, wrapped: every `unsafe` of this crate but that of the messages, and nothing that decides
//! anything.

use std::ffi::c_int;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use azdr_thawd_protocol::{MAX_FILE_SYSTEMS, Request};

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of linux/fs.h.
pub(crate) const FIFREEZE: u32 = 0xC004_5877;
pub(crate) const FITHAW: u32 = 0xC004_5878;

/// What counts this process's calls that are answered with EPERM, once it is set.
pub(crate) static REFUSED: OnceLock<&'static AtomicU32> = OnceLock::new();

/// Every call's result comes through here.
fn check(result: impl Into<i64>) -> io::Result<c_int> {
    let result = result.into();
    if result >= 0 {
        return Ok(result as c_int);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EPERM) {
        REFUSED.get().inspect(|counter| _ = counter.fetch_add(1, SeqCst));
    }
    Err(error)
}

/// A descriptor that nobody else here knows of: a call has just created it, or this process was started
/// with it.
pub(crate) fn own(result: impl Into<i64>) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: as the caller has promised; a bad one only fails whenever it is used.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Freezes or thaws the file system of `fd`; 0 or an errno. EINVAL: there is nothing to thaw.
pub(crate) fn ioctl(fd: RawFd, request: u32) -> i32 {
    // SAFETY: both requests ignore their argument; a bad descriptor is answered with EBADF.
    let result = check(unsafe { libc::ioctl(fd, request as libc::Ioctl, 0) });
    result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0)
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of every time in a report.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec; this clock always exists.
    let _ = check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) });
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// The time in `ms` from now.
pub(crate) fn in_ms(ms: u32) -> u64 {
    monotonic_ns() + u64::from(ms) * 1_000_000
}

fn timespec(ms: u32) -> libc::timespec {
    libc::timespec { tv_sec: (ms / 1000).into(), tv_nsec: (ms % 1000 * 1_000_000).into() }
}

/// Waits until `word` is no longer `expected`, is woken, or `limit_ms` passed. May return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, limit_ms: u32) {
    let (word, wait, limit) = (word.as_ptr(), libc::FUTEX_WAIT, timespec(limit_ms));
    // SAFETY: the word outlives the call, and the kernel only reads it and the time.
    let _ = check(unsafe { libc::syscall(libc::SYS_futex, word, wait, expected, &limit, 0, 0) });
}

/// Wakes all waiters, in all processes.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    let (word, wake) = (word.as_ptr(), libc::FUTEX_WAKE);
    // SAFETY: the word outlives the call, and the kernel does not write to it.
    let _ = check(unsafe { libc::syscall(libc::SYS_futex, word, wake, c_int::MAX, 0, 0, 0) });
}

/// Waits without an event.
pub(crate) fn pause(ms: u32) {
    futex_wait(&AtomicU32::new(0), 0, ms);
}

/// A `T` of zeros in memory, as a file on no file system.
pub(crate) fn memory_file<T>() -> io::Result<File> {
    // SAFETY: the name is a string that ends with a zero.
    let file = own(unsafe { libc::memfd_create(c"azdr-thawd".as_ptr(), libc::MFD_CLOEXEC) })?;
    let file = File::from(file);
    file.set_len(size_of::<T>() as u64)?;
    Ok(file)
}

/// Whether this is a [`memory_file`] of a `T`, or might be.
pub(crate) fn fits<T>(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.len() == size_of::<T>() as u64)
}

/// A [`memory_file`] of a `T` as memory that is shared with children, and with whoever maps
/// the file; never unmapped.
///
/// `T` must be made of atomics of integers only, for which any bytes are a value.
pub(crate) fn map_shared<T: Sync>(file: &File) -> io::Result<&'static T> {
    let (fd, access) = (file.as_raw_fd(), libc::PROT_READ | libc::PROT_WRITE);
    let (to, size) = (ptr::null_mut(), size_of::<T>());
    // SAFETY: a new mapping, which replaces none.
    let memory = unsafe { libc::mmap(to, size, access, libc::MAP_SHARED, fd, 0) };
    // A failure is -1, as a pointer.
    check(memory as i64)?;
    // SAFETY: page-aligned, large enough, never unmapped; its bytes are a `T` by the contract.
    Ok(unsafe { &*memory.cast::<T>() })
}

/// Fills what [`map_shared`] returned with zeros; `T` is made of atomics only.
pub(crate) fn zero<T: Sync>(shared: &'static T) {
    // SAFETY: atomics may be written through a shared reference, and zeros are a `T`.
    unsafe { ptr::write_bytes(ptr::from_ref(shared).cast_mut(), 0, 1) }
}

/// Locks all present and future memory and faults it in, breaking copy-on-write after a fork. That
/// includes the stacks: the first thread's as far as exec made it (128 KiB), others' as a whole.
pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) }).map(drop)
}

/// Locked memory; no core file, which would be written to a frozen file system; files of ours are private; children
/// of a child that died become ours.
pub(crate) fn protect_process() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is valid for the call; umask cannot fail.
    unsafe {
        // One malloc arena: threads would otherwise reserve, and lock, one each.
        #[cfg(target_env = "gnu")]
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::umask(0o077);
        check(libc::setrlimit(libc::RLIMIT_CORE, &none))?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1))?;
    }
    lock_memory()
}

/// Blocks every signal in this thread and all it starts. The result is readable once SIGTERM or
/// SIGINT has come to the process that polls it; it is never read, so that it stays so.
pub(crate) fn signals() -> io::Result<OwnedFd> {
    // SAFETY: both sets are empty, which is a value, before they are read or written.
    unsafe {
        let (mut all, mut end) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&mut all);
        check(libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut()))?;
        libc::sigaddset(&mut end, libc::SIGTERM);
        libc::sigaddset(&mut end, libc::SIGINT);
        own(libc::signalfd(-1, &end, libc::SFD_CLOEXEC))
    }
}

/// Waits until one of the descriptors is readable (or hung up) or `limit_ms` passed; negative ones
/// are left out.
pub(crate) fn poll<const N: usize>(fds: [RawFd; N], limit_ms: u32) -> [bool; N] {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let (first, count, limit) = (polled.as_mut_ptr(), N as libc::nfds_t, timespec(limit_ms));
    // SAFETY: the array is as long as said, and the time is valid.
    let ready = check(unsafe { libc::ppoll(first, count, &limit, ptr::null()) });
    if matches!(ready, Ok(1..)) { polled.map(|p| p.revents != 0) } else { [false; N] }
}

/// Forks a child that does `body` and ends. Returns a pidfd, which becomes readable when the child and all
/// its threads have ended. The caller must be the process's only thread, so that the child may allocate.
pub(crate) fn fork(body: impl FnOnce() -> io::Result<()>) -> io::Result<OwnedFd> {
    // SAFETY: with one thread there are no locks that another thread could hold for ever.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        if let Err(error) = body() {
            say(format_args!("not ready to freeze: {error}"));
        }
        exit_now(0)
    }
    // SAFETY: no memory is passed. Nobody could watch a child without it.
    pidfd(pid).inspect_err(|_| _ = unsafe { libc::kill(pid, libc::SIGKILL) })
}

/// This thread's id.
pub(crate) fn thread_id() -> libc::pid_t {
    // SAFETY: no memory is passed.
    unsafe { libc::gettid() }
}

/// True when the thread with this id has ended.
pub(crate) fn thread_is_gone(thread: libc::pid_t) -> bool {
    // SAFETY: no memory is passed, and no signal sent.
    let found = check(unsafe { libc::syscall(libc::SYS_tkill, thread, 0) });
    found.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// Ends this process when the thread that forked it ends.
///
/// # Errors
/// That has happened already.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    let alive = std::os::unix::process::parent_id() == parent;
    if alive { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Says something on standard error, if a pipe or socket there has room for it now: who does not read must
/// not hold up who thaws.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let mut out = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, as said, and valid for the call.
    let _ = check(unsafe { libc::poll(&mut out, 1, 0) });
    if out.revents == libc::POLLOUT {
        insist(words);
    }
}

/// Says something on standard error, however long that takes: when nobody waits for this process.
pub(crate) fn insist(words: fmt::Arguments<'_>) {
    // As a whole: other processes write there, too.
    let _ = io::stderr().write_all(format!("azdr-thawd: {words}\n").as_bytes());
}

/// Ends the process without running anything.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal to a process.
pub(crate) fn signal(process: &OwnedFd, signal: c_int) {
    let (call, fd) = (libc::SYS_pidfd_send_signal, process.as_raw_fd());
    // SAFETY: no memory is passed.
    let _ = check(unsafe { libc::syscall(call, fd, signal, 0, 0) });
}

/// Reaps the children that have ended; true when there are none left.
pub(crate) fn childless() -> bool {
    let mut reaped = Ok(1);
    while let Ok(1..) = reaped {
        // SAFETY: no status is asked for.
        reaped = check(unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) });
    }
    reaped.is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD))
}

/// Installs a seccomp filter in all threads of this process.
pub(crate) fn install_filter(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let (len, filter) = (program.len() as u16, program.as_mut_ptr());
    let program = libc::sock_fprog { len, filter };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the program is as long as said and valid for the calls.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Otherwise the id of a thread that has a filter of its own.
        let thread = check(libc::syscall(libc::SYS_seccomp, mode, flags, &program))?;
        if thread == 0 { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
    }
}

/// The user id of the process that connected, and a pidfd of it. Should its id have been reused
/// meanwhile, the connection's end still tells.
pub(crate) fn peer(socket: &impl AsRawFd) -> io::Result<(libc::uid_t, OwnedFd)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    let (fd, to) = (socket.as_raw_fd(), (&raw mut peer).cast());
    // SAFETY: the buffer is as long as the length that is passed with it.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &mut len) })?;
    Ok((peer.uid, pidfd(peer.pid)?))
}

/// Descriptors as they go with a message, in the layout of 64-bit machines.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fds: [RawFd; MAX_FILE_SYSTEMS],
}

/// The header of a message, to be used while `part` and `control` are alive.
fn message(part: &mut libc::iovec, control: &mut Control, control_len: usize) -> libc::msghdr {
    // SAFETY: numbers and pointers only, for which zeros are a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (part, 1);
    header.msg_control = ptr::from_mut(control).cast();
    header.msg_controllen = control_len as _;
    header
}

/// Sends what has no padding, and at most [`MAX_FILE_SYSTEMS`] descriptors. `flags`: MSG_DONTWAIT or 0.
pub(crate) fn send<T: ?Sized>(to: RawFd, words: &T, fds: &[RawFd], flags: c_int) -> io::Result<()> {
    let fds = fds.get(..MAX_FILE_SYSTEMS).unwrap_or(fds);
    // SAFETY: integers only, for which zeros are a value.
    let mut control: Control = unsafe { mem::zeroed() };
    let control_len = size_of_val(&control.header) + size_of_val(fds);
    control.header.cmsg_len = control_len as _;
    (control.header.cmsg_level, control.header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    control.fds.iter_mut().zip(fds).for_each(|(to, fd)| *to = *fd);
    let (iov_base, iov_len) = (ptr::from_ref(words).cast_mut().cast(), size_of_val(words));
    let mut part = libc::iovec { iov_base, iov_len };
    let header = message(&mut part, &mut control, control_len);
    // SAFETY: all pointers are to live buffers of the lengths given, which are only read.
    let sent = unsafe { libc::sendmsg(to, &header, flags | libc::MSG_NOSIGNAL) };
    check(sent as i64).map(drop)
}

/// Receives without waiting, and appends the descriptors that came along to `fds`; those over the
/// limit are closed by the kernel.
///
/// # Errors
/// The other side is gone, or sent something of another length.
pub(crate) fn receive(socket: &impl AsRawFd, fds: &mut Vec<File>) -> io::Result<Request> {
    // SAFETY: integers only, for which zeros, and whatever comes, are a value.
    let (mut request, mut control): (Request, Control) = unsafe { mem::zeroed() };
    control.fds = [-1; MAX_FILE_SYSTEMS];
    let (iov_base, iov_len) = ((&raw mut request).cast(), size_of_val(&request));
    let mut part = libc::iovec { iov_base, iov_len };
    let mut header = message(&mut part, &mut control, size_of::<Control>());
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: all pointers are to live buffers of the lengths given.
    let len = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) } as i64)?;
    let came = control.fds.into_iter().take_while(|fd| *fd >= 0);
    fds.extend(came.filter_map(|fd| own(fd).ok()).map(File::from));
    if len as usize == iov_len { Ok(request) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
