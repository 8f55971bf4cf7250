//! The seccomp filter: what may be called between ARMED and thawed (R4, N8).
//!
//! Everything else is answered with EPERM and never kills, since a killed process thaws nothing.
//! It cannot be taken off again. On a machine of another kind than those named here this crate does
//! not compile.

use std::io;
use std::mem::offset_of;
use std::sync::atomic::AtomicU32;

use libc::{c_long, seccomp_data};

use crate::sys;

/// AUDIT_ARCH of linux/audit.h. Calls by another convention (32-bit, x32) are refused.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Calls of both processes: wait, take the time, end. A wait that a stop and continue interrupts goes
/// on by restart_syscall.
const COMMON: [c_long; 4] =
    [libc::SYS_futex, libc::SYS_clock_gettime, libc::SYS_exit_group, libc::SYS_restart_syscall];

/// The other calls of the operation's process; the freezer needs none.
pub(crate) const OPERATION: &[c_long] = &[
    // The poll loop, the agent's messages, the freezer's end.
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_wait4,
    // Whether a thread of the freezer has ended; its id is all that is known here.
    libc::SYS_tkill,
    // An agent that is gone, and one that comes back.
    libc::SYS_close,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_pidfd_open,
];

/// Allows all threads of this process, for ever, only the common and these calls and this one ioctl
/// request. From here on `sys` counts in `refused` what is answered with EPERM.
///
/// # Errors
/// The kernel has no seccomp filters, or this one does not work.
pub(crate) fn install(calls: &[c_long], ioctl: u32, refused: &'static AtomicU32) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at: usize| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at as u32);
    // Whether the loaded word is `k`: how many instructions to leave out.
    let compare = |k, if_so, if_not| op(libc::BPF_JMP | libc::BPF_JEQ, if_so, if_not, k);
    let allow = op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW);
    let refuse = op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let mut program = vec![load(offset_of!(seccomp_data, arch)), compare(ARCH, 1, 0), refuse];
    program.push(load(offset_of!(seccomp_data, nr)));
    for call in COMMON.iter().chain(calls) {
        program.extend([compare(*call as u32, 0, 1), allow]);
    }
    // The request is the low half of the second argument; both machines are little-endian.
    let request = load(offset_of!(seccomp_data, args) + size_of::<u64>());
    program.extend([compare(libc::SYS_ioctl as u32, 1, 0), refuse, request]);
    program.extend([compare(ioctl, 0, 1), allow, refuse]);
    sys::install_filter(&mut program)?;
    // Otherwise there is no such descriptor.
    if sys::ioctl(-1, 0) != libc::EPERM {
        return Err(io::Error::other("the seccomp filter does not filter"));
    }
    let _ = sys::REFUSED.set(refused);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    fn counter() -> &'static AtomicU32 {
        sys::map_shared(&sys::memory_file::<AtomicU32>().unwrap()).unwrap()
    }

    /// Runs `body` in a child of its own, which ends with the number that it returns.
    fn in_a_child(body: impl FnOnce() -> i32) -> i32 {
        let child = sys::fork(|| sys::exit_now(body())).unwrap();
        // SAFETY: the structure is plain data, and valid for the call.
        let (code, status) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let fd = child.as_raw_fd() as libc::id_t;
            assert_eq!(libc::waitid(libc::P_PIDFD, fd, &mut info, libc::WEXITED), 0);
            (info.si_code, info.si_status())
        };
        assert_eq!(code, libc::CLD_EXITED, "the child was killed");
        status
    }

    #[test]
    fn a_forbidden_call_gets_eperm_and_is_counted_and_the_process_lives() {
        let refused: &'static AtomicU32 = counter();
        let ended = in_a_child(|| {
            if install(OPERATION, sys::FITHAW, refused).is_err() || refused.load(SeqCst) != 0 {
                return 1;
            }
            // A fork, a foreign ioctl request, and a harmless call of the loop's.
            let forked = sys::fork(|| Ok(())).map_err(|error| error.raw_os_error()).map(drop);
            let froze = sys::ioctl(-1, sys::FIFREEZE);
            let thawed = sys::ioctl(-1, sys::FITHAW);
            let expected = (Err(Some(libc::EPERM)), libc::EPERM, libc::EBADF);
            if (forked, froze, thawed) == expected { 42 } else { 2 }
        });
        assert_eq!((ended, refused.load(SeqCst)), (42, 2));
    }

    #[test]
    fn the_freezer_may_not_thaw_or_send() {
        let refused: &'static AtomicU32 = counter();
        let ended = in_a_child(|| {
            let installed = install(&[], sys::FIFREEZE, refused).is_ok();
            let thawed = sys::ioctl(-1, sys::FITHAW);
            let sent = sys::send(-1, "words", &[], 0).is_err();
            if installed && thawed == libc::EPERM && sent { 42 } else { 1 }
        });
        assert_eq!((ended, refused.load(SeqCst)), (42, 2));
    }
}
