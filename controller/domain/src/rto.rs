//! What drills say about recovery: how long it takes, how sure that is, and how often it works.
//!
//! A drill that failed never got there: it counts as one that takes for ever, and is never left out.
//! The bound needs no assumption on how times are distributed: it is one of the measured times (an
//! order statistic), chosen so that it holds with the stated confidence; where too few drills were
//! run for that, it says how many it takes.

use std::time::Duration;

use crate::objective::meets_success_target;

/// Share of recoveries that the bound speaks of, in percent.
pub const BOUND_SHARE_PERCENT: u32 = 90;
/// How sure the bound is, in percent.
pub const BOUND_CONFIDENCE_PERCENT: u32 = 95;

/// What drills have measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// All drills.
    pub total: usize,
    /// Those that passed.
    pub passed: usize,
    /// Mean of those that passed; failed ones have no time to average.
    pub average: Option<Duration>,
    /// Half of all drills, failed ones included, took at most this; `None`: half of them failed, or
    /// there are none.
    pub median: Option<Duration>,
    /// The slowest that passed.
    pub worst: Option<Duration>,
    /// What [`BOUND_SHARE_PERCENT`] of recoveries take at most.
    pub bound: Bound,
}

/// An upper bound that holds with [`BOUND_CONFIDENCE_PERCENT`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// They take at most this.
    Within(Duration),
    /// So many failed that there is no bound.
    None,
    /// Too few drills to say.
    NotEnough {
        /// How many it takes.
        needed: usize,
    },
}

impl Statistics {
    /// Of drills, given as what each took; `None`: it failed. Their order does not matter.
    pub fn of(drills: impl IntoIterator<Item = Option<Duration>>) -> Self {
        let drills: Vec<_> = drills.into_iter().collect();
        let total = drills.len();
        let mut times: Vec<Duration> = drills.into_iter().flatten().collect();
        times.sort_unstable();
        let passed = times.len();
        // Failed ones come after all that passed.
        let ranked = |rank: usize| times.get(rank - 1).copied();
        let median = match total {
            0 => None,
            n if n % 2 == 1 => ranked(n / 2 + 1),
            n => ranked(n / 2).zip(ranked(n / 2 + 1)).map(|(a, b)| (a + b) / 2),
        };
        let bound = match bounding_rank(total) {
            None => Bound::NotEnough { needed: fewest() },
            Some(rank) => ranked(rank).map_or(Bound::None, Bound::Within),
        };
        Self {
            total,
            passed,
            average: times.iter().sum::<Duration>().checked_div(passed as u32),
            median,
            worst: times.last().copied(),
            bound,
        }
    }

    /// Those that did not pass.
    pub fn failed(&self) -> usize {
        self.total - self.passed
    }
}

const SHARE: f64 = BOUND_SHARE_PERCENT as f64 / 100.0;
const CONFIDENCE: f64 = BOUND_CONFIDENCE_PERCENT as f64 / 100.0;

/// The fewest drills of which the slowest is a bound: the share to that power is what may go wrong.
fn fewest() -> usize {
    ((1.0 - CONFIDENCE).ln() / SHARE.ln()).ceil() as usize
}

/// Which of `n` times, sorted, is the bound; counted from 1.
///
/// The k-th time is below the share's quantile exactly if at least k of n are, and how many are is
/// binomial: the bound is the first k with P(fewer than k) at least the confidence.
fn bounding_rank(n: usize) -> Option<usize> {
    // By logarithms: the first terms of a long history are too small for a float.
    let odds = (SHARE / (1.0 - SHARE)).ln();
    let mut term = n as f64 * (1.0 - SHARE).ln();
    let mut fewer_than = 0.0;
    for k in 1..=n {
        fewer_than += term.exp();
        if fewer_than >= CONFIDENCE {
            return Some(k);
        }
        term += ((n - k + 1) as f64 / k as f64).ln() + odds;
    }
    None
}

/// Whether the target for drills is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compliance {
    /// Enough of them passed, and nothing protected was left out.
    Passing,
    /// Too many failed.
    Failing,
    /// What was tested passed; something protected was not tested.
    Incomplete,
    /// Nothing was tested.
    NoTests,
}

impl Compliance {
    /// Of this many drills, and of so many protected VMs without one.
    pub fn of(total: usize, passed: usize, untested: usize) -> Self {
        match (meets_success_target(total, passed), untested) {
            (None, _) => Self::NoTests,
            (Some(false), _) => Self::Failing,
            (Some(true), 0) => Self::Passing,
            (Some(true), _) => Self::Incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n * 60))
    }

    #[test]
    fn statistics_of_a_few_drills_are_exact_and_the_bound_says_how_many_it_takes() {
        let four = Statistics::of([minutes(12), minutes(10), minutes(9), minutes(11)]);
        assert_eq!((four.total, four.passed, four.failed()), (4, 4, 0));
        assert_eq!(four.average, Some(Duration::from_secs(630)));
        assert_eq!(four.median, Some(Duration::from_secs(630)));
        assert_eq!(four.worst, minutes(12));
        assert_eq!(four.bound, Bound::NotEnough { needed: 29 });
        let none = Statistics::of([]);
        assert_eq!((none.average, none.median, none.worst), (None, None, None));
        assert_eq!(none.bound, Bound::NotEnough { needed: 29 });
    }

    #[test]
    fn a_failed_drill_takes_for_ever_and_is_never_left_out() {
        let some = Statistics::of([minutes(1), None, minutes(2)]);
        assert_eq!((some.passed, some.failed()), (2, 1));
        assert_eq!(some.median, minutes(2), "the second of three, the third being endless");
        assert_eq!(some.worst, minutes(2));
        assert_eq!(Statistics::of([minutes(1), None]).median, None);
        // 29 drills bound by the slowest alone: one failure, and there is no bound.
        let mut many: Vec<_> = (1..=28).map(minutes).collect();
        many.push(None);
        assert_eq!(Statistics::of(many.clone()).bound, Bound::None);
        many[28] = minutes(29);
        assert_eq!(Statistics::of(many).bound, Bound::Within(Duration::from_secs(29 * 60)));
    }

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Wilks's sample sizes of the first, second and third order for 90 % and 95 %.
        for (n, rank) in
            [(28, None), (29, Some(29)), (45, Some(45)), (46, Some(45)), (61, Some(59))]
        {
            assert_eq!(bounding_rank(n), rank, "of {n}");
        }
        let rank = bounding_rank(100_000).expect("more than enough");
        assert!((90_000..90_300).contains(&rank), "{rank}");
    }

    #[test]
    fn the_bound_holds_as_often_as_it_says() {
        // A generator of our own: the same histories on every machine.
        let mut state = 1_u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 44
        };
        for n in [29, 46, 120] {
            let held = (0..4000).filter(|_| {
                let drills = (0..n).map(|_| Some(Duration::from_millis(uniform())));
                let drills: Vec<_> = drills.collect();
                match Statistics::of(drills).bound {
                    Bound::Within(d) => d.as_millis() as f64 >= 0.9 * f64::from(1 << 20),
                    other => panic!("{other:?}"),
                }
            });
            let held = held.count();
            // Three standard deviations below 95 %.
            assert!(held >= 3760, "of {n} drills: held {held} times of 4000");
        }
    }

    #[test]
    fn an_untested_vm_is_no_success() {
        assert_eq!(Compliance::of(36, 36, 0), Compliance::Passing);
        assert_eq!(Compliance::of(36, 36, 1), Compliance::Incomplete);
        assert_eq!(Compliance::of(36, 35, 0), Compliance::Failing);
        assert_eq!(Compliance::of(0, 0, 0), Compliance::NoTests);
    }
}
