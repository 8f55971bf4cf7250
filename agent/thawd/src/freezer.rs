//! The freezer: a forked child, one per operation, that calls FIFREEZE and nothing else.
//!
//! It is forked while the operation's process is still single-threaded and has its own locked memory
//! and its own filter. It freezes in parallel inside a level and level by level, and stops at the
//! first refusal; thawing is not its business. It dies with the operation's process, so that nobody
//! freezes without a thawer (a FIFREEZE already in flight cannot be cancelled).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::Ordering::SeqCst;

use crate::slots::{Slot, Slots};
use crate::{filter, sys};
use azdr_thawd_protocol::Outcome::{Frozen, InFlight, NotFrozen, Untouched, Waiting};

/// Gets ready, freezes, and waits until no FIFREEZE is in flight or may follow; then the child is to end.
/// `parent` is the operation's process, which has just forked it as its only thread.
///
/// While it lives it has a lock on the file of the table: a successor of its ancestors, which is none
/// of them, sees by that whether a FIFREEZE may still be in flight.
pub(crate) fn freeze_all(slots: &'static Slots, table: &File, parent: u32) -> io::Result<()> {
    sys::die_with_parent(parent)?;
    // Opened anew: the lock of a descriptor that came with the fork would be everybody's.
    let alive = File::open(format!("/proc/self/fd/{}", table.as_raw_fd()))?;
    alive.lock_shared()?;
    // Closed by the process's end, with its last thread.
    let _ = alive.into_raw_fd();
    sys::lock_memory()?;
    slots.start_threads(|slot| freeze_one(slots, slot))?;
    slots.ready.reach(|_| slots.iter().all(|slot| slot.freezer.load(SeqCst) != 0))?;
    filter::install(&[], sys::FIFREEZE, &slots.refused_calls)?;
    slots.ready.count_up();
    // Even after a refusal: ending the process while others are in flight could lose another's EBUSY,
    // and a foreign freeze would look like one of ours (N3).
    let pending = |slot: &Slot| matches!(slot.state(), Waiting | InFlight);
    slots.freeze_progress.wait_until(|_| !slots.iter().any(pending));
    Ok(())
}

/// Freezes one file system when the levels before its own are frozen as a whole. Should it be refused,
/// those after it are left alone.
fn freeze_one(slots: &Slots, slot: &Slot) {
    slot.freezer.store(sys::thread_id(), SeqCst);
    slots.ready.count_up();
    let level = slot.level.get();
    let settled = |other: &Slot| other.level.get() >= level || other.state() == Frozen;
    slots.freeze_progress.wait_until(|begun| begun > 0 && slots.iter().all(settled));
    if slot.advance(Waiting, InFlight) {
        slot.from_ns.store(sys::monotonic_ns(), SeqCst);
        let code = sys::ioctl(slot.fd.load(SeqCst), sys::FIFREEZE);
        slot.frozen_ns.store(sys::monotonic_ns(), SeqCst);
        slot.freeze_errno.store(code, SeqCst);
        slot.advance(InFlight, if code == 0 { Frozen } else { NotFrozen });
        for after in slots.iter().filter(|other| code != 0 && other.level.get() > level) {
            after.advance(Waiting, Untouched);
        }
        slots.freeze_progress.count_up();
    }
    // Its end would need more calls than the filter allows.
    slots.freeze_progress.wait_until(|_| false);
}
