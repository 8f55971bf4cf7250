//! One operation's hooks: all `pre`, and for each that was started, one `post` or `abort`.

use std::time::Duration;

use azdr_env::Monotonic;
use azdr_proto::agent::{HookResult, HookRun};
use tokio::sync::OwnedMutexGuard;

use super::held::Held;
use super::installed::{Found, find};
use super::process::{End, Process, not_started};
use super::settings::CHECK_RANGE_SECS;
use super::started::Started;
use super::{Hook, Kind, OnFailure, Verb};
use crate::Agent;
use crate::blocking::Stuck;

const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Whatever the hooks before it took, each `post` and `abort` is run, for at least so long.
const LEAST: Duration = Duration::from_secs(5);
/// Beyond its limits, a hook may need so long to be killed, twice, and to be aborted.
const BEYOND: Duration = Duration::from_secs(24);
/// Beyond its limit, a check may need so long to be killed.
const CHECK_BEYOND: Duration = Duration::from_secs(8);

/// One hook in an operation.
struct Live {
    found: Found,
    runs: Vec<HookRun>,
    held: Option<Held>,
    running: Option<Process>,
    /// Its `pre` was started, and its `post` or `abort` has not ended.
    open: bool,
    /// The first thing that went wrong.
    problem: Option<String>,
}

impl Live {
    fn fail(&mut self, why: &str) {
        tracing::warn!(hook = self.found.name, why, "a hook failed");
        self.problem.get_or_insert_with(|| why.to_owned());
    }

    fn note(&mut self, run: HookRun) {
        let name = &self.found.name;
        let (verb, end, took_ms) = (run.verb().as_str_name(), &run.end, run.took_ms);
        tracing::info!(hook = name, verb, end, took_ms, output = run.output, "a hook ended");
        self.runs.push(run);
    }
}

/// The hooks of one operation. Its futures may be dropped; [`Round::finish`] must then be called.
pub(crate) struct Round {
    agent: Agent,
    operation: String,
    started: Option<Started>,
    hooks: Vec<Live>,
    forbids: bool,
    /// No check runs from before the first `pre` until this round is dropped.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// The hooks of this machine.
pub(crate) async fn look(agent: &Agent, what: &str) -> Result<Vec<Found>, Stuck> {
    let settings = agent.config.hooks.clone();
    agent.blocking.run(what, LOOK_LIMIT, move || find(&settings)).await
}

/// How long the hooks of this machine may take before a freeze; zero without any.
pub(crate) async fn limit(agent: &Agent) -> Duration {
    match look(agent, "look for hooks at the start").await {
        Ok(found) if found.is_empty() => Duration::ZERO,
        Ok(found) => {
            let checks = found.iter().filter(|found| found.check);
            let checks = checks.filter_map(|found| found.hook.as_ref().ok());
            // They run at once, and an operation waits for those that it finds running.
            let checks = checks.map(|hook| hook.check_limit + CHECK_BEYOND).max();
            let hooks = limit_of(agent, found.len()) + agent.config.hooks.total_limit();
            hooks + checks.unwrap_or_default()
        }
        Err(_) => LOOK_LIMIT,
    }
}

/// As [`limit`], without a look at which there are: for some.
pub(crate) fn limit_unseen(agent: &Agent) -> Duration {
    let checks = Duration::from_secs(*CHECK_RANGE_SECS.end()) + CHECK_BEYOND;
    agent.config.hooks.total_limit() * 2 + BEYOND * 8 + checks
}

/// How long so many hooks may take for a `post` or `abort` each.
fn limit_of(agent: &Agent, hooks: usize) -> Duration {
    let count = u32::try_from(hooks).unwrap_or(u32::MAX);
    agent.config.hooks.total_limit() + BEYOND.saturating_mul(count)
}

impl Round {
    /// Nothing is looked for yet.
    pub(crate) fn new(agent: &Agent, operation: &str) -> Self {
        let (agent, operation) = (agent.clone(), operation.to_owned());
        Self { agent, operation, started: None, hooks: Vec::new(), forbids: false, _turn: None }
    }

    /// Runs every hook's `pre`, in order. One that fails gets its `abort` at once.
    ///
    /// # Errors
    /// In words: one failed that must not; then nothing may be frozen.
    pub(crate) async fn pre(&mut self) -> Result<(), String> {
        self._turn = Some(self.agent.hooks_turn.clone().lock_owned().await);
        let found = look(&self.agent, "look for hooks").await;
        let live = |found| Live {
            found,
            runs: Vec::new(),
            held: None,
            running: None,
            open: false,
            problem: None,
        };
        self.hooks = found.map_err(|stuck| stuck.to_string())?.into_iter().map(live).collect();
        let begin = self.agent.env.clock.monotonic();
        for index in 0..self.hooks.len() {
            let Err(why) = self.pre_of(index, begin).await else { continue };
            let Some(live) = self.hooks.get_mut(index) else { continue };
            live.fail(&why);
            let (name, on_failure) = (live.found.name.clone(), live.found.on_failure);
            self.close(index, Verb::Abort, begin).await;
            if on_failure == OnFailure::Fail {
                self.forbids = true;
                return Err(format!("hook {name}: {why}"));
            }
        }
        Ok(())
    }

    async fn pre_of(&mut self, index: usize, begin: Monotonic) -> Result<(), String> {
        let total = self.agent.config.hooks.total_limit();
        let left = total.saturating_sub(self.agent.env.clock.monotonic().since(begin));
        let Some(live) = self.hooks.get_mut(index) else { return Ok(()) };
        let hook = live.found.hook.clone()?;
        if left.is_zero() {
            let all = total.as_secs();
            return Err(format!("not started: the hooks before it took all of the {all} s"));
        }
        let limit = hook.limit(Verb::Pre).min(left);
        let slot = match &mut self.started {
            Some(started) => started.begin(&hook.name, Verb::Pre)?,
            none => none
                .insert(Started::new(&self.agent.config.run_dir, &self.operation)?)
                .begin(&hook.name, Verb::Pre)?,
        };
        let (env, operation) = (&self.agent.env, self.operation.as_str());
        let begun = match hook.kind {
            Kind::Oneshot => Process::start(env, &hook, Verb::Pre, operation, slot, None)
                .map(|process| live.running = Some(process)),
            Kind::Hold => {
                Held::start(env, &hook, operation, slot).map(|held| live.held = Some(held))
            }
        };
        if let Err(why) = begun {
            live.note(not_started(Verb::Pre, &why));
            if let Some(started) = &mut self.started {
                started.ended(&hook.name)?;
            }
            return Err(why);
        }
        live.open = true;
        let end = match (&mut live.running, &mut live.held) {
            (Some(process), _) => process.finish(limit).await,
            (_, Some(held)) => held.until_ready(limit).await.err().unwrap_or(End::Ready),
            _ => return Ok(()),
        };
        if end == End::Ready {
            let told = live.held.as_ref().map(|held| held.process.told_so_far(&end));
            told.into_iter().for_each(|run| live.note(run));
            return Ok(());
        }
        let held = live.held.take().map(|held| held.process);
        if let Some(process) = live.running.take().or(held) {
            let run = process.told(&end).await;
            live.note(run);
        }
        if end.succeeded() { Ok(()) } else { Err(end.describe()) }
    }

    /// Whether there is nothing to run and nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Whether a hook must still get its `post` or `abort`.
    pub(crate) fn is_open(&self) -> bool {
        self.hooks.iter().any(|live| live.open)
    }

    /// How long [`Round::finish`] may take.
    pub(crate) fn finish_limit(&self) -> Duration {
        limit_of(&self.agent, self.hooks.iter().filter(|live| live.open).count())
    }

    /// Whether a hook failed that must not.
    pub(crate) fn forbids(&self) -> bool {
        self.forbids
    }

    /// Looks at what is held. To be called when the thaw is confirmed, before [`Round::finish`].
    pub(crate) fn thawed(&mut self) {
        for live in &mut self.hooks {
            if let Some(lost) = live.held.as_mut().and_then(Held::lost) {
                live.fail(&lost);
            }
        }
    }

    /// Runs every open hook's `post`, or `abort`, in reverse order; one that fails does not stop the
    /// others.
    pub(crate) async fn finish(&mut self, unbroken: bool) {
        let verb = if unbroken { Verb::Post } else { Verb::Abort };
        let begin = self.agent.env.clock.monotonic();
        for index in (0..self.hooks.len()).rev() {
            self.close(index, verb, begin).await;
        }
    }

    /// The `post` or `abort` of one hook, if it must have one.
    async fn close(&mut self, index: usize, mut verb: Verb, begin: Monotonic) {
        let total = self.agent.config.hooks.total_limit();
        let left = total.saturating_sub(self.agent.env.clock.monotonic().since(begin)).max(LEAST);
        let (Some(live), Some(started)) = (self.hooks.get_mut(index), &mut self.started) else {
            return;
        };
        let Ok(hook) = live.found.hook.clone() else { return };
        if !live.open {
            return;
        }
        let limit = hook.limit(verb).min(left);
        // What a dropped future has left: a `pre` is cut short, anything else is what is wanted here.
        if let Some(process) = &mut live.running {
            let end = if process.verb() == Verb::Pre {
                process.kill().await;
                End::Other("cut short: the operation was ended".to_owned())
            } else {
                process.finish(limit).await
            };
            live.open = process.verb() == Verb::Pre;
            ended(live, &end).await;
        }
        if let Some(held) = live.held.take() {
            if let Err(why) = started.releasing(&hook.name, verb) {
                tracing::error!(hook = hook.name, why, "the list of started hooks");
            }
            let (end, run) = held.release(verb, limit).await;
            live.note(run);
            live.open = !end.succeeded();
            if live.open {
                live.fail(&end.describe());
                verb = Verb::Abort;
            }
        }
        if live.open {
            let begun = started.begin(&hook.name, verb).and_then(|slot| {
                Process::start(&self.agent.env, &hook, verb, &self.operation, slot, None)
            });
            match begun {
                Ok(process) => {
                    let end = live.running.insert(process).finish(limit).await;
                    ended(live, &end).await;
                }
                Err(why) => {
                    live.note(not_started(verb, &why));
                    live.fail(&why);
                    live.open = false;
                    // It stays in the list: the next operation, or the next agent, tries its `abort`.
                    return;
                }
            }
        }
        live.open = false;
        if let Err(why) = started.ended(&hook.name) {
            tracing::error!(hook = hook.name, why, "the list of started hooks");
        }
    }

    /// What is told of all hooks.
    pub(crate) fn results(&self) -> Vec<HookResult> {
        self.hooks.iter().map(result).collect()
    }

    /// Whether all that hooks can do for `application` consistency was done.
    ///
    /// # Errors
    /// Why not, in words; empty where no hook is there for it.
    pub(crate) fn succeeded(&self) -> Result<(), String> {
        for live in &self.hooks {
            if let Some(why) = &live.problem {
                return Err(format!("hook {}: {why}", live.found.name));
            }
        }
        let application = |live: &Live| live.found.hook.as_ref().is_ok_and(|h| h.application);
        if self.hooks.iter().any(application) {
            return Ok(());
        }
        Err(String::new())
    }
}

async fn ended(live: &mut Live, end: &End) {
    if !end.succeeded() {
        live.fail(&end.describe());
    }
    if let Some(process) = live.running.take() {
        let run = process.told(end).await;
        live.note(run);
    }
}

fn result(live: &Live) -> HookResult {
    let hook = live.found.hook.as_ref();
    HookResult {
        name: live.found.name.clone(),
        kind: hook.map_or(Kind::Oneshot, |hook: &Hook| hook.kind).wire().into(),
        application: hook.is_ok_and(|hook| hook.application),
        check: live.found.check && hook.is_ok(),
        runs: live.runs.clone(),
        problem: live.problem.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::installed::MAX_HOOKS;
    use super::super::settings::TOTAL_RANGE_SECS;
    use super::*;

    #[test]
    fn systemd_kills_no_hook_that_keeps_the_limits_that_may_be_configured() {
        let unit = include_str!("../../../deploy/systemd/azdr-agent.service");
        let given = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        let given = Duration::from_secs(given.parse().unwrap());
        let hooks = Duration::from_secs(*TOTAL_RANGE_SECS.end()) + BEYOND * MAX_HOOKS as u32;
        let longest = crate::run::THAW_LIMIT + hooks;
        assert!(given >= longest, "{given:?} of {longest:?}");
        assert!(given < longest + Duration::from_secs(60), "an agent that hangs is waited for");
        // What an earlier agent has left: the wait for checks, the thaw and a look at the hooks, the limit of
        // all, and the end of the one that runs then.
        let checks = Duration::from_secs(*CHECK_RANGE_SECS.end()) + CHECK_BEYOND;
        let total = Duration::from_secs(*TOTAL_RANGE_SECS.end());
        let recovery = checks + super::super::recovery::THAW_LIMIT + LOOK_LIMIT + total + BEYOND;
        assert!(given >= crate::run::THAW_LIMIT + recovery, "{given:?} of {recovery:?}");
    }
}
