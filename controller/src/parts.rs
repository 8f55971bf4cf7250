//! What a controller is made of, but for sockets and loops: put together in one way for the daemon, the
//! simulation and the tests.

use std::sync::Arc;

use azdr_arm::ArmClient;
use azdr_env::Env;
use azdr_identity::CertificateAuthority;
use tokio::sync::{Notify, Semaphore};

use crate::api::admin::{Admin, Confirmations, Inventory};
use crate::api::agent_service::{Agents, Presence};
use crate::fleet::Fleet;
use crate::reconcile::Reconciler;
use crate::reconcile::residue::Sweeper;
use crate::store::{Stamp, Store};
use crate::workflow::{Definition, Engine, EngineConfig};
use crate::workflows::{Catalogue, Services, Settings, WHOLE_DISKS_AT_ONCE};

/// What the parts are made from.
pub struct Given {
    /// The catalogue, open.
    pub store: Store,
    /// Clock and ids.
    pub env: Env,
    /// The client of Azure.
    pub azure: ArmClient,
    /// Issues and recognises certificates.
    pub authority: Arc<CertificateAuthority>,
    /// How this installation is set up.
    pub settings: Settings,
    /// Which cloud this is.
    pub stamp: Stamp,
    /// How many holds may be open at once.
    pub max_holds: usize,
    /// The engine's limits.
    pub engine: EngineConfig,
    /// All workflows, every version that may still be in a journal.
    pub definitions: Vec<Definition<Services>>,
    /// How silent agents are noticed.
    pub presence: Presence,
    /// host:port that agents are told for enrolment.
    pub enroll_address: String,
    /// host:port that agents are told for their sessions.
    pub agent_address: String,
}

/// The parts. Nothing runs before [`Engine::start`].
#[derive(Clone)]
pub struct Parts {
    /// Runs.
    pub engine: Engine<Services>,
    /// What workflows see.
    pub services: Arc<Services>,
    /// The loops that start runs.
    pub reconciler: Reconciler,
    /// Looks for what nobody wants any more.
    pub sweeper: Sweeper,
    /// Woken when a pin has changed.
    pub pins_changed: Arc<Notify>,
    /// What operators call.
    pub admin: Admin,
    /// What agents call.
    pub agents: Agents,
}

impl Given {
    /// Puts the parts together.
    pub fn assemble(self) -> Parts {
        let Self { store, env, azure, authority, .. } = self;
        let fleet = Fleet::new(env.clock.clone());
        let services = Arc::new(Services {
            azure,
            fleet: fleet.clone(),
            catalogue: Catalogue::new(store.clone()),
            authority: authority.clone(),
            settings: Arc::new(self.settings),
            holds: Arc::new(Semaphore::new(self.max_holds)),
            whole_disks: Arc::new(Semaphore::new(WHOLE_DISKS_AT_ONCE)),
        });
        let engine = Engine::new(
            store.clone(),
            env.clone(),
            services.clone(),
            self.definitions,
            self.engine,
        );
        let reconciler = Reconciler {
            store: store.clone(),
            engine: engine.clone(),
            services: services.clone(),
            env: env.clone(),
        };
        let sweeper = Sweeper::new(reconciler.clone());
        let pins_changed = Arc::new(Notify::new());
        let admin = Admin {
            store: store.clone(),
            engine: engine.clone(),
            fleet: fleet.clone(),
            services: services.clone(),
            env: env.clone(),
            authority: authority.clone(),
            inventory: Inventory::default(),
            confirmations: Confirmations::default(),
            pins_changed: pins_changed.clone(),
            sweeper: sweeper.clone(),
            stamp: self.stamp,
            enroll_address: self.enroll_address,
            agent_address: self.agent_address,
        };
        let agents = Agents { store, fleet, env, authority, presence: self.presence };
        Parts { engine, services, reconciler, sweeper, pins_changed, admin, agents }
    }
}
