//! One life of a controller: all its parts but the sockets, on one thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use azdr_arm::{ArmClient, ArmConfig, CredentialConfig, PollPace, Secret, Tokens};
use azdr_controller::api::admin::Admin;
use azdr_controller::api::agent_service::Presence;
use azdr_controller::app::{DataDirLock, claim_database};
use azdr_controller::parts::{Given, Parts};
use azdr_controller::store::{Executor, RunId, RunState, Stamp, Store};
use azdr_controller::workflow::{Engine, EngineConfig, RetryPolicy};
use azdr_controller::workflows::{
    self, DeletionLimit, DrillAccess, ProbeAddress, Services, Settings,
};
use azdr_identity::{Identity, PeerCertificate, PeerInfo};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cloud::{Cloud, Line};
use crate::doom::{Doom, Gate};
use crate::event::Event;
use crate::world::{SUBSCRIPTION, TENANT, World};

/// An idle agent sends nothing, and is not missed.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// How often the scheduler looks.
const TICK: Duration = Duration::from_secs(30 * 60);
/// How often it is judged what alerts last.
const JUDGE: Duration = Duration::from_secs(3600);
/// The operator that simulated commands come from.
const OPERATOR: &str = "sim";
const SERIAL: &str = "00";

/// A controller that lives.
pub struct Life {
    /// From 1.
    pub number: u64,
    /// The catalogue.
    pub store: Store,
    /// Runs.
    pub engine: Engine<Services>,
    /// What operators call.
    pub admin: Admin,
    /// Where it dies.
    pub doom: Arc<Doom>,
    line: Arc<Line>,
    tasks: JoinSet<()>,
    _lock: DataDirLock,
}

impl Life {
    /// Starts a controller on the world's files, as `azdr-controller run` does.
    ///
    /// # Errors
    /// It refuses to start.
    pub async fn begin(world: &World, number: u64) -> anyhow::Result<Self> {
        let data_dir = world.dir.path().join("controller");
        std::fs::create_dir_all(&data_dir)?;
        let lock = DataDirLock::take(&data_dir)?;
        let doom = Doom::none_yet();
        let gate = Arc::new(Gate(doom.clone()));
        let store = Store::open_with(&world.database, Executor::Inline, gate)?;
        let stamp = stamp();
        if store.read_stamp().await?.is_none() {
            initialise(world, &store, &stamp).await?;
        }
        let (store, stamp) = claim_database(store, &stamp).await?;
        let line = Line::new(world.cloud.clone(), number, doom.clone());
        let azure = azure(world, line.clone())?;
        let given = Given {
            store: store.clone(),
            env: world.env.clone(),
            azure,
            authority: world.authority.clone(),
            settings: settings(),
            stamp,
            max_holds: 8,
            engine: EngineConfig { max_running: 100, retry: RetryPolicy::AZURE },
            definitions: workflows::all(),
            presence: Presence { heartbeat: FOR_EVER, silence_limit: FOR_EVER },
            enroll_address: "controller:7443".into(),
            agent_address: "controller:7444".into(),
        };
        let Parts { engine, reconciler, sweeper, pins_changed, admin, agents, .. } =
            given.assemble();
        world.cloud.tell(&Event::LifeBegins(number));
        engine.start().await.context("cannot take up unfinished runs")?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.clone().keep_tags(stop.clone()));
        tasks.spawn(reconciler.clone().keep_pins(pins_changed, stop.clone()));
        tasks.spawn(sweeper.keep_tidy(vec![SUBSCRIPTION.to_owned()], world.sweep, stop.clone()));
        tasks.spawn(reconciler.clone().keep_alerts(JUDGE, stop.clone()));
        tasks.spawn(reconciler.keep_schedule(TICK, stop));
        let reporter = Arc::new(Reporter { store: store.clone(), known: world.known.clone() });
        line.report_to(reporter.clone());
        tasks.spawn(reporter.follow(world.cloud.clone(), engine.clone()));
        world.cloud.machines.controller_is(Some(agents));
        Ok(Self { number, store, engine, admin, doom, line, tasks, _lock: lock })
    }

    /// The process is gone, wherever it was.
    pub fn kill(mut self, world: &World) {
        self.line.cut();
        self.engine.kill();
        self.tasks.abort_all();
        world.cloud.machines.controller_is(None);
        world.cloud.tell(&Event::LifeEnds(self.number));
    }

    /// A request of the simulated operator.
    pub fn request<T>(&self, body: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(body);
        let peer = PeerCertificate {
            identity: Identity::operator(OPERATOR).expect("a good name"),
            serial: SERIAL.into(),
            not_before: azdr_env::WallTime::from_unix_ms(0),
            not_after: azdr_env::WallTime::from_unix_ms(i64::MAX),
            expired: false,
            fingerprint: String::new(),
        };
        let remote_addr = ([127, 0, 0, 1], 1).into();
        request.extensions_mut().insert(PeerInfo { peer: Some(peer), remote_addr });
        request
    }
}

/// The cloud that this is.
pub fn stamp() -> Stamp {
    Stamp {
        cloud: "simulated".into(),
        tenant_id: TENANT.into(),
        subscriptions: vec![SUBSCRIPTION.into()],
        installation: "1nstall".into(),
    }
}

async fn initialise(world: &World, store: &Store, stamp: &Stamp) -> anyhow::Result<()> {
    let now = world.env.clock.wall();
    store.initialise(stamp.clone(), OPERATOR.into(), SERIAL.into(), now).await?;
    Ok(())
}

fn azure(world: &World, line: Arc<Line>) -> anyhow::Result<ArmClient> {
    let endpoint: url::Url = "https://sim.example/".parse()?;
    let config = ArmConfig {
        authority: Some(endpoint.clone()),
        endpoint,
        pace: PollPace::azure(),
        ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
            tenant_id: TENANT.into(),
            client_id: "client".into(),
            client_secret: Secret::new("secret"),
        })
    };
    Ok(ArmClient::with_transport(config, world.env.clone(), line, Tokens::Configured))
}

fn settings() -> Settings {
    Settings {
        installation: "1nstall".into(),
        agent_address: Some("127.0.0.1:7444".into()),
        snapshot_group_prefix: "azdr-".into(),
        hold_limit: Duration::from_secs(10),
        hold_lease: Duration::from_secs(3),
        drill_access: DrillAccess::None,
        probe_address: ProbeAddress::None,
        ssh_port: 22,
        probe_login: None,
        boot_limit: Duration::from_secs(15 * 60),
        copy_stall_limit: Duration::from_secs(6 * 3600),
        keep_replaced: Duration::from_secs(7 * 86_400),
        // Its operators do not approve anything.
        deletion_limit: DeletionLimit { percent: 100, points: 0 },
        look_again: Duration::from_secs(5),
        sampled_blocks: azdr_domain::content::Sampling::Blocks(0),
        read_for: Duration::from_secs(10),
        look_again_at_copy: Duration::from_secs(30),
    }
}

/// Runs that are over and are looked at all the same.
const LOOKED_AT_AGAIN: i64 = 8;

/// The state in which each run was last seen.
pub type Known = Arc<Mutex<BTreeMap<RunId, RunState>>>;

/// Tells the checkers of every run that has a new state.
pub struct Reporter {
    store: Store,
    /// As last told, in this life or an earlier one.
    known: Known,
}

impl Reporter {
    /// Looks at every run that may have changed.
    pub async fn report(&self, cloud: &Cloud) {
        let (open, latest) = {
            let known = self.known.lock().expect("only looked up and put in");
            let latest = known.keys().next_back().map_or(0, |id| id.0);
            let open = known.iter().filter(|(_, state)| !state.is_terminal()).map(|(id, _)| *id);
            (open.collect::<Vec<_>>(), latest)
        };
        // What is over must stay so: the latest are looked at again.
        let after = RunId(latest - LOOKED_AT_AGAIN);
        let Ok(states) = self.store.run_states(open, after).await else { return };
        let mut rows = Vec::new();
        for (id, state) in states {
            let known = self.known.lock().expect("only looked up and put in").get(&id).copied();
            if known != Some(state) {
                rows.extend(self.store.run(id).await.ok().flatten());
            }
        }
        for row in rows {
            let before = {
                let mut known = self.known.lock().expect("only looked up and put in");
                known.insert(row.id, row.state)
            };
            if before != Some(row.state) {
                let alerts = self.store.alerts_of(row.id).await.ok();
                cloud.tell(&Event::Run {
                    id: row.id,
                    workflow: row.workflow,
                    input: row.input,
                    state: row.state,
                    result: row.result.unwrap_or_default(),
                    error: row.error.unwrap_or_default(),
                    alerts,
                });
            }
        }
    }

    async fn follow(self: Arc<Self>, cloud: Arc<Cloud>, engine: Engine<Services>) {
        let mut changes = engine.subscribe();
        loop {
            self.report(&cloud).await;
            changes.changed().await;
            // Many changes, one look.
            azdr_env::sleep(Duration::from_secs(1)).await;
            changes.mark_seen();
        }
    }
}
