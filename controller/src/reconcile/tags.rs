//! Writes policy tags that could not be written when the policy was set.

use super::Reconciler;
use crate::api::admin::mirror;
use crate::store::StoreError;

impl Reconciler {
    /// Tries again where the store says that the tag does not mirror the policy. Answers whether there
    /// was nothing to write.
    pub(super) async fn rewrite_policy_tags(&self) -> Result<bool, StoreError> {
        let all = self.store.policies_not_mirrored().await?;
        for (item, row) in &all {
            mirror(&self.store, &self.services.azure, item, row.policy.tag_value()).await?;
        }
        Ok(all.is_empty())
    }
}
