//! All of the thaw process and its agent may be killed at once: what was parked with the service manager
//! thaws (R2). The service manager is a stand-in that keeps what it is sent, as sd_notify(3) has it, and
//! starts the thaw process with it, as sd_listen_fds(3) has it.

use std::fs::{File, remove_file};
use std::io::{ErrorKind, Read, Write};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use azdr_thawd_client::{Reply, Request, State};

use crate::freeze::{hold_and_release, roots};
use crate::loop_mount::{LoopMount, Writer, wait_for};
use crate::thawd_process::{
    ForeignFreeze, Thawd, agent_process, frozen, hold, id, program, send_signal, status_field,
    thawed, threads,
};

crate::tests! {
    what_is_killed_as_a_whole_while_frozen_is_thawed_by_its_successor: ["mkfs.ext4"],
    a_freeze_in_flight_outlives_all_and_is_thawed_by_the_successor: ["mkfs.ext4"],
    a_successor_of_an_armed_operation_thaws_nothing: ["mkfs.ext4", "fsfreeze"],
    a_successor_leaves_what_somebody_else_froze: ["mkfs.ext4", "fsfreeze"],
    a_successor_that_nobody_listens_to_thaws_first_and_speaks_afterwards: ["mkfs.ext4"],
    a_successor_that_is_killed_as_well_has_a_successor: ["mkfs.ext4"],
    a_successor_that_cannot_read_the_table_thaws_all_that_was_parked: ["mkfs.ext4"],
    a_freeze_in_flight_is_thawed_by_a_successor_that_cannot_read_the_table: ["mkfs.ext4"],
    a_successor_that_nobody_listens_to_does_not_miss_its_turn: ["mkfs.ext4"],
    a_successor_waits_for_an_operation_that_lives: ["mkfs.ext4"],
    nothing_stays_parked_after_an_operation: ["mkfs.ext4"],
    a_service_manager_that_is_gone_prevents_nothing: ["mkfs.ext4"],
}

/// How soon a successor has thawed, from its start, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(3);

/// A stand-in for systemd. Dropping it lets go of what it keeps.
struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    kept: Vec<OwnedFd>,
}

impl ServiceManager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, kept: Vec::new() }
    }

    /// Reads what was sent, and returns how many descriptors it keeps then.
    fn listen(&mut self) -> usize {
        let mut words = [0u8; 4096];
        let mut control = [0u64; 256];
        loop {
            // SAFETY: all pointers are to live buffers of the lengths given; each descriptor that comes
            // is new and ours.
            let len = unsafe {
                let mut part =
                    libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: words.len() };
                let mut header: libc::msghdr = zeroed();
                (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = size_of_val(&control) as _;
                let flags = libc::MSG_CMSG_CLOEXEC;
                let len = libc::recvmsg(self.socket.as_raw_fd(), &mut header, flags);
                if len < 0 {
                    return self.kept.len();
                }
                let control = libc::CMSG_FIRSTHDR(&header);
                if !control.is_null() {
                    let size = (*control).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let fds = libc::CMSG_DATA(control).cast::<RawFd>();
                    for index in 0..size / size_of::<RawFd>() {
                        self.kept.push(OwnedFd::from_raw_fd(fds.add(index).read_unaligned()));
                    }
                }
                len as usize
            };
            match std::str::from_utf8(&words[..len]).unwrap() {
                "FDSTORE=1\nFDNAME=azdr-operation" => {}
                "FDSTOREREMOVE=1\nFDNAME=azdr-operation" => self.kept.clear(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Starts the service, or starts it again.
    fn start(&mut self, folder: &Path) -> Thawd {
        let command = self.command(folder);
        Thawd::spawn(command, folder.join("thawd.sock"))
    }

    /// The service with what is kept for it.
    fn command(&mut self, folder: &Path) -> Command {
        self.listen();
        // Beyond the numbers that they will have.
        let passed: Vec<OwnedFd> = self.kept.iter().map(|fd| beyond(fd, 200)).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(program())
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", passed.len().to_string());
        command.arg("--socket").arg(folder.join("thawd.sock"));
        // SAFETY: dup2 may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                passed.iter().zip(3..).for_each(|(fd, to)| _ = libc::dup2(fd.as_raw_fd(), to));
                Ok(())
            });
        }
        command
    }
}

fn beyond(fd: &OwnedFd, number: RawFd) -> OwnedFd {
    // SAFETY: no memory is passed, and the new descriptor is ours.
    unsafe { OwnedFd::from_raw_fd(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number)) }
}

/// In the order of dropping.
struct Scene {
    thawd: Thawd,
    manager: ServiceManager,
    mounts: Vec<LoopMount>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(mounts: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounts =
            (0..mounts).map(|n| LoopMount::ext4(folder.path(), &format!("disk{n}"))).collect();
        Self::of(folder, mounts)
    }

    fn of(folder: tempfile::TempDir, mounts: Vec<LoopMount>) -> Self {
        let mut manager = ServiceManager::new(folder.path());
        let thawd = manager.start(folder.path());
        thawd.wait_until_it_listens();
        Self { thawd, manager, mounts, folder }
    }

    /// Kills supervisor and operation, whose freezer dies with it. In this order: the supervisor would
    /// thaw.
    fn kill_the_thaw_process(&mut self) {
        let operation = self.thawd.operation();
        self.thawd.signal("KILL");
        assert!(!self.thawd.ended(Duration::from_secs(5)));
        send_signal("KILL", operation);
        let gone = || !alive(operation);
        wait_for("the operation's end", Duration::from_secs(5), gone);
    }

    /// What is parked is from now on what another version would have parked.
    fn become_of_another_version(&mut self) {
        assert!(self.manager.listen() > 1, "the table and the roots");
        let table = File::from(self.manager.kept[0].try_clone().unwrap());
        table.set_len(table.metadata().unwrap().len() + 8).unwrap();
    }

    fn start_again(&mut self) {
        self.thawd = self.manager.start(self.folder.path());
    }

    fn assert_thawed_and_released(&mut self) {
        self.thawd.wait_until_it_listens();
        let released = || self.manager.listen() == 0;
        wait_for("what was parked to be released", Duration::from_secs(5), released);
        assert!(self.mounts.iter().all(|mount| !mount.thaw()), "left frozen");
        hold_and_release(&self.mounts, &self.thawd);
    }
}

/// False for a process all of whose threads have ended, whether somebody waited for it or not.
fn alive(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let ended =
        |stat: &String| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    !stats.collect::<Vec<_>>().iter().all(ended)
}

fn what_is_killed_as_a_whole_while_frozen_is_thawed_by_its_successor() {
    let mut scene = Scene::new(2);
    let writers: Vec<_> = scene.mounts.iter().map(|mount| Writer::start(mount.path())).collect();
    let paths: Vec<_> = scene.mounts.iter().map(LoopMount::path).collect();
    let mut agent = agent_process(scene.thawd.socket(), "op-1", 10_000, &paths);
    assert_eq!(scene.manager.listen(), 3, "the table and two roots");
    scene.kill_the_thaw_process();
    agent.kill().unwrap();
    agent.wait().unwrap();
    writers.iter().for_each(Writer::assert_blocked);
    scene.start_again();
    let took: Vec<_> = writers.iter().map(|writer| writer.assert_goes_on(SOON)).collect();
    println!("thawed after the start of the successor: {took:?}");
    drop(writers);
    scene.assert_thawed_and_released();
}

/// Another version's table has another size.
fn a_successor_that_cannot_read_the_table_thaws_all_that_was_parked() {
    let mut scene = Scene::new(2);
    let writers: Vec<_> = scene.mounts.iter().map(|mount| Writer::start(mount.path())).collect();
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0, 1]), &roots(&scene.mounts));
    scene.become_of_another_version();
    scene.kill_the_thaw_process();
    drop(client);
    writers.iter().for_each(Writer::assert_blocked);
    scene.start_again();
    writers.iter().for_each(|writer| _ = writer.assert_goes_on(SOON));
    drop(writers);
    scene.assert_thawed_and_released();
}

/// The wrong order: the second FIFREEZE waits for the first file system's thaw, and its freezer cannot
/// be killed. The successor must not wait for the freezer's end before it thaws the first.
fn a_freeze_in_flight_outlives_all_and_is_thawed_by_the_successor() {
    a_freeze_in_flight_is_thawed(|_| {});
}

fn a_freeze_in_flight_is_thawed_by_a_successor_that_cannot_read_the_table() {
    a_freeze_in_flight_is_thawed(Scene::become_of_another_version);
}

fn a_freeze_in_flight_is_thawed(before_the_end: fn(&mut Scene)) {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    // The inner one is to be dropped first.
    let mut scene = Scene::of(folder, vec![inner, outer]);
    let writers = scene.mounts.iter().map(|mount| Writer::start(mount.path()));
    let writers: Vec<_> = writers.collect();
    let client = scene.thawd.client();
    let prepare = hold("op-1", 10_000, 25_000, &[1, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    let freezer = scene.thawd.freezer();
    let mut threads = threads(freezer);
    threads.sort_unstable();
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    // Its first thread, then one per file system, in their order.
    let blocked = || status_field(threads[1], "State") == "D";
    wait_for("the second FIFREEZE to block", Duration::from_secs(2), blocked);
    before_the_end(&mut scene);
    scene.kill_the_thaw_process();
    drop(client);
    assert!(alive(freezer), "in FIFREEZE, and not to be killed");
    scene.start_again();
    for writer in &writers {
        let took = writer.assert_goes_on(SOON);
        println!("thawed after the start of the successor: {took:?}");
    }
    wait_for("the freezer's end", Duration::from_secs(5), || !alive(freezer));
    drop(writers);
    scene.thawd.wait_until_it_listens();
    let released = || scene.manager.listen() == 0;
    wait_for("what was parked to be released", Duration::from_secs(5), released);
    assert!(scene.mounts.iter().all(|mount| !mount.thaw()), "left frozen");
}

fn a_successor_of_an_armed_operation_thaws_nothing() {
    let mut scene = Scene::new(2);
    let client = scene.thawd.client();
    let prepare = hold("op-1", 3_000, 10_000, &[0, 0]);
    client.prepare(prepare, &roots(&scene.mounts)).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    scene.kill_the_thaw_process();
    drop(client);
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    scene.mounts[1].freeze();
    scene.start_again();
    scene.thawd.wait_until_it_listens();
    assert!(scene.mounts[1].thaw(), "the foreign freeze is still there");
    scene.assert_thawed_and_released();
}

/// One is frozen by us, one by somebody else, and one is in flight, held up by a third freeze.
fn a_successor_leaves_what_somebody_else_froze() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let foreign = LoopMount::ext4(folder.path(), "foreign");
    let ours = LoopMount::ext4(folder.path(), "ours");
    let mut scene = Scene::of(folder, Vec::new());
    let (dirty, writer) = (Writer::start(inner.path()), Writer::start(ours.path()));
    let (below, other) = (ForeignFreeze::of(&outer), ForeignFreeze::of(&foreign));
    let client = scene.thawd.client();
    let prepare = hold("op-1", 10_000, 25_000, &[0, 0, 0]);
    let all = [&ours, &foreign, &inner].map(|mount| mount.root().as_fd());
    client.prepare(prepare, &all).unwrap();
    assert_eq!(client.receive().unwrap(), Reply::Armed(prepare.operation));
    client.send(&Request::Freeze(prepare.operation)).unwrap();
    writer.assert_blocked();
    scene.kill_the_thaw_process();
    drop(client);
    scene.start_again();
    let took = writer.assert_goes_on(SOON);
    println!("thawed after the start of the successor: {took:?}");
    assert!(other.thaw(), "the foreign freeze is still there");
    assert!(below.thaw(), "and this one");
    dirty.assert_goes_on(SOON);
    scene.thawd.wait_until_it_listens();
    assert_eq!(scene.manager.listen(), 0);
    for mount in [&ours, &foreign, &inner, &outer] {
        assert!(!mount.thaw(), "left frozen");
    }
    drop((dirty, writer, scene));
}

/// Standard error of somebody whose words are not read, and its other end.
fn full_socket() -> (UnixStream, UnixStream) {
    let (journal, mut told) = UnixStream::pair().unwrap();
    told.set_nonblocking(true).unwrap();
    let full = std::iter::repeat_with(|| told.write(&[b'\n'; 4096])).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
    told.set_nonblocking(false).unwrap();
    (journal, told)
}

/// It has to wait for an operation that lives, which it would say; when that is killed, too, it thaws.
fn a_successor_that_nobody_listens_to_does_not_miss_its_turn() {
    let mut scene = Scene::new(1);
    let writer = Writer::start(scene.mounts[0].path());
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0]), &roots(&scene.mounts));
    let operation = scene.thawd.operation();
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended(Duration::from_secs(5)));
    let (_journal, told) = full_socket();
    let mut command = scene.manager.command(scene.folder.path());
    command.stderr(OwnedFd::from(told));
    scene.thawd = Thawd::spawn(command, scene.folder.path().join("thawd.sock"));
    let supervisor = scene.thawd.supervisor();
    let waits = || {
        let call = std::fs::read_to_string(format!("/proc/{supervisor}/syscall"));
        let number = libc::SYS_flock.to_string();
        call.is_ok_and(|call| call.split_whitespace().next() == Some(number.as_str()))
    };
    wait_for("it to wait for its turn", Duration::from_secs(5), waits);
    send_signal("KILL", operation);
    writer.assert_goes_on(SOON);
    drop((client, writer));
    scene.assert_thawed_and_released();
}

/// What it has to say is that one descriptor is gone; standard error is the journal's socket, full because
/// its reader waits for what is frozen.
fn a_successor_that_nobody_listens_to_thaws_first_and_speaks_afterwards() {
    let mut scene = Scene::new(2);
    let writers: Vec<_> = scene.mounts.iter().map(|mount| Writer::start(mount.path())).collect();
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0, 0]), &roots(&scene.mounts));
    assert_eq!(scene.manager.listen(), 3, "the table and two roots");
    scene.kill_the_thaw_process();
    drop(client);
    drop(scene.manager.kept.remove(1));
    let (mut journal, told) = full_socket();
    let mut command = scene.manager.command(scene.folder.path());
    command.stderr(OwnedFd::from(told));
    scene.thawd = Thawd::spawn(command, scene.folder.path().join("thawd.sock"));
    writers[1].assert_goes_on(SOON);
    // It is read at last.
    journal.set_read_timeout(Some(SOON)).unwrap();
    let mut words = String::new();
    while !words.contains("may be frozen, and nobody kept it open") {
        let mut part = [0; 4096];
        let len = journal.read(&mut part).unwrap();
        assert!(len > 0, "{}", words.trim());
        words.push_str(std::str::from_utf8(&part[..len]).unwrap());
    }
    writers[0].assert_blocked();
    assert!(scene.mounts[0].thaw(), "nobody could");
    drop(writers);
    scene.assert_thawed_and_released();
}

/// Its FITHAW waits for somebody else's freeze of the file system below, and is killed there.
fn a_successor_that_is_killed_as_well_has_a_successor() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    let mut scene = Scene::of(folder, Vec::new());
    let writer = Writer::start(inner.path());
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0]), &[inner.root().as_fd()]);
    let below = ForeignFreeze::of(&outer);
    scene.kill_the_thaw_process();
    drop(client);
    scene.start_again();
    let supervisor = scene.thawd.supervisor();
    let blocked = || threads(supervisor).iter().any(|thread| status_field(*thread, "State") == "D");
    wait_for("the successor's FITHAW", Duration::from_secs(5), blocked);
    scene.thawd.signal("KILL");
    let second = scene.manager.start(scene.folder.path());
    let killed = std::mem::replace(&mut scene.thawd, second);
    assert!(below.thaw(), "the foreign freeze is left alone");
    writer.assert_goes_on(SOON);
    drop(killed);
    scene.thawd.wait_until_it_listens();
    assert_eq!(scene.manager.listen(), 0);
    assert!(!inner.thaw() && !outer.thaw(), "left frozen");
    drop((writer, scene));
}

fn a_successor_waits_for_an_operation_that_lives() {
    let mut scene = Scene::new(2);
    let writer = Writer::start(scene.mounts[0].path());
    let client = scene.thawd.client();
    frozen(&client, hold("op-1", 10_000, 25_000, &[0, 1]), &roots(&scene.mounts));
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended(Duration::from_secs(5)));
    scene.start_again();
    writer.assert_blocked();
    assert_eq!(client.status().unwrap(), (id("op-1"), State::Frozen));
    client.send(&Request::Thaw(id("op-1"))).unwrap();
    let report = thawed(&client);
    assert!(report.unbroken(), "{report:?}");
    drop((client, writer));
    scene.assert_thawed_and_released();
}

fn nothing_stays_parked_after_an_operation() {
    let mut scene = Scene::new(2);
    for operation in ["op-1", "op-2"] {
        let client = scene.thawd.client();
        frozen(&client, hold(operation, 3_000, 10_000, &[0, 0]), &roots(&scene.mounts));
        assert_eq!(scene.manager.listen(), 3, "the table and two roots");
        client.send(&Request::Thaw(id(operation))).unwrap();
        assert!(thawed(&client).unbroken());
        // Idle again, it has let go.
        assert_eq!(client.status().unwrap().1, State::Idle);
        assert_eq!(scene.manager.listen(), 0);
    }
}

fn a_service_manager_that_is_gone_prevents_nothing() {
    let scene = Scene::new(1);
    remove_file(&scene.manager.path).unwrap();
    hold_and_release(&scene.mounts, &scene.thawd);
}
