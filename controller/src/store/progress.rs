//! A run's progress: journal entries, catalogue changes and state, all or nothing.

use std::time::Duration;

use azdr_env::WallTime;
use serde_json::Value;

use super::change::{self, CatalogueChange};
use super::error::to_json;
use super::journal::{self, Event};
use super::repetition;
use super::runs::{check_state, set_state};
use super::{RunId, RunState, Store, StoreError};

/// What happens to a run's row together with journal entries and catalogue changes.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Journal entries: step, item, event, payload.
    pub entries: Vec<(String, String, Event, Value)>,
    /// Applied in the same transaction.
    pub changes: Vec<CatalogueChange>,
    /// A new state, if it changes.
    pub state: Option<RunState>,
    /// Why it failed.
    pub error: Option<Value>,
    /// What it achieved.
    pub result: Option<Value>,
    /// Refused unless the run is in this state.
    pub only_from: Option<RunState>,
    /// For how long the run has been driven in all, by monotonic clocks.
    pub spent: Option<Duration>,
    /// The time of the entries, where it is not the time of the write: see
    /// [`StepCx::steady_now`](crate::workflow::StepCx::steady_now).
    pub entered: Option<WallTime>,
}

impl Store {
    /// Writes a run's progress: journal entries, catalogue changes and state, all or nothing. A
    /// terminal state releases the run's locks, leases and expectations.
    ///
    /// # Errors
    /// When a change is refused or the database cannot be written.
    pub async fn record(
        &self,
        id: RunId,
        progress: Progress,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            if let Some(state) = progress.only_from {
                check_state(c, id, state)?;
            }
            for (step, item, event, payload) in &progress.entries {
                let at = progress.entered.unwrap_or(now);
                journal::append(c, id, step, item, *event, payload, at)?;
                if matches!(event, Event::Done | Event::UndoStarted | Event::Undone) {
                    repetition::forget(c, id, step, item)?;
                }
            }
            for change in &progress.changes {
                change::apply(c, id, change, now)?;
            }
            if progress.state == Some(RunState::Succeeded) {
                // What it was stuck on, or repeated for, has been overcome.
                c.prepare_cached("UPDATE run SET error_json = NULL WHERE id = ?1")?
                    .execute([id.0])?;
            }
            if let Some(error) = &progress.error {
                c.prepare_cached("UPDATE run SET error_json = ?2 WHERE id = ?1")?
                    .execute((id.0, to_json(error)))?;
            }
            if let Some(result) = &progress.result {
                c.prepare_cached("UPDATE run SET result_json = ?2 WHERE id = ?1")?
                    .execute((id.0, to_json(result)))?;
            }
            if let Some(spent) = progress.spent {
                repetition::set_spent(c, id, spent)?;
            }
            if let Some(state) = progress.state {
                set_state(c, id, state, now)?;
            }
            Ok(())
        })
        .await
    }
}
