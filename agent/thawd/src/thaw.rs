//! The thaw threads: one per file system, made before anything is frozen.
//!
//! Each waits for the signal, then for the levels above its own (briefly: the kernel orders nested
//! file systems by itself, and one blocked thaw must not hold up the others), then acts on what the
//! freezer wrote into its slot:
//!
//! - not frozen by us: leaves it alone, whoever may have frozen it (N3);
//! - FIFREEZE in flight: waits, since FITHAW would prove nothing now (N5) and could hit a foreign
//!   freeze;
//! - frozen, or the freezer was reaped with the outcome unknown: FITHAW. Success ends it: a second
//!   call could thaw somebody else's new freeze. EINVAL ends it too, because no FIFREEZE of ours is
//!   outstanding: somebody else thawed. Any other error is retried for ever.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use crate::freezer::{RECHECK_MS, STACK};
use crate::slots::{FREEZING, FROZEN, Slot, Slots, THAWED, THAWED_BY_OTHER};
use crate::sys;

const RETRY_MS: u32 = 2;
/// How long a level waits for those above it, in steps of a millisecond.
const LEVEL_WAIT_STEPS: u32 = 20;

/// Starts the thaw threads and waits until each is ready. Each raises `done` when its slot is over.
pub(crate) fn start(
    slots: &'static Slots,
    done: RawFd,
    threads: &mut Vec<JoinHandle<()>>,
) -> io::Result<()> {
    for slot in slots.iter() {
        let thread = std::thread::Builder::new().stack_size(STACK);
        threads.push(thread.spawn(move || thaw_one(slots, slot, done))?);
    }
    loop {
        let ready = slots.thawers_ready.load(SeqCst);
        if ready == slots.count() {
            return Ok(());
        }
        sys::futex_wait(&slots.thawers_ready, ready, 100);
    }
}

fn thaw_one(slots: &Slots, slot: &Slot, done: RawFd) {
    sys::fault_in_stack();
    slots.thawers_ready.fetch_add(1, SeqCst);
    sys::futex_wake_all(&slots.thawers_ready);
    while slots.thaw.load(SeqCst) == 0 {
        sys::futex_wait(&slots.thaw, 0, RECHECK_MS);
    }
    wait_for_higher_levels(slots, slot);
    while !slot.is_over() {
        // Read before the state: a reaped freezer does not change the state any more.
        let freezer_gone = slots.freezer_gone.load(SeqCst) == 1;
        match slot.state.load(SeqCst) {
            FROZEN => thaw(slot, FROZEN),
            FREEZING if freezer_gone => thaw(slot, FREEZING),
            _ => sys::futex_wait(&slots.freezer_gone, 0, RETRY_MS),
        }
    }
    sys::raise(done);
}

fn thaw(slot: &Slot, state: u32) {
    let code = sys::thaw_raw(slot.fd.load(SeqCst));
    let now = sys::monotonic_ns();
    if slot.to_ns.swap(now, SeqCst) == 0 {
        slot.first_thaw_errno.store(code, SeqCst);
    }
    match code {
        0 => _ = slot.advance(state, THAWED),
        libc::EINVAL => _ = slot.advance(state, THAWED_BY_OTHER),
        _ => sys::pause(RETRY_MS),
    }
}

fn wait_for_higher_levels(slots: &Slots, slot: &Slot) {
    let level = slot.level.load(SeqCst);
    let higher_over =
        || slots.iter().all(|other| other.level.load(SeqCst) <= level || other.is_over());
    for _ in 0..LEVEL_WAIT_STEPS {
        if higher_over() {
            return;
        }
        sys::pause(1);
    }
}
