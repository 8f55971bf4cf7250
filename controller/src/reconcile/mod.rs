//! Idempotent loops that compare what should be with what is, and start runs. They take no input,
//! repair nothing themselves, and may be stopped at any line.

pub mod alerts;
pub mod inventory;
mod missing;
mod pins;
pub mod proofs;
pub mod residue;
pub(crate) mod schedule;
pub(crate) mod tags;

use std::sync::Arc;
use std::time::Duration;

use azdr_env::Env;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::workflow::Engine;
use crate::workflows::Services;

/// How often policy tags are looked at that could not be written: Azure's "no" rarely passes quickly.
const TAGS_EVERY: Duration = Duration::from_secs(15 * 60);

/// How often tags of pins are looked at that could not be written.
const PINS_EVERY: Duration = Duration::from_secs(15 * 60);

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

/// Whether anything was written since a loop last looked: what had nothing to do then has nothing to
/// do now. Forgetting it costs a look.
#[derive(Default)]
struct Quiet {
    /// [`Store::commits`] before that look.
    since: Option<u64>,
}

impl Quiet {
    /// Whether nothing was written since the last [`Quiet::after`].
    fn lasts(&self, store: &Store) -> bool {
        self.since == Some(store.commits())
    }

    /// After a look that began at `commits` and found nothing to do, or something.
    fn after(&mut self, commits: u64, idle: bool) {
        self.since = idle.then_some(commits);
    }
}

impl Reconciler {
    /// Starts due backups once per `tick`, until `stop`.
    pub async fn keep_schedule(self, tick: Duration, stop: CancellationToken) {
        let mut looked = schedule::Looked::default();
        loop {
            if let Err(e) = self.start_due_backups(&mut looked).await {
                tracing::error!(error = %e, cause = ?e, "due backups could not be looked up");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = azdr_env::sleep(tick) => {}
            }
        }
    }

    /// Writes the tags of pins when they change and where they could not be written, until `stop`.
    pub async fn keep_pins(self, changed: Arc<Notify>, stop: CancellationToken) {
        let mut quiet = Quiet::default();
        loop {
            if !quiet.lasts(&self.store) {
                let commits = self.store.commits();
                let idle = self.mirror_pins().await.unwrap_or_else(|e| {
                    tracing::error!(error = %e, cause = ?e, "changed pins could not be looked up");
                    false
                });
                quiet.after(commits, idle);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                () = azdr_env::sleep(PINS_EVERY) => {}
            }
        }
    }

    /// Writes policy tags that could not be written, until `stop`. A loop of its own: an Azure that
    /// does not answer must not keep backups from starting.
    pub async fn keep_tags(self, stop: CancellationToken) {
        let mut quiet = Quiet::default();
        loop {
            if !quiet.lasts(&self.store) {
                let commits = self.store.commits();
                let idle = self.rewrite_policy_tags().await.unwrap_or_else(|e| {
                    tracing::error!(error = %e, cause = ?e, "policy tags could not be looked up");
                    false
                });
                quiet.after(commits, idle);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = azdr_env::sleep(TAGS_EVERY) => {}
            }
        }
    }
}
