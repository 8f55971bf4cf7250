//! What a database keeps on two disks: its log is on one before its data is on the other. Copies that are
//! taken one after the other are of one instant only when both are frozen for both copies.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use azdr_thawd_client::{Client, Request};

use crate::freeze::{Scene, roots, scene, wait_until_passed};
use crate::loop_mount::{LoopMount, wait_for};
use crate::thawd_process::{frozen, hold, id, thawed};

crate::tests! {
    two_disks_frozen_together_are_of_one_instant: ["mkfs.ext4"],
}

const ROUNDS: u64 = 200;

/// A number in a file, whose place on the disk is known.
struct Number {
    file: File,
    image: File,
    offset: u64,
}

impl Number {
    fn new(mount: &LoopMount, name: &str) -> Self {
        let path = mount.path().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.write_all_at(&[0; 8], 0).unwrap();
        file.sync_all().unwrap();
        // FIBMAP of linux/fs.h: from a block of the file to one of the disk.
        let mut block = 0;
        // SAFETY: the request reads and writes this number.
        assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), 1, &mut block) }, 0);
        let offset = u64::try_from(block).unwrap() * file.metadata().unwrap().blksize();
        assert!(offset > 0);
        let image = File::open(mount.path().with_added_extension("img")).unwrap();
        Self { file, image, offset }
    }

    fn write(&self, number: u64) {
        self.file.write_all_at(&number.to_le_bytes(), 0).unwrap();
        self.file.sync_all().unwrap();
    }

    /// As a copy of the disk would have it that is taken now.
    fn copy(&self) -> u64 {
        let mut bytes = [0; 8];
        self.image.read_exact_at(&mut bytes, self.offset).unwrap();
        u64::from_le_bytes(bytes)
    }
}

/// Somebody who writes to the log, and then to the data, for ever.
struct Database {
    log: Arc<Number>,
    data: Arc<Number>,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Database {
    fn start(mounts: &[LoopMount]) -> Self {
        let [log, data] = mounts else { panic!("two disks") };
        let (log, data) = (Arc::new(Number::new(log, "log")), Arc::new(Number::new(data, "data")));
        let started = Self { log, data, written: Arc::default(), stop: Arc::default() };
        let (log, data) = (started.log.clone(), started.data.clone());
        let (written, stop) = (started.written.clone(), started.stop.clone());
        std::thread::spawn(move || {
            for number in 1.. {
                if stop.load(SeqCst) {
                    return;
                }
                log.write(number);
                data.write(number);
                written.store(number, SeqCst);
            }
        });
        started.goes_on();
        started
    }

    /// Waits until it has written twice.
    fn goes_on(&self) {
        let before = self.written.load(SeqCst);
        let goes_on = || self.written.load(SeqCst) > before + 1;
        wait_for("the database to go on", Duration::from_secs(10), goes_on);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Not joined: it may wait for a file system that is dropped, and thawed, later.
        self.stop.store(true, SeqCst);
    }
}

/// Freezes some of the disks, does something, and thaws.
fn while_frozen<T>(
    client: &Client,
    mounts: &[LoopMount],
    round: u64,
    body: impl FnOnce() -> T,
) -> T {
    let operation = format!("op-{round}");
    let order = vec![0; mounts.len()];
    frozen(client, hold(&operation, 10_000, 25_000, &order), &roots(mounts));
    let value = body();
    client.send(&Request::Thaw(id(&operation))).unwrap();
    assert!(thawed(client).unbroken());
    value
}

/// In an order and with a delay that differ from round to round.
fn two_copies(round: u64, first: impl FnOnce() -> u64, second: impl FnOnce() -> u64) -> (u64, u64) {
    let delay = Duration::from_millis(round * 7 % 13);
    if round.is_multiple_of(3) {
        let data = second();
        wait_until_passed(delay);
        (first(), data)
    } else {
        let log = first();
        wait_until_passed(delay);
        (log, second())
    }
}

fn two_disks_frozen_together_are_of_one_instant() {
    let scene: Scene = scene(2);
    let database = Database::start(&scene.mounts);
    let client = scene.thawd.client();
    for round in 0..ROUNDS {
        let (log, data) = while_frozen(&client, &scene.mounts, round, || {
            two_copies(round, || database.log.copy(), || database.data.copy())
        });
        assert!(data > 0 && (log == data || log == data + 1), "round {round}: {log}, {data}");
        database.goes_on();
    }
    // The same with each disk frozen for its own copy only: otherwise the above would show nothing.
    let mut violated = 0;
    for round in ROUNDS..ROUNDS + 50 {
        let copy = |disk: usize, number: &Number| {
            while_frozen(&client, &scene.mounts[disk..=disk], round, || number.copy())
        };
        let (log, data) = two_copies(
            round,
            || {
                let log = copy(0, &database.log);
                database.goes_on();
                log
            },
            || copy(1, &database.data),
        );
        violated += u64::from(data > log);
    }
    println!("0 of {ROUNDS} violated frozen together, {violated} of 50 frozen one by one");
    assert!(violated > 10, "{violated}");
}
