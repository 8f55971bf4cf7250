//! Takes one run from where its journal stands to its end.
//!
//! Forward through the step list; on failure or cancellation back through everything that *started*;
//! on success through the undo of the temporaries. Then the residue check, and the terminal state
//! together with what it concludes. Nothing here differs between a fresh run and one recovered after
//! a crash: both read the folded journal.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::Value;

use super::context::{RawCx, RunShared, StepProgress};
use super::definition::{Act, Concluded, Definition, Kind, Node, Outcome, RawDone};
use super::engine::{Engine, ForRun};
use super::failure::{Failure, StepError};
use super::retry::{RetryPolicy, Series, grain};
use crate::mutation::{Mutation, planted};
use crate::store::{Event, Progress, RunState};

pub(super) struct Runner<S> {
    pub(super) run: Arc<RunShared<S>>,
    pub(super) definition: Arc<Definition<S>>,
    pub(super) retry: RetryPolicy,
    pub(super) engine: Engine<S>,
}

impl<S: ForRun + Send + Sync + 'static> Runner<S> {
    /// Drives the run to a terminal state, or to `Stuck`.
    ///
    /// # Errors
    /// `ShuttingDown` or `Store`: the run goes on later from its journal.
    pub(super) async fn drive(&self) -> Result<RunState, StepError> {
        if self.run.with_history(|h| h.turned_back().is_none()) {
            match self.forward().await {
                Ok(()) => return self.succeed().await,
                Err(e @ (StepError::ShuttingDown | StepError::Store(_))) => return Err(e),
                Err(StepError::Stuck(failure)) => return self.get_stuck(failure).await,
                Err(e) => {
                    let failure = match e {
                        StepError::Fail(f) | StepError::Retry { failure: f, .. } => Some(f),
                        _ => None,
                    };
                    if self.past_point_of_no_return() {
                        let failure = failure.unwrap_or_else(|| {
                            Failure::new("past_no_return", "the run can no longer be cancelled")
                        });
                        return self.get_stuck(failure).await;
                    }
                    self.turn_around(failure).await?;
                }
            }
        }
        self.go_back().await
    }

    async fn forward(&self) -> Result<(), StepError> {
        for (at, node) in self.definition.nodes.iter().enumerate() {
            match &node.kind {
                Kind::Step(act) => {
                    let next = self.definition.nodes.get(at + 1);
                    self.one(node, act, "", Value::Null, next).await?;
                }
                Kind::Each { items, act, parallel } => {
                    let parallel = parallel(&self.run.input)?;
                    if self.run.with_history(|h| h.items(node.name).is_none()) {
                        let list = items(self.cx(node, "", false))?;
                        self.record_items(node, &list, parallel).await?;
                    }
                    self.each(node, act, parallel).await?;
                }
                Kind::Hold { act, attempts } => self.hold(node, act, *attempts).await?,
                Kind::Child(make) => {
                    let make = make.clone();
                    self.child(node, || make(self.cx(node, "", false))).await?;
                }
                Kind::Children { make, parallel } => {
                    if self.run.with_history(|h| h.items(node.name).is_none()) {
                        let list = make(self.cx(node, "", false))?;
                        let list = super::context::to_document(&list);
                        self.run.journal(node.name, "", Event::Items, list).await?;
                    }
                    self.children(node, parallel(&self.run.input)?).await?;
                }
            }
        }
        Ok(())
    }

    /// The list that an `each` goes over, and the start of those that begin at once.
    async fn record_items(
        &self,
        node: &Node<S>,
        items: &[(String, Value)],
        parallel: usize,
    ) -> Result<(), StepError> {
        let list = super::context::to_document(items);
        let mut entries = vec![(node.name.to_owned(), String::new(), Event::Items, list)];
        if self.may_start_early(node) {
            entries.extend(items.iter().take(parallel.max(1)).map(|(item, _)| {
                (node.name.to_owned(), item.clone(), Event::Started, Value::Null)
            }));
        }
        self.run.record(Progress { entries, ..Progress::default() }).await
    }

    /// Whether a step's start may be written together with what comes before it, which saves a
    /// commit. Should it not begin after all, its undo finds nothing, as after a crash. From a point
    /// of no return on nothing is cancelled: that is written when it begins.
    fn may_start_early(&self, node: &Node<S>) -> bool {
        !node.point_of_no_return && self.check_interruption().is_ok()
    }

    /// A step, or one item of an `each`: started, called until it is done or has failed, journalled.
    /// `next`: the node that follows this step.
    async fn one(
        &self,
        node: &Node<S>,
        act: &Act<S>,
        item: &str,
        payload: Value,
        next: Option<&Node<S>>,
    ) -> Result<(), StepError> {
        let (started, done) = self.run.with_history(|h| {
            let record = h.record(node.name, item);
            (record.is_some_and(|r| r.started.is_some()), record.is_some_and(|r| r.done.is_some()))
        });
        if done {
            return Ok(());
        }
        self.check_interruption()?;
        if !started {
            self.run.journal(node.name, item, Event::Started, Value::Null).await?;
        }
        if node.point_of_no_return {
            self.run.no_return.store(true, Ordering::Release);
        }
        match self.call(node, act, item, payload, false).await {
            Ok(done) => {
                let next = next.filter(|next| {
                    matches!(next.kind, Kind::Step(_))
                        && self.may_start_early(next)
                        && self.run.with_history(|h| h.record(next.name, "").is_none())
                });
                self.record_done(node, item, done, next).await
            }
            Err(e) => self.record_failure(node, item, e).await,
        }
    }

    async fn each(&self, node: &Node<S>, act: &Act<S>, parallel: usize) -> Result<(), StepError> {
        let items =
            self.run.with_history(|h| h.items(node.name).map(<[_]>::to_vec).unwrap_or_default());
        let failed = AtomicBool::new(false);
        let mut results = futures::stream::iter(items)
            .map(|(key, payload)| {
                let failed = &failed;
                async move {
                    // After one failure no further item begins; those under way end by themselves.
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let result = self.one(node, act, &key, payload, None).await;
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    result
                }
            })
            .buffer_unordered(parallel.max(1));
        let mut first = Ok(());
        while let Some(result) = results.next().await {
            if first.is_ok() {
                first = result;
            }
        }
        first
    }

    async fn hold(&self, node: &Node<S>, act: &Act<S>, attempts: u32) -> Result<(), StepError> {
        loop {
            let (open, done, tried) = self.run.with_history(|h| {
                h.record(node.name, "").map_or((false, false, 0), |r| {
                    (r.may_have_happened() && r.done.is_none(), r.done.is_some(), r.attempts.len())
                })
            });
            if done {
                return Ok(());
            }
            if open {
                // An attempt that a crash (or a failure, below) cut short: clean up, never resume.
                self.undo_one(node, "").await?;
            }
            self.check_interruption()?;
            if tried >= attempts as usize {
                let failure = Failure::new(
                    "interrupted",
                    format!("{} was interrupted {tried} times", node.name),
                );
                return self.record_failure(node, "", StepError::Fail(failure)).await;
            }
            let operation = format!("{}-{}-{}", self.run.id, tried + 1, self.run.env.ids.hex(4));
            self.run.journal(node.name, "", Event::Started, Value::from(operation)).await?;
            match self.call_once(act, self.cx(node, "", false), Value::Null).await {
                Ok(done) => return self.record_done(node, "", done, None).await,
                Err(StepError::Retry { failure, .. }) if tried + 1 < attempts as usize => {
                    tracing::warn!(run = %self.run.id, step = node.name, %failure,
                        "trying again whole");
                }
                Err(StepError::Retry { failure, .. }) => {
                    return self.record_failure(node, "", StepError::Fail(failure)).await;
                }
                Err(e) => return self.record_failure(node, "", e).await,
            }
        }
    }

    /// All steps are done: temporaries go, then the run ends.
    async fn succeed(&self) -> Result<RunState, StepError> {
        for (step, item) in self.run.with_history(super::history::History::to_undo) {
            let node = self.definition.node(&step).expect("journalled by this step list");
            if node.temporary
                && !planted(Mutation::CleanUpForgotten)
                && let Err(e) = self.undo_one(node, &item).await
            {
                return self.stuck_or_pause(e).await;
            }
        }
        self.end(Outcome::Succeeded).await
    }

    async fn turn_around(&self, failure: Option<Failure>) -> Result<(), StepError> {
        let payload = super::context::to_document(&failure);
        let error = failure.is_some().then(|| payload.clone());
        self.run
            .record(Progress {
                entries: vec![(String::new(), String::new(), Event::TurnedBack, payload)],
                state: Some(RunState::Undoing),
                error,
                ..Progress::default()
            })
            .await
    }

    async fn go_back(&self) -> Result<RunState, StepError> {
        for (step, item) in self.run.with_history(super::history::History::to_undo) {
            let node = self.definition.node(&step).expect("journalled by this step list");
            if let Err(e) = self.undo_one(node, &item).await {
                return self.stuck_or_pause(e).await;
            }
        }
        let failure = self.run.with_history(|h| h.turned_back().cloned().flatten());
        self.end(failure.map_or(Outcome::Cancelled, Outcome::Failed)).await
    }

    /// Runs one undo to its end and journals it.
    async fn undo_one(&self, node: &Node<S>, item: &str) -> Result<(), StepError> {
        let again =
            self.run.with_history(|h| h.record(node.name, item).is_some_and(|r| r.undo_started));
        if !again {
            self.run.journal(node.name, item, Event::UndoStarted, Value::Null).await?;
        }
        let mut changes = Vec::new();
        let mut ended = None;
        if let Kind::Child(_) | Kind::Children { .. } = node.kind {
            ended = self.cancel_children(node, item).await?;
        } else if let Some(undo) = &node.undo {
            let payload = self.run.with_history(|h| {
                let items = h.items(node.name).unwrap_or_default();
                items.iter().find(|(k, _)| k == item).map(|(_, p)| p.clone())
            });
            let done = self.call(node, undo, item, payload.unwrap_or(Value::Null), true).await?;
            changes = done.changes;
        }
        let entry = |event, payload| (node.name.to_owned(), item.to_owned(), event, payload);
        let mut entries: Vec<_> = ended.map(|end| entry(Event::Done, end)).into_iter().collect();
        entries.push(entry(Event::Undone, Value::Null));
        self.run.record(Progress { entries, changes, ..Progress::default() }).await
    }

    /// The residue check, then the terminal state with everything that it concludes.
    async fn end(&self, outcome: Outcome) -> Result<RunState, StepError> {
        if let Some(residue) = &self.definition.residue {
            match self.residue_is_gone(residue).await {
                Ok(()) => {}
                Err(e) => return self.stuck_or_pause(e).await,
            }
        }
        let concluded = self.concluded(&outcome)?;
        let (state, error) = match outcome {
            Outcome::Succeeded => (RunState::Succeeded, None),
            // What got it stuck on the way back is mended; why it turned back is what counts.
            Outcome::Failed(f) => (RunState::Failed, Some(super::context::to_document(&f))),
            Outcome::Cancelled => (RunState::Cancelled, None),
        };
        if planted(Mutation::TwoTruths) && state == RunState::Succeeded {
            let state = Some(RunState::Failed);
            let error = Some(Value::from("a mistake on purpose"));
            self.run.record(Progress { state, error, ..Progress::default() }).await?;
            self.interruptible(Duration::from_secs(5)).await?;
        }
        self.run
            .record(Progress {
                changes: concluded.changes,
                result: concluded.result,
                state: Some(state),
                error,
                ..Progress::default()
            })
            .await?;
        Ok(state)
    }

    fn concluded(&self, outcome: &Outcome) -> Result<Concluded, StepError> {
        let Some(conclude) = &self.definition.conclude else { return Ok(Concluded::default()) };
        match conclude(self.raw("conclude", "", true), outcome) {
            Err(e) if !matches!(e, StepError::Store(_) | StepError::ShuttingDown) => {
                tracing::error!(run = %self.run.id, error = ?e, "no conclusion");
                Ok(Concluded::default())
            }
            other => other,
        }
    }

    /// What is written when the run ends as failed without having been undone.
    pub(super) fn conclude_failed(&self, failure: &Failure) -> Concluded {
        self.concluded(&Outcome::Failed(failure.clone())).unwrap_or_default()
    }

    /// What a listing shows now of what should be gone; `None` when it cannot be had.
    pub(super) async fn residue_now(&self) -> Option<Vec<String>> {
        match &self.definition.residue {
            Some(residue) => residue(self.raw("residue", "", true)).await.ok(),
            None => None,
        }
    }

    async fn residue_is_gone(
        &self,
        residue: &super::definition::Residue<S>,
    ) -> Result<(), StepError> {
        if planted(Mutation::CleanUpForgotten) {
            return Ok(());
        }
        let begun = self.run.env.clock.monotonic();
        let mut pause = self.retry.first;
        loop {
            let mut failure = match residue(self.raw("residue", "", true)).await {
                Ok(left) if left.is_empty() => return Ok(()),
                Ok(left) => {
                    let message = format!("still in Azure: {}", left.join(", "));
                    Failure { left, ..Failure::new("residue", message) }
                }
                // Not being able to look is no proof either; it may pass.
                Err(StepError::Retry { failure, .. } | StepError::Fail(failure)) => {
                    let message = format!("what is left cannot be listed: {}", failure.message);
                    Failure { message: message.into(), kind: "residue".into(), ..failure }
                }
                Err(e) => return Err(e),
            };
            // A listing lags behind deletions for a while.
            if self.run.env.clock.monotonic().since(begun) > self.retry.total {
                if !failure.left.is_empty() {
                    failure.hint = "delete what is named here; the job then ends by itself within \
                                    10 minutes, or at once: azdr job retry"
                        .into();
                }
                return Err(StepError::Fail(failure));
            }
            self.interruptible(pause).await?;
            pause = (pause * 2).min(self.retry.longest);
        }
    }

    /// Calls a step until it is done or has failed for good.
    async fn call(
        &self,
        node: &Node<S>,
        act: &Act<S>,
        item: &str,
        payload: Value,
        undoing: bool,
    ) -> Result<RawDone, StepError> {
        let clock = &self.run.env.clock;
        let deadline = if undoing { node.undo_deadline } else { node.deadline };
        let saved = self.run.take_repetition(node.name, item);
        let mut series = Series::resume(self.retry, saved, clock.monotonic(), clock.wall());
        let rest = series.rest_of_pause();
        if !rest.is_zero() {
            self.pause(rest, undoing).await?;
        }
        loop {
            let mut cx = self.cx(node, item, undoing);
            cx.spent_before = series.spent(cx.begun);
            cx.until = Some(cx.begun.plus(self.patience(deadline, cx.spent_before, undoing)));
            let mut waits_for = None;
            let pause = match self.call_once(act, cx, payload.clone()).await {
                Err(StepError::NotYet { detail, percent, after, resource }) => {
                    if series.spent(clock.monotonic()) >= deadline {
                        let what = if undoing { "undoing: " } else { "" };
                        let message =
                            format!("{what}{} did not finish in time: {detail}", node.title);
                        return Err(StepError::Fail(Failure {
                            resource,
                            ..Failure::new("timed_out", message)
                        }));
                    }
                    self.run.set_progress(node.name, item, StepProgress { detail, percent });
                    series.waits();
                    waits_for = resource;
                    after
                }
                Err(StepError::Retry { failure, after }) => {
                    let now = clock.monotonic();
                    let pause = series.failed(now, after);
                    let Some(pause) = pause.filter(|_| series.spent(now) < deadline) else {
                        return Err(StepError::Fail(failure));
                    };
                    tracing::warn!(run = %self.run.id, step = node.name, item, %failure,
                        pause_ms = pause.as_millis() as u64, "trying again");
                    let detail = format!("trying again: {}", failure.message);
                    self.run.set_progress(node.name, item, StepProgress { detail, percent: None });
                    pause
                }
                other => return other,
            };
            if !undoing && self.time_left().is_zero() {
                return Err(match self.out_of_time() {
                    StepError::Fail(failure) => {
                        StepError::Fail(Failure { resource: waits_for, ..failure })
                    }
                    other => other,
                });
            }
            let save = series.worth_saving(clock.monotonic(), clock.wall(), pause, deadline);
            if let Some(repetition) = save {
                self.run.save_repetition(node.name, item, repetition).await?;
            }
            self.pause(pause, undoing).await?;
        }
    }

    /// Waits, unless the run turns back or the controller shuts down meanwhile.
    async fn pause(&self, pause: Duration, undoing: bool) -> Result<(), StepError> {
        if undoing {
            return self.interruptible(pause).await;
        }
        let pause = pause.min(self.time_left());
        // Past the point of no return a request to stop comes too late.
        let may_turn = !self.past_point_of_no_return();
        tokio::select! {
            biased;
            () = self.run.cancel.cancelled(), if may_turn => Err(StepError::Cancelled),
            waited = self.interruptible(pause) => waited,
        }
    }

    /// How long one call of a step may go on waiting: so that no limit is passed unseen, and the time
    /// spent is saved in between.
    fn patience(&self, deadline: Duration, spent: Duration, undoing: bool) -> Duration {
        let left = deadline.saturating_sub(spent).min(grain(deadline));
        if undoing { left } else { left.min(self.time_left()) }
    }

    /// What is left of the run's time to go forward.
    pub(super) fn time_left(&self) -> Duration {
        self.definition.run_limit.saturating_sub(self.run.spent())
    }

    pub(super) fn out_of_time(&self) -> StepError {
        let hours = self.definition.run_limit.as_secs_f64() / 3600.0;
        let message = format!("the {} took longer than {hours:.1} h", self.definition.name);
        StepError::Fail(Failure::new("run_timed_out", message))
    }

    async fn call_once(
        &self,
        act: &Act<S>,
        cx: RawCx<S>,
        payload: Value,
    ) -> Result<RawDone, StepError> {
        let step = cx.step;
        // A step that is called again and again writes rarely, and a newer controller may have undone
        // it meanwhile.
        self.run.store.check_newest().await?;
        // A step that panics is a mistake of ours; it must not take the run's locks with it.
        AssertUnwindSafe(act(cx, payload)).catch_unwind().await.unwrap_or_else(|_| {
            Err(StepError::fail("internal", format!("step {step} panicked; see the log")))
        })
    }

    pub(super) async fn record_done(
        &self,
        node: &Node<S>,
        item: &str,
        done: RawDone,
        next: Option<&Node<S>>,
    ) -> Result<(), StepError> {
        let mut entries = vec![(node.name.to_owned(), item.to_owned(), Event::Done, done.output)];
        let starts =
            |next: &Node<S>| (next.name.to_owned(), String::new(), Event::Started, Value::Null);
        entries.extend(next.map(starts));
        self.run.record(Progress { entries, changes: done.changes, ..Progress::default() }).await
    }

    pub(super) async fn record_failure(
        &self,
        node: &Node<S>,
        item: &str,
        e: StepError,
    ) -> Result<(), StepError> {
        if let StepError::Fail(failure) = &e {
            let payload = super::context::to_document(failure);
            self.run.journal(node.name, item, Event::Failed, payload).await?;
        }
        Err(e)
    }

    async fn stuck_or_pause(&self, e: StepError) -> Result<RunState, StepError> {
        match e {
            StepError::Fail(failure)
            | StepError::Retry { failure, .. }
            | StepError::Stuck(failure) => self.get_stuck(failure).await,
            other => Err(other),
        }
    }

    async fn get_stuck(&self, failure: Failure) -> Result<RunState, StepError> {
        tracing::error!(run = %self.run.id, %failure, "stuck: a person must decide");
        self.run
            .record(Progress {
                state: Some(RunState::Stuck),
                error: Some(super::context::to_document(&failure)),
                ..Progress::default()
            })
            .await?;
        Ok(RunState::Stuck)
    }

    pub(super) fn past_point_of_no_return(&self) -> bool {
        self.run.with_history(|h| self.definition.past_point_of_no_return(h))
    }

    pub(super) fn check_interruption(&self) -> Result<(), StepError> {
        if self.run.shutdown.is_cancelled() {
            return Err(StepError::ShuttingDown);
        }
        if self.run.cancel.is_cancelled() && !self.past_point_of_no_return() {
            return Err(StepError::Cancelled);
        }
        if self.time_left().is_zero() {
            return Err(self.out_of_time());
        }
        Ok(())
    }

    async fn interruptible(&self, d: Duration) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.run.shutdown.cancelled() => Err(StepError::ShuttingDown),
            () = azdr_env::sleep(d) => Ok(()),
        }
    }

    fn cx(&self, node: &Node<S>, item: &str, undoing: bool) -> RawCx<S> {
        self.raw(node.name, item, undoing)
    }

    fn raw(&self, step: &'static str, item: &str, undoing: bool) -> RawCx<S> {
        RawCx {
            run: self.run.clone(),
            step,
            item: item.to_owned(),
            undoing,
            until: None,
            spent_before: Duration::ZERO,
            begun: self.run.env.clock.monotonic(),
        }
    }
}
