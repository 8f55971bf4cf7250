//! Starts backups that are due.

use std::time::Duration;

use azdr_domain::schedule::{self, History};

use super::Reconciler;
use crate::store::{Item, PolicyRow, StoreError};
use crate::workflows::{backup, new_run};

/// Backups of one time are spread over this long, each VM always at its own moment.
const JITTER: Duration = Duration::from_secs(15 * 60);

impl Reconciler {
    /// Starts one backup for every VM that is due and has none in flight.
    pub(super) async fn start_due_backups(&self) -> Result<(), StoreError> {
        for (item, row) in self.store.enabled_policies().await? {
            self.start_if_due(item, row).await?;
        }
        Ok(())
    }

    async fn start_if_due(&self, item: Item, row: PolicyRow) -> Result<(), StoreError> {
        let now = self.env.clock.wall();
        let runs = self.store.recent_runs(None, Some(item.id), Some(backup::RUN.0), 50).await?;
        if runs.iter().any(|r| !r.state.is_terminal()) {
            return Ok(());
        }
        // A start after now is of a clock that was ahead: it must not silence the VM.
        let last_run = runs.iter().map(|r| r.created).filter(|at| *at <= now).max();
        let points = self.store.points(item.id).await?;
        let successes: Vec<_> = points.iter().map(|p| (p.created, p.tiers)).collect();
        let history = History { enabled_since: row.enabled_since, last_run, successes: &successes };
        let jitter = schedule::jitter(&item.arm_id, JITTER);
        let Some(due) = schedule::due(&row.policy, &history, jitter, now) else {
            return Ok(());
        };
        tracing::info!(vm = %item.arm_id, scheduled_for = %due.scheduled_for, late = due.late,
            "a backup is due");
        let by = if due.late { "schedule (late)" } else { "schedule" };
        let input = backup::Input { item: item.id, vm: item.arm_id, tier: None };
        self.engine.submit(new_run(backup::RUN, &input, item.id, by)).await?;
        Ok(())
    }
}
