//! When a recovery point is to be proved: verifications and drills that a policy asks for.
//!
//! Pure, like [`schedule`](crate::schedule): (how often, what was tried, now) in, a time out. A proof is
//! due that long after the start of the last one that passed, whoever asked for it, and at once where
//! none ever passed. After an outage one is due, not one for each that was missed. What fails is tried
//! again after an hour, then after two, four, …, and at least once a day; never more often than the
//! policy asks.

use std::time::Duration;

use azdr_env::WallTime;

use crate::interval::Interval;

/// The pause after the first failure in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(3600);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// An attempt to prove something, that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// When it was asked for.
    pub begun: WallTime,
    /// When it ended.
    pub ended: WallTime,
    /// Whether the proof held.
    pub passed: bool,
}

/// What was tried until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Since when it could have been: nothing is due before.
    pub since: WallTime,
    /// The start of the newest attempt that passed.
    pub last_passed: Option<WallTime>,
    /// The end of the newest attempt, if it did not.
    pub last_failed: Option<WallTime>,
    /// How many failed since the last that passed.
    pub failures: u32,
}

impl Past {
    /// From attempts, newest first. Those after `now` are of a clock that was ahead: they must not
    /// silence the VM.
    pub fn of(newest_first: &[Attempt], since: WallTime, now: WallTime) -> Self {
        let mut past = Self { since, last_passed: None, last_failed: None, failures: 0 };
        for attempt in newest_first.iter().filter(|a| a.begun <= now && a.ended <= now) {
            if attempt.passed {
                past.last_passed = Some(attempt.begun);
                break;
            }
            past.failures += 1;
            past.last_failed = past.last_failed.max(Some(attempt.ended));
        }
        past
    }

    /// When the next one is due; in the past: since then.
    pub fn due_at(&self, every: Interval) -> WallTime {
        let regular = self.last_passed.map_or(self.since, |at| at.plus(every.duration()));
        match self.last_failed {
            Some(at) => regular.max(at.plus(pause(every, self.failures))),
            None => regular,
        }
    }
}

/// The pause after so many failures in a row.
fn pause(every: Interval, failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).min(every.duration())
}

/// The times up to `until` at which one is due if each passes at once, at most `count`. What is due
/// already is due now.
pub fn upcoming(
    past: &Past,
    every: Interval,
    now: WallTime,
    until: WallTime,
    count: usize,
) -> Vec<WallTime> {
    // A policy cannot ask for one every 0 s, but a loop must not depend on it.
    let step = every.duration().max(Duration::from_secs(1));
    std::iter::successors(Some(past.due_at(every).max(now)), |at| Some(at.plus(step)))
        .take_while(|at| *at <= until)
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn at(hours: i64) -> WallTime {
        WallTime::from_unix_ms(hours * HOUR)
    }

    fn attempt(begun: i64, ended: i64, passed: bool) -> Attempt {
        Attempt { begun: at(begun), ended: at(ended), passed }
    }

    fn due(every: Interval, newest_first: &[Attempt], now: i64) -> i64 {
        Past::of(newest_first, at(100), at(now)).due_at(every).unix_ms() / HOUR
    }

    #[test]
    fn the_first_is_due_at_once_and_the_next_after_the_interval() {
        let week = Interval::days(7);
        assert_eq!(due(week, &[], 200), 100);
        assert_eq!(due(week, &[attempt(110, 112, true)], 200), 110 + 168);
        // Whatever failed before the newest success does not matter.
        let history = [attempt(110, 112, true), attempt(105, 106, false)];
        assert_eq!(due(week, &history, 200), 110 + 168);
    }

    #[test]
    fn after_an_outage_one_is_due_and_then_the_interval_counts_from_it() {
        let day = Interval::days(1);
        let past = Past::of(&[attempt(100, 101, true)], at(100), at(1000));
        assert_eq!(past.due_at(day), at(124));
        let times = upcoming(&past, day, at(1000), at(1050), 10);
        assert_eq!(times, [at(1000), at(1024), at(1048)]);
        assert_eq!(upcoming(&past, day, at(1000), at(9999), 2).len(), 2);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_but_once_a_day() {
        let week = Interval::days(7);
        let mut history = vec![];
        let mut pauses = vec![];
        let mut now = 100;
        for _ in 0..7 {
            history.insert(0, attempt(now, now, false));
            let next = due(week, &history, now);
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 24, 24]);
    }

    #[test]
    fn a_failure_before_its_time_does_not_bring_the_next_one_forward() {
        // Somebody asked for one in between, and it failed: the point of then is tried in its time.
        let history = [attempt(120, 121, false), attempt(110, 112, true)];
        assert_eq!(due(Interval::days(7), &history, 130), 110 + 168);
        // Never more often than asked.
        assert_eq!(due(Interval::hours(1), &[attempt(120, 121, false); 9], 130), 122);
    }

    #[test]
    fn a_clock_that_was_ahead_silences_nobody() {
        let history = [attempt(5000, 5001, true), attempt(110, 112, true)];
        assert_eq!(due(Interval::days(1), &history, 200), 110 + 24);
    }

    proptest! {
        /// Over any history, due times stay between the last attempt and the longest pause or the
        /// interval after it.
        #[test]
        fn the_next_one_is_neither_at_once_after_a_failure_nor_never(
            every in 3600..31_000_000u32,
            steps in prop::collection::vec((0..400i64, 0..5i64, any::<bool>()), 1..30),
        ) {
            let every = Interval::from_secs(every);
            let (mut now, mut history) = (100, vec![]);
            for (gap, length, passed) in steps {
                history.insert(0, attempt(now + gap, now + gap + length, passed));
                now += gap + length;
            }
            let past = Past::of(&history, at(0), at(now));
            let due = past.due_at(every);
            let newest = history[0];
            if newest.passed {
                prop_assert_eq!(due, newest.begun.plus(every.duration()));
            } else {
                prop_assert!(due > newest.ended);
                let most = every.duration().max(LONGEST_PAUSE);
                prop_assert!(due <= newest.ended.plus(most));
            }
            let times = upcoming(&past, every, at(now), at(now).plus(Duration::from_secs(86_400 * 40)), 50);
            prop_assert!(times.windows(2).all(|w| w[1].since(w[0]) == every.duration()));
            prop_assert!(times.iter().all(|t| *t >= at(now)));
        }
    }
}
