//! What happens in a simulation, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use azdr_controller::store::{CertificateScope, RunState};
use azdr_env::WallTime;
use azdr_identity::{Identity, PeerCertificate, Serial};
use azure_sim::faults::{Action, Fault, Match};
use azure_sim::world::Snapshot;
use http::Method;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::checkers::{self, CatalogueIsTrue};
use crate::cloud::Weather;
use crate::dice::Dice;
use crate::doom::Moment;
use crate::event::Event;
use crate::kinds::Kind;
use crate::life::Life;
use crate::machines::Planted;
use crate::operators::Operators;
use crate::record::Violation;
use crate::strangers::Strangers;
use crate::trouble::Trouble;
use crate::world::{AWAY, HOME, World, ZONES, machine, vm_key};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// After the last day everything is mended, and runs have this long to end.
const SETTLE: Duration = Duration::from_secs(4 * 86_400);

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Simulated days.
    pub days: u32,
    /// Machines.
    pub vms: usize,
    /// Whether anything goes wrong at all.
    pub faults: bool,
    /// Whether operators issue random commands.
    pub operators: bool,
    /// Many more commands than usual.
    pub busy: bool,
    /// Whether somebody makes disks with the names of temporaries that are about to be made.
    pub squatters: bool,
    /// A mistake, to be noticed.
    pub planted: Planted,
    /// Keep every line of the trace.
    pub keep_whole: bool,
}

impl Plan {
    /// Everything goes wrong that can.
    pub fn new(seed: u64, days: u32, vms: usize) -> Self {
        let planted = Planted::Nothing;
        Self {
            seed,
            days,
            vms,
            faults: true,
            operators: true,
            busy: false,
            squatters: false,
            planted,
            keep_whole: false,
        }
    }
}

/// How a simulation went.
#[derive(Debug)]
pub struct Report {
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Hash over all events.
    pub trace: u64,
    /// How many events.
    pub events: u64,
    /// Runs by workflow and state.
    pub runs: BTreeMap<String, u64>,
    /// Lives of the controller.
    pub lives: u64,
    /// What went wrong, and how often.
    pub faults: BTreeMap<String, u64>,
    /// Every event, if they were kept.
    pub whole: Vec<String>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Command,
    /// A drill of some VM.
    Drill,
    /// A backup of this VM, while something else is going on with it.
    BackUp(usize),
    Crash,
    Storm,
    StormOver,
    Partition,
    PartitionOver,
    AgentCrash,
    RegionDown,
    RegionUp,
    StalledCopy,
    BrokenCopy,
    FailedOperation,
    Quota,
    QuotaRaised,
    CapacityGone,
    CapacityBack,
    Lock,
    LockGone,
    Stranger,
    Deletion,
    /// Strangers look for what jobs have just made.
    Watch,
    Renaming,
    ClockWrong,
    ClockRight,
    SecondController,
    Proofs,
    /// Compares what the catalogue says with what there is.
    Audit,
}

struct Scenario {
    plan: Plan,
    world: World,
    life: Option<Life>,
    lives: u64,
    dice: Dice,
    operators: Operators,
    strangers: Strangers,
    audit: CatalogueIsTrue,
    trouble: Trouble,
    turns: BTreeMap<(Duration, u64), Turn>,
    order: u64,
    partitioned: Vec<String>,
    locks: Vec<String>,
    began: azdr_env::Monotonic,
}

/// Runs one simulation. Must be called on a paused current-thread runtime, once per process.
///
/// # Errors
/// The simulation itself could not be set up or could not go on.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    if let Planted::Controller(mutation) = plan.planted {
        azdr_controller::mutation::plant(mutation);
    }
    let mut world = World::new(plan.seed, plan.vms, plan.planted, plan.keep_whole).await?;
    if !plan.faults {
        // Nobody leaves anything behind.
        world.sweep = DAY;
    }
    let life = Life::begin(&world, 1).await?;
    let dice = world.dice("scenario");
    let operators = Operators::new(&world, plan.vms);
    let began = world.truth.clock.monotonic();
    let mut scenario = Scenario {
        plan,
        life: Some(life),
        lives: 1,
        dice,
        operators,
        strangers: Strangers::new(&world, plan.vms),
        audit: CatalogueIsTrue::default(),
        trouble: Trouble::default(),
        turns: BTreeMap::new(),
        order: 0,
        partitioned: Vec::new(),
        locks: Vec::new(),
        began,
        world,
    };
    scenario.prepare().await?;
    scenario.play().await?;
    scenario.finish().await
}

impl Scenario {
    fn now(&self) -> Duration {
        self.world.truth.clock.monotonic().since(self.began)
    }

    fn life(&self) -> anyhow::Result<&Life> {
        self.life.as_ref().context("no controller lives")
    }

    /// Every VM gets an agent and a policy.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        let life = self.life()?;
        for n in 0..self.plan.vms {
            let (group, name) = machine(n);
            let key = vm_key(&group, &name);
            let look = |azure: &azure_sim::world::State| {
                let vm = azure.vms.get(&key)?;
                Some((vm.vm_id.clone(), vm.common.id.to_string()))
            };
            let found = self.world.cloud.simulator.look(|azure, _| look(azure));
            let (vm_id, arm_id) = found.with_context(|| format!("no VM {key}"))?;
            let now = self.world.env.clock.wall();
            let item = life
                .store
                .ensure_vm(arm_id.parse()?, HOME.to_owned(), Some(vm_id.clone()), now)
                .await?;
            let (certificate, der) = self.enrol(&item.arm_id, now)?;
            let (serial, until) = (certificate.serial.clone(), certificate.not_after);
            life.store
                .add_certificate(serial, item.id, CertificateScope::Vm, until, None, now)
                .await?;
            self.world.cloud.machines.enrol(&vm_id, &der);
            self.world.cloud.machines.crash_agent(&vm_id);
        }
        azdr_env::sleep(MINUTE).await;
        let life = self.life.as_ref().context("no controller lives")?;
        self.operators.protect_all(&self.world, life).await?;
        Ok(())
    }

    fn enrol(
        &self,
        vm: &azdr_domain::arm_id::ArmId,
        now: WallTime,
    ) -> anyhow::Result<(PeerCertificate, Vec<u8>)> {
        let (issued, _) = self.world.authority.issue_with_new_key(
            &Identity::agent(&vm.hash_hex())?,
            now.minus(HOUR),
            now.plus(30 * DAY),
            Serial::random(&*self.world.env.ids),
        )?;
        Ok((PeerCertificate::from_der(&issued.cert_der, now)?, issued.cert_der))
    }

    fn at(&mut self, after: Duration, turn: Turn) {
        self.order += 1;
        self.turns.insert((self.now() + after, self.order), turn);
    }

    fn again(&mut self, mean: Duration, turn: Turn) {
        let after = self.dice.next(mean);
        self.at(after, turn);
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        if self.plan.operators {
            self.again(self.commands_every(), Turn::Command);
        }
        self.again(DAY, Turn::Proofs);
        self.at(AUDIT, Turn::Audit);
        if self.plan.faults {
            self.disturb("the weather is as usual");
            self.world.cloud.machines.set_shaky(true);
            self.world.cloud.set_weather(self.usual_weather());
            self.at(WATCH, Turn::Watch);
            for (turn, mean) in MEANS {
                self.again(*mean, *turn);
            }
        }
        let end = self.plan.days * DAY;
        while let Some((&(at, order), &turn)) = self.turns.iter().next() {
            if at >= end {
                break;
            }
            self.turns.remove(&(at, order));
            azdr_env::sleep(at.saturating_sub(self.now())).await;
            self.turn(turn).await?;
        }
        azdr_env::sleep(end.saturating_sub(self.now())).await;
        Ok(())
    }

    fn commands_every(&self) -> Duration {
        if self.plan.busy { 10 * MINUTE } else { 3 * HOUR }
    }

    fn usual_weather(&self) -> Weather {
        Weather {
            lost_before: 700,
            lost_after: 700,
            delay: Duration::from_secs(4),
            twice: 2_000,
            failing: 900,
            throttled: 0,
        }
    }

    fn disturb(&self, what: impl Into<String>) {
        self.world.cloud.tell(&Event::Disturbance(what.into()));
    }

    async fn turn(&mut self, turn: Turn) -> anyhow::Result<()> {
        if let Some((_, mean)) = MEANS.iter().find(|(t, _)| *t == turn) {
            self.again(*mean, turn);
        }
        match turn {
            Turn::Command => {
                self.again(self.commands_every(), Turn::Command);
                self.command().await;
                if let Some(n) = self.operators.in_between.take() {
                    let soon = self.dice.between(Duration::ZERO, MINUTE);
                    self.at(soon, Turn::BackUp(n));
                }
            }
            Turn::Proofs => {
                self.again(DAY, Turn::Proofs);
                if let Some(life) = &self.life {
                    self.operators.prove_something(&self.world, life).await;
                }
            }
            Turn::Audit => {
                self.at(AUDIT, Turn::Audit);
                self.audit(false).await;
            }
            Turn::Drill => {
                if let Some(life) = &self.life {
                    self.operators.try_a_drill(&self.world, life).await;
                }
            }
            Turn::BackUp(n) => {
                if let Some(life) = &self.life {
                    self.operators.back_up(&self.world, life, n).await;
                }
            }
            Turn::Crash => self.crash().await?,
            Turn::SecondController => {
                if self.life.is_some() {
                    self.world.record.count(Kind::SecondController, 1);
                    if let Err(what) = checkers::another_controller_is_refused(&self.world) {
                        self.violated("I11", what);
                    }
                }
            }
            Turn::Storm => {
                self.disturb("a storm of 429s begins");
                let storm = Weather { throttled: 3, ..self.usual_weather() };
                self.world.cloud.set_weather(storm);
                let long = self.dice.between(MINUTE, 20 * MINUTE);
                self.at(long, Turn::StormOver);
            }
            Turn::StormOver => self.world.cloud.set_weather(self.usual_weather()),
            Turn::Partition => {
                let running = self.world.cloud.machines.running();
                if let Some(vm_id) = self.dice.pick(&running).cloned() {
                    self.disturb(format!("machine {vm_id} is cut off"));
                    self.world.cloud.machines.partition(&vm_id, true);
                    self.world.record.count(Kind::Partition, 1);
                    self.partitioned.push(vm_id);
                    let long = self.dice.between(Duration::from_secs(1), 30 * MINUTE);
                    self.at(long, Turn::PartitionOver);
                }
            }
            Turn::PartitionOver => {
                if !self.partitioned.is_empty() {
                    let vm_id = self.partitioned.remove(0);
                    self.world.cloud.machines.partition(&vm_id, false);
                }
            }
            Turn::AgentCrash => {
                let running = self.world.cloud.machines.running();
                if let Some(vm_id) = self.dice.pick(&running) {
                    self.world.cloud.machines.crash_agent(vm_id);
                    self.world.record.count(Kind::AgentCrash, 1);
                }
            }
            Turn::RegionDown => {
                let region = if self.dice.one_in(2) { HOME } else { AWAY };
                self.disturb(format!("{region} is down"));
                self.last(None, Action::RegionDown { region: region.into() }).await;
                let long = self.dice.between(10 * MINUTE, 5 * HOUR);
                self.at(long, Turn::RegionUp);
            }
            Turn::RegionUp => self.no_more(|a| matches!(a, Action::RegionDown { .. })).await,
            Turn::CapacityGone => {
                let region = if self.dice.one_in(2) { HOME } else { AWAY };
                self.disturb(format!("no capacity in {region}"));
                self.last(None, Action::CapacityGone { region: region.into() }).await;
                // A region in trouble is when people try their drills.
                for _ in 0..3 {
                    let soon = self.dice.between(Duration::ZERO, 10 * MINUTE);
                    self.at(soon, Turn::Drill);
                }
                let long = self.dice.between(10 * MINUTE, 5 * HOUR);
                self.at(long, Turn::CapacityBack);
            }
            Turn::CapacityBack => self.no_more(|a| matches!(a, Action::CapacityGone { .. })).await,
            Turn::StalledCopy => {
                self.disturb("a copy will stall");
                let action = Action::StallCopyAtPercent(40.0);
                self.spoil(Kind::StalledCopy, a_copy(&self.dice), action).await;
            }
            Turn::BrokenCopy => {
                self.disturb("a copy will break");
                let action = Action::FailCopyAtPercent {
                    percent: self.dice.below(100) as f64,
                    code: "CopySourceNotFound".into(),
                    message: "The source of the copy was not found.".into(),
                };
                self.spoil(Kind::BrokenCopy, a_copy(&self.dice), action).await;
            }
            Turn::FailedOperation => {
                self.disturb("an operation will fail");
                let matching = Match {
                    method: Some(if self.dice.one_in(2) { "PUT" } else { "POST" }.into()),
                    nth: Some(1 + self.dice.below(20)),
                    ..Match::default()
                };
                let action = Action::FailOperation {
                    code: "InternalExecutionError".into(),
                    message: "An internal execution error occurred.".into(),
                };
                self.spoil(Kind::OperationFailed, matching, action).await;
            }
            Turn::Quota => self.use_up_a_quota().await,
            Turn::QuotaRaised => {
                self.no_more(|a| matches!(a, Action::Status { status: 409, .. })).await;
            }
            Turn::Lock => self.lock().await,
            Turn::LockGone => self.unlock().await,
            Turn::Stranger => self.strangers.touch_power(&self.world).await,
            Turn::Deletion => self.strangers.delete(&self.world).await,
            Turn::Watch => {
                self.at(WATCH, Turn::Watch);
                self.strangers.watch(&self.world).await;
                if self.plan.squatters {
                    self.strangers.take_names(&self.world).await;
                }
            }
            Turn::Renaming => self.strangers.rename(&self.world, &mut self.trouble).await,
            Turn::ClockWrong => {
                let ms = 3_600_000 - self.dice.below(7_200_000) as i64;
                self.world.record.count(Kind::ClockWrong, 1);
                self.set_clock(ms);
                let long = self.dice.between(MINUTE, 6 * HOUR);
                self.at(long, Turn::ClockRight);
            }
            Turn::ClockRight => self.set_clock(0),
        }
        Ok(())
    }

    fn set_clock(&self, offset_ms: i64) {
        self.world.clock.set_offset_ms(offset_ms);
        self.world.cloud.tell(&Event::ClockSet(offset_ms));
    }

    /// A quota is used up for some hours: of machines, of disks, or of a disk's snapshots.
    async fn use_up_a_quota(&mut self) {
        let (kind, code, message) = match self.dice.below(3) {
            0 => (
                "Microsoft.Compute/virtualMachines",
                "OperationNotAllowed",
                "Operation could not be completed as it results in exceeding approved Total \
                 Regional Cores quota.",
            ),
            1 => (
                "Microsoft.Compute/disks",
                "QuotaExceeded",
                "The quota of disks of this subscription is exceeded.",
            ),
            _ => (
                "Microsoft.Compute/snapshots",
                "OperationNotAllowed",
                "The maximum number of incremental snapshots of a disk, 500, has been reached.",
            ),
        };
        self.disturb(format!("the quota of {kind} is used up"));
        let matching = Match {
            method: Some("PUT".into()),
            resource_type: Some(kind.into()),
            count: Some(u64::from(u32::MAX)),
            ..Match::default()
        };
        let message = Some(message.to_owned());
        let action = Action::Status { status: 409, code: code.into(), message, retry_after: None };
        self.spoil(Kind::Quota, matching, action).await;
        let long = self.dice.between(10 * MINUTE, 8 * HOUR);
        self.at(long, Turn::QuotaRaised);
    }

    async fn command(&mut self) {
        let Some(life) = &self.life else { return };
        self.operators.command(&self.world, life).await;
    }

    /// The controller is killed, mostly while it is busy, and another one starts.
    async fn crash(&mut self) -> anyhow::Result<()> {
        if let Some(life) = &self.life {
            match self.dice.below(8) {
                0 => self.world.record.count(Kind::Crash, 1),
                // Into the middle of some run.
                1 | 2 => {
                    let mut changes = life.engine.subscribe();
                    tokio::select! {
                        biased;
                        () = changes.changed() => {}
                        () = azdr_env::sleep(6 * HOUR) => {}
                    }
                    azdr_env::sleep(self.dice.between(Duration::ZERO, MINUTE / 2)).await;
                    self.world.record.count(Kind::Crash, 1);
                }
                // Exactly at a request or a commit.
                _ => {
                    let n = self.dice.below(Moment::ALL.len() as u64) as usize;
                    let (moment, kind) = Moment::ALL[n];
                    life.doom.arm(moment, self.dice.below(60));
                    tokio::select! {
                        biased;
                        () = life.doom.struck() => self.world.record.count(kind, 1),
                        () = azdr_env::sleep(6 * HOUR) => {
                            self.world.record.count(Kind::Crash, 1);
                        }
                    }
                }
            }
        }
        if let Some(life) = self.life.take() {
            life.kill(&self.world);
        }
        azdr_env::sleep(self.dice.between(Duration::from_secs(1), 10 * MINUTE)).await;
        self.world.record.count(Kind::OtherStamp, 1);
        if let Err(what) = checkers::another_cloud_is_refused(&self.world).await {
            self.violated("I11", what);
        }
        self.begin_life().await
    }

    /// Compares what the catalogue says with what there is.
    async fn audit(&mut self, at_once: bool) {
        let Some(life) = &self.life else { return };
        if let Err(what) = self.audit.look(&self.world, life, at_once).await {
            self.violated("catalogue", what);
        }
    }

    async fn begin_life(&mut self) -> anyhow::Result<()> {
        self.lives += 1;
        let life = Life::begin(&self.world, self.lives).await?;
        let now = self.world.env.clock.wall();
        for what in self.operators.promises.broken(&life, now).await {
            self.violated("I9", what);
        }
        self.life = Some(life);
        Ok(())
    }

    fn violated(&self, invariant: &'static str, what: String) {
        self.world.record.violated(invariant, self.world.truth.clock.wall(), what);
    }

    async fn last(&mut self, kind: Option<Kind>, action: Action) {
        self.trouble
            .add(&self.world.cloud, kind, Fault { matching: Match::default(), action })
            .await;
    }

    async fn spoil(&mut self, kind: Kind, matching: Match, action: Action) {
        self.trouble.add(&self.world.cloud, Some(kind), Fault { matching, action }).await;
    }

    async fn no_more(&mut self, which: impl Fn(&Action) -> bool) {
        self.trouble.end(&self.world.cloud, which).await;
    }

    /// Somebody puts a management lock on a resource of ours.
    async fn lock(&mut self) {
        let mut all: Vec<_> = self.world.cloud.simulator.look(|azure, _| {
            let daily =
                |s: &Snapshot| s.common.tags.get("azdr:tiers").is_some_and(|t| t == "daily");
            let sorted = |s: &Snapshot| (!daily(s), s.common.created);
            azure.snapshots.iter().map(|(key, s)| (sorted(s), key.clone())).collect()
        });
        all.sort();
        // Those that will be deleted before it goes again are the oldest daily ones.
        let few = 1 + all.len() / 10;
        let all = if self.dice.one_in(2) { &all[..few.min(all.len())] } else { &all[..] };
        let Some((_, key)) = self.dice.pick(all).cloned() else { return };
        self.disturb(format!("a lock on {key}"));
        let lock =
            format!("{key}/providers/Microsoft.Authorization/locks/keep?api-version=2020-05-01");
        let body = json!({"properties": {"level": "CanNotDelete"}});
        self.world.cloud.by_somebody_else(Method::PUT, &lock, &body).await;
        self.locks.push(lock);
        let long = self.dice.between(HOUR, 2 * DAY);
        self.at(long, Turn::LockGone);
    }

    async fn unlock(&mut self) {
        if self.locks.is_empty() {
            return;
        }
        let lock = self.locks.remove(0);
        let status = self.world.cloud.by_somebody_else(Method::DELETE, &lock, &Value::Null).await;
        if !matches!(status, 200..300 | 404) {
            // Their request meets the same trouble as ours.
            self.locks.push(lock);
            self.at(HOUR, Turn::LockGone);
        }
    }

    /// Everything is mended; what is open ends; the last look.
    async fn finish(mut self) -> anyhow::Result<Report> {
        self.world.cloud.set_weather(Weather::default());
        self.world.cloud.machines.set_shaky(false);
        self.trouble.end_all(&self.world.cloud).await;
        self.set_clock(0);
        while !self.locks.is_empty() {
            self.unlock().await;
        }
        for vm_id in std::mem::take(&mut self.partitioned) {
            self.world.cloud.machines.partition(&vm_id, false);
        }
        self.disturb("everything is mended");
        if self.life.is_none() {
            self.begin_life().await?;
        }
        // At least one sweep sees the mended world.
        azdr_env::sleep(self.world.sweep + HOUR).await;
        self.audit(true).await;
        self.settle().await?;
        self.count_changes_of_zones();
        let life = self.life.take().context("no controller lives")?;
        let now = self.world.env.clock.wall();
        for what in self.operators.promises.broken(&life, now).await {
            self.violated("I9", what);
        }
        for (vm_id, since) in self.world.cloud.machines.frozen() {
            if self.world.truth.clock.wall().since(since) > MINUTE {
                self.violated("I3", format!("machine {vm_id} is frozen since {since} at the end"));
            }
        }
        self.look_at_contents();
        let mut runs = BTreeMap::new();
        for (workflow, state, count) in life.store.run_counts().await? {
            *runs.entry(format!("{workflow} {state}")).or_default() += count;
        }
        life.kill(&self.world);
        let (trace, events) = self.world.record.trace();
        Ok(Report {
            violations: self.world.record.violations(),
            trace,
            events,
            runs,
            lives: self.lives,
            faults: self.world.record.tally().by_name(),
            whole: self.world.record.whole(),
        })
    }

    /// How many of the zones' offsets have changed since the beginning.
    fn count_changes_of_zones(&self) {
        let end = self.world.truth.clock.wall();
        let began = end.minus(self.now());
        for zone in ZONES.iter().filter_map(|name| TimeZone::get(name).ok()) {
            let changes = zone.following(began.timestamp());
            let changes = changes.take_while(|c| c.timestamp() <= end.timestamp()).count();
            self.world.record.count(Kind::DstChange, changes as u64);
        }
    }

    async fn settle(&mut self) -> anyhow::Result<()> {
        let until = self.now() + SETTLE;
        while self.now() < until {
            let life = self.life()?;
            let open = life.store.unfinished_runs().await?;
            if open.is_empty() && life.store.queued_runs(10).await?.is_empty() {
                return Ok(());
            }
            azdr_env::sleep(10 * MINUTE).await;
        }
        let life = self.life()?;
        let mut open = life.store.unfinished_runs().await?;
        open.extend(life.store.queued_runs(10).await?);
        for row in open {
            let words = format!(
                "job {} ({}) is {} long after everything was mended: {:?} {:?}",
                row.id,
                row.workflow,
                row.state.as_str(),
                row.error,
                row.waiting_for
            );
            debug_assert!(row.state != RunState::Succeeded);
            self.violated("I5", words);
        }
        Ok(())
    }

    /// Points that say to be of one instant must hold what a program wrote up to one instant.
    fn look_at_contents(&self) {
        let machines = &self.world.cloud.machines;
        type Sets = BTreeMap<(String, String, String), Vec<String>>;
        let sets: Sets = self.world.cloud.simulator.look(|azure, _| {
            let mut sets = Sets::new();
            for (_, snapshot) in azure.snapshots.iter() {
                let tag = |name: &str| snapshot.common.tags.get(name).cloned();
                let consistency = tag("azdr:consistency").unwrap_or_default();
                if let (Some(point), Some(vm)) = (tag("azdr:point"), tag("azdr:vm-0"))
                    && consistency == "filesystem"
                {
                    let place = snapshot.common.location.clone();
                    let vm = vm.to_lowercase();
                    let vm_id = azure.vms.get(&vm).map(|vm| vm.vm_id.as_str());
                    if machines.was_torn_before(vm_id, &point) {
                        continue;
                    }
                    let id = snapshot.volume.unique_id.clone();
                    sets.entry((vm, point, place)).or_default().push(id);
                }
            }
            sets
        });
        for ((vm, point, place), keys) in sets {
            if self.strangers.have_broken(&vm, &point, &place) {
                continue;
            }
            if let Err(torn) = self.world.cloud.machines.of_one_instant(&keys) {
                self.violated("I4", format!("{point} of {vm} in {place} is torn: {torn}"));
            }
        }
    }
}

/// How often the catalogue is compared with Azure.
const AUDIT: Duration = Duration::from_secs(12 * 3600);

/// How often strangers look for what jobs have just made: a verification takes a few minutes.
const WATCH: Duration = Duration::from_secs(3 * 60);

/// One of the next copies to another region.
fn a_copy(dice: &Dice) -> Match {
    Match {
        method: Some("PUT".into()),
        resource_type: Some("Microsoft.Compute/snapshots".into()),
        path_contains: Some(format!("azdr-{AWAY}")),
        nth: Some(1 + dice.below(6)),
        ..Match::default()
    }
}

/// How often what goes wrong, on average.
const MEANS: &[(Turn, Duration)] = &[
    (Turn::Crash, Duration::from_secs(2 * 86_400)),
    (Turn::Storm, Duration::from_secs(4 * 86_400)),
    (Turn::Partition, Duration::from_secs(6 * 3600)),
    (Turn::AgentCrash, Duration::from_secs(4 * 3600)),
    (Turn::RegionDown, Duration::from_secs(10 * 86_400)),
    (Turn::CapacityGone, Duration::from_secs(8 * 86_400)),
    (Turn::StalledCopy, Duration::from_secs(3 * 86_400)),
    (Turn::BrokenCopy, Duration::from_secs(3 * 86_400)),
    (Turn::FailedOperation, Duration::from_secs(86_400)),
    (Turn::Quota, Duration::from_secs(6 * 86_400)),
    (Turn::Lock, Duration::from_secs(5 * 86_400)),
    (Turn::Stranger, Duration::from_secs(2 * 86_400)),
    (Turn::Deletion, Duration::from_secs(36 * 3600)),
    (Turn::Renaming, Duration::from_secs(5 * 86_400)),
    (Turn::ClockWrong, Duration::from_secs(6 * 86_400)),
    (Turn::SecondController, Duration::from_secs(7 * 86_400)),
];
