//! Wall and monotonic time.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A date: UTC, may jump when somebody sets the clock. Serialised as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(Timestamp);

impl WallTime {
    /// From milliseconds since 1970; values outside jiff's range (years -9999 to 9999) are clamped.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        }))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The underlying timestamp, for calendar arithmetic.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }

    /// The time `d` later; saturates at the end of jiff's range.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d).unwrap_or(Timestamp::MAX))
    }

    /// The time `d` earlier; saturates at the beginning of jiff's range.
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d).unwrap_or(Timestamp::MIN))
    }

    /// How long after `earlier` this is; zero when it is before it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }
}

impl From<Timestamp> for WallTime {
    fn from(t: Timestamp) -> Self {
        Self(t)
    }
}

impl std::str::FromStr for WallTime {
    type Err = jiff::Error;

    /// Parses RFC 3339, as Azure writes it (6 to 7 fraction digits, `Z` or `+00:00`).
    fn from_str(s: &str) -> Result<Self, jiff::Error> {
        s.parse().map(Self)
    }
}

impl std::fmt::Display for WallTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for WallTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A point on a clock that never goes back; meaningful within one process only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// From the time since this process's own epoch.
    pub fn from_duration(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// The time since this process's own epoch.
    pub fn as_duration(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this is; zero when it is before it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `d` later.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

/// A source of both times.
pub trait Clock: Send + Sync {
    /// The date.
    fn wall(&self) -> WallTime;
    /// The monotonic time.
    fn monotonic(&self) -> Monotonic;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    epoch: std::time::Instant,
    shift_secs: i64,
}

impl SystemClock {
    /// Starts this process's monotonic epoch.
    #[expect(clippy::disallowed_methods, reason = "the one sanctioned place")]
    #[expect(clippy::new_without_default, reason = "a clock is built on purpose, once")]
    pub fn new() -> Self {
        Self { epoch: std::time::Instant::now(), shift_secs: 0 }
    }

    /// The same, with the wall clock moved by so many seconds.
    pub fn shifted(shift_secs: i64) -> Self {
        Self { shift_secs, ..Self::new() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one sanctioned place")]
    fn wall(&self) -> WallTime {
        let now = WallTime(Timestamp::now());
        let shift = Duration::from_secs(self.shift_secs.unsigned_abs());
        if self.shift_secs < 0 { now.minus(shift) } else { now.plus(shift) }
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.epoch.elapsed())
    }
}

/// Follows tokio's clock, which tests pause and which then jumps from timer to timer.
#[derive(Debug)]
pub struct TokioClock {
    epoch: tokio::time::Instant,
    wall_epoch: WallTime,
}

impl TokioClock {
    /// A clock whose wall time is `wall` now. Must be called inside a tokio runtime.
    pub fn starting_at(wall: WallTime) -> Self {
        Self { epoch: tokio::time::Instant::now(), wall_epoch: wall }
    }
}

impl Clock for TokioClock {
    fn wall(&self) -> WallTime {
        self.wall_epoch.plus(self.epoch.elapsed())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.epoch.elapsed())
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(WallTime, Duration)>,
}

impl ManualClock {
    /// A clock that stands at `wall`.
    pub fn at(wall: WallTime) -> Self {
        Self { state: Mutex::new((wall, Duration::ZERO)) }
    }

    /// Moves both clocks on.
    pub fn advance(&self, d: Duration) {
        let mut state = self.state.lock().expect("no code panics while holding this lock");
        state.0 = state.0.plus(d);
        state.1 += d;
    }

    /// Sets the wall clock alone, as an administrator or NTP does.
    pub fn set_wall(&self, wall: WallTime) {
        self.state.lock().expect("no code panics while holding this lock").0 = wall;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> WallTime {
        self.state.lock().expect("no code panics while holding this lock").0
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.state.lock().expect("no code panics while holding this lock").1)
    }
}

/// Waits for `d` on tokio's clock: tests with paused time do not wait.
#[expect(clippy::disallowed_methods, reason = "the one sanctioned place")]
pub async fn sleep(d: Duration) {
    tokio::time::sleep(d).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_timestamps_parse() {
        let t: WallTime = "2021-04-06T03:59:28.9612345+00:00".parse().unwrap();
        assert_eq!(t.to_string(), "2021-04-06T03:59:28.9612345Z");
    }

    #[test]
    fn wall_time_may_jump_back_while_monotonic_time_does_not() {
        let clock = ManualClock::at(WallTime::from_unix_ms(10_000));
        clock.advance(Duration::from_secs(2));
        let before = clock.monotonic();
        clock.set_wall(WallTime::from_unix_ms(0));
        assert_eq!(clock.wall().unix_ms(), 0);
        assert!(clock.monotonic() >= before);
        assert_eq!(clock.wall().since(WallTime::from_unix_ms(5)), Duration::ZERO);
    }
}
