//! Boots a recovery point in an isolated network, proves that it is alive, measures the RTO, and
//! leaves nothing behind.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `plan` | lease on the point, names | – |
//! | `group` (temporary) | a resource group of the drill's own, or the given one | deletes its own |
//! | `network_security_group`, `virtual_network`, `public_ip`, `network_interface` (temporary) | an isolated network | delete |
//! | `disks` (each, temporary) | disks from the region's snapshots | delete |
//! | `machine` (temporary) | the VM | deletes it |
//! | `expect` | the run owns the instance's vmId | – |
//! | `boot` | waits for the agent's hello with the witness | – |
//! | `probe_address` | reads the drill's address | – |
//! | `connectivity` | waits for SSH from outside | – |
//! | `health` | asks the machine's agent how it is; logs in from outside | – |
//! | `judge` | fails when the machine is not well, or is another one | – |
//!
//! A drill whose machine is to be kept for a while (`dr_test_kept`) has two steps more:
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `record` | the drill's result, which nothing that follows changes | – |
//! | `keep` | waits; the run holds the point and the machine | – |
//!
//! All of it goes again, on success as on failure; the run ends when a listing of Azure shows that
//! (I5). RTO = declared start to the outside probe's success, clean-up excluded. A failed drill
//! counts: it is recorded like a passed one.

use std::net::SocketAddr;
use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_domain::machine_evidence::Evidence;
use azdr_domain::name::{NameKind, ResourceName};
use azdr_domain::recovery_point::PointName;
use azdr_domain::residue::Leaves;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::azure::{Resource, delete_if_ours, finish, left_of_run, named};
use super::evidence::{
    AgentsWord, Expected, Reported, is_overdue, look_for_ssh, phases, ssh_address,
};
use super::machine::{AttachedDisk, DiskCopy, by_name, disk_copies, vm_like};
use super::ssh_look::{self, FromOutside};
use super::{DrillAccess, ProbeAddress, StepCx, Workflow, evidence, machine, tags};
use crate::store::{CatalogueChange, ItemId};
use crate::workflow::{
    Concluded, Definition, Done, Failure, Outcome, RunPriority, StepError, StepKey, Version,
};

/// What a DR test is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The catalogue's row of the VM.
    pub item: ItemId,
    /// The VM.
    pub vm: ArmId,
    /// Which point.
    pub point: PointName,
    /// Where.
    pub region: String,
    /// An existing resource group to use instead of one of the drill's own.
    pub resource_group: Option<String>,
    /// When the drill was declared: the RTO counts from here. `None`: when its run starts, for one of
    /// many drills, whose turn comes when it comes.
    pub declared: Option<WallTime>,
    /// How long the machine is kept after it has passed, at most [`MAX_KEEP`]; zero but for
    /// `dr_test_kept`.
    #[serde(default)]
    pub keep: Duration,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("dr_test", 2, RunPriority::Drill);

/// It did not ask how the machine is.
pub const FIRST: u32 = 1;

/// A drill whose machine is kept for a while.
pub const KEPT: (&str, u32, RunPriority) = ("dr_test_kept", 2, RunPriority::Drill);

/// A machine costs money for as long as it is kept.
pub const MAX_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// One machine may take this long to come up.
const BOOT: Duration = Duration::from_secs(30 * 60);

const PLAN: StepKey<Plan> = StepKey::new("plan");
const GROUP: StepKey<()> = StepKey::new("group");
const NSG: StepKey<()> = StepKey::new("network_security_group");
const VNET: StepKey<()> = StepKey::new("virtual_network");
const PUBLIC_IP: StepKey<()> = StepKey::new("public_ip");
const NIC: StepKey<()> = StepKey::new("network_interface");
const DISKS: StepKey<()> = StepKey::new("disks");
const MACHINE: StepKey<()> = StepKey::new("machine");
const EXPECT: StepKey<Expected> = StepKey::new("expect");
const BOOTED: StepKey<Option<Reported>> = StepKey::new("boot");
const ADDRESS: StepKey<Option<SocketAddr>> = StepKey::new("probe_address");
const CONNECTIVITY: StepKey<Connectivity> = StepKey::new("connectivity");
const HEALTH: StepKey<Option<Evidence>> = StepKey::new("health");
const JUDGE: StepKey<()> = StepKey::new("judge");
const RECORD: StepKey<()> = StepKey::new("record");
const KEEP: StepKey<()> = StepKey::new("keep");

/// Names and originals, fixed before anything is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    group: ArmId,
    own_group: bool,
    nsg: ArmId,
    vnet: ArmId,
    public_ip: Option<ArmId>,
    allowed_source: String,
    nic: ArmId,
    machine: ArmId,
    disks: Vec<DiskCopy>,
    /// The VM's agent has enrolled, so a copy of it is expected to report.
    has_agent: bool,
}

/// What the probe from outside found.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Connectivity {
    /// The SSH banner; `None` where no way to SSH is configured.
    banner: Option<String>,
    /// When the last evidence came.
    at: WallTime,
}

/// The step list of a version.
pub fn workflow(version: u32) -> Definition<super::Services> {
    drill(RUN, version).residue(Leaves::Nothing, left_over).conclude(conclude).build()
}

/// The step list of a version of a drill whose machine is kept.
pub fn workflow_kept(version: u32) -> Definition<super::Services> {
    drill(KEPT, version)
        .step(RECORD, "Recording the result", record)
        .no_undo("last but one step: its changes are applied together with its journal entry")
        .step(KEEP, "Keeping the test VM", keep)
        .within(MAX_KEEP + BOOT)
        .no_undo("waits only")
        .run_within(MAX_KEEP + Duration::from_secs(12 * 3600))
        .residue(Leaves::Nothing, left_over)
        .conclude(conclude)
        .build()
}

fn drill(run: (&'static str, u32, RunPriority), version: u32) -> Workflow<Input> {
    let steps = Workflow::new(run.0, Version(version), run.2)
        .step(PLAN, "Planning the drill", plan)
        .no_undo("a lease ends with its run")
        .temporary(GROUP, "Creating the drill's resource group", create_group)
        .undo(delete_group)
        .temporary(NSG, "Creating the isolated network's rules", create_nsg)
        .undo(delete_nsg)
        .temporary(VNET, "Creating the isolated network", create_vnet)
        .undo(delete_vnet)
        .temporary(PUBLIC_IP, "Creating the probe's address", create_public_ip)
        .undo(delete_public_ip)
        .temporary(NIC, "Creating the network interface", create_nic)
        .undo(delete_nic)
        .each(DISKS, "Restoring disks", 8, disks, create_disk)
        .temporary_items()
        .undo_each(delete_disk)
        .temporary(MACHINE, "Creating the test VM", create_machine)
        .undo(delete_machine)
        .step(EXPECT, "Announcing the test VM", expect)
        .no_undo("an expectation ends with its run")
        .step(BOOTED, "Verifying that the VM boots", await_boot)
        .within(BOOT)
        .no_undo("waits only")
        .step(ADDRESS, "Finding the probe's address", find_address)
        .no_undo("reads only")
        .step(CONNECTIVITY, "Verifying SSH connectivity", await_ssh)
        .within(BOOT)
        .no_undo("looks only");
    if version == FIRST {
        return steps;
    }
    steps
        .step(HEALTH, "Examining the test VM", examine)
        .within(BOOT)
        .no_undo("the probe's file on its disks goes with them")
        .step(JUDGE, "Judging the evidence", judge)
        .no_undo("touches nothing")
}

/// When the drill was declared.
fn declared(cx: &StepCx<Input>) -> WallTime {
    cx.input.declared.or(cx.started_at(PLAN.name)).unwrap_or(cx.steady_now())
}

async fn plan(cx: &StepCx<Input>) -> Result<Done<Plan>, StepError> {
    let input = &cx.input;
    let services = cx.services();
    let point = services.catalogue.point(input.item, &input.point).await?;
    let subscription = input.vm.subscription();
    let unique = tags::run_tag(cx).replace('.', "-");
    let (group_name, own_group) = match &input.resource_group {
        Some(name) => (name.clone(), false),
        None => (format!("azdr-drill-{unique}"), true),
    };
    let group = named(ArmId::resource_group_id(subscription, &group_name))?;
    let name = |suffix: &str| format!("azdr-{unique}-{suffix}");
    let rg = group_name.as_str();
    let (public_ip, allowed_source) = match &services.settings.drill_access {
        DrillAccess::PublicIp { allowed_source } => {
            let id = named(ArmId::public_ip(subscription, rg, &name("pip")))?;
            (Some(id), allowed_source.clone())
        }
        DrillAccess::None => (None, String::new()),
    };
    let disks = disk_copies(&point, &input.region, (subscription, rg), &format!("azdr-{unique}"))?;
    let plan = Plan {
        nsg: named(ArmId::network_security_group(subscription, rg, &name("nsg")))?,
        vnet: named(ArmId::virtual_network(subscription, rg, &name("vnet")))?,
        nic: named(ArmId::network_interface(subscription, rg, &name("nic")))?,
        machine: named(ArmId::virtual_machine(subscription, rg, &test_vm_name(cx)))?,
        public_ip,
        allowed_source,
        group,
        own_group,
        disks,
        has_agent: services.catalogue.has_agent(input.item).await?,
    };
    let lease = CatalogueChange::TakeLease { item: input.item, name: input.point.clone() };
    Ok(Done::new(plan).change(lease))
}

/// `{vm}-dr-test-{yyyymmdd}`, with the run's number, so that two drills of a day do not meet.
fn test_vm_name(cx: &StepCx<Input>) -> String {
    let day = declared(cx).to_string();
    let day: String = day.chars().take(10).filter(char::is_ascii_digit).collect();
    let suffix = format!("-dr-test-{day}-{}", cx.run_id());
    let name = cx.input.vm.name();
    let whole = format!("{name}{suffix}");
    if ResourceName::new(NameKind::VirtualMachine, &whole).is_ok() {
        return whole;
    }
    // A long name is shortened with its hash, never cut into a collision.
    let hash = cx.input.vm.short_hash();
    let keep: String = name.chars().take(63 - suffix.len() - hash.len()).collect();
    format!("{keep}-{hash}{suffix}")
}

async fn create_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let azure = &cx.services().azure;
    if plan.own_group {
        azure.ensure_resource_group(&plan.group, &cx.input.region, &tags::of_run(cx)).await?;
    } else {
        azure.get_resource_group(&plan.group).await?;
    }
    Ok(Done::new(()))
}

async fn delete_group(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    // A group that was given is not tagged with this run, and stays.
    delete_if_ours(cx, Resource::Group, &plan.group).await?;
    Ok(Done::new(()))
}

/// Deletes a part of the drill. In a group of the drill's own the group's deletion takes it along.
async fn delete_part(
    cx: &StepCx<Input>,
    kind: Resource,
    id: impl FnOnce(&Plan) -> Option<ArmId>,
) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    if let Some(id) = id(&plan).filter(|_| !plan.own_group) {
        delete_if_ours(cx, kind, &id).await?;
    }
    Ok(Done::new(()))
}

/// Nothing in or out but the controller's address to SSH.
async fn create_nsg(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let rule = |name: &str, priority: u32, direction: &str, access: &str, from: &str, to: &str| {
        json!({"name": name, "properties": {
            "priority": priority, "direction": direction, "access": access, "protocol": "*",
            "sourceAddressPrefix": from, "sourcePortRange": "*",
            "destinationAddressPrefix": "*", "destinationPortRange": to,
        }})
    };
    let port = cx.services().settings.ssh_port.to_string();
    let mut rules = vec![
        rule("deny-in", 4096, "Inbound", "Deny", "*", "*"),
        rule("deny-out", 4096, "Outbound", "Deny", "*", "*"),
    ];
    if plan.public_ip.is_some() {
        rules.push(rule("probe", 100, "Inbound", "Allow", &plan.allowed_source, &port));
    }
    // The agent of the drill's machine may reach the controller, and nothing else. A controller that
    // is known by a host name only cannot be named in a rule: then SSH is the evidence.
    let agents = cx.services().settings.agent_address.as_deref();
    if let Some(Ok(controller)) = agents.map(str::parse::<SocketAddr>) {
        let mut out = rule("controller", 100, "Outbound", "Allow", "*", "");
        out["properties"]["destinationAddressPrefix"] = json!(controller.ip().to_string());
        out["properties"]["destinationPortRange"] = json!(controller.port().to_string());
        rules.push(out);
    }
    let body = json!({
        "location": cx.input.region, "tags": tags::of_run(cx),
        "properties": {"securityRules": rules},
    });
    let azure = &cx.services().azure;
    finish(cx, "create", azure.begin_create_network_security_group(&plan.nsg, body)).await?;
    Ok(Done::new(()))
}

async fn delete_nsg(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::Nsg, |p| Some(p.nsg.clone())).await
}

async fn create_vnet(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let body = json!({
        "location": cx.input.region, "tags": tags::of_run(cx),
        "properties": {
            "addressSpace": {"addressPrefixes": ["10.255.0.0/24"]},
            "subnets": [{"name": SUBNET, "properties": {
                "addressPrefix": "10.255.0.0/24",
                "networkSecurityGroup": {"id": plan.nsg.as_str()},
            }}],
        },
    });
    finish(cx, "create", cx.services().azure.begin_create_virtual_network(&plan.vnet, body))
        .await?;
    Ok(Done::new(()))
}

/// The only subnet of the drill's network.
const SUBNET: &str = "drill";

async fn delete_vnet(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::Vnet, |p| Some(p.vnet.clone())).await
}

async fn create_public_ip(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let Some(id) = cx.output(PLAN)?.public_ip else { return Ok(Done::new(())) };
    let body = json!({
        "location": cx.input.region, "tags": tags::of_run(cx), "sku": {"name": "Standard"},
        "properties": {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"},
    });
    finish(cx, "create", cx.services().azure.begin_create_public_ip(&id, body)).await?;
    Ok(Done::new(()))
}

async fn delete_public_ip(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::PublicIp, |p| p.public_ip.clone()).await
}

async fn create_nic(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let subnet = named(plan.vnet.subnet(SUBNET))?;
    let mut configuration = json!({
        "primary": true, "privateIPAllocationMethod": "Dynamic",
        "subnet": {"id": subnet.as_str()},
    });
    if let Some(ip) = &plan.public_ip {
        configuration["publicIPAddress"] = json!({"id": ip.as_str()});
    }
    let body = json!({
        "location": cx.input.region, "tags": tags::of_run(cx),
        "properties": {
            "ipConfigurations": [{"name": "primary", "properties": configuration}],
            "networkSecurityGroup": {"id": plan.nsg.as_str()},
        },
    });
    finish(cx, "create", cx.services().azure.begin_create_network_interface(&plan.nic, body))
        .await?;
    Ok(Done::new(()))
}

async fn delete_nic(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::Nic, |p| Some(p.nic.clone())).await
}

fn disks(cx: &StepCx<Input>) -> Result<Vec<(String, DiskCopy)>, StepError> {
    Ok(by_name(cx.output(PLAN)?.disks))
}

async fn create_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    machine::create_disk(cx, disk, None).await.map(Done::new)
}

async fn delete_disk(cx: &StepCx<Input>, disk: &DiskCopy) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::Disk, |_| Some(disk.id.clone())).await
}

async fn create_machine(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let point = cx.services().catalogue.point(cx.input.item, &cx.input.point).await?;
    let attached: Vec<_> = plan
        .disks
        .iter()
        .map(|d| AttachedDisk { original: &d.original, disk: &d.id, delete_option: "Delete" })
        .collect();
    let abroad = cx.input.region != point.region;
    let body = vm_like(
        &point.description,
        &cx.input.region,
        abroad,
        &attached,
        &plan.nic,
        "Delete",
        &tags::of_run(cx),
    );
    finish(cx, "create", cx.services().azure.begin_create_vm(&plan.machine, body)).await?;
    Ok(Done::new(()))
}

async fn delete_machine(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    delete_part(cx, Resource::Vm, |p| Some(p.machine.clone())).await
}

/// Reads the instance's vmId from Azure: only with it does a session count as this drill's (I8).
async fn expect(cx: &StepCx<Input>) -> Result<Done<Expected>, StepError> {
    let plan = cx.output(PLAN)?;
    let services = cx.services();
    let vm = services.azure.get_vm(&plan.machine).await?;
    let vm_guid = vm.vm_id.filter(|id| !id.is_empty()).ok_or_else(|| {
        StepError::retry("azure_incomplete", "Azure does not say the test VM's vmId yet")
    })?;
    let point = services.catalogue.point(cx.input.item, &cx.input.point).await?;
    let since = cx.started_at(MACHINE.name).unwrap_or(declared(cx));
    let expected = Expected::of(&point, vm_guid, since);
    let change = CatalogueChange::ExpectInstance {
        vm_guid: expected.vm_guid.clone(),
        item: cx.input.item,
        durable: false,
        enrol_as: None,
    };
    Ok(Done::new(expected).change(change))
}

/// Waits for the agent's hello. Without an agent, SSH alone is the evidence, recorded as weaker.
async fn await_boot(cx: &StepCx<Input>) -> Result<Done<Option<Reported>>, StepError> {
    if !cx.output(PLAN)?.has_agent {
        return Ok(Done::new(None));
    }
    let expected = cx.output(EXPECT)?;
    evidence::await_agent(cx, &expected).await.map(Done::new)
}

/// Asked once: waiting for SSH costs no requests.
async fn find_address(cx: &StepCx<Input>) -> Result<Done<Option<SocketAddr>>, StepError> {
    let plan = cx.output(PLAN)?;
    if plan.public_ip.is_none() {
        return Ok(Done::new(None));
    }
    let services = cx.services();
    let vm = services.azure.get_vm(&plan.machine).await?;
    let address = ssh_address(services, &vm, ProbeAddress::PublicIp).await?;
    let address = address.ok_or_else(|| {
        StepError::retry("azure_incomplete", "the test VM has no public address yet")
    })?;
    Ok(Done::new(Some(address)))
}

async fn await_ssh(cx: &StepCx<Input>) -> Result<Done<Connectivity>, StepError> {
    let banner = match cx.output(ADDRESS)? {
        Some(address) => match look_for_ssh(cx, address).await {
            Err(StepError::NotYet { .. }) if is_overdue(cx) => {
                let limit = cx.services().settings.boot_limit.as_secs();
                let message = format!("SSH did not answer within {limit} s");
                return Err(StepError::fail("no_boot", message));
            }
            banner => Some(banner?),
        },
        None => None,
    };
    if banner.is_none() && cx.output(BOOTED)?.is_none() {
        return Err(StepError::Fail(
            Failure::new(
                "no_evidence",
                "no agent reported and there is no way to SSH: nothing can be proved",
            )
            .hint("set drill.access to \"public-ip\", or enrol an agent and take a new backup"),
        ));
    }
    let at = if banner.is_some() {
        cx.steady_now()
    } else {
        cx.done_at(BOOTED.name).unwrap_or(cx.steady_now())
    };
    Ok(Done::new(Connectivity { banner, at }))
}

/// Asks the agent that has reported, and SSH.
async fn examine(cx: &StepCx<Input>) -> Result<Done<Option<Evidence>>, StepError> {
    let agent = AgentsWord::of(cx.output(PLAN)?.has_agent, cx.output(BOOTED)?.is_some());
    let answered = cx.output(CONNECTIVITY)?.banner.is_some();
    let way = FromOutside { address: cx.output(ADDRESS)?, answered };
    evidence::examine_machine(cx, &cx.output(EXPECT)?, agent, way).await.map(Done::new)
}

/// A step of its own, so that what was found is kept when the drill fails for it.
async fn judge(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let Some(evidence) = cx.output(HEALTH)? else { return Ok(Done::new(())) };
    evidence::is_right_machine(&evidence)?;
    match evidence.harm() {
        None => Ok(Done::new(())),
        Some(harm) => Err(StepError::Fail(
            Failure::new("unhealthy", format!("the test VM is not well: {harm}"))
                .hint("`azdr job show` has all that is known of it; try another point"),
        )),
    }
}

/// Written before the machine is kept: whatever ends the keeping, the drill has passed.
async fn record(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let verdict = Verdict::of(cx, None)?;
    Ok(Done::new(()).changes(verdict.changes(cx)))
}

/// Waits until the time is over; cancelling ends it earlier.
async fn keep(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let plan = cx.output(PLAN)?;
    let until =
        cx.started_at(KEEP.name).unwrap_or(cx.steady_now()).plus(cx.input.keep.min(MAX_KEEP));
    let left = until.since(cx.steady_now());
    if left.is_zero() {
        return Ok(Done::new(()));
    }
    let address = cx.output(ADDRESS)?.map(|a| format!(", SSH at {a} from the controller"));
    let detail = format!(
        "{} of group {} is kept until {}{}",
        plan.machine.name(),
        plan.group.resource_group(),
        // To the second, for people.
        WallTime::from_unix_ms(until.unix_ms() / 1000 * 1000),
        address.unwrap_or_default()
    );
    Err(StepError::not_yet(detail, left.min(Duration::from_secs(60))))
}

async fn left_over(cx: &StepCx<Input>) -> Result<Vec<String>, StepError> {
    left_of_run(cx, cx.input.vm.subscription(), &[]).await
}

/// What the drill has shown.
struct Verdict {
    passed: bool,
    rto_ms: Option<u64>,
    error: Option<String>,
    /// The restored machine showed the point's witness.
    witnessed: bool,
    /// What is known of it; `None`: nobody asked.
    evidence: Option<Evidence>,
    /// It did not come up, or came up as something else: that is the point's fault, not the weather's.
    disproved: bool,
}

impl Verdict {
    /// `failure`: why the drill did not pass, if it did not.
    fn of(cx: &StepCx<Input>, failure: Option<(&str, String)>) -> Result<Self, StepError> {
        let connectivity = cx.try_output(CONNECTIVITY)?;
        let reported = cx.try_output(BOOTED)?.flatten();
        let passed = failure.is_none();
        let rto_ms = connectivity.map(|c| c.at.since(declared(cx)).as_millis() as u64);
        Ok(Self {
            passed,
            rto_ms: rto_ms.filter(|_| passed),
            witnessed: reported.is_some_and(|r| r.witness_verified),
            evidence: cx.try_output(HEALTH)?.flatten(),
            disproved: failure
                .as_ref()
                .is_some_and(|(k, _)| ["no_boot", "wrong_witness", "unhealthy"].contains(k)),
            error: failure.map(|(_, message)| message),
        })
    }

    fn changes(&self, cx: &StepCx<Input>) -> Vec<CatalogueChange> {
        let input = &cx.input;
        let mut changes = vec![CatalogueChange::AddDrill {
            item: input.item,
            name: input.point.clone(),
            region: input.region.clone(),
            started: declared(cx),
            passed: self.passed,
            rto_ms: self.rto_ms,
            error: self.error.clone(),
        }];
        let proved = self.passed && self.witnessed && evidence::is_booted(self.evidence.as_ref());
        if proved || self.disproved {
            let words = "an isolated VM booted, showed the witness on every disk, and is well";
            changes.push(CatalogueChange::AddProof {
                item: input.item,
                name: input.point.clone(),
                region: input.region.clone(),
                level: "booted".to_owned(),
                passed: proved,
                detail: self.error.clone().unwrap_or_else(|| words.into()),
            });
        }
        changes
    }
}

fn conclude(cx: &StepCx<Input>, outcome: &Outcome) -> Result<Concluded, StepError> {
    let input = &cx.input;
    let Some(plan) = cx.try_output(PLAN)? else { return Ok(Concluded::default()) };
    // What has been recorded stays, whatever ended the keeping of the machine.
    let is_recorded = cx.try_output(RECORD)?.is_some();
    let verdict = match outcome {
        _ if is_recorded => Verdict::of(cx, None)?,
        Outcome::Succeeded => Verdict::of(cx, None)?,
        Outcome::Failed(f) => Verdict::of(cx, Some((&f.kind, f.message.to_string())))?,
        Outcome::Cancelled => Verdict::of(cx, Some(("cancelled", "cancelled".to_owned())))?,
    };
    let changes = match outcome {
        _ if is_recorded => Vec::new(),
        // Nobody knows how it would have ended.
        Outcome::Cancelled => Vec::new(),
        _ => verdict.changes(cx),
    };
    let connected = cx.try_output(CONNECTIVITY)?.is_some_and(|c| c.banner.is_some());
    let reported = cx.try_output(BOOTED)?.flatten().is_some();
    let result = json!({"dr_test": {
        "recovery_point": input.point,
        "region": input.region,
        "passed": verdict.passed,
        "rto_ms": verdict.rto_ms.unwrap_or(0),
        "phases": four_phases(cx, &plan, reported, connected),
        "witness_verified": verdict.witnessed,
        "ssh_verified": ssh_look::is_verified(connected, verdict.evidence.as_ref()),
        "test_vm": plan.machine.name(),
        "evidence": verdict.evidence.map(|e| e.facts).unwrap_or_default(),
        // The run cannot get here while a listing shows anything.
        "residue": [],
    }});
    Ok(Concluded { result: Some(result), changes })
}

/// The four phases of the guide; where there is no way to SSH, connectivity was not tried.
fn four_phases(
    cx: &StepCx<Input>,
    plan: &Plan,
    reported: bool,
    connected: bool,
) -> Vec<serde_json::Value> {
    // An answer over SSH shows a boot, too.
    let mut steps =
        vec![("restore", EXPECT.name, true), ("boot", BOOTED.name, reported || connected)];
    if plan.public_ip.is_some() {
        steps.push(("connectivity", CONNECTIVITY.name, connected));
    }
    let mut phases = phases(cx, declared(cx), &steps);
    let last = steps.iter().rev().find_map(|(_, step, _)| cx.done_at(step));
    let last = last.unwrap_or(declared(cx));
    let examined = cx.done_at(JUDGE.name).unwrap_or(last);
    let mut clean_up_from = cx.done_at(KEEP.name).unwrap_or(examined);
    if let Some(turned_back) = cx.turned_back_at() {
        // It did not get through this one.
        if let Some((name, ..)) = steps.get(phases.len()) {
            let millis = turned_back.since(last).as_millis() as u64;
            phases.push(json!({"name": name, "millis": millis, "ok": false}));
        }
        clean_up_from = turned_back;
    }
    let cleaned = cx.steady_now().since(clean_up_from).as_millis() as u64;
    phases.push(json!({"name": "cleanup", "millis": cleaned, "ok": true}));
    phases
}
