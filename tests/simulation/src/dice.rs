//! Everything that is left to chance, from one seed.

use std::time::Duration;

use azdr_env::{Ids, SeededIds};

/// Throws dice that depend on the seed alone.
pub struct Dice(SeededIds);

impl Dice {
    /// Dice of a simulation; `purpose` keeps its parts independent of each other.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(SeededIds::new(mixed))
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&self, n: u64) -> u64 {
        self.0.u64() % n.max(1)
    }

    /// True once in `n` throws on average.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }

    /// A time between the two, evenly.
    pub fn between(&self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_millis() as u64;
        least + Duration::from_millis(self.below(span + 1))
    }

    /// The time to the next of events that come every `mean` on average: between a tenth of it and
    /// twice of it.
    pub fn next(&self, mean: Duration) -> Duration {
        self.between(mean / 10, mean * 19 / 10)
    }
}
