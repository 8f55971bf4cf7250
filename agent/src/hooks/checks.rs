//! The verb `check`: what a hook says of its application, when somebody wants to know (R27).
//!
//! It belongs to no operation: nothing is owed after it, so that it is in no list. All hooks that have one
//! are run at once, each within its limit. It is the one verb that a restored machine runs, since the
//! controller asks for it in so many words.

use std::fs::OpenOptions;

use azdr_proto::agent::{AppProbe, FactState, HookRun};
use tokio::task::JoinSet;

use super::cgroup::{self, Cgroup};
use super::process::{End, Process, not_started};
use super::round::look;
use super::started::Slot;
use super::{Hook, Verb};
use crate::Agent;

/// Longest words of a probe.
const TOLD: usize = 512;

/// Stands for all hooks where they cannot be told apart; no hook can have this name.
const ALL: &str = "hooks";

/// Runs `check` of every hook that has one. One that may not run and may have a check is unknown. While
/// hooks run for something else (an operation, or checks that somebody asked for before) none is run, and
/// all of them are unknown together.
///
/// Dropping the future leaves the checks to their limits.
pub(crate) async fn check(agent: &Agent) -> Vec<AppProbe> {
    let agent = agent.clone();
    // In a task of its own: a lost session must not leave a program without its limit.
    let checks = tokio::spawn(async move { run_all(&agent).await });
    checks.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the hooks' checks");
        vec![unknown(ALL, format!("their checks ended without an answer: {error}"))]
    })
}

async fn run_all(agent: &Agent) -> Vec<AppProbe> {
    let Ok(_turn) = agent.hooks_turn.try_lock() else {
        return vec![unknown(ALL, "hooks run for something else: no check was begun".to_owned())];
    };
    let found = match look(agent, "look for hooks to check").await {
        Ok(found) => found,
        Err(stuck) => {
            tracing::warn!("{stuck}");
            return vec![unknown(ALL, stuck.to_string())];
        }
    };
    cgroup::sweep();
    let (mut checks, mut probes) = (JoinSet::new(), Vec::new());
    for found in found.into_iter().filter(|found| found.check) {
        let agent = agent.clone();
        match found.hook {
            Ok(hook) => drop(checks.spawn(async move { run(&agent, &hook).await })),
            Err(why) => probes.push(unknown(&found.name, why)),
        }
    }
    probes.extend(checks.join_all().await);
    probes.sort_by(|a, b| a.name.cmp(&b.name));
    probes
}

fn unknown(name: &str, why: String) -> AppProbe {
    let (state, detail) = (FactState::Unknown.into(), cut(&why));
    AppProbe { name: name.to_owned(), state, detail, took_ms: 0 }
}

async fn run(agent: &Agent, hook: &Hook) -> AppProbe {
    // In the place of an operation's id.
    let id = agent.env.ids.uuid().to_string();
    let (end, run) = match start(agent, hook, &id) {
        Ok(mut process) => {
            let end = process.finish(hook.limit(Verb::Check)).await;
            let run = process.told(&end).await;
            (end, run)
        }
        Err(why) => {
            let run = not_started(Verb::Check, &why);
            (End::Other(why), run)
        }
    };
    let (name, told) = (&hook.name, &run.end);
    tracing::info!(hook = name, end = told, took_ms = run.took_ms, "a hook's check ended");
    AppProbe {
        name: hook.name.clone(),
        state: state(&end).into(),
        detail: words(&run),
        took_ms: run.took_ms,
    }
}

fn start(agent: &Agent, hook: &Hook, id: &str) -> Result<Process, String> {
    // Nobody looks for it after this agent's death: it has nothing to undo.
    let identity = OpenOptions::new().write(true).open("/dev/null");
    let identity = identity.map_err(|error| format!("cannot open /dev/null: {error}"))?;
    let cgroup = Cgroup::make(&format!("{id}-{}", Verb::Check.as_str()));
    Process::start(&agent.env, hook, Verb::Check, id, Slot { identity, cgroup }, None)
}

/// Only what ended by itself says something.
fn state(end: &End) -> FactState {
    match end {
        End::Exited(status) if status.success() => FactState::Pass,
        End::Exited(status) if status.code().is_some() => FactState::Fail,
        _ => FactState::Unknown,
    }
}

/// The last line that it wrote; before that, how it ended, if not well.
fn words(run: &HookRun) -> String {
    let line = run.output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let text = match (run.succeeded, line) {
        (_, "") => run.end.clone(),
        (true, line) => line.to_owned(),
        (false, line) => format!("{}: {line}", run.end),
    };
    cut(&text)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TOLD)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_and_no_more() {
        let run = |succeeded, end: &str, output: &str| HookRun {
            succeeded,
            end: end.to_owned(),
            output: output.to_owned(),
            ..HookRun::default()
        };
        assert_eq!(words(&run(true, "exit code 0", "one\ntwo \n\n")), "two");
        assert_eq!(words(&run(true, "exit code 0", " \n")), "exit code 0");
        assert_eq!(words(&run(false, "exit code 1", "no\nanswer")), "exit code 1: answer");
        let long = words(&run(false, "exit code 1", &"ä".repeat(1_000)));
        assert!(long.len() <= TOLD && long.starts_with("exit code 1: ää"), "{long}");
    }
}
