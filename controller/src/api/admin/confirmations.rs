//! What was planned and waits for its confirmation: the token that a destructive call takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::Monotonic;
use tonic::{Code, Status};

use super::errors::hinted;
use super::{deletions, restores};

/// How long a plan may wait for its confirmation.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
/// Plans of a kind that may wait at once.
const MAX_WAITING: usize = 1000;

/// Everything that waits; it does not survive a restart. Cheap to clone.
#[derive(Clone, Default)]
pub struct Confirmations {
    pub(super) restores: Waiting<restores::Planned>,
    pub(super) deletions: Waiting<deletions::Planned>,
}

/// Plans of one kind, by token.
#[derive(Clone)]
pub(super) struct Waiting<P> {
    plans: Arc<Mutex<BTreeMap<String, (Monotonic, P)>>>,
}

impl<P> Default for Waiting<P> {
    fn default() -> Self {
        Self { plans: Arc::default() }
    }
}

impl<P> Waiting<P> {
    /// Keeps a plan for its confirmation.
    pub(super) fn put(&self, token: &str, plan: P, now: Monotonic) -> Result<(), Status> {
        let mut plans = self.plans.lock().expect("only put in and taken out");
        plans.retain(|_, (at, _)| now.since(*at) < GOOD_FOR);
        if plans.len() >= MAX_WAITING {
            return Err(Status::resource_exhausted("too many plans wait for confirmation"));
        }
        plans.insert(token.to_owned(), (now, plan));
        Ok(())
    }

    /// Takes a plan out: a token is good for once.
    pub(super) fn take(&self, token: &str, now: Monotonic) -> Result<P, Status> {
        let plan = self.plans.lock().expect("only put in and taken out").remove(token);
        match plan {
            Some((at, plan)) if now.since(at) < GOOD_FOR => Ok(plan),
            _ => Err(hinted(
                Code::Aborted,
                "there is no such plan any more: it was used, is older than 15 minutes, or the \
                 controller has restarted",
                "ask for it again",
            )),
        }
    }
}
