//! A security program that must allow every open of a file, and writes to a frozen file system before it
//! does (fanotify(7), FAN_OPEN_PERM): what freezes and thaws opens nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use azdr_thawd_client::Request;

use crate::freeze::{hold_and_release, roots, scene};
use crate::loop_mount::{LoopMount, wait_for};
use crate::thawd_process::{frozen, hold, id, thawed};

crate::tests! {
    a_permission_daemon_that_waits_for_the_thaw_does_not_prevent_it: ["mkfs.ext4"],
}

/// Its database is on one file system, and it is asked about another. Dropping it ends it.
struct Daemon {
    asked: Arc<AtomicU64>,
    allowed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(guarded: &Path, database: &Path) -> Self {
        let path = std::ffi::CString::new(guarded.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with a zero, and the descriptor is new and ours.
        let mut group = unsafe {
            let group = libc::fanotify_init(libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC, 0);
            assert!(group >= 0, "{}", std::io::Error::last_os_error());
            let group = OwnedFd::from_raw_fd(group);
            let how = libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT;
            let (fd, what) = (group.as_raw_fd(), libc::FAN_OPEN_PERM);
            let marked = libc::fanotify_mark(fd, how, what, libc::AT_FDCWD, path.as_ptr());
            assert_eq!(marked, 0, "{}", std::io::Error::last_os_error());
            File::from(group)
        };
        let mut database = File::create(database.join("database")).unwrap();
        let mut daemon = Self {
            asked: Arc::default(),
            allowed: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (asked, allowed) = (daemon.asked.clone(), daemon.allowed.clone());
        let stop = daemon.stop.clone();
        daemon.thread = Some(std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                let mut ready =
                    libc::pollfd { fd: group.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one descriptor, as said.
                if unsafe { libc::poll(&mut ready, 1, 10) } < 1 {
                    continue;
                }
                let mut event = [0u8; size_of::<libc::fanotify_event_metadata>()];
                group.read_exact(&mut event).unwrap();
                // SAFETY: the kernel has filled it in; the descriptor in it is ours.
                let (fd, _opened) = unsafe {
                    let event: libc::fanotify_event_metadata = std::mem::transmute(event);
                    (event.fd, OwnedFd::from_raw_fd(event.fd))
                };
                asked.fetch_add(1, SeqCst);
                database.write_all(b"asked\n").unwrap();
                let mut answer = [0; 8];
                answer[..4].copy_from_slice(&fd.to_ne_bytes());
                answer[4..].copy_from_slice(&libc::FAN_ALLOW.to_ne_bytes());
                group.write_all(&answer).unwrap();
                allowed.fetch_add(1, SeqCst);
            }
        }));
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().is_ok();
            assert!(ended || std::thread::panicking(), "the daemon panicked");
        }
    }
}

fn a_permission_daemon_that_waits_for_the_thaw_does_not_prevent_it() {
    let scene = scene(2);
    let client = scene.thawd.client();
    let [guarded, database] = &scene.mounts[..] else { panic!("two") };
    let file = guarded.path().join("file");
    std::fs::write(&file, "something").unwrap();
    {
        let daemon = Daemon::start(guarded.path(), database.path());
        frozen(&client, hold("op-1", 10_000, 25_000, &[0, 0]), &roots(&scene.mounts));
        let opener = std::thread::spawn(move || File::open(file).is_ok());
        let asked = || daemon.asked.load(SeqCst) > 0;
        wait_for("the daemon to be asked", Duration::from_secs(5), asked);
        assert_eq!(daemon.allowed.load(SeqCst), 0, "it waits for the thaw");
        client.send(&Request::Thaw(id("op-1"))).unwrap();
        let report = thawed(&client);
        assert!(report.unbroken() && report.window_ms() < 5_000, "{report:?}");
        assert!(opener.join().unwrap());
        assert!(daemon.allowed.load(SeqCst) > 0);
    }
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    drop(client);
    hold_and_release(&scene.mounts, &scene.thawd);
}
