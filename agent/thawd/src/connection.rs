//! The listening socket and the one agent that is connected; the supervisor serves them while nothing
//! is held, the operation's process while something is.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::sys;
use azdr_thawd_protocol::{
    Answer, Ask, MAGIC, MAX_FILE_SYSTEMS, NO_OPERATION, OperationId, Refusal, Reply, Request, State,
};

struct Agent {
    socket: UnixStream,
    /// Readable when its process has ended.
    process: OwnedFd,
}

pub(crate) struct Connection {
    listener: Option<UnixListener>,
    agent: Option<Agent>,
    /// Descriptors that came with the last message. Its capacity is kept, so that receiving never
    /// allocates.
    pub(crate) roots: Vec<File>,
    /// The lock of this place.
    _lock: Option<File>,
}

impl Connection {
    pub(crate) fn new(listener: UnixListener, lock: File) -> Self {
        let roots = Vec::with_capacity(MAX_FILE_SYSTEMS);
        Self { listener: Some(listener), agent: None, roots, _lock: Some(lock) }
    }

    /// What to poll: the agent's process, its messages, and while there is none, the next one.
    pub(crate) fn descriptors(&self) -> [RawFd; 3] {
        match (&self.agent, &self.listener) {
            (Some(agent), _) => [agent.process.as_raw_fd(), agent.socket.as_raw_fd(), -1],
            (None, listener) => [-1, -1, listener.as_ref().map_or(-1, AsRawFd::as_raw_fd)],
        }
    }

    /// Does what `descriptors` are ready for.
    ///
    /// # Errors
    /// The agent's process or its connection is gone.
    pub(crate) fn hear(&mut self, ready: [bool; 3]) -> io::Result<Option<(Ask, Request)>> {
        let heard = match ready {
            [true, _, _] => Err(io::ErrorKind::NotConnected.into()),
            [_, true, _] => self.receive(),
            [_, _, true] => {
                self.agent = self.accept();
                Ok(None)
            }
            _ => Ok(None),
        };
        if heard.is_err() {
            self.agent = None;
        }
        heard
    }

    /// Receives a request, and refuses what is none.
    fn receive(&mut self) -> io::Result<Option<(Ask, Request)>> {
        let Some(agent) = &self.agent else { return Ok(None) };
        self.roots.clear();
        // After half a message nothing could be trusted: that is the end, too.
        let request = sys::receive(&agent.socket, &mut self.roots)?;
        let ask = Ask::from_number(request.ask).filter(|_| request.magic == MAGIC);
        if ask.is_none() {
            self.refuse(NO_OPERATION, Refusal::Malformed);
        }
        Ok(ask.map(|ask| (ask, request)))
    }

    fn accept(&self) -> Option<Agent> {
        let (socket, _) = self.listener.as_ref()?.accept().ok()?;
        let (user, process) = sys::peer(&socket).ok()?;
        (user == 0).then_some(Agent { socket, process })
    }

    /// Sends without blocking; an agent that does not read has its connection's end coming.
    pub(crate) fn reply(&self, reply: &Reply) {
        if let Some(agent) = &self.agent {
            let _ = sys::send(&agent.socket, reply);
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
        (self.listener, self.agent, self._lock) = (None, None, None);
    }
}
