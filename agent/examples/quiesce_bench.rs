//! How long file systems are frozen, on loop devices of its own, with the thaw process as it is shipped
//! and the agent's own pre-flush.
//!
//! Run by `cargo xtask bench quiesce`, as root; prints one JSON object. Each loop device passes its I/O by
//! the cache of the disk that holds its image (`--direct-io=on`), so that what is dirty is dirty once, and
//! not written into another cache. What is compared is taken in turns, and medians are told.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{JoinHandle, park_timeout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use azdr_agent::blocking::Blocking;
use azdr_agent::presync::presync;
use azdr_env::Env;
use azdr_thawd_client::{
    Client, MAX_FILE_SYSTEMS, OperationId, Prepare, Reply, Report, Request, monotonic_ns,
};
use serde_json::json;

/// What is dirty when the window's length is measured.
const DIRTY_MIB: usize = 1024;
/// What a writer adds meanwhile, per second.
const WRITER_MIB: usize = 100;
/// How many file systems are compared with one.
const MANY: usize = 6;
/// What is dirty on each of them before the pre-flush.
const EACH_MIB: usize = 40;
const USAGE: &str = "usage: quiesce_bench AZDR-THAWD FOLDER ROUNDS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().context(USAGE);
    let (thawd, on, rounds) = (argument()?, argument()?, argument()?);
    let rounds: usize = rounds.parse().context("ROUNDS must be a number")?;
    let folder = tempfile::Builder::new().prefix("azdr-quiesce-bench-").tempdir_in(&on);
    let folder = folder.with_context(|| format!("cannot make a folder in {on}"))?;
    let bench = Bench {
        thawd: Thawd::start(Path::new(&thawd), folder.path())?,
        env: Env::system(),
        blocking: Blocking::default(),
    };
    let pre_flush = bench.pre_flush(folder.path(), rounds).await?;
    let many = bench.many(folder.path(), 3 * rounds).await?;
    let thaws = [pre_flush.thaws, many.thaws].concat();
    println!(
        "{}",
        json!({
            "pre_flush": {
                "written_mib": DIRTY_MIB,
                "dirty_mib_of_this_machine": median(&pre_flush.dirty),
                "writer_mib_per_second": WRITER_MIB,
                "without_ms": {"median": median(&pre_flush.a), "each": pre_flush.a},
                "with_ms": {"median": median(&pre_flush.b), "each": pre_flush.b},
                "itself_ms": {"median": median(&pre_flush.itself), "each": pre_flush.itself},
                "given_up_without": pre_flush.given_up,
                "ratio": median(&pre_flush.b) / median(&pre_flush.a),
            },
            "many": {
                "file_systems": MANY,
                "one_ms": {"median": median(&many.a), "each": many.a},
                "many_ms": {"median": median(&many.b), "each": many.b},
                "ratio": median(&many.b) / median(&many.a),
            },
            "thaw_ms": {
                "median": median(&thaws),
                "worst": thaws.iter().copied().fold(0.0, f64::max),
                "count": thaws.len(),
            },
            "refused_calls": pre_flush.refused_calls + many.refused_calls,
        })
    );
    Ok(())
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
}

/// What of this machine's memory is to be written, in MiB.
fn dirty_mib() -> Result<f64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|line| line.strip_prefix("Dirty:")).context("no Dirty:")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

fn ms(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {words}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// An ext4 file system in an image. Dropping it unmounts it.
struct Disk {
    device: String,
    path: PathBuf,
    root: Option<Arc<OwnedFd>>,
}

impl Disk {
    fn make(folder: &Path, name: &str, mib: usize) -> Result<Self> {
        let (image, path) = (folder.join(format!("{name}.img")), folder.join(name));
        let (image_text, path_text) = (image.to_string_lossy(), path.to_string_lossy());
        run("fallocate", &["-l", &format!("{mib}MiB"), &image_text])?;
        fs::create_dir(&path)?;
        let device = run("losetup", &["--find", "--show", "--direct-io=on", &image_text])?;
        let mut disk = Self { device, path: path.clone(), root: None };
        run(
            "mkfs.ext4",
            &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device],
        )?;
        run("mount", &[&disk.device, &path_text])?;
        disk.root = Some(Arc::new(File::open(&path)?.into()));
        Ok(disk)
    }

    fn root(&self) -> Result<(String, Arc<OwnedFd>)> {
        let root = self.root.clone().context("not mounted")?;
        Ok((self.path.to_string_lossy().into_owned(), root))
    }

    /// Writes a new file, which stays dirty.
    fn dirty(&self, mib: usize) -> Result<()> {
        let mut file = File::create(self.path.join("dirty"))?;
        let part = vec![0x5a; 1 << 20];
        (0..mib).try_for_each(|_| file.write_all(&part))?;
        Ok(())
    }

    /// As before anything was written.
    fn clean(&self) -> Result<()> {
        fs::remove_file(self.path.join("dirty"))?;
        run("sync", &["-f", &self.path.to_string_lossy()]).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.root = None;
        for (program, what) in
            [("umount", &*self.path.to_string_lossy()), ("losetup", &self.device)]
        {
            let arguments: &[&str] = if program == "losetup" { &["-d", what] } else { &[what] };
            if let Err(error) = run(program, arguments) {
                eprintln!("quiesce_bench: {error:#}");
            }
        }
    }
}

/// Somebody who writes all the time, at a rate. Dropping it ends it, once it can write.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(disk: &Disk) -> Result<Self> {
        const PART_MIB: usize = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut file) = (stop.clone(), File::create(disk.path.join("busy"))?);
        let thread = std::thread::spawn(move || {
            let part = vec![0xa5; PART_MIB << 20];
            let period = Duration::from_millis(1000) * PART_MIB as u32 / WRITER_MIB as u32;
            // Over and over the same 256 MiB.
            for n in 0.. {
                if stopped.load(SeqCst) || n % 64 == 0 && file.rewind().is_err() {
                    return;
                }
                if let Err(error) = file.write_all(&part) {
                    return eprintln!("quiesce_bench: the writer ends: {error}");
                }
                park_timeout(period);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A thaw process of this benchmark's own.
struct Thawd {
    child: Child,
    socket: PathBuf,
}

impl Thawd {
    fn start(program: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("thawd.sock");
        let child = Command::new(program).arg("--socket").arg(&socket).stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot run {}", program.display()))?;
        let thawd = Self { child, socket };
        for _ in 0..500 {
            if Client::connect(&thawd.socket, 1_000).is_ok_and(|client| client.status().is_ok()) {
                return Ok(thawd);
            }
            park_timeout(Duration::from_millis(10));
        }
        bail!("azdr-thawd does not answer: it needs root")
    }
}

impl Drop for Thawd {
    fn drop(&mut self) {
        // SAFETY: no memory is passed; the child has not been waited for, so the id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

struct Bench {
    thawd: Thawd,
    env: Env,
    blocking: Blocking,
}

/// Figures in milliseconds.
#[derive(Default)]
struct Figures {
    a: Vec<f64>,
    b: Vec<f64>,
    itself: Vec<f64>,
    dirty: Vec<f64>,
    thaws: Vec<f64>,
    given_up: usize,
    /// Calls of the thaw process that its own filter refused, in all rounds.
    refused_calls: u32,
}

impl Bench {
    /// Freezes and thaws at once. The report, whether all were frozen in time, and from the order to
    /// thaw to the last thaw.
    fn freeze(&self, disks: &[Disk]) -> Result<(Report, bool, f64)> {
        let operation = OperationId::new("bench").context("an id")?;
        let count = u8::try_from(disks.len())?;
        let levels = [0; MAX_FILE_SYSTEMS];
        let order = Prepare { operation, lease_ms: 10_000, hold_limit_ms: 25_000, count, levels };
        let roots = disks.iter().map(Disk::root).collect::<Result<Vec<_>>>()?;
        let client = Client::connect(&self.thawd.socket, 60_000)?;
        client.prepare(order, &roots.iter().map(|(_, root)| root.as_fd()).collect::<Vec<_>>())?;
        let armed = client.receive()?;
        ensure!(armed == Reply::Armed(operation), "not ready to freeze: {armed:?}");
        client.send(&Request::Freeze(operation))?;
        let (report, frozen, asked_ns) = match client.receive()? {
            Reply::Frozen(_) => {
                let asked_ns = monotonic_ns();
                client.send(&Request::Thaw(operation))?;
                match client.receive()? {
                    Reply::Thawed(report) => (report, true, asked_ns),
                    other => bail!("not thawed: {other:?}"),
                }
            }
            Reply::Thawed(report) => (report, false, monotonic_ns()),
            other => bail!("not frozen: {other:?}"),
        };
        let thawed_ns = report.entries().iter().map(|entry| entry.to_ns).max().unwrap_or(0);
        Ok((report, frozen, ms(asked_ns, thawed_ns)))
    }

    async fn flush(&self, disks: &[Disk]) -> Result<f64> {
        let roots = disks.iter().map(Disk::root).collect::<Result<Vec<_>>>()?;
        let spent = presync(&self.env, &self.blocking, &roots).await?.spent;
        Ok(spent.as_secs_f64() * 1e3)
    }

    /// The window without (a) and with (b) a pre-flush, while somebody goes on writing.
    async fn pre_flush(&self, folder: &Path, rounds: usize) -> Result<Figures> {
        // ext4 begins to write at once when more than half of its free space is spoken for.
        let disks = [Disk::make(folder, "large", 4 * DIRTY_MIB)?];
        let mut figures = Figures::default();
        // The first two are not counted: the image's blocks are written for the first time.
        for n in 0..2 * (rounds + 1) {
            // Each is first in its turn.
            let flushed = (n / 2 + n) % 2 == 1;
            let writer = Writer::start(&disks[0])?;
            disks[0].dirty(DIRTY_MIB)?;
            let dirty = dirty_mib()?;
            let itself = if flushed { Some(self.flush(&disks).await?) } else { None };
            let (report, frozen, thaw) = self.freeze(&disks)?;
            figures.refused_calls += report.refused_calls;
            drop(writer);
            disks[0].clean()?;
            if n < 2 {
                continue;
            }
            ensure!(frozen || !flushed, "given up in spite of the pre-flush: {report:?}");
            let entry = report.entries().first().context("an empty report")?;
            let window = ms(entry.from_ns, entry.to_ns);
            match itself {
                Some(itself) => {
                    figures.b.push(window);
                    figures.itself.push(itself);
                }
                None => {
                    figures.a.push(window);
                    figures.dirty.push(dirty);
                }
            }
            match frozen {
                true => figures.thaws.push(thaw),
                false => figures.given_up += 1,
            }
        }
        Ok(figures)
    }

    /// From the first FIFREEZE to the last one's return, for one file system (a) and many (b).
    async fn many(&self, folder: &Path, rounds: usize) -> Result<Figures> {
        let disks = (0..MANY).map(|n| Disk::make(folder, &format!("small{n}"), 256));
        let disks = disks.collect::<Result<Vec<_>>>()?;
        let mut figures = Figures::default();
        for n in 0..2 * (rounds + 1) {
            let all = (n / 2 + n) % 2 == 1;
            let disks = if all { disks.as_slice() } else { disks.get(..1).unwrap_or(&[]) };
            disks.iter().try_for_each(|disk| disk.dirty(EACH_MIB))?;
            self.flush(disks).await?;
            let (report, frozen, thaw) = self.freeze(disks)?;
            figures.refused_calls += report.refused_calls;
            disks.iter().try_for_each(Disk::clean)?;
            ensure!(frozen, "not frozen: {report:?}");
            if n < 2 {
                continue;
            }
            let from = report.entries().iter().map(|entry| entry.from_ns).min().unwrap_or(0);
            let to = report.entries().iter().map(|entry| entry.frozen_ns).max().unwrap_or(0);
            if all { &mut figures.b } else { &mut figures.a }.push(ms(from, to));
            figures.thaws.push(thaw);
        }
        Ok(figures)
    }
}
