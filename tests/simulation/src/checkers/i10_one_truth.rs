//! I10: a terminal state is the last one, and what is told of a job agrees with it.

use std::collections::BTreeMap;

use azdr_controller::store::{RunId, RunState};
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
        let Event::Run { id, state, error, .. } = event else { return Ok(()) };
        if let Some(ended) = self.ended.get(id)
            && ended != state
        {
            return Err(format!("job {id} was {} and is {} now", ended.as_str(), state.as_str()));
        }
        if state.is_terminal() {
            self.ended.insert(*id, *state);
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
