//! One life of a controller on a world that outlives it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use azdr_arm::{ArmClient, ArmConfig, CredentialConfig, PollPace, Secret, Tokens};
use azdr_controller::fleet::Fleet;
use azdr_controller::ssh_probe::ProbeLogin;
use azdr_controller::store::{Executor, Item, NewRun, PointRow, RunId, RunRow, RunState, Store};
use azdr_controller::workflow::{Engine, EngineConfig, RetryPolicy, StepHook};
use azdr_controller::workflows::{
    self, Catalogue, DeletionLimit, DrillAccess, ProbeAddress, Services, Settings,
};
use azdr_domain::arm_id::ArmId;
use azdr_domain::content::Sampling;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::region::Region;
use azdr_env::{Clock, Env, Monotonic, SeededIds, TokioClock, WallTime};
use azdr_identity::CertificateAuthority;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::agents::{Agents, Behaviour, Disks, Guests};
use crate::cloud::{Cloud, Line, SUBSCRIPTION, Spoil, TENANT, world};
use crate::folder;
use crate::meddling::{Meddler, Mortal, Plan};
use crate::ssh::Ssh;

/// The world: what a crash does not touch.
pub(crate) struct Bench {
    pub(crate) env: Env,
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) guests: Arc<Guests>,
    pub(crate) meddler: Arc<Meddler>,
    /// How often operations are polled.
    pub(crate) pace: PollPace,
    /// How much of each disk is hashed after a backup.
    pub(crate) sampled_blocks: Sampling,
    /// Drills' machines have public addresses, and SSH answers there.
    pub(crate) ssh: Option<Ssh>,
    /// How the controller logs in to machines.
    pub(crate) probe_login: Option<ProbeLogin>,
    /// How it reaches a production machine's SSH.
    pub(crate) probe_address: ProbeAddress,
}

/// One for all worlds: what was written to disks in one is shown in its copies.
fn authority() -> Arc<CertificateAuthority> {
    static AUTHORITY: OnceLock<Arc<CertificateAuthority>> = OnceLock::new();
    let make = || Arc::new(CertificateAuthority::generate(&Env::system()).unwrap());
    AUTHORITY.get_or_init(make).clone()
}

/// A controller that lives.
pub(crate) struct Life {
    pub(crate) store: Store,
    pub(crate) engine: Engine<Services>,
    pub(crate) services: Arc<Services>,
    pub(crate) mortal: Arc<Mortal>,
    agents: tokio::task::JoinHandle<()>,
}

/// A world at rest, from which any number of equal ones can be made.
pub(crate) struct Prepared {
    image: folder::Image,
    disks: Disks,
    behaviour: Behaviour,
    /// Whether SSH answers.
    ssh: bool,
    now: WallTime,
}

/// The controller's clock, which somebody may set; Azure's goes right.
struct SetClock {
    right: Arc<dyn Clock>,
    wrong_by: Arc<AtomicI64>,
}

impl SetClock {
    fn of(env: Env, cloud: &Cloud) -> Env {
        let clock = Self { right: env.clock, wrong_by: cloud.wrong_by.clone() };
        Env { clock: Arc::new(clock), ..env }
    }
}

impl Clock for SetClock {
    fn wall(&self) -> WallTime {
        let seconds = self.wrong_by.load(Ordering::SeqCst);
        let by = Duration::from_secs(seconds.unsigned_abs());
        let now = self.right.wall();
        if seconds < 0 { now.minus(by) } else { now.plus(by) }
    }

    fn monotonic(&self) -> Monotonic {
        self.right.monotonic()
    }
}

const DATABASE: &str = "azdr.db";

impl Drop for Bench {
    /// What "crashed" may hold on to the cloud for ever, and so to its folder.
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.cloud.dir.path());
    }
}

impl Bench {
    /// The world of one protected machine and another.
    pub(crate) fn new() -> Self {
        Self::with(world(&[("db", true), ("other", false)]))
    }

    pub(crate) fn with(world: Value) -> Self {
        let env = Env::simulated(42);
        let cloud = Cloud::create(&env, world);
        let env = SetClock::of(env, &cloud);
        Self {
            env,
            cloud,
            guests: Arc::default(),
            meddler: Arc::default(),
            pace: PollPace::quick(),
            sampled_blocks: Sampling::Blocks(0),
            ssh: None,
            probe_login: None,
            probe_address: ProbeAddress::None,
        }
    }

    /// A prepared world once more; random values depend on the seed.
    pub(crate) fn again(prepared: &Prepared, seed: u64) -> Self {
        let env = Env {
            clock: Arc::new(TokioClock::starting_at(prepared.now)),
            ids: Arc::new(SeededIds::new(seed)),
        };
        let cloud = Cloud::again(&env, &prepared.image);
        let env = SetClock::of(env, &cloud);
        let guests = Guests::default();
        *guests.frozen.lock().unwrap() = prepared.disks.clone();
        guests.behave(prepared.behaviour);
        Self {
            env,
            cloud,
            guests: Arc::new(guests),
            meddler: Arc::default(),
            pace: PollPace::quick(),
            sampled_blocks: Sampling::Blocks(0),
            ssh: prepared.ssh.then(Ssh::new),
            probe_login: None,
            probe_address: ProbeAddress::None,
        }
    }

    /// Ends a life at rest and keeps its world.
    pub(crate) async fn keep(&self, life: Life) -> Prepared {
        life.settle().await;
        while self.cloud.listing().await["unfinished_operations"] != 0 {
            azdr_env::sleep(Duration::from_secs(1)).await;
        }
        life.end().await;
        // The last connection to be closed empties the write-ahead log.
        let log = self.cloud.dir.path().join(format!("{DATABASE}-wal"));
        for _ in 0..100 {
            if !log.exists() {
                break;
            }
            azdr_env::sleep(Duration::from_secs(1)).await;
        }
        Prepared {
            image: folder::Image::of(self.cloud.dir.path()),
            disks: self.guests.frozen.lock().unwrap().clone(),
            behaviour: self.guests.behaves(),
            ssh: self.ssh.is_some(),
            now: self.env.clock.wall(),
        }
    }

    /// A connection of its own, that no crash takes away.
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.cloud.dir.path().join(DATABASE), Executor::Inline).unwrap()
    }

    /// A client of Azure that no controller's death takes away.
    pub(crate) fn azure_of_its_own(&self) -> ArmClient {
        self.azure(Mortal::new(self.meddler.clone()))
    }

    fn azure(&self, mortal: Arc<Mortal>) -> ArmClient {
        let endpoint: url::Url = "https://sim.example/".parse().unwrap();
        let config = ArmConfig {
            authority: Some(endpoint.clone()),
            endpoint,
            pace: self.pace,
            ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
                tenant_id: TENANT.into(),
                client_id: "client".into(),
                client_secret: Secret::new("secret"),
            })
        };
        let line = Line { cloud: self.cloud.clone(), mortal };
        ArmClient::with_transport(config, self.env.clone(), Arc::new(line), Tokens::Configured)
    }

    pub(crate) async fn life(&self) -> Life {
        let path = self.cloud.dir.path().join(DATABASE);
        let mortal = Mortal::new(self.meddler.clone());
        let store = Store::open_with(&path, Executor::Inline, mortal.clone()).unwrap();
        let azure = self.azure(mortal.clone());
        let fleet = Fleet::new(self.env.clock.clone());
        let services = Arc::new(Services {
            azure,
            fleet: fleet.clone(),
            catalogue: Catalogue::new(store.clone()),
            authority: authority(),
            settings: Arc::new(self.settings()),
            holds: Arc::new(Semaphore::new(8)),
            whole_disks: Arc::new(Semaphore::new(workflows::WHOLE_DISKS_AT_ONCE)),
        });
        let hook: Arc<dyn StepHook> = mortal.clone();
        let engine = Engine::new(
            store.clone(),
            self.env.clone(),
            services.clone(),
            workflows::all().into_iter().map(|d| d.hooked(&hook)).collect(),
            EngineConfig { max_running: 100, retry: RetryPolicy::QUICK },
        );
        mortal.steer(engine.clone());
        let agents = Agents {
            cloud: self.cloud.clone(),
            guests: self.guests.clone(),
            fleet,
            store: store.clone(),
            env: self.env.clone(),
            mortal: mortal.clone(),
        };
        let agents = tokio::spawn(agents.run(self.meddler.rows.subscribe()));
        // Its first writes may be its last.
        tokio::select! {
            biased;
            () = mortal.dead() => {}
            started = engine.start() => drop(started.unwrap()),
        }
        Life { store, engine, services, mortal, agents }
    }

    fn settings(&self) -> Settings {
        let settings = Settings {
            sampled_blocks: self.sampled_blocks,
            probe_login: self.probe_login.clone(),
            probe_address: self.probe_address,
            ..settings()
        };
        let Some(ssh) = &self.ssh else { return settings };
        let allowed_source = "127.0.0.1".into();
        Settings {
            drill_access: DrillAccess::PublicIp { allowed_source },
            ssh_port: ssh.port(),
            ..settings
        }
    }

    /// Puts `db` under a policy with an agent, and waits until the agent is there.
    pub(crate) async fn protect(&self, life: &Life, change: PolicyChange) -> Item {
        self.protect_vm(life, db(), change).await
    }

    /// The same for any machine.
    pub(crate) async fn protect_vm(&self, life: &Life, vm: ArmId, change: PolicyChange) -> Item {
        let item = self.protect_without_agent(life, vm, change).await;
        let now = self.env.clock.wall();
        let far = now.plus(Duration::from_secs(30 * 86_400));
        let scope = azdr_controller::store::CertificateScope::Vm;
        let serial = self.env.ids.hex(8);
        life.store.add_certificate(serial, item.id, scope, far, None, now).await.unwrap();
        azdr_env::sleep(Duration::from_secs(1)).await;
        item
    }

    /// Puts a machine under a policy.
    pub(crate) async fn protect_without_agent(
        &self,
        life: &Life,
        vm: ArmId,
        change: PolicyChange,
    ) -> Item {
        let region = Region::parse("eastus").unwrap();
        let policy = Policy::default().apply(&change, &region).unwrap();
        let now = self.env.clock.wall();
        let vm_guid = self.vm_guid(&vm).await;
        let item = life.store.ensure_vm(vm, "eastus".into(), Some(vm_guid), now).await.unwrap();
        life.store.set_policy(item.id, policy, "test".into(), now).await.unwrap();
        item
    }

    /// From now on agents behave like this; waits until they do.
    pub(crate) async fn agents_behave(&self, behaviour: Behaviour) {
        self.guests.behave(behaviour);
        azdr_env::sleep(Duration::from_secs(1)).await;
    }

    async fn vm_guid(&self, vm: &ArmId) -> String {
        let listing = self.cloud.listing().await;
        let all = listing["resources"].as_array().unwrap();
        let is_it = |r: &&Value| r["id"].as_str().unwrap().eq_ignore_ascii_case(vm.as_str());
        all.iter().find(is_it).unwrap()["vm_id"].as_str().unwrap().to_owned()
    }

    /// Runs to the end, follow-up runs included; nothing is meddled with.
    pub(crate) async fn run(&self, life: Life, run: NewRun) -> (Life, RunRow) {
        self.run_meddled(life, run, Plan::default(), None).await
    }

    /// Runs to the end, follow-up runs included, in as many lives as it takes; the last life is handed
    /// back. From the submission on, the run is meddled with, and so are requests to Azure.
    pub(crate) async fn run_meddled(
        &self,
        mut life: Life,
        run: NewRun,
        plan: Plan,
        spoil: Option<(usize, Spoil)>,
    ) -> (Life, RunRow) {
        let id = life.engine.submit(run).await.unwrap();
        self.meddler.arm(id, plan);
        self.cloud.count_from_here(spoil);
        loop {
            let over = async {
                let row = life.ended(id).await;
                if row.state != RunState::Stuck {
                    life.settle().await;
                }
                row
            };
            let ended = tokio::select! {
                biased;
                () = life.mortal.dead() => None,
                row = over => Some(row),
            };
            match ended {
                Some(row) => return (life, row),
                None => life = self.next(life).await,
            }
        }
    }

    /// The life after this one, in which unfinished runs go on.
    pub(crate) async fn next(&self, life: Life) -> Life {
        life.end().await;
        self.life().await
    }
}

/// On the paused clock: far more than any workflow here needs.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

impl Life {
    /// Waits until a run is over or stuck; one that does not end says where it stands.
    pub(crate) async fn ended(&self, id: RunId) -> RunRow {
        self.reaches(id, |state| state.is_terminal() || state == RunState::Stuck).await
    }

    /// Waits until a run is over, however often it gets stuck before.
    pub(crate) async fn over(&self, id: RunId) -> RunRow {
        self.reaches(id, RunState::is_terminal).await
    }

    async fn reaches(&self, id: RunId, end: impl Fn(RunState) -> bool) -> RunRow {
        let over = async {
            let mut changes = self.engine.subscribe();
            loop {
                let row = self.store.run(id).await.unwrap().unwrap();
                if end(row.state) {
                    return row;
                }
                changes.changed().await;
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

    /// Dead: nothing of this life may act any more.
    pub(crate) async fn end(self) {
        self.agents.abort();
        self.engine.drain(Duration::ZERO).await;
        self.mortal.bury();
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
        let mut changes = self.engine.subscribe();
        let quiet = async {
            loop {
                changes.mark_seen();
                let begun = self.store.unfinished_runs().await.unwrap();
                let queued = self.store.queued_runs(1000).await.unwrap();
                // One that waits for approval waits for itself, as long as nobody comes.
                let asks = |run: &RunRow| run.waiting_for_job == Some(run.id);
                if begun.is_empty() && queued.iter().all(asks) {
                    return;
                }
                changes.changed().await;
            }
        };
        tokio::select! {
            () = quiet => {}
            () = azdr_env::sleep(LIMIT) => {
                panic!("does not settle: {:#?}", self.store.unfinished_runs().await.unwrap());
            }
        }
    }
}

pub(crate) fn db() -> ArmId {
    vm("db")
}

pub(crate) fn vm(name: &str) -> ArmId {
    ArmId::virtual_machine(SUBSCRIPTION, "prod", name).unwrap()
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
        boot_limit: Duration::from_secs(180),
        copy_stall_limit: Duration::from_secs(60),
        keep_replaced: Duration::from_secs(7 * 86_400),
        deletion_limit: DeletionLimit { percent: 20, points: 5 },
        look_again: Duration::from_millis(250),
        sampled_blocks: Sampling::Blocks(0),
        read_for: Duration::from_secs(10),
        look_again_at_copy: Duration::from_millis(250),
    }
}
