//! Who is connected, and what they are asked.
//!
//! A session is one live stream with one agent: of a protected VM, or of a restored instance.
//! Commands go out on it and their answers are matched by operation id; when a session ends, every
//! command that waits on it fails at once. Presence is an event: whoever waits for a machine to
//! report waits on [`Fleet::changes`].
//!
//! The fleet knows no policies and no Azure. Who may open which session is decided by the services
//! in `api/`; whether an answer is believed, by `azdr_domain::consistency` (I4).

mod session;

pub use session::{Arrival, Reply, ReplyKey, Session, SessionKind};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::Clock;
use azdr_proto::agent::controller_message::Body;
use azdr_proto::agent::{
    Freeze, FreezeReply, HealthReport, PreflightReport, ProbeHealth, RenewLease, RunPreflight,
    Thaw, ThawReply,
};
use thiserror::Error;

use crate::mutation::{Mutation, planted};
use crate::store::ItemId;
use crate::ticks::{Listener, Ticks};

/// Why an agent gave no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FleetError {
    /// No agent of this machine is connected.
    #[error("no agent is connected")]
    NotConnected,
    /// The connection ended before the answer: whether it was carried out is unknown.
    #[error("the agent's connection ended before it answered")]
    Disconnected,
    /// No answer in time: whether it was carried out is unknown.
    #[error("the agent did not answer within {0:?}")]
    TimedOut(Duration),
}

/// All sessions. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    sessions: Mutex<Sessions>,
    changes: Ticks,
}

#[derive(Default)]
struct Sessions {
    next_id: u64,
    /// At most one per VM: a newer one replaces an older one.
    protected: BTreeMap<ItemId, Arc<Session>>,
    /// At most one per instance, by its vmId; with the item, so that no VM's agent can take the place
    /// of another's by claiming its vmId.
    restored: BTreeMap<(ItemId, String), Arc<Session>>,
}

impl Fleet {
    /// An empty fleet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner { clock, sessions: Mutex::default(), changes: Ticks::default() }),
        }
    }

    /// Takes up a session; an older one of the same machine ends.
    pub fn join(&self, make: impl FnOnce(u64, Arrival) -> Session) -> Arc<Session> {
        let (session, replaced) = {
            let mut sessions = self.lock();
            sessions.next_id += 1;
            let clock = &self.inner.clock;
            let arrival = Arrival { wall: clock.wall(), monotonic: clock.monotonic() };
            let session = Arc::new(make(sessions.next_id, arrival));
            let replaced = match &session.kind {
                SessionKind::Protected => sessions.protected.insert(session.item, session.clone()),
                SessionKind::Restored { .. } => {
                    let key = (session.item, session.hello.vm_id.clone());
                    sessions.restored.insert(key, session.clone())
                }
            };
            (session, replaced)
        };
        if let Some(old) = replaced {
            old.end();
        }
        self.changed();
        session
    }

    /// Ends a session, unless a newer one has taken its place already.
    pub fn leave(&self, session: &Arc<Session>) {
        session.end();
        {
            let mut sessions = self.lock();
            let same = |s: &Arc<Session>| s.id == session.id;
            if sessions.protected.get(&session.item).is_some_and(same) {
                sessions.protected.remove(&session.item);
            }
            let key = (session.item, session.hello.vm_id.clone());
            if sessions.restored.get(&key).is_some_and(same) {
                sessions.restored.remove(&key);
            }
        }
        self.changed();
    }

    /// Ends all sessions that use one of the item's certificates: they were revoked.
    pub fn expel(&self, item: ItemId) {
        for session in self.sessions() {
            if session.item == item {
                self.leave(&session);
            }
        }
    }

    /// The session of a protected VM's own agent.
    pub fn protected(&self, item: ItemId) -> Option<Arc<Session>> {
        let sessions = self.lock();
        if planted(Mutation::CloneIsAsked)
            && let Some((_, clone)) = sessions.restored.iter().find(|((of, _), _)| *of == item)
        {
            return Some(clone.clone());
        }
        sessions.protected.get(&item).cloned()
    }

    /// The session of a restored instance of an item, by Azure's vmId (lower case).
    pub fn restored(&self, item: ItemId, vm_guid: &str) -> Option<Arc<Session>> {
        self.lock().restored.get(&(item, vm_guid.to_owned())).cloned()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        let sessions = self.lock();
        sessions.protected.values().chain(sessions.restored.values()).cloned().collect()
    }

    /// Ticks whenever a session begins, ends, or reports something new.
    pub fn changes(&self) -> Listener {
        self.inner.changes.listen()
    }

    /// Says that something about a session has changed.
    pub fn changed(&self) {
        self.inner.changes.tick();
    }

    /// Asks a protected VM's agent to freeze.
    ///
    /// # Errors
    /// After any error the freeze may have happened all the same: thaw.
    pub async fn freeze(
        &self,
        item: ItemId,
        freeze: Freeze,
        limit: Duration,
    ) -> Result<FreezeReply, FleetError> {
        let key = ReplyKey::Freeze(freeze.operation_id.clone());
        let session = self.protected(item).ok_or(FleetError::NotConnected)?;
        match session.ask(key, Body::Freeze(freeze), limit).await? {
            Reply::Freeze(reply) => Ok(reply),
            _ => Err(FleetError::Disconnected),
        }
    }

    /// Extends the lease of a hold. No answer is awaited: what counts is the agent's attestation.
    pub async fn renew_lease(&self, item: ItemId, operation_id: String) {
        if let Some(session) = self.protected(item) {
            session.tell(Body::RenewLease(RenewLease { operation_id })).await;
        }
    }

    /// Asks a protected VM's agent to thaw and to say what happened.
    ///
    /// # Errors
    /// After any error the agent thaws by itself when its lease or its limit ends.
    pub async fn thaw(
        &self,
        item: ItemId,
        operation_id: String,
        limit: Duration,
    ) -> Result<ThawReply, FleetError> {
        let key = ReplyKey::Thaw(operation_id.clone());
        let session = self.protected(item).ok_or(FleetError::NotConnected)?;
        match session.ask(key, Body::Thaw(Thaw { operation_id }), limit).await? {
            Reply::Thaw(reply) => Ok(reply),
            _ => Err(FleetError::Disconnected),
        }
    }

    /// Asks an agent how its machine is, its hooks' checks included.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn health(
        &self,
        session: &Session,
        request_id: String,
        limit: Duration,
    ) -> Result<HealthReport, FleetError> {
        let key = ReplyKey::Health(request_id.clone());
        let probe = ProbeHealth { request_id, run_checks: true };
        match session.ask(key, Body::ProbeHealth(probe), limit).await? {
            Reply::Health(reply) => Ok(reply),
            _ => Err(FleetError::Disconnected),
        }
    }

    /// Asks a protected VM's agent whether its machine could be frozen.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn preflight(
        &self,
        item: ItemId,
        request_id: String,
        limit: Duration,
    ) -> Result<PreflightReport, FleetError> {
        let key = ReplyKey::Preflight(request_id.clone());
        let session = self.protected(item).ok_or(FleetError::NotConnected)?;
        match session.ask(key, Body::RunPreflight(RunPreflight { request_id }), limit).await? {
            Reply::Preflight(reply) => Ok(reply),
            _ => Err(FleetError::Disconnected),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.inner.sessions.lock().expect("sessions are only put in and taken out")
    }
}
