//! One life of a controller on a world that outlives it.

use std::sync::Arc;
use std::time::Duration;

use azdr_arm::{ArmClient, ArmConfig, CredentialConfig, PollPace, Secret, Tokens};
use azdr_controller::fleet::Fleet;
use azdr_controller::store::{Executor, Item, NewRun, PointRow, RunId, RunRow, RunState, Store};
use azdr_controller::workflow::{Engine, EngineConfig, RetryPolicy};
use azdr_controller::workflows::{self, Catalogue, DrillAccess, ProbeAddress, Services, Settings};
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::region::Region;
use azdr_env::Env;
use tokio::sync::Semaphore;

use crate::agents::{self, Behaviour, Guests};
use crate::cloud::{Cloud, SUBSCRIPTION, TENANT};

/// The world: what a crash does not touch.
pub(crate) struct Bench {
    pub(crate) env: Env,
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) guests: Arc<Guests>,
}

/// A controller that lives.
pub(crate) struct Life {
    pub(crate) store: Store,
    pub(crate) engine: Engine<Services>,
    pub(crate) services: Arc<Services>,
    agents: tokio::task::JoinHandle<()>,
}

impl Drop for Bench {
    /// A life that "crashed" holds on to the cloud for ever, and so to its folder.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.cloud.dir.path());
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let env = Env::simulated(42);
        let cloud = Cloud::new(&env);
        Self { env, cloud, guests: Arc::default() }
    }

    pub(crate) async fn life(&self) -> Life {
        let path = self.cloud.dir.path().join("azdr.db");
        let store = Store::open(&path, Executor::Inline).unwrap();
        let endpoint: url::Url = "https://sim.example/".parse().unwrap();
        let config = ArmConfig {
            authority: Some(endpoint.clone()),
            endpoint,
            pace: PollPace::quick(),
            ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
                tenant_id: TENANT.into(),
                client_id: "client".into(),
                client_secret: Secret::new("secret"),
            })
        };
        let azure = ArmClient::with_transport(
            config,
            self.env.clone(),
            self.cloud.clone(),
            Tokens::Configured,
        );
        let fleet = Fleet::new(self.env.clock.clone());
        let services = Arc::new(Services {
            azure,
            fleet: fleet.clone(),
            catalogue: Catalogue::new(store.clone()),
            settings: Arc::new(settings()),
            holds: Arc::new(Semaphore::new(8)),
        });
        let engine = Engine::new(
            store.clone(),
            self.env.clone(),
            services.clone(),
            workflows::all(),
            EngineConfig { max_running: 100, retry: RetryPolicy::QUICK },
        );
        let agents = tokio::spawn(agents::run(
            self.cloud.clone(),
            self.guests.clone(),
            fleet,
            store.clone(),
            self.env.clone(),
        ));
        engine.start().await.unwrap();
        Life { store, engine, services, agents }
    }

    /// Puts `db` under a policy with an agent, and waits until the agent is there.
    pub(crate) async fn protect(&self, life: &Life, change: PolicyChange) -> Item {
        let region = Region::parse("eastus").unwrap();
        let policy = Policy::default().apply(&change, &region).unwrap();
        let now = self.env.clock.wall();
        let vm_guid = self.vm_guid("virtualMachines/db").await;
        let item = life.store.ensure_vm(db(), "eastus".into(), Some(vm_guid), now).await.unwrap();
        life.store.set_policy(item.id, policy, "test".into(), now).await.unwrap();
        let far = now.plus(Duration::from_secs(30 * 86_400));
        let scope = azdr_controller::store::CertificateScope::Vm;
        let serial = self.env.ids.hex(8);
        life.store.add_certificate(serial, item.id, scope, far, None, now).await.unwrap();
        azdr_env::sleep(Duration::from_secs(1)).await;
        item
    }

    /// From now on agents behave like this; waits until they do.
    pub(crate) async fn agents_behave(&self, behaviour: Behaviour) {
        *self.guests.behaviour.lock().unwrap() = behaviour;
        azdr_env::sleep(Duration::from_secs(1)).await;
    }

    async fn vm_guid(&self, ends_with: &str) -> String {
        let listing = self.cloud.listing().await;
        let all = listing["resources"].as_array().unwrap();
        let vm = all.iter().find(|r| r["id"].as_str().unwrap().ends_with(ends_with)).unwrap();
        vm["vm_id"].as_str().unwrap().to_owned()
    }

    /// Runs to the end in as many lives as it takes; the last life is handed back.
    pub(crate) async fn run(&self, life: Life, run: NewRun) -> (Life, RunRow) {
        let id = life.engine.submit(run).await.unwrap();
        let ended = tokio::select! {
            ended = life.ended(id) => Some(ended),
            () = self.cloud.crashed.notified() => None,
        };
        if let Some(row) = ended {
            return (life, row);
        }
        // Dead: nothing of this life may act any more.
        life.end().await;
        self.cloud.count_from_here(None);
        self.take_up(id).await
    }

    /// A new life, in which an unfinished run goes on to its end.
    pub(crate) async fn take_up(&self, id: RunId) -> (Life, RunRow) {
        let life = self.life().await;
        let row = life.ended(id).await;
        (life, row)
    }
}

/// On the paused clock: far more than any workflow here needs.
const LIMIT: Duration = Duration::from_secs(1200);

impl Life {
    /// Waits until a run is over or stuck; one that does not end says where it stands.
    pub(crate) async fn ended(&self, id: RunId) -> RunRow {
        let over = async {
            let mut changes = self.engine.subscribe();
            loop {
                let row = self.store.run(id).await.unwrap().unwrap();
                if row.state.is_terminal() || row.state == RunState::Stuck {
                    return row;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::select! {
            ended = over => ended,
            () = azdr_env::sleep(LIMIT) => {
                let row = self.store.run(id).await.unwrap();
                let progress = self.engine.progress(id);
                let journal = self.store.journal(id).await.unwrap();
                let last: Vec<_> = journal.iter().rev().take(5).collect();
                panic!("job {id} does not end: {row:#?} {progress:#?} {last:#?}");
            }
        }
    }

    pub(crate) async fn end(self) {
        self.agents.abort();
        self.engine.drain(Duration::ZERO).await;
    }

    /// From now on nobody connects any more.
    pub(crate) fn without_agents(&self) {
        self.agents.abort();
    }

    pub(crate) async fn points(&self, item: &Item) -> Vec<PointRow> {
        self.store.points(item.id).await.unwrap()
    }

    /// Waits until nothing is queued or running: follow-up runs are over.
    pub(crate) async fn settle(&self) {
        for _ in 0..2_000 {
            let unfinished = self.store.unfinished_runs().await.unwrap();
            if unfinished.is_empty() && self.store.queued_runs(10).await.unwrap().is_empty() {
                return;
            }
            azdr_env::sleep(Duration::from_millis(500)).await;
        }
        panic!("does not settle: {:#?}", self.store.unfinished_runs().await.unwrap());
    }
}

pub(crate) fn db() -> ArmId {
    ArmId::virtual_machine(SUBSCRIPTION, "prod", "db").unwrap()
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
        boot_limit: Duration::from_secs(180),
        copy_stall_limit: Duration::from_secs(60),
        keep_replaced: Duration::from_secs(7 * 86_400),
        look_again: Duration::from_millis(250),
        look_again_at_copy: Duration::from_millis(250),
    }
}
