//! Waiting for something to become so, with a deadline and a word on how it stands.

use std::time::Duration;

use anyhow::{Result, bail};
use azdr_env::{Clock, Monotonic, SystemClock};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Measures time since it was started.
#[derive(Debug)]
pub struct Stopwatch {
    clock: SystemClock,
    since: Monotonic,
}

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        let clock = SystemClock::new();
        let since = clock.monotonic();
        Self { clock, since }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().since(self.since)
    }
}

/// How a look ended.
#[derive(Debug)]
pub enum Look<T> {
    /// It is so.
    Done(T),
    /// It is not so yet; in words, how it stands.
    Waiting(String),
}

/// Looks again and again until it is so.
///
/// # Errors
/// Past `limit`, with what was waited for and how it stood last; and at once when a look fails.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        let status = match look()? {
            Look::Done(value) => return Ok(value),
            Look::Waiting(status) => status,
        };
        if watch.elapsed() >= limit {
            bail!("waited {} s in vain: {what}; last seen: {status}", limit.as_secs());
        }
        pause(PAUSE);
    }
}

/// Lets time pass between two looks, or where passing time is itself what is asked for.
#[expect(clippy::disallowed_methods, reason = "the one place that polls other processes")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
