//! Looks at the VMs of the subscriptions: gives new ones the policy whose selector matches them, notes
//! where one does not match any more, and where a tag does not show its policy (drift). Records which
//! VMs with a policy are gone, and which are back.
//!
//! A VM that azdr has made carries its original's tags: no selector is asked about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use azdr_arm::AzureError;
use azdr_domain::policy_tag::{self, POLICY_TAG};
use azdr_domain::region::Region;
use azdr_env::WallTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use super::tags::{Asked, mirror};
use crate::store::{NOT_WRITTEN_YET, StoreError, VmSeen};
use crate::workflows::tags;

/// A listing may show tags as they were this long ago.
const LISTING_LAG: Duration = Duration::from_secs(120);

/// An inventory that could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The store.
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    /// Azure.
    #[error("Azure does not list the VMs")]
    Azure(#[from] AzureError),
}

/// A VM of a listing that selectors may be asked about.
pub(crate) fn seen(vm: &azdr_arm::Vm) -> Option<VmSeen> {
    if is_made_by_azdr(vm) {
        return None;
    }
    Some(VmSeen {
        id: vm.id.clone()?,
        region: Region::parse(vm.location.as_deref()?).ok()?,
        tags: vm.tags.clone(),
    })
}

/// Whether a drill or a restore has made it.
pub(crate) fn is_made_by_azdr(vm: &azdr_arm::Vm) -> bool {
    tags::value(&vm.tags, tags::OWNER) == Some(tags::OWNED)
}

impl Reconciler {
    /// Takes an inventory now, `every` so often, and when named policies have changed, until `stop`.
    pub async fn keep_inventory(
        self,
        subscriptions: Vec<String>,
        every: Duration,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) {
        loop {
            if let Err(e) = self.take_inventory(&subscriptions).await {
                tracing::warn!(error = %e, cause = ?e, "no inventory could be taken; later");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                () = azdr_env::sleep(every) => {}
            }
        }
    }

    /// Takes one inventory. A subscription that cannot be listed takes nothing from the others.
    ///
    /// # Errors
    /// The last of what failed.
    pub async fn take_inventory(&self, subscriptions: &[String]) -> Result<(), InventoryError> {
        let mut outcome = Ok(());
        for subscription in subscriptions {
            let began = self.env.clock.wall();
            match self.services.azure.list_vms(subscription).await {
                Ok(vms) => {
                    self.look_at_vms(&vms, began).await?;
                    self.look_for_gone(subscription, &vms).await?;
                }
                Err(e) => outcome = Err(e.into()),
            }
        }
        self.write_new_tags().await?;
        outcome
    }

    async fn look_at_vms(&self, vms: &[azdr_arm::Vm], began: WallTime) -> Result<(), StoreError> {
        let named = self.store.named_policies().await?;
        let policies = self.store.policies().await?;
        let selected: BTreeSet<&str> = policies
            .iter()
            .filter(|(_, row)| row.origin.is_some())
            .map(|(item, _)| item.arm_id.key())
            .collect();
        let follows = |vm: &VmSeen| {
            selected.contains(vm.id.key())
                || named.iter().any(|p| p.select.matches(&vm.id, &vm.tags))
        };
        let concerned: Vec<VmSeen> = vms.iter().filter_map(seen).filter(follows).collect();
        if !concerned.is_empty() {
            let changed = self.store.follow_selectors(concerned, self.env.clock.wall()).await?;
            if !changed.is_empty() {
                tracing::info!(vms = changed.len(), "policies were given by selectors");
            }
        }
        self.note_drift(vms, began).await
    }

    async fn note_drift(&self, vms: &[azdr_arm::Vm], began: WallTime) -> Result<(), StoreError> {
        let vms: BTreeMap<&str, &azdr_arm::Vm> =
            vms.iter().filter_map(|vm| Some((vm.id.as_ref()?.key(), vm))).collect();
        for (item, row) in self.store.policies().await? {
            let Some(vm) = vms.get(item.arm_id.key()) else { continue };
            // One that is still to be written, or that the listing may not show yet, is no drift.
            if row.tag_problem.is_some() || row.tag_written.plus(LISTING_LAG) > began {
                continue;
            }
            let drift = policy_tag::drift(tags::value(&vm.tags, POLICY_TAG), &row.policy);
            if row.tag_drift.as_ref().map(|d| &d.drift) != drift.as_ref() {
                self.store.set_tag_drift(item.id, drift, self.env.clock.wall()).await?;
            }
        }
        Ok(())
    }

    /// Records which VMs with a policy are in Azure no more, and which are again. A listing may lag, so
    /// that one which it lacks is asked for by itself.
    async fn look_for_gone(
        &self,
        subscription: &str,
        vms: &[azdr_arm::Vm],
    ) -> Result<(), StoreError> {
        let listed: BTreeSet<&str> =
            vms.iter().filter_map(|vm| vm.id.as_ref()).map(|id| id.key()).collect();
        for (item, row) in self.store.policies().await? {
            if !item.arm_id.subscription().eq_ignore_ascii_case(subscription) {
                continue;
            }
            let now = self.env.clock.wall();
            match (listed.contains(item.arm_id.key()), row.gone) {
                (true, Some(_)) => {
                    tracing::info!(vm = %item.arm_id, "the VM is in Azure again");
                    self.store.set_vm_back(item.id, now).await?;
                }
                (false, None) => match self.services.azure.get_vm(&item.arm_id).await {
                    Err(e) if e.is_not_found() => {
                        tracing::warn!(vm = %item.arm_id, "the VM is not in Azure any more");
                        self.store.set_vm_gone(item.id, now).await?;
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the tags of policies that were just given.
    async fn write_new_tags(&self) -> Result<(), StoreError> {
        for (item, row) in self.store.policies_not_mirrored().await? {
            if row.tag_problem.as_deref() == Some(NOT_WRITTEN_YET) {
                let now = self.env.clock.wall();
                mirror(&self.store, &self.services.azure, now, &item, &row, Asked::BySelf).await?;
            }
        }
        Ok(())
    }
}
