//! Two clocks on one paused time: Azure's and the machines' is true, the controller's can be set wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use azdr_env::{Clock, Monotonic, TokioClock, WallTime};

/// The day on which every simulation begins: 2025-12-01 08:00 UTC.
pub const BEGINNING: i64 = 1_764_576_000_000;

/// A clock whose wall time somebody sets now and then.
#[derive(Debug)]
pub struct WrongClock {
    truth: TokioClock,
    offset_ms: AtomicI64,
}

impl WrongClock {
    /// A clock that is right so far. Must be called inside a tokio runtime.
    pub fn right() -> Self {
        let truth = TokioClock::starting_at(WallTime::from_unix_ms(BEGINNING));
        Self { truth, offset_ms: AtomicI64::new(0) }
    }

    /// Sets it this far from the truth; monotonic time goes on as before.
    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::SeqCst);
    }
}

impl Clock for WrongClock {
    fn wall(&self) -> WallTime {
        let offset = self.offset_ms.load(Ordering::SeqCst);
        let by = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { self.truth.wall().minus(by) } else { self.truth.wall().plus(by) }
    }

    fn monotonic(&self) -> Monotonic {
        self.truth.monotonic()
    }
}
