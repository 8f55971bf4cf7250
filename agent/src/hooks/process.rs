//! One verb under way: its process, its limit, its output.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azdr_env::{Env, Monotonic};
use azdr_proto::agent::HookRun;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cgroup::Cgroup;
use super::started::Slot;
use super::{Hook, Verb, exec};

/// Between SIGTERM and SIGKILL (R23).
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// A killed process that is not gone by then sits in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// What a process wrote just before its end is still in the pipe.
const LAST_OUTPUT: Duration = Duration::from_millis(200);
/// Output that is kept.
const RING: usize = 64 * 1024;
/// Output that is told.
pub(super) const TOLD: usize = 1024;

/// The newest output of a verb.
#[derive(Clone, Default)]
struct Ring(Arc<Mutex<VecDeque<u8>>>);

impl Ring {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let over = kept.len().saturating_sub(RING);
        kept.drain(..over);
    }

    /// The last `most` bytes as text, without characters that could steer a terminal.
    fn tail(&self, most: usize) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = kept.len().saturating_sub(most);
        let bytes: Vec<u8> = kept.iter().skip(skip).copied().collect();
        let plain =
            |c: char| if c == '\n' || c == '\t' || !c.is_control() { c } else { '\u{fffd}' };
        let text: String = String::from_utf8_lossy(&bytes).chars().map(plain).collect();
        // Replacements are longer than what they replace.
        let from = text.ceil_char_boundary(text.len().saturating_sub(most));
        text[from..].trim_end().to_owned()
    }
}

/// How a verb ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// Not within its limit; killed.
    Late(Duration),
    /// A `hold` hook's `pre`: it goes on.
    Ready,
    /// It was not started, or something else that is not its exit.
    Other(String),
}

impl End {
    pub(super) fn succeeded(&self) -> bool {
        match self {
            Self::Exited(status) => status.success(),
            Self::Ready => true,
            Self::Late(_) | Self::Other(_) => false,
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Exited(status) => describe(*status),
            Self::Late(limit) => format!("still running after {} s, killed", limit.as_secs()),
            Self::Ready => "READY".to_owned(),
            Self::Other(why) => why.clone(),
        }
    }

    fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited(status) => status.code(),
            _ => None,
        }
    }
}

/// An exit in words.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => status.to_string(),
    }
}

/// A process that runs a verb.
pub(super) struct Process {
    pub(super) child: Child,
    group: u32,
    cgroup: Option<Cgroup>,
    output: Ring,
    drain: JoinHandle<()>,
    env: Env,
    verb: Verb,
    since: Monotonic,
}

impl Process {
    /// Starts a verb. `slot` is its place in the list of what was started.
    ///
    /// # Errors
    /// In words.
    pub(super) fn start(
        env: &Env,
        hook: &Hook,
        verb: Verb,
        operation: &str,
        slot: Slot,
        hold: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<Self, String> {
        let program = hook.program(verb);
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::ENOEXEC) => format!(
                "{} is no program: a script's first line must be #! and its interpreter",
                program.path
            ),
            Some(libc::ENOENT) => format!("{}: its interpreter is not there", program.path),
            _ => format!("{} cannot be started: {error}", program.path),
        };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let reader = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
        let text = |text: &str| CString::new(text).map_err(|_| "holds a NUL".to_owned());
        let mut argv = vec![text(&program.path)?];
        match &program.arguments {
            Some(own) => argv.extend(own.iter().cloned()),
            None => argv.extend([text(verb.as_str())?, text(operation)?]),
        }
        let Slot { identity, cgroup } = slot;
        let entrance = cgroup.as_ref().and_then(Cgroup::entrance);
        let since = env.clock.monotonic();
        let start = exec::Start {
            program: &program.file,
            argv,
            output: writer.into(),
            identity: &identity,
            cgroup: entrance.as_ref(),
            hold,
        };
        let child = exec::start(start).map_err(|error| {
            if let Some(cgroup) = &cgroup {
                cgroup.remove();
            }
            failed(error)
        })?;
        let group = child.id().unwrap_or_default();
        // Also when the process has ended already, its being there is seen: it is not reaped yet.
        let inside = cgroup.filter(|cgroup| is_inside(group, cgroup));
        let output = Ring::default();
        let drain = tokio::spawn(drain(reader, output.clone()));
        let env = env.clone();
        Ok(Self { child, group, cgroup: inside, output, drain, env, verb, since })
    }

    /// Waits for its end, at most `limit`; then ends it.
    pub(super) async fn finish(&mut self, limit: Duration) -> End {
        match timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => End::Exited(status),
            Ok(Err(error)) => End::Other(format!("cannot be waited for: {error}")),
            Err(_) => {
                let gone = self.kill().await;
                if gone {
                    End::Late(limit)
                } else {
                    End::Other(format!(
                        "still running after {} s, and cannot be killed",
                        limit.as_secs()
                    ))
                }
            }
        }
    }

    /// SIGTERM, 2 s, SIGKILL, to all that belongs to it. False when it cannot be killed.
    pub(super) async fn kill(&mut self) -> bool {
        exec::signal_group(self.group, libc::SIGTERM);
        let ended = timeout(GRACE, self.child.wait()).await.is_ok();
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill().await;
        }
        exec::signal_group(self.group, libc::SIGKILL);
        ended || timeout(KILL_LIMIT, self.child.wait()).await.is_ok()
    }

    /// What is told about it, once it has ended.
    pub(super) async fn told(mut self, end: &End) -> HookRun {
        let took = self.env.clock.monotonic().since(self.since);
        self.tell(end, took).await
    }

    /// As [`Process::told`], of something that is not over.
    pub(super) fn told_so_far(&self, end: &End) -> HookRun {
        let took = self.env.clock.monotonic().since(self.since);
        run(self.verb, end, took, self.output.tail(TOLD), self.cgroup.is_some(), 0)
    }

    pub(super) fn verb(&self) -> Verb {
        self.verb
    }

    /// What it does from now on is told as another verb.
    pub(super) fn now(&mut self, verb: Verb) {
        self.verb = verb;
        self.since = self.env.clock.monotonic();
    }

    async fn tell(&mut self, end: &End, took: Duration) -> HookRun {
        // A descendant may keep the pipe open for ever.
        let _ = timeout(LAST_OUTPUT, &mut self.drain).await;
        self.drain.abort();
        let mut left_behind = match &self.cgroup {
            Some(cgroup) => cgroup.processes().len(),
            None => usize::from(exec::signal_group(self.group, 0)),
        };
        if left_behind > 0 && (!end.succeeded() || self.verb == Verb::Check) {
            // Of one that failed nothing is to go on, nor of one that is over with its answer.
            left_behind = match &self.cgroup {
                Some(cgroup) => cgroup.kill().await,
                None => {
                    exec::signal_group(self.group, libc::SIGKILL);
                    0
                }
            };
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        let in_cgroup = self.cgroup.is_some();
        run(self.verb, end, took, self.output.tail(TOLD), in_cgroup, left_behind)
    }
}

fn is_inside(process: u32, cgroup: &Cgroup) -> bool {
    let own = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let name = cgroup.path().file_name().map(|name| name.to_string_lossy().into_owned());
    let inside = name.is_some_and(|name| {
        own.lines().any(|line| line.starts_with("0::") && line.ends_with(&format!("/{name}")))
    });
    if !inside {
        cgroup.remove();
    }
    inside
}

/// A verb that did not come to run.
pub(super) fn not_started(verb: Verb, why: &str) -> HookRun {
    run(verb, &End::Other(why.to_owned()), Duration::ZERO, String::new(), false, 0)
}

fn run(
    verb: Verb,
    end: &End,
    took: Duration,
    output: String,
    in_cgroup: bool,
    left_behind: usize,
) -> HookRun {
    HookRun {
        verb: verb.wire().into(),
        end: end.describe(),
        succeeded: end.succeeded(),
        exit_code: end.exit_code(),
        took_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
        output,
        in_cgroup,
        left_behind: u32::try_from(left_behind).unwrap_or(u32::MAX),
    }
}

async fn drain(mut from: Receiver, to: Ring) {
    let mut bytes = [0; 8 * 1024];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        to.push(bytes.get(..len).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_end_and_tells_it_as_plain_text() {
        let ring = Ring::default();
        for _ in 0..2_000 {
            ring.push(&[b'x'; 8 * 1024]);
        }
        ring.push(b"last \x1b[2J\xff$(reboot)\n");
        assert_eq!(ring.0.lock().unwrap().len(), RING);
        let tail = ring.tail(TOLD);
        assert!(tail.len() <= TOLD, "{}", tail.len());
        assert!(tail.ends_with("last \u{fffd}[2J\u{fffd}$(reboot)"), "{tail}");
        let only_bad = Ring::default();
        only_bad.push(&[0x1b; 4 * 1024]);
        assert!(only_bad.tail(TOLD).len() <= TOLD);
    }
}
