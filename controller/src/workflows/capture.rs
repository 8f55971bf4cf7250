//! The hold at the heart of `backup`: all disks at one instant, or an honest word that it was not.
//!
//! ```text
//! reserve room for all PUTs → FREEZE … FROZEN acknowledged
//!     → PUT all snapshots in parallel, poll each every 200 ms until it has succeeded
//!     │ meanwhile: renew the agent's lease every second
//! → THAW … the agent attests → its hooks end → compare evidence (I4)
//! ```
//!
//! The end of the machine's own hooks is waited for outside the hold: nothing is frozen then, and what
//! they say can only take `application` away.
//!
//! Nothing in here backs off or is resumed. Losing anything ends the hold; the snapshots go on
//! without it and are recorded as what they then are. The machine never waits for us: its own limits
//! thaw it (I3).

use std::time::Duration;

use azdr_arm::{ArmClient, AzureError, ErrorClass, Progress, SnapshotSpec, Started};
use azdr_domain::arm_id::ArmId;
use azdr_domain::capture_record::{CaptureRecord, DiskCapture, HookRecord};
use azdr_domain::consistency::{
    CaptureEvidence, Consistency, FreezeEvidence, PutEvidence, ThawAttestation, achieved,
};
use azdr_domain::machine_evidence::WitnessRecord;
use azdr_env::{Clock, WallTime};
use azdr_proto::agent::{Disk, DiskKind, FileSystemReport, FileSystemState, Freeze, FreezeOutcome};
use serde::{Deserialize, Serialize};

use super::tags::{self, Tags};
use super::{Services, StepCx, evidence, file_systems, hooks};
use crate::mutation::{Mutation, planted};
use crate::store::ItemId;
use crate::workflow::{Failure, StepError};

/// Pause between polls of a snapshot inside the hold (DESIGN §5 rule 2: that bucket is large).
const POLL: Duration = Duration::from_millis(200);
/// Pause between renewals of the agent's lease.
const RENEW: Duration = Duration::from_secs(1);
/// What the agent may need before the window: syncing gigabytes of dirty data.
const PREPARE_LIMIT: Duration = Duration::from_secs(40);
/// Thawing takes milliseconds; the answer may have to wait for a slow network.
const THAW_LIMIT: Duration = Duration::from_secs(15);
/// Whatever an agent says of its hooks, they are not waited for longer.
const HOOKS_LIMIT: Duration = Duration::from_secs(40 * 60);
/// Snapshots that the hold did not wait for may still come.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A snapshot to be taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedSnapshot {
    /// `None`: the OS disk.
    pub lun: Option<u32>,
    /// Its name-to-be.
    pub id: ArmId,
    /// Of which disk.
    pub disk: ArmId,
    /// That disk's `uniqueId`.
    pub disk_unique_id: String,
    /// Provisioned size.
    pub size_bytes: u64,
    /// All its tags but the operation.
    pub tags: Tags,
}

/// What a capture is told.
pub struct CapturePlan<'a> {
    /// Whose.
    pub item: ItemId,
    /// Region of VM and disks.
    pub location: &'a str,
    /// Name of the recovery point, for the witness.
    pub point: &'a str,
    /// For the witness.
    pub nonce: &'a str,
    /// Why not to freeze, if so.
    pub unfrozen: Option<&'static str>,
    /// Fail rather than take snapshots that are not frozen.
    pub require: bool,
    /// The disks.
    pub snapshots: &'a [PlannedSnapshot],
}

/// What a capture achieved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// The attempt that made it.
    pub operation_id: String,
    /// As proved.
    pub consistency: Consistency,
    /// Why it is not more.
    pub reason: String,
    /// From the first freeze to the last thaw, as the agent measured it.
    pub frozen_ms: u64,
    /// When the snapshots were asked for.
    pub at: WallTime,
    /// Whether the file systems carry this point's witness.
    pub witnessed: bool,
}

/// Takes all snapshots, in a hold if asked to. Answers what was achieved, and what was seen for people.
///
/// # Errors
/// When a snapshot failed, or the point would not be what is required. The caller's undo removes what
/// was made.
pub async fn capture<I>(
    cx: &StepCx<I>,
    plan: CapturePlan<'_>,
) -> Result<(Captured, CaptureRecord), StepError> {
    let services = cx.services();
    let operation_id = cx.operation_id();
    refuse_foreign_names(cx, plan.snapshots).await?;
    if plan.unfrozen.is_none() && services.catalogue.has_agent(plan.item).await? {
        await_agent(services, plan.item).await;
    }
    // As it said when it came: before anything is frozen.
    let agent = services.fleet.protected(plan.item);
    let ssh_host_keys = agent.map(|agent| agent.hello.ssh_host_keys.clone()).unwrap_or_default();
    let slot = services.holds.acquire().await.expect("the semaphore is never closed");
    let room = services.azure.reserve_snapshot_writes(plan.snapshots.len() as u32).await;
    let varied: Vec<PlannedSnapshot>;
    let plan = if planted(Mutation::NamesVary) {
        varied = plan.snapshots.iter().map(|s| vary(cx, s)).collect();
        CapturePlan { snapshots: &varied, ..plan }
    } else {
        plan
    };
    let specs: Vec<_> = plan.snapshots.iter().map(|s| (s, spec(&plan, s, &operation_id))).collect();

    let frozen = match plan.unfrozen {
        None => freeze(services, &plan, &operation_id).await,
        Some(why) => Err(Unfrozen::from(why.to_owned())),
    };
    let clock = cx.env().clock.clone();
    let at = clock.wall();
    let (mut outcome, mut freeze) = match frozen {
        Ok((file_systems, witnesses)) => {
            let acked = clock.monotonic();
            cx.progress("frozen", None);
            let left_out = disks_left_out(&plan, &file_systems);
            if plan.require && !left_out.is_empty() {
                // Better known before there is a snapshot than after.
                let thawed = services.fleet.thaw(plan.item, operation_id, THAW_LIMIT).await;
                if let Err(e) = thawed {
                    tracing::warn!(error = %e, "the agent did not confirm the thaw");
                }
                return Err(every_disk_is_required(left_out.join("; ")));
            }
            let frozen = Frozen { acked, file_systems, again: !cx.is_first_attempt() };
            let (mut hold, evidence) =
                held(services, &plan, &operation_id, &specs, &room, frozen, &*clock).await?;
            hold.record.witnesses = witnesses;
            (hold, evidence)
        }
        Err(unfrozen) if unfrozen.forbidden => {
            let failure = Failure::new("hook_failed", unfrozen.reason).hint(
                "this hook is marked on_failure = \"fail\" on the VM: see what it says there, with \
                 `journalctl -u azdr-agent`, or mark it \"crash_consistent\"",
            );
            return Err(StepError::Fail(failure));
        }
        Err(Unfrozen { reason, .. }) if plan.require => {
            let failure = Failure::new("not_consistent", format!("no freeze: {reason}")).hint(
                "the policy requires file-system consistency; check `azdr agent list`, or \
                 configure --consistency prefer",
            );
            return Err(StepError::Fail(failure));
        }
        Err(Unfrozen { reason, hooks, .. }) => {
            let begun = clock.monotonic();
            let puts = take_all(room.client(), &specs, &*clock, None, SNAPSHOT_LIMIT).await?;
            let disks = disks(&specs, &puts, begun);
            let record = CaptureRecord { disks, hooks, ..CaptureRecord::default() };
            let hold = Hold {
                frozen_ms: 0,
                witnessed: false,
                reason: Some(reason),
                record,
                hooks_pending: None,
            };
            (hold, None)
        }
    };
    drop(slot);
    if let Some(limit) = outcome.hooks_pending
        && let Some(agent) = freeze.as_mut().and_then(|freeze| freeze.agent.as_mut())
    {
        cx.progress("hooks", None);
        let thawed = services.fleet.thaw(plan.item, operation_id.clone(), limit).await;
        outcome.record.hooks = hooks::ended(agent, thawed);
    }
    outcome.record.ssh_host_keys = ssh_host_keys;
    let evidence = CaptureEvidence { disks: plan.snapshots.len(), freeze };
    let (mut consistency, mut reason) = achieved(&evidence);
    if planted(Mutation::ConsistencyClaimed) {
        consistency = Consistency::Filesystem;
    }
    if let Some(why) = outcome.reason {
        reason = why;
    }
    if plan.require && consistency < Consistency::Filesystem {
        // Another attempt would find the same.
        if !outcome.record.disks_left_out().is_empty() {
            return Err(every_disk_is_required(reason));
        }
        let message = format!("the capture is only {consistency}: {reason}");
        return Err(StepError::Retry {
            failure: Failure::new("not_consistent", message)
                .hint("the policy requires file-system consistency"),
            after: None,
        });
    }
    check_ours(cx, plan.snapshots, &operation_id).await?;
    let captured = Captured {
        operation_id,
        consistency,
        reason,
        frozen_ms: outcome.frozen_ms,
        at,
        witnessed: outcome.witnessed,
    };
    Ok((captured, outcome.record))
}

fn every_disk_is_required(reason: String) -> StepError {
    StepError::Fail(Failure::new("not_consistent", reason).hint(
        "the policy requires file-system consistency of every disk: let the agent freeze what is on it \
         (docs/preflight.md), detach it if nobody uses it, or configure --consistency prefer",
    ))
}

/// What is known as soon as an agent has frozen: the disks of which it says that nothing is.
fn disks_left_out(plan: &CapturePlan<'_>, said: &[FileSystemReport]) -> Vec<String> {
    let disk =
        |snapshot: &PlannedSnapshot| DiskCapture { lun: snapshot.lun, asked_ms: 0, done_ms: None };
    let record = CaptureRecord {
        disks: plan.snapshots.iter().map(disk).collect(),
        file_systems: file_systems::frozen_now(said),
        not_frozen: file_systems::not_frozen(said),
        ..CaptureRecord::default()
    };
    record.disks_left_out()
}

/// After a restart of the controller agents need a moment to come back.
const AGENT_PATIENCE: Duration = Duration::from_secs(30);

/// Waits a while for an agent that has enrolled and is not connected now.
async fn await_agent(services: &Services, item: ItemId) {
    let mut changes = services.fleet.changes();
    let connected = async {
        while services.fleet.protected(item).is_none() {
            changes.changed().await;
        }
    };
    tokio::select! {
        biased;
        () = connected => {}
        () = azdr_env::sleep(AGENT_PATIENCE) => {}
    }
}

struct Hold {
    frozen_ms: u64,
    witnessed: bool,
    reason: Option<String>,
    record: CaptureRecord,
    /// Hooks were still to run after the thaw, for at most so long.
    hooks_pending: Option<Duration>,
}

/// Why nothing is frozen.
struct Unfrozen {
    reason: String,
    /// The machine's root wants no snapshots then.
    forbidden: bool,
    hooks: Vec<HookRecord>,
}

impl From<String> for Unfrozen {
    fn from(reason: String) -> Self {
        Self { reason, forbidden: false, hooks: Vec::new() }
    }
}

/// When each disk's snapshot was asked for and done, counted from an instant.
fn disks(specs: &Specs<'_>, puts: &[PutEvidence], from: azdr_env::Monotonic) -> Vec<DiskCapture> {
    let millis = |at: azdr_env::Monotonic| at.since(from).as_millis() as u64;
    let disk =
        |((planned, _), put): (&(&PlannedSnapshot, SnapshotSpec), &PutEvidence)| DiskCapture {
            lun: planned.lun,
            asked_ms: millis(put.sent_at),
            done_ms: put.succeeded_at.map(millis),
        };
    specs.iter().zip(puts).map(disk).collect()
}

/// An acknowledged freeze.
struct Frozen {
    acked: azdr_env::Monotonic,
    /// What the agent said of each file system then.
    file_systems: Vec<FileSystemReport>,
    /// An earlier attempt may have requests under way.
    again: bool,
}

type Specs<'a> = [(&'a PlannedSnapshot, SnapshotSpec)];

/// From FROZEN to the agent's attestation.
async fn held(
    services: &Services,
    plan: &CapturePlan<'_>,
    operation_id: &str,
    specs: &Specs<'_>,
    room: &azdr_arm::Reservation,
    frozen: Frozen,
    clock: &dyn Clock,
) -> Result<(Hold, Option<FreezeEvidence>), StepError> {
    let acked = frozen.acked;
    // The agent's cap ends the window in any case; a little before it we stop waiting.
    let patience = services.settings.hold_limit.saturating_sub(Duration::from_millis(500));
    let renewing = async {
        loop {
            azdr_env::sleep(RENEW).await;
            services.fleet.renew_lease(plan.item, operation_id.to_owned()).await;
        }
    };
    let taking = async {
        if frozen.again {
            refuse_earlier(room.client(), specs).await?;
        }
        take_all(room.client(), specs, clock, Some(patience), SNAPSHOT_LIMIT).await
    };
    let taken = tokio::select! {
        biased;
        taken = taking => taken,
        () = renewing => unreachable!("renews until the snapshots are taken"),
    };
    let thaw_requested_at = clock.monotonic();
    let thawed = services.fleet.thaw(plan.item, operation_id.to_owned(), THAW_LIMIT).await;
    let mut puts = taken?;
    if puts.iter().any(|p| p.succeeded_at.is_none()) {
        // Too slow for the window: they are taken all the same, and recorded as what they are.
        let late = take_all(room.client(), specs, clock, None, SNAPSHOT_LIMIT).await?;
        for (put, late) in puts.iter_mut().zip(late) {
            put.succeeded_at = put.succeeded_at.or(late.succeeded_at);
        }
    }
    let mut record = CaptureRecord {
        disks: disks(specs, &puts, acked),
        thaw_asked_ms: Some(thaw_requested_at.since(acked).as_millis() as u64),
        not_frozen: file_systems::not_frozen(&frozen.file_systems),
        ..CaptureRecord::default()
    };
    let mut hooks_pending = None;
    let (frozen_ms, agent) = match thawed {
        Ok(reply) => {
            hooks_pending = reply
                .hooks_pending
                .then(|| Duration::from_millis(reply.hooks_limit_ms.into()).min(HOOKS_LIMIT));
            record.hooks = hooks::records(&reply.hooks);
            let said = &frozen.file_systems;
            record.file_systems = file_systems::frozen(&reply.windows, said);
            let said = said.iter().filter(|r| r.state() == FileSystemState::Frozen);
            // Its word alone is not enough: every file system must be shown to have been frozen.
            let unproved = record.unproved(said.map(|report| report.mount_point.as_str()));
            let unproved = unproved.filter(|_| reply.unbroken);
            let unbroken = reply.unbroken && unproved.is_none();
            record.unbroken = Some(unbroken);
            let attestation = ThawAttestation {
                unbroken,
                reason: unproved.unwrap_or(reply.reason),
                hooks_ran: !reply.hooks_pending && reply.hooks_succeeded,
                hooks_problem: reply.hooks_problem,
            };
            (u64::from(reply.window_ms), Some(attestation))
        }
        Err(e) => {
            tracing::warn!(operation_id, error = %e, "the agent did not confirm the thaw");
            (0, None)
        }
    };
    let evidence = FreezeEvidence {
        frozen_acked_at: acked,
        puts,
        thaw_requested_at: Some(thaw_requested_at),
        agent,
        disks_left_out: record.disks_left_out(),
        disks_unknown: record.disks_unknown(),
    };
    let hold = Hold { frozen_ms, witnessed: true, reason: None, record, hooks_pending };
    Ok((hold, Some(evidence)))
}

/// As the agent knows it.
fn disk(snapshot: &PlannedSnapshot) -> Disk {
    let kind = if snapshot.lun.is_none() { DiskKind::Os } else { DiskKind::Data };
    Disk { kind: kind.into(), lun: snapshot.lun.unwrap_or(0), name: String::new() }
}

/// Answers what the agent says of each file system, and what they carry now.
async fn freeze(
    services: &Services,
    plan: &CapturePlan<'_>,
    operation_id: &str,
) -> Result<(Vec<FileSystemReport>, Vec<WitnessRecord>), Unfrozen> {
    let settings = &services.settings;
    let agent = services.fleet.protected(plan.item);
    let hooks = agent.as_ref().map_or(0, |agent| agent.hello.hooks_limit_ms);
    let limit = PREPARE_LIMIT + Duration::from_millis(hooks.into()).min(HOOKS_LIMIT);
    let request = Freeze {
        operation_id: operation_id.to_owned(),
        recovery_point: plan.point.to_owned(),
        nonce: plan.nonce.to_owned(),
        hold_limit_ms: settings.hold_limit.as_millis() as u32,
        lease_ms: settings.hold_lease.as_millis() as u32,
        witness_key: services.authority.witness_key(operation_id).expose().to_vec(),
        // Whoever is behind this door has the vmId that was enrolled.
        vm_id: agent.map(|session| session.hello.vm_id.clone()).unwrap_or_default(),
        disks: plan.snapshots.iter().map(disk).collect(),
    };
    let reply = match services.fleet.freeze(plan.item, request, limit).await {
        Ok(reply) => reply,
        Err(e) => {
            // It may be freezing right now: tell it to stop; its lease ends it in any case.
            let _ = services.fleet.thaw(plan.item, operation_id.to_owned(), THAW_LIMIT).await;
            return Err(e.to_string().into());
        }
    };
    if reply.outcome() == FreezeOutcome::Frozen {
        return Ok((reply.file_systems, evidence::written(&reply.witnesses, plan.nonce)));
    }
    let mut unfrozen = Unfrozen::from(reply.reason);
    if unfrozen.reason.is_empty() {
        "the agent refused".clone_into(&mut unfrozen.reason);
    }
    unfrozen.forbidden = reply.hook_forbids;
    unfrozen.hooks = hooks::records(&reply.hooks);
    Err(unfrozen)
}

/// PUTs all snapshots at once and polls each until it has succeeded; after `patience` it answers what
/// it has seen so far.
async fn take_all(
    azure: &ArmClient,
    specs: &Specs<'_>,
    clock: &dyn Clock,
    patience: Option<Duration>,
    limit: Duration,
) -> Result<Vec<PutEvidence>, StepError> {
    let begun = clock.monotonic();
    let all = specs.iter().map(|(snapshot, spec)| async move {
        let sent_at = clock.monotonic();
        let mut put = PutEvidence { sent_at, succeeded_at: None };
        let limit = patience.unwrap_or(limit);
        match take_one(azure, snapshot, spec, clock, begun.plus(limit)).await {
            Ok(()) => put.succeeded_at = Some(clock.monotonic()),
            Err(TakeError::TooSlow) if patience.is_some() => {}
            Err(TakeError::TooSlow) => {
                let message = format!("snapshot {} was not finished in time", snapshot.id.name());
                return Err(StepError::retry("timed_out", message));
            }
            Err(TakeError::Azure(e)) => return Err(e.into()),
        }
        Ok(put)
    });
    futures::future::join_all(all).await.into_iter().collect()
}

enum TakeError {
    TooSlow,
    Azure(AzureError),
}

async fn take_one(
    azure: &ArmClient,
    snapshot: &PlannedSnapshot,
    spec: &SnapshotSpec,
    clock: &dyn Clock,
    until: azdr_env::Monotonic,
) -> Result<(), TakeError> {
    let mut operation = match azure.begin_create_snapshot(&snapshot.id, spec).await {
        Ok(Started::Done(_)) => return Ok(()),
        Ok(Started::Running(operation)) => Some(operation),
        // The request may have arrived: the resource itself tells.
        Err(e) if e.class == ErrorClass::OutcomeUnknown => None,
        Err(e) => return Err(TakeError::Azure(e)),
    };
    let mut unknown = 0;
    while clock.monotonic() < until {
        azdr_env::sleep(POLL).await;
        let answer = match &mut operation {
            Some(operation) => azure.poll(operation).await.map(|p| matches!(p, Progress::Done(_))),
            None => azure.get_snapshot(&snapshot.id).await.map(|s| s.ready()),
        };
        match answer {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(e) if operation.is_none() && e.is_not_found() && unknown >= 10 => {
                let lost = AzureError::new(
                    ErrorClass::Unavailable,
                    "AnswerLost",
                    "the answer to the snapshot request was lost and no snapshot appeared",
                );
                return Err(TakeError::Azure(lost.for_resource(snapshot.id.as_str())));
            }
            Err(e) if e.is_not_found() && operation.is_none() => unknown += 1,
            // An operation that has failed stays failed: only the whole capture can be tried again.
            Err(e) if e.is_retryable() && operation.as_ref().is_none_or(|o| !o.is_over()) => {}
            Err(e) => return Err(TakeError::Azure(e)),
        }
    }
    Err(TakeError::TooSlow)
}

fn spec(plan: &CapturePlan<'_>, snapshot: &PlannedSnapshot, operation_id: &str) -> SnapshotSpec {
    let mut spec = SnapshotSpec::new(plan.location, snapshot.disk.clone());
    spec.tags = snapshot.tags.clone();
    spec.tags.insert(tags::OPERATION.to_owned(), operation_id.to_owned());
    spec
}

/// A mistake on purpose: a name that a repetition does not find again.
fn vary<I>(cx: &StepCx<I>, snapshot: &PlannedSnapshot) -> PlannedSnapshot {
    let name = format!("{}{}", snapshot.id.as_str(), cx.env().ids.hex(1));
    PlannedSnapshot { id: name.parse().unwrap_or(snapshot.id.clone()), ..snapshot.clone() }
}

/// A PUT on an existing name would succeed with the old content (DESIGN §5 rule 4).
async fn refuse_foreign_names<I>(
    cx: &StepCx<I>,
    snapshots: &[PlannedSnapshot],
) -> Result<(), StepError> {
    for snapshot in snapshots {
        if super::azure::existing(cx.services().azure.get_snapshot(&snapshot.id).await)?.is_some() {
            let failure = Failure::new(
                "name_taken",
                format!("a snapshot named {} exists already", snapshot.id.name()),
            )
            .resource(&snapshot.id)
            .hint("azdr does not overwrite it; trigger the backup again in a minute");
            return Err(StepError::Fail(failure));
        }
    }
    Ok(())
}

/// An earlier attempt's request whose answer was lost may have been carried out only now, before the
/// freeze: the PUT to come would succeed, with that content and this attempt's tags. What is not there once
/// all is frozen can only be made of what is frozen.
async fn refuse_earlier(azure: &ArmClient, specs: &Specs<'_>) -> Result<(), StepError> {
    let all = specs.iter().map(|(snapshot, _)| async move {
        match super::azure::existing(azure.get_snapshot(&snapshot.id).await)? {
            None => Ok(()),
            Some(_) => {
                let message =
                    format!("{} is from before the freeze, by a late request", snapshot.id.name());
                let failure = Failure::new("conflict", message).resource(&snapshot.id);
                let failure = failure.hint("it is deleted; trigger the backup again");
                Err(StepError::Retry { failure, after: None })
            }
        }
    });
    futures::future::join_all(all).await.into_iter().collect()
}

/// What is there under our names must be what this attempt made.
async fn check_ours<I>(
    cx: &StepCx<I>,
    snapshots: &[PlannedSnapshot],
    operation_id: &str,
) -> Result<(), StepError> {
    for snapshot in snapshots {
        let found = cx.services().azure.get_snapshot(&snapshot.id).await?;
        let same_operation = tags::value(&found.tags, tags::OPERATION) == Some(operation_id);
        let same_disk = found
            .source_unique_id
            .as_ref()
            .is_none_or(|id| id.eq_ignore_ascii_case(&snapshot.disk_unique_id));
        if !same_operation || !same_disk || !found.ready() {
            let message = format!("{} is not what this capture made", snapshot.id.name());
            return Err(StepError::Fail(Failure::new("conflict", message).resource(&snapshot.id)));
        }
    }
    Ok(())
}
