//! Restores and failovers: planned first, and started only with the plan's confirmation.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_arm::{PowerState, Vm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::recovery_point::PointName;
use azdr_domain::restore_choice::{self, Basis, Candidate, Estimate};
use azdr_env::WallTime;
use azdr_proto::admin::{Job, PlanRestoreRequest, RestorePlan, StartRestoreRequest, VmRef};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::deletions::refuse_if_deleted;
use super::errors::{azure, hinted, unavailable};
use super::points::{no_copy, parse_region};
use crate::store::{Item, ItemId, PointRow, RunRow, RunState};
use crate::workflows::restore_new_vm::Failover;
use crate::workflows::{new_run, restore_in_place, restore_new_vm};

/// A restore that waits for its confirmation.
#[derive(Clone)]
pub(super) struct Planned {
    by: String,
    item: Item,
    point: PointName,
    new_vm: Option<ArmId>,
    failover: Option<Failover>,
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
        let mut request = request;
        if !request.recovery_point.is_empty() {
            let named = self.find_point_of(&item, &request.recovery_point).await?;
            request.recovery_point = named.name.to_string();
        }
        let points = self.store.points(item.id).await.map_err(unavailable)?;
        let target = self.target_of(&item, &request)?;
        let region = target.as_ref().map(|t| t.region.as_str());
        let (point, chosen_because) = choose(&vm_name, &points, region, &request)?;
        let new_vm = match (&target, request.new_vm_name.as_str()) {
            (None, "") => None,
            (Some(target), "") => {
                let name = format!("{vm_name}-{}", target.region);
                Some(new_vm_id(&item, &target.group, &name)?)
            }
            (Some(target), name) => Some(new_vm_id(&item, &target.group, name)?),
            (None, name) => Some(new_vm_id(&item, item.arm_id.resource_group(), name)?),
        };
        if let Some(new_vm) = &new_vm {
            self.refuse_if_taken(new_vm, target.is_some()).await?;
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
            (Some(new_vm), _) => match &target {
                Some(target) => to_another_region(new_vm, point, target),
                None => to_new_vm(new_vm, point),
            },
            (None, Some(vm)) => in_place(vm, point),
            (None, None) => unreachable!("refused above"),
        };
        let estimate = self.estimate(item.id, new_vm.is_some()).await?;
        let (basis, restores) = match estimate.basis {
            Basis::ThisVm(n) => ("this_vm", n),
            Basis::AllVms(n) => ("all_vms", n),
            Basis::Default => ("default", 0),
        };
        let planned = Planned {
            by,
            item: item.clone(),
            point: point.name.clone(),
            new_vm: new_vm.clone(),
            failover: target.map(|t| Failover {
                region: t.region,
                subnet: t.subnet,
                taken: point.created,
            }),
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
            estimate_low_secs: estimate.low.as_secs() as u32,
            estimate_high_secs: estimate.high.as_secs() as u32,
            estimate_basis: basis.to_owned(),
            estimate_restores: restores as u32,
            chosen_because,
        })
    }

    /// Where a failover goes, if it is one.
    fn target_of(
        &self,
        item: &Item,
        request: &PlanRestoreRequest,
    ) -> Result<Option<Target>, Status> {
        if request.target_region.is_empty() {
            for (field, value) in [
                ("target_resource_group", &request.target_resource_group),
                ("target_subnet", &request.target_subnet),
            ] {
                if !value.is_empty() {
                    let message = format!("{field} cannot be given without target_region");
                    return Err(Status::invalid_argument(message));
                }
            }
            return Ok(None);
        }
        let region = parse_region("target_region", &request.target_region)?;
        if region == item.location {
            return Err(hinted(
                Code::InvalidArgument,
                format!("target_region cannot be {region}: {} is there", item.arm_id.name()),
                &format!(
                    "restore there with `azdr backup restore {} --new-vm NAME`",
                    item.arm_id.name()
                ),
            ));
        }
        let group = match request.target_resource_group.trim() {
            "" => format!("{}-{region}", item.arm_id.resource_group()),
            given => given.to_owned(),
        };
        let subnet = match request.target_subnet.trim() {
            "" => None,
            given => {
                let id = ArmId::parse(given).ok();
                let subnet =
                    id.filter(|id| id.is_type("Microsoft.Network/virtualNetworks/subnets"));
                Some(subnet.ok_or_else(|| {
                    Status::invalid_argument(format!(
                        "target_subnet cannot be {given:?}: the ARM resource ID of a subnet is needed"
                    ))
                })?)
            }
        };
        Ok(Some(Target { region, group, subnet }))
    }

    async fn refuse_if_taken(&self, new_vm: &ArmId, failover: bool) -> Result<(), Status> {
        let vms = match self.azure_vms().await {
            Ok(vms) => vms,
            // With a region down Azure may not list; the job looks again, at this VM alone.
            Err(_) if failover => return Ok(()),
            Err(e) => return Err(e),
        };
        if vms.iter().any(|v| v.id.as_ref() == Some(new_vm)) {
            let message = format!("a VM named {:?} exists already", new_vm.name());
            return Err(hinted(Code::AlreadyExists, message, "choose another name"));
        }
        Ok(())
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
                    failover: planned.failover,
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

    /// How long it will take: from finished restores of this kind.
    async fn estimate(&self, item: ItemId, new_vm: bool) -> Result<Estimate, Status> {
        let workflow = if new_vm { restore_new_vm::RUN.0 } else { restore_in_place::RUN.0 };
        let mut measured = [Vec::new(), Vec::new()];
        for (item, times) in [Some(item), None].into_iter().zip(&mut measured) {
            let done =
                self.store.recent_runs(Some(RunState::Succeeded), item, Some(workflow), 20).await;
            let rto = |r: &RunRow| r.result.as_ref()?["restore"]["rto_ms"].as_u64();
            times.extend(
                done.map_err(unavailable)?
                    .iter()
                    .filter_map(rto)
                    .filter(|ms| *ms > 0)
                    .map(|ms| Duration::from_secs(ms.div_ceil(1000))),
            );
        }
        let [this_vm, all_vms] = measured;
        Ok(Estimate::of(&this_vm, &all_vms))
    }
}

/// Where a failover goes.
struct Target {
    region: String,
    group: String,
    subnet: Option<ArmId>,
}

fn new_vm_id(item: &Item, group: &str, name: &str) -> Result<ArmId, Status> {
    ArmId::virtual_machine(item.arm_id.subscription(), group, name).map_err(|e| {
        hinted(
            Code::InvalidArgument,
            format!("the new VM cannot be {name:?} in resource group {group:?}: {e}"),
            "name it with --new-vm",
        )
    })
}

/// The named point; or the newest at or before a time, with the reason; or the newest. `region`: where
/// it must be complete; `None`: at home.
fn choose<'a>(
    vm: &str,
    points: &'a [PointRow],
    region: Option<&str>,
    request: &PlanRestoreRequest,
) -> Result<(&'a PointRow, String), Status> {
    let region_of = |p: &'a PointRow| region.unwrap_or(&p.region).to_owned();
    let name = request.recovery_point.as_str();
    if request.at_unix_ms != 0 {
        if !name.is_empty() {
            return Err(Status::invalid_argument(
                "recovery_point and at_unix_ms cannot both be given",
            ));
        }
        let candidates: Vec<Candidate<'_>> = points
            .iter()
            .map(|p| Candidate {
                name: p.name.as_str(),
                at: p.created,
                unusable: match p.deleted_by {
                    Some(run) => Some(format!("is being deleted by job {run}")),
                    None if p.is_restorable_in(&region_of(p)) => None,
                    None => Some(format!("is not complete in {}", region_of(p))),
                },
            })
            .collect();
        let wanted = WallTime::from_unix_ms(request.at_unix_ms);
        let choice = restore_choice::at_or_before(&candidates, wanted).map_err(|e| {
            let hint = format!("see `azdr backup list {vm}`");
            hinted(Code::FailedPrecondition, format!("{vm}: {e}"), &hint)
        })?;
        return Ok((&points[choice.index], choice.because));
    }
    if name.is_empty() {
        let newest =
            points.iter().find(|p| p.is_restorable_in(&region_of(p)) && p.deleted_by.is_none());
        let newest = newest.ok_or_else(|| match region {
            None => no_points(vm),
            Some(region) => none_in(vm, points, region),
        });
        return newest.map(|p| (p, String::new()));
    }
    let point = points.iter().find(|p| p.name.as_str() == name).ok_or_else(|| {
        hinted(
            Code::NotFound,
            format!("{vm} has no recovery point {name:?}"),
            &format!("see `azdr backup list {vm}`"),
        )
    })?;
    refuse_if_deleted(&point.name, point)?;
    if point.is_restorable_in(&region_of(point)) {
        Ok((point, String::new()))
    } else {
        Err(no_copy(point, &region_of(point)))
    }
}

/// Nothing can be restored there: says what is where.
fn none_in(vm: &str, points: &[PointRow], region: &str) -> Status {
    let mut complete: BTreeMap<&str, &PointRow> = BTreeMap::new();
    for point in points.iter().rev() {
        let replicas = point.replicas.iter().map(|r| r.region.as_str());
        for place in std::iter::once(point.region.as_str()).chain(replicas) {
            if point.is_restorable_in(place) {
                complete.insert(place, point);
            }
        }
    }
    let mut there: Vec<String> =
        complete.iter().map(|(place, p)| format!("{} is the newest in {place}", p.name)).collect();
    let copying = points
        .iter()
        .find_map(|p| p.replicas.iter().find(|r| r.region == region && !r.state.is_over()));
    there.extend(copying.map(|r| format!("job {} is copying one to {region}", r.run)));
    let what = match there.is_empty() {
        true => "there is none anywhere".to_owned(),
        false => there.join("; "),
    };
    hinted(
        Code::FailedPrecondition,
        format!("{vm} has no complete recovery point in {region}: {what}"),
        &format!(
            "copy one while its own region is up: azdr backup replicate POINT --target-region {region}"
        ),
    )
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

fn to_another_region(
    new_vm: &ArmId,
    point: &PointRow,
    target: &Target,
) -> (Vec<String>, Vec<String>) {
    let region = &target.region;
    let actions = vec![
        match point.description.disks.len() {
            1 => format!("create a disk from this backup's copy in {region}"),
            n => format!("create {n} disks from this backup's copies in {region}"),
        },
        match &target.subnet {
            Some(subnet) => format!("use the subnet {}", subnet.name()),
            None => "make a network for it, without a way in from the internet".to_owned(),
        },
        format!(
            "create VM {} of size {} in resource group {}",
            new_vm.name(),
            point.description.size,
            target.group
        ),
        "start it, prove that it is this backup, and keep it".to_owned(),
    ];
    let warnings = vec![
        "The original is not touched: if it still runs, there are two of it then".to_owned(),
        "Name service and load balancers are not changed: point them to the new VM yourself"
            .to_owned(),
    ];
    (actions, warnings)
}

pub(super) fn no_points(vm: &str) -> Status {
    hinted(
        Code::FailedPrecondition,
        format!("{vm} has no recovery point that can be restored"),
        &format!("take one with `azdr backup trigger {vm}`"),
    )
}
