//! What an agent that was killed has left behind: hooks whose `pre` was started, and that must get their
//! `abort` (R22).
//!
//! All of it together has one limit, so that an agent that is told to end meanwhile does so before its
//! service manager loses patience. What was not done by then stays in the list, and is tried again before the
//! next operation's hooks, or by the next agent; so does what could not be done. A verb that was cut short by
//! its limit has had its turn, so that every attempt gets further.
//!
//! Invariants: a hook leaves the list only when its verb was started, or when a look that saw all hooks did
//! not see it. None is started while the thaw process says that something may be frozen.

use std::time::Duration;

use azdr_thawd_client::{Client, State};

use super::cgroup::Cgroup;
use super::installed::{Found, Presence};
use super::process::{GRACE, Process};
use super::round::look;
use super::started::{Entry, Started};
use super::{Hook, Kind, Verb, exec};
use crate::Agent;

/// The longest hold (25 s), and a thaw that is not confirmed at once.
pub(super) const THAW_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Whether there is something to do, so that it can be shown before it is done.
pub(crate) fn is_needed(agent: &Agent) -> bool {
    !matches!(Started::left(&agent.config.run_dir), Ok(None))
}

/// Runs what is missing, for at most as long as all `post` of an operation may take, once all is thawed. A verb
/// that was cut short by a kill is run again; whatever else was to come after a `pre` is unknown now, so that it
/// is `abort`. Dropping the future is like a kill.
pub(crate) async fn recover(agent: &Agent) {
    let mut started = match Started::left(&agent.config.run_dir) {
        Ok(Some(started)) => started,
        Ok(None) => return,
        Err(why) => {
            tracing::error!(why, "hooks of an earlier agent may be waiting for their abort");
            return;
        }
    };
    tracing::warn!(operation = started.operation(), "an earlier agent was killed amid its hooks");
    let _turn = agent.hooks_turn.lock().await;
    if let Err(why) = abort_all(agent, &mut started).await {
        tracing::error!("{why}");
    }
    if let Some(owed) = started.owed() {
        tracing::error!("{owed}: tried again later");
    }
}

/// What it does not get to stays in the list.
///
/// # Errors
/// Why nothing was tried, in words.
async fn abort_all(agent: &Agent, started: &mut Started) -> Result<(), String> {
    let total = until_thawed(agent).await?;
    let found = look(agent, "look for hooks").await.map_err(|stuck| stuck.to_string())?;
    if let Some(all) = found.iter().find(|found| found.presence == Presence::Unseen) {
        return all.hook.clone().map(drop);
    }
    let begin = agent.env.clock.monotonic();
    let left = || total.saturating_sub(agent.env.clock.monotonic().since(begin));
    for entry in started.entries().to_vec().into_iter().rev() {
        if left().is_zero() {
            break;
        }
        let is_it = |hook: &&Found| hook.name == entry.name && hook.presence == Presence::There;
        let hook = found.iter().find(is_it).map(|found| &found.hook);
        end(agent, started, &entry, hook.and_then(|hook| hook.as_ref().ok()), left()).await;
        let why = match hook {
            Some(Ok(_)) if left().is_zero() => break,
            Some(Ok(hook)) => run(agent, started, &entry, hook, left()).await.err(),
            Some(Err(why)) => Some(why.clone()),
            None => {
                tracing::error!(hook = entry.name, "it is not installed any more: no abort is run");
                None
            }
        };
        if let Some(why) = why {
            tracing::error!(hook = entry.name, why, "its abort cannot be run");
            continue;
        }
        if let Err(why) = started.ended(&entry.name) {
            tracing::error!(hook = entry.name, why, "the list of started hooks");
        }
    }
    Ok(())
}

/// No hook runs while something is frozen: the thaw process has seen that agent die, or thaws when the
/// lease ends. What that takes beyond [`THAW_LIMIT`] is taken from what all hooks may take: the rest is
/// returned.
///
/// # Errors
/// It says to the last that something may be frozen.
async fn until_thawed(agent: &Agent) -> Result<Duration, String> {
    let total = agent.config.hooks.total_limit();
    let begin = agent.env.clock.monotonic();
    // Silence counts from its last word: one answer that is missed says nothing.
    let mut heard = begin;
    loop {
        let socket = agent.config.thawd_socket.clone();
        let ask = move || Client::connect(&socket, 1_000).and_then(|thawd| thawd.status());
        let answer = agent.blocking.run("azdr-thawd before hooks", THAW_LIMIT, ask).await;
        let now = agent.env.clock.monotonic();
        let over = now.since(begin).saturating_sub(THAW_LIMIT);
        match answer {
            Ok(Ok((_, State::Idle))) => return Ok(total.saturating_sub(over)),
            // It holds something, or is busy with that.
            Ok(Ok(_)) => heard = now,
            // It is being started again.
            _ if now.since(heard) < THAW_LIMIT => {}
            _ => {
                tracing::error!("azdr-thawd does not answer: hooks are run all the same");
                return Ok(total.saturating_sub(over));
            }
        }
        if over >= total {
            return Err("azdr-thawd says that something may still be frozen".to_owned());
        }
        azdr_env::sleep(POLL * 5).await;
    }
}

/// Ends the process that the earlier agent has left running. One that holds something ends by itself,
/// for its descriptor 4 has ended.
async fn end(agent: &Agent, started: &Started, entry: &Entry, hook: Option<&Hook>, left: Duration) {
    let gone = async |limit: Duration| {
        let begin = agent.env.clock.monotonic();
        loop {
            let process = started.process(entry)?;
            if agent.env.clock.monotonic().since(begin) >= limit {
                return Some(process);
            }
            azdr_env::sleep(POLL).await;
        }
    };
    let patience = match hook {
        Some(hook) if hook.kind == Kind::Hold => hook.post_limit.min(left),
        _ => Duration::ZERO,
    };
    let Some(process) = gone(patience).await else { return };
    exec::signal_group(process, libc::SIGTERM);
    let stays = gone(GRACE).await.is_some();
    if let Some(path) = &entry.cgroup {
        let cgroup = Cgroup::at(path);
        let left = cgroup.kill().await;
        if left > 0 {
            tracing::error!(hook = entry.name, left, "processes of it are not killed");
        }
        cgroup.remove();
    }
    if stays {
        exec::signal_group(process, libc::SIGKILL);
        if gone(GRACE).await.is_some() {
            tracing::error!(hook = entry.name, process, "it cannot be killed");
        }
    }
}

/// # Errors
/// Why nothing was started, in words.
async fn run(
    agent: &Agent,
    started: &mut Started,
    entry: &Entry,
    hook: &Hook,
    left: Duration,
) -> Result<(), String> {
    let verb = match entry.verb {
        Verb::Pre | Verb::Abort => Verb::Abort,
        // A release that nobody saw the end of is not known to have been one.
        Verb::Post if hook.kind == Kind::Hold => Verb::Abort,
        Verb::Post => Verb::Post,
        // Is never in the list.
        Verb::Check => return Ok(()),
    };
    let operation = started.operation().to_owned();
    let slot = started.begin(&hook.name, verb)?;
    let mut process = Process::start(&agent.env, hook, verb, &operation, slot, None)?;
    let end = process.finish(hook.limit(verb).min(left)).await;
    let run = process.told(&end).await;
    let (end, verb, output) = (run.end, verb.as_str(), run.output);
    tracing::info!(hook = hook.name, verb, end, output, "a hook of an earlier agent ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, mpsc};

    use azdr_env::{Env, ManualClock, OsIds, WallTime};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::config::Config;

    /// What each question to the thaw process takes.
    const STEP: Duration = Duration::from_secs(20);

    /// A machine whose directory for hooks is not there, and that owes an abort to one hook.
    struct Owing {
        run_dir: tempfile::TempDir,
        agent: Agent,
    }

    impl Owing {
        /// `more` goes to the configuration's `[hooks]`; the thaw process is in the state that `state` makes of
        /// the number of answers before.
        fn new(owed: &str, more: &str, state: fn(u32) -> State) -> Self {
            let run_dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let (at, socket) = (run_dir.path(), run_dir.path().join("thawd"));
            let directory = match more.contains("directory = ") {
                true => String::new(),
                false => format!("directory = {:?}\n", at.join("no-hooks")),
            };
            let text = format!(
                "controller = \"c:1\"\nrun_dir = {at:?}\nthawd_socket = {socket:?}\n\
                 [hooks]\n{directory}{more}\n"
            );
            let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
            let clock = Arc::new(ManualClock::at(WallTime::from_unix_ms(0)));
            let env = Env { clock: clock.clone(), ids: Arc::new(OsIds) };
            let listener = UnixListener::bind(socket).unwrap();
            tokio::spawn(async move {
                for number in 0.. {
                    let (mut client, _) = listener.accept().await.unwrap();
                    let mut request = [0; 5 * 4 + 64 + 64];
                    client.read_exact(&mut request).await.unwrap();
                    clock.advance(STEP);
                    // Its magic number, that this is a status, no operation, and the state.
                    let mut reply = vec![0; 6 * 4 + 64 + 64 * 40];
                    reply[..4].copy_from_slice(&request[..4]);
                    reply[4..8].copy_from_slice(&5u32.to_ne_bytes());
                    reply[72..76].copy_from_slice(&(state(number) as u32).to_ne_bytes());
                    client.write_all(&reply).await.unwrap();
                }
            });
            let mut started = Started::new(at, "op-1").unwrap();
            drop(started.begin(owed, Verb::Pre).unwrap());
            Self { agent: Agent::new(config, env, crate::ring_log::RingLog::default()), run_dir }
        }

        async fn owes_after_recovery(&self) -> bool {
            recover(&self.agent).await;
            Started::left(self.run_dir.path()).unwrap().is_some()
        }
    }

    fn idle(_: u32) -> State {
        State::Idle
    }

    #[tokio::test]
    async fn a_hook_that_no_complete_look_finds_is_owed_nothing() {
        assert!(!Owing::new("10-gone", "", idle).owes_after_recovery().await);
        let named = "[hooks.each.\"10-gone\"]\napplication = true";
        assert!(!Owing::new("10-gone", named, idle).owes_after_recovery().await);
    }

    #[tokio::test]
    async fn what_cannot_be_looked_for_is_still_owed_its_abort() {
        let owing = Owing::new("10-hook", "", idle);
        let (release, wait) = mpsc::channel::<()>();
        let stuck = owing.agent.blocking.run("look for hooks", Duration::ZERO, move || wait.recv());
        assert!(stuck.await.is_err());
        assert!(owing.owes_after_recovery().await);
        drop(release);
        wait_for_the_look(&owing.agent).await;
        assert!(!owing.owes_after_recovery().await, "tried again");
    }

    async fn wait_for_the_look(agent: &Agent) {
        for _ in 0..500 {
            if look(agent, "look for hooks").await.is_ok() {
                return;
            }
            azdr_env::sleep(POLL).await;
        }
        panic!("the earlier look does not end");
    }

    #[tokio::test]
    async fn a_look_that_does_not_see_all_hooks_forgets_none() {
        let each = |number| format!("[hooks.each.\"10-hook{number}\"]\napplication = true\n");
        let too_many: String = (0..33).map(each).collect();
        // Everybody may write to /tmp, so that what is in there is not even listed.
        for more in [too_many.as_str(), "directory = \"/tmp\""] {
            let owing = Owing::new("10-hook", more, idle);
            assert!(owing.owes_after_recovery().await, "{more}");
        }
    }

    #[tokio::test]
    async fn a_hook_that_is_there_and_may_not_run_is_still_owed_its_abort() {
        let refused = "azure_scripts = \"/proc/no-such-file\"";
        assert!(Owing::new("azure-scripts", refused, idle).owes_after_recovery().await);
    }

    #[tokio::test]
    async fn nothing_is_run_while_something_may_be_frozen() {
        // For 40 s: more than a thaw should take, and less than all that there is time for.
        let late = |number| if number < 2 { State::Poisoned } else { State::Idle };
        assert!(!Owing::new("10-gone", "", late).owes_after_recovery().await);
        let owing = Owing::new("10-gone", "total_limit_secs = 60", |_| State::Poisoned);
        assert!(owing.owes_after_recovery().await);
        let waited = owing.agent.env.clock.monotonic().as_duration();
        assert_eq!(waited, STEP * 5, "the first answer after 90 s");
    }
}
