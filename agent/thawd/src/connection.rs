//! What is listened to: the order to end, the listening socket and the one agent that is connected; the
//! supervisor serves them while nothing is held, the operation's process while something is.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::sys;
use azdr_thawd_protocol::{
    Answer, Ask, MAGIC, MAX_FILE_SYSTEMS, NO_OPERATION, OperationId, Refusal, Reply, Request, State,
};

/// A request, if there is one.
type Heard = io::Result<Option<(Ask, Request)>>;

pub(crate) struct Connection {
    /// Readable once this process has been told to end.
    signals: OwnedFd,
    /// This process has been told to end. That is heard once.
    pub(crate) told: bool,
    /// Where agents call, and the lock of this place.
    place: Option<(UnixListener, File)>,
    /// The agent's process, which is readable when it has ended, and its messages.
    agent: Option<(OwnedFd, UnixStream)>,
    /// Descriptors that came with the message that was heard last. Its capacity is kept, so that
    /// receiving never allocates.
    pub(crate) roots: Vec<File>,
}

impl Connection {
    pub(crate) fn new(signals: OwnedFd, listener: UnixListener, lock: File) -> Self {
        let (place, roots) = (Some((listener, lock)), Vec::with_capacity(MAX_FILE_SYSTEMS));
        Self { signals, told: false, place, agent: None, roots }
    }

    /// Waits for at most `limit_ms` until this process is told to end, `child` is readable, or the agent
    /// does something; while there is none, for one. Whether the child is, and what was asked.
    ///
    /// # Errors
    /// The agent's process or its connection is gone.
    pub(crate) fn wait(&mut self, child: RawFd, limit_ms: u32) -> (bool, Heard) {
        self.roots.clear();
        let (process, socket) = match &self.agent {
            Some((process, socket)) => (process.as_raw_fd(), socket.as_raw_fd()),
            None => (-1, self.place.as_ref().map_or(-1, |(listener, _)| listener.as_raw_fd())),
        };
        let [child_ended, ended, ready] = self.poll([child, process, socket], limit_ms);
        let heard = match ready {
            _ if ended => Err(io::ErrorKind::NotConnected.into()),
            true => self.receive(),
            false => Ok(None),
        };
        if heard.is_err() {
            self.agent = None;
        }
        (child_ended, heard)
    }

    /// Waits for at most `limit_ms` until this process is told to end, or one of these is readable.
    pub(crate) fn poll(&mut self, [one, two, three]: [RawFd; 3], limit_ms: u32) -> [bool; 3] {
        let signals = if self.told { -1 } else { self.signals.as_raw_fd() };
        let [told, ready @ ..] = sys::poll([signals, one, two, three], limit_ms);
        self.told |= told;
        ready
    }

    /// Receives a request, and refuses what is none; or an agent.
    fn receive(&mut self) -> Heard {
        let Some((_, socket)) = &self.agent else {
            self.agent = self.accept();
            return Ok(None);
        };
        // After half a message nothing could be trusted: that is the end, too.
        let request = sys::receive(socket, &mut self.roots)?;
        let ask = Ask::from_number(request.ask).filter(|_| request.magic == MAGIC);
        if ask.is_none() {
            self.refuse(NO_OPERATION, Refusal::Malformed);
        }
        Ok(ask.map(|ask| (ask, request)))
    }

    fn accept(&self) -> Option<(OwnedFd, UnixStream)> {
        let (socket, _) = self.place.as_ref()?.0.accept().ok()?;
        let (user, process) = sys::peer(&socket).ok()?;
        (user == 0).then_some((process, socket))
    }

    /// Sends without blocking; an agent that does not read has its connection's end coming.
    pub(crate) fn reply(&self, reply: &Reply) {
        if let Some((_, socket)) = &self.agent {
            let _ = sys::send(socket.as_raw_fd(), reply, &[], libc::MSG_DONTWAIT);
        }
    }

    pub(crate) fn tell_state(&self, operation: OperationId, state: State) {
        self.reply(&Reply::new(Answer::Status, operation, state as u32));
    }

    pub(crate) fn refuse(&self, operation: OperationId, refusal: Refusal) {
        self.reply(&Reply::new(Answer::Refused, operation, refusal as u32));
    }

    /// For the freezer, which must not keep it open: its end tells the agent, and that of the lock a
    /// successor, that nobody thaws.
    pub(crate) fn leave(&mut self) {
        (self.place, self.agent) = (None, None);
    }
}
