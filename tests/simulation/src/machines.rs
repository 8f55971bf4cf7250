//! The machines that run in Azure, their thaw processes, and the agents on them.
//!
//! azure-sim's simulated guests are the machines: their disks hold files and a program that keeps an
//! order across disks. They say when a machine comes up and goes down; an agent is one task per machine
//! whose OS disk carries an identity. What an agent says goes in below TLS and HTTP/2, at the
//! protobuf messages of [`Agents::enter`]. Agents do not send idle heartbeats: presence is an event.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use azdr_agent::witness::{self, Moment, Place};
use azdr_controller::api::agent_service::{Agents, Door};
use azdr_controller::mutation::Mutation;
use azdr_env::{Env, WallTime};
use azdr_identity::PeerCertificate;
use azdr_proto::agent::agent_message::Body as Say;
use azdr_proto::agent::controller_message::Body as Told;
use azdr_proto::agent::{
    AgentMessage, ControllerMessage, Disk, DiskKind, FactState, FileSystemReport, FileSystemState,
    FileSystemWindow, Freeze, FreezeOutcome, FreezeReply, HealthFact, HealthReport, Hello,
    PreflightReport, RenewCertificate, SessionMode, ThawCause, ThawReply, Witness,
};
use azure_sim::guests::simulated::{Consistency, PowerEvent, SimulatedGuests};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use crate::cloud::Cloud;
use crate::dice::Dice;
use crate::event::Event;
use crate::kinds::Kind;

type Outlet = mpsc::UnboundedSender<Result<AgentMessage, Status>>;

/// What is wrong on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// I3: the thaw process has no limits of its own, and does not always hear.
    ThawForgotten,
    /// I12: every request is repeated many times.
    Chatty,
    /// A mistake of the controller.
    Controller(Mutation),
}

impl Planted {
    /// Every mistake that there is, by name.
    pub const ALL: [(&'static str, Self); 21] = [
        ("prune-ignores-policy", Self::Controller(Mutation::PruneIgnoresPolicy)),
        ("prune-ignores-leases", Self::Controller(Mutation::PruneIgnoresLeases)),
        ("prune-forgets-lineage", Self::Controller(Mutation::PruneForgetsLineage)),
        ("thaw-forgotten", Self::ThawForgotten),
        ("consistency-claimed", Self::Controller(Mutation::ConsistencyClaimed)),
        ("clean-up-forgotten", Self::Controller(Mutation::CleanUpForgotten)),
        ("restore-deletes-disks", Self::Controller(Mutation::RestoreDeletesDisks)),
        ("names-vary", Self::Controller(Mutation::NamesVary)),
        ("clone-is-asked", Self::Controller(Mutation::CloneIsAsked)),
        ("answer-before-commit", Self::Controller(Mutation::AnswerBeforeCommit)),
        ("two-truths", Self::Controller(Mutation::TwoTruths)),
        ("second-controller", Self::Controller(Mutation::SecondControllerAllowed)),
        ("stamp-ignored", Self::Controller(Mutation::StampIgnored)),
        ("schedule-forgets", Self::Controller(Mutation::ScheduleForgets)),
        ("gone-backed-up", Self::Controller(Mutation::GoneBackedUp)),
        ("zone-ignored", Self::Controller(Mutation::ZoneIgnored)),
        ("missing-unnoticed", Self::Controller(Mutation::MissingUnnoticed)),
        ("prune-ignores-pins", Self::Controller(Mutation::PruneIgnoresPins)),
        ("undo-ignores-tag", Self::Controller(Mutation::UndoIgnoresTag)),
        ("alerts-forgotten", Self::Controller(Mutation::AlertsForgotten)),
        ("chatty", Self::Chatty),
    ];
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, planted)| *planted).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("no such mistake; there are: {}", names.join(", "))
        })
    }
}

/// Where an agent keeps the vmId that it was enrolled on, and its certificate.
const IDENTITY: &str = "/etc/azdr/identity";
/// A file that stands for the head of a file system: a copy of the disk has it, too.
const FILE_SYSTEM_UUID: &str = ".file-system-uuid";

/// All running machines.
pub struct Machines {
    /// What they really are.
    pub guests: SimulatedGuests,
    env: Env,
    dice: Dice,
    planted: Planted,
    cloud: OnceLock<Weak<Cloud>>,
    shaky: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Who answers now.
    controller: Option<Agents>,
    running: BTreeMap<String, Machine>,
    /// Recovery points of machines whose disks did not belong together already: restored from a point
    /// that never said they do. By vmId and name.
    torn_before: BTreeSet<(String, String)>,
}

/// A running machine.
struct Machine {
    /// Where its disks are mounted, the OS disk first.
    mounts: Vec<String>,
    boot_id: String,
    up_since: WallTime,
    /// Ticks when a controller begins or ends.
    controller_changed: watch::Sender<u64>,
    /// Cut off from the controller.
    partitioned: watch::Sender<bool>,
    hold: Option<Hold>,
    /// The last hold's end, for a repeated question.
    last: Option<ThawReply>,
    /// To the controller, while a session is open.
    outlet: Option<Outlet>,
    agent: Option<AbortHandle>,
}

/// A freeze, from its request to its end.
struct Hold {
    operation: String,
    /// `None`: still getting ready.
    frozen_at: Option<WallTime>,
    lease: Duration,
    limit: Duration,
    renewed_at: WallTime,
    /// Tells the thaw process that something has changed.
    changed: watch::Sender<u64>,
}

impl Machines {
    /// Follows these guests. Must be called inside a tokio runtime.
    pub fn new(guests: SimulatedGuests, env: Env, seed: u64, planted: Planted) -> Arc<Self> {
        let machines = Arc::new(Self {
            dice: Dice::new(seed, "machines"),
            env,
            planted,
            cloud: OnceLock::new(),
            shaky: AtomicBool::new(false),
            inner: Mutex::default(),
            guests,
        });
        let mut events = machines.guests.power_events();
        let follower = Arc::downgrade(&machines);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(machines) = follower.upgrade() else { return };
                match event {
                    PowerEvent::Up(view) => machines.up(&view.vm_id),
                    PowerEvent::Down { vm_id, .. } => machines.down(&vm_id),
                }
            }
        });
        machines
    }

    /// The mistake that is made on purpose.
    pub fn planted(&self) -> Planted {
        self.planted
    }

    /// The cloud that they run in.
    pub fn connect(self: &Arc<Self>, cloud: &Arc<Cloud>) {
        let _ = self.cloud.set(Arc::downgrade(cloud));
    }

    /// From now on this controller answers, or none.
    pub fn controller_is(&self, agents: Option<Agents>) {
        let mut inner = self.lock();
        inner.controller = agents;
        // One after the other, in a fixed order.
        for machine in inner.running.values() {
            machine.controller_changed.send_modify(|n| *n += 1);
        }
    }

    /// Installs an agent's identity on a machine.
    pub fn enrol(&self, vm_id: &str, certificate_der: &[u8]) {
        let mut file = format!("{vm_id}\n").into_bytes();
        file.extend_from_slice(certificate_der);
        // A machine that is frozen or off keeps what it has.
        let _ = self.guests.write_file(vm_id, IDENTITY, Bytes::from(file));
    }

    fn identity(&self, vm_id: &str) -> Option<(String, PeerCertificate)> {
        let file = self.guests.read_file(vm_id, IDENTITY).ok()??;
        let end = file.iter().position(|b| *b == b'\n')?;
        let enrolled = String::from_utf8(file.get(..end)?.to_vec()).ok()?;
        let certificate = PeerCertificate::from_der(file.get(end + 1..)?, self.env.clock.wall());
        Some((enrolled, certificate.ok()?))
    }

    /// Whether these disks or snapshots can be of one instant.
    ///
    /// # Errors
    /// How they are torn.
    pub fn of_one_instant(&self, unique_ids: &[String]) -> Result<(), String> {
        match self.guests.check(unique_ids.iter().map(String::as_str)) {
            Consistency::Torn { why } => Err(why),
            _ => Ok(()),
        }
    }

    /// Whether the machine's disks did not belong together before this point was taken of it. `None`: a
    /// machine that is gone, of which only the point's name is known.
    pub fn was_torn_before(&self, vm_id: Option<&str>, point: &str) -> bool {
        let is_it = |id: &String| vm_id.is_none_or(|vm_id| vm_id == id);
        self.lock().torn_before.iter().any(|(id, of)| of == point && is_it(id))
    }

    /// vmIds of all running machines.
    pub fn running(&self) -> Vec<String> {
        self.lock().running.keys().cloned().collect()
    }

    /// Machines that are frozen now, and since when.
    pub fn frozen(&self) -> Vec<(String, WallTime)> {
        let inner = self.lock();
        let frozen = |(id, m): (&String, &Machine)| Some((id.clone(), m.hold.as_ref()?.frozen_at?));
        inner.running.iter().filter_map(frozen).collect()
    }

    /// Cuts a machine off from the controller, or joins it again.
    pub fn partition(&self, vm_id: &str, cut: bool) {
        if let Some(machine) = self.lock().running.get(vm_id) {
            machine.partitioned.send_replace(cut);
        }
    }

    /// The agent's process dies and is started again; its thaw process thaws.
    pub fn crash_agent(self: &Arc<Self>, vm_id: &str) {
        if let Some(machine) = self.lock().running.get_mut(vm_id) {
            machine.outlet = None;
            if let Some(agent) = machine.agent.take() {
                agent.abort();
            }
        }
        if self.planted != Planted::ThawForgotten {
            self.thaw(vm_id, ThawCause::AgentDied);
        }
        self.start_agent(vm_id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while holding this lock")
    }

    fn now(&self) -> WallTime {
        self.env.clock.wall()
    }

    /// Whether agents' answers now and then arrive twice.
    pub fn set_shaky(&self, shaky: bool) {
        self.shaky.store(shaky, Ordering::Relaxed);
    }

    /// Answers the controller; now and then once more a while later, as an agent does that does not know
    /// whether its answer arrived.
    fn answer(&self, outlet: &Outlet, body: Say) {
        say(outlet, body.clone());
        if self.dice.one_in(25) && self.shaky.load(Ordering::Relaxed) {
            let late = self.dice.between(Duration::ZERO, Duration::from_secs(60));
            let outlet = outlet.clone();
            if let Some(cloud) = self.cloud.get().and_then(Weak::upgrade) {
                cloud.record.count(Kind::AnswerTwice, 1);
            }
            tokio::spawn(async move {
                azdr_env::sleep(late).await;
                say(&outlet, body);
            });
        }
    }

    fn tell(&self, event: &Event) {
        if let Some(cloud) = self.cloud.get().and_then(Weak::upgrade) {
            cloud.tell(event);
        }
    }

    fn up(self: &Arc<Self>, vm_id: &str) {
        let Some(view) = self.guests.machine(vm_id) else { return };
        let machine = Machine {
            mounts: view.disks.into_iter().map(|d| d.mount_point).collect(),
            boot_id: view.boot_id,
            up_since: self.now(),
            controller_changed: watch::channel(0).0,
            partitioned: watch::channel(false).0,
            hold: None,
            last: None,
            outlet: None,
            agent: None,
        };
        self.lock().running.insert(vm_id.to_owned(), machine);
        self.start_agent(vm_id);
    }

    fn down(&self, vm_id: &str) {
        let Some(machine) = self.lock().running.remove(vm_id) else { return };
        if let Some(agent) = machine.agent {
            agent.abort();
        }
        if let Some(hold) = machine.hold.filter(|h| h.frozen_at.is_some()) {
            self.tell(&Event::Thawed { vm_id: vm_id.to_owned(), operation: hold.operation });
        }
    }

    fn start_agent(self: &Arc<Self>, vm_id: &str) {
        let machines = self.clone();
        let id = vm_id.to_owned();
        let task = tokio::spawn(async move { machines.boot(id).await });
        if let Some(machine) = self.lock().running.get_mut(vm_id) {
            machine.agent = Some(task.abort_handle());
        }
    }

    /// Who answers now, and where a change of that shows; `None` when the machine is gone.
    fn controller(&self, vm_id: &str) -> Option<(Option<Agents>, watch::Receiver<u64>)> {
        let inner = self.lock();
        let machine = inner.running.get(vm_id)?;
        Some((inner.controller.clone(), machine.controller_changed.subscribe()))
    }

    /// The machine boots, then its agent runs as long as the machine does.
    async fn boot(self: Arc<Self>, vm_id: String) {
        azdr_env::sleep(self.dice.between(Duration::from_secs(2), Duration::from_secs(20))).await;
        let mut for_this_run: Option<PeerCertificate> = None;
        loop {
            // No agent was ever installed here.
            let Some((enrolled_on, certificate)) = self.identity(&vm_id) else { return };
            let Some((agents, mut changed)) = self.controller(&vm_id) else { return };
            let Some(agents) = agents else {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let own = enrolled_on == vm_id;
            let door = if own && for_this_run.is_none() { Door::Protected } else { Door::Restored };
            let certificate = for_this_run.clone().unwrap_or(certificate);
            match self.session(&agents, &vm_id, own, door, certificate).await {
                End::Run(certificate) => for_this_run = Some(*certificate),
                End::Own => for_this_run = None,
                End::Closed => {}
            }
            if let Some(machine) = self.lock().running.get_mut(&vm_id) {
                machine.outlet = None;
            }
            azdr_env::sleep(self.dice.between(Duration::from_secs(1), Duration::from_secs(5)))
                .await;
        }
    }

    async fn session(
        self: &Arc<Self>,
        agents: &Agents,
        vm_id: &str,
        own: bool,
        door: Door,
        certificate: PeerCertificate,
    ) -> End {
        let now = self.env.clock.wall();
        let expired = certificate.not_after < now;
        let certificate = PeerCertificate { expired, ..certificate };
        let enter = |door| {
            let (outlet, inlet) = mpsc::unbounded_channel();
            let _ = outlet.send(Ok(message(Say::Hello(self.hello(vm_id)))));
            (outlet, agents.enter(door, certificate.clone(), UnboundedReceiverStream::new(inlet)))
        };
        let (mut outlet, mut welcome) = {
            let (outlet, entering) = enter(door);
            (outlet, entering.await)
        };
        if matches!(&welcome, Err(s) if s.code() == Code::FailedPrecondition) {
            let (again, entering) = enter(Door::Restored);
            (outlet, welcome) = (again, entering.await);
        }
        let Ok(mut told) = welcome else {
            azdr_env::sleep(Duration::from_secs(60)).await;
            return End::Closed;
        };
        let mut partitioned = {
            let mut inner = self.lock();
            let Some(machine) = inner.running.get_mut(vm_id) else { return End::Closed };
            machine.outlet = Some(outlet.clone());
            machine.partitioned.subscribe()
        };
        let Some((_, mut controller)) = self.controller(vm_id) else { return End::Closed };
        let mut mode = SessionMode::Unspecified;
        loop {
            let next = tokio::select! {
                biased;
                // The controller's process is gone, and with it the connection.
                _ = controller.changed() => return End::Closed,
                _ = partitioned.wait_for(|cut| *cut) => None,
                next = told.next() => Some(next),
            };
            match next {
                Some(Some(Ok(ControllerMessage { body: Some(body) }))) => {
                    if let Some(end) = self.obey(vm_id, own, &mut mode, body, &outlet) {
                        return end;
                    }
                }
                Some(Some(Ok(_))) => {}
                Some(Some(Err(_)) | None) => return End::Closed,
                None => {
                    // What is said meanwhile is lost, and the connection with it.
                    if let Some(machine) = self.lock().running.get_mut(vm_id) {
                        machine.outlet = None;
                    }
                    let _ = partitioned.wait_for(|cut| !*cut).await;
                    return End::Closed;
                }
            }
        }
    }

    fn hello(&self, vm_id: &str) -> Hello {
        let (boot_id, up, mounts) = match self.lock().running.get(vm_id) {
            Some(m) => (m.boot_id.clone(), m.up_since, m.mounts.clone()),
            None => (String::new(), self.now(), Vec::new()),
        };
        Hello {
            vm_id: vm_id.to_owned(),
            boot_id,
            uptime_secs: self.now().since(up).as_secs(),
            witnesses: mounts.iter().filter_map(|mount| self.witness(vm_id, mount)).collect(),
            can_freeze: true,
            ..Hello::default()
        }
    }

    fn witness(&self, vm_id: &str, mount: &str) -> Option<Witness> {
        let file = self.guests.read_file(vm_id, &below(mount, witness::PLACE)).ok()??;
        let witness = witness::decode(&file, mount).ok()?;
        let found = Witness {
            found_on_disk: disk_at(mount),
            found_file_system_uuid: self.file_system_uuid(vm_id, mount),
            ..witness
        };
        Some(found)
    }

    fn file_system_uuid(&self, vm_id: &str, mount: &str) -> String {
        let file = self.guests.read_file(vm_id, &below(mount, FILE_SYSTEM_UUID)).ok().flatten();
        file.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Writes the witnesses of a freeze, and answers what was written.
    fn write_witnesses(&self, vm_id: &str, freeze: &Freeze) -> Vec<Witness> {
        let running = self.lock().running.get(vm_id).map(|m| (m.mounts.clone(), m.boot_id.clone()));
        let Some((mounts, boot_id)) = running else { return Vec::new() };
        let place = |mount: &String| {
            if self.file_system_uuid(vm_id, mount).is_empty() {
                let uuid = self.env.ids.uuid().to_string();
                let _ = self.guests.write_file(vm_id, &below(mount, FILE_SYSTEM_UUID), uuid.into());
            }
            Place {
                mount_point: mount.clone(),
                file_system_uuid: self.file_system_uuid(vm_id, mount),
                disk: disk_at(mount),
                ..Place::default()
            }
        };
        let places: Vec<Place> = mounts.iter().map(place).collect();
        let moment = Moment { unix_ms: self.now().unix_ms(), boot_id, monotonic_ns: 0 };
        let witnesses = witness::of_freeze(freeze, &places, &moment).unwrap_or_default();
        for (mount, witness) in mounts.iter().zip(&witnesses) {
            if let Ok(file) = witness::encode(witness) {
                let _ = self.guests.write_file(vm_id, &below(mount, witness::PLACE), file.into());
            }
        }
        witnesses
    }

    /// What an agent says of a machine that is well.
    fn facts(&self, vm_id: &str) -> Vec<HealthFact> {
        let mounts = self.lock().running.get(vm_id).map(|m| m.mounts.clone()).unwrap_or_default();
        let of_mounts = mounts.iter().flat_map(|mount| {
            [format!("file-system-writable:{mount}"), format!("free-space:{mount}")]
        });
        let fact = |name: String| HealthFact {
            name,
            state: FactState::Pass.into(),
            detail: String::new(),
            at_unix_ms: self.now().unix_ms(),
        };
        ["boot", "fstab"].map(str::to_owned).into_iter().chain(of_mounts).map(fact).collect()
    }

    fn obey(
        self: &Arc<Self>,
        vm_id: &str,
        own: bool,
        mode: &mut SessionMode,
        told: Told,
        outlet: &Outlet,
    ) -> Option<End> {
        let what = match &told {
            Told::Welcome(_) => "welcome",
            Told::Freeze(_) => "freeze",
            Told::RenewLease(_) => "renew",
            Told::Thaw(_) => "thaw",
            Told::ProbeHealth(_) => "probe",
            Told::CertificateIssued(_) => "certificate",
            Told::RunPreflight(_) => "preflight",
        };
        if what != "renew" {
            self.tell(&Event::Told { vm_id: vm_id.to_owned(), own, what });
        }
        // As the agent does: it does not know yet what it is to this controller.
        if what != "welcome" && *mode == SessionMode::Unspecified {
            self.tell(&Event::ToldUnwelcomed { vm_id: vm_id.to_owned(), what });
            return Some(End::Closed);
        }
        match told {
            Told::Welcome(welcome) => {
                *mode = welcome.mode();
                let renew = welcome.renew_certificate && *mode != SessionMode::Quarantined;
                if renew && let Ok((_, csr_der)) = azdr_identity::generate_key_and_csr("agent") {
                    let ask = Say::RenewCertificate(RenewCertificate { csr_der });
                    let _ = outlet.send(Ok(message(ask)));
                }
            }
            Told::Freeze(freeze) if *mode == SessionMode::Protected => self.freeze(vm_id, freeze),
            Told::Freeze(f) => self.answer(outlet, refused(f.operation_id, "not protected here")),
            Told::RenewLease(renew) => self.renew(vm_id, &renew.operation_id),
            Told::Thaw(thaw) => self.asked_to_thaw(vm_id, &thaw.operation_id, outlet),
            Told::ProbeHealth(probe) => {
                let hello = self.hello(vm_id);
                self.answer(
                    outlet,
                    Say::Health(HealthReport {
                        request_id: probe.request_id,
                        boot_id: hello.boot_id,
                        uptime_secs: hello.uptime_secs,
                        facts: self.facts(vm_id),
                        witnesses: hello.witnesses,
                        version: 1,
                        wall_unix_ms: self.now().unix_ms(),
                        app_probes: Vec::new(),
                    }),
                );
            }
            Told::RunPreflight(run) => {
                self.answer(
                    outlet,
                    Say::Preflight(PreflightReport {
                        request_id: run.request_id,
                        ready: true,
                        ..PreflightReport::default()
                    }),
                );
            }
            Told::CertificateIssued(issued) => {
                let der = issued.certificate_chain_der.first()?;
                let certificate = PeerCertificate::from_der(der, self.env.clock.wall()).ok()?;
                if !issued.durable {
                    return Some(End::Run(Box::new(certificate)));
                }
                self.enrol(vm_id, der);
                return Some(End::Own);
            }
        }
        None
    }

    fn freeze(self: &Arc<Self>, vm_id: &str, freeze: Freeze) {
        let mut inner = self.lock();
        let Some(machine) = inner.running.get_mut(vm_id) else { return };
        let busy = machine.hold.as_ref().map(|h| h.operation != freeze.operation_id);
        if busy == Some(true) || self.dice.one_in(300) {
            if let Some(outlet) = &machine.outlet {
                self.answer(outlet, refused(freeze.operation_id, "somebody else has frozen /"));
            }
            return;
        }
        if busy == Some(false) {
            return;
        }
        machine.last = None;
        machine.hold = Some(Hold {
            operation: freeze.operation_id.clone(),
            frozen_at: None,
            lease: Duration::from_millis(freeze.lease_ms.into()),
            limit: Duration::from_millis(freeze.hold_limit_ms.into()),
            renewed_at: self.now(),
            changed: watch::channel(0).0,
        });
        drop(inner);
        let (machines, vm_id) = (self.clone(), vm_id.to_owned());
        tokio::spawn(async move { machines.hold(vm_id, freeze).await });
    }

    /// The thaw process's view of one operation.
    async fn hold(self: Arc<Self>, vm_id: String, freeze: Freeze) {
        let most = if self.dice.one_in(100) { 60_000 } else { 400 };
        azdr_env::sleep(Duration::from_millis(5 + self.dice.below(most))).await;
        let Some(mounts) = self.lock().running.get(&vm_id).map(|m| m.mounts.clone()) else {
            return;
        };
        let witnesses = self.write_witnesses(&vm_id, &freeze);
        let file_systems = mounts.iter().map(|mount| reported(mount)).collect();
        let changed = {
            let now = self.now();
            let mut inner = self.lock();
            let Some(machine) = inner.running.get_mut(&vm_id) else { return };
            let hold = machine.hold.as_mut().filter(|h| h.operation == freeze.operation_id);
            // Thawed before it was frozen.
            let Some(hold) = hold else { return };
            if self.guests.freeze(&vm_id).is_err() {
                machine.hold = None;
                return;
            }
            hold.frozen_at = Some(now);
            hold.renewed_at = now;
            let changed = hold.changed.subscribe();
            if self.guests.machine(&vm_id).is_some_and(|view| view.torn) {
                inner.torn_before.insert((vm_id.clone(), freeze.recovery_point.clone()));
            }
            changed
        };
        self.tell(&Event::Frozen { vm_id: vm_id.clone(), operation: freeze.operation_id.clone() });
        let frozen = Say::FreezeReply(FreezeReply {
            operation_id: freeze.operation_id.clone(),
            outcome: FreezeOutcome::Frozen.into(),
            file_systems,
            witnesses,
            ..FreezeReply::default()
        });
        if let Some(outlet) = self.lock().running.get(&vm_id).and_then(|m| m.outlet.as_ref()) {
            self.answer(outlet, frozen);
        }
        if self.planted != Planted::ThawForgotten {
            self.guard(&vm_id, &freeze.operation_id, changed).await;
        }
    }

    /// Thaws when the lease or the limit is over, whoever lives.
    async fn guard(&self, vm_id: &str, operation: &str, mut changed: watch::Receiver<u64>) {
        loop {
            let (lease_end, limit_end) = {
                let inner = self.lock();
                let hold = inner.running.get(vm_id).and_then(|m| m.hold.as_ref());
                let Some(hold) = hold.filter(|h| h.operation == operation) else { return };
                let frozen_at = hold.frozen_at.unwrap_or(hold.renewed_at);
                (hold.renewed_at.plus(hold.lease), frozen_at.plus(hold.limit))
            };
            let now = self.now();
            if now >= limit_end {
                return self.thaw(vm_id, ThawCause::HoldLimit);
            }
            if now >= lease_end {
                return self.thaw(vm_id, ThawCause::LeaseExpired);
            }
            tokio::select! {
                biased;
                changed = changed.changed() => if changed.is_err() { return },
                () = azdr_env::sleep(lease_end.min(limit_end).since(now)) => {}
            }
        }
    }

    fn renew(&self, vm_id: &str, operation: &str) {
        let now = self.now();
        if let Some(hold) = self.lock().running.get_mut(vm_id).and_then(|m| m.hold.as_mut())
            && hold.operation == operation
        {
            hold.renewed_at = now;
            hold.changed.send_modify(|n| *n += 1);
        }
    }

    fn asked_to_thaw(&self, vm_id: &str, operation: &str, outlet: &Outlet) {
        if self.planted != Planted::ThawForgotten || !self.dice.one_in(10) {
            self.thaw(vm_id, ThawCause::Command);
        }
        let last = self.lock().running.get(vm_id).and_then(|m| m.last.clone());
        let reply = match last {
            Some(last) if last.operation_id == operation => last,
            Some(last) => ThawReply {
                operation_id: operation.to_owned(),
                unbroken: false,
                reason: format!("held was {}", last.operation_id),
                ..last
            },
            None => ThawReply {
                operation_id: operation.to_owned(),
                cause: ThawCause::NotFrozen.into(),
                reason: "nothing was frozen".into(),
                ..ThawReply::default()
            },
        };
        self.answer(outlet, Say::ThawReply(reply));
    }

    /// Thaws whatever is held.
    fn thaw(&self, vm_id: &str, cause: ThawCause) {
        let now = self.now();
        let mut inner = self.lock();
        let Some(machine) = inner.running.get_mut(vm_id) else { return };
        let Some(hold) = machine.hold.take() else { return };
        let window = hold.frozen_at.map(|at| now.since(at));
        let unbroken =
            cause == ThawCause::Command && window.is_some_and(|window| window <= hold.limit);
        let cause = if window.is_some() { cause } else { ThawCause::NotFrozen };
        machine.last = Some(ThawReply {
            operation_id: hold.operation.clone(),
            unbroken,
            cause: cause.into(),
            reason: if unbroken { String::new() } else { format!("{cause:?}") },
            windows: hold.frozen_at.map_or_else(Vec::new, |from| {
                let shown = |mount: &String| shown(mount, from, now, cause);
                machine.mounts.iter().map(shown).collect()
            }),
            window_ms: window.unwrap_or_default().as_millis() as u32,
            ..ThawReply::default()
        });
        drop(inner);
        if window.is_some() {
            // An error is a machine that has ended meanwhile.
            let _ = self.guests.thaw(vm_id);
            let (vm_id, operation) = (vm_id.to_owned(), hold.operation);
            self.tell(&Event::Thawed { vm_id, operation });
        }
    }
}

/// What a machine says of a file system that it has frozen.
fn reported(mount: &str) -> FileSystemReport {
    FileSystemReport {
        mount_point: mount.to_owned(),
        file_system_type: "simulated".to_owned(),
        state: FileSystemState::Frozen.into(),
        disks: vec![disk_of(mount)],
        disks_known: true,
        ..FileSystemReport::default()
    }
}

fn disk_of(mount: &str) -> Disk {
    match mount.strip_prefix("/mnt/lun").and_then(|lun| lun.parse().ok()) {
        Some(lun) => Disk { kind: DiskKind::Data.into(), lun, name: String::new() },
        None => Disk { kind: DiskKind::Os.into(), ..Disk::default() },
    }
}

/// What it says afterwards: the freeze was whole, and its canary went on with the thaw.
fn shown(mount: &str, from: WallTime, to: WallTime, cause: ThawCause) -> FileSystemWindow {
    let ns = |at: WallTime| at.unix_ms().unsigned_abs() * 1_000_000;
    FileSystemWindow {
        mount_point: mount.to_owned(),
        frozen_from_ns: ns(from),
        frozen_to_ns: ns(to),
        frozen_from_unix_ms: from.unix_ms(),
        frozen_to_unix_ms: to.unix_ms(),
        first_thaw_succeeded: true,
        canary_blocked: true,
        canary_released_ns: ns(to),
        canary_released_by_thaw: cause == ThawCause::Command,
        reason: String::new(),
    }
}

/// How a session ended.
enum End {
    Closed,
    /// The machine has a new identity of its own.
    Own,
    /// A certificate for a run.
    Run(Box<PeerCertificate>),
}

fn message(body: Say) -> AgentMessage {
    AgentMessage { body: Some(body) }
}

fn say(outlet: &Outlet, body: Say) {
    // A closed outlet is a connection that has ended.
    let _ = outlet.send(Ok(message(body)));
}

fn refused(operation_id: String, reason: &str) -> Say {
    Say::FreezeReply(FreezeReply {
        operation_id,
        outcome: FreezeOutcome::Refused.into(),
        reason: reason.into(),
        ..FreezeReply::default()
    })
}

fn below(mount: &str, file: &str) -> String {
    format!("{}/{file}", mount.trim_end_matches('/'))
}

fn disk_at(mount: &str) -> String {
    match mount.strip_prefix("/mnt/lun") {
        Some(lun) => format!("lun {lun}"),
        None => "os".to_owned(),
    }
}
