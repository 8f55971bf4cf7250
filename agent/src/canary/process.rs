//! The canaries' process: this executable with another first argument. It opens the witnesses, waits
//! for one byte, touches them, and says when each was touched.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread::Builder;

use azdr_thawd_client::monotonic_ns;

use crate::kernel;

/// The first argument of this executable when it is to be this process; the others are the witnesses.
pub const ROLE: &str = "canary";
const STACK: usize = 64 * 1024;

pub(super) const RECORD_LEN: usize = 16;

/// What a canary says: first that it is ready, then that it went on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Which of the witnesses.
    pub(super) index: u32,
    /// Its thread's id; 0 when it cannot open its witness.
    pub(super) thread: u32,
    /// When it went on, by CLOCK_MONOTONIC; 0 when it has just become ready.
    pub(super) released_ns: u64,
}

impl Record {
    pub(super) fn decode(bytes: [u8; RECORD_LEN]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self { index: all as u32, thread: (all >> 32) as u32, released_ns: (all >> 64) as u64 }
    }

    fn encode(self) -> [u8; RECORD_LEN] {
        let high = u128::from(self.released_ns) << 64;
        (high | u128::from(self.thread) << 32 | u128::from(self.index)).to_le_bytes()
    }
}

/// Runs the canaries of these witnesses until standard input ends, which is the agent's end as well.
///
/// # Errors
/// Threads or descriptors cannot be had.
pub fn run(witnesses: &[OsString]) -> io::Result<()> {
    let go = Arc::new(Barrier::new(witnesses.len() + 1));
    for (index, witness) in witnesses.iter().cloned().enumerate() {
        let (index, go) = (u32::try_from(index).unwrap_or(u32::MAX), go.clone());
        let mut agent = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut sit = move || sit(index, Path::new(&witness), &go, &mut agent);
        // An error is that the agent has gone.
        Builder::new().stack_size(STACK).spawn(move || drop(sit()))?;
    }
    let mut agent = io::stdin().lock();
    if agent.read(&mut [0])? == 1 {
        go.wait();
        io::copy(&mut agent, &mut io::sink())?;
    }
    Ok(())
}

fn sit(index: u32, witness: &Path, go: &Barrier, agent: &mut File) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let witness = OpenOptions::new().read(true).custom_flags(flags).open(witness);
    let thread = if witness.is_ok() { thread_id()? } else { 0 };
    let ready = Record { index, thread, released_ns: 0 };
    agent.write_all(&ready.encode())?;
    go.wait();
    // Should this fail, that it did not block is what counts.
    let _ = kernel::touch(witness?.as_fd());
    agent.write_all(&Record { released_ns: monotonic_ns(), ..ready }.encode())
}

fn thread_id() -> io::Result<u32> {
    let task = std::fs::read_link("/proc/thread-self")?;
    let id = task.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    id.ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record { index: 63, thread: u32::MAX - 1, released_ns: u64::MAX - 2 };
        assert_eq!(Record::decode(record.encode()), record);
        let ready = Record { index: 0, thread: 7, released_ns: 0 };
        assert_eq!(Record::decode(ready.encode()), ready);
    }
}
