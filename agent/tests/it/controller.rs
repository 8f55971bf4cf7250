//! A controller that does what a test tells it, over real TLS.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::{Clock, Env, SystemClock};
use azdr_identity::{
    AcceptLimits, CertificateAuthority, ClientAuth, Identity, PeerInfo, Serial, ServerTls, listen,
    serve_incoming, vm_hash,
};
use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::agent_service_server::{AgentService, AgentServiceServer};
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::restored_service_server::{RestoredService, RestoredServiceServer};
use azdr_proto::agent::{
    AgentMessage, CertificateIssued, ControllerMessage, Hello, SessionMode, Welcome,
};
use azdr_proto::enroll::enroll_service_server::{EnrollService, EnrollServiceServer};
use azdr_proto::enroll::{EnrollRequest, EnrollResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

/// The VM that tokens are for.
pub(crate) const VM: &str = "/subscriptions/s/resourcegroups/g/providers/vm";
/// The token that is good once.
pub(crate) const TOKEN: &str = "good-token";

#[derive(Clone)]
struct Service {
    env: Env,
    ca: Arc<CertificateAuthority>,
    sessions: mpsc::Sender<Session>,
    tokens: Arc<Mutex<Vec<String>>>,
    /// vmId of the VM as Azure reports it.
    vm_id: Arc<Mutex<String>>,
    /// Turn agents away from the protected door.
    turn_away: Arc<Mutex<bool>>,
}

/// The controller; dropping it ends its listeners and all sessions.
pub(crate) struct Controller {
    pub(crate) enroll_address: String,
    pub(crate) agent_address: String,
    pub(crate) fingerprint: String,
    service: Service,
    sessions: mpsc::Receiver<Session>,
    tasks: Vec<JoinHandle<()>>,
}

impl Controller {
    /// Starts it for a VM with this vmId.
    pub(crate) fn start(vm_id: &str) -> Self {
        let env = Env::system();
        let ca = Arc::new(CertificateAuthority::generate(&env).unwrap());
        let (sender, sessions) = mpsc::channel(8);
        let service = Service {
            env,
            ca: ca.clone(),
            sessions: sender,
            tokens: Arc::new(Mutex::new(vec![TOKEN.to_owned()])),
            vm_id: Arc::new(Mutex::new(vm_id.to_owned())),
            turn_away: Arc::default(),
        };
        let (enroll_address, enroll) = service.listen(ClientAuth::None);
        let (agent_address, agents) = service.listen(ClientAuth::RequireAllowExpired);
        Self {
            enroll_address,
            agent_address,
            fingerprint: ca.fingerprint(),
            service,
            sessions,
            tasks: vec![enroll, agents],
        }
    }

    pub(crate) fn turn_away(&self, turn_away: bool) {
        *self.service.turn_away.lock().unwrap() = turn_away;
    }

    /// The next session that an agent opens.
    pub(crate) async fn session(&mut self) -> Session {
        tokio::time::timeout(LIMIT, self.sessions.recv()).await.expect("an agent calls").unwrap()
    }

    /// The next session, welcomed as protected, with heartbeats each second.
    pub(crate) async fn protected(&mut self) -> Session {
        let session = self.session().await;
        assert!(!session.restored, "{:?}", session.hello);
        session.welcome(SessionMode::Protected, false).await;
        session
    }

    /// Signs a request for the VM's identity.
    pub(crate) fn issue(&self, csr_der: &[u8], durable: bool) -> CertificateIssued {
        let certificate_chain_der = self.service.issue(csr_der).unwrap();
        CertificateIssued { certificate_chain_der, reason: String::new(), durable }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Service {
    fn listen(&self, auth: ClientAuth) -> (String, JoinHandle<()>) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let now = clock.wall();
        let serial = Serial::random(self.env.ids.as_ref());
        let until = now.plus(HOUR);
        let issued = self.ca.issue_with_new_key(&Identity::Controller, now, until, serial);
        let (certificate, key) = issued.unwrap();
        let der = self.ca.cert_der();
        let tls = ServerTls::new(&certificate.cert_der, &key, der, auth, clock).unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = serve_incoming(listener, tls, AcceptLimits::default());
        let router = match auth {
            ClientAuth::None => {
                Server::builder().add_service(EnrollServiceServer::new(self.clone()))
            }
            _ => Server::builder()
                .add_service(AgentServiceServer::new(self.clone()))
                .add_service(RestoredServiceServer::new(self.clone())),
        };
        let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        (address, task)
    }

    fn issue(&self, csr_der: &[u8]) -> Result<Vec<Vec<u8>>, Status> {
        let name = Identity::agent(&vm_hash(VM)).unwrap();
        let now = self.env.clock.wall();
        let serial = Serial::random(self.env.ids.as_ref());
        let issued = self.ca.issue_from_csr(csr_der, &name, now, now.plus(HOUR), serial);
        let issued = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(vec![issued.cert_der, self.ca.cert_der().to_vec()])
    }

    async fn open(
        &self,
        restored: bool,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let peer = request.extensions().get::<PeerInfo>().and_then(|info| info.peer.clone());
        assert_eq!(peer.unwrap().identity, Identity::agent(&vm_hash(VM)).unwrap());
        let mut said = request.into_inner();
        let first = said.message().await?.and_then(|message| message.body);
        let Some(Said::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        if !restored && *self.turn_away.lock().unwrap() {
            return Err(Status::failed_precondition("superseded"));
        }
        let (tell, answers) = mpsc::channel(16);
        let session = Session { restored, hello, said, tell };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

type Answers =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<ControllerMessage, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Answers;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        self.open(false, request).await
    }
}

#[tonic::async_trait]
impl RestoredService for Service {
    type SessionStream = Answers;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        self.open(true, request).await
    }
}

#[tonic::async_trait]
impl EnrollService for Service {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        let vm_id = self.vm_id.lock().unwrap().clone();
        if request.vm_id != vm_id {
            return Err(Status::failed_precondition("Azure reports another vmId"));
        }
        let mut tokens = self.tokens.lock().unwrap();
        let Some(found) = tokens.iter().position(|token| *token == request.token) else {
            return Err(Status::unauthenticated("the token is not valid"));
        };
        let certificate_chain_der = self.issue(&request.csr_der)?;
        tokens.remove(found);
        let vm_resource_id = VM.to_owned();
        Ok(Response::new(EnrollResponse { certificate_chain_der, vm_resource_id, vm_id }))
    }
}

/// An agent's session, from the controller's side. Dropping it ends the stream.
pub(crate) struct Session {
    /// It came through the restored door.
    pub(crate) restored: bool,
    pub(crate) hello: Hello,
    said: Streaming<AgentMessage>,
    tell: mpsc::Sender<Result<ControllerMessage, Status>>,
}

impl Session {
    /// Ends the stream, as when the network fails.
    pub(crate) fn cut(&mut self) {
        (self.tell, _) = mpsc::channel(1);
    }

    pub(crate) async fn tell(&self, body: Tell) {
        self.tell.send(Ok(ControllerMessage { body: Some(body) })).await.unwrap();
    }

    pub(crate) async fn welcome(&self, mode: SessionMode, renew_certificate: bool) {
        let welcome = Welcome {
            mode: mode.into(),
            heartbeat_interval_ms: 1_000,
            renew_certificate,
            message: "hello".to_owned(),
        };
        self.tell(Tell::Welcome(welcome)).await;
    }

    /// The next message that `pick` takes; others are dropped.
    pub(crate) async fn hear<T>(&mut self, mut pick: impl FnMut(Said) -> Option<T>) -> T {
        let listen = async {
            loop {
                let message = self.said.message().await.unwrap().expect("the agent is there");
                if let Some(found) = message.body.and_then(&mut pick) {
                    return found;
                }
            }
        };
        tokio::time::timeout(LIMIT, listen).await.expect("the agent answers in time")
    }
}
