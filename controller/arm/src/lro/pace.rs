//! How often operations are polled (DESIGN §5 rule 2).

use std::time::Duration;

use super::{Family, Operation};

/// Scales the time between polls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollPace {
    percent: u32,
    /// The longest wait, whatever `Retry-After` says.
    longest: Duration,
}

impl PollPace {
    /// For Azure: 1 to 2 s first for disks and snapshots, 5 s for VM operations (their bucket holds
    /// 15 per minute), `Retry-After` between that and 60 s.
    pub fn azure() -> Self {
        Self { percent: 100, longest: Duration::from_secs(60) }
    }

    /// For tests and fast simulators: a hundredth of it, 100 ms at most.
    pub fn quick() -> Self {
        Self { percent: 1, longest: Duration::from_millis(100) }
    }

    /// How long to wait before the next poll of `operation`.
    pub(crate) fn wait(self, operation: &Operation) -> Duration {
        let (first, polls) = (shortest(operation.family), operation.polls);
        let own = match (operation.family, polls) {
            (Family::Disk, 0..2) => first,
            (Family::Disk | Family::Network, 0..4) => Duration::from_secs(2),
            (_, 0..12) => Duration::from_secs(5),
            (_, 12..60) => Duration::from_secs(10),
            _ => Duration::from_secs(15),
        };
        let wait = operation.retry_after.map_or(own, |asked| asked.max(first));
        (wait * self.percent / 100).min(self.longest)
    }
}

/// `Retry-After: 0` must not exhaust a bucket.
fn shortest(family: Family) -> Duration {
    Duration::from_secs(match family {
        Family::Disk => 1,
        Family::Network => 2,
        Family::VirtualMachine | Family::Group => 5,
    })
}
