//! Agents' sessions: which certificate may come through which door, and as what.
//!
//! The certificate is the identity (DESIGN §7). A current certificate on the enrolled machine is a
//! protected VM's agent. Any other certificate of ours that is not revoked, and the right certificate
//! on another machine, come through the restored door only, where nothing is asked that a clone must
//! not do (I8).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_env::{Env, Monotonic, WallTime};
use azdr_identity::{
    CertificateAuthority, Identity, PeerCertificate, PeerInfo, Serial, is_ssh_fingerprint,
};
use azdr_proto::agent::agent_message::Body as FromAgent;
use azdr_proto::agent::agent_service_server::AgentService;
use azdr_proto::agent::controller_message::Body as ToAgent;
use azdr_proto::agent::restored_service_server::RestoredService;
use azdr_proto::agent::{
    AgentMessage, CertificateIssued, ControllerMessage, Hello, PreflightReport, RenewCertificate,
    SessionMode, Welcome,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::unavailable;
use crate::fleet::{Fleet, ReplyKey, Session, SessionKind};
use crate::store::{AgentCertificate, CertificateScope, Item, Preflight, Store};

/// How long an agent may take to say hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Messages that may wait for a slow connection.
const OUTBOX: usize = 16;
/// How often it is looked whether a session's certificate has expired.
const EXPIRY_LOOK: Duration = Duration::from_secs(10 * 60);
/// An agent's own certificate.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// A restored instance's certificate.
const RUN_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How often a preflight that nobody asked for is kept of one session; agents send one a day.
const UNASKED_PREFLIGHT: Duration = Duration::from_secs(60);
/// Certificates that one session may ask for.
const MAX_RENEWALS: u32 = 8;
/// Clocks of machines differ; a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Serves both doors.
#[derive(Clone)]
pub struct Agents {
    /// Certificates, items, expected instances.
    pub store: Store,
    /// Where sessions are kept.
    pub fleet: Fleet,
    /// Clock and ids.
    pub env: Env,
    /// Issues renewed certificates.
    pub authority: Arc<CertificateAuthority>,
    /// How silence is noticed.
    pub presence: Presence,
}

/// How a session notices that its machine is gone.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    /// How often agents are asked to report.
    pub heartbeat: Duration,
    /// Silence for so long: the machine is not there.
    pub silence_limit: Duration,
}

impl Default for Presence {
    /// A report every 10 s; after three missed ones the machine is not there.
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(10), silence_limit: Duration::from_secs(35) }
    }
}

/// The two doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// For the agent of a protected VM, on the machine that was enrolled.
    Protected,
    /// For everything else that carries a certificate of ours.
    Restored,
}

/// What a session's certificate turned out to be.
struct Peer {
    item: Item,
    certificate: PeerCertificate,
    issued: AgentCertificate,
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Outgoing;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        self.serve(Door::Protected, request).await
    }
}

#[tonic::async_trait]
impl RestoredService for Agents {
    type SessionStream = Outgoing;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        self.serve(Door::Restored, request).await
    }
}

impl Agents {
    async fn serve(
        &self,
        door: Door,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let certificate = request.extensions().get::<PeerInfo>().and_then(|i| i.peer.clone());
        let certificate =
            certificate.ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        self.enter(door, certificate, request.into_inner()).await.map(Response::new)
    }

    /// Lets a machine in through a door: the whole service, below TLS and HTTP/2. The first message
    /// must be its hello.
    ///
    /// # Errors
    /// The certificate is not an agent's, is not known or is revoked; this is the wrong door.
    pub async fn enter<M>(
        &self,
        door: Door,
        certificate: PeerCertificate,
        messages: M,
    ) -> Result<Outgoing, Status>
    where
        M: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin + 'static,
    {
        let peer = self.peer(certificate).await?;
        let (hello, incoming) = first_message(messages).await?;
        let kind = match door {
            Door::Protected => self.as_protected(&peer, &hello)?,
            Door::Restored => self.as_restored(&peer, &hello).await?,
        };
        Ok(self.open(peer, hello, incoming, kind).await)
    }

    fn as_protected(&self, peer: &Peer, hello: &Hello) -> Result<SessionKind, Status> {
        let elsewhere = |why: &str| {
            Err(Status::failed_precondition(format!("{why}: use the restored service")))
        };
        if peer.item.vm_guid.as_deref() != Some(hello.vm_id.as_str()) {
            return elsewhere("this machine is not the one that was enrolled");
        }
        if peer.issued.scope != CertificateScope::Vm || peer.issued.superseded {
            return elsewhere("this certificate has been superseded");
        }
        if peer.certificate.expired || peer.certificate.not_after < self.env.clock.wall() {
            return elsewhere("this certificate has expired");
        }
        Ok(SessionKind::Protected)
    }

    async fn as_restored(&self, peer: &Peer, hello: &Hello) -> Result<SessionKind, Status> {
        let expected = self.store.expected_instance(&hello.vm_id).await.map_err(unavailable)?;
        // A run expects a machine *of this VM*; a foreign certificate with that vmId is quarantined.
        // A certificate that was made for one run is good for that run only.
        let scope = peer.issued.scope;
        let run = expected
            .filter(|e| e.item == peer.item.id)
            .filter(|e| scope == CertificateScope::Vm || scope == CertificateScope::Run(e.run))
            .map(|e| e.run);
        if run.is_none() {
            tracing::warn!(vm = %peer.item.arm_id, vm_id = hello.vm_id,
                "an instance that no run expects shows this VM's certificate: quarantined");
        }
        Ok(SessionKind::Restored { run })
    }

    async fn peer(&self, certificate: PeerCertificate) -> Result<Peer, Status> {
        let Identity::Agent { vm_hash } = &certificate.identity else {
            return Err(Status::permission_denied(format!(
                "{} is not an agent's certificate",
                certificate.identity
            )));
        };
        let issued = match self.store.certificate(&certificate.serial).await.map_err(unavailable)? {
            Some(issued) => Some(issued),
            None => self.take_in(&certificate, vm_hash).await?,
        };
        let issued = issued.ok_or_else(|| {
            Status::permission_denied(format!(
                "certificate {} is not known here",
                certificate.serial
            ))
        })?;
        if issued.revoked {
            return Err(Status::permission_denied("this certificate is revoked: enrol again"));
        }
        let item = self.store.item_by_id(issued.item).await.map_err(unavailable)?;
        if item.arm_id.hash_hex() != *vm_hash {
            return Err(Status::permission_denied("the certificate names another VM"));
        }
        Ok(Peer { item, certificate, issued })
    }

    /// A certificate of ours that nobody recorded: taken in when the catalogue was rebuilt since.
    async fn take_in(
        &self,
        certificate: &PeerCertificate,
        vm_hash: &str,
    ) -> Result<Option<AgentCertificate>, Status> {
        let Some(item) = self.store.item_by_hash(vm_hash).await.map_err(unavailable)? else {
            return Ok(None);
        };
        let taken_in = self
            .store
            .take_in_certificate(
                item.id,
                certificate.serial.clone(),
                certificate.not_before.plus(BACKDATE),
                certificate.not_after,
                self.env.clock.wall(),
            )
            .await
            .map_err(unavailable)?;
        if taken_in.is_some() {
            tracing::info!(vm = %item.arm_id, serial = certificate.serial,
                "a certificate from before the catalogue was rebuilt is known again");
        }
        Ok(taken_in)
    }

    async fn open<M>(&self, peer: Peer, hello: Hello, incoming: M, kind: SessionKind) -> Outgoing
    where
        M: Stream<Item = Result<AgentMessage, Status>> + Send + Unpin + 'static,
    {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let now = self.env.clock.wall();
        tracing::info!(vm = %peer.item.arm_id, vm_id = hello.vm_id, boot_id = hello.boot_id, ?kind,
            witnesses = hello.witnesses.len(), "agent connected");
        if kind == SessionKind::Protected {
            let (version, boot) = (hello.agent_version.clone(), hello.boot_id.clone());
            let serial = peer.certificate.serial.clone();
            if let Err(e) = self.store.agent_hello(peer.item.id, serial, version, boot, now).await {
                tracing::error!(error = %e, "an agent's hello could not be stored");
            }
        }
        // Before anybody can find the session: a run that waits for this agent speaks to it at once, and an
        // agent ends a session that begins with anything but the welcome.
        let welcome = ToAgent::Welcome(self.welcome(&peer, &kind, now));
        let _ = outbox.try_send(ControllerMessage { body: Some(welcome) });
        let session = self.fleet.join(|id, arrival| {
            let expires = peer.certificate.not_after;
            Session::new(id, peer.item.id, kind, hello, arrival, expires, outbox)
        });
        let agents = self.clone();
        let listened = session.clone();
        let vm = peer.item.arm_id.clone();
        tokio::spawn(async move {
            // Revoked between the look at the certificate and the joining: nobody expelled it then.
            let serial = peer.certificate.serial.clone();
            if agents.still_good(&serial).await {
                tokio::select! {
                    biased;
                    () = listened.over() => {}
                    () = agents.expiry(&listened) => {}
                    () = agents.listen(&listened, &vm, &serial, incoming) => {}
                }
            }
            agents.fleet.leave(&listened);
            tracing::info!(%vm, "agent disconnected");
        });
        // The stream ends with the session, also when it is expelled or replaced.
        let ended = session.clone();
        let stream = ReceiverStream::new(outgoing).map(Ok);
        let stream = futures::StreamExt::take_until(stream, async move { ended.over().await });
        Box::pin(stream)
    }

    async fn still_good(&self, serial: &str) -> bool {
        matches!(self.store.certificate(serial).await, Ok(Some(c)) if !c.revoked)
    }

    /// Resolves when a protected session's certificate has expired: it may come back with a new one.
    /// Restored instances are let in with expired ones.
    async fn expiry(&self, session: &Session) {
        if session.kind != SessionKind::Protected {
            return std::future::pending().await;
        }
        loop {
            let now = self.env.clock.wall();
            if now > session.certificate_expires {
                return;
            }
            // The wall clock may be set: look again now and then.
            let left = session.certificate_expires.since(now) + Duration::from_millis(1);
            azdr_env::sleep(left.min(EXPIRY_LOOK)).await;
        }
    }

    fn welcome(&self, peer: &Peer, kind: &SessionKind, now: WallTime) -> Welcome {
        let (mode, message) = match kind {
            SessionKind::Protected => (SessionMode::Protected, String::new()),
            SessionKind::Restored { run: Some(run) } => {
                (SessionMode::Restored, format!("restored by job {run}"))
            }
            SessionKind::Restored { run: None } => {
                (SessionMode::Quarantined, "no job expects this machine; quarantined".into())
            }
        };
        let left = peer.certificate.not_after.since(now);
        let renew = match kind {
            SessionKind::Protected => left < CERTIFICATE_LIFETIME / 3,
            // Once: with the run's certificate it comes back, and need not be sent away again.
            SessionKind::Restored { run: Some(run) } => {
                peer.issued.scope != CertificateScope::Run(*run)
                    || left < RUN_CERTIFICATE_LIFETIME / 3
            }
            SessionKind::Restored { run: None } => false,
        };
        Welcome {
            mode: mode.into(),
            heartbeat_interval_ms: self.presence.heartbeat.as_millis() as u32,
            renew_certificate: renew,
            message,
        }
    }

    async fn listen<M>(&self, session: &Session, vm: &ArmId, serial: &str, mut incoming: M)
    where
        M: Stream<Item = Result<AgentMessage, Status>> + Unpin,
    {
        let mut renewals = 0;
        let mut unasked: Option<Monotonic> = None;
        loop {
            let next = tokio::select! {
                biased;
                next = incoming.next() => next,
                () = azdr_env::sleep(self.presence.silence_limit) => {
                    tracing::warn!(%vm, "agent is silent");
                    return;
                }
            };
            match next {
                Some(Ok(AgentMessage { body: Some(FromAgent::RenewCertificate(request)) })) => {
                    renewals += 1;
                    if renewals > MAX_RENEWALS {
                        tracing::warn!(%vm, "an agent asks for certificate after certificate");
                        return;
                    }
                    let answer = self.renew(session, vm, serial, request).await;
                    session.tell(ToAgent::CertificateIssued(answer)).await;
                }
                Some(Ok(AgentMessage { body: Some(FromAgent::Preflight(report)) })) => {
                    // A clone's machine says nothing of the VM's.
                    if session.kind == SessionKind::Protected {
                        let now = self.env.clock.monotonic();
                        let is_asked =
                            session.awaits(&ReplyKey::Preflight(report.request_id.clone()));
                        if is_asked || unasked.is_none_or(|at| now.since(at) >= UNASKED_PREFLIGHT) {
                            unasked = if is_asked { unasked } else { Some(now) };
                            self.keep(session, vm, &report).await;
                        }
                        session.receive(FromAgent::Preflight(report), self.env.clock.wall());
                        self.fleet.changed();
                    }
                }
                Some(Ok(AgentMessage { body: Some(body) })) => {
                    session.receive(body, self.env.clock.wall());
                    self.fleet.changed();
                }
                Some(Ok(AgentMessage { body: None })) => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    async fn keep(&self, session: &Session, vm: &ArmId, report: &PreflightReport) {
        let now = self.env.clock.wall();
        let kept = Preflight::of(report, now);
        tracing::info!(%vm, ready = kept.ready, problems = ?kept.problems, "preflight");
        if let Err(e) = self.store.keep_preflight(session.item, kept).await {
            tracing::error!(error = %e, "an agent's preflight could not be stored");
        }
    }

    async fn renew(
        &self,
        session: &Session,
        vm: &ArmId,
        serial: &str,
        request: RenewCertificate,
    ) -> CertificateIssued {
        match self.try_renew(session, vm, serial, request).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::warn!(%vm, reason, "certificate not renewed");
                CertificateIssued { certificate_chain_der: vec![], reason, durable: false }
            }
        }
    }

    async fn try_renew(
        &self,
        session: &Session,
        vm: &ArmId,
        serial: &str,
        request: RenewCertificate,
    ) -> Result<CertificateIssued, String> {
        // Whose certificate it becomes: a restored machine may be one of its own.
        let (scope, lifetime, own) = match &session.kind {
            SessionKind::Protected => (CertificateScope::Vm, CERTIFICATE_LIFETIME, None),
            SessionKind::Restored { run: None } => {
                return Err("no job expects this machine".into());
            }
            SessionKind::Restored { run: Some(run) } => {
                let expected = self.store.expected_instance(&session.hello.vm_id).await;
                match expected.map_err(|e| e.to_string())? {
                    Some(e) if e.run == *run && e.durable => {
                        (CertificateScope::Vm, CERTIFICATE_LIFETIME, e.own_item)
                    }
                    Some(e) if e.run == *run => {
                        (CertificateScope::Run(*run), RUN_CERTIFICATE_LIFETIME, None)
                    }
                    _ => return Err(format!("job {run} is over")),
                }
            }
        };
        let (item, hash) = match own {
            Some(id) => {
                let own = self.store.item_by_id(id).await.map_err(|e| e.to_string())?;
                (id, own.arm_id.hash_hex())
            }
            None => (session.item, vm.hash_hex()),
        };
        let identity = Identity::agent(&hash).map_err(|e| e.to_string())?;
        let now = self.env.clock.wall();
        let issued = self
            .authority
            .issue_from_csr(
                &request.csr_der,
                &identity,
                now.minus(BACKDATE),
                now.plus(lifetime),
                Serial::random(&*self.env.ids),
            )
            .map_err(|e| e.to_string())?;
        self.store
            .add_certificate(
                issued.serial_hex,
                item,
                scope,
                issued.not_after,
                Some(serial.to_owned()),
                now,
            )
            .await
            .map_err(|e| e.to_string())?;
        Ok(CertificateIssued {
            certificate_chain_der: vec![issued.cert_der, self.authority.cert_der().to_vec()],
            reason: String::new(),
            durable: scope == CertificateScope::Vm,
        })
    }
}

async fn first_message<M>(mut incoming: M) -> Result<(Hello, M), Status>
where
    M: Stream<Item = Result<AgentMessage, Status>> + Unpin,
{
    let first = tokio::select! {
        biased;
        first = incoming.next() => first,
        () = azdr_env::sleep(HELLO_LIMIT) => return Err(Status::deadline_exceeded("no hello")),
    };
    match first {
        Some(Ok(AgentMessage { body: Some(FromAgent::Hello(mut hello)) })) => {
            let keys = &hello.ssh_host_keys;
            let are_keys = keys.len() <= 16 && keys.iter().all(|key| is_ssh_fingerprint(key));
            let is_short = hello.boot_id.len() <= 64 && hello.witnesses.len() <= 64;
            if hello.vm_id.len() != 36 || !is_short || !are_keys {
                return Err(Status::invalid_argument("the hello is malformed"));
            }
            hello.vm_id = hello.vm_id.to_ascii_lowercase();
            Ok((hello, incoming))
        }
        _ => Err(Status::invalid_argument("the first message must be Hello")),
    }
}

#[cfg(test)]
mod tests;
