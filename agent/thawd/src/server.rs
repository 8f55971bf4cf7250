//! The poll loop: one agent connection, at most one operation.
//!
//! ```text
//! Idle ─Prepare─▶ Armed ─Freeze─▶ Freezing ─all frozen─▶ Frozen ─┐ Thaw, lease, hold limit, agent
//!   ▲               │                 └─ refused, limit, died ───┤ gone, SIGTERM
//!   └─ all confirmed┴────────────────── Thawing ◀────────────────┘
//!                                          └─ not confirmed within 1 s ─▶ Poisoned (keeps trying)
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::operation::{Operation, Phase};
use crate::protocol::{
    Cause, HOLD_LIMIT_RANGE_MS, LEASE_RANGE_MS, MAX_FILE_SYSTEMS, MAX_MESSAGE, OperationId,
    Prepare, Refusal, Reply, Report, Request, State,
};
use crate::slots::Slots;
use crate::sys;

/// How this process is set up.
#[derive(Debug)]
pub struct Setup {
    /// Where to listen. Must not be on a file system that is ever frozen: /run.
    pub socket: String,
}

struct Connection {
    socket: OwnedFd,
    agent: OwnedFd,
}

struct Server {
    listener: OwnedFd,
    signals: OwnedFd,
    timer: OwnedFd,
    done: OwnedFd,
    slots: &'static Slots,
    connection: Option<Connection>,
    operation: Option<Operation>,
    last: Option<Report>,
    /// Descriptors of the message being read; its capacity is kept, so that receiving never
    /// allocates.
    roots: Vec<OwnedFd>,
    stopping: bool,
}

/// Serves agents until SIGTERM; thaws before it returns.
///
/// # Errors
/// The process could not be protected (memory lock, core limit), or the socket is in use.
pub fn run(setup: &Setup) -> io::Result<()> {
    let signals = sys::signals()?;
    sys::use_one_malloc_arena();
    sys::limit_process()?;
    sys::lock_memory()?;
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("azdr-thawd: not protected from the out-of-memory killer: {error}");
    }
    let slots = Slots::map()?;
    thaw_on_panic(slots);
    let mut server = Server {
        listener: listen(&setup.socket)?,
        signals,
        timer: sys::timer()?,
        done: sys::event()?,
        slots,
        connection: None,
        operation: None,
        last: None,
        roots: Vec::with_capacity(MAX_FILE_SYSTEMS),
        stopping: false,
    };
    while !(server.stopping && server.operation.is_none()) {
        server.turn();
    }
    std::fs::remove_file(&setup.socket)
}

/// Listens at `path`, whose directory is made if it is missing. A socket left behind by a killed
/// predecessor is replaced, a living one's is not.
fn listen(path: &str) -> io::Result<OwnedFd> {
    if sys::connect(path, 100).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another azdr-thawd listens there"));
    }
    if let Some(parent) = Path::new(path).parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sys::listen(path),
    }
}

/// A defect in this process must not leave anything frozen: the panic hook thaws, then ends it.
/// It prints nothing, since standard error may wait for a frozen disk.
fn thaw_on_panic(slots: &'static Slots) {
    let server_pid = sys::own_pid();
    std::panic::set_hook(Box::new(move |_| {
        if sys::own_pid() != server_pid {
            sys::exit_now(1);
        }
        slots.begin_thaw();
        while !slots.all_over() {
            if sys::reap(-1) {
                slots.set_freezer_gone();
            }
            sys::pause(2);
        }
        sys::exit_now(70)
    }));
}

impl Server {
    /// Waits for one event and handles it.
    fn turn(&mut self) {
        sys::set_timer(&self.timer, self.operation.as_ref().and_then(Operation::deadline));
        let connection = self.connection.as_ref();
        let [signal, deadline, done, freezer, agent_ended, message, caller] = sys::poll([
            self.signals.as_raw_fd(),
            self.timer.as_raw_fd(),
            self.done.as_raw_fd(),
            self.operation.as_ref().map_or(-1, Operation::freezer_pidfd),
            connection.map_or(-1, |c| c.agent.as_raw_fd()),
            connection.map_or(-1, |c| c.socket.as_raw_fd()),
            if connection.is_none() { self.listener.as_raw_fd() } else { -1 },
        ]);
        if deadline {
            sys::drain(&self.timer);
        }
        if done {
            sys::drain(&self.done);
        }
        if signal {
            self.read_signals();
        }
        if freezer {
            self.freezer_ended();
        }
        if agent_ended {
            self.agent_gone();
        } else if message {
            self.read_request();
        }
        if caller {
            self.accept();
        }
        self.check_limits();
        self.finish_if_over();
    }

    fn read_signals(&mut self) {
        while let Some(signal) = sys::next_signal(&self.signals) {
            if matches!(signal, libc::SIGTERM | libc::SIGINT) {
                self.stopping = true;
                if let Some(operation) = &mut self.operation {
                    operation.thaw(Cause::Shutdown);
                }
            }
        }
    }

    fn freezer_ended(&mut self) {
        if let Some(operation) = &mut self.operation
            && operation.freezer_ended()
        {
            let report = operation.report();
            self.reply(&Reply::Frozen(report));
        }
    }

    fn accept(&mut self) {
        let Ok(socket) = sys::accept(&self.listener) else { return };
        if let Ok((0, agent)) = sys::peer(&socket) {
            self.connection = Some(Connection { socket, agent });
        }
    }

    fn agent_gone(&mut self) {
        self.connection = None;
        if let Some(operation) = &mut self.operation {
            operation.thaw(Cause::AgentDied);
            operation.orphan = true;
        }
    }

    fn check_limits(&mut self) {
        if let Some(operation) = &mut self.operation
            && operation.overdue()
            && !operation.orphan
        {
            let status = Reply::Status(operation.id(), State::Poisoned);
            self.reply(&status);
        }
    }

    fn finish_if_over(&mut self) {
        if self.operation.as_ref().is_some_and(Operation::is_over)
            && let Some(operation) = self.operation.take()
        {
            let orphan = operation.orphan;
            let report = operation.finish();
            self.last = Some(report);
            if !orphan {
                self.reply(&Reply::Thawed(report));
            }
        }
    }

    fn read_request(&mut self) {
        let Some(connection) = &self.connection else { return };
        let mut buf = [0; MAX_MESSAGE];
        let roots = &mut self.roots;
        let received = sys::receive(&connection.socket, &mut buf, false, |fd| {
            // A 65th descriptor is closed here.
            if roots.len() < MAX_FILE_SYSTEMS {
                roots.push(fd);
            }
        });
        match received {
            Ok(0) => self.agent_gone(),
            Ok(len) => {
                let answer = match buf.get(..len).and_then(Request::decode) {
                    Some(request) => self.answer(&request),
                    None => Some(Reply::Refused(OperationId::NONE, Refusal::Malformed)),
                };
                if let Some(answer) = answer {
                    self.reply(&answer);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.agent_gone(),
        }
        self.roots.clear();
    }

    fn answer(&mut self, request: &Request) -> Option<Reply> {
        let unknown = |id| Some(Reply::Refused(id, Refusal::UnknownOperation));
        match (*request, &mut self.operation) {
            (Request::Prepare(prepare), _) => Some(self.prepare(prepare)),
            (Request::Freeze(id), Some(operation))
                if operation.id() == id && operation.phase == Phase::Armed =>
            {
                operation.freeze();
                None
            }
            (Request::Renew(id), Some(operation)) if operation.id() == id => {
                operation.renew();
                None
            }
            // An unknown id still thaws what is held (R7); THAWED follows when it is confirmed.
            (Request::Thaw(_), Some(operation)) => {
                operation.thaw(Cause::Command);
                operation.orphan = false;
                None
            }
            (Request::Status, operation) => Some(match operation {
                Some(operation) => Reply::Status(operation.id(), operation.state()),
                None => Reply::Status(OperationId::NONE, State::Idle),
            }),
            (Request::LastResult(id) | Request::Thaw(id), _) => match self.last {
                Some(report) if report.operation == id => Some(Reply::Thawed(report)),
                _ => unknown(id),
            },
            (Request::Freeze(id) | Request::Renew(id), _) => unknown(id),
        }
    }

    fn prepare(&mut self, prepare: Prepare) -> Reply {
        let refuse = |refusal| Reply::Refused(prepare.operation, refusal);
        let within = |value: u32, (low, high): (u32, u32)| (low..=high).contains(&value);
        if self.operation.is_some() {
            return refuse(Refusal::Busy);
        }
        if self.stopping {
            return refuse(Refusal::ShuttingDown);
        }
        if self.roots.is_empty()
            || self.roots.len() != usize::from(prepare.count)
            || prepare.operation == OperationId::NONE
            || !within(prepare.lease_ms, LEASE_RANGE_MS)
            || !within(prepare.hold_limit_ms, HOLD_LIMIT_RANGE_MS)
        {
            return refuse(Refusal::Malformed);
        }
        let roots = std::mem::replace(&mut self.roots, Vec::with_capacity(MAX_FILE_SYSTEMS));
        let private = self.private_descriptors();
        match Operation::arm(self.slots, prepare, roots, &private, self.done.as_raw_fd()) {
            Ok(operation) => {
                self.operation = Some(operation);
                Reply::Armed(prepare.operation)
            }
            Err(_) => refuse(Refusal::NotReady),
        }
    }

    /// What the freezer must not keep open: above all the agent's connection, whose end must mean
    /// that this process is gone.
    fn private_descriptors(&self) -> [RawFd; 6] {
        let connection = self.connection.as_ref();
        [
            self.listener.as_raw_fd(),
            self.signals.as_raw_fd(),
            self.timer.as_raw_fd(),
            self.done.as_raw_fd(),
            connection.map_or(-1, |c| c.agent.as_raw_fd()),
            connection.map_or(-1, |c| c.socket.as_raw_fd()),
        ]
    }

    /// Sends without blocking; an agent that does not read has its connection's end coming.
    fn reply(&mut self, reply: &Reply) {
        let mut buf = [0; MAX_MESSAGE];
        let len = reply.encode(&mut buf);
        if let Some(connection) = &self.connection {
            let _ = sys::send(&connection.socket, buf.get(..len).unwrap_or(&[]), &[]);
        }
    }
}
