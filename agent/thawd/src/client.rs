//! The agent's side of the socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use crate::protocol::{MAX_MESSAGE, OperationId, Prepare, Reply, Request, State};
use crate::sys;

/// A connection to the thaw process. It serves one connection at a time, and takes the end of this
/// one for the agent's death: dropping it while something is frozen thaws.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects. Sending and receiving block for at most `limit_ms` each.
    ///
    /// # Errors
    /// The thaw process does not run, or its socket is another user's.
    pub fn connect(path: &Path, limit_ms: u32) -> io::Result<Self> {
        let path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { socket: sys::connect(path, limit_ms)? })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&self, request: &Request) -> io::Result<()> {
        self.send_with(request, &[])
    }

    /// Sends [`Request::Prepare`] with the roots of the file systems, in the order of its levels.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn prepare(&self, prepare: Prepare, roots: &[BorrowedFd<'_>]) -> io::Result<()> {
        let fds: Vec<RawFd> = roots.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_with(&Request::Prepare(prepare), &fds)
    }

    fn send_with(&self, request: &Request, fds: &[RawFd]) -> io::Result<()> {
        let mut buf = [0; MAX_MESSAGE];
        let len = request.encode(&mut buf);
        sys::send(&self.socket, buf.get(..len).unwrap_or(&[]), fds)
    }

    /// Receives one reply.
    ///
    /// # Errors
    /// `UnexpectedEof`: the thaw process is gone. `WouldBlock`: none within the limit.
    pub fn receive(&self) -> io::Result<Reply> {
        self.receive_with(true)
    }

    /// Receives one reply if it is there, for callers that wait for readiness elsewhere.
    ///
    /// # Errors
    /// `UnexpectedEof`: the thaw process is gone. `WouldBlock`: there is none.
    pub fn try_receive(&self) -> io::Result<Reply> {
        self.receive_with(false)
    }

    fn receive_with(&self, wait: bool) -> io::Result<Reply> {
        let mut buf = [0; MAX_MESSAGE];
        match sys::receive(&self.socket, &mut buf, wait, drop)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => buf.get(..len).and_then(Reply::decode).ok_or(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks for the state.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn status(&self) -> io::Result<(OperationId, State)> {
        self.send(&Request::Status)?;
        match self.receive()? {
            Reply::Status(operation, state) => Ok((operation, state)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
