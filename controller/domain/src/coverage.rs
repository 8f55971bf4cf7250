//! Whether a VM has the backups that its policy should have made by now.
//!
//! Pure. What counts is recovery points, not runs: a run that fails every night leaves its VM overdue.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_env::WallTime;

use crate::policy::Policy;
use crate::schedule::{previous_due, tiers_wanted};
use crate::tier::{Tier, TierSet};

/// A backup counts as missing this long after its time: starts are spread, and a backup takes a while.
pub const GRACE: Duration = Duration::from_secs(2 * 3600);

/// The scheduled time whose backup should be there at `now`; none when the calendar has none before.
pub fn expected(policy: &Policy, now: WallTime) -> Option<WallTime> {
    previous_due(policy, now.minus(GRACE))
}

/// [`expected`] of many policies at one time: looking up a time zone's calendar takes long for one VM, and
/// a fleet has few schedules.
#[derive(Debug, Default)]
pub struct ExpectedTimes(BTreeMap<(String, String), Option<WallTime>>);

impl ExpectedTimes {
    /// The scheduled time of this policy; `now` is the same in every call.
    pub fn of(&mut self, policy: &Policy, now: WallTime) -> Option<WallTime> {
        let schedule = (policy.schedule.time.to_string(), policy.schedule.time_zone.to_string());
        *self.0.entry(schedule).or_insert_with(|| expected(policy, now))
    }
}

/// Whether nothing came of the scheduled time `expected`, of a policy that is on since then.
///
/// `newest` is when the newest point was taken; `newest_of` the same of those that carry a tier. It is
/// asked only where the policy does not want a point every day.
pub fn is_overdue(
    policy: &Policy,
    enabled_since: WallTime,
    expected: WallTime,
    newest: WallTime,
    newest_of: impl FnOnce(Tier) -> Option<WallTime>,
) -> bool {
    if newest >= expected || enabled_since > expected {
        return false;
    }
    // The lowest tier is wanted most often, and each run carries it when it is wanted.
    let Some(lowest) = policy.retention.tiers().iter().last() else { return false };
    if lowest == Tier::Daily {
        return true;
    }
    let last: Vec<_> =
        newest_of(lowest).map(|at| (at, TierSet::only(lowest))).into_iter().collect();
    tiers_wanted(policy, &last, expected).contains(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Retention;

    fn at(text: &str) -> WallTime {
        WallTime::from(text.parse::<jiff::Timestamp>().unwrap())
    }

    fn policy(daily: u32, weekly: u32) -> Policy {
        let retention = Retention { daily, weekly, monthly: 0, yearly: 0 };
        let mut policy = Policy { retention, enabled: true, ..Policy::default() };
        policy.schedule.time = "08:00".parse().unwrap();
        policy
    }

    fn overdue(policy: &Policy, newest: &str, now: &str) -> bool {
        let (newest, since) = (at(newest), at("2025-01-01T00:00:00Z"));
        let expected = expected(policy, at(now)).unwrap();
        is_overdue(policy, since, expected, newest, |_| Some(newest))
    }

    #[test]
    fn a_daily_backup_is_overdue_two_hours_after_its_time() {
        let policy = policy(7, 0);
        assert!(!overdue(&policy, "2025-12-01T08:05:00Z", "2025-12-02T09:59:00Z"));
        assert!(overdue(&policy, "2025-12-01T08:05:00Z", "2025-12-02T10:00:00Z"));
        assert!(!overdue(&policy, "2025-12-02T08:00:00Z", "2025-12-02T10:00:00Z"));
    }

    #[test]
    fn a_weekly_backup_is_overdue_when_its_week_has_none() {
        let policy = policy(0, 4);
        // 2025-11-30 and 2025-12-07 are Sundays.
        assert!(!overdue(&policy, "2025-11-30T08:05:00Z", "2025-12-06T23:00:00Z"));
        assert!(!overdue(&policy, "2025-11-30T08:05:00Z", "2025-12-07T09:59:00Z"));
        assert!(overdue(&policy, "2025-11-30T08:05:00Z", "2025-12-07T10:00:00Z"));
        assert!(!overdue(&policy, "2025-12-07T12:00:00Z", "2025-12-07T13:00:00Z"));
    }

    #[test]
    fn nothing_was_missed_before_the_policy_was_on() {
        let policy = policy(7, 0);
        let now = at("2025-12-02T12:00:00Z");
        let newest = at("2025-11-01T08:00:00Z");
        let expected = expected(&policy, now).unwrap();
        let since = |text| is_overdue(&policy, at(text), expected, newest, |_| None);
        assert!(!since("2025-12-02T11:00:00Z"));
        assert!(since("2025-12-02T07:00:00Z"));
    }
}
