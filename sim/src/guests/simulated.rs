//! Simulated machines: in process, deterministic, their disks copy-on-write trees of files.
//!
//! A machine comes up at once when it is started, if its OS disk is [bootable](BOOTABLE); if not, it
//! runs, as Azure sees it, and nothing ever comes of it. From then on its built-in writer writes (see
//! [`check`]) until the machine ends; it is never woken for that: what it has written is worked out
//! when somebody looks. While the machine is frozen nothing is written, by anybody.
//!
//! Whoever plays the agent calls [`SimulatedGuests::freeze`], [`thaw`](SimulatedGuests::thaw) and
//! [`write_file`](SimulatedGuests::write_file), and hears of machines from
//! [`power_events`](SimulatedGuests::power_events); from another process, through `/_sim/guests`. An
//! external checker asks for [`machines`](SimulatedGuests::machines) and
//! [`check`](SimulatedGuests::check).
//!
//! The OS disk is mounted at `/`, a data disk at `/mnt/lun` and its LUN. A machine that has
//! [`SSH_SERVER`] and a public address whose security group lets callers in answers there with an SSH
//! banner, if the machines are [`reachable`](SimulatedGuests::reachable).

mod disks;
mod door;
mod ledger;
mod machine;
mod tree;

pub use door::SSH_SERVER;
pub use ledger::{Consistency, DATA, WAL, check};
pub use tree::{BOOTABLE, Tree};

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use azdr_env::{Env, Monotonic};
use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc;

use self::disks::{Disk, Disks};
use self::door::Door;
use self::machine::{Machine, mount_point};
use super::{GuestSpec, Guests};
use crate::config::Durability;
use crate::content::{Contents, part};

/// Why a machine cannot do what it was asked to.
#[derive(Debug, Error)]
pub enum GuestError {
    /// It is off, or has not come up.
    #[error("machine {0} is not up")]
    NotUp(String),
    /// It is frozen (to be frozen again, or written to).
    #[error("machine {0} is frozen")]
    Frozen(String),
    /// It is not frozen (any more).
    #[error("machine {0} is not frozen")]
    NotFrozen(String),
    /// No disk is mounted there.
    #[error("{0} is on no disk")]
    NotMounted(String),
    /// The disk cannot be written.
    #[error("cannot write the disk")]
    Disk(#[from] io::Error),
}

/// A machine came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// It has booted.
    Up(MachineView),
    /// It has ended.
    Down {
        /// Azure's vmId.
        vm_id: String,
        /// Which of its boots has ended.
        boot_id: String,
    },
}

/// A machine that is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineView {
    /// Azure's vmId.
    pub vm_id: String,
    /// The VM's name.
    pub name: String,
    /// Another one after every boot.
    pub boot_id: String,
    /// The OS disk first, then data disks by LUN.
    pub disks: Vec<DiskView>,
    /// How long it has been frozen; `None`: it is not.
    #[serde(rename = "frozen_ms", serialize_with = "as_ms")]
    pub frozen: Option<Duration>,
    /// The longest time that this VM was frozen so far, over all its boots.
    #[serde(rename = "longest_freeze_ms", serialize_with = "as_ms")]
    pub longest_freeze: Option<Duration>,
    /// Its writer has found its disks torn, and does not write.
    pub torn: bool,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskView {
    /// `None` for the OS disk.
    pub lun: Option<u32>,
    /// Where it is mounted.
    pub mount_point: String,
    /// The disk's `uniqueId`.
    pub unique_id: String,
}

fn as_ms<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(to)
}

/// Simulated machines. Clones are handles to the same ones.
#[derive(Clone)]
pub struct SimulatedGuests(Arc<Shared>);

struct Shared {
    env: Env,
    reachable: bool,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    disks: Disks,
    /// Machines that are on; `None`: without coming up.
    machines: BTreeMap<String, Option<Machine>>,
    /// Where machines that are on can be reached; those that answer.
    ways_in: BTreeMap<String, Vec<SocketAddr>>,
    doors: BTreeMap<String, Vec<Door>>,
    longest_freezes: BTreeMap<String, Duration>,
    serial_logs: BTreeMap<String, String>,
    listeners: Vec<mpsc::UnboundedSender<PowerEvent>>,
}

impl SimulatedGuests {
    /// No machine is on, there is no disk. Times and boot ids come from `env`.
    pub fn new(env: Env) -> Self {
        Self(Arc::new(Shared { env, reachable: false, inside: Mutex::default() }))
    }

    /// The same, with machines that listen where their public addresses lead to: on loopback, inside a
    /// tokio runtime.
    pub fn reachable(env: Env) -> Self {
        Self(Arc::new(Shared { env, reachable: true, inside: Mutex::default() }))
    }

    /// The machines that are up, by vmId.
    pub fn machines(&self) -> Vec<MachineView> {
        let (inside, now) = (self.0.inside(), self.0.now());
        let up = inside.machines.iter().filter_map(|(id, machine)| Some((id, machine.as_ref()?)));
        up.map(|(id, machine)| inside.view(id, machine, now)).collect()
    }

    /// The machine, if it is up.
    pub fn machine(&self, vm_id: &str) -> Option<MachineView> {
        let (inside, now) = (self.0.inside(), self.0.now());
        let machine = inside.machines.get(vm_id)?.as_ref()?;
        Some(inside.view(vm_id, machine, now))
    }

    /// Machines that are up already, and from now on every machine that comes up or goes down.
    pub fn power_events(&self) -> mpsc::UnboundedReceiver<PowerEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (mut inside, now) = (self.0.inside(), self.0.now());
        for (id, machine) in &inside.machines {
            if let Some(machine) = machine {
                let _ = sender.send(PowerEvent::Up(inside.view(id, machine, now)));
            }
        }
        inside.listeners.push(sender);
        receiver
    }

    /// Stops all writing on the machine, until [`thaw`](Self::thaw) or its end.
    ///
    /// # Errors
    /// It is not up, or frozen already.
    pub fn freeze(&self, vm_id: &str) -> Result<(), GuestError> {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        inside.settle(vm_id, now)?;
        let machine = inside.up(vm_id)?;
        if machine.frozen.is_some() {
            return Err(GuestError::Frozen(vm_id.to_owned()));
        }
        machine.frozen = Some(now);
        Ok(())
    }

    /// Lets writing go on; how long the machine was frozen.
    ///
    /// # Errors
    /// It is not up, or not frozen.
    pub fn thaw(&self, vm_id: &str) -> Result<Duration, GuestError> {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        let machine = inside.up(vm_id)?;
        let since = machine.frozen.ok_or_else(|| GuestError::NotFrozen(vm_id.to_owned()))?;
        machine.thawed(now);
        inside.note_freeze(vm_id, now.since(since));
        Ok(now.since(since))
    }

    /// Whether the machine is up and frozen.
    pub fn is_frozen(&self, vm_id: &str) -> bool {
        self.0.inside().up(vm_id).is_ok_and(|machine| machine.frozen.is_some())
    }

    /// Writes a file on a mounted disk, durably.
    ///
    /// # Errors
    /// The machine is not up, or frozen: what would wait there for the thaw, fails here; or the disk
    /// is full.
    pub fn write_file(&self, vm_id: &str, path: &str, content: Bytes) -> Result<(), GuestError> {
        let mut inside = self.0.inside();
        let (name, path) = inside.place_to_write(vm_id, path)?;
        inside.disks.write(&name, &path, content)?;
        inside.disks.persist(&[&name])?;
        Ok(())
    }

    /// Removes a file; a missing one is no error. With a `/` at the end of the path: all files of
    /// that disk under it.
    ///
    /// # Errors
    /// As of [`write_file`](Self::write_file).
    pub fn remove_file(&self, vm_id: &str, path: &str) -> Result<(), GuestError> {
        let mut inside = self.0.inside();
        let (name, path) = inside.place_to_write(vm_id, path)?;
        Ok(inside.disks.remove_file(&name, &path)?)
    }

    /// The machine restarts itself, as after a panic: Azure has no part in it.
    ///
    /// # Errors
    /// It is not up, or its disks cannot be written.
    pub fn reboot(&self, vm_id: &str) -> Result<(), GuestError> {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        inside.up(vm_id)?;
        let boot_id = self.0.env.ids.uuid().to_string();
        inside.restart(vm_id, boot_id, now).map_err(|e| GuestError::Disk(io::Error::other(e)))
    }

    /// What a file on a mounted disk holds; `None`: there is no such file.
    ///
    /// # Errors
    /// The machine is not up.
    pub fn read_file(&self, vm_id: &str, path: &str) -> Result<Option<Bytes>, GuestError> {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        inside.settle(vm_id, now)?;
        let place = inside.up(vm_id)?.resolve(path);
        let (name, path) = place.ok_or_else(|| GuestError::NotMounted(path.to_owned()))?;
        let (name, path) = (name.to_owned(), path.to_owned());
        Ok(inside.disks.tree(&name).read(&path).cloned())
    }

    /// What a disk or snapshot holds now, by its `uniqueId`; `None`: there is none.
    pub fn tree(&self, unique_id: &str) -> Option<Tree> {
        self.0.inside().tree(unique_id, self.0.now())
    }

    /// Whether these disks or snapshots (by `uniqueId`) of one machine are from one instant. Disks in
    /// use are looked at in one.
    pub fn check<'u>(&self, unique_ids: impl IntoIterator<Item = &'u str>) -> Consistency {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        let trees: Option<Vec<Tree>> =
            unique_ids.into_iter().map(|id| inside.tree(id, now)).collect();
        match trees {
            Some(trees) => check(&trees),
            None => Consistency::Torn { why: "a disk is missing".into() },
        }
    }
}

fn content_name(unique_id: &str) -> String {
    format!("{unique_id}.raw")
}

impl Shared {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("no code panics while holding this lock")
    }

    fn now(&self) -> Monotonic {
        self.env.clock.monotonic()
    }
}

impl Inside {
    fn up(&mut self, vm_id: &str) -> Result<&mut Machine, GuestError> {
        let machine = self.machines.get_mut(vm_id).and_then(Option::as_mut);
        machine.ok_or_else(|| GuestError::NotUp(vm_id.to_owned()))
    }

    fn view(&self, vm_id: &str, machine: &Machine, now: Monotonic) -> MachineView {
        let disk = |(lun, name): &(Option<u32>, String)| DiskView {
            lun: *lun,
            mount_point: mount_point(*lun),
            unique_id: name.trim_end_matches(".raw").to_owned(),
        };
        let frozen = machine.frozen.map(|since| now.since(since));
        MachineView {
            vm_id: vm_id.to_owned(),
            name: machine.name.clone(),
            boot_id: machine.boot_id.clone(),
            disks: machine.disks.iter().map(disk).collect(),
            frozen,
            longest_freeze: frozen.max(self.longest_freezes.get(vm_id).copied()),
            torn: machine.found_torn(),
        }
    }

    fn tell(&mut self, event: &PowerEvent) {
        self.listeners.retain(|listener| listener.send(event.clone()).is_ok());
    }

    fn note_freeze(&mut self, vm_id: &str, time: Duration) {
        let longest = self.longest_freezes.entry(vm_id.to_owned()).or_default();
        *longest = time.max(*longest);
    }

    fn log(&mut self, vm_id: &str, line: &str) {
        let log = self.serial_logs.entry(vm_id.to_owned()).or_default();
        log.push_str(line);
        log.push_str("\r\n");
    }

    /// Brings a machine's disks up to now, as far as its writer is concerned.
    fn settle(&mut self, vm_id: &str, now: Monotonic) -> Result<(), GuestError> {
        let machine = self.machines.get_mut(vm_id).and_then(Option::as_mut);
        let machine = machine.ok_or_else(|| GuestError::NotUp(vm_id.to_owned()))?;
        let (log, data) = machine.ledger_disks();
        let (log, data) = (log.to_owned(), data.to_owned());
        let Some((wal, written)) = machine.settle(now) else { return Ok(()) };
        let (wal, written) = (wal.to_bytes(), written.to_bytes());
        let old = |disks: &Disks, name: &str, path| disks.tree(name).read(path).cloned();
        if old(&self.disks, &log, WAL).as_ref() == Some(&wal)
            && old(&self.disks, &data, DATA).as_ref() == Some(&written)
        {
            return Ok(());
        }
        self.disks.write(&log, WAL, wal)?;
        self.disks.write(&data, DATA, written)?;
        Ok(self.disks.persist(&[&log, &data])?)
    }

    /// The machine that is up with this disk.
    fn user_of(&self, name: &str) -> Option<String> {
        let uses = |machine: &Machine| machine.disks.iter().any(|(_, disk)| disk == name);
        let mut machines = self.machines.iter();
        machines.find(|(_, m)| m.as_ref().is_some_and(uses)).map(|(vm_id, _)| vm_id.clone())
    }

    fn settle_user_of(&mut self, name: &str, now: Monotonic) -> io::Result<()> {
        let Some(vm_id) = self.user_of(name) else { return Ok(()) };
        self.settle(&vm_id, now).map_err(io::Error::other)
    }

    fn tree(&mut self, unique_id: &str, now: Monotonic) -> Option<Tree> {
        let name = content_name(unique_id);
        self.settle_user_of(&name, now).ok()?;
        self.disks.get(&name).ok().map(|disk| disk.tree.clone())
    }

    fn place_to_write(&mut self, vm_id: &str, path: &str) -> Result<(String, String), GuestError> {
        let machine = self.up(vm_id)?;
        if machine.frozen.is_some() {
            return Err(GuestError::Frozen(vm_id.to_owned()));
        }
        let place = machine.resolve(path);
        let (name, path) = place.ok_or_else(|| GuestError::NotMounted(path.to_owned()))?;
        Ok((name.to_owned(), path.to_owned()))
    }

    fn boot(&mut self, spec: &GuestSpec, boot_id: String, now: Monotonic) {
        let file_name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
        let disks: Vec<(Option<u32>, String)> = spec
            .disks
            .iter()
            .map(|disk| (disk.lun, file_name(&disk.path).unwrap_or_default()))
            .collect();
        self.boot_from(&spec.vm_id, &spec.name, disks, boot_id, now);
    }

    fn boot_from(
        &mut self,
        vm_id: &str,
        name: &str,
        disks: Vec<(Option<u32>, String)>,
        boot_id: String,
        now: Monotonic,
    ) {
        let os_disk = disks.first().map(|(_, name)| self.disks.tree(name)).unwrap_or_default();
        if !os_disk.is_bootable() {
            self.log(vm_id, "No bootable device.");
            self.machines.insert(vm_id.to_owned(), None);
            return;
        }
        self.log(vm_id, &format!("Simulated Linux, boot {boot_id}"));
        let machine = Machine::boot(name, boot_id, disks, now, |name| self.disks.tree(name));
        if machine.found_torn() {
            self.log(vm_id, "ledger: the log and the data do not belong together");
        }
        self.log(vm_id, &format!("{name} login: "));
        if os_disk.read(SSH_SERVER).is_some() {
            let ways = self.ways_in.get(vm_id).into_iter().flatten();
            self.doors.insert(vm_id.to_owned(), ways.copied().map(Door::open).collect());
        }
        let event = PowerEvent::Up(self.view(vm_id, &machine, now));
        self.machines.insert(vm_id.to_owned(), Some(machine));
        self.tell(&event);
    }

    fn restart(&mut self, vm_id: &str, boot_id: String, now: Monotonic) -> anyhow::Result<()> {
        if let Some(machine) = self.end(vm_id, now)? {
            self.boot_from(vm_id, &machine.name, machine.disks, boot_id, now);
        }
        Ok(())
    }

    /// Ends a machine; what it was, if it was up.
    fn end(&mut self, vm_id: &str, now: Monotonic) -> anyhow::Result<Option<Machine>> {
        let settled = self.settle(vm_id, now);
        self.doors.remove(vm_id);
        let Some(machine) = self.machines.remove(vm_id).flatten() else { return Ok(None) };
        if let Some(since) = machine.frozen {
            self.note_freeze(vm_id, now.since(since));
        }
        let boot_id = machine.boot_id.clone();
        self.tell(&PowerEvent::Down { vm_id: vm_id.to_owned(), boot_id });
        settled?;
        Ok(Some(machine))
    }
}

#[async_trait]
impl Guests for SimulatedGuests {
    fn contents(
        &self,
        state_dir: Option<&Path>,
        durability: Durability,
    ) -> io::Result<Option<Arc<dyn Contents>>> {
        if let Some(dir) = state_dir {
            let disks = Disks::load(dir, durability != Durability::None)?;
            self.0.inside().disks = disks;
        }
        Ok(Some(self.0.clone()))
    }

    fn serial_log(&self, vm_id: &str) -> Option<Bytes> {
        self.0.inside().serial_logs.get(vm_id).map(|log| log.clone().into())
    }

    fn simulated(&self) -> Option<&Self> {
        Some(self)
    }

    async fn start(&self, spec: &GuestSpec) -> anyhow::Result<()> {
        let mut inside = self.0.inside();
        if !inside.machines.contains_key(&spec.vm_id) {
            if self.0.reachable {
                let ways = spec.forwards.iter().map(|forward| forward.listen).collect();
                inside.ways_in.insert(spec.vm_id.clone(), ways);
            }
            let boot_id = self.0.env.ids.uuid().to_string();
            inside.boot(spec, boot_id, self.0.now());
        }
        Ok(())
    }

    async fn power_off(&self, vm_id: &str) -> anyhow::Result<()> {
        let mut inside = self.0.inside();
        inside.ways_in.remove(vm_id);
        inside.end(vm_id, self.0.now()).map(|_| ())
    }

    async fn restart(&self, vm_id: &str) -> anyhow::Result<()> {
        let boot_id = self.0.env.ids.uuid().to_string();
        self.0.inside().restart(vm_id, boot_id, self.0.now())
    }

    async fn is_running(&self, vm_id: &str) -> bool {
        self.0.inside().machines.contains_key(vm_id)
    }

    /// Not called: the disks are not files.
    async fn snapshot_disk(
        &self,
        _vm_id: Option<&str>,
        source: &Path,
        _target: &Path,
        _at_instant: Box<dyn FnOnce() + Send>,
    ) -> anyhow::Result<()> {
        anyhow::bail!("{} is no file", source.display())
    }

    async fn shut_down(&self) {
        let (mut inside, now) = (self.0.inside(), self.0.now());
        let on: Vec<String> = inside.machines.keys().cloned().collect();
        for vm_id in on {
            if let Err(error) = inside.end(&vm_id, now) {
                tracing::error!(vm_id, error = format!("{error:#}"), "a machine ended badly");
            }
        }
    }
}

impl Contents for Shared {
    fn create_empty(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        self.inside().disks.insert(name, Disk { size_bytes, ..Disk::default() })
    }

    fn import(&self, name: &str, image: &Path) -> io::Result<u64> {
        let bytes = std::fs::read(image)?;
        let tree = Tree::from_bytes(&bytes);
        let tree = tree.ok_or_else(|| io::Error::other("the image is not a tree of files"))?;
        let size_bytes = bytes.len() as u64;
        self.inside().disks.insert(name, Disk { size_bytes, tree })?;
        Ok(size_bytes)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.inside();
        let size_bytes = inside.disks.get(name)?.size_bytes;
        let tree = Tree::from_bytes(bytes).filter(|_| offset == 0);
        let tree = tree.ok_or_else(|| io::Error::other("only whole trees are written"))?;
        inside.disks.insert(name, Disk { size_bytes, tree })
    }

    fn grow(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        self.inside().disks.grow(name, size_bytes)
    }

    fn share(&self, source: &str, target: &str) -> io::Result<()> {
        let mut inside = self.inside();
        let disk = inside.disks.get(source)?.clone();
        inside.disks.insert(target, disk)
    }

    fn capture(&self, source: &str, target: &str) -> io::Result<()> {
        let (mut inside, now) = (self.inside(), self.now());
        inside.settle_user_of(source, now)?;
        let disk = inside.disks.get(source)?.clone();
        inside.disks.insert(target, disk)?;
        if let Some(vm_id) = inside.user_of(source)
            && let Ok(machine) = inside.up(&vm_id)
        {
            machine.looked_at();
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inside().disks.remove(name)
    }

    fn data_ranges(&self, name: &str) -> io::Result<Vec<(u64, u64)>> {
        let mut inside = self.inside();
        inside.settle_user_of(name, self.now())?;
        Ok(vec![(0, inside.disks.get(name)?.tree.size_bytes())])
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Bytes> {
        let mut inside = self.inside();
        inside.settle_user_of(name, self.now())?;
        let disk = inside.disks.get(name)?;
        part(&[(0, disk.tree.to_bytes())], disk.size_bytes, offset, length)
    }

    fn is_instant(&self) -> bool {
        !self.inside().disks.is_durable()
    }
}
