//! Wiring only: configuration in, a running controller out, one drain.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use azdr_arm::{ArmClient, ArmConfig, CredentialConfig, PUBLIC_AUDIENCE, PollPace, Secret};
use azdr_env::Env;
use azdr_identity::{
    AcceptLimits, CertificateAuthority, ClientAuth, Identity, Issued, Serial, ServerTls, listen,
    serve_incoming,
};
use azdr_proto::admin::admin_service_server::AdminServiceServer;
use azdr_proto::agent::agent_service_server::AgentServiceServer;
use azdr_proto::agent::restored_service_server::RestoredServiceServer;
use azdr_proto::enroll::enroll_service_server::EnrollServiceServer;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::api::agent_service::Presence;
use crate::api::enroll_service::Enrolment;
use crate::config::{self, CloudName, Config, Credential};
use crate::health::{self, Health};
use crate::mutation::{Mutation, planted};
use crate::parts::{Given, Parts};
use crate::pki::AuthorityFile;
use crate::reconcile::{alerts, residue};
use crate::store::{Executor, Stamp, Store, StoreError};
use crate::workflow::{EngineConfig, RetryPolicy};
use crate::workflows::{self, DeletionLimit, DrillAccess, ProbeAddress, Settings};

/// How often the controller's own certificate is made anew.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The controller's own certificate; made anew at every start, and long before it ends.
const SERVER_CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long runs may take to reach a place from which they can go on later.
const DRAIN: Duration = Duration::from_secs(30);
/// How often to look whether a newer controller has come. Steps look for themselves each time.
const LOOK_FOR_NEWER_EVERY: Duration = Duration::from_secs(5);
/// Runs in flight at once (DESIGN §8).
const MAX_RUNNING: usize = 1000;

/// Where a running controller can be reached; also the content of `--ready-file`.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// Admin API.
    pub admin: SocketAddr,
    /// Agents' sessions.
    pub agent: SocketAddr,
    /// Enrolment.
    pub enroll: SocketAddr,
    /// `/metrics`, `/healthz`, `/readyz`.
    pub metrics: SocketAddr,
    /// Process id.
    pub pid: u32,
}

/// The exclusive use of a data directory, for the life of the process: two controllers on one
/// database would both recover the same runs.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes it.
    ///
    /// # Errors
    /// When another process has it.
    pub fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).with_context(
                || format!("cannot open {}; run azdr-controller init first", path.display()),
            )?;
        // SAFETY: flock takes a descriptor that is open for the whole call, and no memory.
        let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        if !taken && !planted(Mutation::SecondControllerAllowed) {
            bail!("another controller uses {}", data_dir.display());
        }
        Ok(Self { _file: file })
    }
}

/// Path of the database in a data directory.
pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("azdr.db")
}

/// The stamp that a configuration asks for, for a new database.
pub fn stamp_of(config: &Config, env: &Env) -> Stamp {
    let mut subscriptions = config.cloud.subscriptions.clone();
    subscriptions.sort();
    Stamp {
        cloud: config.cloud.name.as_str().to_owned(),
        tenant_id: config.cloud.tenant_id.clone(),
        subscriptions,
        installation: env.ids.hex(4),
    }
}

/// Runs the controller until `stop`.
///
/// # Errors
/// When it cannot start: no database, another cloud's database (I11), an address that is taken.
pub async fn run(
    config: Config,
    env: Env,
    stop: CancellationToken,
    ready: impl FnOnce(&Addresses) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _lock = DataDirLock::take(&config.data_dir)?;
    let authority = AuthorityFile::in_dir(&config.data_dir).load().map_err(|e| {
        anyhow::Error::new(e).context("the controller is not initialised; run azdr-controller init")
    })?;
    let authority = Arc::new(authority);
    let store = Store::open(&database(&config.data_dir), Executor::BlockingPool)
        .context("cannot open the database")?;
    // From here on nobody else's controller writes, whatever became of the lock above.
    let (store, stamp) = claim_database(store, &stamp_of(&config, &env)).await?;
    let azure = arm_client(&config, &env).context("cannot set up the Azure client")?;
    let advertised_agent = config.advertise.agent.as_ref().map(ToString::to_string);
    let retry = match config.cloud.poll_pace {
        config::PollPace::Azure => RetryPolicy::AZURE,
        config::PollPace::Quick => RetryPolicy::QUICK,
    };

    // Bind everything before anything is promised.
    let admin_listener = bind("listen.admin", config.listen.admin)?;
    let agent_listener = bind("listen.agent", config.listen.agent)?;
    let enroll_listener = bind("listen.enroll", config.listen.enroll)?;
    let metrics_listener = health::bind(config.listen.metrics)
        .await
        .with_context(|| format!("listen.metrics: cannot bind {}", config.listen.metrics))?;
    let addresses = Addresses {
        admin: admin_listener.local_addr()?,
        agent: agent_listener.local_addr()?,
        enroll: enroll_listener.local_addr()?,
        metrics: metrics_listener.local_addr()?,
        pid: std::process::id(),
    };

    let admin_tls = server_tls(&authority, &env, ClientAuth::RequireCurrent)?;
    let agent_tls = server_tls(&authority, &env, ClientAuth::RequireAllowExpired)?;
    let enroll_tls = server_tls(&authority, &env, ClientAuth::None)?;
    let renewal = renew_server_certificates(
        vec![admin_tls.clone(), agent_tls.clone(), enroll_tls.clone()],
        authority.clone(),
        env.clone(),
    );
    let advertised = config::Advertise::address;
    let subscriptions = stamp.subscriptions.clone();
    let parts = Given {
        store: store.clone(),
        env: env.clone(),
        azure: azure.clone(),
        authority: authority.clone(),
        settings: settings(&config, &stamp, advertised_agent),
        stamp,
        max_holds: config.backup.max_concurrent_holds,
        engine: EngineConfig { max_running: MAX_RUNNING, retry },
        definitions: workflows::all(),
        presence: Presence::default(),
        enroll_address: advertised(&config.advertise.enroll, addresses.enroll),
        agent_address: advertised(&config.advertise.agent, addresses.agent),
    };
    let Parts { engine, services, reconciler, sweeper, pins_changed, admin, agents } =
        parts.assemble();
    let policies_changed = admin.inventory.policies_changed.clone();
    let enrolment =
        Enrolment { store: store.clone(), env: env.clone(), authority: authority.clone(), azure };
    let health = Health::new(store.clone(), services.fleet.clone(), services, env.clone())
        .with_residue(sweeper.clone());

    let serving = CancellationToken::new();
    let mut servers = tokio::task::JoinSet::new();
    let limits = AcceptLimits::default();
    servers.spawn(
        Server::builder().add_service(AdminServiceServer::new(admin)).serve_with_incoming_shutdown(
            serve_incoming(admin_listener, admin_tls, limits),
            serving.clone().cancelled_owned(),
        ),
    );
    servers.spawn(
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(AgentServiceServer::new(agents.clone()))
            .add_service(RestoredServiceServer::new(agents))
            .serve_with_incoming_shutdown(
                serve_incoming(agent_listener, agent_tls, limits),
                serving.clone().cancelled_owned(),
            ),
    );
    servers.spawn(
        Server::builder()
            .add_service(EnrollServiceServer::new(enrolment))
            .serve_with_incoming_shutdown(
                serve_incoming(enroll_listener, enroll_tls, limits),
                serving.clone().cancelled_owned(),
            ),
    );
    let metrics = tokio::spawn(health.clone().serve(metrics_listener, serving.clone()));

    // Unfinished runs first; only then does new work begin.
    let taken_up = engine.start().await.context("cannot take up unfinished runs")?;
    tracing::info!(?addresses, taken_up, "controller is ready");
    let tags = tokio::spawn(reconciler.clone().keep_tags(stop.clone()));
    let pins = tokio::spawn(reconciler.clone().keep_pins(pins_changed, stop.clone()));
    let inventory = tokio::spawn(reconciler.clone().keep_inventory(
        subscriptions.clone(),
        config.scheduler.inventory,
        policies_changed,
        stop.clone(),
    ));
    let every = config.scheduler.tick.min(alerts::EVERY);
    let judging = tokio::spawn(reconciler.clone().keep_alerts(every, stop.clone()));
    let residue = tokio::spawn(sweeper.keep_tidy(subscriptions, residue::EVERY, stop.clone()));
    let config::Scheduler { enabled, tick, proofs, .. } = config.scheduler;
    let schedule =
        enabled.then(|| tokio::spawn(reconciler.clone().keep_schedule(tick, stop.clone())));
    let proofs = enabled.then(|| tokio::spawn(reconciler.keep_proofs(proofs, tick, stop.clone())));
    let renewal = tokio::spawn(renewal);
    health.set_ready(true);
    ready(&addresses)?;

    tokio::select! {
        () = stop.cancelled() => {}
        ended = servers.join_next() => {
            bail!("a listener ended: {ended:?}");
        }
        () = engine.fenced() => bail!(OVERTAKEN),
        // Also when there is nothing to write: reconcilers go on calling Azure.
        () = overtaken(&store) => bail!(OVERTAKEN),
    }
    tracing::info!("stopping");
    health.set_ready(false);
    // None holds anything that a restart would miss.
    tags.abort();
    pins.abort();
    judging.abort();
    residue.abort();
    inventory.abort();
    for started in [schedule, proofs].into_iter().flatten() {
        started.abort();
    }
    engine.drain(DRAIN).await;
    serving.cancel();
    // Agents' streams have no end of their own; what matters is in the store already.
    servers.shutdown().await;
    metrics.abort();
    renewal.abort();
    Ok(())
}

const OVERTAKEN: &str = "a newer controller has opened the database; this one has stopped";

/// Waits until a newer controller has opened the database.
async fn overtaken(store: &Store) {
    while !matches!(store.check_newest().await, Err(StoreError::Fenced { .. })) {
        azdr_env::sleep(LOOK_FOR_NEWER_EVERY).await;
    }
}

fn bind(field: &str, address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    listen(address).with_context(|| format!("{field}: cannot bind {address}"))
}

/// Opens a database for the cloud that `wanted` names, and takes it over: from then on no other
/// controller's engine writes to it. The stamp that is answered is the database's own.
///
/// # Errors
/// When it has no stamp yet, or one of another cloud, tenant or subscription list (I11): nothing is
/// written then.
pub async fn claim_database(store: Store, wanted: &Stamp) -> anyhow::Result<(Store, Stamp)> {
    let Some(stamp) = store.read_stamp().await.context("cannot read the database")? else {
        bail!(
            "the database is not initialised; run azdr-controller init (or rebuild, if a database \
             was lost or its rebuilding was interrupted)"
        );
    };
    if !planted(Mutation::StampIgnored) {
        check_stamp(&stamp, wanted)?;
    }
    let store = store.take_over().await.context("cannot take over the database")?;
    Ok((store, stamp))
}

/// Compares all but the installation, which is the database's own.
fn check_stamp(stamp: &Stamp, wanted: &Stamp) -> anyhow::Result<()> {
    if stamp.cloud != wanted.cloud || stamp.tenant_id != wanted.tenant_id {
        bail!(
            "this database belongs to cloud {} and tenant {}, the configuration names cloud {} and \
             tenant {}: a database never opens against another",
            stamp.cloud,
            stamp.tenant_id,
            wanted.cloud,
            wanted.tenant_id
        );
    }
    if stamp.subscriptions != wanted.subscriptions {
        bail!(
            "this database belongs to subscriptions {:?}, the configuration names {:?}",
            stamp.subscriptions,
            wanted.subscriptions
        );
    }
    Ok(())
}

/// The client that a configuration asks for.
///
/// # Errors
/// When the credential or the CA certificate cannot be used.
pub fn arm_client(config: &Config, env: &Env) -> anyhow::Result<ArmClient> {
    let credential = match &config.credential {
        Credential::ManagedIdentity { client_id } => {
            CredentialConfig::ManagedIdentity { client_id: client_id.clone() }
        }
        Credential::WorkloadIdentity => CredentialConfig::WorkloadIdentity,
        Credential::ClientSecret { client_id, secret } => CredentialConfig::ClientSecret {
            tenant_id: config.cloud.tenant_id.clone(),
            client_id: client_id.clone(),
            client_secret: Secret::new(secret.expose()),
        },
        Credential::AzureCli => CredentialConfig::AzureCli,
    };
    let arm = ArmConfig {
        endpoint: config.cloud.endpoint.clone(),
        authority: config.cloud.authority.clone(),
        audience: PUBLIC_AUDIENCE.to_owned(),
        ca_certificate_pem: config.cloud.ca_certificate_pem.clone(),
        credential,
        request_timeout: Duration::from_secs(60),
        pace: match config.cloud.poll_pace {
            config::PollPace::Azure => PollPace::azure(),
            config::PollPace::Quick => PollPace::quick(),
        },
    };
    Ok(ArmClient::new(arm, env.clone())?)
}

fn settings(config: &Config, stamp: &Stamp, agent_address: Option<String>) -> Settings {
    let quick = config.cloud.poll_pace == config::PollPace::Quick;
    Settings {
        installation: stamp.installation.clone(),
        agent_address,
        snapshot_group_prefix: config.backup.snapshot_resource_group_prefix.clone(),
        hold_limit: config.backup.hold_limit,
        hold_lease: config.backup.lease,
        drill_access: match &config.drill.access {
            config::DrillAccess::PublicIp { allowed_source } => {
                DrillAccess::PublicIp { allowed_source: allowed_source.to_string() }
            }
            // A customer's drill subnet comes with the failover work; until then: no way to SSH.
            config::DrillAccess::Subnet { .. } | config::DrillAccess::None => DrillAccess::None,
        },
        probe_address: match config.cloud.name {
            // A simulator's private addresses lead nowhere.
            CloudName::Simulated => ProbeAddress::PublicIp,
            CloudName::AzureCloud => ProbeAddress::PrivateIp,
        },
        ssh_port: config.probe.ssh_port,
        probe_login: config.probe.login.clone(),
        boot_limit: Duration::from_secs(if quick { 180 } else { 15 * 60 }),
        copy_stall_limit: Duration::from_secs(if quick { 60 } else { 6 * 3600 }),
        keep_replaced: Duration::from_secs(7 * 24 * 3600),
        deletion_limit: DeletionLimit {
            percent: config.retention.approve_above_percent,
            points: config.retention.approve_above_points,
        },
        sampled_blocks: config.content.sampled_blocks,
        read_for: Duration::from_secs(300),
        look_again_at_copy: Duration::from_millis(if quick { 250 } else { 30_000 }),
        look_again: if quick { Duration::from_millis(250) } else { Duration::from_secs(5) },
    }
}

fn server_certificate(
    authority: &CertificateAuthority,
    env: &Env,
) -> anyhow::Result<(Issued, String)> {
    let now = env.clock.wall();
    Ok(authority.issue_with_new_key(
        &Identity::Controller,
        now.minus(Duration::from_secs(3600)),
        now.plus(SERVER_CERTIFICATE),
        Serial::random(&*env.ids),
    )?)
}

fn server_tls(
    authority: &CertificateAuthority,
    env: &Env,
    auth: ClientAuth,
) -> anyhow::Result<ServerTls> {
    let (issued, key) = server_certificate(authority, env)?;
    let clock = env.clock.clone();
    Ok(ServerTls::new(&issued.cert_der, &key, authority.cert_der(), auth, clock)?)
}

/// Gives the listeners a new certificate every day, long before the last one ends.
async fn renew_server_certificates(
    listeners: Vec<ServerTls>,
    authority: Arc<CertificateAuthority>,
    env: Env,
) {
    loop {
        azdr_env::sleep(RENEW_EVERY).await;
        for listener in &listeners {
            let renewed = server_certificate(&authority, &env).and_then(|(issued, key)| {
                Ok(listener.replace_certificate(&issued.cert_der, &key)?)
            });
            if let Err(e) = renewed {
                tracing::error!(error = %e, "the controller's certificate could not be renewed");
            }
        }
    }
}
