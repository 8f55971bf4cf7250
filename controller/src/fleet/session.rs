//! One live stream with one agent.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use azdr_domain::machine_evidence::one_line;
use azdr_env::{Monotonic, WallTime};
use azdr_proto::agent::agent_message::Body as FromAgent;
use azdr_proto::agent::controller_message::Body;
use azdr_proto::agent::{
    ControllerMessage, FreezeReply, HealthReport, Heartbeat, Hello, PreflightReport, QuiesceState,
    ThawReply,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::FleetError;
use crate::store::{ItemId, RunId};

/// How long a message may wait for a slow connection.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// Which door the session came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// The agent of a protected VM.
    Protected,
    /// A machine that carries a protected VM's identity and is not it, or not yet again.
    Restored {
        /// The run that expects it; `None`: quarantined.
        run: Option<RunId>,
    },
}

/// What an answer belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplyKey {
    /// A freeze, by operation id.
    Freeze(String),
    /// A thaw, by operation id.
    Thaw(String),
    /// A health probe, by request id.
    Health(String),
    /// A preflight, by request id.
    Preflight(String),
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// To a freeze.
    Freeze(FreezeReply),
    /// To a thaw.
    Thaw(ThawReply),
    /// To a health probe.
    Health(HealthReport),
    /// To a preflight.
    Preflight(PreflightReport),
}

/// When an agent said hello, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// For people.
    pub wall: WallTime,
    /// For what must come before or after it.
    pub monotonic: Monotonic,
}

/// One live stream with one agent.
pub struct Session {
    /// Distinguishes sessions of one machine.
    pub id: u64,
    /// Whose certificate it shows.
    pub item: ItemId,
    /// Which door it came through.
    pub kind: SessionKind,
    /// What the agent said when it came.
    pub hello: Hello,
    /// When it came.
    pub since: WallTime,
    /// When it came, by this process's monotonic clock.
    pub arrived: Monotonic,
    /// End of its certificate's validity.
    pub certificate_expires: WallTime,
    state: Mutex<State>,
    outbox: mpsc::Sender<ControllerMessage>,
    ended: CancellationToken,
}

struct State {
    last_seen: WallTime,
    quiesce: QuiesceState,
    waiting: BTreeMap<ReplyKey, oneshot::Sender<Reply>>,
}

impl Session {
    /// A session that has just said hello; what is told to it goes to `outbox`.
    pub fn new(
        id: u64,
        item: ItemId,
        kind: SessionKind,
        hello: Hello,
        arrival: Arrival,
        certificate_expires: WallTime,
        outbox: mpsc::Sender<ControllerMessage>,
    ) -> Self {
        Self {
            id,
            item,
            kind,
            hello,
            since: arrival.wall,
            arrived: arrival.monotonic,
            certificate_expires,
            state: Mutex::new(State {
                last_seen: arrival.wall,
                quiesce: QuiesceState::Unspecified,
                waiting: BTreeMap::new(),
            }),
            outbox,
            ended: CancellationToken::new(),
        }
    }

    /// When it last said anything.
    pub fn last_seen(&self) -> WallTime {
        self.lock().last_seen
    }

    /// What its last heartbeat said.
    pub fn quiesce_state(&self) -> QuiesceState {
        self.lock().quiesce
    }

    /// Resolves when the session is over.
    pub async fn over(&self) {
        self.ended.cancelled().await;
    }

    /// Whether the session is over.
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Sends a message; a connection that does not take it in time ends.
    pub async fn tell(&self, body: Body) {
        let message = ControllerMessage { body: Some(body) };
        tokio::select! {
            sent = self.outbox.send(message) => if sent.is_err() { self.end() },
            () = azdr_env::sleep(SEND_LIMIT) => self.end(),
        }
    }

    /// Whether somebody waits for this answer.
    pub fn awaits(&self, key: &ReplyKey) -> bool {
        self.lock().waiting.contains_key(key)
    }

    /// Takes in a message of the agent; answers nobody waits for are dropped. Of reasons, which are kept and
    /// shown as they are told, no more is taken in than is kept.
    pub fn receive(&self, message: FromAgent, now: WallTime) {
        let reply = match message {
            FromAgent::Heartbeat(Heartbeat { state, .. }) => {
                let mut own = self.lock();
                own.last_seen = now;
                own.quiesce = QuiesceState::try_from(state).unwrap_or(QuiesceState::Unspecified);
                return;
            }
            FromAgent::FreezeReply(mut r) => {
                r.reason = one_line(&r.reason);
                (ReplyKey::Freeze(r.operation_id.clone()), Reply::Freeze(r))
            }
            FromAgent::ThawReply(mut r) => {
                r.reason = one_line(&r.reason);
                r.hooks_problem = one_line(&r.hooks_problem);
                (ReplyKey::Thaw(r.operation_id.clone()), Reply::Thaw(r))
            }
            FromAgent::Health(r) => (ReplyKey::Health(r.request_id.clone()), Reply::Health(r)),
            FromAgent::Preflight(r) => {
                (ReplyKey::Preflight(r.request_id.clone()), Reply::Preflight(r))
            }
            FromAgent::Hello(_) | FromAgent::RenewCertificate(_) => return,
        };
        let mut own = self.lock();
        own.last_seen = now;
        if let Some(waiting) = own.waiting.remove(&reply.0) {
            // Whoever waited may have given up in this very moment.
            let _ = waiting.send(reply.1);
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(
        &self,
        key: ReplyKey,
        body: Body,
        limit: Duration,
    ) -> Result<Reply, FleetError> {
        if self.is_over() {
            return Err(FleetError::NotConnected);
        }
        let (send, receive) = oneshot::channel();
        self.lock().waiting.insert(key.clone(), send);
        self.tell(body).await;
        let answer = tokio::select! {
            biased;
            answer = receive => answer.map_err(|_| FleetError::Disconnected),
            () = self.ended.cancelled() => Err(FleetError::Disconnected),
            () = azdr_env::sleep(limit) => Err(FleetError::TimedOut(limit)),
        };
        self.lock().waiting.remove(&key);
        answer
    }

    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("state is only read and written")
    }
}
