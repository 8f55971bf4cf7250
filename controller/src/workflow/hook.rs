//! The tests' seam: sees every call of a step and of an undo, and can make it fail.
//!
//! A hooked definition runs as the plain one does; production hooks none, and pays nothing.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::context::RawCx;
use super::definition::{Act, Definition, Kind};
use super::failure::StepError;
use crate::store::RunId;

/// One call of a step or of its undo; a step that is polled or tried again is called again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepCall {
    /// Whose step.
    pub run: RunId,
    /// Its name.
    pub step: &'static str,
    /// Which item of an `each`; else empty.
    pub item: String,
    /// Its undo, not the step itself.
    pub undoing: bool,
}

/// What stands around every call.
pub trait StepHook: Send + Sync {
    /// Before the call; with an error the call does not happen, and the error is its answer.
    fn before<'a>(&'a self, call: &'a StepCall) -> BoxFuture<'a, Result<(), StepError>>;
    /// When the call has done what it is for; with an error that is its answer all the same.
    fn after<'a>(&'a self, call: &'a StepCall) -> BoxFuture<'a, Result<(), StepError>>;
}

/// What there is to know of a step without running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepOutline {
    /// Its name.
    pub name: &'static str,
    /// It has an undo of its own.
    pub has_undo: bool,
    /// Its undo runs on success too.
    pub temporary: bool,
    /// From here on, forward or stuck.
    pub point_of_no_return: bool,
    /// Its effect is other runs.
    pub starts_runs: bool,
    /// It is a critical section.
    pub hold: bool,
}

impl<S: Send + Sync + 'static> Definition<S> {
    /// The same step list, with `hook` around every step and undo. Of children only the making is
    /// hooked, where the hook must answer without waiting.
    #[must_use]
    pub fn hooked(mut self, hook: &Arc<dyn StepHook>) -> Self {
        for node in &mut self.nodes {
            match &mut node.kind {
                Kind::Step(act) | Kind::Each { act, .. } | Kind::Hold { act, .. } => {
                    *act = around(act.clone(), hook.clone());
                }
                Kind::Child(make) => {
                    let (inner, hook) = (make.clone(), hook.clone());
                    *make = Arc::new(move |raw| ask(&*hook, &raw).and_then(|()| inner(raw)));
                }
                Kind::Children { make, .. } => {
                    let (inner, hook) = (make.clone(), hook.clone());
                    *make = Arc::new(move |raw| ask(&*hook, &raw).and_then(|()| inner(raw)));
                }
            }
            node.undo = node.undo.take().map(|undo| around(undo, hook.clone()));
        }
        self
    }

    /// Its steps, in order.
    pub fn outline(&self) -> Vec<StepOutline> {
        let outline = self.nodes.iter().map(|n| StepOutline {
            name: n.name,
            has_undo: n.undo.is_some(),
            temporary: n.temporary,
            point_of_no_return: n.point_of_no_return,
            starts_runs: matches!(n.kind, Kind::Child(_) | Kind::Children { .. }),
            hold: matches!(n.kind, Kind::Hold { .. }),
        });
        outline.collect()
    }
}

/// Before the making of children, which does not wait.
fn ask<S>(hook: &dyn StepHook, raw: &RawCx<S>) -> Result<(), StepError> {
    let call = StepCall { run: raw.run.id, step: raw.step, item: raw.item.clone(), undoing: false };
    hook.before(&call).now_or_never().unwrap_or(Ok(()))
}

fn around<S: Send + Sync + 'static>(act: Act<S>, hook: Arc<dyn StepHook>) -> Act<S> {
    Arc::new(move |raw, payload| {
        let (act, hook) = (act.clone(), hook.clone());
        Box::pin(async move {
            let call = StepCall {
                run: raw.run.id,
                step: raw.step,
                item: raw.item.clone(),
                undoing: raw.undoing,
            };
            hook.before(&call).await?;
            let done = act(raw, payload).await?;
            hook.after(&call).await?;
            Ok(done)
        })
    })
}
