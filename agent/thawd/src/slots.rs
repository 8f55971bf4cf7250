//! The table of file systems in memory shared by the supervisor, the operation's process and the
//! freezer.
//!
//! Shared memory, because it still tells how far each call had come when its process is killed.
//! A slot's state moves only along the arrows below; who may move it is settled by compare-and-swap,
//! so that a late freeze and an early thaw cannot both win:
//!
//! ```text
//! Waiting ─freezer─▶ InFlight ─freezer─▶ Frozen ─thaw thread─▶ Thawed | ThawedByOther
//!    └─begin_thaw─▶ Untouched   └─freezer─▶ NotFrozen
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::{Builder, JoinHandle};

use crate::sys;
use azdr_thawd_protocol::{Answer, Cause, Entry, MAX_FILE_SYSTEMS, OperationId, Outcome, Reply};

/// What waiting thaw threads are told besides any [`Cause`], which sets them off.
pub(crate) const END: u32 = u32::MAX;

/// Waits are re-checked at least this often, should a wake-up ever be lost.
pub(crate) const RECHECK_MS: u32 = 1_000;
/// Small stacks: they are locked memory, and the threads do little more than one ioctl.
const STACK: usize = 64 * 1024;
/// How long others have to get ready.
const READY_LIMIT_MS: u32 = 3_000;

/// A number that processes wait for; a futex word.
pub(crate) struct Word(AtomicU32);

impl Word {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }

    /// Sets it and wakes everybody.
    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, SeqCst);
        sys::futex_wake_all(&self.0);
    }

    /// Adds 1 and wakes everybody.
    pub(crate) fn count_up(&self) {
        self.0.fetch_add(1, SeqCst);
        sys::futex_wake_all(&self.0);
    }

    /// Waits until `done` says so of it, which is asked again whenever somebody wakes.
    pub(crate) fn wait_until(&self, done: impl Fn(u32) -> bool) {
        loop {
            let value = self.get();
            if done(value) {
                return;
            }
            sys::futex_wait(&self.0, value, RECHECK_MS);
        }
    }

    /// The same, but only for as long as others may take to get ready.
    pub(crate) fn reach(&self, done: impl Fn(u32) -> bool) -> io::Result<()> {
        let end_ns = sys::in_ms(READY_LIMIT_MS);
        self.wait_until(|value| done(value) || sys::monotonic_ns() > end_ns);
        if done(self.get()) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// One file system.
pub(crate) struct Slot {
    /// Which one, for a successor that gets its descriptor under another number.
    device: AtomicU64,
    pub(crate) fd: AtomicI32,
    pub(crate) level: Word,
    /// The id of the freezer's thread.
    pub(crate) freezer: AtomicI32,
    /// An [`Outcome`].
    state: AtomicU32,
    pub(crate) freeze_errno: AtomicI32,
    pub(crate) first_thaw_errno: AtomicI32,
    pub(crate) from_ns: AtomicU64,
    pub(crate) frozen_ns: AtomicU64,
    pub(crate) to_ns: AtomicU64,
}

impl Slot {
    pub(crate) fn state(&self) -> Outcome {
        Outcome::from_number(self.state.load(SeqCst)).unwrap_or(Outcome::InFlight)
    }

    /// Moves the state on, unless somebody else was faster.
    pub(crate) fn advance(&self, from: Outcome, to: Outcome) -> bool {
        self.state.compare_exchange(from as u32, to as u32, SeqCst, SeqCst).is_ok()
    }

    /// For a process that took over the table: finds the descriptor among those it was given. Answers the
    /// device if it may be frozen and nobody kept it open; to be told when nothing is frozen any more.
    pub(crate) fn find_root(&self, files: &[File]) -> Option<u64> {
        let device = self.device.load(SeqCst);
        let root = files.iter().find(|file| device_of(file) == device);
        self.fd.store(root.map_or(-1, AsRawFd::as_raw_fd), SeqCst);
        (root.is_none() && !self.is_over()).then_some(device)
    }

    /// True when nothing more will be done here.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.state(), Outcome::Waiting | Outcome::InFlight | Outcome::Frozen)
    }
}

/// Two mounted file systems are never the same device.
fn device_of(root: &File) -> u64 {
    root.metadata().map_or(0, |found| found.dev())
}

/// The table: atomics of integers only, for which any bytes are a value. A successor of another version
/// knows a table that it cannot read by its size, whatever its own version: a change of meaning needs a change of
/// size.
pub(crate) struct Slots {
    /// How many file systems.
    pub(crate) count: Word,
    /// Threads that are ready: the freezer's, with its first one, the operation's and the supervisor's.
    pub(crate) ready: Word,
    /// Set to 1 for the freezer to begin; then counts slots that it is through with.
    pub(crate) freeze_progress: Word,
    /// A [`Cause`]: start no further FIFREEZE, and thaw.
    pub(crate) thaw: Word,
    /// The same for the supervisor's threads, which [`END`] ends.
    pub(crate) rescue: Word,
    /// 1: the freezer has been reaped, so no FIFREEZE is in flight.
    pub(crate) freezer_gone: Word,
    /// The operation's process's [`State`](azdr_thawd_protocol::State): 0 until it has told the agent ARMED,
    /// and Idle when the operation is over and the agent has been told.
    pub(crate) phase: Word,
    /// By when it will do something by itself.
    pub(crate) due_ns: AtomicU64,
    /// Calls that were answered with EPERM between ARMED and the end.
    pub(crate) refused_calls: AtomicU32,
    slots: [Slot; MAX_FILE_SYSTEMS],
}

impl Slots {
    /// Empties the table for an operation. No other process or thread may use it.
    pub(crate) fn reset<'a>(&'static self, roots: impl Iterator<Item = (&'a File, u8)>) {
        sys::zero(self);
        // Twice the operation's process waits for others, and does more.
        self.due_ns.store(sys::in_ms(3 * READY_LIMIT_MS), SeqCst);
        for (slot, (root, level)) in self.slots.iter().zip(roots) {
            slot.fd.store(root.as_raw_fd(), SeqCst);
            slot.device.store(device_of(root), SeqCst);
            slot.level.set(level.into());
            self.count.count_up();
        }
    }

    /// Takes over what another version has left and only its own table tells of: all of it may be frozen.
    pub(crate) fn adopt(&'static self, roots: &[File]) {
        self.reset(roots.iter().zip([0; MAX_FILE_SYSTEMS]));
        self.iter().for_each(|slot| slot.state.store(Outcome::Frozen as u32, SeqCst));
    }

    /// The operation's file systems.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().take(self.count.get() as usize)
    }

    /// A thread for each of them.
    pub(crate) fn start_threads(
        &'static self,
        run: impl Fn(&Slot) + Copy + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let thread = || Builder::new().stack_size(STACK);
        self.iter().map(|slot| thread().spawn(move || run(slot))).collect()
    }

    /// Lets no further FIFREEZE start and sets the thaw threads off. Harmless when repeated.
    pub(crate) fn begin_thaw(&self, cause: Cause) {
        for slot in self.iter() {
            slot.advance(Outcome::Waiting, Outcome::Untouched);
        }
        self.thaw.set(cause as u32);
        // The freezer finds nothing waiting any more, and ends.
        self.freeze_progress.count_up();
    }

    /// True when nothing is frozen or in flight any more, nor can be.
    pub(crate) fn all_over(&self) -> bool {
        self.freezer_gone.get() == 1 && self.iter().all(Slot::is_over)
    }

    /// The facts, in the order of the request.
    pub(crate) fn report(&self, answer: Answer, id: OperationId, hold_limit_ms: u32) -> Reply {
        let mut reply = Reply::new(answer, id, self.thaw.get());
        reply.hold_limit_ms = hold_limit_ms;
        reply.refused_calls = self.refused_calls.load(SeqCst);
        reply.count = self.count.get();
        for (entry, slot) in reply.entries.iter_mut().zip(self.iter()) {
            *entry = Entry {
                outcome: slot.state.load(SeqCst),
                level: slot.level.get(),
                freeze_errno: slot.freeze_errno.load(SeqCst),
                first_thaw_errno: slot.first_thaw_errno.load(SeqCst),
                from_ns: slot.from_ns.load(SeqCst),
                frozen_ns: slot.frozen_ns.load(SeqCst),
                to_ns: slot.to_ns.load(SeqCst),
            };
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the thaw process of a version has parked is read by that of another one, if this is the same.
    #[test]
    fn the_parked_table_has_the_format_of_the_first_version() {
        let slot = 8 + 6 * 4 + 3 * 8;
        assert_eq!((size_of::<Slot>(), size_of::<Slots>()), (slot, 40 + MAX_FILE_SYSTEMS * slot));
    }
}
