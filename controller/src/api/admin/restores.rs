//! Restores: planned first, and started only with the plan's confirmation.

use azdr_arm::{PowerState, Vm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::PointName;
use azdr_proto::admin::{Job, PlanRestoreRequest, RestorePlan, StartRestoreRequest, VmRef};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::deletions::refuse_if_deleted;
use super::errors::{azure, hinted, unavailable};
use super::points::no_copy;
use crate::store::{Item, PointRow, RunState};
use crate::workflows::{new_run, restore_in_place, restore_new_vm};

/// A restore that waits for its confirmation.
#[derive(Clone)]
pub(super) struct Planned {
    by: String,
    item: Item,
    point: PointName,
    new_vm: Option<ArmId>,
    /// What the VM looked like when its restore was planned.
    seen: Vec<String>,
}

impl Admin {
    pub(super) async fn make_restore_plan(
        &self,
        by: String,
        request: PlanRestoreRequest,
    ) -> Result<RestorePlan, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let vm_name = named.id.name().to_owned();
        let item = named.item.clone().ok_or_else(|| no_points(&vm_name))?;
        let point = &self.choose(&item, &request.recovery_point).await?;
        let new_vm = match request.new_vm_name.as_str() {
            "" => None,
            name => {
                let id = ArmId::virtual_machine(
                    item.arm_id.subscription(),
                    item.arm_id.resource_group(),
                    name,
                );
                Some(id.map_err(|e| {
                    Status::invalid_argument(format!("new_vm_name cannot be {name:?}: {e}"))
                })?)
            }
        };
        if let Some(new_vm) = &new_vm
            && self.azure_vms().await?.iter().any(|v| v.id.as_ref() == Some(new_vm))
        {
            let message = format!("a VM named {:?} exists already", new_vm.name());
            return Err(hinted(Code::AlreadyExists, message, "choose another name"));
        }
        let vm = match &new_vm {
            None => {
                named.in_azure("restore into a new VM with --new-vm NAME")?;
                let vm = self.services.azure.get_vm_with_instance_view(&item.arm_id).await;
                Some(vm.map_err(|e| azure(&e))?)
            }
            Some(_) => None,
        };
        let (actions, warnings) = match (&new_vm, &vm) {
            (Some(new_vm), _) => to_new_vm(new_vm, point),
            (None, Some(vm)) => in_place(vm, point),
            (None, None) => unreachable!("refused above"),
        };
        let (low, high, basis) = self.estimate(new_vm.is_some()).await?;
        let planned = Planned {
            by,
            item: item.clone(),
            point: point.name.clone(),
            new_vm: new_vm.clone(),
            seen: vm.as_ref().map(attached_disks).unwrap_or_default(),
        };
        let confirmation = self.env.ids.hex(16);
        self.confirmations.restores.put(&confirmation, planned, self.env.clock.monotonic())?;
        Ok(RestorePlan {
            confirmation,
            point: Some(convert::point(point, &item, self.env.clock.wall(), |r| self.copied(r))),
            vm_resource_id: new_vm.as_ref().unwrap_or(&item.arm_id).to_string(),
            actions,
            warnings,
            estimate_low_secs: low,
            estimate_high_secs: high,
            estimate_basis: basis.to_owned(),
        })
    }

    /// The named point, or the newest that can be restored.
    async fn choose(&self, item: &Item, name: &str) -> Result<PointRow, Status> {
        if name.is_empty() {
            let points = self.store.points(item.id).await.map_err(unavailable)?;
            return points
                .into_iter()
                .find(|p| p.is_restorable_in(&p.region) && p.deleted_by.is_none())
                .ok_or_else(|| no_points(item.arm_id.name()));
        }
        let point = self.find_point_of(item, name).await?;
        refuse_if_deleted(&point.name, &point)?;
        if point.is_restorable_in(&point.region) {
            Ok(point)
        } else {
            Err(no_copy(&point, &point.region))
        }
    }

    pub(super) async fn confirm_restore(
        &self,
        by: String,
        request: StartRestoreRequest,
    ) -> Result<Job, Status> {
        let declared = self.env.clock.wall();
        let now = self.env.clock.monotonic();
        let planned = self.confirmations.restores.take(&request.confirmation, now)?;
        let outdated = |why: String| hinted(Code::Aborted, why, "ask for the restore again");
        if planned.by != by {
            return Err(outdated("another operator made this plan".to_owned()));
        }
        let item = planned.item;
        let vm = VmRef { name: item.arm_id.to_string(), resource_group: String::new() };
        let (point, _) = self.find_point(planned.point.as_str(), Some(&vm)).await?;
        refuse_if_deleted(&point.name, &point)?;
        let run = match planned.new_vm {
            Some(new_vm) => {
                let input = restore_new_vm::Input {
                    item: item.id,
                    vm: item.arm_id,
                    point: point.name,
                    new_vm,
                    declared,
                };
                new_run(restore_new_vm::RUN, &input, item.id, by)
            }
            None => {
                let now = self.services.azure.get_vm(&item.arm_id).await.map_err(|e| azure(&e))?;
                if attached_disks(&now) != planned.seen {
                    return Err(outdated(format!(
                        "the disks of {} have changed since the restore was planned",
                        item.arm_id.name()
                    )));
                }
                let input = restore_in_place::Input {
                    item: item.id,
                    vm: item.arm_id,
                    point: point.name,
                    declared,
                };
                new_run(restore_in_place::RUN, &input, item.id, by)
            }
        };
        self.submit(run).await
    }

    /// How long it will take: from finished restores of this kind, else a default that says so.
    async fn estimate(&self, new_vm: bool) -> Result<(u32, u32, &'static str), Status> {
        let workflow = if new_vm { restore_new_vm::RUN.0 } else { restore_in_place::RUN.0 };
        let done = self
            .store
            .recent_runs(Some(RunState::Succeeded), None, Some(workflow), 20)
            .await
            .map_err(unavailable)?;
        let mut times: Vec<u64> = done
            .iter()
            .filter_map(|r| r.result.as_ref()?["restore"]["rto_ms"].as_u64())
            .filter(|ms| *ms > 0)
            .map(|ms| ms.div_ceil(1000))
            .collect();
        times.sort_unstable();
        Ok(match (times.first(), times.last()) {
            (Some(low), Some(high)) => (*low as u32, *high as u32, "measured"),
            // The guide's figures for a VM of ordinary size.
            _ => (600, 900, "default"),
        })
    }
}

/// LUN and disk of everything attached, and the machine itself.
fn attached_disks(vm: &Vm) -> Vec<String> {
    let id = |d: &Option<ArmId>| d.as_ref().map(|d| d.key().to_owned()).unwrap_or_default();
    let os = vm.os_disk.as_ref().map(|d| format!("os {}", id(&d.managed_disk)));
    let data = vm.data_disks.iter().map(|d| format!("{:?} {}", d.lun, id(&d.managed_disk)));
    let mut all: Vec<_> = vm.vm_id.iter().cloned().chain(os).chain(data).collect();
    all.sort();
    all
}

fn in_place(vm: &Vm, point: &PointRow) -> (Vec<String>, Vec<String>) {
    let name = |d: &Option<ArmId>| d.as_ref().map_or("?", |d| d.name()).to_owned();
    let mut actions = Vec::new();
    let mut replaced = Vec::new();
    for disk in &point.description.disks {
        let (which, current) = match disk.lun {
            None => ("OS disk".to_owned(), vm.os_disk.as_ref().map(|d| name(&d.managed_disk))),
            Some(lun) => (
                format!("data disk at LUN {lun}"),
                vm.data_disks.iter().find(|d| d.lun == Some(lun)).map(|d| name(&d.managed_disk)),
            ),
        };
        match current {
            Some(current) => {
                actions
                    .push(format!("replace the {which} ({current}) with its copy of this backup"));
                replaced.push(current);
            }
            None => actions.push(format!("attach this backup's {which}, where none is today")),
        }
    }
    let mut warnings = vec![if point.description.disks.len() == 1 {
        "This will replace the VM's OS disk".to_owned()
    } else {
        format!("This will replace {} disks of the VM", replaced.len())
    }];
    for disk in &vm.data_disks {
        if !point.description.disks.iter().any(|d| d.lun.is_some() && d.lun == disk.lun) {
            warnings.push(format!(
                "The disk at LUN {} ({}) is not in this backup and stays as it is",
                disk.lun.unwrap_or_default(),
                name(&disk.managed_disk)
            ));
        }
    }
    let running = !vm.power_state.as_ref().is_some_and(PowerState::is_off);
    if running {
        warnings.push("Current VM will be stopped during restore".to_owned());
    }
    actions.push("start the VM and prove that it is this backup".to_owned());
    actions.push(format!("keep the replaced disks ({})", replaced.join(", ")));
    (actions, warnings)
}

fn to_new_vm(new_vm: &ArmId, point: &PointRow) -> (Vec<String>, Vec<String>) {
    let actions = vec![
        match point.description.disks.len() {
            1 => "create a disk from this backup".to_owned(),
            n => format!("create {n} disks from this backup"),
        },
        format!("create VM {} of size {}", new_vm.name(), point.description.size),
        "use the original's subnet and resource group, or new ones where those are gone".to_owned(),
        "start it and give its agent an identity of its own".to_owned(),
    ];
    let warning = "The new VM runs with the original's host name and data".to_owned();
    (actions, vec![warning])
}

fn no_points(vm: &str) -> Status {
    hinted(
        Code::FailedPrecondition,
        format!("{vm} has no recovery point that can be restored"),
        &format!("take one with `azdr backup trigger {vm}`"),
    )
}
