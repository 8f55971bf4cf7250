//! Judges what time alone changes: RPOs, backups that did not come, proofs that are too old, the share
//! of drills that passed. And forgets old alerts. What jobs give cause for is written with their
//! terminal states, in the store.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::store::StoreError;

/// How often conditions should be judged at least: an RPO is five minutes or more.
pub const EVERY: Duration = Duration::from_secs(60);
/// How often old alerts are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// How long a resolved alert is kept, and an event that nothing has followed: longer than a year's report.
const KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
/// How many alerts there are at most, but for open ones.
const MOST: u32 = 100_000;

impl Reconciler {
    /// Judges conditions `every` so often, and forgets old alerts, until `stop`.
    pub async fn keep_alerts(self, every: Duration, stop: CancellationToken) {
        let mut forget_at = self.env.clock.monotonic();
        loop {
            if let Err(e) = self.judge_alerts().await {
                tracing::error!(error = %e, cause = ?e, "alerts could not be judged");
            }
            let now = self.env.clock.monotonic();
            if now >= forget_at {
                forget_at = now.plus(FORGET_EVERY);
                if let Err(e) = self.forget_alerts().await {
                    tracing::error!(error = %e, cause = ?e, "old alerts could not be deleted");
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = azdr_env::sleep(every) => {}
            }
        }
    }

    /// Judges all conditions once. Answers of how many VMs any has changed.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn judge_alerts(&self) -> Result<usize, StoreError> {
        self.store.judge_conditions(self.env.clock.wall()).await
    }

    /// Deletes old alerts once. Answers how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_alerts(&self) -> Result<usize, StoreError> {
        let before = self.env.clock.wall().minus(KEPT);
        self.store.forget_alerts(before, MOST).await
    }
}
