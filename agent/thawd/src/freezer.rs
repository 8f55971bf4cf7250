//! The freezer: a forked child, one per operation, that calls FIFREEZE and nothing else.
//!
//! It is forked while the thaw process is still single-threaded and has its own locked memory. It
//! freezes in parallel inside a level and level by level, and stops at the first refusal; thawing is
//! not its business. It dies with the thaw process, so that nobody freezes without a thawer (a
//! FIFREEZE already in flight cannot be cancelled).

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering::SeqCst;

use crate::slots::{FREEZING, FROZEN, GO_FREEZE, REFUSED, Slot, Slots, WAITING};
use crate::sys;

/// Small stacks: they are locked memory, and the threads only call ioctl.
pub(crate) const STACK: usize = 64 * 1024;
/// Waits are re-checked at least this often, should a wake-up ever be lost.
pub(crate) const RECHECK_MS: u32 = 1_000;

/// How long the child has to get ready: each thread's wake-up may use up one step.
const READY_STEPS: u32 = 100;
const READY_STEP_MS: u32 = 20;

/// The child, seen by its parent.
pub(crate) struct Freezer {
    pid: libc::pid_t,
    /// Readable when the child and all its threads have ended.
    pub(crate) pidfd: OwnedFd,
}

impl Freezer {
    /// Forks the child and waits until it is ready to freeze. `private` are descriptors that it
    /// must not keep open. The caller is the process's only thread.
    pub(crate) fn fork(slots: &'static Slots, private: &[RawFd]) -> io::Result<Self> {
        let parent = sys::own_pid();
        let pid = match sys::fork()? {
            sys::Forked::Child => run(slots, private, parent),
            sys::Forked::Parent(pid) => pid,
        };
        let freezer = Self { pid, pidfd: sys::pidfd(pid)? };
        for _ in 0..READY_STEPS {
            let ready = slots.freezers_ready.load(SeqCst);
            if ready == slots.count() {
                return Ok(freezer);
            }
            sys::futex_wait(&slots.freezers_ready, ready, READY_STEP_MS);
        }
        freezer.discard();
        Err(io::ErrorKind::TimedOut.into())
    }

    /// True when the child has ended; no FIFREEZE of ours is in flight then.
    pub(crate) fn reap(&self) -> bool {
        sys::reap(self.pid)
    }

    /// Ends a child that was not let go, so that nothing is in flight.
    pub(crate) fn discard(self) {
        sys::kill_and_reap(self.pid);
    }
}

fn run(slots: &'static Slots, private: &[RawFd], parent: libc::pid_t) -> ! {
    if !sys::die_with_parent(parent) || sys::lock_memory().is_err() {
        sys::exit_now(1);
    }
    private.iter().for_each(|fd| sys::close_inherited(*fd));
    for slot in slots.iter() {
        let thread = std::thread::Builder::new().stack_size(STACK);
        if thread.spawn(move || freeze_one(slots, slot)).is_err() {
            sys::exit_now(1);
        }
    }
    while slots.go.load(SeqCst) == 0 {
        sys::futex_wait(&slots.go, 0, RECHECK_MS);
    }
    if slots.go.load(SeqCst) != GO_FREEZE {
        sys::exit_now(0);
    }
    for level in 0..slots.level_count() {
        slots.open_levels.store(level + 1, SeqCst);
        sys::futex_wake_all(&slots.open_levels);
        if !wait_for_level(slots, level) {
            break;
        }
    }
    // Blocks until the FIFREEZE calls in flight have returned: the process ends with its last thread.
    sys::exit_now(0)
}

/// Waits until no FIFREEZE up to `level` is pending; true when all succeeded and more may follow.
///
/// It waits for the others even after a refusal: ending the process then could lose another's
/// EBUSY, and a foreign freeze would look like one of ours (N3).
fn wait_for_level(slots: &Slots, level: u32) -> bool {
    let up_to_level = || slots.iter().filter(|slot| slot.level.load(SeqCst) <= level);
    loop {
        let progress = slots.freeze_progress.load(SeqCst);
        let pending = |slot: &Slot| matches!(slot.state.load(SeqCst), WAITING | FREEZING);
        if !up_to_level().any(pending) {
            let frozen = up_to_level().all(|slot| slot.state.load(SeqCst) == FROZEN);
            return frozen && slots.thaw.load(SeqCst) == 0;
        }
        sys::futex_wait(&slots.freeze_progress, progress, RECHECK_MS);
    }
}

fn freeze_one(slots: &Slots, slot: &Slot) {
    sys::fault_in_stack();
    slots.freezers_ready.fetch_add(1, SeqCst);
    sys::futex_wake_all(&slots.freezers_ready);
    let level = slot.level.load(SeqCst);
    loop {
        let open = slots.open_levels.load(SeqCst);
        if open > level {
            break;
        }
        sys::futex_wait(&slots.open_levels, open, RECHECK_MS);
    }
    slot.from_ns.store(sys::monotonic_ns(), SeqCst);
    if !slot.advance(WAITING, FREEZING) {
        slot.from_ns.store(0, SeqCst);
        return;
    }
    let code = sys::freeze(slot.fd.load(SeqCst));
    slot.frozen_ns.store(sys::monotonic_ns(), SeqCst);
    slot.freeze_errno.store(code, SeqCst);
    slot.advance(FREEZING, if code == 0 { FROZEN } else { REFUSED });
    slots.freeze_progress.fetch_add(1, SeqCst);
    sys::futex_wake_all(&slots.freeze_progress);
}
