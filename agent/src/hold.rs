//! One operation, from the request to the confirmed thaw.
//!
//! Everything that may block on a disk (survey, sync, witness) comes before the thaw process is
//! armed. From then on this process writes nothing: log lines are held back, heartbeats and replies
//! come from memory (N8). The thaw process survives the death of either of its two halves; should
//! both die in the window, which is the end of the connection, or both stand still when they should have
//! thawed, this one thaws through the descriptors that all hold.
//!
//! What the freeze is worth is looked at while it lasts: FROZEN is said only after the canaries have
//! been seen blocked, and file systems that come or go are noticed (R9).

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use azdr_env::Monotonic;
use azdr_proto::agent::agent_message::Body;
use azdr_proto::agent::{
    FileSystemReport, FileSystemState, Freeze, FreezeOutcome, FreezeReply, QuiesceState, Witness,
};
use azdr_thawd_client::{
    Client, HOLD_LIMIT_RANGE_MS, LEASE_RANGE_MS, MAX_FILE_SYSTEMS, OperationId, Prepare, Reply,
    Report, Request, State, monotonic_ns,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::canary::{Canaries, Sight};
use crate::conditions::obstacles;
use crate::facts;
use crate::mount_watch::MountWatch;
use crate::mounts::Device;
use crate::presync::{Presync, presync};
use crate::quiesce::{Command, Ended, View, nothing_held};
use crate::safe_freeze_lock::{self, SafeFreezeLock};
use crate::survey::{Survey, survey};
use crate::witness::{Moment, Place};
use crate::{Agent, health, kernel, witness};

const SURVEY_LIMIT: Duration = Duration::from_secs(10);
const WITNESS_LIMIT: Duration = Duration::from_secs(5);
const ARM_LIMIT: Duration = Duration::from_secs(5);
const DEFAULT_HOLD_LIMIT_MS: u32 = 10_000;
const DEFAULT_LEASE_MS: u32 = 3_000;
/// Names in the interface are at most this long, in bytes.
const MAX_POINT: usize = 128;
const NONCE_LEN: usize = 64;
/// A freezer that died with its thaw process may finish one more FIFREEZE for about so long.
const LATE_FREEZE: Duration = Duration::from_secs(1);
const CANARY_LIMIT: Duration = Duration::from_secs(3);
/// The thaw process keeps the hold limit, and says a second later when it cannot thaw. When so long after the limit
/// it has not said a word, it does not run.
const OVERDUE: Duration = Duration::from_millis(1_500);
/// A thaw that was asked for is confirmed sooner than this, or said to be stuck.
const THAW_OVERDUE: Duration = Duration::from_secs(2);

/// Everything ready, nothing frozen.
pub(crate) struct Prepared {
    id: OperationId,
    lease: Duration,
    hold_limit: Duration,
    presync: Presync,
    survey: Survey,
    witnesses: Vec<Witness>,
    mount_watch: MountWatch,
    canaries: Canaries,
    thawd: AsyncFd<Client>,
    /// Held until the thaw is confirmed.
    _lock: SafeFreezeLock,
}

/// Checks the request, surveys, syncs, writes the witnesses and arms the thaw process.
///
/// # Errors
/// In words for an operator; nothing was frozen.
pub(crate) async fn prepare(agent: &Agent, freeze: &Freeze) -> Result<Prepared, String> {
    let (id, lease_ms, hold_limit_ms) = check(freeze)?;
    let (scope, now) = (agent.scope(), agent.env.clock.wall());
    let least_uptime = agent.least_uptime();
    let look = move || obstacles(&scope.roots, now, least_uptime);
    let obstacles = agent.blocking.run("look at the machine's state", SURVEY_LIMIT, look).await;
    if let Some(reason) = obstacles.map_err(|stuck| stuck.to_string())?.into_iter().next() {
        return Err(reason);
    }
    let mount_watch =
        MountWatch::start(agent.scope()).map_err(|e| format!("the mount table: {e}"))?;
    let scope = agent.scope();
    let look = move || survey(&scope);
    let found = agent.blocking.run("look at the file systems", SURVEY_LIMIT, look).await;
    let found = found.map_err(|stuck| stuck.to_string())?.map_err(|e| crate::chain(&e))?;
    match found.covered.len() {
        0 => return Err("there is no file system to freeze".to_owned()),
        n if n > MAX_FILE_SYSTEMS => return Err(format!("{n} file systems are more than 64")),
        _ => {}
    }
    found.check_disks(&freeze.disks)?;
    let lock = safe_freeze_lock::take(agent).await?;
    let roots: Vec<(String, Arc<OwnedFd>)> = found
        .covered
        .iter()
        .map(|covered| (covered.mount_point.to_string_lossy().into_owned(), covered.root.clone()))
        .collect();
    let presync = presync(&agent.env, &agent.blocking, &roots).await.map_err(|e| e.to_string())?;
    let witnesses = write_witnesses(agent, freeze, &found).await?;
    let canaries = start_canaries(&found).await?;
    let mut levels = [0; MAX_FILE_SYSTEMS];
    levels.iter_mut().zip(&found.covered).for_each(|(level, covered)| *level = covered.level);
    let count = u8::try_from(found.covered.len()).map_err(|_| "too many file systems")?;
    let order = Prepare { operation: id, lease_ms, hold_limit_ms, count, levels };
    let thawd = timeout(ARM_LIMIT, arm(&agent.config.thawd_socket, order, &found))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|e| format!("azdr-thawd at {}: {e}", agent.config.thawd_socket.display()))?;
    Ok(Prepared {
        id,
        lease: Duration::from_millis(lease_ms.into()),
        hold_limit: Duration::from_millis(hold_limit_ms.into()),
        presync,
        survey: found,
        witnesses,
        mount_watch,
        canaries,
        thawd,
        _lock: lock,
    })
}

/// Checks a request's values.
///
/// # Errors
/// Names the field and what is allowed.
pub(crate) fn check(freeze: &Freeze) -> Result<(OperationId, u32, u32), String> {
    let id = OperationId::new(&freeze.operation_id)
        .ok_or("operation_id must be 1 to 64 characters of [0-9a-z-]")?;
    if freeze.recovery_point.len() > MAX_POINT {
        return Err("recovery_point is longer than 128 bytes".to_owned());
    }
    let hexadecimal = freeze.nonce.bytes().all(|b| b.is_ascii_hexdigit());
    if freeze.nonce.len() != NONCE_LEN || !hexadecimal {
        return Err("nonce must be 64 hexadecimal digits".to_owned());
    }
    let within = |name, value, default, range: RangeInclusive<u32>| match value {
        0 => Ok(default),
        ms if range.contains(&ms) => Ok(ms),
        ms => Err(format!("{name} is {ms}, allowed are {} to {}", range.start(), range.end())),
    };
    let lease = within("lease_ms", freeze.lease_ms, DEFAULT_LEASE_MS, LEASE_RANGE_MS)?;
    let limit = freeze.hold_limit_ms;
    let limit = within("hold_limit_ms", limit, DEFAULT_HOLD_LIMIT_MS, HOLD_LIMIT_RANGE_MS)?;
    Ok((id, lease, limit))
}

async fn write_witnesses(
    agent: &Agent,
    freeze: &Freeze,
    found: &Survey,
) -> Result<Vec<Witness>, String> {
    let moment = Moment {
        unix_ms: agent.env.clock.wall().unix_ms(),
        boot_id: health::boot_id(),
        monotonic_ns: monotonic_ns(),
    };
    let places: Vec<Place> =
        found.covered.iter().map(|covered| covered.place(&agent.roots)).collect();
    let witnesses = witness::of_freeze(freeze, &places, &moment)?;
    let mut writes = tokio::task::JoinSet::new();
    for (covered, witness) in found.covered.iter().zip(&witnesses) {
        let (place, witness) = (witness.mount_point.clone(), witness.clone());
        let (root, blocking) = (covered.root.clone(), agent.blocking.clone());
        writes.spawn(async move {
            let what = format!("witness for {place}");
            let write = move || witness::write(root.as_fd(), &witness);
            match blocking.run(what, WITNESS_LIMIT, write).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("cannot write the witness to {place}: {error}")),
                Err(stuck) => Err(format!("{stuck}: {place} may be frozen by somebody else")),
            }
        });
    }
    while let Some(written) = writes.join_next().await {
        written.map_err(|error| error.to_string())??;
    }
    Ok(witnesses)
}

async fn start_canaries(found: &Survey) -> Result<Canaries, String> {
    let roots: Vec<_> = found.covered.iter().map(|covered| covered.root.clone()).collect();
    let started = async {
        let start = tokio::task::spawn_blocking(move || Canaries::start(&roots));
        let mut canaries = start.await.map_err(io::Error::other)??;
        canaries.ready().await?;
        Ok(canaries)
    };
    timeout(CANARY_LIMIT, started)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error: io::Error| format!("cannot start the canaries: {error}"))
}

async fn arm(socket: &Path, order: Prepare, found: &Survey) -> io::Result<AsyncFd<Client>> {
    let thawd = Client::connect(socket, 1_000)?;
    let roots: Vec<_> = found.covered.iter().map(|covered| covered.root.as_fd()).collect();
    thawd.prepare(order, &roots)?;
    let thawd = kernel::watch(thawd)?;
    match next_reply(&thawd).await? {
        Reply::Armed(id) if id == order.operation => Ok(thawd),
        other => Err(io::Error::other(format!("it answered {other:?}"))),
    }
}

async fn next_reply(thawd: &AsyncFd<Client>) -> io::Result<Reply> {
    loop {
        let mut ready = thawd.readable().await?;
        match ready.get_inner().try_receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            other => return other,
        }
    }
}

/// How the window ended.
enum End {
    Thawed(Box<Report>),
    /// Both halves of the thaw process died, or do not run; this one thawed. What each FITHAW said.
    WithoutThawd(Vec<io::Result<()>>),
    /// The thaw process was gone before it could be told to freeze.
    NothingAsked,
}

struct Hold<'a> {
    agent: &'a Agent,
    view: &'a View,
    prepared: Prepared,
    /// The reply that said FROZEN, once it was said.
    frozen: Option<FreezeReply>,
    /// Ids of the thaws that were asked for.
    asked: Vec<String>,
    /// When the first of them was passed on, by CLOCK_MONOTONIC.
    asked_ns: u64,
    /// The file systems that should be there.
    devices: BTreeSet<Device>,
    /// How the mount table has changed, if it has.
    change: Option<String>,
    /// The thaw process has said that it cannot thaw, and goes on trying.
    poisoned: bool,
    /// When the thaw process should have thawed, or said that it cannot.
    overdue: Monotonic,
}

/// Freezes, holds and thaws; returns when the thaw is confirmed.
pub(crate) async fn run(
    agent: &Agent,
    view: &View,
    inbox: &mut UnboundedReceiver<Command>,
    prepared: Prepared,
) -> Ended {
    let devices = prepared.survey.covered.iter().map(|covered| covered.device).collect();
    let overdue = agent.env.clock.monotonic().plus(prepared.hold_limit + OVERDUE);
    let mut hold = Hold {
        agent,
        view,
        prepared,
        frozen: None,
        asked: Vec::new(),
        asked_ns: 0,
        devices,
        change: None,
        poisoned: false,
        overdue,
    };
    agent.log.hold();
    let end = hold.window(inbox).await;
    let sights = match hold.frozen {
        Some(_) => hold.prepared.canaries.sights().await.to_vec(),
        // They were not sent.
        None => Vec::new(),
    };
    agent.log.release();
    hold.conclude(&end, &sights)
}

impl Hold<'_> {
    fn id(&self) -> &str {
        self.prepared.id.as_str()
    }

    /// The critical section.
    async fn window(&mut self, inbox: &mut UnboundedReceiver<Command>) -> End {
        let mut inbox_open = true;
        if self.tell(&Request::Freeze(self.prepared.id)).is_err() {
            // What is frozen is somebody else's.
            return End::NothingAsked;
        }
        loop {
            let overdue = self.overdue.since(self.agent.env.clock.monotonic());
            tokio::select! {
                biased;
                reply = next_reply(&self.prepared.thawd) => match reply {
                    Ok(Reply::Frozen(report)) => self.now_frozen(&report).await,
                    Ok(Reply::Thawed(report)) => return End::Thawed(Box::new(report)),
                    Ok(Reply::Status(_, State::Poisoned)) => {
                        self.poisoned = true;
                        self.view.show(QuiesceState::Poisoned);
                    }
                    Ok(other) => tracing::warn!(?other, "unexpected answer of azdr-thawd"),
                    Err(_) => return self.thaw_ourselves().await,
                },
                command = inbox.recv(), if inbox_open => {
                    inbox_open = command.is_some();
                    self.obey(command.unwrap_or_else(|| Command::Thaw(self.id().to_owned())));
                }
                change = self.prepared.mount_watch.change(&self.devices), if self.change.is_none() => {
                    self.change = Some(change);
                }
                () = azdr_env::sleep(overdue), if !self.poisoned => {
                    return self.thaw_ourselves().await;
                }
            }
        }
    }

    fn tell(&self, request: &Request) -> io::Result<()> {
        self.prepared.thawd.get_ref().send(request)
    }

    fn renew_lease(&self) {
        let until = self.agent.env.clock.monotonic().plus(self.prepared.lease);
        self.view.lease_until(Some(until));
    }

    async fn now_frozen(&mut self, report: &Report) {
        self.renew_lease();
        self.prepared.canaries.go(&self.agent.env).await;
        self.view.show(QuiesceState::Frozen);
        let reply = self.freeze_reply(FreezeOutcome::Frozen, String::new(), Some(report));
        self.view.say(Body::FreezeReply(reply.clone()));
        self.frozen = Some(reply);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Freeze(asked) => {
                if !self.view.refuse_if_other(self.id(), &asked)
                    && let Some(reply) = &self.frozen
                {
                    self.view.say(Body::FreezeReply(reply.clone()));
                }
            }
            Command::Renew(id) => {
                if id == self.id() && self.frozen.is_some() && self.asked.is_empty() {
                    // When this fails, the end of the connection is the next thing to be read.
                    let _ = self.tell(&Request::Renew(self.prepared.id));
                    self.renew_lease();
                }
            }
            Command::Thaw(id) => {
                self.asked.push(id);
                if self.asked_ns == 0 {
                    self.asked_ns = monotonic_ns();
                    let overdue = self.agent.env.clock.monotonic().plus(THAW_OVERDUE);
                    self.overdue = self.overdue.min(overdue);
                }
                self.view.show(QuiesceState::Thawing);
                let _ = self.tell(&Request::Thaw(self.prepared.id));
            }
        }
    }

    /// The thaw process is gone: nobody else will do it.
    ///
    /// After FROZEN all of it is known to have been frozen by us. Before, what the thaw process had done when
    /// it died is known to nobody: the kernel tells neither whether a file system is frozen nor by whom. Each is
    /// thawed then, again and again until no FIFREEZE of ours can be in flight any more, since one that is left
    /// frozen is a machine that stands still. A freeze that somebody else has begun on one of them between our
    /// witness, which was written to it moments ago, and now is ended by that. Azure's own freezers cannot: we
    /// hold their lock. Nothing of such an operation is called frozen.
    async fn thaw_ourselves(&self) -> End {
        self.view.show(QuiesceState::Thawing);
        let late_freeze = if self.frozen.is_some() { Duration::ZERO } else { LATE_FREEZE };
        let mut threads = tokio::task::JoinSet::new();
        for (index, covered) in self.prepared.survey.covered.iter().enumerate() {
            let (root, env) = (covered.root.clone(), self.agent.env.clone());
            threads.spawn_blocking(move || {
                let start = env.clock.monotonic();
                loop {
                    match azdr_thawd_client::thaw_file_system(root.as_fd()) {
                        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {}
                        result if env.clock.monotonic().since(start) >= late_freeze => {
                            return (index, result);
                        }
                        _ => {}
                    }
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            });
        }
        let mut results: Vec<io::Result<()>> =
            self.prepared.survey.covered.iter().map(|_| Ok(())).collect();
        loop {
            match timeout(Duration::from_secs(2), threads.join_next()).await {
                Err(_) => self.view.show(QuiesceState::Poisoned),
                Ok(None) => return End::WithoutThawd(results),
                Ok(Some(Ok((index, result)))) => {
                    if let Some(slot) = results.get_mut(index) {
                        *slot = result;
                    }
                }
                Ok(Some(Err(_))) => {}
            }
        }
    }

    fn conclude(&self, end: &End, sights: &[Sight]) -> Ended {
        let mut thaw = match end {
            End::Thawed(report) => {
                let wall = self.agent.env.clock.wall();
                let (survey, presync) = (&self.prepared.survey, &self.prepared.presync);
                facts::thaw_reply(report, survey, presync, sights, self.asked_ns, wall)
            }
            End::WithoutThawd(results) => facts::thaw_reply_without_thawd(self.id(), results),
            End::NothingAsked => nothing_held(self.id(), "azdr-thawd died before it froze"),
        };
        if self.frozen.is_none() {
            facts::spoil(&mut thaw, "not everything was frozen");
        }
        let change = self.change.clone();
        let change = change.or_else(|| self.prepared.mount_watch.change_since(&self.devices));
        if let Some(change) = change {
            facts::spoil(&mut thaw, &change);
        }
        // Whoever froze was not the first to want it thawed: the snapshots may come after that.
        if let Some(other) = self.asked.first().filter(|id| *id != self.id()) {
            facts::spoil(&mut thaw, &format!("{other} asked for the thaw"));
        }
        let freeze = self.frozen.clone().unwrap_or_else(|| {
            let report = match end {
                End::Thawed(report) => Some(report.as_ref()),
                End::WithoutThawd(_) | End::NothingAsked => None,
            };
            let why = |report| facts::why_not_frozen(report, &self.prepared.survey);
            let reason = report.map_or("azdr-thawd died".to_owned(), why);
            let reply = self.freeze_reply(FreezeOutcome::Failed, reason, report);
            self.view.say(Body::FreezeReply(reply.clone()));
            reply
        });
        let refused_calls = match end {
            End::Thawed(report) => report.refused_calls,
            End::WithoutThawd(_) | End::NothingAsked => 0,
        };
        tracing::info!(
            operation = self.id(),
            window_ms = thaw.window_ms,
            unbroken = thaw.unbroken,
            cause = thaw.cause().as_str_name(),
            reason = thaw.reason,
            refused_calls,
            "thawed"
        );
        if refused_calls > 0 {
            // It thawed all the same: what it could not do was not needed for that (N8).
            tracing::warn!(refused_calls, "azdr-thawd's filter refused calls of its own");
        }
        for id in &self.asked {
            let mut reply = thaw.clone();
            if id != self.id() {
                facts::spoil(&mut reply, &format!("held was {}, which was thawed", self.id()));
                reply.operation_id = id.clone();
            }
            self.view.say(Body::ThawReply(reply));
        }
        Ended { freeze, thaw }
    }

    fn freeze_reply(
        &self,
        outcome: FreezeOutcome,
        reason: String,
        report: Option<&Report>,
    ) -> FreezeReply {
        let (survey, presync) = (&self.prepared.survey, &self.prepared.presync);
        let mut file_systems: Vec<FileSystemReport> = match report {
            Some(report) => facts::file_system_reports(report, survey, presync),
            None => survey
                .covered
                .iter()
                .map(|covered| covered.report(FileSystemState::Failed, reason.clone()))
                .collect(),
        };
        file_systems.extend(survey.skipped_reports());
        FreezeReply {
            operation_id: self.id().to_owned(),
            outcome: outcome.into(),
            reason,
            file_systems,
            presync_ms: u32::try_from(presync.spent.as_millis()).unwrap_or(u32::MAX),
            freeze_ms: report.map_or(0, Report::freeze_ms),
            witnesses: self.prepared.witnesses.clone(),
            ..FreezeReply::default()
        }
    }
}
