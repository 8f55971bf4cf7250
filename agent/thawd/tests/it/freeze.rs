//! What must hold when file systems are really frozen.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use azdr_thawd_client::{Cause, Outcome, Refusal, Reply, Request, State, monotonic_ns};

use crate::loop_mount::{LoopMount, Writer, wait_for};
use crate::thawd_process::{
    Thawd, agent_process, freeze, frozen, hold, id, last_result, send_signal, thawed,
};

crate::tests! {
    two_file_systems_are_held_and_their_writers_go_on_afterwards: ["mkfs.ext4"],
    xfs_is_held_too: ["mkfs.xfs"],
    the_agents_death_thaws: ["mkfs.ext4"],
    a_stopped_agent_loses_its_lease: ["mkfs.ext4"],
    the_end_of_the_connection_thaws: ["mkfs.ext4"],
    an_expired_lease_thaws_and_renewal_keeps_it: ["mkfs.ext4"],
    the_hold_limit_ends_a_lease_that_is_always_renewed: ["mkfs.ext4"],
    sigterm_thaws_before_the_process_ends: ["mkfs.ext4"],
    a_foreign_freeze_is_refused_and_left_alone: ["mkfs.ext4", "fsfreeze"],
    two_foreign_freezes_are_both_left_alone: ["mkfs.ext4", "fsfreeze"],
    a_refusal_leaves_the_levels_after_it_alone: ["mkfs.ext4", "fsfreeze"],
    a_foreign_thaw_breaks_the_hold: ["mkfs.ext4"],
    a_file_system_inside_another_is_frozen_first_and_thawed_last: ["mkfs.ext4"],
    a_freeze_that_blocks_is_given_up_and_thawed_when_it_completes: ["mkfs.ext4"],
    the_same_file_system_twice_is_refused_and_thawed: ["mkfs.ext4"],
    a_thaw_sent_right_behind_the_freeze_never_leaves_it_frozen: ["mkfs.ext4"],
    the_freezers_death_leaves_nothing_frozen: ["mkfs.ext4"],
    requests_out_of_order_are_refused: ["mkfs.ext4"],
    sixty_four_descriptors_fit: ["mkfs.ext4"],
}

/// In the order of dropping: the thaw process lets go of the file systems first.
pub(crate) struct Scene {
    pub(crate) thawd: Thawd,
    pub(crate) mounts: Vec<LoopMount>,
    pub(crate) folder: tempfile::TempDir,
}

/// A thaw process and `count` ext4 file systems.
pub(crate) fn scene(count: usize) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let thawd = Thawd::start(folder.path());
    let mounts = (0..count).map(|n| LoopMount::ext4(folder.path(), &format!("disk{n}"))).collect();
    Scene { thawd, mounts, folder }
}

pub(crate) fn roots(mounts: &[LoopMount]) -> Vec<BorrowedFd<'_>> {
    mounts.iter().map(|mount| mount.root().as_fd()).collect()
}

pub(crate) fn hold_and_release(mounts: &[LoopMount], thawd: &Thawd) {
    let writers: Vec<Writer> = mounts.iter().map(|mount| Writer::start(mount.path())).collect();
    let client = thawd.client();
    let before = monotonic_ns();
    let order = vec![0; mounts.len()];
    let report = frozen(&client, hold("op-1", 3_000, 10_000, &order), &roots(mounts));
    assert!(report.entries().iter().all(|e| e.outcome == Outcome::Frozen && e.freeze_errno == 0));
    writers.iter().for_each(Writer::assert_blocked);
    assert_eq!(client.status().unwrap(), (id("op-1"), State::Frozen));

    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken(), "{report:?}");
    assert_eq!(report.cause, Cause::Command);
    for entry in report.entries() {
        assert!(before < entry.from_ns && entry.from_ns < entry.frozen_ns);
        assert!(entry.frozen_ns < entry.to_ns && entry.to_ns < monotonic_ns());
    }
    assert!(report.window_ms() >= 100, "the writers were watched for 100 ms");
    for writer in &writers {
        writer.assert_goes_on(Duration::from_secs(5));
    }
    // A repetition is answered with the same facts.
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    assert_eq!(thawed(&client), report);
    assert_eq!(client.status().unwrap().1, State::Idle);
}

fn two_file_systems_are_held_and_their_writers_go_on_afterwards() {
    let scene = scene(2);
    hold_and_release(&scene.mounts, &scene.thawd);
    hold_and_release_again(&scene);
}

fn hold_and_release_again(scene: &Scene) {
    let client = scene.thawd.client();
    frozen(&client, hold("op-2", 3_000, 10_000, &[0, 0]), &roots(&scene.mounts));
    client.send(&Request::Thaw(id("op-2"))).unwrap();
    assert!(thawed(&client).unbroken());
}

fn xfs_is_held_too() {
    let scene = scene(0);
    let mounts = [LoopMount::xfs(scene.folder.path(), "xfs")];
    hold_and_release(&mounts, &scene.thawd);
}

fn the_agents_death_thaws() {
    let scene = scene(2);
    let writer = Writer::start(scene.mounts[1].path());
    let paths: Vec<_> = scene.mounts.iter().map(LoopMount::path).collect();
    let mut agent = agent_process(scene.thawd.socket(), "op-1", 10_000, &paths);
    writer.assert_blocked();
    agent.kill().unwrap();
    let took = writer.assert_goes_on(Duration::from_secs(3));
    assert!(took < Duration::from_millis(1_000), "not by the lease of 10 s: {took:?}");
    agent.wait().unwrap();
    let report = last_result(&scene.thawd, "op-1");
    assert_eq!(report.cause, Cause::AgentDied);
    assert!(!report.unbroken());
}

fn a_stopped_agent_loses_its_lease() {
    let scene = scene(1);
    let writer = Writer::start(scene.mounts[0].path());
    let mut agent = agent_process(scene.thawd.socket(), "op-1", 700, &[scene.mounts[0].path()]);
    send_signal("STOP", agent.id());
    writer.assert_goes_on(Duration::from_secs(3));
    agent.kill().unwrap();
    agent.wait().unwrap();
    let report = last_result(&scene.thawd, "op-1");
    assert_eq!(report.cause, Cause::LeaseExpired);
    assert!((700..1_500).contains(&report.window_ms()), "{}", report.window_ms());
}

fn the_end_of_the_connection_thaws() {
    let scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0]), &roots(&scene.mounts));
    drop(client);
    scene.mounts[0].assert_writable();
    assert_eq!(last_result(&scene.thawd, "op-1").cause, Cause::AgentDied);
}

#[expect(clippy::disallowed_methods, reason = "measures the kernel")]
fn an_expired_lease_thaws_and_renewal_keeps_it() {
    let scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 500, 10_000, &[0]), &roots(&scene.mounts));
    let start = Instant::now();
    let mut renewed = Instant::now();
    wait_for("two leases' time", Duration::from_secs(5), || {
        if renewed.elapsed() > Duration::from_millis(100) {
            client.send(&Request::Renew(id("op-1"))).unwrap();
            renewed = Instant::now();
        }
        start.elapsed() > Duration::from_millis(1_100)
    });
    assert_eq!(client.status().unwrap().1, State::Frozen, "renewal kept it");
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::LeaseExpired);
    assert!(renewed.elapsed() < Duration::from_millis(1_500), "{:?}", renewed.elapsed());
    assert!(!report.unbroken());
    scene.mounts[0].assert_writable();
}

fn the_hold_limit_ends_a_lease_that_is_always_renewed() {
    let scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 1_000, &[0]), &roots(&scene.mounts));
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::HoldLimit);
    // The limit runs from the order to freeze; on a busy machine the first FIFREEZE is a little later.
    assert!((700..1_500).contains(&report.window_ms()), "{}", report.window_ms());
    scene.mounts[0].assert_writable();
}

fn sigterm_thaws_before_the_process_ends() {
    let mut scene = scene(2);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0, 0]), &roots(&scene.mounts));
    scene.thawd.signal("TERM");
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::Shutdown);
    assert!(scene.thawd.ended(Duration::from_secs(5)));
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

fn a_foreign_freeze_is_refused_and_left_alone() {
    let scene = scene(2);
    scene.mounts[1].freeze();
    let client = scene.thawd.client();
    let reply = freeze(&client, hold("op-1", 3_000, 10_000, &[0, 0]), &roots(&scene.mounts));
    let Reply::Thawed(report) = reply else { panic!("{reply:?}") };
    assert_eq!(report.cause, Cause::FreezeFailed);
    assert_eq!(report.entries()[1].outcome, Outcome::NotFrozen);
    assert_eq!(
        std::io::Error::from_raw_os_error(report.entries()[1].freeze_errno).kind(),
        std::io::ErrorKind::ResourceBusy
    );
    scene.mounts[0].assert_writable();
    assert!(scene.mounts[1].thaw(), "the foreign freeze is still there");
}

fn two_foreign_freezes_are_both_left_alone() {
    let scene = scene(2);
    for round in 0..20 {
        scene.mounts.iter().for_each(LoopMount::freeze);
        let client = scene.thawd.client();
        let prepare = hold(&format!("op-{round}"), 3_000, 10_000, &[0, 0]);
        let Reply::Thawed(_) = freeze(&client, prepare, &roots(&scene.mounts)) else {
            panic!("froze a frozen file system")
        };
        assert!(scene.mounts.iter().all(LoopMount::thaw), "round {round}");
    }
}

/// Levels are taken in their order, whatever their numbers and the order of the request.
fn a_refusal_leaves_the_levels_after_it_alone() {
    let scene = scene(3);
    scene.mounts[0].freeze();
    let client = scene.thawd.client();
    let reply = freeze(&client, hold("op-1", 3_000, 10_000, &[3, 7, 0]), &roots(&scene.mounts));
    let Reply::Thawed(report) = reply else { panic!("{reply:?}") };
    assert_eq!(report.cause, Cause::FreezeFailed);
    let [second, third, first] = report.entries() else { panic!("{report:?}") };
    assert_eq!(first.outcome, Outcome::Thawed);
    assert_eq!(second.outcome, Outcome::NotFrozen);
    assert_eq!((third.outcome, third.from_ns), (Outcome::Untouched, 0));
    assert!(first.frozen_ns <= second.from_ns, "{report:?}");
    assert!(scene.mounts[0].thaw(), "the foreign freeze is still there");
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

fn a_foreign_thaw_breaks_the_hold() {
    let scene = scene(2);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 3_000, 10_000, &[0, 0]), &roots(&scene.mounts));
    assert!(scene.mounts[0].thaw());
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::Command);
    assert_eq!(report.entries()[0].outcome, Outcome::ThawedByOther);
    assert_eq!(report.entries()[1].outcome, Outcome::Thawed);
    assert!(!report.unbroken());
}

fn a_file_system_inside_another_is_frozen_first_and_thawed_last() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let writer = Writer::start(inner.path());
    let thawd = Thawd::start(folder.path());
    let client = thawd.client();
    let both = [outer.root().as_fd(), inner.root().as_fd()];
    frozen(&client, hold("op-1", 3_000, 10_000, &[1, 0]), &both);
    writer.assert_blocked();
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken(), "{report:?}");
    let [outer_entry, inner_entry] = report.entries() else { panic!("{report:?}") };
    assert!(inner_entry.frozen_ns <= outer_entry.from_ns, "inner first");
    assert!(outer_entry.to_ns <= inner_entry.to_ns, "outer thawed first");
    writer.assert_goes_on(Duration::from_secs(5));
}

/// The wrong order makes the second FIFREEZE block for ever (AGENT.md, kernel fact 9).
fn a_freeze_that_blocks_is_given_up_and_thawed_when_it_completes() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let _writer = Writer::start(inner.path());
    let thawd = Thawd::start(folder.path());
    let client = thawd.client();
    let both = [outer.root().as_fd(), inner.root().as_fd()];
    let mut reply = freeze(&client, hold("op-1", 10_000, 25_000, &[0, 1]), &both);
    // On a busy machine the freeze that is late may need a second to complete.
    if let Reply::Status(_, State::Poisoned) = reply {
        reply = client.receive().unwrap();
    }
    let Reply::Thawed(report) = reply else { panic!("{reply:?}") };
    assert_eq!(report.cause, Cause::FreezeFailed);
    assert!((3_000..10_000).contains(&report.window_ms()), "{report:?}");
    inner.assert_writable();
    outer.assert_writable();
}

fn the_same_file_system_twice_is_refused_and_thawed() {
    let scene = scene(1);
    let client = scene.thawd.client();
    let root = scene.mounts[0].root().as_fd();
    let reply = freeze(&client, hold("op-1", 3_000, 10_000, &[0, 0]), &[root, root]);
    let Reply::Thawed(report) = reply else { panic!("{reply:?}") };
    assert_eq!(report.cause, Cause::FreezeFailed);
    scene.mounts[0].assert_writable();
}

fn a_thaw_sent_right_behind_the_freeze_never_leaves_it_frozen() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let mut delay = Duration::ZERO;
    for round in 0..40 {
        let prepare = hold(&format!("op-{round}"), 3_000, 10_000, &[0, 1]);
        client.prepare(prepare, &roots(&scene.mounts)).unwrap();
        assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
        client.send(&Request::Freeze(prepare.operation)).unwrap();
        wait_until_passed(delay);
        client.send(&Request::Thaw(prepare.operation)).unwrap();
        let report = match client.receive().unwrap() {
            Reply::Frozen(_) => thawed(&client),
            Reply::Thawed(report) => report,
            other => panic!("{other:?}"),
        };
        assert!(report.entries().iter().all(|e| e.outcome != Outcome::InFlight));
        assert!(scene.mounts.iter().all(|mount| !mount.thaw()), "round {round}: left frozen");
        delay += Duration::from_millis(2);
    }
}

#[expect(clippy::disallowed_methods, reason = "an offset in a race with the kernel")]
pub(crate) fn wait_until_passed(delay: Duration) {
    let start = Instant::now();
    wait_for("an offset", Duration::from_secs(1), || start.elapsed() >= delay);
}

fn the_freezers_death_leaves_nothing_frozen() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    send_signal("KILL", scene.thawd.freezer());
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::NotFrozen);
    assert!(report.entries().iter().all(|e| e.outcome == Outcome::Untouched));
    drop(client);
    hold_and_release(&scene.mounts, &scene.thawd);
}

fn requests_out_of_order_are_refused() {
    let scene = scene(1);
    let client = scene.thawd.client();
    let refused = |request: Request| {
        client.send(&request).unwrap();
        match client.receive().unwrap() {
            Reply::Refused(_, refusal) => refusal,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(Request::Freeze(id("op-1"))), Refusal::UnknownOperation);
    assert_eq!(refused(Request::Renew(id("op-1"))), Refusal::UnknownOperation);
    assert_eq!(refused(Request::Thaw(id("op-1"))), Refusal::UnknownOperation);
    let prepare_without_descriptor = Request::Prepare(hold("op-1", 3_000, 10_000, &[0]));
    assert_eq!(refused(prepare_without_descriptor), Refusal::Malformed);
    let refused_prepare = |lease_ms, hold_limit_ms| {
        let prepare = hold("op-1", lease_ms, hold_limit_ms, &[0]);
        client.prepare(prepare, &roots(&scene.mounts)).unwrap();
        client.receive().unwrap() == Reply::Refused(id("op-1"), Refusal::Malformed)
    };
    assert!(refused_prepare(3_000, 25_001), "the hold limit is enforced here");
    assert!(refused_prepare(499, 10_000) && refused_prepare(10_001, 10_000));

    frozen(&client, hold("op-1", 3_000, 10_000, &[0]), &roots(&scene.mounts));
    client.prepare(hold("op-2", 3_000, 10_000, &[0]), &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Refused(id("op-2"), Refusal::Busy));
    client.send(&Request::Thaw(id("unknown"))).unwrap();
    assert_eq!(thawed(&client).operation, id("op-1"), "an unknown id thaws what is held");
}

fn sixty_four_descriptors_fit() {
    let scene = scene(1);
    let client = scene.thawd.client();
    let roots = [scene.mounts[0].root().as_fd(); 64];
    client.prepare(hold("op-1", 3_000, 10_000, &[0; 64]), &roots).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(id("op-1")));
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert_eq!((report.cause, report.entries().len()), (Cause::NotFrozen, 64));
}
