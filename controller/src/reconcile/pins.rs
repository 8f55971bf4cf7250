//! Shows pins as a tag on the snapshots that they hold, where a rebuild finds them.

use azdr_domain::pin::{self, PIN_TAG};

use super::Reconciler;
use crate::store::{StalePins, StoreError};

impl Reconciler {
    /// Writes the tags of every point whose pins have changed, or that has new copies. What Azure
    /// refuses is tried again the next time. Answers whether there was nothing to write.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn mirror_pins(&self) -> Result<bool, StoreError> {
        let all = self.store.stale_pins().await?;
        for stale in &all {
            if self.mirror(stale).await {
                self.store.pins_are_mirrored(stale).await?;
            }
        }
        Ok(all.is_empty())
    }

    /// Whether all snapshots of the point show its pins now.
    async fn mirror(&self, stale: &StalePins) -> bool {
        let azure = &self.services.azure;
        let value = pin::tag_value(&stale.point.pins);
        let mut whole = true;
        for snapshot in &stale.point.snapshots {
            let id = &snapshot.id;
            let written = match &value {
                Some(value) => azure.merge_tags(id, [(PIN_TAG.into(), value.clone())].into()).await,
                None => azure.remove_tags(id, &[PIN_TAG.to_owned()]).await,
            };
            match written {
                Ok(()) => {}
                // Deleted by hand: there is nothing to show it on.
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::warn!(%id, error = %e, "the pins' tag could not be written; later");
                    whole = false;
                }
            }
        }
        whole
    }
}
