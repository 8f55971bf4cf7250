//! The thaw threads: one per file system, made before anything is frozen, in the operation's process
//! and again in the supervisor, whose threads act only when that process is gone.
//!
//! Each waits for the signal, then for the levels above its own (briefly: the kernel orders nested
//! file systems by itself, and one blocked thaw must not hold up the others), then acts on what the
//! freezer wrote into its slot:
//!
//! - not frozen by us: leaves it alone, whoever may have frozen it (N3);
//! - FIFREEZE in flight: waits, since FITHAW would prove nothing now (N5) and could hit a foreign
//!   freeze;
//! - frozen, or the freezer or its thread has ended with the outcome unknown: FITHAW. Success ends it: a second
//!   call could thaw somebody else's new freeze. EINVAL ends it too, because no FIFREEZE of ours is
//!   outstanding: somebody else thawed, or a thread that was killed before it could say so. So does
//!   EBADF, of a successor that was not given the descriptor. Any other error is retried for ever.

use std::sync::atomic::Ordering::SeqCst;

use crate::slots::{END, Slot, Slots, Word};
use crate::sys::{self, thread_is_gone};
use azdr_thawd_protocol::Outcome::{self, Frozen, InFlight, Thawed, ThawedByOther};

pub(crate) const RETRY_MS: u32 = 2;
/// How long a level waits for those above it, in steps of a millisecond.
const LEVEL_WAIT_STEPS: u32 = 20;

/// The body of a thaw thread, which acts when `signal` is set and ends when it says END.
pub(crate) fn thaw_one(slots: &Slots, slot: &Slot, signal: &Word) {
    slots.ready.count_up();
    signal.wait_until(|signal| signal != 0);
    if signal.get() != END {
        wait_for_higher_levels(slots, slot);
        // Who is gone does not change the state any more: it is read again then.
        let gone = || slots.freezer_gone.get() == 1 || thread_is_gone(slot.freezer.load(SeqCst));
        while !slot.is_over() {
            match slot.state() {
                Frozen => thaw(slot, Frozen),
                InFlight if gone() && slot.state() == InFlight => thaw(slot, InFlight),
                _ => sys::pause(RETRY_MS),
            }
        }
    }
    // The operation's process never says END: the end of a thread would need more calls than its
    // filter allows.
    signal.wait_until(|signal| signal == END);
}

fn thaw(slot: &Slot, state: Outcome) {
    let code = sys::ioctl(slot.fd.load(SeqCst), sys::FITHAW);
    let now = sys::monotonic_ns();
    if slot.to_ns.swap(now, SeqCst) == 0 {
        slot.first_thaw_errno.store(code, SeqCst);
    }
    match code {
        0 => _ = slot.advance(state, Thawed),
        libc::EINVAL | libc::EBADF => _ = slot.advance(state, ThawedByOther),
        _ => sys::pause(RETRY_MS),
    }
}

fn wait_for_higher_levels(slots: &Slots, slot: &Slot) {
    let awaited = |other: &Slot| other.level.get() > slot.level.get() && !other.is_over();
    let steps = (0..LEVEL_WAIT_STEPS).take_while(|_| slots.iter().any(awaited));
    steps.for_each(|_| sys::pause(1));
}
