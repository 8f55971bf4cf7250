//! Puts a VM onto copies of its disks from a recovery point, and back if that does not work.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | reads the VM; lease on the point | – |
//! | `create_disks` (each) | disks from the point's snapshots | deletes them |
//! | `stop` | powers the VM off (not deallocated: keeps capacity and addresses) | starts it if it ran |
//! | `swap_os_disk` | PATCH with `If-Match` | swaps back |
//! | `swap_data_disks` | PATCH with `If-Match` | swaps back |
//! | `check_disks` | a GET must show the exact set | – |
//! | `start` | starts the VM | powers it off |
//! | `await_agent` | hello with the witness; a wrong one turns back | – |
//! | `probe_address` | reads the VM's address | – |
//! | `await_ssh` | the banner, from outside | – |
//! | `health` | asks the machine's agent how it is; logs in from outside | – |
//! | `judge` | another machine than the one asked for turns back | – |
//! | `mark_replaced` (each) | tags on the replaced disks: by whom and until when they are kept | takes them off |
//! | `record` | replaced disks are kept for a while | – |
//!
//! The replaced disks are neither deleted nor written to (I6): whatever fails until the machine is
//! confirmed puts them back, and the VM into the power state it had. Disks map by the LUN recorded at
//! capture; disks attached today but absent from the point stay attached.

use std::net::SocketAddr;
use std::time::Duration;

use azdr_arm::{PowerState, Vm};
use azdr_domain::arm_id::ArmId;
use azdr_domain::machine_evidence::Evidence;
use azdr_domain::recovery_point::PointName;
use azdr_domain::residue::{Leaves, RunTag};
use azdr_domain::vm_description::DiskDescription;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::azure::{Resource, delete_if_ours, finish, left_of_run, named};
use super::evidence::{
    AgentsWord, Expected, Reported, is_overdue, look_for_ssh, phases, ssh_address, ssh_banner,
};
use super::machine::disk_like;
use super::ssh_look::{self, FromOutside};
use super::{StepCx, Workflow, evidence, tags};
use crate::mutation::{Mutation, planted};
use crate::store::{CatalogueChange, ItemId};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a restore in place is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Which point.
    pub point: PointName,
    /// When the restore was asked for: the RTO counts from here.
    pub declared: WallTime,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("restore_in_place", 3, RunPriority::Restore);

/// It did not tag the disks that it replaced.
pub const FIRST: u32 = 1;
/// It did not ask how the machine is.
pub const UNEXAMINED: u32 = 2;

const BOOT: Duration = Duration::from_secs(30 * 60);

const PLAN: StepKey<Plan> = StepKey::new("plan");
const DISKS: StepKey<()> = StepKey::new("create_disks");
const STOP: StepKey<()> = StepKey::new("stop");
const SWAP_OS: StepKey<()> = StepKey::new("swap_os_disk");
const SWAP_DATA: StepKey<()> = StepKey::new("swap_data_disks");
const CHECK: StepKey<()> = StepKey::new("check_disks");
const START: StepKey<()> = StepKey::new("start");
const AGENT: StepKey<Option<Reported>> = StepKey::new("await_agent");
const ADDRESS: StepKey<Option<SocketAddr>> = StepKey::new("probe_address");
const SSH: StepKey<Option<String>> = StepKey::new("await_ssh");
const HEALTH: StepKey<Option<Evidence>> = StepKey::new("health");
const JUDGE: StepKey<()> = StepKey::new("judge");
const MARK: StepKey<Marked> = StepKey::new("mark_replaced");
const RECORD: StepKey<()> = StepKey::new("record");

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    location: String,
    vm_guid: String,
    was_running: bool,
    /// Not only stopped: it must not be billed for having been restored.
    was_deallocated: bool,
    os: Swap,
    data: Vec<Swap>,
    /// `storageProfile.dataDisks` as it was, to be put back as it was.
    data_before: Vec<Value>,
    has_agent: bool,
    /// The point's machine can be recognised by its witness.
    has_witness: bool,
    /// SSH answered before the restore: then its silence afterwards speaks against the machine.
    ssh_answered: bool,
}

impl Plan {
    /// Whether every disk of the VM is replaced; false when one stays that the point does not know.
    fn all_disks(&self) -> bool {
        self.data_before.iter().all(|d| {
            let lun = d["lun"].as_u64();
            self.data.iter().any(|s| s.lun.map(u64::from) == lun)
        })
    }
}

/// One disk's replacement.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Swap {
    lun: Option<u32>,
    /// What is attached now; `None` at a LUN that is free today.
    current: Option<ArmId>,
    new: ArmId,
    snapshot: ArmId,
    size_bytes: u64,
    original: DiskDescription,
}

/// A replaced disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Replaced {
    disk: ArmId,
    /// Until when it is kept.
    until: WallTime,
}

/// What became of a replaced disk's tags.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Marked {
    /// Why it has none.
    problem: Option<String>,
}

/// The step list of this version.
pub fn workflow(version: u32) -> Definition<super::Services> {
    let mut steps = Workflow::new(RUN.0, Version(version), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("vm:{}", i.vm.key()))])
        .step(PLAN, "Reading the VM", plan)
        .no_undo("a lease ends with its run")
        .each(DISKS, "Creating disks from the recovery point", 8, swaps, create_disk)
        .undo_each(delete_disk)
        .step(STOP, "Stopping VM", stop)
        .undo(start_again)
        .step(SWAP_OS, "Swapping OS disk", swap_os)
        .undo(swap_os_back)
        .step(SWAP_DATA, "Swapping data disks", swap_data)
        .undo(swap_data_back)
        .step(CHECK, "Checking the attached disks", check_disks)
        .no_undo("reads only")
        .step(START, "Starting VM", start)
        .undo(power_off)
        .step(AGENT, "Waiting for the machine to prove itself", await_agent)
        .within(BOOT)
        .no_undo("waits only")
        .step(ADDRESS, "Finding the probe's address", find_address)
        .no_undo("reads only")
        .step(SSH, "Verifying SSH connectivity", await_ssh)
        .within(BOOT)
        .no_undo("looks only");
    if version > UNEXAMINED {
        steps = steps
            .step(HEALTH, "Examining the machine", examine)
            .within(BOOT)
            .no_undo("the probe's file on its disks goes with them")
            .step(JUDGE, "Judging the evidence", judge)
            .no_undo("touches nothing");
    }
    if version > FIRST {
        steps = steps.each(MARK, "Marking the replaced disks", 8, replaced, mark).undo_each(unmark);
    }
    steps
        .step(RECORD, "Recording the restore", record)
        .no_undo("last step: its changes are applied together with its journal entry")
        .residue(Leaves::Machine, left_over)
        .conclude(conclude)
        .build()
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let input = &cx.input;
    let services = cx.services();
    let point = services.catalogue.point(input.item, &input.point).await?;
    let vm = services.azure.get_vm_with_instance_view(&input.vm).await?;
    let location = point.region.clone();
    if !point.is_restorable_in(&location) {
        let message = format!("{} is not complete in {location}", input.point);
        return Err(StepError::fail("not_restorable", message));
    }
    let unique = tags::run_tag(cx).replace('.', "-");
    let group = (input.vm.subscription(), input.vm.resource_group());
    let mut swaps = Vec::new();
    for snapshot in point.snapshots_in(&location) {
        let original = point.description.disks.iter().find(|d| d.lun == snapshot.lun);
        let original = original.cloned().ok_or_else(|| {
            StepError::fail("internal", "a snapshot of the point has no description")
        })?;
        let current = attached(&vm, snapshot.lun);
        let current_size = match &current {
            Some(disk) => services.azure.get_disk(disk).await?.size_bytes.unwrap_or_default(),
            None => 0,
        };
        if snapshot.lun.is_none() && current_size != original.size_bytes {
            // Azure swaps OS disks of equal size only (AZURE.md B.6); a disk can grow, not shrink.
            if current_size < original.size_bytes {
                let message = format!(
                    "the OS disk has {current_size} bytes now and had {} at the time of {}",
                    original.size_bytes, input.point
                );
                return Err(StepError::Fail(
                    Failure::new("os_disk_size", message)
                        .hint("grow the current OS disk to that size, or restore with --new-vm"),
                ));
            }
        }
        let lun = snapshot.lun.map_or_else(|| "os".to_owned(), |n| format!("lun{n}"));
        let name = format!("azdr-restore-{unique}-{lun}");
        swaps.push(Swap {
            lun: snapshot.lun,
            current,
            new: named(ArmId::disk(group.0, group.1, &name))?,
            snapshot: snapshot.id.clone(),
            size_bytes: original.size_bytes.max(current_size),
            original,
        });
    }
    let at = swaps.iter().position(|s| s.lun.is_none()).ok_or_else(|| {
        StepError::fail("not_restorable", format!("{} has no OS disk", input.point))
    })?;
    let os = swaps.remove(at);
    let address = ssh_address(services, &vm, services.settings.probe_address).await?;
    let ssh_answered = match address {
        Some(address) => ssh_banner(address).await.is_some(),
        None => false,
    };
    // An agent that is there now, and had enrolled when the point was taken, must come back.
    let has_agent = services.catalogue.has_agent(input.item).await?;
    let data_before = vm
        .raw
        .pointer("/properties/storageProfile/dataDisks")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let plan = Plan {
        location,
        vm_guid: vm.vm_id.unwrap_or_default().to_ascii_lowercase(),
        was_running: !vm.power_state.as_ref().is_some_and(PowerState::is_off),
        was_deallocated: vm.power_state == Some(PowerState::Deallocated),
        os,
        data: swaps,
        data_before,
        has_agent,
        has_witness: !point.nonce.is_empty(),
        ssh_answered,
    };
    let lease = CatalogueChange::TakeLease { item: input.item, name: input.point.clone() };
    // The machine's certificate may be a year old: it may come through the restored door, and gets
    // the VM's own certificate back there.
    let expect = CatalogueChange::ExpectInstance {
        vm_guid: plan.vm_guid.clone(),
        item: input.item,
        durable: true,
        enrol_as: None,
    };
    Ok(Done::new(plan).change(lease).change(expect))
}

fn attached(vm: &Vm, lun: Option<u32>) -> Option<ArmId> {
    match lun {
        None => vm.os_disk.as_ref()?.managed_disk.clone(),
        Some(_) => vm.data_disks.iter().find(|d| d.lun == lun)?.managed_disk.clone(),
    }
}

fn swaps(cx: &StepCx<Input>) -> Result<Vec<(String, Swap)>, StepError> {
    let plan = cx.output(PLAN)?;
    let all = std::iter::once(plan.os).chain(plan.data);
    Ok(all.map(|s| (s.new.name().to_owned(), s)).collect())
}

async fn create_disk(cx: &StepCx<Input>, swap: &Swap) -> Result<Done<()>, StepError> {
    let location = cx.output(PLAN)?.location;
    let tags = tags::of_run(cx);
    let spec = disk_like(&swap.original, &swap.snapshot, &location, swap.size_bytes, false, tags);
    finish(cx, "create", cx.services().azure.begin_create_disk(&swap.new, &spec)).await?;
    Ok(Done::new(()))
}

async fn delete_disk(cx: &StepCx<Input>, swap: &Swap) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Disk, &swap.new).await?;
    Ok(Done::new(()))
}

async fn stop(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    if cx.output(PLAN)?.was_running {
        // What runs on it is about to be replaced: no need to wait for its shutdown.
        finish(cx, "power off", cx.services().azure.begin_power_off(&cx.input.vm, true)).await?;
    }
    Ok(Done::new(()))
}

/// Puts the VM into the power state it had.
async fn start_again(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    if plan.was_running {
        finish(cx, "start", cx.services().azure.begin_start(&cx.input.vm)).await?;
    } else if plan.was_deallocated {
        finish(cx, "deallocate", cx.services().azure.begin_deallocate(&cx.input.vm)).await?;
    }
    Ok(Done::new(()))
}

async fn swap_os(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    put_os_disk(cx, &plan.os.new).await
}

async fn swap_os_back(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let old = plan
        .os
        .current
        .ok_or_else(|| StepError::fail("internal", "the VM had no OS disk before the restore"))?;
    put_os_disk(cx, &old).await
}

/// Makes `disk` the VM's OS disk. Done when it is already.
async fn put_os_disk(cx: &StepCx<Input>, disk: &ArmId) -> Result<Done<()>, StepError> {
    let azure = &cx.services().azure;
    finish(cx, "update", async {
        let vm = azure.get_vm(&cx.input.vm).await?;
        if attached(&vm, None).as_ref() == Some(disk) {
            return Ok(azdr_arm::Started::Done(Value::Null));
        }
        let patch = json!({"properties": {"storageProfile": {"osDisk": {
            "createOption": vm.os_disk.as_ref().and_then(|d| d.create_option.clone())
                .unwrap_or_else(|| "Attach".to_owned()),
            "name": disk.name(),
            "managedDisk": {"id": disk.as_str()},
        }}}});
        azure.begin_patch_vm(&cx.input.vm, patch, vm.etag.as_deref()).await
    })
    .await?;
    Ok(Done::new(()))
}

async fn swap_data(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let disks = cx.output(PLAN)?.data.into_iter().map(|s| {
        let disk = json!({
            "lun": s.lun, "createOption": "Attach", "caching": s.original.caching,
            "deleteOption": s.original.delete_option.as_deref().unwrap_or("Detach"),
            "name": s.new.name(), "managedDisk": {"id": s.new.as_str()},
        });
        (s.lun.map(u64::from).unwrap_or_default(), Some(disk))
    });
    put_data_disks(cx, disks.collect()).await
}

async fn swap_data_back(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let disks = plan.data.iter().map(|s| {
        let lun = s.lun.map(u64::from).unwrap_or_default();
        let before = plan.data_before.iter().find(|d| d["lun"].as_u64() == Some(lun)).cloned();
        // However it was made once: now it is attached.
        let before = before.map(|mut disk| {
            disk["createOption"] = json!("Attach");
            disk
        });
        (lun, before)
    });
    put_data_disks(cx, disks.collect()).await
}

/// Puts these disks at their LUNs, or nothing where there was nothing. What is attached at other LUNs
/// stays, whoever attached it and when: ARM replaces the whole array, so it is built from a fresh
/// read, which `If-Match` then protects. Done when it is so already.
async fn put_data_disks(
    cx: &StepCx<Input>,
    disks: Vec<(u64, Option<Value>)>,
) -> Result<Done<()>, StepError> {
    let azure = &cx.services().azure;
    finish(cx, "update", async {
        let vm = azure.get_vm(&cx.input.vm).await?;
        let now = vm.raw.pointer("/properties/storageProfile/dataDisks");
        let now = now.and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = |d: &Value| disks.iter().any(|(lun, _)| d["lun"].as_u64() == Some(*lun));
        let mut wanted: Vec<Value> = now.iter().filter(|d| !ours(d)).cloned().collect();
        wanted.extend(disks.iter().filter_map(|(_, disk)| disk.clone()));
        if luns(&now) == luns(&wanted) {
            return Ok(azdr_arm::Started::Done(Value::Null));
        }
        let patch = json!({"properties": {"storageProfile": {"dataDisks": wanted}}});
        azure.begin_patch_vm(&cx.input.vm, patch, vm.etag.as_deref()).await
    })
    .await?;
    Ok(Done::new(()))
}

/// Which disk is at which LUN, comparably.
fn luns(disks: &[Value]) -> Vec<(u64, String)> {
    let mut luns: Vec<_> = disks
        .iter()
        .filter_map(|d| {
            let id = d.pointer("/managedDisk/id")?.as_str()?.to_ascii_lowercase();
            Some((d["lun"].as_u64()?, id))
        })
        .collect();
    luns.sort();
    luns
}

/// The VM is started only when Azure shows the exact set of disks.
async fn check_disks(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let vm = cx.services().azure.get_vm(&cx.input.vm).await?;
    for swap in std::iter::once(&plan.os).chain(&plan.data) {
        if attached(&vm, swap.lun).as_ref() != Some(&swap.new) {
            let which = swap.lun.map_or("OS disk".to_owned(), |n| format!("disk at LUN {n}"));
            let message = format!("the {which} is not the restored one yet");
            return Err(StepError::retry("disks_not_swapped", message));
        }
    }
    Ok(Done::new(()))
}

async fn start(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    finish(cx, "start", cx.services().azure.begin_start(&cx.input.vm)).await?;
    Ok(Done::new(()))
}

/// So that the old disks can be put back.
async fn power_off(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    finish(cx, "power off", cx.services().azure.begin_power_off(&cx.input.vm, true)).await?;
    Ok(Done::new(()))
}

/// Waits for the agent. A VM whose agent never enrolled has none to wait for.
async fn await_agent(cx: &StepCx<Input>) -> Result<Done<Option<Reported>>, StepError> {
    let plan = cx.output(PLAN)?;
    if !plan.has_agent {
        return Ok(Done::new(None));
    }
    evidence::await_agent(cx, &expected(cx, &plan).await?).await.map(Done::new)
}

async fn expected(cx: &StepCx<Input>, plan: &Plan) -> Result<Expected, StepError> {
    let point = cx.services().catalogue.point(cx.input.item, &cx.input.point).await?;
    let since = cx.started_at(START.name).unwrap_or(cx.input.declared);
    let mut expected = Expected::of(&point, plan.vm_guid.clone(), since);
    expected.all_disks = plan.all_disks();
    expected.after = cx.began_here(START.name);
    Ok(expected)
}

/// Asked once: waiting for SSH costs no requests.
async fn find_address(cx: &StepCx<Input>) -> Result<Done<Option<SocketAddr>>, StepError> {
    let services = cx.services();
    let vm = services.azure.get_vm(&cx.input.vm).await?;
    Ok(Done::new(ssh_address(services, &vm, services.settings.probe_address).await?))
}

/// Probes SSH from outside, where there is a way.
async fn await_ssh(cx: &StepCx<Input>) -> Result<Done<Option<String>>, StepError> {
    let services = cx.services();
    let address = cx.output(ADDRESS)?;
    let plan = cx.output(PLAN)?;
    let reported = cx.output(AGENT)?.is_some();
    let Some(address) = address else {
        // Silence of an agent that should speak, and nobody else to ask, is no evidence against.
        return Ok(Done::new(None));
    };
    match look_for_ssh(cx, address).await {
        Ok(banner) => Ok(Done::new(Some(banner))),
        Err(StepError::NotYet { .. }) if is_overdue(cx) => {
            // No evidence is not evidence against: SSH must have answered before for its silence to
            // count (DESIGN §4), and a witness has more to say than a banner.
            if reported || !plan.ssh_answered {
                return Ok(Done::new(None));
            }
            let who = if plan.has_agent { "neither its agent nor SSH has" } else { "SSH has not" };
            let limit = services.settings.boot_limit.as_secs();
            let message = format!("the restored VM did not come up: {who} answered in {limit} s");
            Err(StepError::Fail(
                Failure::new("no_boot", message)
                    .hint("the old disks are put back; try another point"),
            ))
        }
        Err(e) => Err(e),
    }
}

/// Asks the agent that has reported, and SSH.
async fn examine(cx: &StepCx<Input>) -> Result<Done<Option<Evidence>>, StepError> {
    let plan = cx.output(PLAN)?;
    let agent = AgentsWord::of(plan.has_agent, cx.output(AGENT)?.is_some());
    let way = FromOutside { address: cx.output(ADDRESS)?, answered: cx.output(SSH)?.is_some() };
    evidence::examine_machine(cx, &expected(cx, &plan).await?, agent, way).await.map(Done::new)
}

/// Another machine than the one that was asked for is no restore. One that is not well is the point's own
/// state, which somebody has asked for: it stays, and the result says so.
async fn judge(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    if let Some(evidence) = cx.output(HEALTH)? {
        evidence::is_right_machine(&evidence)?;
    }
    Ok(Done::new(()))
}

fn keep_until(cx: &StepCx<Input>) -> WallTime {
    cx.now().plus(cx.services().settings.keep_replaced)
}

fn replaced(cx: &StepCx<Input>) -> Result<Vec<(String, Replaced)>, StepError> {
    let plan = cx.output(PLAN)?;
    let until = keep_until(cx);
    let disks = std::iter::once(plan.os).chain(plan.data).filter_map(|s| s.current);
    Ok(disks.map(|disk| (disk.key().to_owned(), Replaced { disk, until })).collect())
}

fn own_tag(cx: &StepCx<Input>) -> RunTag {
    let installation = cx.services().settings.installation.clone();
    RunTag { installation, run: cx.run_id().0 }
}

/// For a catalogue that is rebuilt, and for people. The machine is restored and confirmed: a disk that
/// cannot be tagged is no reason to take that back.
async fn mark(cx: &StepCx<Input>, replaced: &Replaced) -> Result<Done<Marked>, StepError> {
    let kept = tags::KeptTags {
        by: own_tag(cx),
        until: replaced.until,
        vm: cx.input.vm.clone(),
        disk: replaced.disk.clone(),
    };
    let marked = cx.services().azure.merge_tags(&replaced.disk, tags::of_kept(&kept)).await;
    let problem = match marked.map_err(StepError::from) {
        Ok(()) => None,
        Err(StepError::Fail(failure)) => Some(failure.message.to_string()),
        Err(StepError::Retry { failure, .. }) if is_overdue(cx) => {
            Some(failure.message.to_string())
        }
        Err(e) => return Err(e),
    };
    if let Some(problem) = &problem {
        tracing::warn!(run = %cx.run_id(), disk = %replaced.disk, problem, "not tagged as kept");
    }
    Ok(Done::new(Marked { problem }))
}

async fn unmark(cx: &StepCx<Input>, replaced: &Replaced) -> Result<Done<()>, StepError> {
    tags::unmark_kept(cx.services(), &replaced.disk, &own_tag(cx)).await?;
    Ok(Done::new(()))
}

async fn record(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let marked: Vec<Replaced> = cx.each_items(MARK)?;
    let now = keep_until(cx);
    let mut done = Done::new(());
    for swap in std::iter::once(plan.os).chain(plan.data) {
        if let Some(disk) = swap.current {
            let until = marked.iter().find(|m| m.disk == disk).map_or(now, |m| m.until);
            if planted(Mutation::RestoreDeletesDisks) {
                let _ = cx.services().azure.begin_delete_disk(&disk).await;
            }
            done = done.change(CatalogueChange::KeepDisk { disk, item: cx.input.item, until });
        }
        // A disk that an earlier restore replaced may be the one in use again.
        done = done.change(CatalogueChange::UnkeepDisk { disk: swap.new });
    }
    Ok(done)
}

async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    let kept: Vec<ArmId> = match (cx.try_output(RECORD)?, cx.try_output(PLAN)?) {
        (_, None) => return Ok(Vec::new()),
        (Some(()), Some(plan)) => {
            std::iter::once(plan.os).chain(plan.data).map(|s| s.new).collect()
        }
        (None, Some(_)) => Vec::new(),
    };
    left_of_run(cx, cx.input.vm.subscription(), &kept).await
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    let (Some(plan), Outcome::Succeeded) = (cx.try_output(PLAN)?, outcome) else {
        return Ok(Concluded::default());
    };
    let input = &cx.input;
    let reported = cx.output(AGENT)?;
    let banner = cx.output(SSH)?;
    let witnessed = reported.as_ref().is_some_and(|r| r.witness_verified);
    let confirmed_at = cx.done_at(SSH.name).unwrap_or(cx.steady_now());
    let unconfirmed = match (&reported, &banner) {
        (None, None) => "neither an agent nor SSH could be asked whether the machine is up",
        (Some(_), _) if !witnessed && plan.has_witness => "the machine showed no witness",
        (None, Some(_)) if plan.has_agent => "its agent has not reported; SSH answers",
        _ => "",
    };
    let evidence = cx.try_output(HEALTH)?.flatten();
    let unconfirmed = evidence::or_doubt(unconfirmed, evidence.as_ref());
    let kept: Vec<String> = std::iter::once(&plan.os)
        .chain(&plan.data)
        .filter_map(|s| s.current.as_ref().map(ToString::to_string))
        .collect();
    let up = reported.is_some() || banner.is_some();
    let steps = [
        ("disks", DISKS.name, true),
        ("stop", STOP.name, true),
        ("swap", CHECK.name, true),
        ("start", START.name, true),
        ("boot", AGENT.name, up),
        ("connectivity", SSH.name, banner.is_some()),
    ];
    let result = json!({"restore": {
        "recovery_point": input.point,
        "vm_resource_id": input.vm,
        // Without a sign of life there is no recovery to time.
        "rto_ms": match up {
            true => confirmed_at.since(input.declared).as_millis() as u64,
            false => 0,
        },
        "phases": phases(cx, input.declared, &steps),
        "power_state": if up { "running" } else { "" },
        "witness_verified": witnessed,
        "ssh_verified": ssh_look::is_verified(banner.is_some(), evidence.as_ref()),
        "unconfirmed": unconfirmed,
        "kept_disks": kept,
        "evidence": evidence.as_ref().map(|e| &e.facts[..]).unwrap_or_default(),
    }});
    let mut changes = Vec::new();
    if witnessed && evidence::is_booted(evidence.as_ref()) {
        changes.push(CatalogueChange::AddProof {
            item: input.item,
            name: input.point.clone(),
            region: plan.location,
            level: "booted".to_owned(),
            passed: true,
            detail: "restored in place; the machine showed the witness".to_owned(),
        });
    }
    Ok(Concluded { result: Some(result), changes })
}
