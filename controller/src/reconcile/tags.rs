//! Writes policy tags that could not be written when the policy was set.

use super::Reconciler;
use crate::api::admin::mirror;
use crate::store::StoreError;

impl Reconciler {
    /// Tries again where the store says that the tag does not mirror the policy.
    pub(super) async fn rewrite_policy_tags(&self) -> Result<(), StoreError> {
        for (item, row) in self.store.policies_not_mirrored().await? {
            let tag = row.policy.tag_value();
            mirror(&self.store, &self.services.azure, &item, tag).await?;
        }
        Ok(())
    }
}
