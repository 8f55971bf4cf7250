//! Canaries: positive proof that a file system was frozen, and that nobody thawed it before us (R9).
//!
//! The kernel does not tell whether a file system is frozen, and a thaw by somebody else followed by
//! another freeze leaves no trace at all. So one thread per file system, in a process of their own
//! that is started before the thaw process is armed, touches the witness there as soon as everything
//! is frozen. It must then be seen in uninterruptible sleep, and it says itself when it went on: it
//! went on too early if anybody, at any time, thawed.
//!
//! ```text
//! agent: start … ready │ all frozen: go … each seen blocked, then FROZEN is said │ thaw │ end
//! their process:  open │ touch ─────────────── blocked ────────────────────────── ▶ went on at …
//! ```
//!
//! A process of their own, since a thread that sleeps uninterruptibly keeps its process from ending,
//! and the thaw process waits for the agent's end. One process for all of them, and this executable
//! again, so that there is nothing more to install. Nothing here can thaw or freeze.

mod process;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use azdr_env::Env;
use azdr_thawd_client::monotonic_ns;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

pub use process::{ROLE, run};

use crate::witness;
use process::{RECORD_LEN, Record};

/// A file system that lets its canary through for so long is not frozen.
const SEEN_LIMIT: Duration = Duration::from_millis(100);
/// How long after the thaw canaries may take to say that they went on.
const BACK_LIMIT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);

/// What one canary shows. Times are CLOCK_MONOTONIC in nanoseconds, 0 = never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sight {
    /// When it was seen blocked.
    pub(crate) blocked_ns: u64,
    /// When it went on.
    pub(crate) released_ns: u64,
}

impl Sight {
    /// True when it went on after `thaw_asked_ns`, and not before.
    pub(crate) fn released_by_thaw(&self, thaw_asked_ns: u64) -> bool {
        thaw_asked_ns > 0 && self.released_ns >= thaw_asked_ns
    }

    /// Why this is no proof of a freeze from `frozen_ns` to `thaw_asked_ns`, in words.
    pub(crate) fn doubt(&self, frozen_ns: u64, thaw_asked_ns: u64) -> Option<String> {
        let after_ms = self.released_ns.saturating_sub(frozen_ns) / 1_000_000;
        match (self.blocked_ns, self.released_ns) {
            (0, 0) => Some("its canary was never seen blocked".to_owned()),
            (_, 0) => Some("its canary did not say when it went on".to_owned()),
            _ if !self.released_by_thaw(thaw_asked_ns) => Some(format!(
                "its canary went on {after_ms} ms after the freeze, before the thaw: somebody else \
                 thawed it"
            )),
            (0, _) => {
                let limit = SEEN_LIMIT.as_millis();
                Some(format!("its canary was not seen blocked within {limit} ms"))
            }
            _ => None,
        }
    }
}

/// The canaries of one operation. Dropping them ends their process, as soon as nothing is frozen.
#[derive(Debug)]
pub(crate) struct Canaries {
    process: Option<Child>,
    go: Option<ChildStdin>,
    told: Receiver,
    /// The state of each, open since before the freeze.
    states: Vec<File>,
    sights: Vec<Sight>,
}

impl Canaries {
    /// Starts one for each of these roots' witnesses; the roots must stay open. Blocks while a program
    /// is started.
    ///
    /// # Errors
    /// No process could be started.
    pub(crate) fn start(roots: &[Arc<OwnedFd>]) -> io::Result<Self> {
        let us = std::process::id();
        let place =
            |root: &Arc<OwnedFd>| format!("/proc/{us}/fd/{}/{}", root.as_raw_fd(), witness::PLACE);
        let mut process = Command::new("/proc/self/exe")
            .arg(ROLE)
            .args(roots.iter().map(place))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (go, told) = (process.stdin.take(), process.stdout.take());
        let mut canaries = Self {
            process: Some(process),
            go,
            told: Receiver::from_owned_fd(told.ok_or(io::ErrorKind::BrokenPipe)?.into())?,
            states: Vec::new(),
            sights: vec![Sight::default(); roots.len()],
        };
        canaries.states.reserve_exact(roots.len());
        Ok(canaries)
    }

    /// Waits until all are ready to go.
    ///
    /// # Errors
    /// One of them cannot open its witness, or their process has ended.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        let pid = self.process.as_ref().map_or(0, Child::id);
        let mut states: Vec<Option<File>> = self.sights.iter().map(|_| None).collect();
        while states.iter().any(Option::is_none) {
            self.told.readable().await?;
            let Some(record) = self.record()? else { continue };
            match (record, states.get_mut(record.index as usize)) {
                (Record { thread: 0, .. }, _) | (_, None) => {
                    return Err(io::Error::other("a witness cannot be opened"));
                }
                (Record { thread, .. }, Some(state)) => {
                    *state = Some(File::open(format!("/proc/{pid}/task/{thread}/stat"))?);
                }
            }
        }
        self.states.extend(states.into_iter().flatten());
        Ok(())
    }

    /// Lets them go, and watches until each is blocked, for at most 100 ms.
    pub(crate) async fn go(&mut self, env: &Env) {
        if self.go.as_mut().is_none_or(|go| go.write_all(b"g").is_err()) {
            // Their process has ended: none will be seen.
            return;
        }
        let start = env.clock.monotonic();
        loop {
            self.collect();
            let now = monotonic_ns();
            for (sight, state) in self.sights.iter_mut().zip(&self.states) {
                if *sight == Sight::default() && is_blocked(state) {
                    sight.blocked_ns = now;
                }
            }
            let settled = self.sights.iter().all(|sight| *sight != Sight::default());
            if settled || env.clock.monotonic().since(start) >= SEEN_LIMIT {
                return;
            }
            azdr_env::sleep(POLL).await;
        }
    }

    /// What each shows, in the order of the roots; waits a little for those that are not back.
    pub(crate) async fn sights(&mut self) -> &[Sight] {
        let back = async {
            loop {
                self.collect();
                let all = self.sights.iter().all(|sight| sight.released_ns > 0);
                if all || self.told.readable().await.is_err() {
                    return;
                }
                match self.record_into_sight() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        };
        let _ = timeout(BACK_LIMIT, back).await;
        &self.sights
    }

    fn collect(&mut self) {
        while self.record_into_sight().is_ok() {}
    }

    fn record_into_sight(&mut self) -> io::Result<()> {
        let record = self.record()?.ok_or(io::ErrorKind::WouldBlock)?;
        if let Some(sight) = self.sights.get_mut(record.index as usize) {
            sight.released_ns = record.released_ns;
        }
        Ok(())
    }

    /// The next record, if there is one.
    fn record(&self) -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD_LEN];
        match self.told.try_read(&mut bytes) {
            Ok(RECORD_LEN) => Ok(Some(Record::decode(bytes))),
            // Records are written as a whole, and a pipe keeps them together.
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.go.take());
        if let Some(mut process) = self.process.take() {
            // On a thread: somebody else's freeze may hold it up.
            let reap = move || drop(process.wait());
            drop(std::thread::Builder::new().name("canary's end".to_owned()).spawn(reap));
        }
    }
}

/// `PID (NAME) STATE …`: the name is ours.
fn is_blocked(state: &File) -> bool {
    let mut text = [0; 64];
    let len = state.read_at(&mut text, 0).unwrap_or(0);
    text.get(..len).unwrap_or_default().windows(4).any(|part| part == b") D ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_canary_that_was_blocked_until_the_thaw_leaves_no_doubt() {
        let sight = |blocked_ns, released_ns| Sight { blocked_ns, released_ns };
        let (frozen, asked) = (1_000_000, 9_000_000);
        assert_eq!(sight(2_000_000, 9_000_000).doubt(frozen, asked), None);
        for (sight, words) in [
            (sight(0, 0), "never seen blocked"),
            (sight(2_000_000, 0), "did not say"),
            (sight(2_000_000, 8_999_999), "went on 7 ms after the freeze, before the thaw"),
            (sight(0, 1_500_000), "somebody else thawed it"),
            (sight(0, 9_500_000), "not seen blocked within 100 ms"),
        ] {
            let doubt = sight.doubt(frozen, asked).unwrap();
            assert!(doubt.contains(words), "{doubt}");
        }
        assert!(sight(2_000_000, 9_500_000).doubt(frozen, 0).is_some(), "nobody asked for a thaw");
    }
}
