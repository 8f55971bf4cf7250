//! One operation: its descriptors, freezer, thaw threads, phase and limits.
//!
//! Limits are on CLOCK_MONOTONIC and owned here alone (I3, R17). The operation decides *when*
//! something must end and why; `server` carries it out.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use crate::freezer::Freezer;
use crate::protocol::{Cause, FREEZE_LIMIT_MS, OperationId, Prepare, Report, State};
use crate::slots::{GO_FREEZE, Slots};
use crate::{sys, thaw};

const MS: u64 = 1_000_000;
/// An agent that armed and then does not freeze is given up.
const ARMED_LIMIT_MS: u64 = 10_000;
/// A thaw that takes longer cannot be confirmed for now.
const POISONED_AFTER_MS: u64 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Armed,
    Freezing,
    Frozen,
    Thawing,
    Poisoned,
}

pub(crate) struct Operation {
    pub(crate) prepare: Prepare,
    pub(crate) phase: Phase,
    slots: &'static Slots,
    freezer: Freezer,
    freezer_reaped: bool,
    threads: Vec<JoinHandle<()>>,
    cause: Cause,
    /// The agent that is connected now did not ask for this operation, and is not told of it.
    pub(crate) orphan: bool,
    /// When this phase began.
    since_ns: u64,
    /// When the freezer was let go.
    window_from_ns: u64,
    lease_until_ns: u64,
    /// Held until the end: nobody can unmount these file systems meanwhile (R3).
    _roots: Vec<OwnedFd>,
}

impl Operation {
    /// Makes everything ready: locked memory, the freezer, the thaw threads. The caller is the
    /// process's only thread. `private` are descriptors that the freezer must not keep.
    pub(crate) fn arm(
        slots: &'static Slots,
        prepare: Prepare,
        roots: Vec<OwnedFd>,
        private: &[RawFd],
        done: RawFd,
    ) -> io::Result<Self> {
        slots.reset(roots.iter().map(AsRawFd::as_raw_fd).zip(prepare.levels));
        let freezer = Freezer::fork(slots, private)?;
        let mut threads = Vec::with_capacity(roots.len());
        // The fork made our pages copy-on-write again.
        let ready = sys::lock_memory().and_then(|()| thaw::start(slots, done, &mut threads));
        sys::fault_in_stack();
        if let Err(error) = ready {
            freezer.discard();
            slots.begin_thaw();
            join(threads);
            return Err(error);
        }
        Ok(Self {
            prepare,
            phase: Phase::Armed,
            slots,
            freezer,
            freezer_reaped: false,
            threads,
            cause: Cause::None,
            orphan: false,
            since_ns: sys::monotonic_ns(),
            window_from_ns: 0,
            lease_until_ns: 0,
            _roots: roots,
        })
    }

    pub(crate) fn id(&self) -> OperationId {
        self.prepare.operation
    }

    /// Where the freezer's end can be seen; -1 once it has been reaped.
    pub(crate) fn freezer_pidfd(&self) -> RawFd {
        if self.freezer_reaped { -1 } else { self.freezer.pidfd.as_raw_fd() }
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Armed => State::Armed,
            Phase::Freezing => State::Freezing,
            Phase::Frozen => State::Frozen,
            Phase::Thawing => State::Thawing,
            Phase::Poisoned => State::Poisoned,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since_ns = sys::monotonic_ns();
    }

    /// Lets the freezer go.
    pub(crate) fn freeze(&mut self) {
        self.enter(Phase::Freezing);
        self.window_from_ns = self.since_ns;
        self.slots.go.store(GO_FREEZE, SeqCst);
        sys::futex_wake_all(&self.slots.go);
    }

    /// Extends the lease; it begins when everything is frozen.
    pub(crate) fn renew(&mut self) {
        self.lease_until_ns = sys::monotonic_ns() + u64::from(self.prepare.lease_ms) * MS;
    }

    /// Starts to thaw. The first cause counts.
    pub(crate) fn thaw(&mut self, cause: Cause) {
        if self.cause != Cause::None {
            return;
        }
        self.cause = if self.phase == Phase::Armed { Cause::NotFrozen } else { cause };
        self.enter(Phase::Thawing);
        self.slots.begin_thaw();
    }

    /// Reaps the freezer if it has ended. Returns true when that made everything frozen.
    pub(crate) fn freezer_ended(&mut self) -> bool {
        if self.freezer_reaped || !self.freezer.reap() {
            return false;
        }
        self.freezer_reaped = true;
        self.slots.set_freezer_gone();
        if self.phase == Phase::Freezing && self.slots.all_frozen() {
            self.enter(Phase::Frozen);
            self.renew();
            return true;
        }
        if self.phase != Phase::Frozen {
            self.thaw(Cause::FreezeFailed);
        }
        false
    }

    /// The next time at which [`Operation::overdue`] has something to say.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let hold_end = self.window_from_ns + u64::from(self.prepare.hold_limit_ms) * MS;
        match self.phase {
            Phase::Armed => Some(self.since_ns + ARMED_LIMIT_MS * MS),
            Phase::Freezing => Some(hold_end.min(self.since_ns + u64::from(FREEZE_LIMIT_MS) * MS)),
            Phase::Frozen => Some(hold_end.min(self.lease_until_ns)),
            Phase::Thawing => Some(self.since_ns + POISONED_AFTER_MS * MS),
            Phase::Poisoned => None,
        }
    }

    /// Ends what is over its limit. Returns true when the operation has become poisoned.
    pub(crate) fn overdue(&mut self) -> bool {
        let now = sys::monotonic_ns();
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        match self.phase {
            Phase::Armed => self.thaw(Cause::NotFrozen),
            Phase::Freezing => self.thaw(Cause::FreezeFailed),
            Phase::Frozen if now < self.lease_until_ns => self.thaw(Cause::HoldLimit),
            Phase::Frozen => self.thaw(Cause::LeaseExpired),
            Phase::Thawing => {
                self.enter(Phase::Poisoned);
                return true;
            }
            Phase::Poisoned => {}
        }
        false
    }

    /// The facts so far.
    pub(crate) fn report(&self) -> Report {
        let Prepare { operation, hold_limit_ms, .. } = self.prepare;
        Report::new(operation, self.cause, hold_limit_ms, self.slots.entries())
    }

    /// True when every thaw is confirmed and no FIFREEZE can come any more.
    pub(crate) fn is_over(&self) -> bool {
        self.freezer_reaped && self.cause != Cause::None && self.slots.all_over()
    }

    /// Joins the threads, which have nothing left to do, and returns the facts.
    pub(crate) fn finish(self) -> Report {
        let report = self.report();
        join(self.threads);
        report
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A thaw thread that panicked has ended the process in the panic hook.
        let _ = thread.join();
    }
}
