//! How soon the thaw process acts, whatever happens, and what it needs for that.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use azdr_thawd_client::{Cause, Outcome, Reply, Report, Request, State, monotonic_ns};

use crate::freeze::{Scene, roots, scene, wait_until_passed};
use crate::loop_mount::{LoopMount, Writer, wait_for};
use crate::thawd_process::{
    ForeignFreeze, Thawd, agent_process, frozen, hold, id, last_result, send_signal, status_field,
    thawed, threads,
};

crate::tests! {
    the_agents_death_thaws_within_100_ms: ["mkfs.ext4"],
    a_stopped_agents_lease_ends_after_three_seconds: ["mkfs.ext4"],
    a_freeze_stuck_on_its_disk_holds_up_no_other_and_is_thawed_when_it_completes:
        ["mkfs.ext4", "fsfreeze"],
    a_freezer_killed_while_stuck_leaves_nothing_frozen: ["mkfs.ext4", "fsfreeze"],
    a_thousand_races_of_thaw_against_freeze_leave_nothing_frozen: ["mkfs.ext4"],
    no_page_is_faulted_in_between_armed_and_thawed: ["mkfs.ext4"],
    memory_swapped_to_the_frozen_file_system_does_not_delay_the_thaw:
        ["mkfs.ext4", "mkswap", "swapon", "swapoff"],
}

/// First argument of this test binary when it plays a program that uses too much memory.
pub(crate) const HOG_ROLE: &str = "play-a-memory-hog";

/// The last FITHAW's return.
fn thawed_ns(report: &Report) -> u64 {
    report.entries().iter().map(|entry| entry.to_ns).max().unwrap()
}

/// The best of a few tries is asserted, since this machine may be busy with something else.
fn the_agents_death_thaws_within_100_ms() {
    let scene = scene(2);
    let paths: Vec<_> = scene.mounts.iter().map(LoopMount::path).collect();
    let tries = (0..5).map(|n| {
        let operation = format!("op-{n}");
        let mut agent = agent_process(scene.thawd.socket(), &operation, 10_000, &paths);
        let killed_ns = monotonic_ns();
        agent.kill().unwrap();
        agent.wait().unwrap();
        let report = last_result(&scene.thawd, &operation);
        assert_eq!(report.cause, Cause::AgentDied);
        assert!(!report.unbroken());
        let took = Duration::from_nanos(thawed_ns(&report) - killed_ns);
        assert!(took < Duration::from_secs(1), "{took:?}");
        took
    });
    let tries: Vec<_> = tries.collect();
    println!("thawed after the kill of the agent: {tries:?}");
    assert!(tries.iter().min().unwrap() <= &Duration::from_millis(100), "{tries:?}");
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

fn a_stopped_agents_lease_ends_after_three_seconds() {
    let scene = scene(1);
    let tries = (0..3).map(|n| {
        let operation = format!("op-{n}");
        let path = [scene.mounts[0].path()];
        let mut agent = agent_process(scene.thawd.socket(), &operation, 3_000, &path);
        send_signal("STOP", agent.id());
        scene.mounts[0].assert_writable();
        // Its connection is the only one that is served.
        agent.kill().unwrap();
        agent.wait().unwrap();
        let report = last_result(&scene.thawd, &operation);
        assert_eq!((report.cause, report.unbroken()), (Cause::LeaseExpired, false));
        let held = Duration::from_nanos(thawed_ns(&report) - report.entries()[0].frozen_ns);
        assert!((2_950..4_000).contains(&held.as_millis()), "{held:?}");
        held
    });
    let tries: Vec<_> = tries.collect();
    println!("held under a lease of 3 s: {tries:?}");
    assert!(tries.iter().min().unwrap() <= &Duration::from_millis(3_100), "{tries:?}");
    scene.mounts[0].assert_writable();
}

/// One file system whose freeze cannot complete, since its image lies on one that somebody else has
/// frozen, and another one.
struct Stuck {
    thawd: Thawd,
    other: LoopMount,
    inner: LoopMount,
    outer: LoopMount,
    _folder: tempfile::TempDir,
}

impl Stuck {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let thawd = Thawd::start(folder.path());
        let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
        let inner = LoopMount::ext4(outer.path(), "inner");
        let other = LoopMount::ext4(folder.path(), "other");
        Self { thawd, other, inner, outer, _folder: folder }
    }
}

fn a_freeze_stuck_on_its_disk_holds_up_no_other_and_is_thawed_when_it_completes() {
    let stuck = Stuck::new();
    let (dirty, writer) = (Writer::start(stuck.inner.path()), Writer::start(stuck.other.path()));
    let below = ForeignFreeze::of(&stuck.outer);
    let client = stuck.thawd.client();
    let prepare = hold("op-1", 10_000, 25_000, &[0, 0]);
    client.prepare(prepare, &[stuck.other.root().as_fd(), stuck.inner.root().as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let started_ns = monotonic_ns();
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    // Not before the limit: then the other one is thawed at once.
    assert_eq!(client.receive().unwrap(), Reply::Status(prepare.operation, State::Poisoned));
    let poisoned = Duration::from_nanos(monotonic_ns() - started_ns);
    assert!((3_900..6_000).contains(&poisoned.as_millis()), "{poisoned:?}");
    writer.assert_goes_on(Duration::from_secs(2));
    stuck.other.assert_writable();
    assert_eq!(client.status().unwrap(), (prepare.operation, State::Poisoned));
    assert!(below.thaw(), "the foreign freeze is left alone");
    let report = thawed(&client);
    assert_eq!((report.cause, report.unbroken()), (Cause::FreezeFailed, false));
    let [other, inner] = report.entries() else { panic!("{report:?}") };
    assert_eq!((other.outcome, inner.outcome), (Outcome::Thawed, Outcome::Thawed));
    let held = Duration::from_nanos(other.to_ns - other.from_ns);
    assert!((2_900..5_000).contains(&held.as_millis()), "{held:?}: the limit is 3 s");
    assert!(inner.frozen_ns > other.to_ns, "its freeze completed late");
    dirty.assert_goes_on(Duration::from_secs(5));
    for mount in [&stuck.inner, &stuck.other, &stuck.outer] {
        mount.assert_writable();
    }
}

/// A killed FIFREEZE completes all the same (AGENT.md, kernel fact 5). The other one is in flight, too,
/// when the freezer is killed early.
fn a_freezer_killed_while_stuck_leaves_nothing_frozen() {
    for early in [false, true] {
        kill_a_stuck_freezer(early);
    }
}

fn kill_a_stuck_freezer(early: bool) {
    let stuck = Stuck::new();
    let (dirty, writer) = (Writer::start(stuck.inner.path()), Writer::start(stuck.other.path()));
    let below = ForeignFreeze::of(&stuck.outer);
    let client = stuck.thawd.client();
    let prepare = hold("op-1", 10_000, 25_000, &[0, 0]);
    client.prepare(prepare, &[stuck.other.root().as_fd(), stuck.inner.root().as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let freezer = stuck.thawd.freezer();
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    let mut threads = threads(freezer);
    threads.sort_unstable();
    let blocked = || status_field(threads[2], "State") == "D";
    wait_for("the second FIFREEZE to block", Duration::from_secs(5), blocked);
    if !early {
        writer.assert_blocked();
    }
    send_signal("KILL", freezer);
    assert_eq!(client.receive().unwrap(), Reply::Status(prepare.operation, State::Poisoned));
    writer.assert_goes_on(Duration::from_secs(2));
    stuck.other.assert_writable();
    assert!(below.thaw(), "the foreign freeze is left alone");
    let report = thawed(&client);
    assert!(!report.unbroken(), "{report:?}");
    assert!(report.entries().iter().all(|entry| entry.outcome != Outcome::Frozen), "{report:?}");
    dirty.assert_goes_on(Duration::from_secs(5));
    for mount in [&stuck.inner, &stuck.other, &stuck.outer] {
        assert!(!mount.thaw(), "left frozen");
        mount.assert_writable();
    }
}

/// Offsets from 0 to 60 ms, in four machines at once: most of the time is the kernel's waiting.
fn a_thousand_races_of_thaw_against_freeze_leave_nothing_frozen() {
    const MACHINES: u64 = 4;
    const ROUNDS: u64 = 250;
    let race = |machine: u64| {
        let scene = scene(1);
        let client = scene.thawd.client();
        let mut frozen_first = 0;
        for round in 0..ROUNDS {
            let prepare = hold(&format!("op-{round}"), 3_000, 10_000, &[0]);
            client.prepare(prepare, &roots(&scene.mounts)).unwrap();
            assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
            client.send(&Request::Freeze(prepare.operation)).unwrap();
            let place = round * MACHINES + machine;
            wait_until_passed(Duration::from_micros(place * 60_000 / (MACHINES * ROUNDS)));
            client.send(&Request::Thaw(prepare.operation)).unwrap();
            let report = loop {
                match client.receive().unwrap() {
                    Reply::Frozen(_) => frozen_first += 1,
                    Reply::Thawed(report) => break report,
                    // A disk that is busy with something else can hold up a FIFREEZE for a second.
                    Reply::Status(_, State::Poisoned) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert!(report.entries().iter().all(|e| e.outcome != Outcome::InFlight));
            assert!(!scene.mounts[0].thaw(), "round {round} of {machine}: left frozen");
        }
        scene.mounts[0].assert_writable();
        frozen_first
    };
    let frozen_first: Vec<u64> = std::thread::scope(|scope| {
        let machines: Vec<_> = (0..MACHINES).map(|m| scope.spawn(move || race(m))).collect();
        machines.into_iter().map(|machine| machine.join().unwrap()).collect()
    });
    println!(
        "the freeze was first in {} of {}",
        frozen_first.iter().sum::<u64>(),
        MACHINES * ROUNDS
    );
}

/// Minor and major faults of a process, also of one that has ended and was not waited for.
fn faults(pid: u32) -> (u64, u64) {
    fault_counts(pid, [7, 9])
}

/// The same of its children that have ended and were waited for.
fn faults_of_children(pid: u32) -> (u64, u64) {
    fault_counts(pid, [8, 10])
}

fn fault_counts(pid: u32, [minor, major]: [usize; 2]) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Counted from the state, the third field.
    (fields[minor].parse().unwrap(), fields[major].parse().unwrap())
}

/// Whatever memory is short of: everything that is needed is there, and locked.
fn no_page_is_faulted_in_between_armed_and_thawed() {
    let scene: Scene = scene(2);
    let client = scene.thawd.client();
    // The code itself has been used once: what the first operation loads stays loaded.
    frozen(&client, hold("op-1", 3_000, 10_000, &[0, 1]), &roots(&scene.mounts));
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    thawed(&client);
    let prepare = hold("op-2", 3_000, 10_000, &[0, 1]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let (supervisor, operation) = (scene.thawd.supervisor(), scene.thawd.operation());
    let freezer = scene.thawd.freezer();
    let before = [supervisor, operation, freezer].map(faults);
    assert_eq!(faults_of_children(operation), (0, 0), "the freezer is the only one");
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    let Reply::Frozen(_) = client.receive().unwrap() else { panic!("not frozen") };
    // A supervisor that does not wait for it leaves its numbers to be read after its end.
    send_signal("STOP", supervisor);
    client.send(&Request::Thaw(prepare.operation)).unwrap();
    assert!(thawed(&client).unbroken());
    let state = || status_field(operation, "State");
    wait_for("the operation's end", Duration::from_secs(5), || state() == "Z");
    let after = [faults(supervisor), faults(operation), faults_of_children(operation)];
    send_signal("CONT", supervisor);
    println!("page faults of supervisor, operation and freezer when armed: {before:?}");
    assert_eq!(after, before, "minor and major page faults");
    let gone = || !Path::new(&format!("/proc/{operation}")).exists();
    wait_for("its supervisor", Duration::from_secs(5), gone);
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

/// A control group whose processes have little memory. Dropping it removes it, once they have ended.
struct LittleMemory(PathBuf);

impl LittleMemory {
    fn new(bytes: u64) -> Self {
        let name = format!("azdr-test-{}", std::process::id());
        // The older and the newer kind.
        let kinds =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let there = kinds.iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            match std::fs::write(folder.join(limit), bytes.to_string()) {
                Ok(()) => Some(Self(folder)),
                Err(_) => {
                    std::fs::remove_dir(folder).unwrap();
                    None
                }
            }
        });
        there.expect("control groups for memory")
    }

    fn put(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for LittleMemory {
    fn drop(&mut self) {
        let gone = || std::fs::remove_dir(&self.0).is_ok();
        wait_for("the end of a control group", Duration::from_secs(10), gone);
    }
}

/// A swap file in use, and a program that needs it. Dropping it ends both.
struct Hog {
    child: Child,
    swap: PathBuf,
    group: Option<LittleMemory>,
}

impl Hog {
    fn start(folder: &Path) -> Self {
        let swap = folder.join("swap");
        std::fs::write(&swap, vec![0; 128 << 20]).unwrap();
        std::fs::set_permissions(&swap, PermissionsExt::from_mode(0o600)).unwrap();
        for tool in ["mkswap", "swapon"] {
            let done = Command::new(tool).arg(&swap).output().unwrap();
            assert!(done.status.success(), "{tool}: {done:?}");
        }
        let group = LittleMemory::new(24 << 20);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(HOG_ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        group.put(child.id());
        child.stdin.take().unwrap().write_all(b"g").unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        Self { child, swap, group: Some(group) }
    }

    /// Pages that it had to read back.
    fn major_faults(&self) -> u64 {
        faults(self.child.id()).1
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.group.take());
        let off = Command::new("swapoff").arg(&self.swap).status();
        assert!(off.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Touches more memory than it may have, again and again.
pub(crate) fn be_a_memory_hog() {
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let mut memory = vec![0u8; 96 << 20];
    let mut round = 0;
    while memory.iter_mut().step_by(4096).map(|byte| *byte = byte.wrapping_add(1)).count() > 0 {
        round += 1;
        if round == 2 {
            println!("all is in use");
        }
    }
}

fn memory_swapped_to_the_frozen_file_system_does_not_delay_the_thaw() {
    let folder = tempfile::tempdir().unwrap();
    let thawd = Thawd::start(folder.path());
    let mount = LoopMount::ext4_of(folder.path(), "disk", "256M");
    let hog = Hog::start(mount.path());
    // How much is swapped in a second depends on the machine.
    let swapped = (1..=5).any(|n| {
        let client = thawd.client();
        let prepare = hold(&format!("op-{n}"), 10_000, 1_000, &[0]);
        client.prepare(prepare, &[mount.root().as_fd()]).unwrap();
        assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
        let operation = thawd.operation();
        let before = faults(operation);
        client.send(&Request::Freeze(prepare.operation)).unwrap();
        let Reply::Frozen(_) = client.receive().unwrap() else { panic!("not frozen") };
        let (since, until) = (hog.major_faults(), monotonic_ns() + 800_000_000);
        let swapped = || hog.major_faults() - since > 50;
        wait_for("swapping", Duration::from_secs(5), || swapped() || monotonic_ns() > until);
        let swapped = swapped();
        assert_eq!(faults(operation), before, "minor and major page faults");
        let report = thawed(&client);
        assert_eq!((report.cause, report.refused_calls), (Cause::HoldLimit, 0));
        println!("held {} ms under a limit of 1,000", report.window_ms());
        assert!(report.window_ms() < 1_500, "{report:?}");
        swapped
    });
    assert!(swapped, "nothing was swapped while frozen");
    drop(hog);
    mount.assert_writable();
}
