//! Agents at the message seam: one per running machine, which says hello when its machine comes up,
//! freezes and thaws when told, and shows the witness of the last freeze that its disks have seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_agent::witness::{self, Moment, Place};
use azdr_controller::fleet::{Fleet, Session, SessionKind};
use azdr_controller::store::{Item, ItemId, RunId, Store};
use azdr_env::{Env, WallTime};
use azdr_proto::agent::agent_message::Body as FromAgent;
use azdr_proto::agent::controller_message::Body as ToAgent;
use azdr_proto::agent::{
    AppProbe, Disk, DiskKind, FactState, FileSystemReport, FileSystemState, FileSystemWindow,
    Freeze, FreezeOutcome, FreezeReply, HealthFact, HealthReport, Hello, HookResult, ThawCause,
    ThawReply, Witness,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::cloud::Cloud;
use crate::meddling::Mortal;

/// What the disks of the world carry: the witnesses of each freeze of each protected machine, the newest
/// last, which machines made from its recovery points show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disks(BTreeMap<ItemId, Vec<Vec<Witness>>>);

/// The file systems of every machine here: the OS disk's, and one on all data disks.
const MOUNTS: [&str; 2] = ["/", "/data"];

/// The machines, as far as they are not Azure's.
#[derive(Default)]
pub(crate) struct Guests {
    pub(crate) frozen: Mutex<Disks>,
    behaviour: Mutex<Behaviour>,
    changes: watch::Sender<u64>,
    /// The machines that ran after so many changes of Azure's.
    running: Mutex<Option<(u64, Arc<Vec<Machine>>)>>,
    thaws: AtomicUsize,
    /// The SSH host keys that agents name when they come.
    host_keys: Mutex<Vec<String>>,
    /// vmIds of the machines that were told to freeze, one after the other.
    freezes: Mutex<Vec<String>>,
}

/// The hook of those that have one.
const HOOK: &str = "10-db";

/// Shorter than anything that a machine does.
const A_MOMENT: Duration = Duration::from_millis(20);

/// How agents behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    #[default]
    Well,
    /// No agent connects (any more).
    Absent,
    /// It refuses to freeze.
    RefusesToFreeze,
    /// Its lease ran out in between, and it says so.
    BrokenHold,
    /// It freezes, and never answers the thaw.
    SilentAfterFreeze,
    /// Its hooks end well after the thaw.
    HooksSucceed,
    /// One of its hooks turns out to have failed, after the thaw.
    HookFails,
    /// What its hooks did after the thaw is never told.
    HooksUnheard,
    /// A hook failed before the freeze that must not.
    HookForbids,
    /// The machine shows a witness that is not the point's.
    WrongWitness,
    /// Its data disk is of the first point that was ever taken.
    OlderDataDisk,
    /// Its data disk is of another VM.
    ForeignDataDisk,
    /// Somebody has copied the OS disk's witness to the data disk.
    CopiedWitness,
    /// Somebody has changed the date in the data disk's witness.
    AlteredWitness,
    /// Its data disk is not mounted.
    NoDataDisk,
    /// It says this of one of its facts, and else that it is well.
    Says(&'static str, FactState),
    /// It never says anything of this fact.
    Omits(&'static str),
    /// It has a hook, whose check says this when it is asked for.
    Checks(FactState),
    /// It says that the freeze was unbroken, and a canary shows that it was not.
    ReleasedCanary,
    /// Its settings leave out what is on the data disk, which so has no witness.
    LeavesOutData,
    /// It is from before agents said on which disks file systems are, and recognises none.
    KnowsNoDisks,
    /// What it freezes beside the OS disk is on a disk that is not attached by Azure.
    FreezesElsewhere,
}

/// What every agent says of its data file system, though it was frozen.
pub(crate) const NOTE: &str = "its data was not all written out in time";

impl Behaviour {
    /// What it freezes.
    fn frozen(self) -> &'static [&'static str] {
        if self == Self::LeavesOutData { &MOUNTS[..1] } else { &MOUNTS }
    }
}

/// The disks of which snapshots are taken that a file system lies on.
fn below<'a>(mount: &str, taken: &'a [Disk]) -> impl Iterator<Item = &'a Disk> {
    let kind = if mount == "/" { DiskKind::Os } else { DiskKind::Data };
    taken.iter().filter(move |disk| disk.kind() == kind)
}

fn reported(mount: &str, taken: &[Disk], behaviour: Behaviour) -> FileSystemReport {
    let report = FileSystemReport {
        mount_point: mount.into(),
        file_system_type: "ext4".into(),
        device: "8:1".into(),
        state: FileSystemState::Frozen.into(),
        reason: if mount == "/data" { NOTE.to_owned() } else { String::new() },
        disks: below(mount, taken).cloned().collect(),
        disks_known: true,
        ..FileSystemReport::default()
    };
    let is_left_out = !behaviour.frozen().contains(&mount);
    match behaviour {
        Behaviour::KnowsNoDisks => {
            FileSystemReport { disks: Vec::new(), disks_known: false, ..report }
        }
        Behaviour::FreezesElsewhere if mount != "/" => {
            let disk = Disk { kind: DiskKind::Unknown.into(), lun: 0, name: "sdx".into() };
            FileSystemReport { disks: vec![disk], ..report }
        }
        _ if is_left_out => FileSystemReport {
            state: FileSystemState::Skipped.into(),
            reason: "not among the configured file_systems".into(),
            ..report
        },
        _ => report,
    }
}

fn window(mount: &str, behaviour: Behaviour) -> FileSystemWindow {
    FileSystemWindow {
        mount_point: mount.into(),
        frozen_from_ns: 1,
        frozen_to_ns: 321_000_001,
        first_thaw_succeeded: true,
        canary_blocked: true,
        canary_released_ns: 320_000_001,
        canary_released_by_thaw: mount == "/" || behaviour != Behaviour::ReleasedCanary,
        ..FileSystemWindow::default()
    }
}

/// The agents of one life of the controller.
pub(crate) struct Agents {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) guests: Arc<Guests>,
    pub(crate) fleet: Fleet,
    pub(crate) store: Store,
    pub(crate) env: Env,
    pub(crate) mortal: Arc<Mortal>,
}

/// One that has said hello.
struct Up {
    session: Arc<Session>,
    own: bool,
}

impl Agents {
    /// Lets each machine's agent come and go with its machine, for as long as this life lasts.
    pub(crate) async fn run(self, mut rows: watch::Receiver<u64>) {
        let mut up = BTreeMap::new();
        let mut azure = self.cloud.changes.subscribe();
        let mut sessions = self.fleet.changes();
        let mut behaviour = self.guests.changes.subscribe();
        loop {
            // Many changes in a moment are one.
            azdr_env::sleep(A_MOMENT).await;
            let machines = self.machines(&mut azure).await;
            if self.mortal.is_dead() {
                return;
            }
            self.look(&machines, &mut up).await;
            tokio::select! {
                _ = azure.changed() => azure.mark_changed(),
                _ = rows.changed() => {}
                _ = sessions.changed() => {}
                _ = behaviour.changed() => {}
            }
        }
    }

    /// The machines that run; listed anew only when something may have changed.
    async fn machines(&self, azure: &mut watch::Receiver<u64>) -> Arc<Vec<Machine>> {
        let changes = *azure.borrow_and_update();
        let listed = self.guests.running.lock().unwrap().clone();
        if let Some((at, list)) = listed
            && at == changes
        {
            return list;
        }
        let list = Arc::new(running(&self.cloud.listing().await));
        *self.guests.running.lock().unwrap() = Some((changes, list.clone()));
        list
    }

    async fn look(&self, machines: &[Machine], up: &mut BTreeMap<String, Up>) {
        let absent = self.guests.behaves() == Behaviour::Absent;
        up.retain(|vm_id, known| {
            let runs = machines.iter().any(|m| m.vm_id == *vm_id);
            let stays = runs && !absent && !known.session.is_over();
            if !stays {
                self.fleet.leave(&known.session);
            }
            stays
        });
        if absent {
            return;
        }
        let items = self.store.items().await.unwrap();
        for machine in machines {
            // A machine that has become a VM of its own comes back as that one.
            let is_it = |i: &&Item| machine.id.eq_ignore_ascii_case(i.arm_id.as_str());
            let as_own = items.iter().find(is_it).map(|i| i.id);
            if up.get(&machine.vm_id).is_some_and(|known| known.own == as_own.is_some()) {
                continue;
            }
            let original = match machine.run {
                Some(run) => self.store.run(run).await.unwrap().and_then(|r| r.item),
                None => None,
            };
            // A restored one has its original's identity until it has its own, and always its disks.
            let Some(item) = as_own.or(original) else { continue };
            let expected = self.store.expected_instance(&machine.vm_id).await.unwrap();
            let kind = match as_own {
                Some(_) => SessionKind::Protected,
                // Before the run has said so it is quarantined, and comes back once it is sent away.
                None => SessionKind::Restored { run: expected.map(|e| e.run) },
            };
            let session = self.connect(machine, item, kind, original.unwrap_or(item));
            up.insert(machine.vm_id.clone(), Up { session, own: as_own.is_some() });
        }
    }

    fn connect(
        &self,
        machine: &Machine,
        item: ItemId,
        kind: SessionKind,
        disks: ItemId,
    ) -> Arc<Session> {
        let hello = Hello {
            vm_id: machine.vm_id.clone(),
            boot_id: self.env.ids.uuid().to_string(),
            witnesses: self.guests.witnesses(disks),
            can_freeze: true,
            ssh_host_keys: self.guests.host_keys.lock().unwrap().clone(),
            ..Hello::default()
        };
        let (outbox, inbox) = mpsc::channel(16);
        let far = WallTime::from_unix_ms(i64::MAX / 2);
        let session =
            self.fleet.join(|n, now| Session::new(n, item, kind, hello, now, far, outbox));
        let (guests, mortal) = (self.guests.clone(), self.mortal.clone());
        let cloud = self.cloud.clone();
        let env = self.env.clone();
        tokio::spawn(answer(session.clone(), inbox, disks, guests, mortal, cloud, env));
        session
    }
}

/// A machine that runs.
struct Machine {
    id: String,
    vm_id: String,
    /// The run that made it.
    run: Option<RunId>,
}

fn running(listing: &Value) -> Vec<Machine> {
    let all = listing["resources"].as_array().unwrap().iter();
    let runs =
        |m: &&Value| m["power"].as_str().is_some_and(|power| power.eq_ignore_ascii_case("running"));
    let machines = all.filter(runs).filter_map(|m| {
        let run = m["tags"]["azdr:run"].as_str().and_then(|tag| tag.rsplit('.').next());
        Some(Machine {
            id: m["id"].as_str()?.to_owned(),
            vm_id: m["vm_id"].as_str()?.to_owned(),
            run: run.and_then(|n| n.parse().ok()).map(RunId),
        })
    });
    machines.collect()
}

impl Guests {
    /// From now on agents behave like this.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
        self.changes.send_modify(|n| *n += 1);
    }

    /// From now on agents that come name these SSH host keys.
    pub(crate) fn have_host_keys(&self, keys: &[&str]) {
        *self.host_keys.lock().unwrap() = keys.iter().map(|&key| key.to_owned()).collect();
    }

    /// How often a machine was told to thaw.
    pub(crate) fn thaws(&self) -> usize {
        self.thaws.load(Ordering::SeqCst)
    }

    /// The machines that were told to freeze, by vmId, the oldest first.
    pub(crate) fn freezes(&self) -> Vec<String> {
        self.freezes.lock().unwrap().clone()
    }

    pub(crate) fn behaves(&self) -> Behaviour {
        *self.behaviour.lock().unwrap()
    }

    /// What the machine's disks carry now, as its agent finds it.
    fn witnesses(&self, item: ItemId) -> Vec<Witness> {
        let freezes = self.frozen.lock().unwrap().0.get(&item).cloned().unwrap_or_default();
        let (Some(first), Some(last)) = (freezes.first(), freezes.last()) else {
            return Vec::new();
        };
        let mut all = last.clone();
        match self.behaves() {
            Behaviour::WrongWitness => all.iter_mut().for_each(|witness| {
                witness.recovery_point = "db-backup-daily-20200101-0000".into();
                witness.nonce = "0".repeat(64);
            }),
            Behaviour::OlderDataDisk => all[1] = first[1].clone(),
            Behaviour::ForeignDataDisk => {
                let theirs = Freeze {
                    operation_id: "their-operation".into(),
                    recovery_point: "web-backup-daily-20251201-0800".into(),
                    nonce: "7".repeat(64),
                    witness_key: vec![7; 32],
                    vm_id: "77777777-7777-7777-7777-777777777777".into(),
                    ..Freeze::default()
                };
                let written = write_witnesses(&theirs, Behaviour::Well, "their boot", 0);
                all[1] = written[1].clone();
            }
            Behaviour::CopiedWitness => {
                all[1] = Witness { mount_point: "/data".into(), ..all[0].clone() }
            }
            Behaviour::AlteredWitness => all[1].written_at_unix_ms += 1,
            Behaviour::NoDataDisk => all.truncate(1),
            _ => {}
        }
        for ((witness, mount), written) in all.iter_mut().zip(MOUNTS).zip(last) {
            witness.found_on_disk.clone_from(&written.disk);
            witness.found_file_system_uuid = uuid_of(mount);
        }
        all
    }

    /// What the machine's agent says of it.
    fn facts(&self, boot_id: &str, at_unix_ms: i64) -> Vec<HealthFact> {
        let of_mounts = MOUNTS.iter().flat_map(|mount| {
            [format!("file-system-writable:{mount}"), format!("free-space:{mount}")]
        });
        let names = ["boot", "fstab", "sshd", "journal-recovery"].map(str::to_owned);
        let fact = |name: String| {
            let state = match self.behaves() {
                Behaviour::Omits(of) if of == name => return None,
                Behaviour::Says(of, state) if of == name => state,
                _ => FactState::Pass,
            };
            let detail = if name == "boot" { boot_id } else { "as it is" }.to_owned();
            Some(HealthFact { name, state: state.into(), detail, at_unix_ms })
        };
        names.into_iter().chain(of_mounts).filter_map(fact).collect()
    }

    /// What its hooks' checks say.
    fn app_probes(&self, asked: bool) -> Vec<AppProbe> {
        match self.behaves() {
            Behaviour::Checks(state) if asked => {
                let detail = "the database's last line".to_owned();
                vec![AppProbe { name: HOOK.into(), state: state.into(), detail, took_ms: 7 }]
            }
            _ => Vec::new(),
        }
    }
}

fn uuid_of(mount: &str) -> String {
    format!("uuid of {mount}")
}

fn write_witnesses(
    freeze: &Freeze,
    behaviour: Behaviour,
    boot_id: &str,
    unix_ms: i64,
) -> Vec<Witness> {
    let name = |disk: &Disk| match (disk.kind(), behaviour) {
        (DiskKind::Os, Behaviour::KnowsNoDisks) => "vda".to_owned(),
        (DiskKind::Os, _) => "os".to_owned(),
        (_, Behaviour::KnowsNoDisks) => "vdb".to_owned(),
        (_, Behaviour::FreezesElsewhere) => "sdx".to_owned(),
        _ => format!("lun {}", disk.lun),
    };
    let place = |mount: &&str| Place {
        mount_point: (*mount).into(),
        file_system_uuid: uuid_of(mount),
        disk: below(mount, &freeze.disks).map(name).collect::<Vec<_>>().join(" + "),
        ..Place::default()
    };
    let places: Vec<Place> = behaviour.frozen().iter().map(place).collect();
    let moment = Moment { unix_ms, boot_id: boot_id.into(), monotonic_ns: 1 };
    witness::of_freeze(freeze, &places, &moment).unwrap()
}

/// The answer of a machine with hooks: to the first thaw that they are to come, to another that they have
/// ended.
fn with_hooks(reply: ThawReply, behaviour: Behaviour, again: bool) -> Option<ThawReply> {
    let hooks = vec![HookResult { name: HOOK.into(), check: true, ..HookResult::default() }];
    let pending = ThawReply { hooks_pending: true, hooks_limit_ms: 60_000, ..reply.clone() };
    match behaviour {
        Behaviour::HooksSucceed | Behaviour::HookFails | Behaviour::HooksUnheard if !again => {
            Some(pending)
        }
        Behaviour::HooksUnheard => None,
        Behaviour::HooksSucceed => Some(ThawReply { hooks_succeeded: true, hooks, ..reply }),
        Behaviour::HookFails => {
            let hooks_problem = "hook 10-db: exit code 1".into();
            Some(ThawReply { hooks_problem, hooks, ..reply })
        }
        _ => Some(reply),
    }
}

/// Obeys, as an agent whose machine behaves.
async fn answer(
    session: Arc<Session>,
    mut inbox: mpsc::Receiver<azdr_proto::agent::ControllerMessage>,
    disks: ItemId,
    guests: Arc<Guests>,
    mortal: Arc<Mortal>,
    cloud: Arc<Cloud>,
    env: Env,
) {
    let mut thawed = BTreeSet::new();
    while let Some(message) = inbox.recv().await {
        if mortal.is_dead() {
            return;
        }
        if matches!(message.body, Some(ToAgent::Thaw(_))) {
            guests.thaws.fetch_add(1, Ordering::SeqCst);
        }
        if matches!(message.body, Some(ToAgent::Freeze(_))) {
            guests.freezes.lock().unwrap().push(session.hello.vm_id.clone());
            cloud.late_arrives().await;
        }
        let reply = match message.body {
            Some(ToAgent::Freeze(f)) if guests.behaves() == Behaviour::RefusesToFreeze => {
                FromAgent::FreezeReply(FreezeReply {
                    operation_id: f.operation_id,
                    outcome: FreezeOutcome::Refused.into(),
                    reason: "somebody else has frozen /".into(),
                    ..FreezeReply::default()
                })
            }
            Some(ToAgent::Freeze(f)) if guests.behaves() == Behaviour::HookForbids => {
                FromAgent::FreezeReply(FreezeReply {
                    operation_id: f.operation_id,
                    outcome: FreezeOutcome::Refused.into(),
                    reason: "hook 10-db: exit code 1".into(),
                    hook_forbids: true,
                    hooks: vec![HookResult { name: "10-db".into(), ..HookResult::default() }],
                    ..FreezeReply::default()
                })
            }
            Some(ToAgent::Freeze(f)) => {
                let taken: Vec<_> = f.disks.iter().map(|d| (d.kind(), d.lun)).collect();
                let os = taken.iter().filter(|(kind, _)| *kind == DiskKind::Os).count();
                let data =
                    taken.iter().all(|(kind, _)| matches!(kind, DiskKind::Os | DiskKind::Data));
                assert!(os == 1 && data, "the disks of which snapshots are taken: {taken:?}");
                let now = env.clock.wall().unix_ms();
                let behaviour = guests.behaves();
                let witnesses = write_witnesses(&f, behaviour, &session.hello.boot_id, now);
                let report = |mount| reported(mount, &f.disks, behaviour);
                let file_systems = MOUNTS.map(report).into();
                let mut frozen = guests.frozen.lock().unwrap();
                frozen.0.entry(session.item).or_default().push(witnesses.clone());
                FromAgent::FreezeReply(FreezeReply {
                    operation_id: f.operation_id,
                    outcome: FreezeOutcome::Frozen.into(),
                    file_systems,
                    witnesses,
                    ..FreezeReply::default()
                })
            }
            Some(ToAgent::Thaw(_)) if guests.behaves() == Behaviour::SilentAfterFreeze => continue,
            Some(ToAgent::Thaw(t)) if guests.behaves() == Behaviour::BrokenHold => {
                FromAgent::ThawReply(ThawReply {
                    operation_id: t.operation_id,
                    unbroken: false,
                    cause: ThawCause::LeaseExpired.into(),
                    reason: "the lease ran out".into(),
                    window_ms: 3000,
                    ..ThawReply::default()
                })
            }
            Some(ToAgent::Thaw(t)) => {
                let again = !thawed.insert(t.operation_id.clone());
                let behaviour = guests.behaves();
                let windows = behaviour.frozen().iter().map(|mount| window(mount, behaviour));
                let whole = ThawReply {
                    operation_id: t.operation_id,
                    unbroken: true,
                    cause: ThawCause::Command.into(),
                    windows: windows.collect(),
                    window_ms: 321,
                    ..ThawReply::default()
                };
                match with_hooks(whole, guests.behaves(), again) {
                    Some(reply) => FromAgent::ThawReply(reply),
                    None => continue,
                }
            }
            Some(ToAgent::ProbeHealth(probe)) => {
                let now = env.clock.wall().unix_ms();
                let boot_id = session.hello.boot_id.clone();
                FromAgent::Health(HealthReport {
                    request_id: probe.request_id,
                    facts: guests.facts(&boot_id, now),
                    boot_id,
                    uptime_secs: 1,
                    witnesses: guests.witnesses(disks),
                    version: 1,
                    wall_unix_ms: now,
                    app_probes: guests.app_probes(probe.run_checks),
                })
            }
            _ => continue,
        };
        session.receive(reply, env.clock.wall());
    }
}
