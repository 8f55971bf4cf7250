//! A child process that cannot outlive its owner.
//!
//! Each child has a thread of its own that starts it and waits for it, because Linux's
//! parent-death signal follows the *thread* that forked: a pool's thread may end early and would
//! take a healthy machine with it. The thread ends with the child; when this whole process dies in
//! whatever way, the kernel kills the child.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::{os::unix::process::CommandExt as _, thread};

use tokio::sync::watch;

/// A running or ended child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts `command` in a process group of its own, so that a Ctrl-C meant for us spares it.
    /// Returns once it runs.
    pub(crate) async fn spawn(mut command: Command) -> io::Result<Self> {
        let parent = std::process::id();
        command.process_group(0);
        // SAFETY: between fork and exec only async-signal-safe system calls are made.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        let (report, started) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("guest".into()).spawn(move || {
            let child = match command.spawn() {
                Ok(child) => child,
                Err(e) => {
                    // Nobody listens when the caller has given up.
                    let _ = report.send(Err(e));
                    return;
                }
            };
            let pid = child.id();
            let child = Arc::new(Mutex::new(child));
            let (end, ended) = watch::channel(None);
            // Descriptors meant for the child alone must not stay open here.
            drop(command);
            // An abandoned `Process` is dropped inside the channel, which kills the child.
            let _ = report.send(Ok(Self { child: Arc::clone(&child), ended }));
            wait_without_reaping(pid);
            let status = child.lock().expect("no code panics while holding this lock").wait();
            end.send_replace(status.ok());
        })?;
        started.await.map_err(|_| io::Error::other("the thread of a child process ended early"))?
    }

    /// Kills the child, which need not run any more.
    pub(crate) fn kill(&self) {
        // The lock excludes that the thread reaps the child and its number goes to somebody else
        // between std's check and the signal.
        let mut child = self.child.lock().expect("no code panics while holding this lock");
        if let Err(e) = child.kill() {
            tracing::error!(pid = child.id(), error = %e, "cannot kill a child process");
        }
    }

    /// Whether the child runs.
    pub(crate) fn is_running(&self) -> bool {
        // The thread drops its sender when it ends, in whatever way.
        self.ended.has_changed().is_ok() && self.ended.borrow().is_none()
    }

    /// Waits until the child has ended; `None` if its status got lost.
    pub(crate) async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(status) => *status,
            Err(_) => None,
        }
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.lock().expect("no code panics while holding this lock").id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs in the child: the kernel shall kill it when the thread that forked it ends.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: system calls without pointers.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the line above.
        if libc::getppid() as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

/// Waits for the end of the child but leaves it a zombie, so that its number stays its own until it
/// is reaped under the lock.
fn wait_without_reaping(pid: u32) {
    loop {
        // SAFETY: `info` is a valid place for the answer, which is not looked at.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if result == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_childs_end_is_seen() {
        let process = Process::spawn(Command::new("true")).await.unwrap();
        assert!(process.ended().await.unwrap().success());
        assert!(!process.is_running());
        process.kill();
    }

    #[tokio::test]
    async fn a_killed_child_is_gone() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn(command).await.unwrap();
        assert!(process.is_running());
        process.kill();
        let status = tokio::time::timeout(Duration::from_secs(30), process.ended()).await.unwrap();
        assert!(!status.unwrap().success());
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error() {
        assert!(Process::spawn(Command::new("/nonexistent")).await.is_err());
    }
}
