//! What is, and what is not, done between ARMED and thawed (R4, N8).

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use azdr_thawd_client::{Cause, Outcome, Refusal, Reply, Request, State};

use crate::freeze::{hold_and_release, roots, scene};
use crate::loop_mount::LoopMount;
use crate::thawd_process::{
    ForeignFreeze, Thawd, frozen, hold, id, last_result, status_field, thawed, threads,
};

crate::tests! {
    every_thread_is_behind_a_filter_while_armed_and_frozen: ["mkfs.ext4"],
    only_the_allowed_calls_are_made_between_armed_and_thawed: ["mkfs.ext4", "strace"],
    a_refused_call_is_counted_and_ends_nothing: ["mkfs.ext4", "strace"],
    nothing_is_allocated_between_armed_and_thawed: ["mkfs.ext4"],
    an_agent_that_comes_back_is_told_that_a_thaw_is_poisoned: ["mkfs.ext4", "fsfreeze"],
    all_memory_is_locked_while_armed: ["mkfs.ext4"],
}

/// SECCOMP_MODE_FILTER.
const FILTERED: &str = "2";

fn every_thread_is_behind_a_filter_while_armed_and_frozen() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 1]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let assert_filtered = |pid: u32| {
        let threads = threads(pid);
        assert_eq!(threads.len(), 3, "one per file system, and the first");
        for thread in threads {
            assert_eq!(status_field(thread, "Seccomp"), FILTERED);
            assert_eq!(status_field(thread, "NoNewPrivs"), "1");
        }
    };
    assert_filtered(scene.thawd.operation());
    assert_filtered(scene.thawd.freezer());
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    let Reply::Frozen(_) = client.receive().unwrap() else { panic!("not frozen") };
    assert_filtered(scene.thawd.operation());
    // A filter can never be taken off: the supervisor must not have one.
    assert_eq!(status_field(scene.thawd.supervisor(), "Seccomp"), "0");
    client.send(&Request::Thaw(prepare.operation)).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken() && report.refused_calls == 0, "{report:?}");
}

const COMMON: &[&str] = &["futex", "clock_gettime", "exit_group", "restart_syscall", "ioctl"];
const OPERATION: &[&str] = &["ppoll", "recvmsg", "sendmsg", "wait4"];
const SUPERVISOR: &[&str] = &["ppoll", "futex", "wait4", "restart_syscall"];

fn only_the_allowed_calls_are_made_between_armed_and_thawed() {
    let scene = scene(2);
    let trace = scene.folder.path().join("trace");
    let tracer = scene.thawd.trace(&trace);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 1]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let mut allowed = BTreeMap::new();
    let (operation, freezer) = (scene.thawd.operation(), scene.thawd.freezer());
    let of_operation = [COMMON, OPERATION].concat();
    for (pid, calls) in [(operation, of_operation.as_slice()), (freezer, COMMON)] {
        allowed.extend(threads(pid).into_iter().map(|thread| (thread, calls)));
    }
    let threads_of_supervisor = threads(scene.thawd.supervisor());
    assert_eq!(threads_of_supervisor.len(), 3);
    allowed.extend(threads_of_supervisor.into_iter().map(|thread| (thread, SUPERVISOR)));
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    let Reply::Frozen(_) = client.receive().unwrap() else { panic!("not frozen") };
    client.send(&Request::Renew(prepare.operation)).unwrap();
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    assert!(thawed(&client).unbroken());
    tracer.stop(&client);
    let text = std::fs::read_to_string(&trace).unwrap();
    let calls: Vec<(u32, &str, &str)> = text.lines().filter_map(call).collect();
    // The replies ARMED, FROZEN and THAWED are the first messages sent.
    let sent: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].1 == "sendmsg").collect();
    let [armed, _frozen, thawed, ..] = sent.as_slice() else { panic!("{sent:?}\n{text}") };
    let window = &calls[*armed..=*thawed];
    for (thread, call, line) in window {
        let allowed = allowed.get(thread).unwrap_or_else(|| panic!("a new thread: {line}"));
        assert!(allowed.contains(call), "{line}");
        assert!(!line.contains("EPERM"), "{line}");
    }
    let ioctls: Vec<_> = window.iter().filter(|(_, call, _)| *call == "ioctl").collect();
    let by = |pid: u32, request: &str| {
        let threads = ioctls.iter().filter(|(thread, _, line)| {
            allowed.get(thread) == allowed.get(&pid) && line.contains(request)
        });
        threads.count()
    };
    assert_eq!((ioctls.len(), by(freezer, "FIFREEZE"), by(operation, "FITHAW")), (4, 2, 2));
}

/// Thread, call and the line itself: `PID call(...`. Not the ends of calls, processes and threads.
fn call(line: &str) -> Option<(u32, &str, &str)> {
    let (thread, call) = line.split_once(' ')?;
    let (name, _) = call.trim_start().split_once('(')?;
    let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    named.then(|| (thread.parse().unwrap(), name, line))
}

fn a_refused_call_is_counted_and_ends_nothing() {
    let scene = scene(1);
    // In the operation's process, whose first wait is for the agent's Freeze.
    let tracer =
        scene.thawd.trace_with(&["-o", "/dev/null", "-e", "inject=ppoll:error=EPERM:when=2"]);
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0]), &roots(&scene.mounts));
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken() && report.refused_calls == 1, "{report:?}");
    tracer.stop(&client);
}

fn nothing_is_allocated_between_armed_and_thawed() {
    let scene = scene(2);
    let folder = tempfile::tempdir().unwrap();
    let thawd = Thawd::start_with_strict_allocator(folder.path());
    hold_and_release(&scene.mounts, &thawd);
    // An agent that goes; one that asks out of order, and loses its lease.
    frozen(&thawd.client(), hold("op-2", 10_000, 25_000, &[0, 0]), &roots(&scene.mounts));
    assert_eq!(last_result(&thawd, "op-2").cause, Cause::AgentDied);
    let client = thawd.client();
    frozen(&client, hold("op-3", 1_000, 25_000, &[0, 0]), &roots(&scene.mounts));
    client.prepare(hold("op-4", 3_000, 10_000, &[0, 0]), &roots(&scene.mounts)).unwrap();
    assert!(matches!(client.receive().unwrap(), Reply::Refused(..)));
    let report = thawed(&client);
    assert_eq!(report.cause, Cause::LeaseExpired, "not by the death of the operation's process");
    assert!(report.entries().iter().all(|entry| entry.outcome == Outcome::Thawed));
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

/// Somebody else freezes the file system that holds the image: FITHAW of the inner one waits for it.
fn an_agent_that_comes_back_is_told_that_a_thaw_is_poisoned() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let thawd = Thawd::start_with_strict_allocator(folder.path());
    let client = thawd.client();
    frozen(&client, hold("op-1", 3_000, 10_000, &[0]), &[inner.root().as_fd()]);
    let below = ForeignFreeze::of(&outer);
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Status(id("op-1"), State::Poisoned));
    drop(client);
    let client = thawd.client();
    assert_eq!(client.status().unwrap(), (id("op-1"), State::Poisoned));
    client.prepare(hold("op-2", 3_000, 10_000, &[0]), &[inner.root().as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Refused(id("op-2"), Refusal::Busy));
    assert!(below.thaw());
    let report = thawed(&client);
    assert_eq!((report.cause, report.refused_calls), (Cause::Command, 0));
    assert_eq!(report.entries()[0].outcome, Outcome::Thawed);
    assert_eq!(last_result(&thawd, "op-1"), report);
    inner.assert_writable();
}

/// Also the stacks: what is not resident would have to be allocated in the window.
fn all_memory_is_locked_while_armed() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let thawd = &scene.thawd;
    for pid in [thawd.supervisor(), thawd.operation(), thawd.freezer()] {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mut name = "";
        let (mut size, mut writable) = ("", false);
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["Size:", kib, "kB"] => size = kib,
                ["Rss:", kib, "kB"] if writable => assert_eq!(*kib, size, "{pid}: {name}"),
                [range, access, ..] if range.contains('-') => {
                    (name, writable) = (line, access.starts_with("rw"));
                }
                _ => {}
            }
        }
    }
}
