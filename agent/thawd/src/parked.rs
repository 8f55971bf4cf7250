//! What outlives this program when it is killed as a whole, and the agent with it (R2): the
//! descriptors of an operation, parked with the service manager while they are needed.
//!
//! It speaks systemd's protocol for that (sd_notify(3), FDSTORE; sd_listen_fds(3)). What is parked are
//! the roots of the operation's file systems and the table that tells what became of each (`slots`);
//! the service manager gives them to the next process of the service. Without a service manager, or
//! when it does not take them, an operation goes on as it would without: then the agent is the last
//! that can thaw.
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
pub(crate) fn park<'a>(files: impl Iterator<Item = &'a File>) {
    let fds: Vec<RawFd> = files.map(AsRawFd::as_raw_fd).collect();
    tell("FDSTORE=1\nFDNAME=azdr-operation", &fds);
}

/// Lets go of all that was parked, when nothing is frozen any more.
pub(crate) fn release() {
    tell("FDSTOREREMOVE=1\nFDNAME=azdr-operation", &[]);
}

/// What an earlier process has parked and not released. To be called once.
pub(crate) fn take() -> Vec<File> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let passed =
        if number("LISTEN_PID") == std::process::id() as RawFd { number("LISTEN_FDS") } else { 0 };
    (FIRST..FIRST.saturating_add(passed)).map(sys::adopt).collect()
}

fn tell(words: &str, fds: &[RawFd]) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(LIMIT))?;
        socket.connect(&place)?;
        sys::send_descriptors(&socket, words, fds)
    });
    if let Err(error) = told {
        sys::say(format_args!("the service manager at {place:?} does not hear: {error}"));
    }
}
