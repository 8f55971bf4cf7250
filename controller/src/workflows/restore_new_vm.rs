//! Restores a recovery point into a new VM, at home or (a failover) in a region that has a copy of it;
//! the original is not touched.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point; names; the original's subnet, if it is still there | – |
//! | `group` | the resource group, where it is gone with the original | deletes its own |
//! | `network` | a network, where the original's is gone | deletes it |
//! | `create_disks` (each) | disks from the point's snapshots | deletes them |
//! | `network_interface` | a NIC in the original's subnet | deletes it |
//! | `machine` | the VM | deletes it |
//! | `expect` | the run owns the instance's vmId; its agent becomes the new VM's own | – |
//! | `await_agent`, `probe_address`, `await_ssh` | evidence, as for a restore in place | – |
//!
//! Version 2 has `group` and `network`: with the VM, its group and its network gone, the point alone is
//! enough. Version 1 had neither.
//!
//! A failover asks nothing of the original's region, which may be down: its network is not looked at,
//! and the VM gets one of its own, or the subnet that was given.
//!
//! The machine carries the original's agent identity until its agent has been given one of its own
//! through the restored door (DESIGN §7): nothing meant for the original reaches it (I8).

use std::net::SocketAddr;
use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_domain::machine_evidence::Evidence;
use azdr_domain::policy_tag::POLICY_TAG;
use azdr_domain::recovery_point::PointName;
use azdr_domain::residue::Leaves;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::azure::{Resource, delete_if_ours, existing, finish, left_of_run, named};
use super::evidence::{
    AgentsWord, Expected, Reported, is_overdue, look_for_ssh, phases, ssh_address,
};
use super::machine::{AttachedDisk, DiskCopy, by_name, disk_copies, vm_like};
use super::ssh_look::{self, FromOutside};
use super::{StepCx, Workflow, evidence, machine, tags};
use crate::store::{CatalogueChange, ItemId, PointRow};
use crate::workflow::{
    Concluded, Definition, Done, Failure, LockKey, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a restore into a new VM is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the original.
    pub item: ItemId,
    /// The original.
    pub vm: ArmId,
    /// Which point.
    pub point: PointName,
    /// The VM to be made.
    pub new_vm: ArmId,
    /// When the restore was asked for: the RTO counts from here.
    pub declared: WallTime,
    /// It is a failover.
    #[serde(default)]
    pub failover: Option<Failover>,
}

/// What a failover is told beyond a restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failover {
    /// Where to, by the point's copy there.
    pub region: String,
    /// A subnet there; else a network is made.
    pub subnet: Option<ArmId>,
    /// The instant that the point shows: the RPO counts from here to the declaration.
    pub taken: WallTime,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("restore_new_vm", 3, RunPriority::Restore);
/// The first version, which is still finished.
pub const FIRST: u32 = 1;
/// It did not ask how the machine is.
pub const UNEXAMINED: u32 = 2;

const BOOT: Duration = Duration::from_secs(30 * 60);

const PLAN: StepKey<Plan> = StepKey::new("plan");
const GROUP: StepKey<()> = StepKey::new("group");
const NETWORK: StepKey<()> = StepKey::new("network");
const DISKS: StepKey<()> = StepKey::new("create_disks");
const NIC: StepKey<()> = StepKey::new("network_interface");
const MACHINE: StepKey<()> = StepKey::new("machine");
const EXPECT: StepKey<Expected> = StepKey::new("expect");
const AGENT: StepKey<Option<Reported>> = StepKey::new("await_agent");
const ADDRESS: StepKey<Option<SocketAddr>> = StepKey::new("probe_address");
const SSH: StepKey<Option<String>> = StepKey::new("await_ssh");
const HEALTH: StepKey<Option<Evidence>> = StepKey::new("health");
const JUDGE: StepKey<()> = StepKey::new("judge");

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    location: String,
    subnet: String,
    nic: ArmId,
    disks: Vec<DiskCopy>,
    has_agent: bool,
    /// The resource group is to be made.
    #[serde(default)]
    group: Option<ArmId>,
    /// A network is to be made, and its subnet used.
    #[serde(default)]
    vnet: Option<ArmId>,
}

/// The step list of a version.
pub fn workflow(version: u32) -> Definition<super::Services> {
    let mut steps = Workflow::new(RUN.0, Version(version), RUN.2)
        .lock_keys(|i: &Input| vec![LockKey(format!("vm:{}", i.new_vm.key()))])
        .step(PLAN, "Planning the new VM", plan)
        .no_undo("a lease ends with its run");
    if version > FIRST {
        steps = steps
            .step(GROUP, "Preparing the resource group", create_group)
            .undo(delete_group)
            .step(NETWORK, "Preparing the network", create_network)
            .undo(delete_network);
    }
    steps = steps
        .each(DISKS, "Restoring disks", 8, disks, create_disk)
        .undo_each(delete_disk)
        .step(NIC, "Creating the network interface", create_nic)
        .undo(delete_nic)
        .step(MACHINE, "Creating the new VM", create_machine)
        .undo(delete_machine)
        .step(EXPECT, "Announcing the new VM", expect)
        .undo(forget_new_vm)
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
    steps.residue(Leaves::Machine, left_over).conclude(conclude).build()
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let input = &cx.input;
    let services = cx.services();
    let point = services.catalogue.point(input.item, &input.point).await?;
    let failover = input.failover.as_ref();
    let location = failover.map_or(&point.region, |f| &f.region).clone();
    if existing(services.azure.get_vm(&input.new_vm).await)?.is_some() {
        let message = format!("a VM named {} exists already", input.new_vm.name());
        return Err(StepError::Fail(
            Failure::new("name_taken", message).hint("choose another name for --new-vm"),
        ));
    }
    let subnet = match failover {
        Some(failover) => given_subnet(services, failover).await?,
        None => originals_subnet(services, &point).await?,
    };
    let (subscription, group) = (input.new_vm.subscription(), input.new_vm.resource_group());
    let whole_group = input.new_vm.group();
    let has_group = existing(services.azure.get_resource_group(&whole_group).await)?.is_some();
    // The run's number keeps names apart even when the VM's is long.
    let unique = tags::run_tag(cx).replace('.', "-");
    let (subnet, vnet) = match subnet {
        Some(subnet) => (subnet, None),
        None => {
            let name = format!("azdr-restore-{unique}-vnet");
            let vnet = named(ArmId::virtual_network(subscription, group, &name))?;
            (named(vnet.subnet("default"))?, Some(vnet))
        }
    };
    let prefix = format!("azdr-restore-{unique}");
    let disks = disk_copies(&point, &location, (subscription, group), &prefix)?;
    let plan = Plan {
        location,
        subnet: subnet.to_string(),
        nic: named(ArmId::network_interface(
            subscription,
            group,
            &format!("azdr-restore-{unique}-nic"),
        ))?,
        disks,
        has_agent: services.catalogue.has_agent(input.item).await?,
        group: (!has_group).then_some(whole_group),
        vnet,
    };
    let lease = CatalogueChange::TakeLease { item: input.item, name: input.point.clone() };
    Ok(Done::new(plan).change(lease))
}

async fn given_subnet(
    services: &super::Services,
    failover: &Failover,
) -> Result<Option<ArmId>, StepError> {
    let found = surviving(services, failover.subnet.as_ref()).await?;
    match (&failover.subnet, &found) {
        (Some(wanted), None) => Err(StepError::Fail(
            Failure::new("no_subnet", format!("there is no subnet {wanted}"))
                .hint("give one that exists, or none: a network is then made"),
        )),
        _ => Ok(found),
    }
}

async fn originals_subnet(
    services: &super::Services,
    point: &PointRow,
) -> Result<Option<ArmId>, StepError> {
    let original = point.description.network_interfaces.first();
    let original = original.and_then(|n| n["id"].as_str()).and_then(|n| ArmId::parse(n).ok());
    let nic = match &original {
        Some(id) => existing(services.azure.get_network_interface(id).await)?,
        None => None,
    };
    match nic.and_then(|n| n.subnet) {
        Some(subnet) => Ok(Some(subnet)),
        None => surviving(services, point.description.subnet.as_ref()).await,
    }
}

/// The subnet, if its network is still there.
async fn surviving(
    services: &super::Services,
    subnet: Option<&ArmId>,
) -> Result<Option<ArmId>, StepError> {
    let Some(subnet) = subnet else { return Ok(None) };
    let vnet = subnet.as_str().rsplitn(3, '/').nth(2).and_then(|id| ArmId::parse(id).ok());
    let Some(vnet) = vnet else { return Ok(None) };
    let found = existing(services.azure.get_virtual_network(&vnet).await)?;
    let has =
        |v: &Value| v["id"].as_str().is_some_and(|id| ArmId::parse(id).as_ref() == Ok(subnet));
    let subnets = found.as_ref().and_then(|v| v.pointer("/properties/subnets")?.as_array());
    Ok(subnets.is_some_and(|all| all.iter().any(has)).then(|| subnet.clone()))
}

async fn create_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    if let Some(group) = &plan.group {
        let azure = &cx.services().azure;
        azure.ensure_resource_group(group, &plan.location, &tags::of_run(cx)).await?;
    }
    Ok(Done::new(()))
}

async fn delete_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    if let Some(group) = cx.output(PLAN)?.group {
        delete_if_ours(cx, Resource::Group, &group).await?;
    }
    Ok(Done::new(()))
}

async fn create_network(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    if let Some(vnet) = &plan.vnet {
        let body = json!({
            "location": plan.location, "tags": tags::of_run(cx),
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/24"]},
                "subnets": [{"name": "default", "properties": {"addressPrefix": "10.0.0.0/24"}}],
            },
        });
        finish(cx, "create", cx.services().azure.begin_create_virtual_network(vnet, body)).await?;
    }
    Ok(Done::new(()))
}

async fn delete_network(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    if let Some(vnet) = cx.output(PLAN)?.vnet {
        delete_if_ours(cx, Resource::Vnet, &vnet).await?;
    }
    Ok(Done::new(()))
}

fn disks(cx: &StepCx<Input>) -> Result<Vec<(String, DiskCopy)>, StepError> {
    Ok(by_name(cx.output(PLAN)?.disks))
}

async fn create_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    machine::create_disk(cx, disk, None).await.map(Done::new)
}

async fn delete_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Disk, &disk.id).await?;
    Ok(Done::new(()))
}

async fn create_nic(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let body = json!({
        "location": plan.location, "tags": tags::of_run(cx),
        "properties": {"ipConfigurations": [{"name": "primary", "properties": {
            "primary": true, "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": plan.subnet},
        }}]},
    });
    finish(cx, "create", cx.services().azure.begin_create_network_interface(&plan.nic, body))
        .await?;
    Ok(Done::new(()))
}

async fn delete_nic(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Nic, &cx.output(PLAN)?.nic).await?;
    Ok(Done::new(()))
}

async fn create_machine(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let point = cx.services().catalogue.point(cx.input.item, &cx.input.point).await?;
    let attached: Vec<_> = plan
        .disks
        .iter()
        .map(|d| AttachedDisk { original: &d.original, disk: &d.id, delete_option: "Detach" })
        .collect();
    let original = &point.description;
    // Its users' tags come back; what azdr wrote onto the original is not this machine's.
    let is_ours = |name: &str| name.starts_with("azdr:") || name == POLICY_TAG;
    let mut tags: tags::Tags = original
        .tags
        .iter()
        .filter(|(k, _)| !is_ours(k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    tags.extend(tags::of_run(cx));
    let abroad = plan.location != point.region;
    let body = vm_like(original, &plan.location, abroad, &attached, &plan.nic, "Detach", &tags);
    finish(cx, "create", cx.services().azure.begin_create_vm(&cx.input.new_vm, body)).await?;
    Ok(Done::new(()))
}

async fn delete_machine(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_if_ours(cx, Resource::Vm, &cx.input.new_vm).await?;
    Ok(Done::new(()))
}

/// Reads the instance's vmId from Azure and makes its agent the new VM's own.
async fn expect(cx: &StepCx<Input>) -> Result<Done<Expected>, StepError> {
    let services = cx.services();
    let vm = services.azure.get_vm(&cx.input.new_vm).await?;
    let vm_guid = vm.vm_id.filter(|id| !id.is_empty()).ok_or_else(|| {
        StepError::retry("azure_incomplete", "Azure does not say the new VM's vmId yet")
    })?;
    let point = services.catalogue.point(cx.input.item, &cx.input.point).await?;
    let since = cx.started_at(MACHINE.name).unwrap_or(cx.input.declared);
    let mut expected = Expected::of(&point, vm_guid, since);
    expected.own_vm = Some(cx.input.new_vm.clone());
    let change = CatalogueChange::ExpectInstance {
        vm_guid: expected.vm_guid.clone(),
        item: cx.input.item,
        durable: true,
        enrol_as: Some((cx.input.new_vm.clone(), cx.output(PLAN)?.location)),
    };
    Ok(Done::new(expected).change(change))
}

/// The expectation ends with its run; the new VM's row goes, and with it what its agent got.
async fn forget_new_vm(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    Ok(Done::new(()).change(CatalogueChange::ForgetVm { vm: cx.input.new_vm.clone() }))
}

async fn await_agent(cx: &StepCx<Input>) -> Result<Done<Option<Reported>>, StepError> {
    if !cx.output(PLAN)?.has_agent {
        return Ok(Done::new(None));
    }
    evidence::await_agent(cx, &cx.output(EXPECT)?).await.map(Done::new)
}

/// Asked once: waiting for SSH costs no requests.
async fn find_address(cx: &StepCx<Input>) -> Result<Done<Option<SocketAddr>>, StepError> {
    let services = cx.services();
    let vm = services.azure.get_vm(&cx.input.new_vm).await?;
    Ok(Done::new(ssh_address(services, &vm, services.settings.probe_address).await?))
}

async fn await_ssh(cx: &StepCx<Input>) -> Result<Done<Option<String>>, StepError> {
    let Some(address) = cx.output(ADDRESS)? else { return Ok(Done::new(None)) };
    match look_for_ssh(cx, address).await {
        Ok(banner) => Ok(Done::new(Some(banner))),
        Err(StepError::NotYet { .. }) if is_overdue(cx) => {
            // Nobody knows whether its SSH can be reached from here at all: the machine stays, and the
            // result says what is not known.
            Ok(Done::new(None))
        }
        Err(e) => Err(e),
    }
}

/// Asks the agent that has reported, and SSH.
async fn examine(cx: &StepCx<Input>) -> Result<Done<Option<Evidence>>, StepError> {
    let agent = AgentsWord::of(cx.output(PLAN)?.has_agent, cx.output(AGENT)?.is_some());
    let way = FromOutside { address: cx.output(ADDRESS)?, answered: cx.output(SSH)?.is_some() };
    evidence::examine_machine(cx, &cx.output(EXPECT)?, agent, way).await.map(Done::new)
}

/// Another machine than the one that was asked for is no restore. One that is not well is the point's own
/// state, which somebody has asked for: it stays, and the result says so.
async fn judge(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    if let Some(evidence) = cx.output(HEALTH)? {
        evidence::is_right_machine(&evidence)?;
    }
    Ok(Done::new(()))
}

async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    // A run that has turned back keeps nothing, however far it had come.
    let is_over = cx.try_output(SSH)?.filter(|_| cx.turned_back_at().is_none());
    let kept: Vec<ArmId> = match (is_over, cx.try_output(PLAN)?) {
        (_, None) => return Ok(Vec::new()),
        (Some(_), Some(plan)) => {
            let mut kept: Vec<_> = plan.disks.into_iter().map(|d| d.id).collect();
            kept.extend([plan.nic, cx.input.new_vm.clone()]);
            kept.extend(plan.group.into_iter().chain(plan.vnet));
            kept
        }
        (None, Some(_)) => Vec::new(),
    };
    left_of_run(cx, cx.input.vm.subscription(), &kept).await
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    if *outcome != Outcome::Succeeded {
        return Ok(Concluded::default());
    }
    let input = &cx.input;
    let reported = cx.output(AGENT)?;
    let banner = cx.output(SSH)?;
    let witnessed = reported.as_ref().is_some_and(|r| r.witness_verified);
    let confirmed_at = cx.done_at(SSH.name).unwrap_or(cx.steady_now());
    let Plan { has_agent, location, .. } = cx.output(PLAN)?;
    let unconfirmed = match (&reported, &banner) {
        (None, None) => "neither an agent nor SSH has answered: nobody knows whether it is up",
        (None, Some(_)) if has_agent => {
            "its agent has not reported and has no identity of its own yet; SSH answers"
        }
        _ => "",
    };
    let evidence = cx.try_output(HEALTH)?.flatten();
    let unconfirmed = evidence::or_doubt(unconfirmed, evidence.as_ref());
    let up = reported.is_some() || banner.is_some();
    let steps = [
        ("disks", DISKS.name, true),
        ("machine", MACHINE.name, true),
        ("boot", AGENT.name, up),
        ("connectivity", SSH.name, banner.is_some()),
    ];
    let result = json!({"restore": {
        "recovery_point": input.point,
        "vm_resource_id": input.new_vm,
        // Without a sign of life there is no recovery to time.
        "rto_ms": if up { confirmed_at.since(input.declared).as_millis() as u64 } else { 0 },
        "phases": phases(cx, input.declared, &steps),
        "power_state": if up { "running" } else { "" },
        "witness_verified": witnessed,
        "ssh_verified": ssh_look::is_verified(banner.is_some(), evidence.as_ref()),
        "unconfirmed": unconfirmed,
        "evidence": evidence.map(|e| e.facts).unwrap_or_default(),
        "kept_disks": [],
        "region": location,
        "rpo_ms": input.failover.as_ref().map(|f| input.declared.since(f.taken).as_millis() as u64),
    }});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
