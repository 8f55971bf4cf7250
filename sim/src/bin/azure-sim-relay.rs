//! Carries one connection of a sealed guest: bytes between stdin/stdout and a TCP address.
//!
//! QEMU starts one of these for each connection that a guest opens to a forwarded address
//! (`guestfwd=…-cmd:`) and gives it one socket as stdin, stdout **and stderr**: nothing may ever be
//! printed here, because every word would become part of the guest's stream. The exit code says
//! what happened, to nobody in particular.
//!
//! It adds no delay, passes a half-close on in both directions, and ends when both directions are
//! closed, when the guest's side is gone, or on any error. An idle connection may stay for ever.

use std::io::{self, Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

const STDIN: RawFd = 0;
const STDOUT: RawFd = 1;
const BUFFER_BYTES: usize = 64 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), None) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let Ok(address) = address.parse::<SocketAddr>() else { return ExitCode::from(2) };
    match TcpStream::connect_timeout(&address, CONNECT_LIMIT).and_then(relay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Copies both ways until the connection is over.
fn relay(tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(true)?;
    set_nonblocking(STDIN)?;
    set_nonblocking(STDOUT)?;
    let tcp = tcp.as_raw_fd();
    let mut outward = Direction::new(STDIN, tcp);
    let mut inward = Direction::new(tcp, STDOUT);
    let mut guest_is_gone = false;
    loop {
        let mut waiting = [outward.interest(), inward.interest(), watch_for_hang_up(STDOUT)];
        if guest_is_gone {
            // Nobody is left to read; what the guest had sent still goes out.
            waiting[1].fd = -1;
            waiting[2].fd = -1;
        }
        poll(&mut waiting)?;
        if waiting[2].revents != 0 {
            guest_is_gone = true;
        }
        if waiting[0].revents != 0 {
            outward.step()?;
        }
        if waiting[1].revents != 0 && !guest_is_gone {
            inward.step()?;
        }
        if outward.finished && (inward.finished || guest_is_gone) {
            return Ok(());
        }
    }
}

/// One direction of the connection, with the bytes that were read and not yet written.
struct Direction {
    from: RawFd,
    to: RawFd,
    buffer: Vec<u8>,
    /// What of `buffer` is still to be written.
    pending: std::ops::Range<usize>,
    /// The source has ended and the target has been told so.
    finished: bool,
}

impl Direction {
    fn new(from: RawFd, to: RawFd) -> Self {
        Self { from, to, buffer: vec![0; BUFFER_BYTES], pending: 0..0, finished: false }
    }

    /// What to wait for before the next [`Direction::step`]. A finished direction waits for nothing.
    fn interest(&self) -> libc::pollfd {
        let (fd, events) = match (self.finished, self.pending.is_empty()) {
            (true, _) => (-1, 0),
            (false, true) => (self.from, libc::POLLIN),
            (false, false) => (self.to, libc::POLLOUT),
        };
        libc::pollfd { fd, events, revents: 0 }
    }

    /// Reads or writes once, whichever is next.
    fn step(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            match read(self.from, &mut self.buffer) {
                Ok(0) => {
                    self.finished = true;
                    return shut_down_writing(self.to);
                }
                Ok(n) => self.pending = 0..n,
                Err(e) if is_transient(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        match write(self.to, &self.buffer[self.pending.clone()]) {
            Ok(n) => self.pending.start += n,
            Err(e) if is_transient(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

fn is_transient(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A closed socket or a pipe without a reader is reported even though no event is asked for.
fn watch_for_hang_up(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: 0, revents: 0 }
}

fn poll(fds: &mut [libc::pollfd]) -> io::Result<()> {
    // SAFETY: `fds` is a valid, exclusively borrowed array of the length given.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
    match n {
        -1 if Error::last_os_error().kind() != ErrorKind::Interrupted => {
            Err(Error::last_os_error())
        }
        _ => Ok(()),
    }
}

fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length.
    let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(n).map_err(|_| Error::last_os_error())
}

fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(n).map_err(|_| Error::last_os_error())
}

/// Tells the reader of `fd` that nothing follows; the other direction stays open.
fn shut_down_writing(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls on a descriptor that this process owns; `fd` is not used for
    // writing again.
    unsafe {
        if libc::shutdown(fd, libc::SHUT_WR) == 0 {
            return Ok(());
        }
        match Error::last_os_error().raw_os_error() {
            // Under QEMU it is a socket; by hand it may be a pipe, which is one-way anyway.
            Some(libc::ENOTSOCK) => {
                libc::close(fd);
                Ok(())
            }
            // The other side was faster.
            Some(libc::ENOTCONN) => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}
