//! File systems with much that is not written yet, and writers that never stop: how long they are held up;
//! and what cannot be written at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use azdr_thawd_client::monotonic_ns;

use crate::freeze::{freeze, freeze_reply, scene_of};
use crate::loop_mount::{LoopMount, SmallDisk};

crate::tests! {
    a_writer_is_held_up_for_the_window_that_is_told_and_no_longer: ["mkfs.ext4"],
    a_writer_faster_than_the_disk_does_not_hold_up_the_freeze: ["mkfs.ext4"],
    data_that_its_disk_does_not_take_spoils_the_freeze: ["mkfs.ext4", "fallocate"],
}

/// What is written and not on the disk when a freeze begins.
const DIRTY_MIB: usize = 200;

fn write_mib(file: &mut File, mib: usize) {
    let part = vec![0x5a; 1 << 20];
    for _ in 0..mib {
        file.write_all(&part).unwrap();
    }
}

/// A thread that writes all the time. Dropping it ends it.
struct Stream {
    stop: Arc<AtomicBool>,
    /// When each call began and ended, of those that took long.
    slow: Receiver<(u64, u64)>,
}

impl Stream {
    /// Writes `part` bytes over and over again, to a file of at most 200 MiB, with a pause of `pause`.
    fn start(folder: &Path, part: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, slow) = channel();
        let mut file = File::create(folder.join("stream")).unwrap();
        std::thread::spawn(move || {
            let bytes = vec![0xa5; part];
            let parts = (DIRTY_MIB << 20) / part;
            for n in 0.. {
                if stopped.load(SeqCst) {
                    return;
                }
                if n % parts == 0 {
                    file.rewind().unwrap();
                }
                let from_ns = monotonic_ns();
                file.write_all(&bytes).unwrap();
                let to_ns = monotonic_ns();
                if to_ns - from_ns > 1_000_000 {
                    // Nobody may be interested.
                    let _ = tell.send((from_ns, to_ns));
                }
                std::thread::park_timeout(pause);
            }
        });
        Self { stop, slow }
    }

    /// The call that a window held up, in milliseconds. Waits for its end, which may be a little before
    /// that of the thaw.
    fn held_up_in(&self, (window_from, window_to): (u64, u64)) -> u64 {
        let most = (window_to - window_from) / 2;
        let limit = Duration::from_secs(5);
        let calls = std::iter::repeat_with(|| self.slow.recv_timeout(limit).unwrap());
        let mut held_up =
            calls.filter(|(from, to)| *from < window_to && *to > window_from && to - from > most);
        let (from, to) = held_up.next().unwrap();
        (to - from) / 1_000_000
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

/// The best of a few tries is asserted, since this machine may be busy with something else.
async fn a_writer_is_held_up_for_the_window_that_is_told_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let mounts = vec![LoopMount::ext4_of(folder.path(), "disk", "768M")];
    let mut scene = scene_of(folder, mounts).await;
    let mut tries = Vec::new();
    for n in 0..5 {
        let mut dirty = File::create(scene.mounts[0].path().join("dirty")).unwrap();
        write_mib(&mut dirty, DIRTY_MIB);
        // A little at a time: it waits for the freeze, and not for the disk.
        let stream = Stream::start(scene.mounts[0].path(), 4096, Duration::from_millis(1));
        let operation = format!("op-{n}");
        scene.frozen(&operation, 3_000, 10_000).await;
        let reply = scene.thawed(&operation).await;
        assert!(reply.unbroken, "{reply:?}");
        let [window] = &reply.windows[..] else { panic!("{reply:?}") };
        let window_ns = (window.frozen_from_ns, window.frozen_to_ns);
        tries.push((stream.held_up_in(window_ns), u64::from(reply.window_ms)));
        scene.mounts[0].assert_writable();
    }
    println!("longest call of the writer, and the window that was told, in ms: {tries:?}");
    assert!(tries.iter().any(|(longest, window)| *longest <= window + 20), "{tries:?}");
}

async fn a_writer_faster_than_the_disk_does_not_hold_up_the_freeze() {
    let folder = tempfile::tempdir().unwrap();
    let mounts = vec![LoopMount::ext4_of(folder.path(), "disk", "512M")];
    let mut scene = scene_of(folder, mounts).await;
    let stream = Stream::start(scene.mounts[0].path(), 1 << 20, Duration::ZERO);
    let started_ns = monotonic_ns();
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    let reply = freeze_reply(&mut scene.session).await;
    let took = Duration::from_nanos(monotonic_ns() - started_ns);
    let outcome = reply.outcome();
    println!("{outcome:?} after {took:?}, of that {} ms of pre-flush", reply.presync_ms);
    // Four rounds of syncing and 20 s at most, and then 3 s of freezing; a second each for the rest.
    assert!((1..21_000).contains(&reply.presync_ms), "{reply:?}");
    assert!(took < Duration::from_secs(26), "{took:?}");
    let reply = scene.thawed("op-1").await;
    assert!(reply.window_ms < 10_000, "{reply:?}");
    scene.mounts[0].assert_writable();
    drop(stream);
}

/// The disk's FIFREEZE and everything else go well: only what an application has written is lost.
async fn data_that_its_disk_does_not_take_spoils_the_freeze() {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 1024;
    let disk = SmallDisk::new("80M");
    // Inode tables that are zeroed later would give the disk room again.
    let mkfs = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0"];
    let mounts = vec![LoopMount::new(disk.path(), "disk", "64M", &mkfs)];
    let (image, file) = (disk.path().join("disk.img"), mounts[0].path().join("file"));
    fs::write(&file, vec![0x5a; BLOCK * BLOCKS]).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    // Room for all of the file system but this file's blocks.
    let fallocate = |args: &[&str]| {
        let done = std::process::Command::new("fallocate").args(args).arg(&image).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    fallocate(&["--length", "64M"]);
    let mut punched = 0;
    for (n, block) in fs::read(&image).unwrap().chunks(BLOCK).enumerate() {
        if block.iter().all(|byte| *byte == 0x5a) {
            let (offset, len) = ((n * BLOCK).to_string(), BLOCK.to_string());
            fallocate(&["--punch-hole", "--offset", &offset, "--length", &len]);
            punched += 1;
        }
    }
    assert_eq!(punched, BLOCKS);
    disk.fill();
    let mut scene = scene_of(tempfile::tempdir().unwrap(), mounts).await;
    let place = scene.mounts[0].path().to_str().unwrap().to_owned();
    let mut file = OpenOptions::new().write(true).open(&file).unwrap();
    file.write_all(&vec![0xa5; BLOCK * BLOCKS]).unwrap();
    drop(file);
    scene.frozen("op-1", 3_000, 10_000).await;
    let reply = scene.thawed("op-1").await;
    let words = "its data could not be written out before the freeze";
    assert!(!reply.unbroken && reply.reason.contains(&format!("{place}: {words}")), "{reply:?}");
    let [window] = &reply.windows[..] else { panic!("{reply:?}") };
    assert!(window.reason.contains(words) && window.first_thaw_succeeded, "{reply:?}");
    scene.mounts[0].assert_writable();
    // What is lost was told once, and is not held against what is written now.
    let next = scene.whole("op-2").await;
    assert!(next.unbroken, "{next:?}");
}
