//! Clock, ids and randomness, injected.
//!
//! `main` builds one [`Env`] and passes it down; nothing else in the project asks the operating
//! system for the time, for an id or for a random number (`clippy.toml` bans the direct calls).
//! Wall time and monotonic time are different types, because wall time may jump and durations must
//! not: a deadline is a [`Monotonic`], a date in the catalogue is a [`WallTime`].
//!
//! This crate must not know what the ids name or what the times are for.

mod clock;
mod ids;

pub use clock::{Clock, ManualClock, Monotonic, SystemClock, TokioClock, WallTime, sleep};
pub use ids::{Ids, OsIds, SeededIds};

use std::sync::Arc;

/// The outside influences of a process: what time it is, and what comes out when dice are thrown.
#[derive(Clone)]
pub struct Env {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Ids, nonces and other random values.
    pub ids: Arc<dyn Ids>,
}

impl Env {
    /// The operating system's clock and randomness: what `main` uses.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock::new()), ids: Arc::new(OsIds) }
    }

    /// The operating system's randomness, and its clock moved by so many seconds: to see in a simulated
    /// cloud what time does.
    pub fn system_shifted(seconds: i64) -> Self {
        Self { clock: Arc::new(SystemClock::shifted(seconds)), ids: Arc::new(OsIds) }
    }

    /// A clock that follows tokio's (paused in tests) from a fixed date, and ids from `seed`.
    ///
    /// Must be called inside a tokio runtime.
    pub fn simulated(seed: u64) -> Self {
        Self {
            clock: Arc::new(TokioClock::starting_at(WallTime::from_unix_ms(1_764_576_000_000))),
            ids: Arc::new(SeededIds::new(seed)),
        }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}
