//! Power operations. Stopping and deallocating overtake whatever is under way; starting does not.

use azdr_env::WallTime;

use super::operations::{Effect, Failure, Work};
use super::state::{Power, provisioning};
use super::vm_changes::busy;
use super::{Accepted, ArmError, ArmId, Injected, World};
use crate::latency::Action;

/// A power operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// `start`.
    Start,
    /// `powerOff`: stopped, still allocated and billed.
    PowerOff,
    /// `deallocate`: gives capacity and dynamic addresses back.
    Deallocate,
    /// `restart`.
    Restart,
}

impl World {
    /// Starts a power operation.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn power(
        &mut self,
        id: &ArmId,
        action: PowerAction,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let vm = self.vm(id)?.clone();
        if vm.common.provisioning == provisioning::DELETING {
            return Err(ArmError::conflict(
                "OperationNotAllowed",
                format!("Virtual machine '{}' is being deleted.", id.name),
            ));
        }
        let mut injected = injected.clone();
        let settled = settled(vm.power);
        let (during, to, work) = match action {
            PowerAction::Start => {
                let starting = vm.power == Power::Starting;
                if !starting && !self.pending_on(id).is_empty() {
                    return Err(busy(id));
                }
                if settled == Power::Deallocated {
                    self.check_vm_quota(id, &vm.common.location)?;
                    self.fail_without_capacity(&vm.common.location, &mut injected);
                }
                let during =
                    if vm.power == Power::Running { Power::Running } else { Power::Starting };
                (during, Power::Running, Work::Start(id.clone()))
            }
            PowerAction::Restart => {
                if !self.pending_on(id).is_empty() {
                    return Err(busy(id));
                }
                if vm.power != Power::Running {
                    return Err(ArmError::not_allowed(format!(
                        "Cannot restart VM '{}': it is not running.",
                        id.name
                    )));
                }
                (Power::Running, Power::Running, Work::Restart(vm.vm_id.clone()))
            }
            PowerAction::PowerOff => {
                self.preempt(id, now);
                // A deallocated VM stays deallocated.
                let to = if settled == Power::Deallocated { settled } else { Power::Stopped };
                let during = if to == Power::Deallocated { to } else { Power::Stopping };
                (during, to, Work::PowerOff(vm.vm_id.clone()))
            }
            PowerAction::Deallocate => {
                self.preempt(id, now);
                (Power::Deallocating, Power::Deallocated, Work::PowerOff(vm.vm_id.clone()))
            }
        };
        if let Some(vm) = self.state.vms.get_mut(&id.key()) {
            vm.power = during;
            vm.common.provisioning = provisioning::UPDATING.into();
        }
        if to == Power::Running {
            self.assign_addresses(id);
        }
        let takes = match action {
            PowerAction::Start => Action::Start,
            PowerAction::PowerOff => Action::PowerOff,
            PowerAction::Deallocate => Action::Deallocate,
            PowerAction::Restart => Action::Restart,
        };
        let effect = Effect::Power { vm: id.clone(), to, back_to: settled };
        let operation = self.begin_vm(id, takes, effect, vec![work], &injected, now);
        Ok(Accepted { operation: Some(operation), created: false, joined: false })
    }

    /// The VM has reached a power state.
    pub(super) fn powered(&mut self, id: &ArmId, power: Power, failure: Option<&Failure>) {
        let Some(vm) = self.state.vms.get_mut(&id.key()) else { return };
        vm.power = power;
        vm.start_error = failure.map(|failure| failure.message.clone());
        if power == Power::Deallocated {
            self.release_addresses(id);
        }
    }
}

/// Where the VM is, or was before it began to move.
fn settled(power: Power) -> Power {
    match power {
        Power::Starting => Power::Stopped,
        Power::Stopping => Power::Running,
        Power::Deallocating => Power::Running,
        settled => settled,
    }
}
