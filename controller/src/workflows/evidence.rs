//! Proof that a machine is up and is the one that was restored.
//!
//! Azure says *Succeeded* without any sign that the guest booted (DESIGN §5 rule 8). Evidence is the
//! agent's hello with the recovery point's witness, then SSH from outside. Evidence against (another
//! witness, disks of several points) fails; silence is waited out; where no evidence can be had at
//! all, that is said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use azdr_arm::Vm;
use azdr_domain::arm_id::ArmId;
use azdr_env::{Monotonic, WallTime};
use azdr_proto::agent::Witness;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::azure::existing;
use super::{ProbeAddress, Services, StepCx};
use crate::fleet::{Session, SessionKind};
use crate::store::{ItemId, PointRow};
use crate::workflow::{Failure, StepError};

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
    let witness_verified = compare(expected, &session.hello.witnesses).map_err(StepError::Fail)?;
    Ok(Reported {
        boot_id: session.hello.boot_id.clone(),
        witness_verified,
        file_systems: session.hello.witnesses.len(),
        at: session.since,
    })
}

async fn session_of(
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

/// Whether the witnesses are this point's: all of them, and at least one.
fn compare(expected: &Expected, witnesses: &[Witness]) -> Result<bool, Failure> {
    if expected.nonce.is_empty() {
        // Taken without a freeze: whatever witness is there is an earlier point's.
        return Ok(false);
    }
    let (own, foreign): (Vec<_>, Vec<_>) =
        witnesses.iter().partition(|w| w.nonce == expected.nonce);
    match (own.is_empty(), foreign.first()) {
        (false, None) => Ok(true),
        (false, Some(_)) if !expected.all_disks => Ok(true),
        (true, None) => Err(Failure::new(
            "wrong_witness",
            format!("the machine shows no witness of {}", expected.point),
        )),
        (own_missing, Some(other)) => Err(Failure::new(
            "wrong_witness",
            format!(
                "{} shows the witness of {} instead of {}{}",
                other.mount_point,
                if other.recovery_point.is_empty() {
                    "something else"
                } else {
                    &other.recovery_point
                },
                expected.point,
                if own_missing { "" } else { ": the disks are of different recovery points" },
            ),
        )),
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

    fn expected(nonce: &str) -> Expected {
        Expected {
            item: ItemId(1),
            vm_guid: String::new(),
            point: "vm-backup-daily-20251201-0800".into(),
            nonce: nonce.into(),
            all_disks: true,
            own_vm: None,
            not_before: WallTime::from_unix_ms(0),
            after: None,
        }
    }

    fn witness(mount_point: &str, nonce: &str) -> Witness {
        Witness { mount_point: mount_point.into(), nonce: nonce.into(), ..Witness::default() }
    }

    #[test]
    fn every_witness_must_be_the_points() {
        let ours = [witness("/", "n"), witness("/data", "n")];
        assert_eq!(compare(&expected("n"), &ours), Ok(true));
        let mixed = [witness("/", "n"), witness("/data", "old")];
        let failure = compare(&expected("n"), &mixed).unwrap_err();
        assert!(failure.message.contains("/data"), "{failure}");
        assert!(failure.message.contains("different recovery points"), "{failure}");
        let partly = Expected { all_disks: false, ..expected("n") };
        assert_eq!(compare(&partly, &mixed), Ok(true));
        assert!(compare(&expected("n"), &[]).is_err());
        assert!(compare(&expected("n"), &[witness("/", "old")]).is_err());
    }

    #[test]
    fn a_point_without_a_freeze_has_no_witness_to_compare() {
        assert_eq!(compare(&expected(""), &[witness("/", "old")]), Ok(false));
    }

    #[test]
    fn a_banner_is_a_whole_line_that_says_ssh() {
        assert_eq!(banner(b"SSH-2.0-drop"), None);
        assert_eq!(banner(b"hello\r\nSSH-2.0-x\r\n").as_deref(), Some("SSH-2.0-x"));
        assert_eq!(banner(b"220 mail\r\n"), None);
    }
}
