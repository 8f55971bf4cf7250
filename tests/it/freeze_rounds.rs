//! Backups whose parts die at random: the controller, the agent, both halves of its thaw process, the network
//! between them. The file systems are real and so are all of azdr's processes; Azure is the simulated one. From
//! a seed; as many as `AZDR_FREEZE_ROUNDS` says (10), from `AZDR_FREEZE_SEED` (1).
//!
//! After every round everything takes writes. What the catalogue says of a freeze is held against a writer that
//! notes when it wrote: to a file system whose freeze is said to have held nobody wrote from when the snapshots
//! were asked for until the thaw was; and of a recovery point that is `filesystem`, to none, until the last
//! snapshot was done. In the end it prints how long file systems were frozen.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use azdr_env::{Clock, Ids, SeededIds, SystemClock, WallTime};
use azdr_tests::cable::Cable;
use azdr_tests::host_agent::HostAgent;
use azdr_tests::mounted::Mounted;
use azdr_tests::poll::{Look, pause, until};
use azdr_tests::process::Daemon;
use azdr_tests::protection::protect_and_keep_all;
use azdr_tests::{Lab, Vm, World, judge};
use serde_json::{Value, json};

use crate::setup::{Needs, Stage, Test};
use crate::simulated_guests::agent_is_connected;

pub(crate) const TESTS: &[Test] = &[Test {
    name: "whatever_dies_in_a_backup_nothing_stays_frozen_and_nothing_is_claimed_wrongly",
    needs: Needs::Mounts,
    body: rounds,
}];

const LIMIT: Duration = Duration::from_secs(60);
/// The longest that anything stays frozen by default, and until that is seen on a busy machine.
const HOLD: Duration = Duration::from_secs(10 + 5);
/// How long Azure takes to begin a snapshot, so that there is a window to strike in.
const SNAPSHOT_MS: u64 = 60;
/// Strikes come within so long after a backup was asked for: before, in and after its window.
const STRIKES_MS: u64 = 600;
/// What two clocks' roundings to milliseconds, and the time between a look at the clock and what is done
/// then, can make of an interval's ends.
const ROUNDING_MS: i64 = 2;
/// Of recovery points; an Azure disk has at most 500 snapshots.
const KEPT: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Nothing,
    AgentKilled,
    ControllerKilled,
    NetworkCut,
    OperationKilled,
    FreezerKilled,
    SupervisorKilled,
    BothHalvesKilled,
    ThawedByOther,
}

impl Event {
    /// A third of the rounds is left alone.
    fn from(dice: u64) -> Self {
        use Event::*;
        const ALL: [Event; 12] = [
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            AgentKilled,
            ControllerKilled,
            NetworkCut,
            OperationKilled,
            FreezerKilled,
            SupervisorKilled,
            BothHalvesKilled,
            ThawedByOther,
        ];
        ALL[(dice % 12) as usize]
    }
}

/// When something was written: from before to after, ms since 1970.
type Written = (i64, i64);

/// Writes to a file system without rest and notes when.
struct Observer {
    root: File,
    written: Arc<Mutex<Vec<Written>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    fn start(mount: &Path) -> Result<Self> {
        let file = File::create(mount.join("written"))?;
        let (written, stop) = (Arc::<Mutex<Vec<Written>>>::default(), Arc::<AtomicBool>::default());
        let (noted, stopped) = (written.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let clock = SystemClock::new();
            let now = || clock.wall().unix_ms();
            while !stopped.load(SeqCst) {
                let before = now();
                // What cannot be written is not noted, and the round finds that nobody writes.
                if file.write_at(b"line\n", 0).is_ok() {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push((before, now()));
                }
                pause(Duration::from_micros(300));
            }
        });
        Ok(Self { root: File::open(mount)?, written, stop, thread: Some(thread) })
    }

    fn written(&self) -> Vec<Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Thaws it as another program would; true when it was frozen.
    fn thaw(&self) -> bool {
        azdr_thawd_client::thaw_file_system(self.root.as_fd()).is_ok()
    }

    fn goes_on(&self) -> Result<()> {
        let before = self.written().len();
        until("the writer goes on", HOLD, || {
            let now = self.written().len();
            Ok(if now > before + 1 {
                Look::Done(())
            } else {
                Look::Waiting(format!("{now} writes"))
            })
        })
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // After a failure it may be frozen still: nobody could unmount it, nor end the writer.
        while self.thaw() {}
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// In the order of dropping: what is frozen goes after everything that holds it.
struct Scene {
    agent: Daemon,
    thawd: Daemon,
    lab: Lab,
    cable: Cable,
    machine: HostAgent,
    observers: BTreeMap<PathBuf, Observer>,
    _mounts: Vec<Mounted>,
}

#[derive(Default)]
struct Tally {
    rounds: BTreeMap<Event, Count>,
    /// Of undisturbed rounds, ms.
    frozen: Vec<i64>,
    /// Why rounds that should have been were not `filesystem`.
    doubts: Vec<String>,
}

#[derive(Default)]
struct Count {
    rounds: u32,
    /// Where it struck while the thaw process was at work.
    met: u32,
    /// Whose point is `filesystem`.
    whole: u32,
}

/// So many rounds of an event meet an operation at least once, by any dice.
const MANY: u32 = 30;

fn rounds(stage: &Stage) -> Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(Ok(default), |text| text.parse().context(name.to_owned()))
    };
    let (rounds, seed) = (number("AZDR_FREEZE_ROUNDS", 10)?, number("AZDR_FREEZE_SEED", 1)?);
    let dice = SeededIds::new(seed);
    let mut scene = scene(stage)?;
    let mut tally = Tally::default();
    for round in 0..rounds {
        let event = Event::from(dice.u64());
        let offset = Duration::from_millis(dice.u64() % STRIKES_MS);
        one_round(&mut scene, event, offset, &mut tally).with_context(|| {
            format!("round {round} from seed {seed}: {event:?} after {offset:?}")
        })?;
    }
    show(&mut tally, rounds, seed);
    let undisturbed = tally.rounds.get(&Event::Nothing).map_or(0, |count| count.rounds) as usize;
    let proved = tally.frozen.len() * 2 >= undisturbed && undisturbed > 0;
    ensure!(proved || rounds < 10, "too little could be frozen: {:?}", tally.doubts);
    for (event, count) in &tally.rounds {
        ensure!(count.met > 0 || count.rounds < MANY, "{event:?} never met a freeze");
    }
    scene.lab.simulator.set_faults(&json!([]))?;
    judge::at_rest(&scene.lab, &["db"])
}

fn scene(stage: &Stage) -> Result<Scene> {
    let mut mounts = Vec::new();
    let mut observers = BTreeMap::new();
    for (name, size_mib, mkfs) in
        [("ext4", 64, &["mkfs.ext4", "-q", "-F"][..]), ("xfs", 320, &["mkfs.xfs", "-q", "-f"])]
    {
        // ext4 twice where there is no xfs.
        let there = azdr_tests::programs::is_installed(mkfs[0]);
        let mkfs = if there { mkfs } else { &["mkfs.ext4", "-q", "-F"] };
        let (image, at) = (stage.folder.join(format!("{name}.image")), stage.folder.join(name));
        mounts.push(Mounted::new(&image, &at, size_mib, mkfs)?);
        observers.insert(at.clone(), Observer::start(&at)?);
    }
    let lab = stage.lab(World { vms: vec![Vm::new("data", "db").with_data_disk()] })?;
    let vm_id = lab.simulator.listing()?.vm("data", "db")?.vm_id().to_owned();
    let cable = Cable::to(lab.controller.addresses().agent)?;
    let places: Vec<PathBuf> = observers.keys().cloned().collect();
    let machine = stage.host_agent("agent", &lab, &vm_id)?;
    let machine = machine.freezing(&places, cable.address(), &vm_id)?;
    let enrolled = machine.enrol(&lab.azdr.json(&["agent", "token", "db"])?)?;
    ensure!(enrolled.status.success(), "{}", enrolled.stderr);
    let thawd = machine.start_thaw_process()?;
    let agent = machine.start()?;
    agent_is_connected(&lab, "db")?;
    protect_and_keep_all(&lab, "db")?;
    Ok(Scene { agent, thawd, lab, cable, machine, observers, _mounts: mounts })
}

fn one_round(scene: &mut Scene, event: Event, offset: Duration, tally: &mut Tally) -> Result<()> {
    scene.observers.values().for_each(Observer::forget);
    scene.lab.simulator.set_faults(&json!([{
        "match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "count": 100},
        "action": {"delay_ms": SNAPSHOT_MS},
    }]))?;
    let job = scene.lab.azdr.start_job(&["backup", "trigger", "db"])?;
    pause(offset);
    let met = strike(scene, event);
    for observer in scene.observers.values() {
        observer.goes_on()?;
    }
    recover(scene)?;
    let ended = scene.lab.job_ended(job, LIMIT)?;
    ensure!(ended["state"] == "succeeded", "{ended:#}");
    for (place, observer) in &scene.observers {
        observer.goes_on()?;
        ensure!(!observer.thaw(), "{} was left frozen", place.display());
    }
    let points = scene.lab.azdr.points("db")?;
    let name = points.first().and_then(|p| p["name"].as_str()).context("no recovery point")?;
    let point = scene.lab.azdr.json(&["backup", "show", name])?;
    let proved = what_is_said_holds(scene, &point)?;
    let count = tally.rounds.entry(event).or_default();
    count.rounds += 1;
    count.met += u32::from(met);
    count.whole += u32::from(proved);
    let reason = point["point"]["consistency_reason"].as_str().unwrap_or_default();
    if matches!(event, Event::Nothing | Event::ControllerKilled) && !proved {
        // Who asks the agent again as soon as it is back is heard. (A busy machine may be too slow for its
        // limits, and somebody else on it may check a file system, which forbids a freeze.)
        ensure!(!reason.contains("connection ended"), "{reason}: {:#}", point["capture"]);
        tally.doubts.push(format!("{event:?}: {reason}"));
    }
    if event == Event::Nothing && proved {
        tally.frozen.extend(freezes(&point).iter().filter_map(|f| f["frozen_ms"].as_i64()));
    }
    for old in points.iter().skip(KEPT) {
        let name = old["name"].as_str().context("a point has a name")?;
        scene.lab.azdr.run(&["backup", "delete", name, "--yes"])?.ok()?;
    }
    Ok(())
}

fn freezes(point: &Value) -> Vec<&Value> {
    point["capture"]["file_systems"].as_array().into_iter().flatten().collect()
}

/// Whether a recovery point claims that everything was frozen; and what it claims is what was observed.
fn what_is_said_holds(scene: &Scene, point: &Value) -> Result<bool> {
    let capture = &point["capture"];
    let begun = point["point"]["created_at"].as_str().context("a point has a time")?;
    let begun = begun.parse::<WallTime>().map_err(|e| anyhow!("{e}"))?.unix_ms();
    let nobody_wrote = |freeze: &Value, until_ms: Option<i64>| -> Result<()> {
        let place = freeze["mount_point"].as_str().unwrap_or_default();
        let observer = scene.observers.get(Path::new(place)).context("frozen, though not named")?;
        let until_ms = until_ms.with_context(|| format!("no end: {capture:#}"))?;
        let (from, to) = (begun + ROUNDING_MS, begun + until_ms - ROUNDING_MS);
        let mut written = observer.written();
        ensure!(written.first().is_some_and(|w| w.0 < from), "it was not observed from the start");
        written.retain(|&(before, after)| before >= from && after <= to);
        ensure!(
            written.is_empty(),
            "written to {place} in the {until_ms} ms after {begun}, at {written:?}: {point:#}"
        );
        Ok(())
    };
    for freeze in freezes(point).into_iter().filter(|f| f["level"] == "filesystem") {
        nobody_wrote(freeze, capture["thaw_asked_ms"].as_i64())?;
    }
    let whole = point["point"]["consistency"] == "filesystem";
    if whole {
        let frozen = freezes(point);
        ensure!(frozen.len() == scene.observers.len(), "not every file system: {capture:#}");
        let disks = capture["disks"].as_array().context("a capture has disks")?;
        ensure!(disks.len() == 2, "not every disk: {capture:#}");
        for (freeze, disk) in frozen.into_iter().flat_map(|f| disks.iter().map(move |d| (f, d))) {
            nobody_wrote(freeze, disk["done_ms"].as_i64())?;
        }
    }
    Ok(whole)
}

/// Whether it met the thaw process at work.
fn strike(scene: &mut Scene, event: Event) -> bool {
    use Event::*;
    // Gone where no backup is being taken, or not any more.
    let operation = child_of(scene.thawd.id());
    match event {
        Nothing => {}
        AgentKilled => scene.agent.kill(),
        ControllerKilled => scene.lab.controller.kill(),
        NetworkCut => scene.cable.pull_out(),
        OperationKilled => return kill(operation),
        FreezerKilled => return kill(operation.and_then(child_of)),
        SupervisorKilled => scene.thawd.kill(),
        BothHalvesKilled => {
            // The supervisor first: otherwise it thaws.
            scene.thawd.kill();
            return kill(operation);
        }
        ThawedByOther => return scene.observers.values().next().is_some_and(Observer::thaw),
    }
    operation.is_some()
}

/// The youngest.
fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().last()?.parse().ok()
}

/// Ends a process of the thaw process's, which may have ended by itself; whether it had not.
fn kill(pid: Option<u32>) -> bool {
    let program = |pid| std::fs::read_link(format!("/proc/{pid}/exe"));
    let Some(pid) = pid.filter(|&pid| program(pid).is_ok_and(|p| p.ends_with("azdr-thawd"))) else {
        return false;
    };
    // SAFETY: no memory is passed.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) == 0 }
}

/// Starts what has died, and waits until the agent is connected.
fn recover(scene: &mut Scene) -> Result<()> {
    scene.cable.put_in();
    if !scene.thawd.is_running() {
        scene.thawd = scene.machine.start_thaw_process()?;
    }
    if !scene.agent.is_running() {
        scene.agent = scene.machine.start()?;
    }
    if !scene.lab.controller.daemon().is_ok_and(Daemon::is_running) {
        scene.lab.controller.start()?;
    }
    agent_is_connected(&scene.lab, "db")
}

fn show(tally: &mut Tally, rounds: u64, seed: u64) {
    println!("{rounds} backups from seed {seed}:");
    for (event, Count { rounds, met, whole }) in &tally.rounds {
        println!("  {event:?}: {rounds}, meeting a freeze: {met}, filesystem: {whole}");
    }
    tally.frozen.sort_unstable();
    let at = |percent: usize| {
        tally.frozen.get((tally.frozen.len() * percent / 100).min(tally.frozen.len().max(1) - 1))
    };
    if let (Some(p50), Some(p99), Some(max)) = (at(50), at(99), at(100)) {
        println!("  frozen, of undisturbed ones: p50 {p50} ms, p99 {p99} ms, max {max} ms");
    }
    for doubt in &tally.doubts {
        println!("  not filesystem: {doubt}");
    }
}
