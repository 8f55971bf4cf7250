//! Other programs that freeze: what azdr meets on real machines.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use azdr_thawd_client::{monotonic_ns, thaw_file_system};

/// `_IOWR('X', 119, int)` of linux/fs.h.
const FIFREEZE: libc::Ioctl = 0xC004_5877u32 as libc::Ioctl;

/// Freezes a file system.
pub(crate) fn freeze(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE ignores its argument.
    match unsafe { libc::ioctl(root.as_raw_fd(), FIFREEZE, 0) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// One file system that Azure's freezer has tried to thaw: when, on CLOCK_MONOTONIC, and whether it was
/// frozen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignThaw {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) thawed: bool,
}

/// What Azure's freezer does as it was read: opens all, freezes all, and thaws everything that it opened,
/// whoever has frozen it: at once when one of them refuses, and otherwise at its limit, which begins only
/// after the last freeze. Dropping it is its limit.
pub(crate) struct AzuresFreezer {
    /// True when it froze all.
    pub(crate) froze: bool,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<Vec<ForeignThaw>>>,
}

impl AzuresFreezer {
    /// Starts it; returns when it has frozen all, or has been refused.
    pub(crate) fn start(places: &[&Path], limit: Duration) -> Self {
        let roots: Vec<File> = places.iter().map(|place| File::open(place).unwrap()).collect();
        let (end, limit_is_now) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let froze = roots.iter().all(|root| freeze(root.as_fd()).is_ok());
            tell.send(froze).unwrap();
            if froze {
                let _ = limit_is_now.recv_timeout(limit);
            }
            let thaw = |root: &File| {
                let from_ns = monotonic_ns();
                let thawed = thaw_file_system(root.as_fd()).is_ok();
                ForeignThaw { from_ns, to_ns: monotonic_ns(), thawed }
            };
            roots.iter().map(thaw).collect()
        });
        Self { froze: told.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }

    /// Waits for its end; one for each place, in their order.
    pub(crate) fn ended(mut self) -> Vec<ForeignThaw> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Its limit is now.
    pub(crate) fn reaches_its_limit(mut self) -> Vec<ForeignThaw> {
        self.end = None;
        self.ended()
    }
}

impl Drop for AzuresFreezer {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
