//! Freezes, as the controller sees them.

use std::process::Command;
use std::time::Duration;

use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{
    FactState, FileSystemReport, FileSystemState, Freeze, FreezeOutcome, FreezeReply, Heartbeat,
    ProbeHealth, QuiesceState, RenewLease, Thaw, ThawCause, ThawReply,
};

use crate::controller::{Controller, Session};
use crate::loop_mount::{LoopMount, Writer};
use crate::machine::{Machine, Process, enrolled};

crate::tests! {
    a_hold_over_the_wire_is_unbroken_and_leaves_witnesses: ["mkfs.ext4"],
    xfs_and_ext4_are_held_together: ["mkfs.ext4", "mkfs.xfs"],
    a_lease_that_is_not_renewed_is_told_when_asked: ["mkfs.ext4"],
    a_session_lost_while_frozen_ends_with_the_lease_and_the_result_is_kept: ["mkfs.ext4"],
    a_session_opened_while_frozen_looks_at_nothing_that_may_hang: ["mkfs.ext4"],
    repetitions_and_strangers_are_told_apart: ["mkfs.ext4"],
    the_agent_thaws_when_all_of_the_thaw_process_is_killed: ["mkfs.ext4"],
    the_thaw_process_thaws_when_its_operation_is_killed: ["mkfs.ext4"],
    a_hold_outlives_the_thaw_processs_supervisor: ["mkfs.ext4"],
    a_killed_agent_leaves_nothing_frozen: ["mkfs.ext4"],
    an_agent_told_to_end_thaws_first: ["mkfs.ext4"],
    a_stacked_file_system_is_frozen_in_order: ["mkfs.ext4"],
    what_is_left_out_goes_on_and_is_told_with_its_disks: ["mkfs.ext4"],
    a_foreign_freeze_is_refused_without_touching_it: ["mkfs.ext4", "fsfreeze"],
    a_foreign_thaw_is_reported: ["mkfs.ext4"],
    an_unmount_in_the_window_spoils_it: ["mkfs.ext4"],
    bad_requests_are_refused: ["mkfs.ext4"],
    health_writes_to_every_file_system_but_not_while_frozen: ["mkfs.ext4"],
}

/// In the order of dropping: the file systems go after everything that holds them.
pub(crate) struct Scene {
    pub(crate) session: Session,
    pub(crate) agent: Process,
    pub(crate) thawd: Process,
    pub(crate) controller: Controller,
    pub(crate) mounts: Vec<LoopMount>,
    pub(crate) machine: Machine,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// Thaws, and what the agent says to that.
    pub(crate) async fn thawed(&mut self, operation: &str) -> ThawReply {
        self.session.tell(thaw(operation)).await;
        thaw_reply(&mut self.session).await
    }
}

/// `count` file systems with an agent that is connected.
pub(crate) async fn scene(count: usize) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let mounts = (0..count).map(|n| LoopMount::ext4(folder.path(), &format!("disk {n}"))).collect();
    scene_of(folder, mounts).await
}

pub(crate) async fn scene_of(folder: tempfile::TempDir, mounts: Vec<LoopMount>) -> Scene {
    scene_with(folder, mounts, "").await
}

/// As [`scene_of`], with more lines in the agent's configuration.
pub(crate) async fn scene_with(
    folder: tempfile::TempDir,
    mounts: Vec<LoopMount>,
    more: &str,
) -> Scene {
    let (machine, mut controller) = enrolled(&mounts.iter().collect::<Vec<_>>()).await;
    machine.configure_more(more);
    let thawd = machine.start_thawd();
    let agent = machine.start_agent();
    let session = controller.protected().await;
    assert!(session.hello.can_freeze);
    Scene { session, agent, thawd, controller, mounts, machine, _folder: folder }
}

pub(crate) fn freeze(operation: &str, lease_ms: u32, hold_limit_ms: u32) -> Tell {
    Tell::Freeze(Freeze {
        operation_id: operation.to_owned(),
        recovery_point: "vm-backup-daily-20260101-0000".to_owned(),
        nonce: "ab".repeat(32),
        hold_limit_ms,
        lease_ms,
        witness_key: vec![7; 32],
        vm_id: crate::machine::VM_ID.to_owned(),
        disks: Vec::new(),
    })
}

pub(crate) fn thaw(operation: &str) -> Tell {
    Tell::Thaw(Thaw { operation_id: operation.to_owned() })
}

pub(crate) async fn freeze_reply(session: &mut Session) -> FreezeReply {
    session.hear(|said| if let Said::FreezeReply(r) = said { Some(r) } else { None }).await
}

pub(crate) async fn thaw_reply(session: &mut Session) -> ThawReply {
    session.hear(|said| if let Said::ThawReply(r) = said { Some(r) } else { None }).await
}

pub(crate) async fn beat_in(session: &mut Session, state: QuiesceState) -> Heartbeat {
    let pick = |said| match said {
        Said::Heartbeat(heartbeat) if heartbeat.state() == state => Some(heartbeat),
        _ => None,
    };
    session.hear(pick).await
}

impl Scene {
    /// Freezes, lets `then` see the disks of that instant, and thaws.
    pub(crate) async fn captured(&mut self, operation: &str, then: impl FnOnce(&[LoopMount])) {
        self.frozen(operation, 10_000, 25_000).await;
        then(&self.mounts);
        let reply = self.thawed(operation).await;
        assert!(reply.unbroken, "{reply:?}");
    }

    pub(crate) async fn frozen(
        &mut self,
        operation: &str,
        lease_ms: u32,
        hold_limit_ms: u32,
    ) -> FreezeReply {
        self.session.tell(freeze(operation, lease_ms, hold_limit_ms)).await;
        let reply = freeze_reply(&mut self.session).await;
        assert_eq!(reply.outcome(), FreezeOutcome::Frozen, "{reply:?}\n{}", self.machine.log());
        reply
    }
}

async fn a_hold_over_the_wire_is_unbroken_and_leaves_witnesses() {
    let mut scene = scene(2).await;
    assert_eq!(scene.session.hello.witnesses, []);
    let writer = Writer::start(scene.mounts[0].path());
    let frozen = scene.frozen("op-1", 3_000, 10_000).await;
    let covered: Vec<_> =
        frozen.file_systems.iter().filter(|f| f.state() == FileSystemState::Frozen).collect();
    assert_eq!(covered.len(), 2, "{frozen:?}");
    assert!(covered.iter().all(|f| f.file_system_uuid.len() == 36 && f.file_system_type == "ext4"));
    writer.assert_blocked();
    let beat = beat_in(&mut scene.session, QuiesceState::Frozen).await;
    assert_eq!(beat.operation_id, "op-1");
    assert!((1..=3_000).contains(&beat.lease_remaining_ms), "{beat:?}");
    // Four seconds under a lease of three.
    for _ in 0..4 {
        let renew = RenewLease { operation_id: "op-1".to_owned() };
        scene.session.tell(Tell::RenewLease(renew)).await;
        beat_in(&mut scene.session, QuiesceState::Frozen).await;
    }
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(reply.unbroken, "{reply:?}");
    assert_eq!((reply.cause(), reply.reason.as_str()), (ThawCause::Command, ""));
    assert_eq!(reply.windows.len(), 2);
    assert!(reply.window_ms > 3_000, "{reply:?}");
    assert!(reply.windows.iter().all(|w| w.first_thaw_succeeded
        && w.frozen_to_ns - w.frozen_from_ns > 3_000_000_000
        && w.frozen_to_unix_ms - w.frozen_from_unix_ms > 2_900));
    writer.assert_goes_on(Duration::from_secs(5));
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    drop(scene.session);
    let session = scene.controller.protected().await;
    let witnesses = &session.hello.witnesses;
    assert_eq!(witnesses.len(), 2, "{}", scene.machine.log());
    for mount in &scene.mounts {
        let place = mount.path().to_str().unwrap();
        let witness = witnesses.iter().find(|w| w.mount_point == place).unwrap();
        assert_eq!(witness.written_at_mount_point, place);
        assert_eq!(witness.operation_id, "op-1");
        assert_eq!(witness.recovery_point, "vm-backup-daily-20260101-0000");
        assert_eq!(witness.nonce, "ab".repeat(32));
        assert!(covered.iter().any(|f| f.file_system_uuid == witness.file_system_uuid));
        assert_eq!(witness.found_file_system_uuid, witness.file_system_uuid);
        assert_eq!((witness.format, witness.vm_id.as_str()), (2, crate::machine::VM_ID));
        assert_eq!(witness.found_on_disk, witness.disk, "through the image's file system");
        assert_eq!(witness.seal.len(), 64);
    }
    // What the controller was told is what the disks show.
    let told: Vec<_> = frozen.witnesses.iter().map(|w| (w.digests.clone(), &w.seal)).collect();
    let shown: Vec<_> = witnesses.iter().map(|w| (w.digests.clone(), &w.seal)).collect();
    assert_eq!(told, shown);
    scene.session = session;
}

async fn xfs_and_ext4_are_held_together() {
    let folder = tempfile::tempdir().unwrap();
    let mounts = vec![LoopMount::ext4(folder.path(), "ext4"), LoopMount::xfs(folder.path(), "xfs")];
    let mut scene = scene_of(folder, mounts).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(reply.unbroken && reply.windows.len() == 2, "{reply:?}");
}

async fn a_lease_that_is_not_renewed_is_told_when_asked() {
    let mut scene = scene(1).await;
    scene.frozen("op-1", 500, 10_000).await;
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    scene.mounts[0].assert_writable();
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert_eq!(reply.cause(), ThawCause::LeaseExpired);
    assert!(!reply.unbroken && reply.reason.contains("lease"), "{reply:?}");
    scene.session.tell(freeze("op-1", 500, 10_000)).await;
    let again = freeze_reply(&mut scene.session).await;
    assert_eq!(again.outcome(), FreezeOutcome::Failed, "an operation is not run twice");
}

async fn a_session_lost_while_frozen_ends_with_the_lease_and_the_result_is_kept() {
    let mut scene = scene(1).await;
    let writer = Writer::start(scene.mounts[0].path());
    scene.frozen("op-1", 1_500, 10_000).await;
    drop(scene.session);
    writer.assert_blocked();
    scene.session = scene.controller.protected().await;
    writer.assert_goes_on(Duration::from_secs(5));
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert_eq!(reply.cause(), ThawCause::LeaseExpired);
    assert_eq!(reply.operation_id, "op-1");
}

/// Whatever it would look at says something else now: that it is known shows that it was not looked at.
async fn a_session_opened_while_frozen_looks_at_nothing_that_may_hang() {
    let mut scene = scene(1).await;
    scene.frozen("op-1", 10_000, 25_000).await;
    let first = scene.session.hello.clone();
    let (state, away) = (scene.machine.path("state"), scene.machine.path("away"));
    std::fs::rename(&state, &away).unwrap();
    scene.machine.becomes("00000000-0000-4000-8000-000000000001");
    drop(scene.session);
    scene.session = scene.controller.protected().await;
    let again = &scene.session.hello;
    assert_eq!(again.vm_id, first.vm_id);
    assert_eq!(again.witnesses, [], "those of op-1 are on the disk");
    assert_eq!(again.ssh_host_keys, first.ssh_host_keys);
    assert!(again.can_freeze);
    beat_in(&mut scene.session, QuiesceState::Frozen).await;
    let reply = scene.thawed("op-1").await;
    assert!(reply.unbroken && reply.cause() == ThawCause::Command, "{reply:?}");
    scene.mounts[0].assert_writable();
    // Idle again, it looks.
    std::fs::rename(&away, &state).unwrap();
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    scene.machine.becomes(crate::machine::VM_ID);
    drop(scene.session);
    scene.session = scene.controller.protected().await;
    assert_eq!(scene.session.hello.witnesses.len(), 1);
}

async fn repetitions_and_strangers_are_told_apart() {
    let mut scene = scene(1).await;
    let first = scene.frozen("op-1", 5_000, 10_000).await;
    scene.session.tell(freeze("op-1", 5_000, 10_000)).await;
    assert_eq!(freeze_reply(&mut scene.session).await, first);
    scene.session.tell(freeze("op-2", 5_000, 10_000)).await;
    let stranger = freeze_reply(&mut scene.session).await;
    assert_eq!(stranger.outcome(), FreezeOutcome::Refused);
    assert!(stranger.reason.contains("op-1"), "{stranger:?}");
    scene.session.tell(thaw("op-9")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert_eq!(reply.operation_id, "op-9");
    assert!(!reply.unbroken && reply.reason.contains("op-1"), "{reply:?}");
    scene.mounts[0].assert_writable();
    // It was thawed without being asked for by its own name: its snapshots may not have been taken yet.
    let reply = scene.thawed("op-1").await;
    assert!(!reply.unbroken && reply.reason.contains("op-9"), "{reply:?}");
    scene.session.tell(thaw("op-10")).await;
    assert_eq!(thaw_reply(&mut scene.session).await.cause(), ThawCause::NotFrozen);
    scene.frozen("op-3", 5_000, 10_000).await;
    scene.session.tell(thaw("op-3")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
}

async fn the_thaw_process_thaws_when_its_operation_is_killed() {
    let mut scene = scene(2).await;
    let writer = Writer::start(scene.mounts[1].path());
    scene.frozen("op-1", 10_000, 25_000).await;
    writer.assert_blocked();
    scene.thawd.child().signal("KILL");
    writer.assert_goes_on(Duration::from_secs(3));
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(!reply.unbroken && reply.reason.contains("its other one thawed"), "{reply:?}");
    assert!(reply.windows.len() == 2 && reply.windows.iter().all(|w| w.first_thaw_succeeded));
    scene.frozen("op-2", 3_000, 10_000).await;
}

async fn a_hold_outlives_the_thaw_processs_supervisor() {
    let mut scene = scene(2).await;
    let writer = Writer::start(scene.mounts[1].path());
    scene.frozen("op-1", 10_000, 25_000).await;
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended());
    writer.assert_blocked();
    let renew = RenewLease { operation_id: "op-1".to_owned() };
    scene.session.tell(Tell::RenewLease(renew)).await;
    beat_in(&mut scene.session, QuiesceState::Frozen).await;
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(reply.unbroken && reply.cause() == ThawCause::Command, "{reply:?}");
    writer.assert_goes_on(Duration::from_secs(3));
    scene.thawd = scene.machine.start_thawd();
    scene.frozen("op-2", 3_000, 10_000).await;
}

async fn the_agent_thaws_when_all_of_the_thaw_process_is_killed() {
    let mut scene = scene(2).await;
    let writer = Writer::start(scene.mounts[1].path());
    scene.frozen("op-1", 10_000, 25_000).await;
    writer.assert_blocked();
    // The supervisor first: otherwise it thaws.
    let operation = scene.thawd.child();
    scene.thawd.signal("KILL");
    assert!(!scene.thawd.ended());
    operation.signal("KILL");
    writer.assert_goes_on(Duration::from_secs(3));
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(!reply.unbroken && reply.reason.contains("azdr-thawd died"), "{reply:?}");
    scene.session.tell(freeze("op-2", 3_000, 10_000)).await;
    let refused = freeze_reply(&mut scene.session).await;
    assert_eq!(refused.outcome(), FreezeOutcome::Refused);
    assert!(refused.reason.contains("azdr-thawd"), "{refused:?}");
    scene.thawd = scene.machine.start_thawd();
    scene.frozen("op-3", 3_000, 10_000).await;
}

async fn a_killed_agent_leaves_nothing_frozen() {
    let mut scene = scene(2).await;
    let writer = Writer::start(scene.mounts[1].path());
    scene.frozen("op-1", 10_000, 25_000).await;
    writer.assert_blocked();
    scene.agent.signal("KILL");
    let took = writer.assert_goes_on(Duration::from_secs(3));
    assert!(took < Duration::from_secs(1), "not by the lease: {took:?}");
    scene.agent.ended();
    scene.agent = scene.machine.start_agent();
    scene.session = scene.controller.protected().await;
    assert!(scene.session.hello.can_freeze);
    scene.frozen("op-2", 3_000, 10_000).await;
}

async fn an_agent_told_to_end_thaws_first() {
    let mut scene = scene(1).await;
    scene.frozen("op-1", 10_000, 25_000).await;
    scene.agent.signal("TERM");
    assert!(scene.agent.ended());
    scene.mounts[0].assert_writable();
    let log = scene.machine.log();
    assert!(log.contains("thawed") && log.contains("THAW_CAUSE_COMMAND"), "{log}");
}

async fn a_stacked_file_system_is_frozen_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let outer = LoopMount::ext4_of(folder.path(), "outer", "256M");
    let inner = LoopMount::ext4(outer.path(), "inner");
    // Inner first: it must be unmounted first.
    let mut scene = scene_of(folder, vec![inner, outer]).await;
    let writer = Writer::start(scene.mounts[0].path());
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    writer.assert_blocked();
    scene.session.tell(thaw("op-1")).await;
    let thawed = thaw_reply(&mut scene.session).await;
    assert!(thawed.unbroken, "{thawed:?} {reply:?}");
    let window = |mount: &LoopMount| {
        let place = mount.path().to_str().unwrap();
        thawed.windows.iter().find(|w| w.mount_point == place).unwrap().clone()
    };
    let (inner, outer) = (window(&scene.mounts[0]), window(&scene.mounts[1]));
    assert!(inner.frozen_from_ns < outer.frozen_from_ns);
    assert!(outer.frozen_to_ns <= inner.frozen_to_ns);
}

async fn what_is_left_out_goes_on_and_is_told_with_its_disks() {
    let elsewhere = tempfile::tempdir().unwrap();
    let left_out = LoopMount::ext4(elsewhere.path(), "left out");
    let mut scene = scene(1).await;
    let writer = Writer::start(left_out.path());
    let reply = scene.frozen("op-1", 3_000, 10_000).await;
    writer.assert_goes_on(Duration::from_secs(5));
    let of = |mount: &LoopMount| {
        let is_it = |f: &&FileSystemReport| f.mount_point == mount.path().to_str().unwrap();
        reply.file_systems.iter().find(is_it).cloned().unwrap()
    };
    let (frozen, left) = (of(&scene.mounts[0]), of(&left_out));
    assert_eq!(frozen.state(), FileSystemState::Frozen, "{frozen:?}");
    assert_eq!(left.state(), FileSystemState::Skipped, "{left:?}");
    assert_eq!(left.reason, "not among the configured file_systems");
    // Image files in folders of the same file system: the disks below that one.
    assert!(frozen.disks_known && !frozen.disks.is_empty(), "{frozen:?}");
    assert!(left.disks_known && left.disks == frozen.disks, "{left:?}");
    assert!(scene.thawed("op-1").await.unbroken);
    drop(writer);
    left_out.assert_writable();
}

async fn a_foreign_freeze_is_refused_without_touching_it() {
    let mut scene = scene(2).await;
    scene.mounts[1].freeze();
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Refused, "{reply:?}");
    assert!(reply.reason.contains("frozen by somebody else"), "{reply:?}");
    scene.mounts[0].assert_writable();
    assert!(scene.mounts[1].thaw(), "the foreign freeze is still there");
    // The witness's thread comes back, and the next operation is taken.
    let taken = async {
        for round in 0.. {
            scene.session.tell(freeze(&format!("op-2-{round}"), 3_000, 10_000)).await;
            if freeze_reply(&mut scene.session).await.outcome() == FreezeOutcome::Frozen {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken).await.unwrap();
}

async fn a_foreign_thaw_is_reported() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 3_000, 10_000).await;
    assert!(scene.mounts[0].thaw());
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(!reply.unbroken && reply.reason.contains("somebody else thawed it"), "{reply:?}");
    let failed: Vec<_> = reply.windows.iter().filter(|w| !w.first_thaw_succeeded).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].mount_point, scene.mounts[0].path().to_str().unwrap());
}

async fn an_unmount_in_the_window_spoils_it() {
    let mut scene = scene(2).await;
    scene.frozen("op-1", 10_000, 25_000).await;
    let place = scene.mounts[1].path();
    assert!(Command::new("umount").arg("-l").arg(place).status().unwrap().success());
    scene.session.tell(thaw("op-1")).await;
    let reply = thaw_reply(&mut scene.session).await;
    assert!(!reply.unbroken && reply.reason.contains("changed meanwhile"), "{reply:?}");
    assert!(reply.windows.iter().all(|w| w.first_thaw_succeeded), "thawed all the same");
    assert!(!scene.mounts[1].thaw(), "no ghost stays frozen");
}

async fn bad_requests_are_refused() {
    let mut scene = scene(1).await;
    let good = |operation: &str| Freeze {
        operation_id: operation.to_owned(),
        recovery_point: "point".to_owned(),
        nonce: "ab".repeat(32),
        ..Freeze::default()
    };
    for (request, words) in [
        (good("Op 1"), "operation_id"),
        (Freeze { nonce: "xy".to_owned(), ..good("op-1") }, "nonce"),
        (Freeze { hold_limit_ms: 25_001, ..good("op-2") }, "hold_limit_ms"),
        (Freeze { lease_ms: 499, ..good("op-3") }, "lease_ms"),
        (Freeze { recovery_point: "x".repeat(129), ..good("op-4") }, "recovery_point"),
    ] {
        scene.session.tell(Tell::Freeze(request)).await;
        let reply = freeze_reply(&mut scene.session).await;
        assert_eq!(reply.outcome(), FreezeOutcome::Refused);
        assert!(reply.reason.contains(words), "{reply:?}");
    }
}

async fn health_writes_to_every_file_system_but_not_while_frozen() {
    let mut scene = scene(2).await;
    let probe = || Tell::ProbeHealth(ProbeHealth { request_id: "r".to_owned(), run_checks: true });
    scene.session.tell(probe()).await;
    let pick = |said| if let Said::Health(h) = said { Some(h) } else { None };
    let health = scene.session.hear(pick).await;
    for mount in &scene.mounts {
        let name = format!("file-system-writable:{}", mount.path().display());
        let fact = health.facts.iter().find(|fact| fact.name == name).unwrap();
        assert_eq!(fact.state(), FactState::Pass, "{fact:?}");
    }
    scene.frozen("op-1", 10_000, 25_000).await;
    scene.session.tell(probe()).await;
    let health = scene.session.hear(pick).await;
    let fact = health.facts.iter().find(|fact| fact.name == "file-systems").unwrap();
    assert_eq!(fact.state(), FactState::Unknown);
    scene.session.tell(thaw("op-1")).await;
    assert!(thaw_reply(&mut scene.session).await.unbroken);
}
