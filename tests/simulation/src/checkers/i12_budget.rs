//! I12: azdr stays inside Azure's budgets: it does not run into avoidable 429s.

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// See the module.
pub(super) struct Budget;

impl Checker for Budget {
    fn invariant(&self) -> &'static str {
        "I12"
    }

    fn see(&mut self, event: &Event, _view: &View<'_>) -> Result<(), String> {
        match event {
            Event::Answered(asked, 429, false) => {
                Err(format!("{} {} was throttled", asked.method, asked.path))
            }
            _ => Ok(()),
        }
    }
}
