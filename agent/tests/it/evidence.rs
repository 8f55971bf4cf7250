//! What a freeze is worth: `unbroken` is said only with every proof, and what is missing is named.
//! Ends of every test: all file systems take writes, and nobody sleeps uninterruptibly.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{FileSystemWindow, FreezeOutcome, QuiesceState, RenewLease, ThawCause};
use azdr_thawd_client::monotonic_ns;

use crate::foreign_freezer::{self, AzuresFreezer, ForeignThaw};
use crate::freeze::{Scene, beat_in, freeze, freeze_reply, scene, thaw, thaw_reply};
use crate::loop_mount::{LoopMount, Writer, wait_for};

crate::tests! {
    canaries_prove_a_whole_freeze: ["mkfs.ext4", "mkfs.xfs"],
    a_foreign_thaw_is_told_with_its_time: ["mkfs.ext4"],
    a_foreign_thaw_and_freeze_again_is_noticed: ["mkfs.ext4"],
    azures_freezer_in_the_window_takes_the_proof_away: ["mkfs.ext4"],
    azures_freezer_that_was_first_is_waited_for: ["mkfs.ext4"],
    azures_freezer_that_was_first_and_holds_on_is_left_alone: ["mkfs.ext4"],
    azures_freezer_at_its_limit_in_the_window_takes_the_proof_away: ["mkfs.ext4"],
    azures_freezer_at_its_limit_while_we_freeze_is_never_missed: ["mkfs.ext4"],
    a_killed_canary_proves_nothing: ["mkfs.ext4"],
    canaries_are_gone_after_every_end: ["mkfs.ext4"],
    a_mount_that_comes_and_goes_in_the_window_spoils_it: ["mkfs.ext4"],
    mounts_that_do_not_matter_do_not_spoil_it: ["mkfs.ext4"],
    unmounts_and_remounts_in_the_window_leave_no_ghost: ["mkfs.ext4"],
    a_thaw_process_killed_as_a_whole_is_succeeded_by_the_agent: ["mkfs.ext4"],
    a_stopped_thaw_process_is_succeeded_by_the_agent: ["mkfs.ext4"],
    what_nobody_was_told_to_freeze_is_not_thawed: ["mkfs.ext4", "fsfreeze"],
    a_thaw_that_is_stuck_is_left_to_the_thaw_process: ["mkfs.ext4", "fsfreeze"],
    a_machine_that_stood_still_in_the_window_proves_nothing: ["mkfs.ext4"],
}

/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(300);

impl Scene {
    /// Azure's own freezer, of all that we freeze.
    fn azures_freezer(&self, limit: Duration) -> AzuresFreezer {
        let places: Vec<_> = self.mounts.iter().map(LoopMount::path).collect();
        AzuresFreezer::start(&places, limit)
    }

    /// Nothing is frozen, nobody waits, and the canaries are gone.
    fn assert_over(&self) {
        self.mounts.iter().for_each(LoopMount::assert_writable);
        wait_for("the canaries' end", Duration::from_secs(5), || canaries(&self.agent).is_empty());
    }
}

fn proved(window: &FileSystemWindow) -> bool {
    window.canary_blocked
        && window.canary_released_by_thaw
        && window.canary_released_ns > window.frozen_from_ns
        && window.first_thaw_succeeded
        && window.reason.is_empty()
}

/// A mount's loop device.
fn loop_device(mount: &LoopMount) -> String {
    let image = mount.path().with_added_extension("img");
    let found = Command::new("losetup").arg("-j").arg(image).output().unwrap();
    String::from_utf8(found.stdout).unwrap().split_once(':').unwrap().0.to_owned()
}

/// Waits until only `blocked` of an agent's canaries have yet to say that they went on: after a thaw, each
/// does as soon as it is scheduled, and then its thread ends.
fn until_only_so_many_canaries_wait(agent: &crate::machine::Process, blocked: usize) {
    let [process] = canaries(agent)[..] else { panic!("one process for all") };
    let only_those = || crate::machine::threads(process) == 1 + blocked;
    wait_for("a canary's going on", Duration::from_secs(5), only_those);
}

/// The processes of an agent's canaries.
fn canaries(agent: &crate::machine::Process) -> Vec<u32> {
    let children = agent.children();
    let is_one = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"canary")
    };
    children.into_iter().filter(is_one).collect()
}

async fn canaries_prove_a_whole_freeze() {
    let folder = tempfile::tempdir().unwrap();
    let mounts = vec![LoopMount::ext4(folder.path(), "ext4"), LoopMount::xfs(folder.path(), "xfs")];
    let mut scene = crate::freeze::scene_of(folder, mounts).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    let [canary] = canaries(&scene.agent)[..] else { panic!("one process for all") };
    let tasks = std::fs::read_dir(format!("/proc/{canary}/task")).unwrap();
    let blocked = tasks.filter(|task| {
        let stat = std::fs::read_to_string(task.as_ref().unwrap().path().join("stat")).unwrap();
        stat.contains(") D ")
    });
    assert_eq!(blocked.count(), 2, "before FROZEN was said");
    let status = std::fs::read_to_string(format!("/proc/{canary}/status")).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{canary}/stat")).unwrap();
    let ticks: Vec<&str> = stat.split(' ').skip(13).take(2).collect();
    println!("the canaries' process: {memory}, {ticks:?} ticks of 10 ms");
    let reply = scene.thawed("op-1").await;
    assert!(reply.unbroken && reply.reason.is_empty(), "{reply:?}");
    assert!(reply.windows.len() == 2 && reply.windows.iter().all(proved), "{reply:?}");
    scene.assert_over();
}

async fn a_foreign_thaw_is_told_with_its_time() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    assert!(scene.mounts[1].thaw());
    scene.mounts[1].assert_writable();
    until_only_so_many_canaries_wait(&scene.agent, 1);
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken && reply.reason.contains("somebody else thawed it"), "{reply:?}");
    assert!(proved(&reply.windows[0]), "{reply:?}");
    let thawed = &reply.windows[1];
    assert!(thawed.canary_blocked && !thawed.canary_released_by_thaw, "{thawed:?}");
    assert!((thawed.frozen_from_ns..thawed.frozen_to_ns).contains(&thawed.canary_released_ns));
    scene.assert_over();
}

/// Our FITHAW succeeds then, and only the canary tells.
async fn a_foreign_thaw_and_freeze_again_is_noticed() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    assert!(scene.mounts[0].thaw());
    until_only_so_many_canaries_wait(&scene.agent, 1);
    foreign_freezer::freeze(scene.mounts[0].root().as_fd()).unwrap();
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken, "{reply:?}");
    assert!(reply.reason.contains("its canary went on"), "{reply:?}");
    assert!(reply.reason.contains("before the thaw: somebody else thawed it"), "{reply:?}");
    assert!(reply.windows.iter().all(|window| window.first_thaw_succeeded), "{reply:?}");
    assert!(!proved(&reply.windows[0]) && proved(&reply.windows[1]), "{reply:?}");
    scene.assert_over();
}

async fn azures_freezer_in_the_window_takes_the_proof_away() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    let azures = scene.azures_freezer(LONG);
    assert!(!azures.froze, "it is told that they are frozen already");
    assert!(azures.ended().iter().all(|thaw| thaw.thawed));
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken, "{reply:?}");
    for window in &reply.windows {
        assert!(window.canary_blocked && !window.canary_released_by_thaw, "{reply:?}");
        assert!(window.canary_released_ns > 0 && !window.first_thaw_succeeded, "{reply:?}");
        assert_eq!(window.reason, "somebody else thawed it");
    }
    scene.assert_over();
}

/// Azure Backup's lock is free: its freezer starts also when it could not have it.
async fn azures_freezer_that_was_first_is_waited_for() {
    let mut scene = scene(2).await;
    let azures = scene.azures_freezer(Duration::from_millis(300));
    assert!(azures.froze);
    scene.frozen("op-1", 10_000, 25_000).await;
    let thaws = azures.ended();
    assert!(thaws.iter().all(|thaw| thaw.thawed), "nobody else ended its freeze: {thaws:?}");
    let reply = scene.thawed("op-1").await;
    assert!(reply.unbroken && reply.windows.iter().all(proved), "{reply:?}");
    for window in &reply.windows {
        let before = |thaw: &ForeignThaw| thaw.from_ns < window.frozen_from_ns;
        assert!(thaws.iter().all(before), "its freeze counted as ours: {thaws:?}, {reply:?}");
    }
    scene.assert_over();
}

async fn azures_freezer_that_was_first_and_holds_on_is_left_alone() {
    let mut scene = scene(2).await;
    let azures = scene.azures_freezer(LONG);
    assert!(azures.froze);
    scene.session.tell(freeze("op-1", 10_000, 25_000)).await;
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Refused, "{reply:?}");
    assert!(reply.reason.contains("frozen by somebody else"), "{reply:?}");
    let thaws = azures.reaches_its_limit();
    assert!(thaws.iter().all(|thaw| thaw.thawed), "nobody else ended its freeze: {thaws:?}");
    scene.assert_over();
}

/// It froze; a person thawed; we froze; and then it thaws what it opened.
async fn azures_freezer_at_its_limit_in_the_window_takes_the_proof_away() {
    let mut scene = scene(2).await;
    let azures = scene.azures_freezer(LONG);
    assert!(azures.froze && scene.mounts.iter().all(LoopMount::thaw));
    scene.frozen("op-1", 10_000, 25_000).await;
    assert!(azures.reaches_its_limit().iter().all(|thaw| thaw.thawed), "our freezes");
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken, "{reply:?}");
    for window in &reply.windows {
        assert!(!proved(window) && window.reason == "somebody else thawed it", "{reply:?}");
    }
    scene.assert_over();
}

/// It freezes at some instant of our preparations or after, and thaws at its limit, at some instant of our
/// freeze: what it thawed between FROZEN and our order to thaw is never called unbroken.
async fn azures_freezer_at_its_limit_while_we_freeze_is_never_missed() {
    let mut scene = scene(2).await;
    let (mut refused, mut broken, mut unbroken) = (0, 0, 0);
    for round in 0..30u64 {
        let operation = format!("op-{round}");
        let places: Vec<_> = scene.mounts.iter().map(|mount| mount.path().to_owned()).collect();
        scene.session.tell(freeze(&operation, 10_000, 25_000)).await;
        let azures = tokio::spawn(async move {
            // Each instant with each limit.
            azdr_env::sleep(Duration::from_millis(round % 6 * 5)).await;
            let run = move || {
                let places: Vec<_> = places.iter().map(AsRef::as_ref).collect();
                AzuresFreezer::start(&places, Duration::from_millis(round / 6 * 10)).ended()
            };
            tokio::task::spawn_blocking(run).await.unwrap()
        });
        let reply = freeze_reply(&mut scene.session).await;
        if reply.outcome() != FreezeOutcome::Frozen {
            // Before our freeze, or in it.
            let outcomes = [FreezeOutcome::Refused, FreezeOutcome::Failed];
            assert!(outcomes.contains(&reply.outcome()), "{reply:?}");
            azures.await.unwrap();
            refused += 1;
        } else {
            let from_ns = monotonic_ns();
            let thaws = azures.await.unwrap();
            let to_ns = monotonic_ns();
            let reply = scene.thawed(&operation).await;
            let in_the_window =
                |thaw: &&ForeignThaw| thaw.thawed && thaw.from_ns > from_ns && thaw.to_ns < to_ns;
            let missed = thaws.iter().find(in_the_window).filter(|_| reply.unbroken);
            assert!(missed.is_none(), "{missed:?}: {reply:?}");
            if reply.unbroken { unbroken += 1 } else { broken += 1 }
        }
        scene.assert_over();
        assert!(!scene.mounts.iter().any(LoopMount::thaw), "left frozen in round {round}");
    }
    println!("{refused} refused, {broken} broken, {unbroken} unbroken");
}

async fn a_killed_canary_proves_nothing() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    let [canary] = canaries(&scene.agent)[..] else { panic!("one process for all") };
    crate::machine::signal("KILL", canary);
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken && reply.reason.contains("did not say when it went on"), "{reply:?}");
    assert!(reply.windows.iter().all(|window| window.first_thaw_succeeded), "{reply:?}");
    scene.assert_over();
    scene.frozen("op-2", 3_000, 10_000).await;
    assert!(scene.thawed("op-2").await.unbroken);
}

async fn canaries_are_gone_after_every_end() {
    let mut scene = scene(1).await;
    // A thaw before anything is frozen.
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    scene.session.tell(thaw("op-1")).await;
    assert!(!thaw_reply(&mut scene.session).await.unbroken);
    freeze_reply(&mut scene.session).await;
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    scene.assert_over();
    // The lease's end.
    scene.frozen("op-2", 500, 10_000).await;
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    let reply = scene.thawed("op-2").await;
    assert_eq!(reply.cause(), ThawCause::LeaseExpired);
    assert!(!reply.reason.contains("somebody else"), "{reply:?}");
    scene.assert_over();
    // The agent's death.
    scene.frozen("op-3", 10_000, 25_000).await;
    let [canary] = canaries(&scene.agent)[..] else { panic!("one process") };
    scene.agent.signal("KILL");
    assert!(!scene.agent.ended());
    let gone = || !std::path::Path::new(&format!("/proc/{canary}")).exists();
    wait_for("the canaries' end", Duration::from_secs(5), gone);
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

async fn a_mount_that_comes_and_goes_in_the_window_spoils_it() {
    let mut scene = scene(1).await;
    let folder = tempfile::tempdir().unwrap();
    let other = LoopMount::ext4(folder.path(), "other");
    scene.frozen("op-1", 5_000, 10_000).await;
    // Over the configured place, so that it is one to be frozen.
    let place = scene.mounts[0].path();
    let run = |program: &str, args: &[&std::path::Path]| {
        assert!(Command::new(program).args(args).status().unwrap().success(), "{program}");
    };
    run("mount", &["--bind".as_ref(), other.path(), place]);
    // Two heartbeats of a busy agent, which has looked by then.
    for _ in 0..2 {
        scene.session.tell(Tell::RenewLease(RenewLease { operation_id: "op-1".into() })).await;
        beat_in(&mut scene.session, QuiesceState::Frozen).await;
    }
    run("umount", &[place]);
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken, "{reply:?}");
    assert!(reply.reason.contains("mounted or unmounted meanwhile"), "{reply:?}");
    scene.assert_over();
}

async fn mounts_that_do_not_matter_do_not_spoil_it() {
    let mut scene = scene(1).await;
    let folder = tempfile::tempdir().unwrap();
    scene.frozen("op-1", 5_000, 10_000).await;
    let elsewhere = folder.path();
    let bind = ["--bind".as_ref(), scene.mounts[0].path(), elsewhere];
    assert!(Command::new("mount").args(bind).status().unwrap().success());
    let other = LoopMount::ext4(&std::env::temp_dir(), &format!("other-{}", std::process::id()));
    scene.session.tell(Tell::RenewLease(RenewLease { operation_id: "op-1".into() })).await;
    beat_in(&mut scene.session, QuiesceState::Frozen).await;
    let reply = scene.thawed("op-1").await;
    assert!(reply.unbroken && reply.windows.iter().all(proved), "{reply:?}");
    assert!(Command::new("umount").arg(elsewhere).status().unwrap().success());
    let (place, image) = (other.path().to_owned(), other.path().with_added_extension("img"));
    drop(other);
    std::fs::remove_dir(place).unwrap();
    std::fs::remove_file(image).unwrap();
    scene.assert_over();
}

/// An unmount is refused or lazy, since the roots are open; a remount is refused.
async fn unmounts_and_remounts_in_the_window_leave_no_ghost() {
    let mut scene = scene(1).await;
    let place = scene.mounts[0].path().to_owned();
    let run = |program: &str, args: &[&str]| {
        Command::new(program).args(args).arg(&place).output().unwrap().status.success()
    };
    let (device, image) = (loop_device(&scene.mounts[0]), place.with_added_extension("img"));
    scene.frozen("op-1", 5_000, 10_000).await;
    assert!(!run("umount", &[]), "its root is open");
    assert!(!run("mount", &["-o", "remount,ro"]), "frozen");
    // The device goes when nobody uses it any more.
    assert!(Command::new("losetup").args(["-d", &device]).status().unwrap().success());
    let reply = scene.thawed("op-1").await;
    assert!(reply.unbroken && proved(&reply.windows[0]), "nothing has changed: {reply:?}");
    scene.mounts[0].assert_writable();

    scene.frozen("op-2", 5_000, 10_000).await;
    assert!(run("umount", &["-l"]));
    let reply = scene.thawed("op-2").await;
    assert!(!reply.unbroken && reply.reason.contains("changed meanwhile"), "{reply:?}");
    assert!(!scene.mounts[0].thaw(), "no ghost stays frozen");
    let image = image.to_str().unwrap();
    assert!(run("mount", &["-o", "loop", image]), "mounted again");
    let probe = place.join("probe");
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(std::fs::write(probe, "probe")));
    wait.recv_timeout(Duration::from_secs(5)).expect("it takes writes").unwrap();
    assert!(run("umount", &[]));
}

/// Kills processes at one instant, as systemd ends a unit: by their control group, where there are any.
fn kill_together(pids: &[u32]) {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let name = format!("azdr-test-{}", std::process::id());
    let groups = roots.map(|root| std::path::Path::new(root).join(&name));
    let group = groups.iter().find(|group| {
        let made = std::fs::create_dir(group).is_ok() && group.join("cgroup.kill").exists();
        if !made {
            let _ = std::fs::remove_dir(group);
        }
        made
    });
    let Some(group) = group else {
        let pids = pids.iter().map(u32::to_string);
        assert!(Command::new("kill").args(["-s", "KILL"]).args(pids).status().unwrap().success());
        return;
    };
    for pid in pids {
        std::fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    }
    std::fs::write(group.join("cgroup.kill"), "1").unwrap();
    let gone = || std::fs::remove_dir(group).is_ok();
    wait_for("the end of a control group", Duration::from_secs(5), gone);
}

async fn a_thaw_process_killed_as_a_whole_is_succeeded_by_the_agent() {
    let mut scene = scene(2).await;
    for round in 0..5 {
        let operation = format!("op-{round}");
        let writer = Writer::start(scene.mounts[1].path());
        scene.frozen(&operation, 10_000, 25_000).await;
        let mut both = scene.thawd.children();
        both.push(scene.thawd.id());
        assert_eq!(both.len(), 2);
        kill_together(&both);
        let took = writer.assert_goes_on(Duration::from_secs(3));
        println!("thawed {took:?} after all of it was killed");
        assert!(!scene.thawd.ended());
        let reply = scene.thawed(&operation).await;
        assert!(!reply.unbroken, "{reply:?}");
        drop(writer);
        scene.thawd = scene.machine.start_thawd();
        scene.assert_over();
    }
}

/// Both halves of it: one alone is succeeded by the other.
async fn a_stopped_thaw_process_is_succeeded_by_the_agent() {
    let mut scene = scene(2).await;
    for (operation, hold_limit_ms, ask) in [("op-1", 1_500, false), ("op-2", 25_000, true)] {
        let writer = Writer::start(scene.mounts[1].path());
        scene.frozen(operation, 10_000, hold_limit_ms).await;
        let process = scene.thawd.child();
        scene.thawd.signal("STOP");
        process.signal("STOP");
        let reply = if ask {
            // Two seconds after that.
            scene.thawed(operation).await
        } else {
            // By the hold limit, and a second and a half.
            let took = writer.assert_goes_on(Duration::from_secs(5));
            println!("thawed {took:?} after both were stopped");
            scene.thawed(operation).await
        };
        assert!(!reply.unbroken && reply.reason.contains("the agent thawed 2 of 2"), "{reply:?}");
        writer.assert_goes_on(Duration::from_secs(2));
        process.signal("CONT");
        scene.thawd.signal("CONT");
        drop(writer);
        scene.assert_over();
        // It finds them thawed, and is ready again: the same one.
        wait_for("its end", Duration::from_secs(5), || scene.thawd.children().is_empty());
    }
    scene.frozen("op-3", 3_000, 10_000).await;
    assert!(scene.thawed("op-3").await.unbroken);
    scene.assert_over();
}

/// The thaw process dies between its ARMED and the agent's word to freeze, and just then somebody else freezes.
async fn what_nobody_was_told_to_freeze_is_not_thawed() {
    let mut scene = scene(1).await;
    scene.thawd.signal("TERM");
    scene.thawd.ended();
    let listener = UnixListener::bind(scene.machine.socket()).unwrap();
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    let mount = std::mem::take(&mut scene.mounts).remove(0);
    // In the place of the thaw process.
    let dies = tokio::task::spawn_blocking(move || {
        let mut request = [0; 5 * 4 + 64 + 64];
        let mut agent = loop {
            let (mut agent, _) = listener.accept().unwrap();
            agent.read_exact(&mut request).unwrap();
            // Its preflight asks for the state.
            if request[4..8] == 1u32.to_ne_bytes() {
                break agent;
            }
        };
        mount.freeze();
        // From here on the agent can tell it nothing.
        agent.shutdown(Shutdown::Read).unwrap();
        let mut armed = vec![0; 6 * 4 + 64 + 64 * 40];
        let same = ..8 + 64;
        armed[same].copy_from_slice(&request[same]);
        armed[4..8].copy_from_slice(&1u32.to_ne_bytes());
        agent.write_all(&armed).unwrap();
        mount
    });
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Failed, "{reply:?}");
    let mount = dies.await.unwrap();
    assert!(mount.thaw(), "it was frozen still, by whoever had frozen it");
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken && reply.reason.contains("died before it froze"), "{reply:?}");
    assert_eq!(reply.cause(), ThawCause::NotFrozen);
    scene.mounts.push(mount);
    scene.assert_over();
}

/// As when the disk below does not answer any more: the thaw process runs, and goes on trying. Whoever thawed
/// beside it could thaw somebody else's next freeze.
async fn a_thaw_that_is_stuck_is_left_to_the_thaw_process() {
    let below = tempfile::tempdir().unwrap();
    let disk = LoopMount::ext4_of(below.path(), "disk", "256M");
    let folder = tempfile::tempdir().unwrap();
    let stuck = LoopMount::ext4(disk.path(), "stuck");
    let other = LoopMount::ext4(folder.path(), "other");
    let mut scene = crate::freeze::scene_of(folder, vec![stuck, other]).await;
    let writer = Writer::start(scene.mounts[1].path());
    scene.frozen("op-1", 10_000, 1_500).await;
    // A thaw writes to it.
    disk.freeze();
    writer.assert_goes_on(Duration::from_secs(5));
    beat_in(&mut scene.session, QuiesceState::Poisoned).await;
    assert!(disk.thaw());
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    let reply = scene.thawed("op-1").await;
    assert_eq!(reply.cause(), ThawCause::HoldLimit, "{reply:?}");
    assert!(!reply.unbroken && reply.windows.len() == 2, "{reply:?}");
    drop(writer);
    scene.assert_over();
}

/// As when its host pauses it: all of it stops and goes on later.
#[expect(clippy::disallowed_methods, reason = "the machine stands still for a real time")]
async fn a_machine_that_stood_still_in_the_window_proves_nothing() {
    let mut scene = scene(1).await;
    scene.frozen("op-1", 10_000, 1_000).await;
    let (supervisor, operation) = (scene.thawd.id(), scene.thawd.child());
    let freezer_of = [scene.agent.id(), supervisor];
    freezer_of.iter().for_each(|pid| crate::machine::signal("STOP", *pid));
    operation.signal("STOP");
    let start = Instant::now();
    wait_for("the limit", Duration::from_secs(10), || start.elapsed() > Duration::from_secs(3));
    operation.signal("CONT");
    freezer_of.iter().for_each(|pid| crate::machine::signal("CONT", *pid));
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken, "{reply:?}");
    scene.assert_over();
}
