//! The table of file systems in memory shared by the main thread, the thaw threads and the freezer
//! child.
//!
//! Shared memory, because it still tells how far each FIFREEZE had come when the freezer is killed.
//! A slot's state moves only along the arrows below; who may move it is settled by compare-and-swap,
//! so that a late freeze and an early thaw cannot both win:
//!
//! ```text
//! WAITING ─freezer─▶ FREEZING ─freezer─▶ FROZEN ─thaw thread─▶ THAWED | THAWED_BY_OTHER
//!    └─main─▶ CANCELLED     └─freezer─▶ REFUSED
//! ```

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::protocol::{Entry, MAX_FILE_SYSTEMS, Outcome};
use crate::sys;

pub(crate) const WAITING: u32 = 0;
pub(crate) const FREEZING: u32 = 1;
pub(crate) const FROZEN: u32 = 2;
pub(crate) const REFUSED: u32 = 3;
pub(crate) const CANCELLED: u32 = 4;
pub(crate) const THAWED: u32 = 5;
pub(crate) const THAWED_BY_OTHER: u32 = 6;

/// One file system.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) fd: AtomicI32,
    pub(crate) level: AtomicU32,
    pub(crate) state: AtomicU32,
    pub(crate) freeze_errno: AtomicI32,
    pub(crate) first_thaw_errno: AtomicI32,
    pub(crate) from_ns: AtomicU64,
    pub(crate) frozen_ns: AtomicU64,
    pub(crate) to_ns: AtomicU64,
}

impl Slot {
    /// Moves the state on; false when somebody else was faster.
    pub(crate) fn advance(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    /// True when nothing more will be done here.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.load(SeqCst), REFUSED | CANCELLED | THAWED | THAWED_BY_OTHER)
    }

    fn entry(&self) -> Entry {
        Entry {
            outcome: match self.state.load(SeqCst) {
                WAITING | CANCELLED => Outcome::Untouched,
                FROZEN => Outcome::Frozen,
                REFUSED => Outcome::NotFrozen,
                THAWED => Outcome::Thawed,
                THAWED_BY_OTHER => Outcome::ThawedByOther,
                _ => Outcome::InFlight,
            },
            freeze_errno: self.freeze_errno.load(SeqCst),
            first_thaw_errno: self.first_thaw_errno.load(SeqCst),
            from_ns: self.from_ns.load(SeqCst),
            frozen_ns: self.frozen_ns.load(SeqCst),
            to_ns: self.to_ns.load(SeqCst),
        }
    }
}

/// The table. Its `AtomicU32`s that are waited for are futex words.
pub(crate) struct Slots {
    count: AtomicU32,
    /// Threads of the freezer and thaw threads that are ready.
    pub(crate) freezers_ready: AtomicU32,
    pub(crate) thawers_ready: AtomicU32,
    /// 1: freeze. 2: end without freezing.
    pub(crate) go: AtomicU32,
    /// Slots of levels below this number may be frozen.
    pub(crate) open_levels: AtomicU32,
    /// Counts slots that the freezer is through with.
    pub(crate) freeze_progress: AtomicU32,
    /// 1: start no further FIFREEZE, and thaw.
    pub(crate) thaw: AtomicU32,
    /// 1: the freezer child has been reaped, so no FIFREEZE is in flight.
    pub(crate) freezer_gone: AtomicU32,
    slots: [Slot; MAX_FILE_SYSTEMS],
}

pub(crate) const GO_FREEZE: u32 = 1;
pub(crate) const GO_END: u32 = 2;

impl Slots {
    /// A table in fresh shared memory that lives as long as the process.
    pub(crate) fn map() -> io::Result<&'static Self> {
        // All fields are atomics of integers, for which zeroed memory is a valid value.
        sys::map_shared_zeroed()
    }

    /// Empties the table for an operation on `fds`. No freezer and no thaw thread may exist.
    pub(crate) fn reset(&self, fds: impl Iterator<Item = (i32, u8)>) {
        let words = [
            &self.freezers_ready,
            &self.thawers_ready,
            &self.go,
            &self.open_levels,
            &self.freeze_progress,
            &self.thaw,
            &self.freezer_gone,
        ];
        words.into_iter().for_each(|word| word.store(0, SeqCst));
        let mut count = 0;
        for (slot, (fd, level)) in self.slots.iter().zip(fds) {
            slot.fd.store(fd, SeqCst);
            slot.level.store(u32::from(level), SeqCst);
            slot.state.store(WAITING, SeqCst);
            slot.freeze_errno.store(0, SeqCst);
            slot.first_thaw_errno.store(0, SeqCst);
            slot.from_ns.store(0, SeqCst);
            slot.frozen_ns.store(0, SeqCst);
            slot.to_ns.store(0, SeqCst);
            count += 1;
        }
        self.count.store(count, SeqCst);
    }

    /// The operation's file systems.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().take(self.count.load(SeqCst) as usize)
    }

    /// How many file systems.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(SeqCst)
    }

    /// One past the highest level.
    pub(crate) fn level_count(&self) -> u32 {
        self.iter().map(|slot| slot.level.load(SeqCst) + 1).max().unwrap_or(0)
    }

    /// Lets no further FIFREEZE start and sets the thaw threads off. Harmless when repeated.
    pub(crate) fn begin_thaw(&self) {
        for slot in self.iter() {
            slot.advance(WAITING, CANCELLED);
        }
        self.thaw.store(1, SeqCst);
        sys::futex_wake_all(&self.thaw);
        let _ = self.go.compare_exchange(0, GO_END, SeqCst, SeqCst);
        sys::futex_wake_all(&self.go);
        sys::futex_wake_all(&self.freeze_progress);
    }

    /// Records that the freezer child has been reaped.
    pub(crate) fn set_freezer_gone(&self) {
        self.freezer_gone.store(1, SeqCst);
        sys::futex_wake_all(&self.freezer_gone);
    }

    /// True when every slot is frozen.
    pub(crate) fn all_frozen(&self) -> bool {
        self.iter().all(|slot| slot.state.load(SeqCst) == FROZEN)
    }

    /// True when nothing is frozen or in flight any more.
    pub(crate) fn all_over(&self) -> bool {
        self.iter().all(Slot::is_over)
    }

    /// The facts, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.iter().map(Slot::entry)
    }
}
