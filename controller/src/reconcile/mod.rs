//! Idempotent loops that compare what should be with what is, and start runs. They take no input,
//! repair nothing themselves, and may be stopped at any line.

mod schedule;
mod tags;

use std::sync::Arc;
use std::time::Duration;

use azdr_env::Env;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::workflow::Engine;
use crate::workflows::Services;

/// What the loops use.
#[derive(Clone)]
pub struct Reconciler {
    /// Policies and history.
    pub store: Store,
    /// Starts runs.
    pub engine: Engine<Services>,
    /// Azure.
    pub services: Arc<Services>,
    /// Clock and ids.
    pub env: Env,
}

impl Reconciler {
    /// Runs all loops once per `tick` until `stop`.
    pub async fn run(self, tick: Duration, stop: CancellationToken) {
        loop {
            if let Err(e) = self.start_due_backups().await {
                tracing::error!(error = %e, cause = ?e, "due backups could not be looked up");
            }
            if let Err(e) = self.rewrite_policy_tags().await {
                tracing::error!(error = %e, cause = ?e, "policy tags could not be looked up");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = azdr_env::sleep(tick) => {}
            }
        }
    }
}
