//! The process of one operation: its freezer, thaw threads, state and limits.
//!
//! Limits are on CLOCK_MONOTONIC and owned here alone (I3, R17).
//!
//! ```text
//! Armed ─Freeze─▶ Freezing ─all frozen─▶ Frozen ─┐ Thaw, lease, hold limit, agent gone, SIGTERM
//!   │                 └─ refused, limit, died ───┤
//!   └──────────────────────────────── Thawing ◀──┘ ─▶ all confirmed: THAWED, the process ends
//!                                         └─ not confirmed within 1 s ─▶ Poisoned (keeps trying)
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

use crate::connection::Connection;
use crate::slots::Slots;
use crate::{filter, freezer, sys, thaw};
use azdr_thawd_protocol::{
    Answer, Ask, Cause, FREEZE_LIMIT_MS, Outcome, Refusal, Reply, Request, State,
};

/// An agent that armed and then does not freeze is given up.
const ARMED_LIMIT_MS: u32 = 10_000;
/// A thaw that takes longer cannot be confirmed for now.
pub(crate) const POISONED_AFTER_MS: u32 = 1_000;

struct Operation<'a> {
    prepare: Request,
    slots: &'static Slots,
    connection: &'a mut Connection,
    /// The freezer's pidfd.
    freezer: OwnedFd,
    /// The absolute limit, while something is frozen.
    hold_end_ns: u64,
}

/// Runs an operation to its end, with the descriptors of its file systems in `slots`. To be called in
/// a forked child, as its only thread.
///
/// # Errors
/// The freezer, locked memory, the thaw threads or the filter are not to be had: nothing is frozen.
pub(crate) fn run(
    slots: &'static Slots,
    table: &File,
    prepare: Request,
    connection: &mut Connection,
) -> io::Result<()> {
    let parent = std::process::id();
    let freezer = sys::fork(|| {
        connection.leave();
        freezer::freeze_all(slots, table, parent)
    })?;
    // The fork made our pages copy-on-write again.
    sys::lock_memory()?;
    slots.start_threads(|slot| thaw::thaw_one(slots, slot, &slots.thaw))?;
    // The supervisor's and the freezer's as well.
    slots.ready.reach(|ready| ready == 3 * slots.count.get() + 1)?;
    filter::install(filter::OPERATION, sys::FITHAW, &slots.refused_calls)?;
    let mut operation = Operation { prepare, slots, connection, freezer, hold_end_ns: u64::MAX };
    operation.enter(State::Armed, ARMED_LIMIT_MS);
    operation.connection.reply(&Reply::new(Answer::Armed, prepare.operation, 0));
    while !slots.all_over() {
        operation.turn();
    }
    operation.tell(Answer::Thawed);
    operation.enter(State::Idle, 0);
    Ok(())
}

impl Operation<'_> {
    /// Waits for one event and handles it.
    fn turn(&mut self) {
        let slots = self.slots;
        let left_ns = slots.due_ns.load(SeqCst).saturating_sub(sys::monotonic_ns());
        let wait_ms = match slots.thaw.get() {
            0 => left_ns.div_ceil(1_000_000) as u32,
            // The thaw threads do not tell when they are through.
            _ => thaw::RETRY_MS,
        };
        let freezer = if slots.freezer_gone.get() == 1 { -1 } else { self.freezer.as_raw_fd() };
        let (freezer_ended, heard) = self.connection.wait(freezer, wait_ms);
        if self.connection.told {
            self.thaw(Cause::Shutdown);
        }
        if freezer_ended && sys::childless() {
            self.freezer_ended();
        }
        match heard {
            Ok(Some((ask, request))) => self.answer(ask, &request),
            Ok(None) => {}
            Err(_) => self.thaw(Cause::AgentDied),
        }
        self.check_limits();
    }

    fn answer(&mut self, ask: Ask, request: &Request) {
        let id = request.operation;
        let known = id == self.prepare.operation;
        match ask {
            Ask::Prepare => self.connection.refuse(id, Refusal::Busy),
            Ask::Freeze if known && self.phase() == State::Armed => {
                self.hold_end_ns = sys::in_ms(self.prepare.hold_limit_ms);
                self.enter(State::Freezing, FREEZE_LIMIT_MS);
                self.slots.freeze_progress.count_up();
            }
            Ask::Renew if known && self.phase() == State::Frozen => {
                self.enter(State::Frozen, self.prepare.lease_ms);
            }
            // Too late: THAWED is on its way.
            Ask::Renew if known => {}
            // An unknown id still thaws what is held (R7); THAWED follows when it is confirmed.
            Ask::Thaw => self.thaw(Cause::Command),
            Ask::Status => self.connection.tell_state(self.prepare.operation, self.phase()),
            _ => self.connection.refuse(id, Refusal::UnknownOperation),
        }
    }

    fn tell(&self, answer: Answer) {
        let Request { operation, hold_limit_ms, .. } = self.prepare;
        self.connection.reply(&self.slots.report(answer, operation, hold_limit_ms));
    }

    fn phase(&self) -> State {
        State::from_number(self.slots.phase.get()).unwrap_or(State::Armed)
    }

    fn enter(&self, phase: State, limit_ms: u32) {
        self.slots.due_ns.store(sys::in_ms(limit_ms).min(self.hold_end_ns), SeqCst);
        self.slots.phase.set(phase as u32);
    }

    /// Starts to thaw. The first cause counts.
    fn thaw(&mut self, cause: Cause) {
        if self.slots.thaw.get() == 0 {
            let armed = self.phase() == State::Armed;
            self.slots.begin_thaw(if armed { Cause::NotFrozen } else { cause });
            self.hold_end_ns = u64::MAX;
            self.enter(State::Thawing, POISONED_AFTER_MS);
        }
    }

    fn freezer_ended(&mut self) {
        self.slots.freezer_gone.set(1);
        let all_frozen = self.slots.iter().all(|slot| slot.state() == Outcome::Frozen);
        if self.phase() == State::Freezing && all_frozen {
            self.enter(State::Frozen, self.prepare.lease_ms);
            self.tell(Answer::Frozen);
        } else {
            self.thaw(Cause::FreezeFailed);
        }
    }

    /// Ends what is over its limit.
    fn check_limits(&mut self) {
        let now = sys::monotonic_ns();
        match self.phase() {
            _ if now < self.slots.due_ns.load(SeqCst) => {}
            State::Armed | State::Freezing => self.thaw(Cause::FreezeFailed),
            State::Frozen if now >= self.hold_end_ns => self.thaw(Cause::HoldLimit),
            State::Frozen => self.thaw(Cause::LeaseExpired),
            _ => {
                self.enter(State::Poisoned, u32::MAX);
                self.connection.tell_state(self.prepare.operation, State::Poisoned);
            }
        }
    }
}
