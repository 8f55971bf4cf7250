//! What outlives every life of the controller: Azure, the machines, the files, the clocks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use azdr_controller::store::{Executor, Store};
use azdr_env::{Env, SeededIds};
use azdr_identity::CertificateAuthority;
use azure_sim::guests::simulated::{BOOTABLE, SimulatedGuests};
use azure_sim::seed::WorldDescription;
use serde_json::{Value, json};

use crate::clock::{self, WrongClock};
use crate::cloud::Cloud;
use crate::dice::Dice;
use crate::life::Known;
use crate::machines::{Machines, Planted};
use crate::record::Record;

/// The only subscription.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
/// Its tenant.
pub const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";
/// Where machines run.
pub const HOME: &str = "eastus";
/// Where copies go.
pub const AWAY: &str = "westus2";

/// The zones of policies: with daylight saving by an hour, by half an hour, without, and on the other
/// side of the date line.
pub const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "UTC",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
];

/// Zone and time of the `n`th machine's policy: many in the hours that do not exist or come twice.
pub fn schedule(n: usize) -> (&'static str, String) {
    let time = match n % 3 {
        0 => "02:30".to_owned(),
        1 => "01:30".to_owned(),
        _ => format!("{:02}:{:02}", n % 24, (n * 7) % 60),
    };
    (ZONES[n % ZONES.len()], time)
}

/// What outlives every life of the controller.
pub struct World {
    /// Of the simulation.
    pub seed: u64,
    /// True time; ids of Azure and the machines.
    pub truth: Env,
    /// The controller's clock and ids.
    pub env: Env,
    /// The controller's clock, to be set wrong.
    pub clock: Arc<WrongClock>,
    /// Azure.
    pub cloud: Arc<Cloud>,
    /// The controller's authority.
    pub authority: Arc<CertificateAuthority>,
    /// The trace and the checkers.
    pub record: Arc<Record>,
    /// The state in which each run was last seen.
    pub known: Known,
    /// The controller's data directory is in here.
    pub dir: tempfile::TempDir,
    /// What the controller's database is opened by. SQLite keeps it in memory: what a transaction has
    /// committed is there for the next life, without the work of a file.
    pub database: PathBuf,
    /// How often the controller looks for residue: each time everything in Azure is listed.
    pub sweep: Duration,
    /// Nobody's: the database is there as long as somebody has it open.
    _open: Store,
}

/// Resource group and name of the `n`th machine: every fourth has a namesake in another group.
pub fn machine(n: usize) -> (String, String) {
    match n % 4 {
        3 => ("twins".into(), format!("vm{}", n - 1)),
        _ => ("prod".into(), format!("vm{n}")),
    }
}

/// Key of a VM.
pub fn vm_key(group: &str, name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourcegroups/{group}/providers/microsoft.compute/\
         virtualmachines/{name}"
    )
    .to_lowercase()
}

fn description(vms: usize) -> WorldDescription {
    let vm = |n: usize| {
        let (group, name) = machine(n);
        let disk = |suffix: &str| format!("{name}-{suffix}");
        let data: Vec<Value> = (0..n % 3)
            .map(|lun| {
                let name = disk(&format!("data{lun}"));
                json!({"lun": lun, "name": name, "size_gb": 1, "files": {}})
            })
            .collect();
        json!({
            "name": name, "resource_group": group, "location": HOME,
            "size": "Standard_D2s_v3", "public_ip": false, "running": true,
            "os_disk": {"name": disk("os"), "size_gb": 1, "files": {BOOTABLE: "#!"}},
            "data_disks": data,
        })
    };
    let world = json!({
        "subscription": SUBSCRIPTION, "tenant": TENANT,
        "client_id": "client", "client_secret": "secret", "regions": [HOME, AWAY],
        "resource_groups": [
            {"name": "prod", "location": HOME}, {"name": "twins", "location": HOME},
        ],
        "vms": (0..vms).map(vm).collect::<Vec<_>>(),
    });
    serde_json::from_value(world).expect("a description of ours")
}

impl World {
    /// A new world. Must be called inside a paused tokio runtime.
    ///
    /// # Errors
    /// No directory could be made.
    pub async fn new(
        seed: u64,
        vms: usize,
        planted: Planted,
        keep_whole: bool,
    ) -> anyhow::Result<Self> {
        // Memory, where there is such a place: nothing here is about disks.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::Builder::new().prefix("azdr-simulation-").tempdir_in(memory)?
        } else {
            tempfile::tempdir()?
        };
        let beginning = clock::beginning(&Dice::new(seed, "beginning"));
        let truth = Env {
            clock: Arc::new(WrongClock::right(beginning)),
            ids: Arc::new(SeededIds::new(seed ^ 0x00a2_b1c3)),
        };
        let clock = Arc::new(WrongClock::right(beginning));
        let env = Env { clock: clock.clone(), ids: Arc::new(SeededIds::new(seed)) };
        let record = Arc::new(Record::new(keep_whole));
        let machines =
            Machines::new(SimulatedGuests::new(truth.clone()), truth.clone(), seed, planted);
        let cloud =
            Cloud::open(dir.path(), &description(vms), &truth, machines, record.clone(), seed)?;
        let authority = Arc::new(CertificateAuthority::generate(&env)?);
        let database = dir.path().join("azdr.db");
        let database = PathBuf::from(format!("file:{}?vfs=memdb", database.display()));
        let world = Self {
            sweep: Duration::from_secs(12 * 3600),
            _open: Store::open(&database, Executor::Inline)?,
            database,
            seed,
            truth,
            env,
            clock,
            cloud,
            authority,
            record,
            known: Known::default(),
            dir,
        };
        world.cloud.simulator.start().await;
        // The machines of the description boot.
        azdr_env::sleep(Duration::from_secs(60)).await;
        Ok(world)
    }

    /// Dice for one purpose.
    pub fn dice(&self, purpose: &str) -> Dice {
        Dice::new(self.seed, purpose)
    }
}
