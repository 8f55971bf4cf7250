//! The hosts of a simulated network: a controller, agents, and operators who call.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_agent::identity_store::{self, StoredIdentity};
use azdr_arm::{
    ArmClient, ArmConfig, CredentialConfig, HttpRequest, HttpResponse, HttpTransport, PollPace,
    Secret, Tokens, TransportError,
};
use azdr_controller::api::agent_service::Presence;
use azdr_controller::fleet::Fleet;
use azdr_controller::parts::{Given, Parts};
use azdr_controller::store::{CertificateScope, Executor, ItemId, Stamp, Store};
use azdr_controller::workflow::{EngineConfig, RetryPolicy};
use azdr_controller::workflows::{self, DeletionLimit, DrillAccess, ProbeAddress, Settings};
use azdr_domain::arm_id::ArmId;
use azdr_env::{Clock, Env, Monotonic, SeededIds, WallTime};
use azdr_identity::{
    CertificateAuthority, ClientAuth, ClientIdentity, ConnectOptions, Identity, Serial, ServerTls,
    TlsConnection, connect_mutual_over,
};
use azdr_proto::admin::admin_service_client::AdminServiceClient;
use azdr_proto::admin::admin_service_server::AdminServiceServer;
use azdr_proto::agent::agent_service_server::AgentServiceServer;
use azdr_proto::agent::restored_service_server::RestoredServiceServer;
use azdr_tests::agents::{Inside, identity_path, live};
use azdr_tests::simulated_machines::{Listed, Mounted, Thawed};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};

pub(crate) const CONTROLLER: &str = "controller";
const ADMIN: &str = "controller:7443";
const AGENTS: &str = "controller:7444";
const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
const OPERATOR: &str = "alice";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The network's time, the same on every host and over restarts.
#[derive(Debug)]
struct SimulatedTime;

impl Clock for SimulatedTime {
    fn wall(&self) -> WallTime {
        WallTime::from_unix_ms(1_764_576_000_000).plus(now())
    }
    fn monotonic(&self) -> Monotonic {
        Monotonic::from_duration(now())
    }
}

/// Since the simulation's start; zero before it.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn env(seed: u64) -> Env {
    Env { clock: Arc::new(SimulatedTime), ids: Arc::new(SeededIds::new(seed)) }
}

/// Azure does not answer.
struct Unreachable;

#[tonic::async_trait]
impl HttpTransport for Unreachable {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, TransportError> {
        Err(TransportError::maybe_sent("Azure is unreachable"))
    }
}

/// What outlives every host: the controller's disk, its authority, and certificates.
pub(crate) struct World {
    dir: tempfile::TempDir,
    authority: Arc<CertificateAuthority>,
    operator: ClientIdentity,
    /// Who is connected to the controller that lives.
    pub(crate) fleet: Arc<Mutex<Option<Fleet>>>,
}

/// A protected VM and its machine.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) item: ItemId,
    pub(crate) vm: ArmId,
    pub(crate) inside: Arc<Memory>,
    boots: Arc<AtomicU32>,
}

/// A machine in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    frozen: AtomicBool,
}

impl Memory {
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
}

impl Inside for Memory {
    fn freeze(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.frozen.swap(true, Ordering::SeqCst), "it is frozen already");
        Ok(())
    }
    fn thaw(&self) -> anyhow::Result<Thawed> {
        Ok(if self.frozen.swap(false, Ordering::SeqCst) { Thawed::Now } else { Thawed::Before })
    }
    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().unwrap().get(path).cloned())
    }
    fn write(&self, path: &str, content: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_frozen(), "it is frozen");
        self.files.lock().unwrap().insert(path.to_owned(), content.to_vec());
        Ok(())
    }
    fn remove(&self, path: &str) -> anyhow::Result<()> {
        self.files.lock().unwrap().remove(path);
        Ok(())
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let env = env(1);
        let authority = Arc::new(CertificateAuthority::generate(&env).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (operator, serial) = issue(&authority, &env, &Identity::operator(OPERATOR).unwrap());
        let store = store(dir.path());
        let write = store.initialise(stamp(), OPERATOR.into(), serial, env.clock.wall());
        finish(write).unwrap();
        Self { dir, authority, operator, fleet: Arc::default() }
    }

    /// A VM whose agent has enrolled.
    pub(crate) fn machine(&self, name: &str, seed: u64) -> Machine {
        let env = env(seed);
        let now = env.clock.wall();
        let vm = ArmId::virtual_machine(SUBSCRIPTION, "prod", name).unwrap();
        let vm_guid = format!("00000000-0000-0000-0000-{seed:012}");
        let store = store(self.dir.path());
        let location = "eastus".to_owned();
        let item =
            finish(store.ensure_vm(vm.clone(), location, Some(vm_guid.clone()), now)).unwrap();
        let agent = Identity::Agent { vm_hash: vm.hash_hex() };
        let (identity, serial) = issue(&self.authority, &env, &agent);
        let scope = CertificateScope::Vm;
        finish(store.add_certificate(serial, item.id, scope, now.plus(YEAR), None, now)).unwrap();
        let stored = StoredIdentity {
            vm_resource_id: Some(vm.to_string()),
            vm_id: vm_guid,
            agent_address: AGENTS.to_owned(),
            identity,
        };
        let inside = Memory::default();
        inside.write(&identity_path(), &identity_store::encode(&stored).unwrap()).unwrap();
        Machine { item: item.id, vm, inside: Arc::new(inside), boots: Arc::default() }
    }

    /// Another look at the controller's disk.
    pub(crate) fn store(&self) -> Store {
        store(self.dir.path())
    }

    /// The controller, with what it is to do by itself besides serving.
    pub(crate) fn controller(
        &self,
        simulation: &mut turmoil::Sim<'_>,
        besides: fn(Parts, Machine),
        machine: &Machine,
    ) {
        let dir = self.dir.path().to_owned();
        let (authority, fleet, machine) =
            (self.authority.clone(), self.fleet.clone(), machine.clone());
        simulation.host(CONTROLLER, move || {
            let (dir, authority) = (dir.clone(), authority.clone());
            let (fleet, machine) = (fleet.clone(), machine.clone());
            async move {
                let parts = parts(&dir, authority.clone());
                *fleet.lock().unwrap() = Some(parts.services.fleet.clone());
                parts.engine.start().await?;
                besides(parts.clone(), machine);
                serve(parts, &authority).await
            }
        });
    }

    /// A machine's agent.
    pub(crate) fn agent(&self, simulation: &mut turmoil::Sim<'_>, host: &str, machine: &Machine) {
        let machine = machine.clone();
        simulation.host(host, move || {
            let machine = machine.clone();
            let boot = machine.boots.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                // A machine that starts is not frozen, whatever it was before.
                machine.inside.thaw()?;
                let vm_id = identity_store::decode(
                    Path::new("identity"),
                    &String::from_utf8(machine.inside.read(&identity_path())?.unwrap())?,
                )?
                .vm_id;
                let listed = Listed {
                    vm_id,
                    name: machine.vm.name().to_owned(),
                    boot_id: format!("boot {boot}"),
                    disks: vec![Mounted { mount_point: "/".into(), unique_id: "os".into() }],
                    frozen_ms: None,
                    torn: false,
                };
                let network = Arc::new(|address: String, identity: ClientIdentity| {
                    let connected = async move {
                        let options = options();
                        connect_mutual_over(&address, &identity, &options, dial).await
                    };
                    Box::pin(connected) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
                });
                live(machine.inside.clone(), listed, env(100 + u64::from(boot)), network).await;
                Ok(())
            }
        });
    }

    /// A call of the operator's.
    pub(crate) fn operator(&self) -> ClientIdentity {
        self.operator.clone()
    }
}

/// Calls as an operator; a connection that cannot be had is tried for again.
pub(crate) async fn admin(identity: &ClientIdentity) -> AdminServiceClient<Channel> {
    loop {
        match connect_mutual_over(ADMIN, identity, &options(), dial).await {
            Ok(channel) => return AdminServiceClient::new(channel),
            Err(_) => azdr_env::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn options() -> ConnectOptions {
    ConnectOptions { clock: Some(Arc::new(SimulatedTime)), ..ConnectOptions::default() }
}

async fn dial(address: String) -> io::Result<turmoil::net::TcpStream> {
    turmoil::net::TcpStream::connect(address).await
}

fn parts(dir: &Path, authority: Arc<CertificateAuthority>) -> Parts {
    let env = env(2);
    let endpoint: url::Url = "https://azure.invalid/".parse().unwrap();
    let config = ArmConfig {
        authority: Some(endpoint.clone()),
        endpoint,
        pace: PollPace::quick(),
        ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
            tenant_id: "00000000-0000-0000-0000-0000000000aa".into(),
            client_id: "client".into(),
            client_secret: Secret::new("secret"),
        })
    };
    let transport = Arc::new(Unreachable);
    let given = Given {
        store: store(dir),
        azure: ArmClient::with_transport(config, env.clone(), transport, Tokens::Configured),
        env,
        authority,
        settings: settings(),
        stamp: stamp(),
        max_holds: 8,
        engine: EngineConfig { max_running: 8, retry: RetryPolicy::QUICK },
        definitions: workflows::all(),
        presence: Presence::default(),
        enroll_address: String::new(),
        agent_address: AGENTS.to_owned(),
    };
    given.assemble()
}

/// As the daemon does, on the simulated network.
async fn serve(parts: Parts, authority: &CertificateAuthority) -> turmoil::Result {
    let env = env(3);
    let tls = |auth| {
        let (own, _) = issue(authority, &env, &Identity::Controller);
        let clock = Arc::new(SimulatedTime);
        ServerTls::new(&own.chain_der[0], &own.key_pem, authority.cert_der(), auth, clock)
    };
    let admin = incoming(7443, tls(ClientAuth::RequireCurrent)?).await?;
    let agents = incoming(7444, tls(ClientAuth::RequireAllowExpired)?).await?;
    let beat = Some(Duration::from_secs(10));
    let operators = Server::builder()
        .add_service(AdminServiceServer::new(parts.admin))
        .serve_with_incoming(admin);
    let sessions = Server::builder()
        .http2_keepalive_interval(beat)
        .http2_keepalive_timeout(beat)
        .add_service(AgentServiceServer::new(parts.agents.clone()))
        .add_service(RestoredServiceServer::new(parts.agents))
        .serve_with_incoming(agents);
    let (operators, sessions) = tokio::join!(operators, sessions);
    operators?;
    sessions?;
    Ok(())
}

type Connection = TlsConnection<turmoil::net::TcpStream>;

/// The connections to a port whose handshakes are done.
async fn incoming(port: u16, tls: ServerTls) -> io::Result<ReceiverStream<io::Result<Connection>>> {
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", port)).await?;
    let (done, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let (tls, done) = (tls.clone(), done.clone());
            tokio::spawn(async move {
                let limit = Duration::from_secs(10);
                if let Ok(Ok(connection)) =
                    tokio::time::timeout(limit, tls.accept(stream, from)).await
                {
                    let _ = done.send(Ok(connection)).await;
                }
            });
        }
    });
    Ok(ReceiverStream::new(connections))
}

fn store(dir: &Path) -> Store {
    let path: PathBuf = dir.join("azdr.db");
    Store::open(&path, Executor::Inline).unwrap()
}

/// Outside the simulation the store answers without waiting.
pub(crate) fn finish<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(work)
}

fn issue(authority: &CertificateAuthority, env: &Env, of: &Identity) -> (ClientIdentity, String) {
    let now = env.clock.wall();
    let from = now.minus(Duration::from_secs(3600));
    let serial = Serial::random(&*env.ids);
    let (issued, key_pem) = authority.issue_with_new_key(of, from, now.plus(YEAR), serial).unwrap();
    let serial = issued.serial_hex.clone();
    let ca_der = authority.cert_der().to_vec();
    (ClientIdentity { key_pem, chain_der: vec![issued.cert_der], ca_der }, serial)
}

fn stamp() -> Stamp {
    Stamp {
        cloud: "simulated".into(),
        tenant_id: "00000000-0000-0000-0000-0000000000aa".into(),
        subscriptions: vec![SUBSCRIPTION.into()],
        installation: "1nstall".into(),
    }
}

fn settings() -> Settings {
    Settings {
        installation: "1nstall".into(),
        agent_address: None,
        snapshot_group_prefix: "azdr-".into(),
        hold_limit: Duration::from_secs(10),
        hold_lease: Duration::from_secs(3),
        drill_access: DrillAccess::None,
        probe_address: ProbeAddress::None,
        ssh_port: 22,
        probe_login: None,
        boot_limit: Duration::from_secs(180),
        copy_stall_limit: Duration::from_secs(60),
        keep_replaced: Duration::from_secs(7 * 86_400),
        deletion_limit: DeletionLimit { percent: 20, points: 5 },
        look_again: Duration::from_secs(1),
        sampled_blocks: azdr_domain::content::Sampling::Blocks(0),
        read_for: Duration::from_secs(10),
        look_again_at_copy: Duration::from_secs(1),
    }
}
