//! What outlives this program when it is killed as a whole, and the agent with it (R2): the
//! descriptors of an operation, parked with the service manager while they are needed.
//!
//! It speaks systemd's protocol for that (sd_notify(3), FDSTORE; sd_listen_fds(3)). What is parked are
//! the roots of the operation's file systems and the table that tells what became of each (`slots`);
//! the service manager gives them to the next process of the service. Without a service manager, or
//! when it does not take them, an operation goes on as it would without: then the agent is the last
//! that can thaw.
//!
//! A table is known by its format, and not by the version of the program that made it. Of one that is not
//! known nothing can be read: then all roots are thawed that were parked with it, whoever may have frozen them,
//! rather than leave one frozen.
//!
//! Not covered: an agent that lives thaws as well, and earlier. Whoever else freezes one of these file
//! systems between that and the start of the next process is taken for us.

use std::env;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::sys;

/// The first descriptor that a service manager passes.
const FIRST: RawFd = 3;
/// How long a busy service manager is waited for, before anything is frozen.
const LIMIT: Duration = Duration::from_secs(1);

/// Parks descriptors, before anything is frozen. The service manager reads this before it reads that
/// this process has died, so that there is no answer to wait for.
pub(crate) fn park(files: &[File]) {
    let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    tell("FDSTORE=1\nFDNAME=azdr-operation", &fds);
}

/// Lets go of all that was parked, when nothing is frozen any more.
pub(crate) fn release() {
    tell("FDSTOREREMOVE=1\nFDNAME=azdr-operation", &[]);
}

/// What an earlier process has parked and not released: the roots, and its table, which may be of another
/// version. To be called once.
pub(crate) fn take() -> (Vec<File>, Vec<File>) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let ours = number("LISTEN_PID") == std::process::id() as RawFd;
    let passed = if ours { number("LISTEN_FDS") } else { 0 };
    let fds = (FIRST..FIRST.saturating_add(passed)).filter_map(|fd| sys::own(fd).ok());
    fds.map(File::from).partition(|file| file.metadata().is_ok_and(|found| found.is_dir()))
}

fn tell(words: &str, fds: &[RawFd]) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(LIMIT))?;
        socket.connect(&place)?;
        sys::send(socket.as_raw_fd(), words, fds, 0)
    });
    if let Err(error) = told {
        sys::say(format_args!("the service manager at {place:?} does not hear: {error}"));
    }
}
