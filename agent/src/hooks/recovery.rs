//! What an agent that was killed has left behind: hooks whose `pre` was started, and that must get their
//! `abort` (R22).
//!
//! All of it together has one limit, so that an agent that is told to end meanwhile does so before its
//! service manager loses patience. What was not done by then stays in the list, and is tried again before the
//! next operation's hooks, or by the next agent. A verb that was cut short by its limit has had its turn, so
//! that every attempt gets further.

use std::time::Duration;

use azdr_thawd_client::{Client, State};

use super::cgroup::Cgroup;
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
    until_thawed(agent).await;
    let found = look(agent, "look for hooks").await.unwrap_or_default();
    let (total, begin) = (agent.config.hooks.total_limit(), agent.env.clock.monotonic());
    let left = || total.saturating_sub(agent.env.clock.monotonic().since(begin));
    for entry in started.entries().to_vec().into_iter().rev() {
        if left().is_zero() {
            break;
        }
        let hook = found.iter().find(|hook| hook.name == entry.name);
        match hook.map(|found| found.hook.clone()) {
            Some(Ok(hook)) => {
                end(agent, &started, &entry, Some(&hook), left()).await;
                if left().is_zero() {
                    break;
                }
                run(agent, &mut started, &entry, &hook, left()).await;
            }
            other => {
                let why = match other {
                    Some(Err(why)) => why,
                    _ => "it is not installed any more".to_owned(),
                };
                end(agent, &started, &entry, None, left()).await;
                tracing::error!(hook = entry.name, why, "its abort cannot be run");
            }
        }
        if let Err(why) = started.ended(&entry.name) {
            tracing::error!(hook = entry.name, why, "the list of started hooks");
        }
    }
    if let Some(owed) = started.owed() {
        tracing::error!("after {} s {owed}: tried again later", total.as_secs());
    }
}

/// No hook runs while something is frozen: the thaw process has seen that agent die, or thaws when the
/// lease ends.
async fn until_thawed(agent: &Agent) {
    let begin = agent.env.clock.monotonic();
    while agent.env.clock.monotonic().since(begin) < THAW_LIMIT {
        let socket = agent.config.thawd_socket.clone();
        let ask = move || Client::connect(&socket, 1_000).and_then(|thawd| thawd.status());
        match agent.blocking.run("azdr-thawd before hooks", THAW_LIMIT, ask).await {
            Ok(Ok((_, State::Idle))) => return,
            // It holds something, or is busy with that; or it is being started again.
            _ => azdr_env::sleep(POLL * 5).await,
        }
    }
    tracing::error!("azdr-thawd does not say that all is thawed: hooks are run all the same");
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

async fn run(agent: &Agent, started: &mut Started, entry: &Entry, hook: &Hook, left: Duration) {
    let verb = match entry.verb {
        Verb::Pre | Verb::Abort => Verb::Abort,
        // A release that nobody saw the end of is not known to have been one.
        Verb::Post if hook.kind == Kind::Hold => Verb::Abort,
        Verb::Post => Verb::Post,
        // Is never in the list.
        Verb::Check => return,
    };
    let operation = started.operation().to_owned();
    let begun = started
        .begin(&hook.name, verb)
        .and_then(|slot| Process::start(&agent.env, hook, verb, &operation, slot, None));
    match begun {
        Ok(mut process) => {
            let end = process.finish(hook.limit(verb).min(left)).await;
            let run = process.told(&end).await;
            let (end, verb, output) = (run.end, verb.as_str(), run.output);
            tracing::info!(hook = hook.name, verb, end, output, "a hook of an earlier agent ended");
        }
        Err(why) => tracing::error!(hook = hook.name, why, "its abort cannot be run"),
    }
}
