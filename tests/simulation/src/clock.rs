//! Two clocks on one paused time: Azure's and the machines' is true, the controller's can be set wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use azdr_env::{Clock, Monotonic, TokioClock, WallTime};

use crate::dice::Dice;

/// Days around which zones change their offsets: a few days before each, at 08:00 UTC. Berlin and Lord
/// Howe (by half an hour), then New York; and all of them back.
const BEFORE_CHANGES: [i64; 4] = [
    // 2025-10-01, 2025-10-22, 2026-03-03, 2026-03-24.
    1_759_305_600_000,
    1_761_120_000_000,
    1_772_524_800_000,
    1_774_339_200_000,
];
/// 2025-01-01 08:00 UTC: other simulations begin on any day of the two years from here.
const ANY_DAY: i64 = 1_735_718_400_000;
const DAY: i64 = 86_400_000;

/// When a simulation begins: every other one a few days before some zone changes its offset.
pub fn beginning(dice: &Dice) -> WallTime {
    let at = match dice.pick(&BEFORE_CHANGES) {
        Some(before) if dice.one_in(2) => *before + dice.below(4) as i64 * DAY,
        _ => ANY_DAY + dice.below(730) as i64 * DAY,
    };
    WallTime::from_unix_ms(at)
}

/// A clock whose wall time somebody sets now and then.
#[derive(Debug)]
pub struct WrongClock {
    truth: TokioClock,
    offset_ms: AtomicI64,
}

impl WrongClock {
    /// A clock that is right so far. Must be called inside a tokio runtime.
    pub fn right(beginning: WallTime) -> Self {
        let truth = TokioClock::starting_at(beginning);
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
