//! Other programs that freeze: what azdr meets on real machines.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

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

/// What Azure's freezer does as it was read: opens all, freezes all, and when one of them refuses,
/// thaws everything that it opened, whoever has frozen it. Its limit begins only after the last freeze,
/// so that it plays no part here. True when it froze all, which are then thawed again.
pub(crate) fn azures_freezer(places: &[&Path]) -> bool {
    let roots: Vec<File> = places.iter().map(|place| File::open(place).unwrap()).collect();
    let froze = roots.iter().all(|root| freeze(root.as_fd()).is_ok());
    for root in &roots {
        let _ = azdr_thawd_client::thaw_file_system(root.as_fd());
    }
    froze
}
