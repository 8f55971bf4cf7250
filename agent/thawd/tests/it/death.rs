//! Any part of the thaw process may die at any time; nothing stays frozen (R6).

use std::os::fd::AsFd;
use std::time::Duration;

use azdr_thawd_client::{Cause, Outcome, Refusal, Reply, Request, State, monotonic_ns};

use crate::freeze::{hold_and_release, roots, scene};
use crate::loop_mount::{LoopMount, Writer, wait_for};
use crate::thawd_process::{
    ForeignFreeze, Thawd, frozen, hold, id, last_result, send_signal, status_field, thawed, threads,
};

crate::tests! {
    the_supervisor_thaws_when_the_operations_process_is_killed: ["mkfs.ext4"],
    the_supervisor_ends_and_succeeds_an_operation_that_hangs: ["mkfs.ext4"],
    a_killed_supervisor_leaves_the_operation_to_its_end: ["mkfs.ext4"],
    an_operation_without_supervisor_keeps_to_its_lease: ["mkfs.ext4"],
    when_both_are_killed_the_agent_has_the_descriptors: ["mkfs.ext4"],
    a_freeze_in_flight_is_thawed_when_the_operations_process_is_killed: ["mkfs.ext4"],
    a_thaw_in_flight_ends_well_when_the_operations_process_is_killed: ["mkfs.ext4", "fsfreeze"],
    an_operations_process_killed_while_armed_froze_nothing: ["mkfs.ext4"],
    the_supervisor_leaves_a_foreign_freeze_alone: ["mkfs.ext4", "fsfreeze"],
    sigterm_to_the_operation_alone_thaws: ["mkfs.ext4"],
    without_a_working_filter_nothing_is_prepared: ["mkfs.ext4", "strace"],
}

fn the_supervisor_thaws_when_the_operations_process_is_killed() {
    let scene = scene(2);
    let writer = Writer::start(scene.mounts[1].path());
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0, 1]), &roots(&scene.mounts));
    writer.assert_blocked();
    let killed_ns = monotonic_ns();
    send_signal("KILL", scene.thawd.operation());
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::ThawProcessDied);
    assert!(report.entries().iter().all(|entry| entry.outcome == Outcome::Thawed), "{report:?}");
    assert!(!report.unbroken());
    let thawed_ns = report.entries().iter().map(|entry| entry.to_ns).max().unwrap();
    let took = Duration::from_nanos(thawed_ns - killed_ns);
    println!("thawed {took:?} after the kill began");
    assert!(took < Duration::from_secs(1), "{took:?}");
    writer.assert_goes_on(Duration::from_secs(3));
    // The connection goes on as well.
    client.send(&Request::LastResult(id("op-1"))).unwrap();
    assert_eq!(thawed(&client), report);
    assert_eq!(client.status().unwrap().1, State::Idle);
    drop(client);
    assert_eq!(last_result(&scene.thawd, "op-1"), report);
    hold_and_release(&scene.mounts, &scene.thawd);
}

fn the_supervisor_ends_and_succeeds_an_operation_that_hangs() {
    let scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 500, 10_000, &[0]), &roots(&scene.mounts));
    send_signal("STOP", scene.thawd.operation());
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::ThawProcessDied);
    // The lease, two seconds, and the supervisor's next look.
    assert!((2_400..4_500).contains(&report.window_ms()), "{}", report.window_ms());
    scene.mounts[0].assert_writable();
}

fn a_killed_supervisor_leaves_the_operation_to_its_end() {
    let mut scene = scene(2);
    let writer = Writer::start(scene.mounts[0].path());
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 3_000, 10_000, &[0, 0]), &roots(&scene.mounts));
    let operation = scene.thawd.operation();
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended(Duration::from_secs(5)));
    let (restarted, words) = scene.thawd.start_another();
    assert!(words.contains("waiting for its end"), "{words}");
    writer.assert_blocked();
    client.send(&Request::Renew(id("op-1"))).unwrap();
    assert_eq!(client.status().unwrap(), (id("op-1"), State::Frozen));
    assert_eq!(status_field(operation, "Seccomp"), "2");
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken() && report.refused_calls == 0, "{report:?}");
    writer.assert_goes_on(Duration::from_secs(5));
    drop(writer);
    restarted.wait_until_it_listens();
    hold_and_release(&scene.mounts, &restarted);
}

fn an_operation_without_supervisor_keeps_to_its_lease() {
    let mut scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 700, 10_000, &[0]), &roots(&scene.mounts));
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended(Duration::from_secs(5)));
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::LeaseExpired);
    assert_eq!(client.receive().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    scene.mounts[0].assert_writable();
}

fn when_both_are_killed_the_agent_has_the_descriptors() {
    let mut scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 3_000, 10_000, &[0]), &roots(&scene.mounts));
    let operation = scene.thawd.operation();
    // The supervisor first: otherwise it thaws.
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended(Duration::from_secs(5)));
    send_signal("KILL", operation);
    let gone = client.receive().unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(scene.mounts[0].thaw(), "frozen until the agent thaws, as it does then");
}

/// The wrong order makes the second FIFREEZE block until the first file system is thawed (AGENT.md,
/// kernel fact 9), and killing the freezer does not cancel it (fact 5).
fn a_freeze_in_flight_is_thawed_when_the_operations_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let writers = [Writer::start(outer.path()), Writer::start(inner.path())];
    let thawd = Thawd::start(folder.path());
    let client = thawd.client();
    let prepare = hold("op-1", 10_000, 25_000, &[0, 1]);
    client.prepare(prepare, &[outer.root().as_fd(), inner.root().as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let (operation, freezer) = (thawd.operation(), thawd.freezer());
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    // Its first thread, then one per file system, in their order.
    let mut threads = threads(freezer);
    threads.sort_unstable();
    let blocked = || status_field(threads[2], "State") == "D";
    wait_for("the second FIFREEZE to block", Duration::from_secs(5), blocked);
    assert_eq!(status_field(freezer, "Seccomp"), "2");
    send_signal("KILL", operation);
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::ThawProcessDied);
    let [outer_entry, inner_entry] = report.entries() else { panic!("{report:?}") };
    assert_eq!(outer_entry.outcome, Outcome::Thawed);
    assert!(0 < outer_entry.frozen_ns && outer_entry.frozen_ns < inner_entry.from_ns);
    // Unknown to us when the freezer was killed before it could say so, and thawed all the same.
    assert!(inner_entry.from_ns > 0 && inner_entry.to_ns > 0, "{report:?}");
    assert!(report.window_ms() < 3_000, "not by a limit: {report:?}");
    inner.assert_writable();
    outer.assert_writable();
    for writer in &writers {
        writer.assert_goes_on(Duration::from_secs(5));
    }
}

fn a_thaw_in_flight_ends_well_when_the_operations_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let thawd = Thawd::start(folder.path());
    let client = thawd.client();
    frozen(&client, hold("op-1", 3_000, 10_000, &[0]), &[inner.root().as_fd()]);
    // Somebody else's freeze of the file system below makes FITHAW block.
    let below = ForeignFreeze::of(&outer);
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Status(id("op-1"), State::Poisoned));
    send_signal("KILL", thawd.operation());
    assert!(below.thaw(), "the foreign freeze is left alone");
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::ThawProcessDied);
    // Thawed by the process that was killed before it could say so.
    let outcome = report.entries()[0].outcome;
    assert!(matches!(outcome, Outcome::Thawed | Outcome::ThawedByOther), "{outcome:?}");
    inner.assert_writable();
}

fn an_operations_process_killed_while_armed_froze_nothing() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    send_signal("KILL", scene.thawd.operation());
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::ThawProcessDied);
    assert!(report.entries().iter().all(|entry| entry.outcome == Outcome::Untouched));
    drop(client);
    hold_and_release(&scene.mounts, &scene.thawd);
}

fn the_supervisor_leaves_a_foreign_freeze_alone() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    scene.mounts[1].freeze();
    send_signal("KILL", scene.thawd.operation());
    assert_eq!(thawed(&client).cause, Cause::ThawProcessDied);
    assert!(scene.mounts[1].thaw(), "the foreign freeze is still there");
}

/// As when systemd stops the unit, which signals every process in it.
fn sigterm_to_the_operation_alone_thaws() {
    let scene = scene(1);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0]), &roots(&scene.mounts));
    send_signal("TERM", scene.thawd.operation());
    let report = thawed(&client);
    assert_eq!((report.cause, report.entries()[0].outcome), (Cause::Shutdown, Outcome::Thawed));
    assert_eq!(client.status().unwrap().1, State::Idle, "the supervisor goes on");
}

fn without_a_working_filter_nothing_is_prepared() {
    let scene = scene(1);
    // A kernel that has no seccomp filters.
    let tracer = scene.thawd.trace_with(&["-o", "/dev/null", "-e", "inject=seccomp:error=ENOSYS"]);
    let client = scene.thawd.client();
    client.prepare(hold("op-1", 3_000, 10_000, &[0]), &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Refused(id("op-1"), Refusal::NotReady));
    tracer.stop(&client);
    // A kernel that takes the filter and does not heed it.
    let tracer = scene.thawd.trace_with(&["-o", "/dev/null", "-e", "inject=seccomp:retval=0"]);
    client.prepare(hold("op-2", 3_000, 10_000, &[0]), &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Refused(id("op-2"), Refusal::NotReady));
    tracer.stop(&client);
    assert_eq!(client.status().unwrap().1, State::Idle);
    drop(client);
    hold_and_release(&scene.mounts, &scene.thawd);
}
