//! How long the engine waits before it calls a step again.

use std::time::Duration;

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

    /// The pauses of one series of repetitions.
    pub fn backoff(self) -> Backoff {
        Backoff { policy: self, next: self.first }
    }
}

/// The pauses of one series of repetitions.
#[derive(Debug)]
pub struct Backoff {
    policy: RetryPolicy,
    next: Duration,
}

impl Backoff {
    /// The next pause: at least what the other side asked for, at most the policy's longest.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = self.next.max(asked.unwrap_or_default()).min(self.policy.longest);
        self.next = (self.next * 2).min(self.policy.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_heed_the_other_side_within_the_limit() {
        let mut b = RetryPolicy::AZURE.backoff();
        assert_eq!(b.next(None), Duration::from_secs(1));
        assert_eq!(b.next(Some(Duration::from_secs(20))), Duration::from_secs(20));
        assert_eq!(b.next(Some(Duration::from_secs(600))), Duration::from_secs(60));
    }
}
