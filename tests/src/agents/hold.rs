//! Freezes and thaws of one machine, one operation at a time, whatever becomes of the session: what
//! azdr-agent and azdr-thawd are together.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use azdr_agent::quiesce::{nothing_held, over, refused};
use azdr_env::Monotonic;
use azdr_proto::agent::agent_message::Body as Say;
use azdr_proto::agent::{
    Disk, DiskKind, FileSystemReport, FileSystemState, FileSystemWindow, Freeze, FreezeOutcome,
    FreezeReply, Heartbeat, QuiesceState, ThawCause, ThawReply, Witness,
};
use azdr_thawd_client::{HOLD_LIMIT_RANGE_MS, LEASE_RANGE_MS, OperationId, monotonic_ns};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::machine::Machine;
use crate::simulated_machines::Thawed;

const DEFAULT_HOLD_LIMIT_MS: u32 = 10_000;
const DEFAULT_LEASE_MS: u32 = 3_000;
/// Between two attempts to thaw.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What the controller asks for.
#[derive(Debug)]
pub(super) enum Command {
    Freeze(Freeze),
    Renew(String),
    Thaw(String),
}

/// A handle. When the last one is gone, what is frozen is thawed.
#[derive(Debug)]
pub(super) struct Holds {
    commands: UnboundedSender<Command>,
    shown: Shown,
    machine: Machine,
}

/// What an operation shows of itself.
#[derive(Clone, Debug, Default)]
struct Shown(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    /// `None`: idle.
    state: Option<QuiesceState>,
    operation_id: String,
    lease_until: Option<Monotonic>,
    /// Where replies go: the current session, if there is one that may freeze.
    outlet: Option<UnboundedSender<Say>>,
}

impl Holds {
    pub(super) fn start(machine: &Machine) -> Self {
        let (commands, inbox) = unbounded_channel();
        let shown = Shown::default();
        let actor = Actor { machine: machine.clone(), inbox, shown: shown.clone(), last: None };
        tokio::spawn(actor.run());
        Self { commands, shown, machine: machine.clone() }
    }

    /// Sends replies to this session from now on.
    pub(super) fn attach(&self, outlet: UnboundedSender<Say>) {
        self.shown.inside().outlet = Some(outlet);
    }

    pub(super) fn command(&self, command: Command) {
        // The actor ends only after this handle.
        let _ = self.commands.send(command);
    }

    pub(super) fn state(&self) -> QuiesceState {
        self.shown.inside().state.unwrap_or(QuiesceState::Idle)
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        let now = self.machine.env.clock.monotonic();
        let inside = self.shown.inside();
        let left = inside.lease_until.map_or(Duration::ZERO, |until| until.since(now));
        Heartbeat {
            state: inside.state.unwrap_or(QuiesceState::Idle).into(),
            operation_id: inside.operation_id.clone(),
            lease_remaining_ms: millis(left),
        }
    }
}

impl Shown {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, state: QuiesceState) {
        self.inside().state = Some(state);
    }

    fn say(&self, body: Say) {
        if let Some(outlet) = &self.inside().outlet {
            let _ = outlet.send(body);
        }
    }
}

struct Actor {
    machine: Machine,
    inbox: UnboundedReceiver<Command>,
    shown: Shown,
    last: Option<Ended>,
}

/// How an operation went.
struct Ended {
    freeze: FreezeReply,
    thaw: ThawReply,
}

/// Of one hold.
struct Limits {
    lease: Duration,
    hold: Duration,
}

impl Actor {
    async fn run(mut self) {
        while let Some(command) = self.inbox.recv().await {
            match command {
                Command::Freeze(freeze) => match self.last_of(&freeze.operation_id) {
                    Some(ended) => self.shown.say(Say::FreezeReply(over(&ended.freeze))),
                    None => self.last = Some(self.operate(freeze).await),
                },
                Command::Thaw(id) => {
                    let thaw = self.last_of(&id).map(|ended| ended.thaw.clone());
                    let thaw = thaw.unwrap_or_else(|| nothing_held(&id, "nothing was frozen"));
                    self.shown.say(Say::ThawReply(thaw));
                }
                Command::Renew(_) => {}
            }
        }
    }

    fn last_of(&self, id: &str) -> Option<&Ended> {
        self.last.as_ref().filter(|ended| ended.freeze.operation_id == id)
    }

    async fn operate(&mut self, freeze: Freeze) -> Ended {
        self.shown.inside().operation_id.clone_from(&freeze.operation_id);
        self.shown.state(QuiesceState::Preparing);
        let ended = match self.prepare(&freeze).await {
            Ok((limits, witnesses)) => self.hold(&freeze, &limits, witnesses).await,
            Err(reason) => {
                let reply = refused(&freeze.operation_id, reason.clone());
                self.shown.say(Say::FreezeReply(reply.clone()));
                Ended { freeze: reply, thaw: nothing_held(&freeze.operation_id, &reason) }
            }
        };
        tracing::info!(
            name = self.machine.name(),
            operation = freeze.operation_id,
            window_ms = ended.thaw.window_ms,
            unbroken = ended.thaw.unbroken,
            reason = ended.thaw.reason,
            "the operation is over"
        );
        let mut inside = self.shown.inside();
        inside.state = None;
        inside.lease_until = None;
        inside.operation_id.clear();
        ended
    }

    /// Everything that comes before the window.
    async fn prepare(&self, freeze: &Freeze) -> Result<(Limits, Vec<Witness>), String> {
        OperationId::new(&freeze.operation_id).ok_or("the operation's id cannot be used")?;
        let limits = Limits {
            lease: within(freeze.lease_ms, DEFAULT_LEASE_MS, LEASE_RANGE_MS)?,
            hold: within(freeze.hold_limit_ms, DEFAULT_HOLD_LIMIT_MS, HOLD_LIMIT_RANGE_MS)?,
        };
        let written = self.machine.write_witnesses(freeze).await;
        written.map(|witnesses| (limits, witnesses)).map_err(|error| format!("{error:#}"))
    }

    /// From the freeze to the confirmed thaw.
    async fn hold(&mut self, freeze: &Freeze, limits: &Limits, witnesses: Vec<Witness>) -> Ended {
        let id = &freeze.operation_id;
        let clock = self.machine.env.clock.clone();
        let (from, from_ns, from_wall) = (clock.monotonic(), monotonic_ns(), clock.wall());
        let frozen = self.machine.freeze().await;
        let mut reply = self.freeze_reply(id, frozen.as_ref().err(), clock.monotonic().since(from));
        reply.witnesses = witnesses;
        let (cause, asked) = match &frozen {
            Ok(()) => {
                self.shown.state(QuiesceState::Frozen);
                self.shown.say(Say::FreezeReply(reply.clone()));
                self.window(&reply, from.plus(limits.hold), limits.lease).await
            }
            Err(_) => (ThawCause::FreezeFailed, None),
        };
        self.shown.state(QuiesceState::Thawing);
        let thawed = self.thaw().await;
        let window = clock.monotonic().since(from);
        let mut reason = why_broken(cause, thawed);
        if reason.is_empty() && window > limits.hold {
            reason = format!("held {} ms, allowed {} ms", millis(window), millis(limits.hold));
        }
        let (to_ns, to_wall) = (monotonic_ns(), clock.wall());
        let windows = self.machine.mounts().iter().map(|mount| FileSystemWindow {
            mount_point: mount.clone(),
            frozen_from_ns: from_ns,
            frozen_to_ns: to_ns,
            frozen_from_unix_ms: from_wall.unix_ms(),
            frozen_to_unix_ms: to_wall.unix_ms(),
            first_thaw_succeeded: thawed == Thawed::Now,
            // What stands in for the canaries: the machine itself, which knows whether it was frozen.
            canary_blocked: frozen.is_ok(),
            canary_released_ns: if thawed == Thawed::Now { to_ns } else { 0 },
            canary_released_by_thaw: thawed == Thawed::Now && cause == ThawCause::Command,
            reason: match thawed {
                Thawed::Before => "somebody else thawed it".to_owned(),
                _ => String::new(),
            },
        });
        let thaw = ThawReply {
            operation_id: id.clone(),
            unbroken: reason.is_empty(),
            cause: cause.into(),
            reason,
            windows: windows.collect(),
            window_ms: millis(window),
            ..ThawReply::default()
        };
        if frozen.is_err() {
            self.shown.say(Say::FreezeReply(reply.clone()));
        }
        if let Some(asked) = asked {
            let mut answer = thaw.clone();
            if asked != *id {
                answer.unbroken = false;
                answer.reason = format!("held was {id}, which was thawed");
                answer.operation_id = asked;
            }
            self.shown.say(Say::ThawReply(answer));
        }
        Ended { freeze: reply, thaw }
    }

    /// Holds until somebody asks for the thaw or a limit passes; why it ended, and the id that was
    /// asked for.
    async fn window(
        &mut self,
        reply: &FreezeReply,
        limit_at: Monotonic,
        lease: Duration,
    ) -> (ThawCause, Option<String>) {
        let id = &reply.operation_id;
        let clock = self.machine.env.clock.clone();
        let mut lease_until = clock.monotonic().plus(lease);
        loop {
            self.shown.inside().lease_until = Some(lease_until);
            let now = clock.monotonic();
            if now >= limit_at {
                return (ThawCause::HoldLimit, None);
            }
            if now >= lease_until {
                return (ThawCause::LeaseExpired, None);
            }
            let command = tokio::select! {
                biased;
                command = self.inbox.recv() => command,
                () = azdr_env::sleep(limit_at.min(lease_until).since(now)) => continue,
            };
            match command {
                Some(Command::Renew(renewed)) if renewed == *id => {
                    lease_until = clock.monotonic().plus(lease);
                }
                Some(Command::Renew(_)) => {}
                Some(Command::Freeze(again)) if again.operation_id == *id => {
                    self.shown.say(Say::FreezeReply(reply.clone()));
                }
                Some(Command::Freeze(other)) => {
                    let reason = format!("operation {id} is not over yet");
                    self.shown.say(Say::FreezeReply(refused(&other.operation_id, reason)));
                }
                Some(Command::Thaw(asked)) => return (ThawCause::Command, Some(asked)),
                None => return (ThawCause::AgentDied, None),
            }
        }
    }

    /// Tries until the machine is certainly not frozen any more.
    async fn thaw(&self) -> Thawed {
        loop {
            match self.machine.thaw().await {
                Ok(thawed) => return thawed,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "not thawed yet");
                    self.shown.state(QuiesceState::Poisoned);
                    azdr_env::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    fn freeze_reply(&self, id: &str, error: Option<&anyhow::Error>, took: Duration) -> FreezeReply {
        let reason = error.map(|error| format!("{error:#}")).unwrap_or_default();
        let (outcome, state) = match error {
            None => (FreezeOutcome::Frozen, FileSystemState::Frozen),
            Some(_) => (FreezeOutcome::Failed, FileSystemState::Failed),
        };
        let reports = self.machine.mounts().iter().map(|mount| FileSystemReport {
            mount_point: mount.clone(),
            file_system_type: "simulated".to_owned(),
            state: state.into(),
            reason: reason.clone(),
            disks: vec![disk_of(mount)],
            disks_known: true,
            ..FileSystemReport::default()
        });
        FreezeReply {
            operation_id: id.to_owned(),
            outcome: outcome.into(),
            file_systems: reports.collect(),
            reason: reason.clone(),
            presync_ms: 0,
            freeze_ms: millis(took),
            ..FreezeReply::default()
        }
    }
}

/// Where azure-sim mounts them.
fn disk_of(mount: &str) -> Disk {
    match mount.strip_prefix("/mnt/lun").and_then(|lun| lun.parse().ok()) {
        Some(lun) => Disk { kind: DiskKind::Data.into(), lun, name: String::new() },
        None => Disk { kind: DiskKind::Os.into(), ..Disk::default() },
    }
}

/// Why the freeze was not unbroken until a thaw that was asked for; empty when it was.
fn why_broken(cause: ThawCause, thawed: Thawed) -> String {
    let why = match (cause, thawed) {
        (_, Thawed::MachineGone) => "the machine has ended",
        (ThawCause::FreezeFailed, _) => "the freeze did not complete",
        (_, Thawed::Before) => "somebody else thawed it",
        (ThawCause::LeaseExpired, _) => "the lease was not renewed in time",
        (ThawCause::HoldLimit, _) => "the hold limit passed",
        (ThawCause::AgentDied, _) => "the agent ended",
        _ => "",
    };
    why.to_owned()
}

fn within(ms: u32, default: u32, range: RangeInclusive<u32>) -> Result<Duration, String> {
    match ms {
        0 => Ok(Duration::from_millis(default.into())),
        ms if range.contains(&ms) => Ok(Duration::from_millis(ms.into())),
        ms => Err(format!("{ms} ms; allowed are {} to {}", range.start(), range.end())),
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
