//! The agent's side of the thaw process: requests, replies and what a report is worth.
//!
//! Apart from `azdr-thawd`, which runs privileged in the window and holds nothing that it does not
//! need there. Reading order: [`Request`] and [`Reply`] (`message`), [`Report`], [`Client`].
//!
//! Invariants: a message that does not parse is an error, never guessed; a report is unbroken only by
//! positive evidence (N11).

mod client;
mod message;
mod report;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub use azdr_thawd_protocol::{
    Cause, DEFAULT_SOCKET, FREEZE_LIMIT_MS, HOLD_LIMIT_RANGE_MS, LEASE_RANGE_MS, MAX_FILE_SYSTEMS,
    Outcome, Refusal, State,
};
pub use client::Client;
pub use message::{OperationId, Prepare, Reply, Request};
pub use report::{Entry, Report};

/// `_IOWR('X', 120, int)` of linux/fs.h.
const FITHAW: libc::Ioctl = 0xC004_5878u32 as libc::Ioctl;

/// Thaws the file system of `fd`, for an agent whose thaw process died.
///
/// # Errors
/// EINVAL: it is not frozen.
pub fn thaw_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FITHAW ignores its argument; a bad descriptor is answered with EBADF.
    if unsafe { libc::ioctl(fd.as_raw_fd(), FITHAW, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of every time in a report.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
