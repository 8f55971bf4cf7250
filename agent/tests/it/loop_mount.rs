//! Small file systems of the tests' own, on loop devices: the only ones that tests ever freeze.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Why tests that freeze cannot run here, if they cannot.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    if fs::metadata("/proc/self").map(|m| m.uid()).ok() != Some(0) {
        return Some("needs root".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    // Of a tool the name, of a device the path: joining an absolute one is that path.
    let there = |tool: &str| path.split(':').any(|folder| Path::new(folder).join(tool).exists());
    let missing = tools.iter().chain(&["mount", "umount", "losetup"]).find(|tool| !there(tool));
    match missing {
        Some(tool) => Some(format!("needs {tool}")),
        None if !Path::new("/dev/loop-control").exists() => Some("needs loop devices".to_owned()),
        None => None,
    }
}

/// Polls until `done` says so.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "polls real processes and the kernel")]
pub(crate) fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// The program that `AZDR_THAWD` names, to be tested instead of the one that was built with the tests.
pub(crate) fn other_thaw_process() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("AZDR_THAWD").filter(|path| !path.is_empty())?);
    // Tests have working directories of their own.
    assert!(
        path.is_absolute() && path.is_file(),
        "AZDR_THAWD is {path:?}; it must be the absolute path of a program"
    );
    Some(path)
}

/// The end of a whole run: nothing that was built with this test sleeps uninterruptibly, nor the thaw
/// process that was tested, also not what lost its parent. (A test may: another one's writers are meant to.)
pub(crate) fn assert_nobody_waits() {
    let this = std::env::current_exe().unwrap();
    let built = this.ancestors().nth(2).unwrap();
    let other = other_thaw_process().map(|path| path.canonicalize().unwrap());
    let waiting = || {
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let ours = processes.filter(|process| {
            let program = fs::read_link(process.join("exe"));
            program.is_ok_and(|p| p.starts_with(built) || Some(&p) == other.as_ref())
        });
        let tasks = ours.filter_map(|process| fs::read_dir(process.join("task")).ok()).flatten();
        let stats = tasks.flatten().map(|task| fs::read_to_string(task.path().join("stat")));
        stats.flatten().filter(|stat| stat.contains(") D ")).collect::<Vec<String>>()
    };
    let nobody = || waiting().is_empty();
    wait_for("the end of every uninterruptible sleep", Duration::from_secs(10), nobody);
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A disk, in memory, that has only so much room. Dropping it unmounts it, after all that is on it.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let place = folder.path().to_str().unwrap();
        assert!(run("mount", &["-t", "tmpfs", "-o", &options, "none", place]), "mount failed");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room that is left.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.path().join("rest")).unwrap();
        let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.path().to_str().unwrap_or_default();
        // A loop device lets go of its file a moment after its file system is unmounted.
        let gone = (0..200).any(|_| {
            run("umount", &[path]) || {
                #[expect(clippy::disallowed_methods, reason = "polls the kernel")]
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        if !gone {
            run("umount", &["-l", path]);
        }
    }
}

/// A mounted file system in an image file. Dropping it thaws, unmounts and removes it.
pub(crate) struct LoopMount {
    path: PathBuf,
    root: Option<OwnedFd>,
}

impl LoopMount {
    /// Makes an ext4 image in `folder` and mounts it at `folder/name`.
    pub(crate) fn ext4(folder: &Path, name: &str) -> Self {
        Self::new(folder, name, "64M", &["mkfs.ext4", "-q", "-F"])
    }

    /// Makes an ext4 file system of `size`, to hold another one's image.
    pub(crate) fn ext4_of(folder: &Path, name: &str, size: &str) -> Self {
        Self::new(folder, name, size, &["mkfs.ext4", "-q", "-F"])
    }

    /// Makes an xfs image in `folder` and mounts it at `folder/name`.
    pub(crate) fn xfs(folder: &Path, name: &str) -> Self {
        Self::new(folder, name, "320M", &["mkfs.xfs", "-q", "-f"])
    }

    /// Makes an image of a size in `folder` with a program and its options, and mounts it at
    /// `folder/name`.
    pub(crate) fn new(folder: &Path, name: &str, size: &str, mkfs: &[&str]) -> Self {
        let image = folder.join(format!("{name}.img"));
        let path = folder.join(name);
        let (image_text, path_text) = (image.to_str().unwrap(), path.to_str().unwrap());
        assert!(run("truncate", &["-s", size, image_text]));
        let (program, options) = mkfs.split_first().unwrap();
        assert!(run(program, &[options, &[image_text]].concat()), "{program} failed");
        fs::create_dir(&path).unwrap();
        assert!(run("mount", &["-o", "loop", image_text, path_text]), "mount failed");
        let mut mount = Self { path: path.clone(), root: None };
        let root = File::open(&mount.path).unwrap();
        // Never freeze the machine's own file system.
        let own = fs::metadata(folder).unwrap().dev();
        assert_ne!(root.metadata().unwrap().dev(), own, "{path_text} is not mounted");
        assert_ne!(root.metadata().unwrap().dev(), fs::metadata("/").unwrap().dev());
        mount.root = Some(root.into());
        mount
    }

    /// Copies what its disk holds now, as a snapshot does.
    pub(crate) fn snapshot(&self, to: &Path) {
        fs::copy(self.path.with_extension("img"), to).unwrap();
    }

    /// Puts a disk made from that copy into its place, and mounts it.
    pub(crate) fn restore(&mut self, from: &Path) {
        let (image, path) = (self.path.with_extension("img"), self.path.clone());
        let (image, path) = (image.to_str().unwrap(), path.to_str().unwrap());
        self.root = None;
        // The agent lets go of it a moment after it has answered.
        wait_for("umount", Duration::from_secs(5), || run("umount", &[path]));
        fs::copy(from, image).unwrap();
        assert!(run("mount", &["-o", "loop", image, path]), "mount failed");
        self.root = Some(File::open(path).unwrap().into());
    }

    /// Makes it read-only or writable again.
    pub(crate) fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        assert!(run("mount", &["-o", &options, self.path.to_str().unwrap()]), "remount failed");
    }

    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its root, open.
    pub(crate) fn root(&self) -> &OwnedFd {
        self.root.as_ref().unwrap()
    }

    /// Thaws it, as another program would; true when it was frozen.
    pub(crate) fn thaw(&self) -> bool {
        azdr_thawd_client::thaw_file_system(self.root().as_fd()).is_ok()
    }

    /// Freezes it, as another program would.
    pub(crate) fn freeze(&self) {
        assert!(run("fsfreeze", &["-f", self.path.to_str().unwrap()]), "fsfreeze -f failed");
    }

    /// Creates, writes and removes a file, which ends only on a file system that is not frozen.
    #[track_caller]
    pub(crate) fn assert_writable(&self) {
        let path = self.path.join("probe");
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            fs::write(&path, "probe").unwrap();
            fs::remove_file(&path).unwrap();
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(5)).expect("the file system takes writes");
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let mounted = |path: &Path| {
            let parent = path.parent().and_then(|parent| fs::metadata(parent).ok());
            parent.map(|p| p.dev()) != fs::metadata(path).ok().map(|m| m.dev())
        };
        let frozen = self
            .root
            .take()
            .is_some_and(|root| azdr_thawd_client::thaw_file_system(root.as_fd()).is_ok());
        let path = self.path.to_str().unwrap_or_default();
        // Writers that were blocked end now.
        let gone = (0..200).any(|_| {
            !mounted(&self.path) || run("umount", &[path]) || {
                #[expect(clippy::disallowed_methods, reason = "polls the kernel")]
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        if !gone {
            run("umount", &["-l", path]);
        }
        // The end of every test: whoever waits for a file system has it in use.
        if !std::thread::panicking() {
            assert!(!frozen, "{path} was left frozen");
            assert!(gone, "{path} is still in use");
        }
    }
}

/// A thread that appends to a file and fsyncs, for ever.
pub(crate) struct Writer {
    written: Arc<AtomicU64>,
    thread_id: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts writing to `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let writer =
            Self { written: Arc::default(), thread_id: Arc::default(), stop: Arc::default() };
        let (written, thread_id, stop) =
            (writer.written.clone(), writer.thread_id.clone(), writer.stop.clone());
        let mut file = File::create(folder.join("written")).unwrap();
        std::thread::spawn(move || {
            let task = fs::read_link("/proc/thread-self").unwrap();
            let id = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
            thread_id.store(id, SeqCst);
            while !stop.load(SeqCst) {
                file.write_all(b"line\n").unwrap();
                file.sync_all().unwrap();
                written.fetch_add(1, SeqCst);
            }
        });
        let written = writer.written.clone();
        wait_for("the writer's first lines", Duration::from_secs(5), || written.load(SeqCst) > 3);
        writer
    }

    /// Waits until the writer has been in uninterruptible sleep for 100 ms without a new line.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "measures the kernel")]
    pub(crate) fn assert_blocked(&self) {
        let mut since = Instant::now();
        let mut last = self.written.load(SeqCst);
        wait_for("the writer to block", Duration::from_secs(2), || {
            let now = self.written.load(SeqCst);
            if now != last || !self.sleeps_uninterruptibly() {
                (since, last) = (Instant::now(), now);
            }
            since.elapsed() > Duration::from_millis(100)
        });
    }

    /// Waits until the writer writes again, and returns how long that took.
    #[track_caller]
    pub(crate) fn assert_goes_on(&self, limit: Duration) -> Duration {
        let before = self.written.load(SeqCst);
        wait_for("the writer to go on", limit, || self.written.load(SeqCst) > before + 1)
    }

    fn sleeps_uninterruptibly(&self) -> bool {
        let path = format!("/proc/self/task/{}/stat", self.thread_id.load(SeqCst));
        fs::read_to_string(path).is_ok_and(|stat| stat.contains(") D "))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Not joined: it may be blocked until its file system, dropped later, is thawed.
        self.stop.store(true, SeqCst);
    }
}
