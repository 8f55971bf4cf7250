//! Long-running operations: accepted at once, reported done when their time has come *and* their
//! work on contents and machines is finished.

use std::time::Duration;

use azdr_env::WallTime;
use serde::{Deserialize, Serialize};

use super::state::{Power, provisioning};
use super::{ArmId, Injected, World};

/// A resource provider, as far as its operations look different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Disks and snapshots.
    Disk,
    /// Virtual machines.
    Compute,
    /// Networks.
    Network,
    /// Resource groups.
    Resources,
}

/// What an operation's record shows besides its status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Output {
    /// Nothing.
    None,
    /// The resource.
    Resource(ArmId),
    /// The path and query of a URL that reads the content.
    Access(String),
}

/// How an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// ARM's code.
    pub code: String,
    /// Words.
    pub message: String,
}

/// What becomes visible when an operation ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// Nothing.
    None,
    /// The resource is ready (or `Failed`).
    Ready(ArmId),
    /// The new disk or snapshot is ready (or has no content).
    Create(ArmId),
    /// The disk, snapshot or network resource is gone.
    Delete(ArmId),
    /// The VM has reached a power state; on failure it has the old one.
    Power {
        /// The VM.
        vm: ArmId,
        /// Reached on success.
        to: Power,
        /// Kept on failure.
        back_to: Power,
    },
    /// The VM and what goes with it is gone.
    VmDelete(ArmId),
    /// The resource group and all in it is gone.
    GroupDelete {
        /// Subscription.
        subscription: String,
        /// Name.
        group: String,
    },
}

/// Something to be done to contents or machines. Files are names within the content directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A new, empty (sparse) content of this size.
    CreateEmpty {
        /// New file.
        file: String,
        /// Size.
        size_bytes: u64,
    },
    /// What `source` holds at this instant, grown to `size_bytes`.
    Capture {
        /// The running machine that writes to `source`.
        vm_id: Option<String>,
        /// File to read.
        source: String,
        /// New file.
        target: String,
        /// Size of the new file.
        size_bytes: u64,
    },
    /// The content of an immutable file under another name.
    Share {
        /// A snapshot's file.
        source: String,
        /// New name.
        target: String,
    },
    /// The content gets longer.
    Grow {
        /// File.
        file: String,
        /// New size.
        size_bytes: u64,
    },
    /// Start this VM with the disks that it has now.
    Start(ArmId),
    /// End this machine (`vmId`).
    PowerOff(String),
    /// Reset this machine (`vmId`).
    Restart(String),
}

impl Work {
    /// It changes contents and touches no machine (a capture reads what a machine writes).
    pub fn is_on_contents(&self) -> bool {
        !matches!(self, Self::Start(_) | Self::PowerOff(_) | Self::Restart(_))
    }
}

/// How an operation ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// When.
    pub at: WallTime,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// A long-running operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// GUID.
    pub id: String,
    /// Subscription.
    pub subscription: String,
    /// Region.
    pub location: String,
    /// Provider.
    pub service: Service,
    /// Accepted.
    pub started: WallTime,
    /// Not reported done before this.
    pub due: WallTime,
    /// To be done before it can end, in this order.
    pub work: Vec<Work>,
    /// The work is finished.
    pub work_done: bool,
    /// It is going to fail, or has failed, like this.
    pub failure: Option<Failure>,
    /// What becomes visible at the end.
    pub effect: Effect,
    /// What its record shows.
    pub output: Output,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

impl Operation {
    /// The resource that it changes.
    pub fn target(&self) -> Option<&ArmId> {
        match &self.effect {
            Effect::Ready(id) | Effect::Create(id) | Effect::Delete(id) | Effect::VmDelete(id) => {
                Some(id)
            }
            Effect::Power { vm, .. } => Some(vm),
            Effect::None | Effect::GroupDelete { .. } => None,
        }
    }

    /// The VM whose machine the operation works on: such work is done one after the other.
    pub fn vm(&self) -> Option<&ArmId> {
        match &self.effect {
            Effect::Power { vm, .. } | Effect::VmDelete(vm) => Some(vm),
            Effect::Ready(id) if id.kind == super::Kind::Vm => Some(id),
            _ => None,
        }
    }
}

/// What [`World::begin`] needs to know.
pub(super) struct Begin {
    pub(super) subscription: String,
    pub(super) location: String,
    pub(super) service: Service,
    pub(super) takes: Duration,
    pub(super) effect: Effect,
    pub(super) output: Output,
    pub(super) work: Vec<Work>,
}

impl World {
    /// Records a new operation and returns its id. If the fault plan wants it to fail, its work is
    /// not done.
    pub(super) fn begin(&mut self, begin: Begin, injected: &Injected, now: WallTime) -> String {
        let failure = injected.fail_operation.clone();
        let work = if failure.is_some() { Vec::new() } else { begin.work };
        let operation = Operation {
            id: self.guid(),
            subscription: begin.subscription,
            location: begin.location,
            service: begin.service,
            started: now,
            due: now.plus(begin.takes + injected.prolong_operation),
            work_done: work.is_empty(),
            work,
            failure,
            effect: begin.effect,
            output: begin.output,
            outcome: None,
        };
        let id = operation.id.clone();
        self.state.index_pending(&operation);
        self.state.operations.insert(id.clone(), operation);
        id
    }

    /// Reports that an operation's work is finished, well or badly.
    pub fn work_finished(&mut self, operation: &str, result: Result<(), String>, now: WallTime) {
        let Some(record) = self.state.operations.get_mut(operation) else { return };
        if record.work_done || record.outcome.is_some() {
            return;
        }
        record.work_done = true;
        if let Err(message) = result {
            let code = "InternalExecutionError".to_owned();
            record.failure.get_or_insert(Failure { code, message });
        }
        self.advance(now);
    }

    /// Lets time pass: ends the operations whose time has come, forgets old ones and finished
    /// copies. Cheap when nothing is due.
    pub fn advance(&mut self, now: WallTime) {
        let due: Vec<(WallTime, String)> = self
            .state
            .pending
            .iter()
            .take_while(|(due, _)| *due <= now)
            .filter(|(_, id)| self.state.operations.get(id).is_none_or(|o| o.work_done))
            .cloned()
            .collect();
        for entry in due {
            self.state.unindex_pending(&entry);
            self.end(&entry.1, entry.0);
        }
        let keep = Duration::from_secs(self.limits.operation_record_secs);
        while self.state.ended.first().is_some_and(|(at, _)| at.plus(keep) < now) {
            if let Some((_, id)) = self.state.ended.pop_first() {
                self.state.operations.remove(&id);
            }
        }
        while let Some((_, key)) = self.state.copy_ends.first().filter(|(end, _)| *end <= now) {
            let key = key.clone();
            self.state.copying.remove(&key);
            self.state.copy_ends.pop_first();
        }
    }

    fn end(&mut self, id: &str, at: WallTime) {
        let Some(record) = self.state.operations.get_mut(id) else { return };
        let failure = record.failure.clone();
        record.outcome = Some(Outcome { at, failure: failure.clone() });
        record.work.clear();
        let effect = record.effect.clone();
        self.state.ended.insert((at, id.to_owned()));
        self.apply(effect, failure.as_ref(), at);
    }

    fn apply(&mut self, effect: Effect, failure: Option<&Failure>, at: WallTime) {
        let failed = failure.is_some();
        match effect {
            Effect::None => {}
            Effect::Ready(id) => {
                let word = if failed { provisioning::FAILED } else { provisioning::SUCCEEDED };
                self.provisioned(&id, word);
            }
            Effect::Create(id) => {
                if failed && let Some(volume) = self.volume_mut(&id) {
                    volume.broken = true;
                }
                let word = if failed { provisioning::FAILED } else { provisioning::SUCCEEDED };
                self.provisioned(&id, word);
            }
            Effect::Delete(id) if failed => self.provisioned(&id, provisioning::FAILED),
            Effect::Delete(id) => self.remove(&id, at),
            Effect::Power { vm, to, back_to } => {
                let word = if failed { provisioning::FAILED } else { provisioning::SUCCEEDED };
                self.powered(&vm, if failed { back_to } else { to }, failure);
                self.provisioned(&vm, word);
            }
            Effect::VmDelete(id) if failed => self.provisioned(&id, provisioning::FAILED),
            Effect::VmDelete(id) => self.remove_vm(&id, at),
            Effect::GroupDelete { subscription, group } => {
                self.group_deleted(&subscription, &group, failed, at);
            }
        }
    }

    /// Ends the VM's unfinished operations as overtaken by a newer one, without their effect.
    pub(super) fn preempt(&mut self, vm: &ArmId, now: WallTime) {
        for (due, id) in self.pending_on(vm) {
            self.state.unindex_pending(&(due, id.clone()));
            self.state.ended.insert((now, id.clone()));
            let Some(record) = self.state.operations.get_mut(&id) else { continue };
            record.work_done = true;
            record.outcome = Some(Outcome {
                at: now,
                failure: Some(Failure {
                    code: "OperationPreempted".into(),
                    message: "Operation execution has been preempted by a more recent operation."
                        .into(),
                }),
            });
        }
    }

    /// The unfinished operation that creates this disk or snapshot.
    pub(super) fn creating(&self, id: &ArmId) -> Option<String> {
        let mut pending = self.state.pending_on.get(&id.key())?.iter().map(|(_, id)| id);
        pending
            .find(|id| {
                let operation = self.state.operations.get(id);
                operation.is_some_and(|o| matches!(o.effect, Effect::Create(_)))
            })
            .cloned()
    }

    /// The VM's unfinished operations.
    pub(super) fn pending_on(&self, vm: &ArmId) -> Vec<(WallTime, String)> {
        let is_work = |id: &String| self.state.operations.get(id).is_some_and(|o| o.vm().is_some());
        let pending = self.state.pending_on.get(&vm.key()).into_iter().flatten();
        pending.filter(|(_, id)| is_work(id)).cloned().collect()
    }

    fn provisioned(&mut self, id: &ArmId, word: &str) {
        let Some(common) = self.state.common_mut(id) else { return };
        let was_creating = common.provisioning == provisioning::CREATING;
        common.provisioning = word.to_owned();
        if was_creating && let Some(vm) = self.state.vms.get_mut(&id.key()) {
            vm.etag += 1;
        }
    }

    /// The operations whose work was interrupted by the end of the process, and the ids of those
    /// among them that cannot be done again: they captured a machine that was running then and whose
    /// disk has since changed.
    pub fn interrupted(&mut self) -> Vec<Operation> {
        let unfinished: Vec<String> = self.state.pending.iter().map(|(_, id)| id.clone()).collect();
        let mut again = Vec::new();
        for id in unfinished {
            let Some(record) = self.state.operations.get_mut(&id) else { continue };
            if record.work_done {
                continue;
            }
            if record.work.iter().any(|w| matches!(w, Work::Capture { vm_id: Some(_), .. })) {
                record.work_done = true;
                record.failure = Some(Failure {
                    code: "InternalExecutionError".into(),
                    message: "The copy was interrupted and its instant has passed.".into(),
                });
            } else {
                again.push(record.clone());
            }
        }
        again
    }
}
