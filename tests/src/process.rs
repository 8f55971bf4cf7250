//! Child processes that do not outlive whoever started them.
//!
//! Each child is in a process group of its own, so that a Ctrl-C meant for us does not reach it
//! half-way through its work; the kernel kills it when the thread that started it ends (unless it is
//! to be kept); and it is known to [`end_all`], for whoever has to leave in a hurry. Processes are
//! killed by their id only while that id is certainly still theirs.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::poll::{Look, Stopwatch, pause, until};

/// All children, also those that have ended.
static CHILDREN: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());

/// Nothing is started any more.
static LEAVING: AtomicBool = AtomicBool::new(false);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a child may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// No longer than the thread that starts it.
    OfStarter,
    /// Until somebody ends it.
    Kept,
}

/// A process in the background.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
    lifetime: Lifetime,
}

impl Daemon {
    /// Starts a process; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path, lifetime: Lifetime) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = start(command, lifetime).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), lifetime })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        locked(&self.child).id()
    }

    /// Where it prints.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails, with its last words, when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&self) -> Result<()> {
        let Some(status) = locked(&self.child).try_wait()? else { return Ok(()) };
        bail!("{} ended ({status}):\n{}", self.name, last_lines(&self.log, 15))
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(locked(&self.child).try_wait(), Ok(None))
    }

    /// Kills it with SIGKILL: it gets no chance to tidy up. Returns when it is gone.
    pub fn kill(&self) {
        let mut child = locked(&self.child);
        // An error means that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks it to end with SIGTERM; kills it when it does not within `limit`.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        self.signal(libc::SIGTERM);
        let ended = until(&format!("{} ends", self.name), limit, || {
            Ok(match locked(&self.child).try_wait()? {
                Some(status) => Look::Done(status),
                None => Look::Waiting("it runs".to_owned()),
            })
        });
        self.kill();
        ended.map(drop)
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: libc::c_int) {
        send(&mut locked(&self.child), signal);
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        read_lossy(&self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::OfStarter {
            self.kill();
        }
    }
}

/// How a process ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

/// Runs a process to its end. Each line that it prints is also given to `show`, as it comes.
///
/// # Errors
/// When it cannot be started, or has to be killed after `limit`.
pub fn run(mut command: Command, limit: Duration, show: Option<fn(&str)>) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let watch = Stopwatch::start();
    let child =
        start(command, Lifetime::OfStarter).with_context(|| format!("cannot run {name}"))?;
    let (stdout, stderr) = {
        let mut child = locked(&child);
        (child.stdout.take(), child.stderr.take())
    };
    let (stdout, stderr) = (collect(stdout, show), collect(stderr, show));
    let mut rest = Duration::from_millis(5);
    let status = loop {
        if let Some(status) = locked(&child).try_wait()? {
            break status;
        }
        if watch.elapsed() > limit {
            let _ = locked(&child).kill();
            let _ = locked(&child).wait();
            let said = format!("{}{}", join(stdout), join(stderr));
            bail!("{name} did not end within {} s; it printed:\n{said}", limit.as_secs());
        }
        pause(rest);
        rest = (rest * 2).min(Duration::from_millis(50));
    };
    let took = watch.elapsed();
    Ok(Ended { status, stdout: join(stdout), stderr: join(stderr), took })
}

/// Ends every child that still runs, and lets nobody start another: by SIGTERM, so that those that
/// have children of their own can see to them, and by SIGKILL after `limit`.
pub fn end_all(limit: Duration) {
    LEAVING.store(true, Ordering::SeqCst);
    let children = locked(&CHILDREN).clone();
    let is_running = |child: &Arc<Mutex<Child>>| matches!(locked(child).try_wait(), Ok(None));
    for child in &children {
        send(&mut locked(child), libc::SIGTERM);
    }
    let watch = Stopwatch::start();
    while watch.elapsed() < limit && children.iter().any(is_running) {
        pause(Duration::from_millis(20));
    }
    for child in &children {
        let mut child = locked(child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a child that runs. Nobody else may reap it meanwhile: its id is its own.
fn send(child: &mut Child, signal: libc::c_int) {
    if let Ok(None) = child.try_wait() {
        // SAFETY: a system call without pointers; the process is our child.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
    }
}

fn start(mut command: Command, lifetime: Lifetime) -> io::Result<Arc<Mutex<Child>>> {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        command.pre_exec(move || prepare(parent, lifetime));
    }
    let child = Arc::new(Mutex::new(command.spawn()?));
    if LEAVING.load(Ordering::SeqCst) {
        let mut child = locked(&child);
        let _ = child.kill();
        let _ = child.wait();
        return Err(io::Error::other("everything is being ended"));
    }
    let mut children = locked(&CHILDREN);
    // Forget those that nobody holds any more and that have ended.
    children.retain(|child| {
        Arc::strong_count(child) > 1 || matches!(locked(child).try_wait(), Ok(None))
    });
    children.push(Arc::clone(&child));
    Ok(child)
}

/// Runs in the child.
fn prepare(parent: u32, lifetime: Lifetime) -> io::Result<()> {
    // SAFETY: system calls; the set is initialised before it is used.
    unsafe {
        // Whoever waits for signals in a thread of its own has blocked them.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        if lifetime == Lifetime::Kept {
            return Ok(());
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the line above.
        if libc::getppid().cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

type Collector = Option<thread::JoinHandle<String>>;

fn collect(stream: Option<impl Read + Send + 'static>, show: Option<fn(&str)>) -> Collector {
    let mut stream = BufReader::new(stream?);
    Some(thread::spawn(move || {
        let (mut all, mut line) = (String::new(), Vec::new());
        while let Ok(1..) = stream.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            if let Some(show) = show {
                show(text.trim_end_matches('\n'));
            }
            all.push_str(&text);
            line.clear();
        }
        all
    }))
}

fn join(collector: Collector) -> String {
    collector.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// The end of a log, for people.
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = read_lossy(path);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A file that another process is writing, as text; empty when there is none.
pub fn read_lossy(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // Half a file is better than none here.
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until a daemon has written its ready file, and reads it.
///
/// # Errors
/// When it ends before, or does not get ready within `limit`.
pub fn ready(daemon: &Daemon, file: &Path, limit: Duration) -> Result<serde_json::Value> {
    until(&format!("{} is ready", daemon.name), limit, || {
        daemon.check()?;
        let Ok(text) = std::fs::read(file) else {
            return Ok(Look::Waiting(format!("no {}", file.display())));
        };
        Ok(match serde_json::from_slice(&text) {
            Ok(value) => Look::Done(value),
            Err(e) => Look::Waiting(format!("{} is not complete: {e}", file.display())),
        })
    })
    .with_context(|| format!("last words:\n{}", last_lines(&daemon.log, 15)))
}
