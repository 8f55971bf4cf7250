//! The agent's end of the socket.

use std::ffi::{c_int, c_uint};
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use azdr_thawd_protocol::{self as wire, MAX_FILE_SYSTEMS};

use crate::{OperationId, Prepare, Reply, Request, State};

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
        let socket = UnixStream::connect(path)?;
        let limit = Duration::from_millis(limit_ms.max(1).into());
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        Ok(Self { socket: socket.into() })
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
        const LARGEST: c_uint = (MAX_FILE_SYSTEMS * size_of::<RawFd>()) as c_uint;
        // SAFETY: only arithmetic.
        const CONTROL: usize = unsafe { libc::CMSG_SPACE(LARGEST) } as usize;
        if fds.len() > MAX_FILE_SYSTEMS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut message = request.encode();
        // Words, for a `cmsghdr` must be aligned.
        let mut control = [0u64; CONTROL / 8];
        let size = size_of_val(fds) as c_uint;
        let (iov_base, iov_len) = (ptr::from_mut(&mut message).cast(), size_of_val(&message));
        let mut part = libc::iovec { iov_base, iov_len };
        // SAFETY: all pointers are to live buffers of the lengths given; the message has no padding.
        let sent = unsafe {
            let mut header: libc::msghdr = zeroed();
            (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
            if !fds.is_empty() {
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(size) as _;
                let control = libc::CMSG_FIRSTHDR(&header);
                (*control).cmsg_level = libc::SOL_SOCKET;
                (*control).cmsg_type = libc::SCM_RIGHTS;
                (*control).cmsg_len = libc::CMSG_LEN(size) as _;
                let to = libc::CMSG_DATA(control);
                ptr::copy_nonoverlapping(fds.as_ptr().cast(), to, size as usize);
            }
            libc::sendmsg(self.socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL)
        };
        match sent {
            ..0 => Err(io::Error::last_os_error()),
            len if len as usize == iov_len => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Receives one reply.
    ///
    /// # Errors
    /// `UnexpectedEof`: the thaw process is gone. `WouldBlock`: none within the limit.
    pub fn receive(&self) -> io::Result<Reply> {
        self.receive_with(libc::MSG_WAITALL)
    }

    /// Receives one reply if it is there, for callers that wait for readiness elsewhere.
    ///
    /// # Errors
    /// `UnexpectedEof`: the thaw process is gone. `WouldBlock`: there is none.
    pub fn try_receive(&self) -> io::Result<Reply> {
        self.receive_with(libc::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: c_int) -> io::Result<Reply> {
        // SAFETY: integers only: zeros, and whatever bytes come, are a value. The length is right.
        let (message, received) = unsafe {
            let mut message: wire::Reply = zeroed();
            let (to, len) = ((&raw mut message).cast(), size_of_val(&message));
            let received = libc::recv(self.socket.as_raw_fd(), to, len, flags);
            (message, received)
        };
        match received {
            ..0 => Err(io::Error::last_os_error()),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            // The thaw process writes whole messages only, and the kernel keeps them together.
            len if len as usize == size_of_val(&message) => {
                Reply::decode(&message).ok_or(io::ErrorKind::InvalidData.into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks for the state.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn status(&self) -> io::Result<(OperationId, State)> {
        self.send(&Request::Status)?;
        loop {
            match self.receive()? {
                Reply::Status(operation, state) => return Ok((operation, state)),
                // How an operation went on that an earlier connection asked for.
                Reply::Frozen(_) | Reply::Thawed(_) => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
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
