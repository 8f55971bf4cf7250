//! One lab with real guests at a time on a machine: the public addresses of guests (127.64.x.y) are
//! the machine's own, and two labs would give the same ones to different guests.
//!
//! The lock is a socket in Linux's abstract name space: it leaves no file behind and is free when the
//! last process that holds it has ended, in whatever way. The simulator inherits it, so that a lab
//! that is left running keeps it.

use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::poll::{Look, until};

const NAME: &str = "azdr-lab/public-addresses";

/// The right to use the addresses of guests.
#[derive(Debug)]
pub struct LabLock(UnixListener);

impl LabLock {
    /// Waits until no other lab with guests runs on this machine.
    ///
    /// # Errors
    /// When another lab still runs after `limit`.
    pub fn acquire(limit: Duration) -> Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME).context("a constant name")?;
        let what =
            "the other lab with guests on this machine (a demo that was kept, a test) has ended";
        until(what, limit, || {
            Ok(match UnixListener::bind_addr(&name) {
                Ok(socket) => Look::Done(Self(socket)),
                Err(e) => Look::Waiting(format!("its guests' addresses are in use ({e})")),
            })
        })
    }

    /// Lets a child hold the lock, too, as long as it lives.
    pub fn share_with(&self, command: &mut Command) -> Result<()> {
        let socket = self.0.try_clone().context("cannot share the lab's lock")?;
        // SAFETY: between fork and exec only an async-signal-safe system call is made.
        unsafe {
            command.pre_exec(move || match libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        Ok(())
    }
}
