//! Whether azdr may delete.

use azdr_proto::admin::ReleaseRetentionResponse;
use tonic::Status;

use super::Admin;
use super::errors::unavailable;

impl Admin {
    /// Why nothing is deleted now; empty when it is.
    pub(super) async fn why_held(&self) -> Result<String, Status> {
        let held = self.store.deletion_hold().await.map_err(unavailable)?;
        Ok(held.map(|h| h.to_string()).unwrap_or_default())
    }

    pub(super) async fn release(&self, by: &str) -> Result<ReleaseRetentionResponse, Status> {
        let held = self.store.release_deletions().await.map_err(unavailable)?;
        Ok(match held {
            Some(held) => {
                tracing::info!(by, since = %held.since, "deletions are released");
                ReleaseRetentionResponse {
                    was_held: true,
                    held_since_unix_ms: held.since.unix_ms(),
                    reason: held.reason,
                }
            }
            None => ReleaseRetentionResponse::default(),
        })
    }
}
