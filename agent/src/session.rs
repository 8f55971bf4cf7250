//! One session with the controller.

use std::path::Path;
use std::time::Duration;

use azdr_env::Monotonic;
use azdr_identity::ClientIdentity;
use azdr_proto::agent::agent_message::Body as Say;
use azdr_proto::agent::agent_service_client::AgentServiceClient;
use azdr_proto::agent::controller_message::Body as Told;
use azdr_proto::agent::restored_service_client::RestoredServiceClient;
use azdr_proto::agent::{
    AgentMessage, CertificateIssued, ControllerMessage, Hello, QuiesceState, RenewCertificate,
    SessionMode, Welcome,
};
use azdr_thawd_client::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::identity_store::{self, StoredIdentity};
use crate::quiesce::{Command, Quiesce, nothing_held, refused};
use crate::remembered::Remembered;
use crate::renewal::Renewal;
use crate::restored::{Door, Granted, granted};
use crate::vm_id::VmId;
use crate::{Agent, VERSION, health, hooks, preflight, ssh_host_keys};

const WELCOME_LIMIT: Duration = Duration::from_secs(15);
const THAWD_LIMIT: Duration = Duration::from_secs(2);
const STORE_LIMIT: Duration = Duration::from_secs(30);
const KEYS_LIMIT: Duration = Duration::from_secs(5);
const HEARTBEAT_RANGE_MS: (u32, u32) = (1_000, 300_000);
/// While something is held the controller sees the lease this often.
const HEARTBEAT_BUSY: Duration = Duration::from_secs(1);
const PREFLIGHT_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What a session is held with.
pub(crate) struct Session<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) quiesce: &'a Quiesce,
    pub(crate) remembered: &'a Remembered,
    pub(crate) vm: &'a VmId,
    pub(crate) stored: &'a StoredIdentity,
    /// The stored identity, or the one issued for a run.
    pub(crate) identity: &'a ClientIdentity,
    pub(crate) door: Door,
}

/// How a session ended, after it was welcomed.
#[derive(Debug)]
pub(crate) enum End {
    /// The stream broke or the controller closed it.
    Closed(Option<Status>),
    /// This machine has a new identity, stored already: connect anew with it.
    NewIdentity,
    /// A certificate for this run: use it from now on.
    ForThisRun(ClientIdentity),
}

impl Session<'_> {
    /// Says hello and serves the controller until the stream ends.
    ///
    /// # Errors
    /// The controller did not welcome this agent.
    pub(crate) async fn hold(&self, channel: Channel) -> Result<End, Status> {
        let (outbox, queue) = unbounded_channel();
        let hello = Say::Hello(self.hello().await);
        let _ = outbox.send(AgentMessage { body: Some(hello) });
        let mut told = timeout(WELCOME_LIMIT, self.open(channel, queue))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer to the call")))?;
        let first = timeout(WELCOME_LIMIT, told.message())
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no welcome")))?;
        let Some(Told::Welcome(welcome)) = first.and_then(|message| message.body) else {
            return Err(Status::internal("the controller's first message is not a welcome"));
        };
        Serving::new(self, &welcome, outbox).serve(told).await
    }

    async fn open(
        &self,
        channel: Channel,
        queue: UnboundedReceiver<AgentMessage>,
    ) -> Result<Streaming<ControllerMessage>, Status> {
        let queue = UnboundedReceiverStream::new(queue);
        let response = match self.door {
            Door::Protected => AgentServiceClient::new(channel).session(queue).await,
            Door::Restored => RestoredServiceClient::new(channel).session(queue).await,
        };
        Ok(response?.into_inner())
    }

    /// While something is held it is made of memory and /proc alone (N8).
    async fn hello(&self) -> Hello {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Hello {
            vm_id: self.vm.in_the_order_of(&self.stored.vm_id),
            vm_id_source: self.vm.source.into(),
            boot_id: health::boot_id(),
            agent_version: VERSION.to_owned(),
            hostname: hostname.trim().to_owned(),
            uptime_secs: health::uptime_secs(),
            witnesses: self.remembered.witnesses(health::witnesses(self.agent)).await,
            can_freeze: self.thawd_answers().await,
            hooks_limit_ms: self.hooks_limit().await,
            ssh_host_keys: self.remembered.ssh_host_keys(self.ssh_host_keys()).await,
        }
    }

    /// None where they are not all known.
    async fn ssh_host_keys(&self) -> Vec<String> {
        let look = || ssh_host_keys::fingerprints(Path::new("/etc"));
        let found = self.agent.blocking.run("look at the SSH host keys", KEYS_LIMIT, look).await;
        let found = found.unwrap_or_else(|stuck| Err(stuck.to_string()));
        found.unwrap_or_else(|reason| {
            tracing::info!(reason, "not all SSH host keys are known");
            Vec::new()
        })
    }

    /// A restored machine runs none around a freeze. While something is held nothing is opened to see which there are.
    async fn hooks_limit(&self) -> u32 {
        let limit = match self.door {
            Door::Restored => Duration::ZERO,
            Door::Protected if self.quiesce.state() == QuiesceState::Idle => {
                hooks::limit(self.agent).await
            }
            Door::Protected => hooks::limit_unseen(self.agent),
        };
        u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
    }

    async fn thawd_answers(&self) -> bool {
        let socket = self.agent.config.thawd_socket.clone();
        // A thaw process that is holding something serves this agent alone: it need not be asked.
        if self.quiesce.state() != QuiesceState::Idle {
            return true;
        }
        let ask = move || Client::connect(&socket, 1_000).and_then(|thawd| thawd.status());
        matches!(self.agent.blocking.run("azdr-thawd", THAWD_LIMIT, ask).await, Ok(Ok(_)))
    }
}

/// A welcomed session.
struct Serving<'a> {
    session: &'a Session<'a>,
    mode: SessionMode,
    interval: Duration,
    outbox: UnboundedSender<AgentMessage>,
    replies: UnboundedReceiver<Say>,
    renewal: Renewal,
    /// Probes under way.
    probes: JoinSet<Say>,
    /// When the last preflight was begun that nobody asked for.
    preflight_at: Option<Monotonic>,
    /// A certificate to store as soon as nothing is frozen (N12).
    to_store: Option<Box<StoredIdentity>>,
}

impl<'a> Serving<'a> {
    fn new(
        session: &'a Session<'a>,
        welcome: &Welcome,
        outbox: UnboundedSender<AgentMessage>,
    ) -> Self {
        let (outlet, replies) = unbounded_channel();
        // Only the protected door leads to freezes, whatever the welcome says.
        let mode = match (session.door, welcome.mode()) {
            (Door::Protected, SessionMode::Protected) => SessionMode::Protected,
            (Door::Restored, SessionMode::Restored) => SessionMode::Restored,
            _ => SessionMode::Quarantined,
        };
        if mode == SessionMode::Protected {
            session.quiesce.attach(outlet);
        }
        let now = welcome.renew_certificate;
        let renewal = match (mode, now) {
            (SessionMode::Protected, _) | (SessionMode::Restored, true) => {
                Renewal::new(&session.agent.env, session.identity, now)
            }
            _ => Renewal::never(),
        };
        let (low, high) = HEARTBEAT_RANGE_MS;
        let interval = welcome.heartbeat_interval_ms.clamp(low, high);
        tracing::info!(mode = mode.as_str_name(), message = welcome.message, "welcomed");
        Self {
            session,
            mode,
            interval: Duration::from_millis(interval.into()),
            outbox,
            replies,
            renewal,
            probes: JoinSet::new(),
            preflight_at: None,
            to_store: None,
        }
    }

    fn say(&self, body: Say) {
        // A closed queue shows as the end of the stream.
        let _ = self.outbox.send(AgentMessage { body: Some(body) });
    }

    fn quiet(&self) -> bool {
        self.session.quiesce.state() == QuiesceState::Idle
    }

    async fn serve(mut self, mut told: Streaming<ControllerMessage>) -> Result<End, Status> {
        loop {
            self.say(Say::Heartbeat(self.session.quiesce.heartbeat()));
            self.preflight_if_due();
            if self.quiet() {
                if let Some(own) = self.to_store.take() {
                    match self.store(own).await {
                        Ok(()) => return Ok(End::NewIdentity),
                        Err(error) => tracing::error!(error, "the new certificate is lost"),
                    }
                }
                if let Some(csr_der) = self.renewal.request(&self.session.agent.env) {
                    self.say(Say::RenewCertificate(RenewCertificate { csr_der }));
                }
            }
            let pause =
                if self.quiet() { self.interval } else { HEARTBEAT_BUSY.min(self.interval) };
            let beat = azdr_env::sleep(pause);
            let mut beat = std::pin::pin!(beat);
            // Until the next heartbeat.
            loop {
                tokio::select! {
                    biased;
                    message = told.message() => match message {
                        Ok(Some(message)) => {
                            if let Some(end) = self.obey(message) {
                                return Ok(end);
                            }
                        }
                        Ok(None) => return Ok(End::Closed(None)),
                        Err(status) => return Ok(End::Closed(Some(status))),
                    },
                    Some(reply) = self.replies.recv() => {
                        self.say(reply);
                        // The state has changed: show it.
                        break;
                    }
                    Some(report) = self.probes.join_next() => match report {
                        Ok(report) => self.say(report),
                        Err(error) => tracing::error!(%error, "a probe failed"),
                    },
                    () = &mut beat => break,
                }
                if self.to_store.is_some() && self.quiet() {
                    break;
                }
            }
        }
    }

    fn obey(&mut self, message: ControllerMessage) -> Option<End> {
        let may_freeze = self.mode == SessionMode::Protected;
        let quiesce = self.session.quiesce;
        match message.body {
            Some(Told::Freeze(freeze)) if may_freeze => quiesce.command(Command::Freeze(freeze)),
            Some(Told::Freeze(freeze)) => {
                let reason = "this machine is not protected: nothing is frozen here".to_owned();
                self.say(Say::FreezeReply(refused(&freeze.operation_id, reason)));
            }
            Some(Told::RenewLease(renew)) if may_freeze => {
                quiesce.command(Command::Renew(renew.operation_id));
            }
            Some(Told::Thaw(thaw)) if may_freeze => {
                quiesce.command(Command::Thaw(thaw.operation_id));
            }
            Some(Told::Thaw(thaw)) => {
                self.say(Say::ThawReply(nothing_held(&thaw.operation_id, "nothing was frozen")));
            }
            Some(Told::ProbeHealth(probe)) if self.mode != SessionMode::Quarantined => {
                let (agent, state) = (self.session.agent.clone(), quiesce.state());
                self.probes
                    .spawn(async move { Say::Health(health::report(&agent, probe, state).await) });
            }
            Some(Told::RunPreflight(run)) if may_freeze => self.preflight(run.request_id),
            Some(Told::CertificateIssued(issued)) => return self.certificate(issued),
            Some(other) => tracing::warn!(?other, "ignored: not for this kind of session"),
            None => tracing::warn!("ignored: a message that this version does not know"),
        }
        None
    }

    fn preflight(&mut self, request_id: String) {
        let (agent, quiesce) = (self.session.agent.clone(), self.session.quiesce.clone());
        self.probes.spawn(async move {
            let report = preflight::preflight(&agent, &request_id, || quiesce.state()).await;
            Say::Preflight(report)
        });
    }

    /// When a session begins, and daily: so that what stands in the way of a freeze is known before the
    /// backup.
    fn preflight_if_due(&mut self) {
        let now = self.session.agent.env.clock.monotonic();
        let due = self.preflight_at.is_none_or(|last| now.since(last) >= PREFLIGHT_EVERY);
        if self.mode == SessionMode::Protected && due && self.quiet() {
            self.preflight_at = Some(now);
            self.preflight(String::new());
        }
    }

    fn certificate(&mut self, issued: CertificateIssued) -> Option<End> {
        let Some(key_pem) = self.renewal.take_key() else {
            tracing::warn!("ignored: a certificate that was not asked for");
            return None;
        };
        match granted(self.session.stored, self.session.vm, key_pem, issued) {
            Ok(Granted::Own(own)) => {
                self.to_store = Some(own);
                None
            }
            Ok(Granted::ForThisRun(identity)) => Some(End::ForThisRun(identity)),
            Err(reason) => {
                tracing::error!(reason, "the old certificate stays in use");
                None
            }
        }
    }

    async fn store(&self, own: Box<StoredIdentity>) -> Result<(), String> {
        let agent = self.session.agent;
        let state_dir = agent.config.state_dir.clone();
        let save = move || identity_store::save(&state_dir, &own);
        match agent.blocking.run("storing of the identity", STORE_LIMIT, save).await {
            Ok(saved) => saved.map_err(|error| crate::chain(&error)),
            Err(stuck) => Err(stuck.to_string()),
        }
    }
}
