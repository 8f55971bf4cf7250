//! Proof that a machine is up and is the one that was restored.
//!
//! Azure says *Succeeded* without any sign that the guest booted (DESIGN §5 rule 8). Evidence is the
//! agent's hello with the recovery point's witness, then SSH from outside, then what the machine says of
//! itself. Evidence against (another witness, disks of several points) fails; silence is waited out; where
//! no evidence can be had at all, that is said. What it all means is decided in
//! `azdr_domain::machine_evidence`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use azdr_arm::Vm;
use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::CaptureRecord;
use azdr_domain::machine_disk::MachineDisk;
use azdr_domain::machine_evidence::{
    Evidence, Fact, FactState, MachineReport, Seal, ShownWitness, Wanted, WitnessRecord, Witnesses,
    one_line,
};
use azdr_domain::recovery_point::PointName;
use azdr_env::{Monotonic, WallTime};
use azdr_identity::{WitnessClaims, WitnessKey};
use azdr_proto::agent::{self as api, HealthReport, Witness};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::azure::existing;
use super::file_systems::{MOST_FROZEN, MOST_PATH};
use super::hooks::cut;
use super::ssh_look::{self, FromOutside};
use super::{ProbeAddress, Services, StepCx};
use crate::fleet::{Session, SessionKind};
use crate::store::{ItemId, PointRow};
use crate::workflow::{Failure, StepError};

/// How long an agent may look at its machine: its own limits are within that.
const HEALTH_LIMIT: Duration = Duration::from_secs(60);
/// How long one SSH probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Longest banner that is read (RFC 4253 §4.2: 255 characters; servers may send lines before it).
const BANNER_LIMIT: usize = 1024;

/// What a machine must show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// Whose agent it carries.
    pub item: ItemId,
    /// Azure's vmId, lower case.
    pub vm_guid: String,
    /// Name of the recovery point.
    pub point: String,
    /// The witness's nonce; empty when the point was taken without a freeze and has no witness.
    pub nonce: String,
    /// The machine becomes a VM of its own: its agent comes back as this one's.
    #[serde(default)]
    pub own_vm: Option<ArmId>,
    /// Every disk of the machine is of this point: then no other witness may be on any of them. False
    /// where disks that the point does not know stay attached.
    pub all_disks: bool,
    /// When the machine was asked for; for people.
    pub not_before: WallTime,
    /// Only a hello after this time of this process counts: an earlier one was of the machine before.
    /// `None`: any does, since the vmId is new, or the machine was off already when this process began.
    #[serde(skip)]
    pub after: Option<Monotonic>,
}

impl Expected {
    /// What a machine made from this point must show.
    pub fn of(point: &PointRow, vm_guid: String, not_before: WallTime) -> Self {
        Self {
            all_disks: true,
            own_vm: None,
            item: point.item,
            vm_guid: vm_guid.to_ascii_lowercase(),
            point: point.name.to_string(),
            nonce: point.nonce.clone(),
            not_before,
            after: None,
        }
    }
}

/// What an agent has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The machine's boot id.
    pub boot_id: String,
    /// It showed this point's witness.
    pub witness_verified: bool,
    /// Of how many file systems.
    pub file_systems: usize,
    /// When its hello came.
    pub at: WallTime,
}

/// Looks whether the machine's agent has reported, and compares its witnesses.
///
/// # Errors
/// `NotYet` while it is silent; `wrong_witness` when it is another machine or a mixture.
async fn look_for_agent<I>(cx: &StepCx<I>, expected: &Expected) -> Result<Reported, StepError> {
    let services = cx.services();
    let Some(session) = session_of(services, expected).await? else {
        let wait = services.settings.look_again;
        return Err(StepError::not_yet("waiting for the machine's agent to report", wait));
    };
    let noted = Noted::of(services, expected).await?;
    let witness_verified =
        noted.compare(expected, &session.hello.witnesses).map_err(StepError::Fail)?;
    Ok(Reported {
        boot_id: session.hello.boot_id.clone(),
        witness_verified,
        file_systems: session.hello.witnesses.len(),
        at: session.since,
    })
}

pub(super) async fn session_of(
    services: &Services,
    expected: &Expected,
) -> Result<Option<Arc<Session>>, StepError> {
    let fits = |s: &Arc<Session>| {
        let is_new = expected.after.is_none_or(|after| s.arrived >= after);
        s.hello.vm_id == expected.vm_guid && is_new
    };
    let fleet = &services.fleet;
    // Azure names a machine's vmId only once there is the machine, which may say hello before the run
    // expects it: it is quarantined then. Now that it is expected it is sent away to come again as what
    // it is, and nobody is alerted of a clone that we have made.
    let restored = fleet.restored(expected.item, &expected.vm_guid);
    if let Some(early) = restored.as_ref().filter(|s| s.kind == SessionKind::Restored { run: None })
    {
        fleet.leave(early);
    }
    let Some(own) = &expected.own_vm else {
        // What it has shown counts all the same: the measured RTO does not wait for its return.
        return Ok(restored.filter(fits).or_else(|| fleet.protected(expected.item).filter(fits)));
    };
    // It counts when it has come back with an identity of its own.
    let own = services.catalogue.item(own).await?;
    Ok(own.and_then(|own| fleet.protected(own.id)).filter(fits))
}

/// The point, and what was noted when it was taken.
pub(super) async fn captured(
    services: &Services,
    expected: &Expected,
) -> Result<(PointRow, CaptureRecord), StepError> {
    let name = PointName::parse(&expected.point).map_err(|error| {
        StepError::fail("no_such_point", format!("{}: {error}", expected.point))
    })?;
    let point = services.catalogue.point(expected.item, &name).await?;
    let record = services.catalogue.capture(&point.operation_id).await?.unwrap_or_default();
    Ok((point, record))
}

/// What is known of a point's witnesses and of its machine's hooks.
struct Noted {
    disks: Vec<MachineDisk>,
    records: Vec<WitnessRecord>,
    checks: Vec<String>,
    key: WitnessKey,
}

impl Noted {
    async fn of(services: &Services, expected: &Expected) -> Result<Self, StepError> {
        let (point, record) = captured(services, expected).await?;
        let key = services.authority.witness_key(&point.operation_id);
        let disks = point.description.disks.iter().map(|d| MachineDisk::of_point(d.lun)).collect();
        let checks = record.hooks.into_iter().filter(|hook| hook.check).map(|hook| hook.name);
        Ok(Self { disks, records: record.witnesses, checks: checks.collect(), key })
    }

    fn wanted<'a>(&'a self, expected: &'a Expected) -> Wanted<'a> {
        Wanted {
            point: &expected.point,
            nonce: &expected.nonce,
            disks: &self.disks,
            all_disks: expected.all_disks,
            records: &self.records,
            checks: &self.checks,
        }
    }

    fn shown(&self, witnesses: &[Witness]) -> Vec<ShownWitness> {
        // With one too many, which is what says so.
        witnesses.iter().take(MOST_FROZEN + 1).map(|witness| self.read(witness)).collect()
    }

    fn read(&self, witness: &Witness) -> ShownWitness {
        let digest = WitnessClaims::from(witness).digest();
        let seal = match witness.format {
            0 | 1 => Seal::None,
            _ if self.key.has_sealed(&digest, &witness.digests, &witness.seal) => Seal::Holds,
            _ => Seal::Broken,
        };
        let disk = match witness.found_on_disk.as_str() {
            "" => &witness.disk,
            found => found,
        };
        // Cut only now: the digest is of all that it says.
        ShownWitness {
            digest,
            digests: witness.digests.iter().take(MOST_FROZEN).map(|d| one_line(d)).collect(),
            seal,
            mount_point: cut(&witness.mount_point, MOST_PATH),
            disk: cut(disk, MOST_PATH),
            found_on: one_line(&witness.found_file_system_uuid),
            written_to: one_line(&witness.file_system_uuid),
            vm_id: one_line(&witness.vm_id),
            boot_id: one_line(&witness.boot_id),
            point: one_line(&witness.recovery_point),
            nonce: one_line(&witness.nonce),
            written_at_unix_ms: witness.written_at_unix_ms,
        }
    }

    /// Whether the machine shows this point's witness, and nothing speaks against it. Whether it shows all
    /// of them is known once all is mounted.
    fn compare(&self, expected: &Expected, witnesses: &[Witness]) -> Result<bool, Failure> {
        let wanted = self.wanted(expected);
        let judged = Witnesses::judge(&wanted, &self.shown(witnesses));
        match judged.against(&wanted) {
            Some(why) => Err(Failure::new("wrong_witness", why)),
            None => Ok(!judged.right.is_empty()),
        }
    }
}

/// What was written at a capture, as it is kept.
pub(super) fn written(witnesses: &[Witness], nonce: &str) -> Vec<WitnessRecord> {
    let ours = witnesses.iter().filter(|w| w.format > 1 && w.nonce == nonce);
    let record = |witness: &Witness| WitnessRecord {
        digest: WitnessClaims::from(witness).digest(),
        mount_point: cut(&witness.written_at_mount_point, MOST_PATH),
        // Of a volume on all disks that is longer than other words.
        disk: cut(&witness.disk, MOST_PATH),
        file_system_uuid: one_line(&witness.file_system_uuid),
        vm_id: one_line(&witness.vm_id),
        written_at_unix_ms: witness.written_at_unix_ms,
    };
    ours.take(MOST_FROZEN).map(record).collect()
}

/// Asks the machine how it is, until every fact that the proof needs is there or the time is over; then
/// what is known then is the answer. Nothing fails here.
///
/// # Errors
/// `NotYet` while something is still awaited.
async fn examine<I>(cx: &StepCx<I>, expected: &Expected) -> Result<Evidence, StepError> {
    let found = look_at_health(cx, expected).await?;
    // Another machine does not become the right one.
    if !found.wrong_machine.is_empty() || is_overdue(cx) {
        return Ok(found);
    }
    let awaited = found.awaited().next().map(|f| format!("waiting for {}: {}", f.name, f.detail));
    match awaited {
        Some(what) => Err(StepError::not_yet(what, cx.services().settings.look_again)),
        None => Ok(found),
    }
}

/// All that is known of a machine, `agent` and SSH taken together.
///
/// # Errors
/// `NotYet` while something is still awaited.
pub async fn examine_machine<I>(
    cx: &StepCx<I>,
    expected: &Expected,
    agent: AgentsWord,
    way: FromOutside,
) -> Result<Option<Evidence>, StepError> {
    let mut found = match agent {
        AgentsWord::NotExpected => Evidence::default(),
        AgentsWord::Silent => Evidence::none("the agent did not report", cx.now().unix_ms()),
        AgentsWord::Reported => examine(cx, expected).await?,
    };
    // Nobody logs in to another machine.
    if found.wrong_machine.is_empty() {
        found.facts.extend(ssh_look::look(cx, expected, agent, way).await?);
    }
    Ok(Some(found))
}

/// Whether the machine's agent can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentsWord {
    /// It has none.
    NotExpected,
    /// It should have reported, and has not.
    Silent,
    /// It has reported.
    Reported,
}

impl AgentsWord {
    /// Of a machine that has one or not, which has reported or not.
    pub fn of(has_agent: bool, reported: bool) -> Self {
        match (has_agent, reported) {
            (false, _) => Self::NotExpected,
            (true, false) => Self::Silent,
            (true, true) => Self::Reported,
        }
    }
}

/// Fails when it is not the machine that it should be.
///
/// # Errors
/// `wrong_witness`.
pub fn is_right_machine(evidence: &Evidence) -> Result<(), StepError> {
    match evidence.wrong_machine.as_str() {
        "" => Ok(()),
        why => Err(StepError::fail("wrong_witness", why.to_owned())),
    }
}

/// Whether the proof `booted` may be granted to a point whose machine showed its witness. `None`: a run that
/// began before anybody asked how the machine is; it ends as it would have, and proves nothing.
pub fn is_booted(evidence: Option<&Evidence>) -> bool {
    evidence.is_some_and(Evidence::is_booted)
}

async fn look_at_health<I>(cx: &StepCx<I>, expected: &Expected) -> Result<Evidence, StepError> {
    let services = cx.services();
    let clock = &cx.env().clock;
    let now = || clock.wall().unix_ms();
    let Some(session) = session_of(services, expected).await? else {
        return Ok(Evidence::none("the agent is not connected", now()));
    };
    let request = cx.env().ids.uuid().to_string();
    let report = match services.fleet.health(&session, request, HEALTH_LIMIT).await {
        Ok(report) => report,
        Err(error) => return Ok(Evidence::none(&error.to_string(), now())),
    };
    // While it is frozen for somebody else nothing on it can be looked at.
    let unseen =
        |f: &api::HealthFact| f.name == "file-systems" && f.state() == api::FactState::Unknown;
    if let Some(fact) = report.facts.iter().find(|fact| unseen(fact)) {
        return Ok(Evidence::none(&fact.detail, now()));
    }
    let noted = Noted::of(services, expected).await?;
    let shown = noted.shown(&report.witnesses);
    Ok(Evidence::judge(&noted.wanted(expected), &shown, &reported(&report), now()))
}

fn reported(report: &HealthReport) -> MachineReport {
    let state = |state| match state {
        api::FactState::Unknown => FactState::Unknown,
        api::FactState::Pass => FactState::Pass,
        api::FactState::Fail => FactState::Fail,
    };
    let fact = |fact: &api::HealthFact| Fact {
        name: fact.name.clone(),
        state: state(fact.state()),
        detail: fact.detail.clone(),
        at_unix_ms: fact.at_unix_ms,
        required: false,
    };
    let app = |probe: &api::AppProbe| Fact {
        name: format!("app:{}", probe.name),
        state: state(probe.state()),
        detail: match probe.took_ms {
            // It was not run.
            0 => probe.detail.clone(),
            took_ms => format!("{} ({took_ms} ms)", probe.detail),
        },
        at_unix_ms: report.wall_unix_ms,
        required: false,
    };
    MachineReport {
        version: report.version,
        boot_id: report.boot_id.clone(),
        wall_unix_ms: report.wall_unix_ms,
        facts: report.facts.iter().map(fact).chain(report.app_probes.iter().map(app)).collect(),
    }
}

/// Why a restore is unconfirmed: what was known before, or what the machine's own report leaves open.
pub fn or_doubt(unconfirmed: &str, evidence: Option<&Evidence>) -> String {
    match (unconfirmed, evidence) {
        ("", Some(evidence)) => evidence.doubt(),
        (known, _) => known.to_owned(),
    }
}

/// Looks for the agent in a step that gives up waiting for it in time: SSH may still speak for the
/// machine.
///
/// # Errors
/// `wrong_witness` when it is another machine or a mixture; `NotYet` while it is silent.
pub async fn await_agent<I>(
    cx: &StepCx<I>,
    expected: &Expected,
) -> Result<Option<Reported>, StepError> {
    match look_for_agent(cx, expected).await {
        Ok(reported) => Ok(Some(reported)),
        Err(StepError::NotYet { .. }) if is_overdue(cx) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether this step has waited for longer than a machine may need to come up.
pub fn is_overdue<I>(cx: &StepCx<I>) -> bool {
    cx.spent() > cx.services().settings.boot_limit
}

/// What took how long, from the journal's times: each phase from the end of the one before to the end
/// of its step, and whether it was shown to have succeeded. Phases whose step never ended are left
/// out.
pub fn phases<I>(cx: &StepCx<I>, declared: WallTime, steps: &[(&str, &str, bool)]) -> Vec<Value> {
    let mut from = declared;
    let phase = |&(name, step, ok): &(&str, &str, bool)| {
        let until = cx.done_at(step)?;
        let millis = until.since(from).as_millis() as u64;
        from = until;
        Some(json!({"name": name, "millis": millis, "ok": ok}))
    };
    steps.iter().filter_map(phase).collect()
}

/// Where a VM's SSH is to be probed from outside; `None` when there is no way.
///
/// An address that may not be read (a right is missing) is no way: the machine is not to blame.
///
/// # Errors
/// When Azure does not answer now.
pub async fn ssh_address(
    services: &Services,
    vm: &Vm,
    how: ProbeAddress,
) -> Result<Option<SocketAddr>, StepError> {
    match address(services, vm, how).await {
        Err(StepError::Fail(failure)) => {
            tracing::warn!(%failure, "the address for the SSH probe cannot be read");
            Ok(None)
        }
        other => other,
    }
}

async fn address(
    services: &Services,
    vm: &Vm,
    how: ProbeAddress,
) -> Result<Option<SocketAddr>, StepError> {
    let Some(nic) = vm.nics.first().filter(|_| how != ProbeAddress::None) else {
        return Ok(None);
    };
    let Some(nic) = existing(services.azure.get_network_interface(nic).await)? else {
        return Ok(None);
    };
    let address = match (how, nic.public_ip) {
        (ProbeAddress::PrivateIp, _) => nic.private_ip,
        (ProbeAddress::PublicIp, Some(id)) => {
            existing(services.azure.get_public_ip(&id).await)?.and_then(|ip| ip.ip_address)
        }
        _ => None,
    };
    let ip = address.and_then(|a| a.parse().ok());
    Ok(ip.map(|ip| SocketAddr::new(ip, services.settings.ssh_port)))
}

/// Reads the SSH server's banner once. An open port alone proves nothing.
///
/// # Errors
/// `NotYet` while there is none.
pub async fn look_for_ssh<I>(cx: &StepCx<I>, address: SocketAddr) -> Result<String, StepError> {
    ssh_banner(address).await.ok_or_else(|| {
        let wait = cx.services().settings.look_again;
        StepError::not_yet(format!("waiting for SSH at {address}"), wait)
    })
}

/// The SSH server's banner, if it shows one now.
pub async fn ssh_banner(address: SocketAddr) -> Option<String> {
    let probe = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let mut seen = Vec::new();
        let mut buffer = [0; 256];
        while seen.len() < BANNER_LIMIT {
            let n = stream.read(&mut buffer).await.ok()?;
            if n == 0 {
                return None;
            }
            seen.extend_from_slice(&buffer[..n]);
            if let Some(banner) = banner(&seen) {
                return Some(banner);
            }
        }
        None
    };
    tokio::select! {
        biased;
        found = probe => found,
        () = azdr_env::sleep(PROBE_LIMIT) => None,
    }
}

/// The identification line, once it is complete.
fn banner(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let (complete, _) = text.rsplit_once('\n')?;
    let line = complete.lines().find(|l| l.starts_with("SSH-"))?;
    Some(line.trim_end().chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_beyond_all_measure_is_not_kept() {
        let long = "é\n".repeat(100_000);
        let witness = Witness {
            format: 2,
            mount_point: long.clone(),
            written_at_mount_point: long.clone(),
            disk: long.clone(),
            file_system_uuid: long.clone(),
            found_file_system_uuid: long.clone(),
            vm_id: long.clone(),
            boot_id: long.clone(),
            recovery_point: long.clone(),
            digests: vec![long; 100],
            ..Witness::default()
        };
        let all = vec![witness; 100];
        let records = written(&all, "");
        let words = |r: &WitnessRecord| [&r.mount_point, &r.disk].map(String::len);
        assert_eq!(records.len(), 64);
        assert!(records.iter().all(|r| words(r).iter().all(|len| *len <= MOST_PATH)));
        assert!(records.iter().all(|r| r.file_system_uuid.len() + r.vm_id.len() <= 2 * 1024));
        let key = WitnessKey::from_bytes(&[7; 32]).unwrap();
        let noted = Noted { disks: vec![], records, checks: vec![], key };
        let shown = noted.shown(&all);
        assert_eq!((shown.len(), shown[0].digests.len()), (65, 64), "one more, which is told");
        assert!(shown.iter().all(|w| format!("{w:?}").len() < 100_000));
        assert_eq!(shown[0].digest, noted.records[0].digest, "of all that it says");
    }

    #[test]
    fn a_run_from_before_anybody_asked_proves_nothing() {
        assert!(!is_booted(None));
        assert!(!is_booted(Some(&Evidence::none("silent", 1))));
    }

    #[test]
    fn a_banner_is_a_whole_line_that_says_ssh() {
        assert_eq!(banner(b"SSH-2.0-drop"), None);
        assert_eq!(banner(b"hello\r\nSSH-2.0-x\r\n").as_deref(), Some("SSH-2.0-x"));
        assert_eq!(banner(b"220 mail\r\n"), None);
    }
}
