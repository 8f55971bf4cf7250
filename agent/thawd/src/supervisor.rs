//! The process that outlives the operations: it answers agents while nothing is held, forks a process
//! for each operation, does nothing but watch it while it runs, and thaws in its place when it dies
//! (R6).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::slice::from_ref;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use crate::connection::Connection;
use crate::operation::{self, POISONED_AFTER_MS};
use crate::slots::{END, RECHECK_MS, Slot, Slots};
use crate::thaw::{RETRY_MS, thaw_one};
use crate::{parked, sys};
use azdr_thawd_protocol::{
    Answer, Ask, Cause, HOLD_LIMIT_RANGE_MS, LEASE_RANGE_MS, MAX_FILE_SYSTEMS, NO_OPERATION,
    OperationId, Refusal, Reply, Request, State,
};

/// An operation's process that is found so late for its own deadline twice in a row, a second apart, is
/// taken for dead. Twice, since the whole machine may have been stopped.
const LATE_NS: u64 = 1_000_000_000;

struct Supervisor {
    connection: Connection,
    /// The file of the slots' memory.
    table: File,
    slots: &'static Slots,
    /// The last operation's end.
    last: Option<Reply>,
}

/// Serves agents at `socket` until SIGTERM; thaws before it returns. The socket must not be on a file
/// system that is ever frozen: /run. A lock file is made next to it.
///
/// # Errors
/// The process could not be protected (memory lock, core limit), or cannot listen.
pub fn run(socket: &Path) -> io::Result<()> {
    // Printing could wait for a frozen disk; whoever is left of the three processes thaws.
    std::panic::set_hook(Box::new(|_| sys::exit_now(70)));
    // Held until the last that thaws is gone, and taken before signals are blocked: a restarted
    // supervisor waits here for the operation that a killed one left behind, and can be ended.
    fs::create_dir_all(socket.parent().unwrap_or(socket))?;
    let lock = File::create(socket.with_added_extension("lock"))?;
    if lock.try_lock().is_err() {
        sys::say(format_args!("another one is at {}: waiting for its end", socket.display()));
        lock.lock()?;
    }
    sys::protect_process()?;
    let spared = fs::write("/proc/self/oom_score_adj", "-1000");
    // A killed predecessor's: this process holds the lock.
    let _ = fs::remove_file(socket);
    let connection = Connection::new(sys::signals()?, UnixListener::bind(socket)?, lock);
    let (roots, mut tables) = parked::take();
    let table = tables.pop_if(|table| sys::fits::<Slots>(table));
    let table = table.map_or_else(sys::memory_file::<Slots>, Ok)?;
    let slots: &Slots = sys::map_shared(&table)?;
    if !tables.is_empty() {
        // At once, since a FIFREEZE in flight may wait for one of them; and below, when none is any more.
        slots.adopt(&roots);
        let thaw = |slot: &Slot| _ = sys::ioctl(slot.fd.load(SeqCst), sys::FITHAW);
        let threads = slots.start_threads(thaw)?;
        tables.iter().for_each(|table| _ = table.lock());
        threads.into_iter().for_each(|thread| _ = thread.join());
    }
    let mut supervisor = Supervisor { connection, table, slots, last: None };
    // Ends the operation of predecessors that were killed as a whole (R2).
    let lost: Vec<u64> = slots.iter().filter_map(|slot| slot.find_root(&roots)).collect();
    let threads = slots.start_threads(|slot| thaw_one(slots, slot, &slots.rescue))?;
    supervisor.succeed(NO_OPERATION, 0, threads);
    drop(roots);
    // Not earlier: whoever reads this may be waiting for one of those file systems.
    if let Err(error) = spared {
        sys::say(format_args!("not protected from the out-of-memory killer: {error}"));
    }
    for device in lost {
        sys::insist(format_args!("device {device:#x} may be frozen, and nobody kept it open"));
    }
    while !supervisor.connection.told {
        if let (_, Ok(Some((ask, request)))) = supervisor.connection.wait(-1, u32::MAX) {
            supervisor.answer(ask, &request);
        }
    }
    fs::remove_file(socket)
}

impl Supervisor {
    fn answer(&mut self, ask: Ask, request: &Request) {
        let id = request.operation;
        let last = self.last.filter(|last| last.operation == id);
        match (ask, last) {
            (Ask::Prepare, _) if self.may_hold(request) => self.operate(request),
            (Ask::Prepare, _) => self.connection.refuse(id, Refusal::Malformed),
            (Ask::Status, _) => self.connection.tell_state(NO_OPERATION, State::Idle),
            (Ask::Thaw | Ask::LastResult, Some(last)) => self.connection.reply(&last),
            _ => self.connection.refuse(id, Refusal::UnknownOperation),
        }
    }

    fn may_hold(&self, prepare: &Request) -> bool {
        prepare.count > 0
            && prepare.count as usize == self.connection.roots.len()
            && prepare.operation != NO_OPERATION
            && LEASE_RANGE_MS.contains(&prepare.lease_ms)
            && HOLD_LIMIT_RANGE_MS.contains(&prepare.hold_limit_ms)
    }

    /// Runs an operation in a process of its own; returns when nothing of it is left.
    fn operate(&mut self, prepare: &Request) {
        // Held until the end: nobody can unmount these file systems meanwhile (R3).
        let fresh = Vec::with_capacity(MAX_FILE_SYSTEMS);
        let roots = std::mem::replace(&mut self.connection.roots, fresh);
        let slots = self.slots;
        slots.reset(roots.iter().zip(prepare.levels));
        parked::park(from_ref(&self.table));
        parked::park(&roots);
        let (table, connection) = (&self.table, &mut self.connection);
        let process = sys::fork(|| operation::run(slots, table, *prepare, connection));
        // The fork made our pages copy-on-write again. Should this fail, the operation's process
        // misses the threads and gives up; those that were started end by themselves.
        let rescue = |slot: &_| thaw_one(slots, slot, &slots.rescue);
        let threads = sys::lock_memory().and_then(|()| slots.start_threads(rescue));
        if let Ok(process) = process {
            self.watch(&process);
        }
        self.succeed(prepare.operation, prepare.hold_limit_ms, threads.unwrap_or_default());
    }

    /// Waits until the operation's process has ended, or hangs, which ends it.
    fn watch(&mut self, process: &OwnedFd) {
        let mut late = 0;
        loop {
            let [ended, ..] = self.connection.poll([process.as_raw_fd(), -1, -1], RECHECK_MS);
            if self.connection.told {
                sys::signal(process, libc::SIGTERM);
            }
            let due = self.slots.due_ns.load(SeqCst).saturating_add(LATE_NS);
            late = if sys::monotonic_ns() > due { late + 1 } else { 0 };
            if ended || late > 1 {
                return sys::signal(process, libc::SIGKILL);
            }
        }
    }

    /// Waits until nothing is frozen or in flight, for which it thaws what a process that did not
    /// finish may have left, keeps the report, and lets go of everything that the operation needed.
    fn succeed(&mut self, id: OperationId, hold_limit_ms: u32, threads: Vec<JoinHandle<()>>) {
        let slots = self.slots;
        let phase = slots.phase.get();
        let died = phase != State::Idle as u32;
        if died {
            slots.begin_thaw(Cause::ThawProcessDied);
            slots.rescue.set(Cause::ThawProcessDied as u32);
        }
        for turn in 0u32.. {
            // The freezer, too, is our child when its parent is gone; a predecessor's has the lock.
            if sys::childless() && self.table.try_lock().is_ok() && self.table.unlock().is_ok() {
                slots.freezer_gone.set(1);
                if slots.all_over() {
                    break;
                }
            }
            if turn == POISONED_AFTER_MS / RETRY_MS {
                self.connection.tell_state(id, State::Poisoned);
            }
            sys::pause(RETRY_MS);
        }
        slots.rescue.set(END);
        // A thread that panicked has ended the process in the panic hook.
        threads.into_iter().for_each(|thread| _ = thread.join());
        parked::release();
        let report = slots.report(Answer::Thawed, id, hold_limit_ms);
        if phase == 0 {
            return self.connection.refuse(id, Refusal::NotReady);
        }
        self.last = Some(report);
        if died {
            self.connection.reply(&report);
            sys::say(format_args!("an operation's process died; its file systems are thawed"));
        }
    }
}
