//! Facts about an operation, and what they are worth.

use azdr_thawd_protocol::{Cause, MAX_FILE_SYSTEMS, Outcome};

use crate::OperationId;

/// One file system's part of a [`Report`]. Times are CLOCK_MONOTONIC in nanoseconds, 0 = never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What became of it.
    pub outcome: Outcome,
    /// What FIFREEZE failed with, or 0.
    pub freeze_errno: i32,
    /// What the first FITHAW returned: 0, or an errno such as EINVAL.
    pub first_thaw_errno: i32,
    /// Just before FIFREEZE.
    pub from_ns: u64,
    /// When FIFREEZE had returned.
    pub frozen_ns: u64,
    /// When FITHAW had returned.
    pub to_ns: u64,
}

impl Entry {
    pub(crate) const UNTOUCHED: Self = Self {
        outcome: Outcome::Untouched,
        freeze_errno: 0,
        first_thaw_errno: 0,
        from_ns: 0,
        frozen_ns: 0,
        to_ns: 0,
    };
}

/// Facts about an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The operation.
    pub operation: OperationId,
    /// Why it ended.
    pub cause: Cause,
    /// Its hold limit.
    pub hold_limit_ms: u32,
    /// Calls that the thaw process's filters refused between ARMED and the end: 0, or it has a
    /// defect.
    pub refused_calls: u32,
    pub(crate) count: usize,
    pub(crate) entries: [Entry; MAX_FILE_SYSTEMS],
}

impl Report {
    /// One entry per file system, in the order of [`crate::Prepare`].
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(..self.count).unwrap_or(&[])
    }

    /// From the first FIFREEZE to the last return of `end`; 0 when nothing was frozen.
    fn span_ms(&self, end: impl Fn(&Entry) -> u64) -> u32 {
        let touched = || self.entries().iter().filter(|e| e.from_ns > 0);
        let from = touched().map(|e| e.from_ns).min().unwrap_or(0);
        let to = touched().map(end).max().unwrap_or(0);
        u32::try_from(to.saturating_sub(from).div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    /// From the first FIFREEZE to the last one's return.
    pub fn freeze_ms(&self) -> u32 {
        self.span_ms(|e| e.frozen_ns)
    }

    /// From the first FIFREEZE to the last FITHAW's return.
    pub fn window_ms(&self) -> u32 {
        self.span_ms(|e| e.to_ns)
    }

    /// True only if every file system was frozen by us, held until the agent asked, thawed by our
    /// first FITHAW, and the window kept to the hold limit. An empty report is never unbroken.
    pub fn unbroken(&self) -> bool {
        self.cause == Cause::Command
            && !self.entries().is_empty()
            && self.entries().iter().all(|e| e.outcome == Outcome::Thawed)
            && self.window_ms() <= self.hold_limit_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_freeze_held_to_our_own_thaw_within_the_limit_is_unbroken() {
        let report = |cause, hold_limit_ms, outcomes: &[Outcome]| {
            let mut entries = [Entry::UNTOUCHED; MAX_FILE_SYSTEMS];
            for (entry, outcome) in entries.iter_mut().zip(outcomes) {
                let (from_ns, frozen_ns, to_ns) = (1_000_000, 2_000_000, 9_000_000);
                *entry = Entry { outcome: *outcome, from_ns, frozen_ns, to_ns, ..*entry };
            }
            let (operation, count) = (OperationId::NONE, outcomes.len());
            Report { operation, cause, hold_limit_ms, refused_calls: 0, count, entries }
        };
        let whole = [Outcome::Thawed, Outcome::Thawed];
        assert!(report(Cause::Command, 10, &whole).unbroken());
        assert!(!report(Cause::Command, 7, &whole).unbroken(), "8 ms is over 7");
        assert!(!report(Cause::LeaseExpired, 10, &whole).unbroken());
        assert!(!report(Cause::ThawProcessDied, 10, &whole).unbroken());
        assert!(!report(Cause::Command, 10, &[]).unbroken());
        for other in [Outcome::ThawedByOther, Outcome::NotFrozen, Outcome::Untouched] {
            assert!(!report(Cause::Command, 10, &[Outcome::Thawed, other]).unbroken());
        }
        assert_eq!(report(Cause::Command, 10, &whole).freeze_ms(), 1);
    }
}
