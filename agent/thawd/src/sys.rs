//! libc, wrapped: every `unsafe` of this crate, and nothing that decides anything.

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicU32;

use crate::protocol::MAX_FILE_SYSTEMS;

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xC004_5877u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xC004_5878u32 as libc::Ioctl;
/// Since Linux 6.5; not in every libc release.
const SO_PEERPIDFD: c_int = 77;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call that returned this descriptor has just created it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The errno of the last call, without allocating.
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Freezes the file system of `fd`; 0 or an errno.
pub(crate) fn freeze(fd: RawFd) -> i32 {
    // SAFETY: FIFREEZE ignores its argument; a bad descriptor is answered with EBADF.
    if unsafe { libc::ioctl(fd, FIFREEZE, 0) } < 0 { errno() } else { 0 }
}

/// Thaws the file system of `fd`; 0 or an errno. EINVAL: it is not frozen.
pub(crate) fn thaw_raw(fd: RawFd) -> i32 {
    // SAFETY: FITHAW ignores its argument; a bad descriptor is answered with EBADF.
    if unsafe { libc::ioctl(fd, FITHAW, 0) } < 0 { errno() } else { 0 }
}

/// Thaws the file system of `fd`, for an agent whose thaw process died.
///
/// # Errors
/// EINVAL: it is not frozen.
pub fn thaw(fd: BorrowedFd<'_>) -> io::Result<()> {
    match thaw_raw(fd.as_raw_fd()) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of every time in a report.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Waits until `word` is no longer `expected`, is woken, or `limit_ms` passed. May return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, limit_ms: u32) {
    let limit = libc::timespec {
        tv_sec: libc::time_t::from(limit_ms / 1000),
        tv_nsec: libc::c_long::from(limit_ms % 1000) * 1_000_000,
    };
    // SAFETY: the word outlives the call, and the kernel only reads it and the time.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, &limit, 0, 0)
    };
}

/// Wakes all waiters, in this process and in the freezer.
pub(crate) fn futex_wake_all(word: &AtomicU32) {
    // SAFETY: the word outlives the call, and the kernel does not write to it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, c_int::MAX, 0, 0, 0) };
}

/// Waits without an event.
pub(crate) fn pause(ms: u32) {
    futex_wait(&AtomicU32::new(0), 0, ms);
}

/// A `T` in zeroed anonymous memory that is shared with children and never unmapped.
///
/// `T` must be made of integers and atomics of integers only, for which all zeros is a value.
pub(crate) fn map_shared_zeroed<T: Sync>() -> io::Result<&'static T> {
    // SAFETY: a new anonymous mapping, which nobody else knows of.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, zeroed, large enough, never unmapped; zeros are a `T` by the contract.
    Ok(unsafe { &*memory.cast::<T>() })
}

/// Locks all present and future memory and faults it in, breaking copy-on-write after a fork.
pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) }).map(drop)
}

/// Touches the stack that later calls will need.
#[inline(never)]
pub(crate) fn fault_in_stack() {
    let mut page = [0u8; 32 * 1024];
    for byte in page.iter_mut().step_by(1024) {
        // SAFETY: a reference is valid for a write; volatile, so that it is not optimised away.
        unsafe { ptr::write_volatile(byte, 1) };
    }
}

/// One malloc arena: threads would otherwise reserve, and lock, one each.
pub(crate) fn use_one_malloc_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets an integer option of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// No core file, which would be written to a frozen file system; files of ours are private.
pub(crate) fn limit_process() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is valid for the call; umask cannot fail.
    unsafe {
        libc::umask(0o077);
        check(libc::setrlimit(libc::RLIMIT_CORE, &none)).map(drop)
    }
}

/// Blocks every signal in this thread and all it starts, and returns where they can be read.
pub(crate) fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigfillset before it is read.
    unsafe {
        let mut all = mem::zeroed();
        libc::sigfillset(&mut all);
        check(libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut()))?;
        own(libc::signalfd(-1, &all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// The next signal's number.
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<i32> {
    // SAFETY: the buffer is as large as the length that is passed, and is plain data.
    unsafe {
        let mut info: libc::signalfd_siginfo = mem::zeroed();
        let size = size_of_val(&info);
        let read = libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size);
        (read == size as isize).then_some(info.ssi_signo as i32)
    }
}

/// A timer on CLOCK_MONOTONIC.
pub(crate) fn timer() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    own(unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    })
}

/// Sets the timer off at `at_ns`; `None` stops it.
pub(crate) fn set_timer(timer: &OwnedFd, at_ns: Option<u64>) {
    // Zero would disarm it, so a deadline is at least 1.
    let at = at_ns.map_or(0, |ns| ns.max(1));
    // SAFETY: an itimerspec is plain data and valid for the call.
    unsafe {
        let mut spec: libc::itimerspec = mem::zeroed();
        spec.it_value.tv_sec = (at / 1_000_000_000) as libc::time_t;
        spec.it_value.tv_nsec = (at % 1_000_000_000) as libc::c_long;
        let timer = timer.as_raw_fd();
        libc::timerfd_settime(timer, libc::TFD_TIMER_ABSTIME, &spec, ptr::null_mut());
    }
}

/// A counter that threads add to and the poll loop waits for.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Sets an event.
pub(crate) fn raise(event: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is as long as said.
    unsafe { libc::write(event, one.as_ptr().cast(), one.len()) };
}

/// Empties a timer or an event.
pub(crate) fn drain(fd: &OwnedFd) {
    let mut count = [0u8; 8];
    // SAFETY: the buffer is as long as said.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Waits until one of the descriptors is readable (or hung up); negative ones are left out.
pub(crate) fn poll<const N: usize>(fds: [RawFd; N]) -> [bool; N] {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: the array is as long as said.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) };
    if ready <= 0 { [false; N] } else { polled.map(|p| p.revents != 0) }
}

/// What `fork` returned.
pub(crate) enum Forked {
    Parent(libc::pid_t),
    Child,
}

/// Forks. The caller must be the process's only thread, so that the child may allocate.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: with one thread there are no locks that another thread could hold for ever.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Ends this process when the one that forked it ends; false when that has happened already.
pub(crate) fn die_with_parent(parent: libc::pid_t) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 && libc::getppid() == parent }
}

/// Ends the process without running anything.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// This process's id.
pub(crate) fn own_pid() -> libc::pid_t {
    // SAFETY: no memory is passed.
    unsafe { libc::getpid() }
}

/// Closes a descriptor that a forked child inherited and must not keep.
pub(crate) fn close_inherited(fd: RawFd) {
    // SAFETY: only called in the freezer, which never uses or drops the owner of this descriptor.
    unsafe { libc::close(fd) };
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int)
}

/// Reaps a child (-1: any) if it has ended; true also when there is none.
pub(crate) fn reap(pid: libc::pid_t) -> bool {
    // SAFETY: no status is asked for.
    let reaped = unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) };
    reaped > 0 || (reaped < 0 && errno() == libc::ECHILD)
}

/// Kills a child and waits for its end.
pub(crate) fn kill_and_reap(pid: libc::pid_t) {
    // SAFETY: the child has not been reaped yet, so the id is still its own; no status is asked for.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
}

/// The user id of the process that connected, and a pidfd of it.
pub(crate) fn peer(socket: &OwnedFd) -> io::Result<(libc::uid_t, OwnedFd)> {
    // SAFETY: each buffer is as long as the length that is passed with it.
    unsafe {
        let mut credentials: libc::ucred = mem::zeroed();
        let mut len = size_of_val(&credentials) as libc::socklen_t;
        let fd = socket.as_raw_fd();
        let to = (&raw mut credentials).cast();
        check(libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &mut len))?;
        let mut pidfd_of_peer: c_int = -1;
        let mut len = size_of_val(&pidfd_of_peer) as libc::socklen_t;
        let to = (&raw mut pidfd_of_peer).cast();
        let pidfd = match libc::getsockopt(fd, libc::SOL_SOCKET, SO_PEERPIDFD, to, &mut len) {
            0 => own(pidfd_of_peer)?,
            // Before Linux 6.5. Should the id have been reused meanwhile, the connection's end
            // still tells.
            _ => pidfd(credentials.pid)?,
        };
        Ok((credentials.uid, pidfd))
    }
}

fn unix_address(path: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: a sockaddr_un is plain data.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.is_empty() || path.len() >= address.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "socket path is empty or too long",
        ));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn seqpacket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    own(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })
}

/// Listens at `path`.
pub(crate) fn listen(path: &str) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    let (address, len) = unix_address(path)?;
    // SAFETY: the address is valid for its length.
    unsafe {
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len))?;
        check(libc::listen(socket.as_raw_fd(), 8))?;
    }
    Ok(socket)
}

/// The next connection, whose sends never block.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no address is asked for.
    own(unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) })
}

/// Connects to `path`; every blocking call on the result ends after `limit_ms`.
pub(crate) fn connect(path: &str, limit_ms: u32) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    set_limit(&socket, limit_ms)?;
    let (address, len) = unix_address(path)?;
    // SAFETY: the address is valid for its length.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket)
}

/// Lets every blocking call on `socket` end after `limit_ms`.
pub(crate) fn set_limit(socket: &OwnedFd, limit_ms: u32) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: libc::time_t::from(limit_ms / 1000),
        tv_usec: libc::suseconds_t::from(limit_ms % 1000) * 1000,
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        // SAFETY: the value is as long as said.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const limit).cast(),
                size_of_val(&limit) as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}

const CONTROL_LEN: usize = 512;

/// Control data, aligned as a `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// Sends one packet with descriptors (at most 64).
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
    let size = size_of_val(fds);
    assert!(fds.len() <= MAX_FILE_SYSTEMS, "the control buffer holds 64 descriptors");
    // SAFETY: all pointers are to live buffers of the lengths given; CMSG_SPACE(64 ints) is 272.
    let sent = unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size as c_uint) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size as c_uint) as _;
            ptr::copy_nonoverlapping(fds.as_ptr().cast(), libc::CMSG_DATA(header), size);
        }
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one packet and hands each descriptor that came with it to `take`. 0 bytes: the other
/// side is gone. Without `wait`, `WouldBlock` when there is none.
pub(crate) fn receive(
    socket: &OwnedFd,
    bytes: &mut [u8],
    wait: bool,
    mut take: impl FnMut(OwnedFd),
) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all pointers are to live buffers of the lengths given; the kernel fills in whole
    // control messages, and each descriptor in them is new and ours.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN as _;
        let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
        let len = libc::recvmsg(socket.as_raw_fd(), &mut message, flags);
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
        {
            let size = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for index in 0..size / size_of::<RawFd>() {
                take(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
            }
        }
        Ok(len as usize)
    }
}
