//! One session of a simulated machine's agent with the controller.

use std::time::Duration;

use azdr_agent::VERSION;
use azdr_agent::identity_store::StoredIdentity;
use azdr_agent::quiesce::{nothing_held, refused};
use azdr_agent::restored::{Door, Granted, granted};
use azdr_agent::vm_id::VmId;
use azdr_identity::ClientIdentity;
use azdr_proto::agent::agent_message::Body as Say;
use azdr_proto::agent::agent_service_client::AgentServiceClient;
use azdr_proto::agent::controller_message::Body as Told;
use azdr_proto::agent::restored_service_client::RestoredServiceClient;
use azdr_proto::agent::{
    AgentMessage, CertificateIssued, ControllerMessage, FactState, HealthReport, Hello,
    PreflightFileSystem, PreflightReport, QuiesceState, RenewCertificate, SessionMode, Welcome,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::hold::{Command, Holds};
use super::machine::Machine;

const WELCOME_LIMIT: Duration = Duration::from_secs(15);
const HEARTBEAT_RANGE_MS: (u32, u32) = (1_000, 300_000);
/// While something is held the controller sees the lease this often.
const HEARTBEAT_BUSY: Duration = Duration::from_secs(1);

/// What a session is held with.
pub(super) struct Session<'a> {
    pub(super) machine: &'a Machine,
    pub(super) holds: &'a Holds,
    pub(super) vm: &'a VmId,
    pub(super) stored: &'a StoredIdentity,
    pub(super) door: Door,
}

/// How a session ended, after it was welcomed.
#[derive(Debug)]
pub(super) enum End {
    Closed,
    /// The machine has a new identity, on its disk already.
    NewIdentity,
    /// A certificate that is good for this run.
    ForThisRun(ClientIdentity),
}

impl Session<'_> {
    /// Says hello and serves the controller until the stream ends.
    ///
    /// # Errors
    /// The controller did not welcome this agent.
    pub(super) async fn hold(&self, channel: Channel) -> Result<End, Status> {
        let (outbox, queue) = unbounded_channel();
        let hello = Say::Hello(self.hello().await);
        let _ = outbox.send(AgentMessage { body: Some(hello) });
        let late = || Status::deadline_exceeded("no welcome");
        let opened = timeout(WELCOME_LIMIT, self.open(channel, queue)).await;
        let mut told = opened.unwrap_or_else(|_| Err(late()))?;
        let first = timeout(WELCOME_LIMIT, told.message()).await;
        let first = first.unwrap_or_else(|_| Err(late()))?;
        let Some(Told::Welcome(welcome)) = first.and_then(|message| message.body) else {
            return Err(Status::internal("the controller's first message is not a welcome"));
        };
        let mut serving = Serving::new(self, &welcome, outbox);
        if welcome.renew_certificate && serving.mode != SessionMode::Quarantined {
            serving.ask_for_certificate();
        }
        if serving.mode == SessionMode::Protected {
            serving.preflight(String::new());
        }
        Ok(serving.serve(told).await)
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

    async fn hello(&self) -> Hello {
        Hello {
            vm_id: self.vm.id.clone(),
            vm_id_source: self.vm.source.into(),
            boot_id: self.machine.boot_id().to_owned(),
            agent_version: VERSION.to_owned(),
            hostname: self.machine.name().to_owned(),
            uptime_secs: self.machine.uptime_secs(),
            witnesses: self.machine.witnesses().await,
            can_freeze: true,
            ..Hello::default()
        }
    }
}

/// A welcomed session.
struct Serving<'a> {
    session: &'a Session<'a>,
    mode: SessionMode,
    interval: Duration,
    outbox: UnboundedSender<AgentMessage>,
    replies: UnboundedReceiver<Say>,
    /// Of the certificate that was asked for.
    key_pem: Option<String>,
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
            session.holds.attach(outlet);
        }
        let (low, high) = HEARTBEAT_RANGE_MS;
        let interval = welcome.heartbeat_interval_ms.clamp(low, high);
        tracing::info!(
            name = session.machine.name(),
            mode = mode.as_str_name(),
            message = welcome.message,
            "welcomed"
        );
        let interval = Duration::from_millis(interval.into());
        Self { session, mode, interval, outbox, replies, key_pem: None }
    }

    fn say(&self, body: Say) {
        // A closed queue shows as the end of the stream.
        let _ = self.outbox.send(AgentMessage { body: Some(body) });
    }

    fn ask_for_certificate(&mut self) {
        match azdr_identity::generate_key_and_csr("azdr-agent") {
            Ok((key_pem, csr_der)) => {
                self.key_pem = Some(key_pem);
                self.say(Say::RenewCertificate(RenewCertificate { csr_der }));
            }
            Err(error) => tracing::error!(%error, "cannot make a key"),
        }
    }

    async fn serve(mut self, mut told: Streaming<ControllerMessage>) -> End {
        loop {
            self.say(Say::Heartbeat(self.session.holds.heartbeat()));
            let busy = self.session.holds.state() != QuiesceState::Idle;
            let pause = if busy { HEARTBEAT_BUSY.min(self.interval) } else { self.interval };
            let beat = azdr_env::sleep(pause);
            let mut beat = std::pin::pin!(beat);
            // Until the next heartbeat.
            loop {
                tokio::select! {
                    biased;
                    message = told.message() => match message {
                        Ok(Some(message)) => {
                            if let Some(end) = self.obey(message).await {
                                return end;
                            }
                        }
                        Ok(None) | Err(_) => return End::Closed,
                    },
                    Some(reply) = self.replies.recv() => {
                        self.say(reply);
                        // The state has changed: show it.
                        break;
                    }
                    () = &mut beat => break,
                }
            }
        }
    }

    async fn obey(&mut self, message: ControllerMessage) -> Option<End> {
        let may_freeze = self.mode == SessionMode::Protected;
        let holds = self.session.holds;
        match message.body {
            Some(Told::Freeze(freeze)) if may_freeze => holds.command(Command::Freeze(freeze)),
            Some(Told::Freeze(freeze)) => {
                let reason = "this machine is not protected: nothing is frozen here".to_owned();
                self.say(Say::FreezeReply(refused(&freeze.operation_id, reason)));
            }
            Some(Told::RenewLease(renew)) if may_freeze => {
                holds.command(Command::Renew(renew.operation_id));
            }
            Some(Told::Thaw(thaw)) if may_freeze => {
                holds.command(Command::Thaw(thaw.operation_id));
            }
            Some(Told::Thaw(thaw)) => {
                self.say(Say::ThawReply(nothing_held(&thaw.operation_id, "nothing was frozen")));
            }
            Some(Told::ProbeHealth(probe)) if self.mode != SessionMode::Quarantined => {
                let report = self.report(probe.request_id).await;
                self.say(Say::Health(report));
            }
            Some(Told::RunPreflight(run)) if may_freeze => self.preflight(run.request_id),
            Some(Told::CertificateIssued(issued)) => return self.certificate(issued).await,
            other => tracing::warn!(?other, "ignored: not for this kind of session"),
        }
        None
    }

    /// A simulated machine can always be frozen.
    fn preflight(&self, request_id: String) {
        let file_system = |mount: &String| PreflightFileSystem {
            mount_point: mount.clone(),
            ..PreflightFileSystem::default()
        };
        self.say(Say::Preflight(PreflightReport {
            request_id,
            ready: true,
            file_systems: self.session.machine.mounts().iter().map(file_system).collect(),
            ..PreflightReport::default()
        }));
    }

    async fn certificate(&mut self, issued: CertificateIssued) -> Option<End> {
        let key_pem = self.key_pem.take()?;
        let Session { machine, vm, stored, .. } = self.session;
        match granted(stored, vm, key_pem, issued) {
            Ok(Granted::Own(own)) => match machine.store(&own).await {
                Ok(()) => Some(End::NewIdentity),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the certificate is lost");
                    None
                }
            },
            Ok(Granted::ForThisRun(identity)) => Some(End::ForThisRun(identity)),
            Err(reason) => {
                tracing::error!(reason, "the old certificate stays in use");
                None
            }
        }
    }

    async fn report(&self, request_id: String) -> HealthReport {
        let machine = self.session.machine;
        let boot = machine.boot_id().to_owned();
        let mut facts = vec![machine.fact("boot", FactState::Pass, boot)];
        let idle = self.session.holds.state() == QuiesceState::Idle;
        if idle {
            facts.extend(machine.writable().await);
            facts.extend(machine.mounted());
        } else {
            let reason = "a freeze is under way: nothing was written".to_owned();
            facts.push(machine.fact("file-systems", FactState::Unknown, reason));
        }
        HealthReport {
            request_id,
            boot_id: machine.boot_id().to_owned(),
            uptime_secs: machine.uptime_secs(),
            facts,
            witnesses: if idle { machine.witnesses().await } else { Vec::new() },
            version: 1,
            wall_unix_ms: machine.env.clock.wall().unix_ms(),
            app_probes: Vec::new(),
        }
    }
}
