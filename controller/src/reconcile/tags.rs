//! The VM's tag that mirrors its policy: written when the policy is set, and again where that failed.
//!
//! The store is the truth. What the tag held is read first: a value that azdr has not written is replaced
//! only when a person asks for it, who is told what it was. Where the VM is gone, that is recorded once, and
//! its tag left alone until an inventory sees it again.

use azdr_arm::ArmClient;
use azdr_domain::policy::Policy;
use azdr_domain::policy_tag::{self, Drift, POLICY_TAG};

use super::Reconciler;
use crate::store::{Item, PolicyRow, Store, StoreError};
use crate::workflows::tags;

/// Who wants a tag to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    /// A person, who set this policy in place of that one.
    ByPerson {
        /// What the tag should have shown until now.
        before: Option<&'a Policy>,
    },
    /// Nobody: a policy from a selector, or a repetition.
    BySelf,
}

impl Reconciler {
    /// Tries again where the store says that the tag does not mirror the policy. Answers whether there
    /// was nothing to write.
    pub(super) async fn rewrite_policy_tags(&self) -> Result<bool, StoreError> {
        let all = self.store.policies_not_mirrored().await?;
        for (item, row) in &all {
            mirror(&self.store, &self.services.azure, self.now(), item, row, Asked::BySelf).await?;
        }
        Ok(all.is_empty())
    }

    fn now(&self) -> azdr_env::WallTime {
        self.env.clock.wall()
    }
}

/// Writes the VM's tag as a merge and records whether that worked; answers what was replaced, where that
/// was neither azdr's nor what it should have been. A tag that could not be written is shown, and tried
/// again.
///
/// # Errors
/// When the store cannot be read or written.
pub(crate) async fn mirror(
    store: &Store,
    azure: &ArmClient,
    now: azdr_env::WallTime,
    item: &Item,
    row: &PolicyRow,
    asked: Asked<'_>,
) -> Result<Option<Drift>, StoreError> {
    let (problem, replaced) = match write(azure, item, row, asked).await {
        Ok(Ok(replaced)) => (None, replaced),
        Ok(Err(in_the_way)) => {
            let words = format!(
                "{}; `azdr backup configure {}` replaces it",
                in_the_way.words,
                item.arm_id.name()
            );
            store.set_tag_drift(item.id, Some(in_the_way), now).await?;
            (Some(words), None)
        }
        Err(e) if e.is_not_found() => {
            tracing::warn!(vm = %item.arm_id, "the VM is not in Azure any more; its tag is left alone");
            store.set_vm_gone(item.id, now).await?;
            return Ok(None);
        }
        Err(e) => (Some(format!("{} ({})", e.message, e.code)), None),
    };
    if let Some(problem) = &problem {
        tracing::warn!(vm = %item.arm_id, problem, "the VM's policy tag could not be written");
    }
    store.set_tag_problem(item.id, problem, now).await?;
    Ok(replaced)
}

/// `Ok(Err(…))`: something is in the way that nobody has asked to replace.
async fn write(
    azure: &ArmClient,
    item: &Item,
    row: &PolicyRow,
    asked: Asked<'_>,
) -> Result<Result<Option<Drift>, Drift>, azdr_arm::AzureError> {
    let present = azure.get_tags(&item.arm_id).await?;
    let present = tags::value(&present, POLICY_TAG);
    let before = match asked {
        Asked::ByPerson { before } => before,
        Asked::BySelf => None,
    };
    // No tag is what a VM without a policy should have.
    let drift = present
        .and_then(|value| policy_tag::drift(Some(value), &row.policy))
        .filter(|_| before.is_none_or(|p| policy_tag::drift(present, p).is_some()));
    match (&drift, asked) {
        (Some(drift), Asked::BySelf) if !drift.kind.is_ours() => return Ok(Err(drift.clone())),
        _ => {}
    }
    let value = row.policy.tag_value(row.origin.as_ref());
    azure.merge_tags(&item.arm_id, [(POLICY_TAG.to_owned(), value)].into()).await?;
    Ok(Ok(drift))
}
