//! A command line at a terminal, as a person types it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const LIMIT: Duration = Duration::from_secs(300);

/// What the terminal showed, with plain line ends, and the exit code.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) screen: String,
    pub(crate) code: i32,
}

impl Seen {
    /// Looks for facts, each behind the one before it.
    ///
    /// # Errors
    /// Names the first one that is not there.
    pub(crate) fn tells(&self, facts: &[&str]) -> Result<()> {
        let mut rest = self.screen.as_str();
        for (position, fact) in facts.iter().enumerate() {
            let Some((_, behind)) = rest.split_once(fact) else {
                let where_ = match position {
                    0 => String::new(),
                    n => format!(" behind {:?}", facts[n - 1]),
                };
                bail!("no {fact:?}{where_}");
            };
            rest = behind;
        }
        Ok(())
    }
}

/// Runs a command with all three streams on a terminal, and answers its questions, one by one.
pub(crate) fn type_in(mut command: Command, answers: &[&str]) -> Result<Seen> {
    let (master, slave) = pty()?;
    let mut keyboard = master.try_clone()?;
    command.env_remove("NO_COLOR").env("LANG", "C.UTF-8").env("TERM", "xterm");
    command.stdin(Stdio::from(slave.try_clone()?));
    command.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
    let mut child = command.spawn().context("there is no shell")?;
    // It holds the last descriptors of the other end: the screen ends with the child.
    drop(command);
    let mut answers: Vec<String> = answers.iter().map(|a| format!("{a}\n")).collect();
    let (ended, screen) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut screen, mut master, mut piece) = (Vec::new(), master, [0; 4096]);
        // Linux reports the closed other end as an error.
        while let Ok(n @ 1..) = master.read(&mut piece) {
            screen.extend_from_slice(&piece[..n]);
            // A question is the only text without a line end that ends so.
            if screen.ends_with(b": ") && !answers.is_empty() {
                let _gone = keyboard.write_all(answers.remove(0).as_bytes());
            }
        }
        let _nobody_waits = ended.send((screen, answers));
    });
    let Ok((screen, unasked)) = screen.recv_timeout(LIMIT) else {
        let _ended = child.kill();
        let _ended = child.wait();
        bail!("it did not end within {} s", LIMIT.as_secs());
    };
    let code = child.wait()?.code().context("a signal ended it")?;
    let screen = String::from_utf8_lossy(&screen).replace("\r\n", "\n");
    ensure!(unasked.is_empty(), "it never asked for {unasked:?}:\n{screen}");
    Ok(Seen { screen: without_live_lines(&screen), code })
}

/// All that was ever to be seen, line by line: what was written over is there, too.
fn without_live_lines(screen: &str) -> String {
    screen.replace("\x1b[A", "").replace("\r\x1b[K", "\n")
}

fn pty() -> Result<(File, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both pointers are to live integers; the others may be null.
    let result = unsafe {
        libc::openpty(
            &mut master,
            &mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    ensure!(result == 0, "no terminal to be had");
    // SAFETY: openpty has just opened them, and nobody else owns them.
    Ok(unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
}
