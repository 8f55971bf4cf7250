//! Resource groups.

use azdr_env::WallTime;
use serde::Deserialize;

use super::immutability::check_deletable;
use super::operations::{Begin, Effect, Output, Service, Work};
use super::state::{Group, Power, group_key};
use super::tags::{Tags, checked_tags};
use super::{Accepted, ArmError, ArmId, Injected, World};
use crate::latency::Action;

/// Body of a PUT or PATCH on a resource group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupRequest {
    /// Region.
    pub location: Option<String>,
    /// Tags.
    pub tags: Option<Tags>,
}

impl World {
    /// Creates or changes a resource group, at once.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_group(
        &mut self,
        subscription: &str,
        name: &str,
        request: GroupRequest,
    ) -> Result<Accepted, ArmError> {
        let legal = |c: char| c.is_alphanumeric() || "-_.()".contains(c);
        if name.len() > 90 || name.ends_with('.') || !name.chars().all(legal) {
            return Err(ArmError::bad_request(
                "InvalidResourceGroup",
                format!("The provided resource group name '{name}' is not valid."),
            ));
        }
        let location = request.location.ok_or_else(|| {
            ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            )
        })?;
        let location = self.region(&location)?;
        let tags = checked_tags(request.tags.unwrap_or_default())?;
        if let Ok(old) = self.state.group(subscription, name) {
            if old.deleting {
                return Err(ArmError::conflict(
                    "ResourceGroupBeingDeleted",
                    format!("The resource group '{name}' is in deprovisioning state."),
                ));
            }
            if old.location != location {
                return Err(ArmError::conflict(
                    "InvalidResourceGroupLocation",
                    format!(
                        "Invalid resource group location '{location}'. The Resource group already \
                         exists in location '{}'.",
                        old.location
                    ),
                ));
            }
            if let Some(group) = self.state.groups.get_mut(&group_key(subscription, name)) {
                group.tags = tags;
            }
            return Ok(Accepted::default());
        }
        let group = Group {
            subscription: subscription.to_owned(),
            name: name.to_owned(),
            location,
            tags,
            deleting: false,
        };
        self.state.groups.insert(group_key(subscription, name), group);
        Ok(Accepted { operation: None, created: true, joined: false })
    }

    /// Changes a group's tags.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn patch_group(
        &mut self,
        subscription: &str,
        name: &str,
        request: GroupRequest,
    ) -> Result<(), ArmError> {
        self.state.group(subscription, name)?;
        if let Some(tags) = request.tags {
            let tags = checked_tags(tags)?;
            if let Some(group) = self.state.groups.get_mut(&group_key(subscription, name)) {
                group.tags = tags;
            }
        }
        Ok(())
    }

    /// Deletes a group and everything in it. Its machines end now; its resources go at the end.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn delete_group(
        &mut self,
        subscription: &str,
        name: &str,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let group = self.state.group(subscription, name)?;
        let location = group.location.clone();
        let prefix = format!("{}/", group_key(subscription, name));
        for (_, snapshot) in self.state.snapshots.with_prefix(&prefix) {
            check_deletable(snapshot, now)?;
        }
        let vms: Vec<ArmId> =
            self.state.vms.with_prefix(&prefix).map(|(_, vm)| vm.common.id.clone()).collect();
        let mut work = Vec::new();
        if injected.fail_operation.is_none() {
            for id in vms {
                self.preempt(&id, now);
                if let Some(vm) = self.state.vms.get_mut(&id.key()) {
                    vm.power = Power::Stopping;
                    work.push(Work::PowerOff(vm.vm_id.clone()));
                }
            }
            if let Some(group) = self.state.groups.get_mut(&group_key(subscription, name)) {
                group.deleting = true;
            }
        }
        let begin = Begin {
            subscription: subscription.to_owned(),
            location,
            service: Service::Resources,
            takes: self.takes(Action::GroupDelete),
            effect: Effect::GroupDelete { subscription: subscription.into(), group: name.into() },
            output: Output::None,
            work,
        };
        let operation = self.begin(begin, injected, now);
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }

    /// Removes a group and everything in it at the end of its deletion.
    pub(super) fn group_deleted(
        &mut self,
        subscription: &str,
        name: &str,
        failed: bool,
        at: WallTime,
    ) {
        let key = group_key(subscription, name);
        if failed {
            if let Some(group) = self.state.groups.get_mut(&key) {
                group.deleting = false;
            }
            return;
        }
        let prefix = format!("{key}/");
        let ids: Vec<ArmId> =
            self.state.all_common(&prefix, None).map(|(_, common)| common.id.clone()).collect();
        let (vms, others): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| id.kind == super::Kind::Vm);
        for id in vms.iter().chain(&others) {
            self.remove(id, at);
        }
        self.state.groups.remove(&key);
        self.remove_locks_below(&key);
    }
}
