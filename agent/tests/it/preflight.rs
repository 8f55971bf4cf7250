//! Which file systems are found, what stands in the way, and when nothing is begun.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use azdr_agent::mounts::{Choice, Seen, coverage, open_root};
use azdr_agent::namespaces::read_mounts;
use azdr_agent::safe_freeze_lock::{is_held, try_take};
use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{FileSystemState, FreezeOutcome, FreezeReply, RunPreflight};
use serde_json::Value;

use crate::freeze::{freeze, freeze_reply, scene, scene_of, thaw, thaw_reply};
use crate::loop_mount::{LoopMount, Writer, wait_for};
use crate::machine::{Machine, enrolled, threads};

crate::tests! {
    a_preflight_is_told_when_a_session_begins_and_when_it_is_asked_for: ["mkfs.ext4"],
    each_superblock_is_frozen_once_however_it_is_mounted: ["mkfs.ext4"],
    subvolumes_of_btrfs_are_one_file_system: ["mkfs.btrfs"],
    a_loop_on_a_loop_is_frozen_from_the_inside_out: ["mkfs.ext4", "mkfs.xfs"],
    what_only_another_namespace_has_mounted_is_found_and_opened: ["mkfs.ext4", "unshare"],
    a_file_system_that_never_answers_is_not_touched: ["mkfs.ext4", "strace", "/dev/fuse"],
    a_mount_on_demand_is_not_asked_for: ["mkfs.ext4", "/dev/autofs"],
    what_the_agent_needs_may_not_lie_on_what_is_frozen: ["mkfs.ext4"],
    a_megabyte_of_log_lines_in_the_window_blocks_nothing: ["mkfs.ext4"],
    sixty_four_file_systems_are_frozen_together: ["mkfs.ext4"],
    a_root_that_is_denied_is_reported_and_nothing_is_frozen: ["mkfs.ext4", "strace"],
    while_azure_backup_freezes_nothing_is_begun: ["mkfs.ext4"],
}

fn mount(arguments: &[&str]) {
    assert!(Command::new("mount").args(arguments).status().unwrap().success(), "{arguments:?}");
}

/// A mount that is none of [`LoopMount`]'s, taken away at the end.
struct Also(std::path::PathBuf);

impl Also {
    fn new(place: &Path, arguments: &[&str]) -> Self {
        mount(&[arguments, &[place.to_str().unwrap()]].concat());
        Self(place.to_owned())
    }
}

impl Drop for Also {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn frozen_places(reply: &FreezeReply) -> Vec<&str> {
    let frozen = reply.file_systems.iter().filter(|f| f.state() == FileSystemState::Frozen);
    frozen.map(|f| f.mount_point.as_str()).collect()
}

async fn json(machine: &Machine, code: i32) -> Value {
    let output = machine.agent(&["preflight", "--json"]).await;
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn a_preflight_is_told_when_a_session_begins_and_when_it_is_asked_for() {
    let mut scene = scene(2).await;
    let pick = |said| if let Said::Preflight(r) = said { Some(r) } else { None };
    let first = scene.session.hear(pick).await;
    assert!(first.ready && first.request_id.is_empty(), "{first:?}");
    let ask = || Tell::RunPreflight(RunPreflight { request_id: "r-1".to_owned() });
    scene.session.tell(ask()).await;
    let asked = scene.session.hear(pick).await;
    assert_eq!(asked.request_id, "r-1");
    let places: Vec<_> = asked.file_systems.iter().map(|f| f.mount_point.as_str()).collect();
    assert_eq!(places, [0, 1].map(|n| scene.mounts[n].path().to_str().unwrap()));
    // In the window it is told all the same, and nothing of it is a problem.
    scene.frozen("op-1", 3_000, 10_000).await;
    scene.session.tell(ask()).await;
    let frozen = scene.session.hear(pick).await;
    assert!(frozen.ready && frozen.passing == ["an operation is under way"], "{frozen:?}");
    scene.session.tell(thaw("op-1")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
    drop(scene.thawd);
    let document = json(&scene.machine, 1).await;
    let problems = document["problems"].as_array().unwrap();
    assert!(
        problems.len() == 1 && problems[0].as_str().unwrap().contains("azdr-thawd"),
        "{document}"
    );
}

async fn each_superblock_is_frozen_once_however_it_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let plain = LoopMount::ext4(folder.path(), "plain");
    let odd = LoopMount::ext4(folder.path(), "a b\tc\nd\\040é");
    let covered = LoopMount::ext4(folder.path(), "covered");
    let upper = LoopMount::ext4(folder.path(), "upper");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for name in ["bind", "second", "elsewhere", "lower", "merged"] {
        fs::create_dir(at(name)).unwrap();
    }
    for name in ["up", "work"] {
        fs::create_dir(upper.path().join(name)).unwrap();
    }
    fs::create_dir(plain.path().join("part")).unwrap();
    fs::write(plain.path().join("socket"), "").unwrap();
    fs::write(at("file"), "").unwrap();
    let device = read_mounts(Path::new("/proc")).unwrap();
    let device = device.iter().find(|m| m.mount_point == plain.path()).unwrap().source.clone();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        text(&at("lower")),
        text(&upper.path().join("up")),
        text(&upper.path().join("work"))
    );
    let also = [
        Also::new(&at("bind"), &["--bind", &text(&plain.path().join("part"))]),
        Also::new(&at("file"), &["--bind", &text(&plain.path().join("socket"))]),
        Also::new(&at("second"), &[&text(&device)]),
        // Reached there, since here another one lies over it.
        Also::new(&at("elsewhere"), &["--bind", &text(covered.path())]),
        Also::new(covered.path(), &["-t", "tmpfs", "tmpfs"]),
        Also::new(&at("merged"), &["-t", "overlay", "overlay", "-o", &options]),
    ];
    let mut scene = scene_of(folder, vec![plain, odd, covered, upper]).await;
    let merged = scene.mounts[3].path().parent().unwrap().join("merged");
    let writer = Writer::start(&merged);
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    writer.assert_blocked();
    let elsewhere = text(&merged.parent().unwrap().join("elsewhere"));
    let path = |n: usize| scene.mounts[n].path().to_str().unwrap();
    let expected = BTreeSet::from([path(0), path(1), &elsewhere, path(3)]);
    assert_eq!(frozen_places(&reply).len(), 4, "{reply:?}");
    assert_eq!(frozen_places(&reply).into_iter().collect::<BTreeSet<_>>(), expected);
    scene.session.tell(thaw("op-1")).await;
    let thawed = thaw_reply(&mut scene.session).await;
    assert!(thawed.unbroken && thawed.windows.len() == 4, "{thawed:?}");
    writer.assert_goes_on(Duration::from_secs(5));
    drop(also);
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

async fn subvolumes_of_btrfs_are_one_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let btrfs = LoopMount::new(folder.path(), "btrfs", "128M", &["mkfs.btrfs", "-q", "-f"]);
    let mut also = Vec::new();
    let source = read_mounts(Path::new("/proc")).unwrap();
    let source = source.iter().find(|m| m.mount_point == btrfs.path()).unwrap().source.clone();
    for name in ["one", "two", "three"] {
        let volume = btrfs.path().join(name);
        let made = Command::new("btrfs").args(["subvolume", "create"]).arg(&volume).output();
        assert!(made.unwrap().status.success());
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        let options = format!("subvol={name}");
        also.push(Also::new(&place, &["-o", &options, source.to_str().unwrap()]));
    }
    let mut scene = scene_of(folder, vec![btrfs]).await;
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    assert_eq!(frozen_places(&reply), [scene.mounts[0].path().to_str().unwrap()]);
    scene.session.tell(thaw("op-1")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
    drop(also);
    scene.mounts[0].assert_writable();
}

async fn a_loop_on_a_loop_is_frozen_from_the_inside_out() {
    let folder = tempfile::tempdir().unwrap();
    let bottom = LoopMount::ext4_of(folder.path(), "bottom", "1G");
    let middle = LoopMount::xfs(bottom.path(), "middle");
    let top = LoopMount::ext4(middle.path(), "top");
    // In the order of unmounting.
    let mut scene = scene_of(folder, vec![top, middle, bottom]).await;
    let mut thawed_in_order = 0;
    for n in 0..5 {
        let operation = format!("op-{n}");
        scene.frozen(&operation, 3_000, 10_000).await;
        scene.session.tell(thaw(&operation)).await;
        let thawed = thaw_reply(&mut scene.session).await;
        assert!(thawed.unbroken, "{thawed:?}");
        let windows: Vec<_> = scene
            .mounts
            .iter()
            .map(|mount| {
                let place = mount.path().to_str().unwrap();
                thawed.windows.iter().find(|w| w.mount_point == place).unwrap()
            })
            .collect();
        let mut pairs = windows.windows(2);
        let in_order = pairs.all(|pair| pair[0].frozen_from_ns < pair[1].frozen_from_ns);
        assert!(in_order, "{thawed:?}");
        let mut pairs = windows.windows(2);
        thawed_in_order +=
            i32::from(pairs.all(|pair| pair[0].frozen_to_ns >= pair[1].frozen_to_ns));
    }
    // A thaw waits for that of the one below for 20 ms only, which a busy disk can take.
    assert!(thawed_in_order > 0, "never in order");
    scene.mounts.iter().for_each(LoopMount::assert_writable);
}

async fn what_only_another_namespace_has_mounted_is_found_and_opened() {
    let folder = tempfile::tempdir().unwrap();
    let made = LoopMount::ext4(folder.path(), "disk");
    let image = folder.path().join("disk.img");
    let place = folder.path().join("inside");
    fs::create_dir(&place).unwrap();
    drop(made);
    // Says when it is ready, and ends with its input.
    let script =
        format!("mount -o loop '{}' '{}' && echo ready && cat", image.display(), place.display());
    let mut container = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    container.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let mounts = read_mounts(Path::new("/proc")).unwrap();
    let found = mounts.iter().find(|m| m.mount_point == place).expect("it is found");
    assert!(matches!(found.seen, Seen::By(_)), "{found:?}");
    assert!(found.place().contains("in a container"));
    let all = coverage(&mounts, &Choice::default()).unwrap();
    let file_system = all.file_systems.iter().find(|f| f.device == found.device).unwrap();
    let root = open_root(Path::new("/proc"), file_system).unwrap();
    let opened = fs::File::from(root.fd).metadata().unwrap();
    let outside = fs::metadata(&place).unwrap();
    let device = |m: &fs::Metadata| std::os::unix::fs::MetadataExt::dev(m);
    assert_ne!(device(&opened), device(&outside), "the container's file system, not the folder");
    drop(container.stdin.take());
    assert!(container.wait().unwrap().success());
}

async fn a_file_system_that_never_answers_is_not_touched() {
    let mut scene = scene(1).await;
    let hung = scene.machine.path("hung");
    fs::create_dir(&hung).unwrap();
    // Nobody ever reads from it.
    let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let mounted = Command::new("mount")
        .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "hung"])
        .arg(&hung)
        .stdin(server.try_clone().unwrap())
        .status();
    assert!(mounted.unwrap().success());
    let also = Also(hung.clone());
    let trace = scene.machine.path("trace");
    let options = ["-e", "trace=%file", "-o", trace.to_str().unwrap()];
    let output = scene.machine.traced_agent(&options, &["preflight", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{document}");
    assert!(document["took_ms"].as_u64().unwrap() < 1_000, "{document}");
    let calls = fs::read_to_string(trace).unwrap();
    assert!(
        calls.contains(scene.mounts[0].path().to_str().unwrap()),
        "the trace shows what is opened"
    );
    assert!(!calls.contains(hung.to_str().unwrap()), "{calls}");
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    assert!(reply.freeze_ms < 1_000, "{reply:?}");
    scene.session.tell(thaw("op-1")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
    drop((server, also));
}

async fn a_mount_on_demand_is_not_asked_for() {
    let mut scene = scene(1).await;
    let place = scene.machine.path("on-demand");
    fs::create_dir(&place).unwrap();
    // The kernel asks whoever reads from here for each mount, and lets who touched the place wait for it.
    let (mut asked, server) = std::io::pipe().unwrap();
    let mounted = Command::new("mount")
        .args(["-i", "-t", "autofs", "-o", "fd=0,minproto=5,maxproto=5,direct", "on-demand"])
        .arg(&place)
        .stdin(server)
        // Of the group that mounts it the kernel believes that it is the server, and asks it for nothing.
        .process_group(0)
        .status();
    assert!(mounted.unwrap().success());
    let also = Also(place.clone());
    let document = json(&scene.machine, 0).await;
    assert!(document["took_ms"].as_u64().unwrap() < 1_000, "{document}");
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    assert!(reply.freeze_ms < 1_000, "{reply:?}");
    scene.session.tell(thaw("op-1")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
    // What touches it is heard at once, and is the first.
    let mut touches = Command::new("ls").arg(place.join("x")).spawn().unwrap();
    // The beginning of `struct autofs_v5_packet`, <linux/auto_fs.h>, up to its name; its `tgid`.
    let mut packet = [0; 44];
    asked.read_exact(&mut packet).unwrap();
    let asker = u32::from_ne_bytes(packet[36..40].try_into().unwrap());
    touches.kill().unwrap();
    touches.wait().unwrap();
    assert_eq!(asker, touches.id(), "somebody asked before");
    drop(also);
}

async fn what_the_agent_needs_may_not_lie_on_what_is_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let mount = LoopMount::ext4(folder.path(), "disk");
    let (machine, _controller) = enrolled(&[&mount]).await;
    let log = mount.path().join("agent.log");
    let mut agent = machine.start_agent_logging_to(&log);
    assert_eq!(agent.exit_code(), Some(2));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("standard error") && said.contains("covered"), "{said}");
    // By way of a link, which is how it happens.
    let link = machine.path("run");
    std::os::unix::fs::symlink(mount.path(), &link).unwrap();
    machine.reconfigure(|text| {
        let socket = format!("{:?}", machine.socket());
        text.replace(&socket, &format!("{:?}", link.join("thawd.sock")))
    });
    let mut agent = machine.start_agent();
    assert_eq!(agent.exit_code(), Some(2));
    let said = machine.log();
    assert!(said.contains("`thawd_socket`") && said.contains("/run"), "{said}");
    let problems = json(&machine, 1).await["problems"].to_string();
    assert!(problems.contains("`thawd_socket`"), "{problems}");
    mount.assert_writable();
}

async fn a_megabyte_of_log_lines_in_the_window_blocks_nothing() {
    let mut scene = scene(1).await;
    scene.frozen("op-1", 10_000, 25_000).await;
    // Each is a line of the log, with its text: 64 of 16 KiB.
    for n in 0..64 {
        let request_id = format!("{n}-{}", "x".repeat(16 * 1024));
        let issued =
            azdr_proto::agent::CertificateIssued { reason: request_id, ..Default::default() };
        scene.session.tell(Tell::CertificateIssued(issued)).await;
        scene
            .session
            .tell(Tell::Welcome(azdr_proto::agent::Welcome {
                message: "y".repeat(16 * 1024),
                ..Default::default()
            }))
            .await;
    }
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(reply.unbroken, "{reply:?}");
    wait_for("the log to be written", Duration::from_secs(5), || {
        scene.machine.log().contains("log lines were dropped while frozen")
    });
    scene.mounts[0].assert_writable();
}

async fn sixty_four_file_systems_are_frozen_together() {
    let mut scene = scene(64).await;
    let before = descriptors(scene.agent.id());
    // The best of a few tries is asserted, since this machine may be busy with something else.
    let mut tries = Vec::new();
    for n in 1..=5 {
        let operation = format!("op-{n}");
        let reply = scene.frozen(&operation, 5_000, 10_000).await;
        assert_eq!(frozen_places(&reply).len(), 64);
        let (held, running) = (descriptors(scene.agent.id()), threads(scene.agent.id()));
        // Of each its root, and where its canary's state is read.
        assert!(held <= before + 2 * 64 + 16, "{before} descriptors before, {held} in the window");
        assert!(running < 256, "{running} threads");
        let thawed = scene.thawed(&operation).await;
        assert_eq!(thawed.windows.len(), 64, "{thawed:?}");
        scene.mounts.iter().for_each(LoopMount::assert_writable);
        tries.push((reply.freeze_ms, thawed.unbroken, thawed.reason));
        if reply.freeze_ms < 300 && thawed.unbroken {
            return;
        }
    }
    panic!("all frozen within 300 ms, and proved, in none of {tries:?}");
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What a security module does, done by a tracer: this machine has none.
async fn a_root_that_is_denied_is_reported_and_nothing_is_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let mounts: Vec<_> =
        (0..3).map(|n| LoopMount::ext4(folder.path(), &format!("disk {n}"))).collect();
    let (machine, mut controller) = enrolled(&mounts.iter().collect::<Vec<_>>()).await;
    let _thawd = machine.start_thawd();
    let denied = mounts[1].path().to_str().unwrap();
    let inject = ["-o", "/dev/null", "-P", denied, "-e", "inject=openat:error=EACCES"];
    let output = machine.traced_agent(&inject, &["preflight"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = said.lines().find(|line| line.starts_with("PROBLEM:")).unwrap();
    assert!(problem.contains(denied) && problem.contains("SELinux"), "{said}");
    assert_eq!(said.matches("PROBLEM:").count(), 1, "{said}");
    let agent = machine.start_traced_agent(&inject);
    let mut session = controller.protected().await;
    session.tell(freeze("op-1", 3_000, 10_000)).await;
    let reply = freeze_reply(&mut session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Refused);
    assert!(reply.reason.contains(denied) && frozen_places(&reply).is_empty(), "{reply:?}");
    mounts.iter().for_each(LoopMount::assert_writable);
    drop(agent);
}

async fn while_azure_backup_freezes_nothing_is_begun() {
    let mut scene = scene(1).await;
    let path = scene.machine.lock();
    let theirs = try_take(&path).unwrap().unwrap();
    let passing = json(&scene.machine, 0).await["passing"].to_string();
    assert!(passing.contains("Azure Backup"), "{passing}");
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Refused);
    assert!(reply.reason.starts_with("postponed: Azure Backup"), "{reply:?}");
    scene.mounts[0].assert_writable();
    drop(theirs);
    wait_for("the lock to be let go", Duration::from_secs(5), || !is_held(&path));
    scene.frozen("op-2", 3_000, 10_000).await;
    assert!(is_held(&path) && try_take(&path).unwrap().is_none(), "ours, for the whole window");
    scene.session.tell(thaw("op-2")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
    wait_for("the lock to be gone", Duration::from_secs(5), || !path.exists());
}
