//! I10: a terminal state is the last one, and what is told of a job agrees with it, its alerts too.

use std::collections::BTreeMap;

use azdr_controller::store::{RunId, RunState};
use azdr_domain::alert::AlertKind;
use serde_json::Value;

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// See the module.
#[derive(Default)]
pub(super) struct OneTruth {
    ended: BTreeMap<RunId, RunState>,
}

impl Checker for OneTruth {
    fn invariant(&self) -> &'static str {
        "I10"
    }

    fn see(&mut self, event: &Event, _view: &View<'_>) -> Result<(), String> {
        let Event::Run { id, workflow, state, error, alerts, .. } = event else { return Ok(()) };
        if let Some(ended) = self.ended.get(id)
            && ended != state
        {
            return Err(format!("job {id} was {} and is {} now", ended.as_str(), state.as_str()));
        }
        if state.is_terminal() {
            self.ended.insert(*id, *state);
        }
        if let Some(alerts) = alerts {
            alerts_agree(*id, workflow, *state, error, alerts)?;
        }
        match state {
            RunState::Failed if *error == Value::Null => {
                Err(format!("job {id} failed and says no reason"))
            }
            RunState::Succeeded if *error != Value::Null => {
                Err(format!("job {id} succeeded and has an error: {error}"))
            }
            _ => Ok(()),
        }
    }
}

/// A job that failed has one alert that says so, and any other none.
fn alerts_agree(
    id: RunId,
    workflow: &str,
    state: RunState,
    error: &Value,
    alerts: &[String],
) -> Result<(), String> {
    let Some(kind) = AlertKind::of_failed(workflow) else { return Ok(()) };
    let of_failure = alerts.iter().filter(|a| *a == kind.as_str()).count();
    // Deletions that a person chose, copies that are there, and what is left of a VM that is gone.
    let may_be_silent = kind == AlertKind::CleanupFailed
        || workflow == "dr_test_kept"
        || error["kind"] == "already_replicated"
        || error["kind"] == "azure_not_found";
    match (state, of_failure) {
        (RunState::Failed, 0) if !may_be_silent => {
            Err(format!("job {id} failed, and no alert says so"))
        }
        (RunState::Failed, 0 | 1) | (_, 0) => Ok(()),
        (state, n) => {
            Err(format!("job {id} is {}, and {n} alerts say {}", state.as_str(), kind.as_str()))
        }
    }
}
