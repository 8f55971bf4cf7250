//! The machines that run in Azure, their thaw processes, and the agents on them.
//!
//! Told by the simulator when a machine starts and stops; an agent is one task per running machine
//! whose OS disk carries an identity. What an agent says goes in below TLS and HTTP/2, at the
//! protobuf messages of [`Agents::enter`]. Agents do not send idle heartbeats: presence is an event.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use azdr_controller::api::agent_service::{Agents, Door};
use azdr_env::{Env, WallTime};
use azdr_identity::PeerCertificate;
use azdr_proto::agent::agent_message::Body as Say;
use azdr_proto::agent::controller_message::Body as Told;
use azdr_proto::agent::{
    AgentMessage, ControllerMessage, FactState, Freeze, FreezeOutcome, FreezeReply, HealthFact,
    HealthReport, Hello, RenewCertificate, SessionMode, ThawCause, ThawReply, Witness,
};
use azure_sim::config::Blocking;
use azure_sim::guests::none::NoGuests;
use azure_sim::guests::{GuestSpec, Guests};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use crate::cloud::Cloud;
use crate::contents::{Contents, Enrolled};
use crate::dice::Dice;
use crate::event::Event;

type Outlet = mpsc::UnboundedSender<Result<AgentMessage, Status>>;

/// What can be wrong with the machines, on purpose: to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// The thaw process has no limits of its own.
    ThawForgotten,
}

/// All running machines.
pub struct Machines {
    none: NoGuests,
    env: Env,
    dice: Dice,
    planted: Planted,
    cloud: OnceLock<Weak<Cloud>>,
    inner: Mutex<Inner>,
    controller: watch::Sender<Option<Agents>>,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<String, Machine>,
    contents: Contents,
}

/// A running machine.
struct Machine {
    /// Its own disks, OS disk first, by key.
    disks: Vec<String>,
    boot_id: String,
    up_since: WallTime,
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
    /// No machine runs yet.
    pub fn new(env: Env, seed: u64, planted: Planted) -> Arc<Self> {
        Arc::new(Self {
            none: NoGuests::new(Blocking::Inline),
            dice: Dice::new(seed, "machines"),
            env,
            planted,
            cloud: OnceLock::new(),
            inner: Mutex::default(),
            controller: watch::channel(None).0,
        })
    }

    /// The cloud that they run in.
    pub fn connect(self: &Arc<Self>, cloud: &Arc<Cloud>) {
        let _ = self.cloud.set(Arc::downgrade(cloud));
    }

    /// From now on this controller answers, or none.
    pub fn controller_is(&self, agents: Option<Agents>) {
        self.controller.send_replace(agents);
    }

    /// Installs an agent's identity on an OS disk.
    pub fn enrol(&self, os_disk: &str, certificate: PeerCertificate, vm_id: String) {
        let mut inner = self.lock();
        let content = inner.contents.of(os_disk);
        content.enrolled = Some(Enrolled { certificate, vm_id });
    }

    /// Azure has carried out a write: follow where contents go.
    pub fn written(&self, key: &str, source: Option<&str>) {
        if let Some(source) = source {
            self.lock().contents.copy(source, key, self.now());
        }
    }

    /// Azure has deleted something.
    pub fn deleted(&self, key: &str) {
        self.lock().contents.remove(key);
    }

    /// Whether these disks or snapshots can be of one instant.
    ///
    /// # Errors
    /// How they are torn.
    pub fn of_one_instant(&self, keys: &[String]) -> Result<(), String> {
        self.lock().contents.of_one_instant(keys, self.now())
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

    fn tell(&self, event: &Event) {
        if let Some(cloud) = self.cloud.get().and_then(Weak::upgrade) {
            cloud.tell(event);
        }
    }

    /// Disks of the VM with this vmId, OS disk first.
    fn disks_of(&self, vm_id: &str) -> Vec<String> {
        let Some(cloud) = self.cloud.get().and_then(Weak::upgrade) else { return Vec::new() };
        cloud.simulator.look(|state, _| {
            let vm = state.vms.iter().find(|(_, vm)| vm.vm_id == vm_id);
            vm.map(|(_, vm)| vm.disks.iter().map(|d| d.disk.to_string().to_lowercase()).collect())
                .unwrap_or_default()
        })
    }

    fn up(self: &Arc<Self>, vm_id: &str) {
        let now = self.now();
        let boot_id = self.env.ids.uuid().to_string();
        let machine = Machine {
            disks: Vec::new(),
            boot_id,
            up_since: now,
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
        let mut inner = self.lock();
        let now = self.now();
        let Some(machine) = inner.running.remove(vm_id) else { return };
        if let Some(agent) = machine.agent {
            agent.abort();
        }
        inner.contents.stop(&machine.disks, now);
        drop(inner);
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

    /// The machine boots, then its agent runs as long as the machine does.
    async fn boot(self: Arc<Self>, vm_id: String) {
        azdr_env::sleep(self.dice.between(Duration::from_secs(2), Duration::from_secs(20))).await;
        let disks = self.disks_of(&vm_id);
        {
            let now = self.now();
            let mut inner = self.lock();
            if let Some(os) = disks.first() {
                inner.contents.of(os).is_os = true;
            }
            inner.contents.begin(&disks, now);
            let Some(machine) = inner.running.get_mut(&vm_id) else { return };
            machine.disks = disks.clone();
        }
        let mut for_this_run: Option<PeerCertificate> = None;
        loop {
            let enrolled =
                disks.first().and_then(|os| self.lock().contents.get(os)?.enrolled.clone());
            // No agent was ever installed here.
            let Some(enrolled) = enrolled else { return };
            let mut controller = self.controller.subscribe();
            let Ok(agents) = controller.wait_for(Option::is_some).await.map(|a| (*a).clone())
            else {
                return;
            };
            let Some(agents) = agents else { continue };
            let own = enrolled.vm_id == vm_id;
            let door = if own && for_this_run.is_none() { Door::Protected } else { Door::Restored };
            let certificate = for_this_run.clone().unwrap_or(enrolled.certificate);
            match self.session(&agents, &vm_id, &disks, own, door, certificate).await {
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
        disks: &[String],
        own: bool,
        door: Door,
        certificate: PeerCertificate,
    ) -> End {
        let now = self.env.clock.wall();
        let expired = certificate.not_after < now;
        let certificate = PeerCertificate { expired, ..certificate };
        let enter = |door| {
            let (outlet, inlet) = mpsc::unbounded_channel();
            let _ = outlet.send(Ok(message(Say::Hello(self.hello(vm_id, disks)))));
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
        let mut controller = self.controller.subscribe();
        controller.mark_unchanged();
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
                    if let Some(end) = self.obey(vm_id, disks, own, &mut mode, body, &outlet) {
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

    fn hello(&self, vm_id: &str, disks: &[String]) -> Hello {
        let inner = self.lock();
        let boot = inner.running.get(vm_id).map(|m| (m.boot_id.clone(), m.up_since));
        let (boot_id, up) = boot.unwrap_or_else(|| (String::new(), self.now()));
        Hello {
            vm_id: vm_id.to_owned(),
            boot_id,
            uptime_secs: self.now().since(up).as_secs(),
            witnesses: witnesses(&inner.contents, disks),
            can_freeze: true,
            ..Hello::default()
        }
    }

    fn obey(
        self: &Arc<Self>,
        vm_id: &str,
        disks: &[String],
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
        };
        if what != "renew" {
            self.tell(&Event::Told { vm_id: vm_id.to_owned(), own, what });
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
            Told::Freeze(f) => say(outlet, refused(f.operation_id, "not protected here")),
            Told::RenewLease(renew) => self.renew(vm_id, &renew.operation_id),
            Told::Thaw(thaw) => self.asked_to_thaw(vm_id, &thaw.operation_id, outlet),
            Told::ProbeHealth(probe) => {
                let fact = HealthFact {
                    name: "boot".into(),
                    state: FactState::Pass.into(),
                    detail: String::new(),
                };
                let hello = self.hello(vm_id, disks);
                say(
                    outlet,
                    Say::Health(HealthReport {
                        request_id: probe.request_id,
                        boot_id: hello.boot_id,
                        uptime_secs: hello.uptime_secs,
                        facts: vec![fact],
                        witnesses: hello.witnesses,
                    }),
                );
            }
            Told::CertificateIssued(issued) => {
                let der = issued.certificate_chain_der.first()?;
                let certificate = PeerCertificate::from_der(der, self.env.clock.wall()).ok()?;
                if !issued.durable {
                    return Some(End::Run(Box::new(certificate)));
                }
                self.enrol(disks.first()?, certificate, vm_id.to_owned());
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
                say(outlet, refused(freeze.operation_id, "somebody else has frozen /"));
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
        let changed = {
            let now = self.now();
            let mut guard = self.lock();
            let inner = &mut *guard;
            let Some(machine) = inner.running.get_mut(&vm_id) else { return };
            let hold = machine.hold.as_mut().filter(|h| h.operation == freeze.operation_id);
            // Thawed before it was frozen.
            let Some(hold) = hold else { return };
            hold.frozen_at = Some(now);
            hold.renewed_at = now;
            for disk in &machine.disks {
                let point = freeze.recovery_point.clone();
                let witness = (point, freeze.operation_id.clone(), freeze.nonce.clone());
                inner.contents.of(disk).witness = Some(witness);
            }
            inner.contents.stop(&machine.disks, now);
            hold.changed.subscribe()
        };
        self.tell(&Event::Frozen { vm_id: vm_id.clone(), operation: freeze.operation_id.clone() });
        let frozen = Say::FreezeReply(FreezeReply {
            operation_id: freeze.operation_id.clone(),
            outcome: FreezeOutcome::Frozen.into(),
            ..FreezeReply::default()
        });
        if let Some(outlet) = self.lock().running.get(&vm_id).and_then(|m| m.outlet.as_ref()) {
            say(outlet, frozen);
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
        self.thaw(vm_id, ThawCause::Command);
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
        say(outlet, Say::ThawReply(reply));
    }

    /// Thaws whatever is held.
    fn thaw(&self, vm_id: &str, cause: ThawCause) {
        let now = self.now();
        let mut guard = self.lock();
        let inner = &mut *guard;
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
            window_ms: window.unwrap_or_default().as_millis() as u32,
            ..ThawReply::default()
        });
        if window.is_some() {
            inner.contents.begin(&machine.disks, now);
            drop(guard);
            let (vm_id, operation) = (vm_id.to_owned(), hold.operation);
            self.tell(&Event::Thawed { vm_id, operation });
        }
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

fn witnesses(contents: &Contents, disks: &[String]) -> Vec<Witness> {
    let witness = |(n, disk): (usize, &String)| {
        let (point, operation, nonce) = contents.get(disk)?.witness.clone()?;
        Some(Witness {
            mount_point: if n == 0 { "/".into() } else { format!("/data{n}") },
            operation_id: operation,
            recovery_point: point,
            nonce,
            ..Witness::default()
        })
    };
    disks.iter().enumerate().filter_map(witness).collect()
}

/// The machines as the simulator sees them.
pub struct AsGuests(pub Arc<Machines>);

#[async_trait]
impl Guests for AsGuests {
    async fn start(&self, spec: &GuestSpec) -> anyhow::Result<()> {
        if !self.0.lock().running.contains_key(&spec.vm_id) {
            self.0.up(&spec.vm_id);
        }
        self.0.none.start(spec).await
    }

    async fn power_off(&self, vm_id: &str) -> anyhow::Result<()> {
        self.0.down(vm_id);
        self.0.none.power_off(vm_id).await
    }

    async fn restart(&self, vm_id: &str) -> anyhow::Result<()> {
        self.0.down(vm_id);
        self.0.up(vm_id);
        Ok(())
    }

    async fn is_running(&self, vm_id: &str) -> bool {
        self.0.lock().running.contains_key(vm_id)
    }

    async fn snapshot_disk(
        &self,
        vm_id: Option<&str>,
        source: &Path,
        target: &Path,
        at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        self.0.none.snapshot_disk(vm_id, source, target, at_instant).await
    }

    async fn shut_down(&self) {
        let running = self.0.running();
        running.iter().for_each(|vm_id| self.0.down(vm_id));
    }
}
