//! A hook of kind `hold` (R21): started once, READY on its descriptor 3, and from then on it keeps what
//! it holds until its descriptor 4 ends.
//!
//! Only this process has the other end of descriptor 4, so that the hook is released by the agent's
//! death as well, whatever kills it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use azdr_env::Env;
use azdr_proto::agent::HookRun;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::process::{End, Process, describe};
use super::started::Slot;
use super::{Hook, Verb};

const READY: &[u8] = b"READY\n";

/// One that was started.
pub(super) struct Held {
    pub(super) process: Process,
    ready: Receiver,
    release: Option<OwnedFd>,
}

impl Held {
    /// Starts it.
    ///
    /// # Errors
    /// In words.
    pub(super) fn start(
        env: &Env,
        hook: &Hook,
        operation: &str,
        slot: Slot,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| format!("no pipes: {error}");
        let (ready, says) = io::pipe().map_err(failed)?;
        let (waits, release) = io::pipe().map_err(failed)?;
        let ready = Receiver::from_owned_fd(ready.into()).map_err(failed)?;
        let hold = Some((says.into(), waits.into()));
        let process = Process::start(env, hook, Verb::Pre, operation, slot, hold)?;
        Ok(Self { process, ready, release: Some(release.into()) })
    }

    /// Waits for READY, at most `limit`; without it, the process is ended.
    ///
    /// # Errors
    /// How it ended instead.
    pub(super) async fn until_ready(&mut self, limit: Duration) -> Result<(), End> {
        let said = match timeout(limit, self.first_words()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => End::Other(why),
            Err(_) => End::Other(format!("not READY within {} s, killed", limit.as_secs())),
        };
        self.process.kill().await;
        Err(said)
    }

    async fn first_words(&mut self) -> Result<(), String> {
        let mut said = Vec::new();
        let mut bytes = [0; 64];
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                len = self.ready.read(&mut bytes), if open => match len {
                    Ok(len @ 1..) => said.extend(bytes.get(..len).unwrap_or_default()),
                    _ => open = false,
                },
                status = self.process.child.wait() => {
                    let end = status.map_or_else(|error| error.to_string(), describe);
                    return Err(format!("{end} before it was READY"));
                }
            }
            if said == READY {
                return Ok(());
            }
            if !READY.starts_with(&said) {
                let said = String::from_utf8_lossy(&said).escape_debug().to_string();
                return Err(format!("said \"{said}\" instead of READY"));
            }
        }
    }

    /// Why it does not hold any more, if so. To be asked after the thaw: what is held then was held
    /// until then.
    pub(super) fn lost(&mut self) -> Option<String> {
        match self.process.child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Some(format!("{} before the thaw", describe(status))),
            Err(error) => return Some(format!("cannot be looked at: {error}")),
        }
        let mut bytes = [0; 64];
        match self.ready.try_read(&mut bytes) {
            Ok(len @ 1..) => {
                let said = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
                Some(format!("took its READY back: \"{}\"", said.trim_end().escape_debug()))
            }
            _ => None,
        }
    }

    /// Ends its descriptor 4 and waits for its exit, at most `limit`; then ends it.
    pub(super) async fn release(mut self, verb: Verb, limit: Duration) -> (End, HookRun) {
        self.process.now(verb);
        self.release = None;
        let end = self.process.finish(limit).await;
        let told = self.process.told(&end).await;
        (end, told)
    }
}
