//! What a machine says of itself, on real file systems: the agent's part of hard test 21.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{FactState, HealthReport, ProbeHealth, Witness};

use crate::freeze::{Scene, scene, scene_of};
use crate::loop_mount::LoopMount;

crate::tests! {
    a_read_only_file_system_fails_and_still_shows_what_it_is: ["mkfs.ext4"],
    a_full_file_system_fails_until_there_is_room: ["mkfs.ext4"],
    a_write_that_hangs_fails_in_time_and_holds_up_nobody: ["mkfs.ext4", "fsfreeze"],
    an_agent_whose_test_write_hangs_can_still_be_ended: ["mkfs.ext4", "fsfreeze"],
    a_disk_of_an_older_point_shows_that_points_witness: ["mkfs.ext4"],
    a_witness_copied_to_another_file_system_tells_where_it_was_written: ["mkfs.ext4"],
    an_xfs_that_was_cut_off_recovers_and_is_well: ["mkfs.xfs"],
}

async fn health(scene: &mut Scene) -> HealthReport {
    scene
        .session
        .tell(Tell::ProbeHealth(ProbeHealth { request_id: "r".to_owned(), run_checks: true }))
        .await;
    scene.session.hear(|said| if let Said::Health(h) = said { Some(h) } else { None }).await
}

/// State and words of a fact about a file system.
fn of(report: &HealthReport, name: &str, mount: &LoopMount) -> (FactState, String) {
    let name = format!("{name}:{}", mount.path().display());
    let fact = report.facts.iter().find(|fact| fact.name == name);
    let fact = fact.unwrap_or_else(|| panic!("no {name} in {report:#?}"));
    assert!(fact.at_unix_ms > 0);
    (fact.state(), fact.detail.clone())
}

/// The witness that is found there.
fn shown<'a>(report: &'a HealthReport, mount: &LoopMount) -> &'a Witness {
    let place = mount.path().to_str().unwrap();
    report.witnesses.iter().find(|witness| witness.mount_point == place).unwrap()
}

fn writable(report: &HealthReport, mount: &LoopMount) -> (FactState, String) {
    of(report, "file-system-writable", mount)
}

async fn a_read_only_file_system_fails_and_still_shows_what_it_is() {
    let mut scene = scene(2).await;
    scene.captured("op-1", |_| {}).await;
    scene.mounts[0].remount("ro");
    let report = health(&mut scene).await;
    assert_eq!(writable(&report, &scene.mounts[0]), (FactState::Fail, "read-only".to_owned()));
    assert_eq!(writable(&report, &scene.mounts[1]).0, FactState::Pass, "one does not hide another");
    assert_eq!(report.witnesses.len(), 2, "{report:#?}");
    scene.mounts[0].remount("rw");
    let report = health(&mut scene).await;
    assert_eq!(writable(&report, &scene.mounts[0]).0, FactState::Pass);
}

async fn a_full_file_system_fails_until_there_is_room() {
    let mut scene = scene(1).await;
    // Makes what the probe needs beside its file.
    assert_eq!(writable(&health(&mut scene).await, &scene.mounts[0]).0, FactState::Pass);
    let ballast = scene.mounts[0].path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let mut block = 1 << 20;
    // To the last block, root's reserve included.
    while block > 0 {
        if file.write_all(&vec![7; block]).and_then(|()| file.sync_all()).is_err() {
            block /= 2;
        }
    }
    drop(file);
    let report = health(&mut scene).await;
    assert_eq!(of(&report, "free-space", &scene.mounts[0]), (FactState::Fail, "full".to_owned()));
    let (state, words) = writable(&report, &scene.mounts[0]);
    assert_eq!(state, FactState::Fail, "{words}");
    assert!(words.contains("No space left"), "{words}");
    fs::remove_file(ballast).unwrap();
    let report = health(&mut scene).await;
    assert_eq!(of(&report, "free-space", &scene.mounts[0]).0, FactState::Pass);
    assert_eq!(writable(&report, &scene.mounts[0]).0, FactState::Pass, "{report:#?}");
}

#[expect(clippy::disallowed_methods, reason = "measures a real process")]
async fn a_write_that_hangs_fails_in_time_and_holds_up_nobody() {
    let mut scene = scene(2).await;
    scene.mounts[0].freeze();
    let begun = Instant::now();
    let report = health(&mut scene).await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let (state, words) = writable(&report, &scene.mounts[0]);
    assert_eq!(state, FactState::Fail);
    assert!(words.contains("within"), "{words}");
    assert_eq!(writable(&report, &scene.mounts[1]).0, FactState::Pass);
    // Nobody piles up behind it.
    let (state, words) = writable(&health(&mut scene).await, &scene.mounts[0]);
    assert!(state == FactState::Fail && words.contains("still blocked"), "{words}");
    assert!(scene.mounts[0].thaw());
    scene.mounts[0].assert_writable();
    let mut tries = 0;
    while writable(&health(&mut scene).await, &scene.mounts[0]).0 != FactState::Pass {
        tries += 1;
        assert!(tries < 50, "{}", scene.machine.log());
    }
}

async fn an_agent_whose_test_write_hangs_can_still_be_ended() {
    let mut scene = scene(1).await;
    scene.mounts[0].freeze();
    assert_eq!(writable(&health(&mut scene).await, &scene.mounts[0]).0, FactState::Fail);
    scene.agent.signal("TERM");
    assert!(scene.agent.ended(), "{}", scene.machine.log());
    assert!(scene.mounts[0].thaw());
    scene.mounts[0].assert_writable();
}

/// What a machine shows whose data disk was restored from an older point than its first disk.
async fn a_disk_of_an_older_point_shows_that_points_witness() {
    let mut scene = scene(2).await;
    let folder = tempfile::tempdir().unwrap();
    let older = folder.path().join("older");
    scene.captured("op-1", |mounts| mounts[1].snapshot(&older)).await;
    scene.captured("op-2", |_| {}).await;
    scene.mounts[1].restore(&older);
    let report = health(&mut scene).await;
    let (first, second) = (shown(&report, &scene.mounts[0]), shown(&report, &scene.mounts[1]));
    assert_eq!((&*first.operation_id, &*second.operation_id), ("op-2", "op-1"), "{report:#?}");
    assert_ne!(first.digests, second.digests);
    assert_eq!(second.file_system_uuid, second.found_file_system_uuid, "it is where it was");
    assert_eq!(writable(&report, &scene.mounts[1]).0, FactState::Pass, "well, and the wrong one");
}

async fn a_witness_copied_to_another_file_system_tells_where_it_was_written() {
    let mut scene = scene(2).await;
    scene.captured("op-1", |_| {}).await;
    let file = |mount: &LoopMount| mount.path().join(".azdr/witness");
    fs::copy(file(&scene.mounts[0]), file(&scene.mounts[1])).unwrap();
    let report = health(&mut scene).await;
    let (first, second) = (shown(&report, &scene.mounts[0]), shown(&report, &scene.mounts[1]));
    assert_eq!(first.seal, second.seal, "the same file");
    assert_eq!(first.file_system_uuid, first.found_file_system_uuid);
    assert_ne!(second.file_system_uuid, second.found_file_system_uuid);
}

async fn an_xfs_that_was_cut_off_recovers_and_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let mounts = vec![LoopMount::xfs(folder.path(), "xfs")];
    let mut scene = scene_of(folder, mounts).await;
    scene.captured("op-1", |mounts| mounts[0].snapshot(&copy)).await;
    // Frozen, not unmounted: its log is replayed when it is mounted.
    scene.mounts[0].restore(&copy);
    let report = health(&mut scene).await;
    assert_eq!(writable(&report, &scene.mounts[0]), (FactState::Pass, "xfs".to_owned()));
    assert_eq!(report.witnesses.len(), 1);
    assert_eq!(report.witnesses[0].operation_id, "op-1");
    assert!(report.facts.iter().any(|fact| fact.name == "journal-recovery"), "{report:#?}");
}
