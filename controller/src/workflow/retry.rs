//! How long the engine waits before it calls a step again, and when it gives up.

use std::time::Duration;

use azdr_env::{Monotonic, WallTime};

use crate::store::Repetition;

/// Back-off between repetitions of one step.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The first pause; it doubles from then on.
    pub first: Duration,
    /// No pause is longer, whatever the other side asks for.
    pub longest: Duration,
    /// After this long a step that keeps failing has failed.
    pub total: Duration,
}

impl RetryPolicy {
    /// For Azure: 1 s doubling to 60 s, 30 minutes in all.
    pub const AZURE: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        total: Duration::from_secs(30 * 60),
    };

    /// For a simulator on this machine: 100 ms doubling to 2 s, 60 s in all.
    pub const QUICK: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(2),
        total: Duration::from_secs(60),
    };

    /// The pause after so many failures in a row: at least what the other side asked for, at most the
    /// policy's longest.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.max(asked.unwrap_or_default()).min(self.longest)
    }
}

/// One series of calls of a step, going on from what earlier processes have spent on it. All its
/// durations are monotonic time of some process: the wall clock only bounds what is left of a pause.
#[derive(Debug)]
pub(super) struct Series {
    policy: RetryPolicy,
    /// What is known from before `begun`.
    before: Repetition,
    begun: Monotonic,
    attempts: u32,
    failing_since: Option<Monotonic>,
    /// How much of `spent` the store knows, and whether it knows of a failure.
    saved: (Duration, bool),
    rest: Duration,
}

impl Series {
    /// Goes on with what was saved, if anything was. The pause that a restart cut short counts as far
    /// as it is over by the wall clock; a clock that jumps makes its rest shorter, never longer than
    /// the pause was.
    pub(super) fn resume(
        policy: RetryPolicy,
        saved: Option<Repetition>,
        now: Monotonic,
        wall: WallTime,
    ) -> Self {
        let mut before = saved.unwrap_or_default();
        let rest = before.not_before.unwrap_or(wall).since(wall).min(before.pause);
        let over = before.pause - rest;
        before.spent += over;
        if before.attempts > 0 {
            before.failing += over;
        }
        Self {
            policy,
            before,
            begun: now,
            attempts: before.attempts,
            failing_since: (before.attempts > 0).then_some(now),
            saved: (before.spent, before.attempts > 0),
            rest,
        }
    }

    /// What is left of the pause that a restart cut short.
    pub(super) fn rest_of_pause(&self) -> Duration {
        self.rest
    }

    /// Time since the step began.
    pub(super) fn spent(&self, now: Monotonic) -> Duration {
        self.before.spent + now.since(self.begun)
    }

    /// It failed in a way that may pass: the pause, or `None` when it has failed for too long.
    pub(super) fn failed(&mut self, now: Monotonic, asked: Option<Duration>) -> Option<Duration> {
        if self.failing_since.is_none() {
            self.before.failing = Duration::ZERO;
        }
        self.failing_since.get_or_insert(now);
        self.attempts = self.attempts.saturating_add(1);
        (self.failing(now) < self.policy.total).then(|| self.policy.pause(self.attempts, asked))
    }

    /// Nothing is wrong, it is only not there yet. A step may wait for days; only what *keeps* failing
    /// has failed.
    pub(super) fn waits(&mut self) {
        self.attempts = 0;
        self.failing_since = None;
        self.before.failing = Duration::ZERO;
    }

    /// What to save now, if it is worth a write: every failure is; of mere waiting, what would
    /// otherwise be lost of the time limit.
    pub(super) fn worth_saving(
        &mut self,
        now: Monotonic,
        wall: WallTime,
        pause: Duration,
        limit: Duration,
    ) -> Option<Repetition> {
        let spent = self.spent(now);
        let failing = self.attempts > 0;
        if !failing && !self.saved.1 && spent.saturating_sub(self.saved.0) < grain(limit) {
            return None;
        }
        self.saved = (spent, failing);
        Some(Repetition {
            attempts: self.attempts,
            failing: if failing { self.failing(now) } else { Duration::ZERO },
            spent,
            pause,
            not_before: Some(wall.plus(pause)),
        })
    }

    fn failing(&self, now: Monotonic) -> Duration {
        self.before.failing + self.failing_since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

/// A crash makes a waiting step forget at most so much of the time that it has waited.
const LONGEST_UNSAVED: Duration = Duration::from_secs(10 * 60);

/// How much of its time limit a step may spend before somebody takes note.
pub(super) fn grain(limit: Duration) -> Duration {
    (limit / 20).min(LONGEST_UNSAVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(d: Duration) -> Monotonic {
        Monotonic::from_duration(d)
    }

    fn wall(minutes: i64) -> WallTime {
        WallTime::from_unix_ms(minutes * 60_000)
    }

    #[test]
    fn pauses_double_and_heed_the_other_side_within_the_limit() {
        let policy = RetryPolicy::AZURE;
        assert_eq!(policy.pause(1, None), Duration::from_secs(1));
        assert_eq!(policy.pause(2, Some(Duration::from_secs(20))), Duration::from_secs(20));
        assert_eq!(policy.pause(4, None), Duration::from_secs(8));
        assert_eq!(policy.pause(3, Some(Duration::from_secs(600))), MINUTE);
        assert_eq!(policy.pause(u32::MAX, None), MINUTE);
    }

    #[test]
    fn a_series_goes_on_after_a_restart_where_it_was() {
        let mut first = Series::resume(RetryPolicy::AZURE, None, at(MINUTE), wall(1));
        for n in 0..6 {
            first.failed(at(MINUTE * (2 + n)), None).unwrap();
        }
        let pause = first.failed(at(MINUTE * 8), None).unwrap();
        assert_eq!(pause, MINUTE);
        let saved = first.worth_saving(at(MINUTE * 8), wall(8), pause, MINUTE * 60).unwrap();
        assert_eq!((saved.attempts, saved.failing), (7, MINUTE * 6));
        assert_eq!(saved.spent, MINUTE * 7);
        // Another process; its monotonic clock starts anew.
        let mut second =
            Series::resume(RetryPolicy::AZURE, Some(saved), at(Duration::ZERO), wall(8));
        assert_eq!(second.rest_of_pause(), MINUTE);
        assert_eq!(second.failed(at(MINUTE), None), Some(MINUTE));
        assert_eq!(second.spent(at(MINUTE)), MINUTE * 8);
        // 6 minutes before and 24 after.
        assert_eq!(second.failed(at(MINUTE * 24), None), None);
    }

    #[test]
    fn a_jump_of_the_wall_clock_neither_lengthens_a_pause_nor_counts_as_time() {
        let saved = Repetition {
            attempts: 3,
            failing: MINUTE,
            spent: MINUTE,
            pause: MINUTE,
            not_before: Some(wall(101)),
        };
        for (now, rest) in [(100, MINUTE), (40, MINUTE), (160, Duration::ZERO)] {
            let series = Series::resume(RetryPolicy::AZURE, Some(saved), at(MINUTE), wall(now));
            assert_eq!(series.rest_of_pause(), rest, "{now}");
            // At most the pause itself counts.
            assert_eq!(series.spent(at(MINUTE)), MINUTE * 2 - rest);
        }
    }

    #[test]
    fn waiting_is_written_rarely_and_forgives_earlier_failures() {
        let mut series = Series::resume(RetryPolicy::AZURE, None, at(Duration::ZERO), wall(0));
        let limit = MINUTE * 60 * 72;
        let mut writes = 0;
        for second in 0..3600 * 24 {
            series.waits();
            let now = at(Duration::from_secs(second));
            writes += usize::from(series.worth_saving(now, wall(0), MINUTE, limit).is_some());
        }
        assert_eq!(writes, 6 * 24 - 1);
        let day = MINUTE * 60 * 24;
        series.failed(at(day), None).unwrap();
        assert!(series.worth_saving(at(day), wall(0), MINUTE, limit).is_some());
        series.waits();
        let forgiven = series.worth_saving(at(day), wall(0), MINUTE, limit).unwrap();
        assert_eq!((forgiven.attempts, forgiven.failing), (0, Duration::ZERO));
        assert_eq!(series.failed(at(day + MINUTE), None), Some(Duration::from_secs(1)));
    }
}
