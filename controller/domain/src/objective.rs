//! What is asked of backups and drills, and whether it is so.
//!
//! The targets are those of the guide ("Alert Types", "Success Metrics"); a policy's own take their
//! place where it has them. Pure: what was measured and `now` in, a judgement out. What was not measured
//! is unknown, never met.

use std::time::Duration;

use azdr_env::WallTime;

use crate::coverage::GRACE;
use crate::interval::Interval;
use crate::policy::Policy;

/// What a recovery may take, where the policy has no `rto`: the guide's "RTO < 15 minutes".
pub const RTO_TARGET: Interval = Interval::minutes(15);
/// Share of drills that must pass, in thousandths: the guide's 99.9 %.
pub const SUCCESS_TARGET_PER_MILLE: u32 = 999;
/// How far back the share of drills that passed is judged for alerts, as `dr success-rate` shows it.
pub const SUCCESS_WINDOW: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long backups may go without a proof where the policy has no `verify_every`: the guide's 7 days.
pub const UNVERIFIED_TARGET: Interval = Interval::days(7);

/// Whether an objective is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Judgement {
    /// The last measurement meets it.
    Met,
    /// It does not.
    Missed,
    /// Nothing was measured yet.
    Unknown,
}

/// What a VM's last drill has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastDrill {
    /// It passed, and took so long.
    Took(Duration),
    /// It never got there.
    Failed,
    /// It passed, and what it took was not measured: there was nobody to ask.
    Unmeasured,
}

/// What a recovery of a VM may take.
pub fn rto_target(policy: Option<&Policy>) -> Interval {
    policy.and_then(|p| p.rto).unwrap_or(RTO_TARGET)
}

/// Whether a recovery that took so long was in time.
pub fn in_time(target: Interval, took: Duration) -> bool {
    took <= target.duration()
}

/// Whether a VM's recovery takes at most `target`, by its last drill; a failed one takes for ever.
pub fn judge_rto(target: Interval, last: Option<LastDrill>) -> Judgement {
    match last {
        Some(LastDrill::Took(took)) if in_time(target, took) => Judgement::Met,
        Some(LastDrill::Took(_) | LastDrill::Failed) => Judgement::Missed,
        Some(LastDrill::Unmeasured) | None => Judgement::Unknown,
    }
}

/// Whether the newest restorable point is at most `rpo` old. Without one it is unknown until the policy
/// has been on for that long.
pub fn judge_rpo(
    rpo: Interval,
    newest: Option<WallTime>,
    enabled_since: WallTime,
    now: WallTime,
) -> Judgement {
    match newest {
        Some(newest) if now.since(newest) <= rpo.duration() => Judgement::Met,
        Some(_) => Judgement::Missed,
        None if now.since(enabled_since) <= rpo.duration() => Judgement::Unknown,
        None => Judgement::Missed,
    }
}

/// How long a VM's backups may go without a proof.
pub fn verification_target(policy: &Policy) -> Interval {
    policy.verify_every.unwrap_or(UNVERIFIED_TARGET)
}

/// Since when a VM's backups are without a proof that they should have; none: they are not. The time
/// counts from the last proof, but not from before the policy was on; a verification that is begun in
/// its time may end a little later.
pub fn unverified_since(
    policy: &Policy,
    proved: Option<WallTime>,
    enabled_since: WallTime,
    now: WallTime,
) -> Option<WallTime> {
    let since = proved.map_or(enabled_since, |at| at.max(enabled_since));
    let allowed = verification_target(policy).duration() + GRACE;
    (now.since(since) > allowed).then_some(since)
}

/// Whether the share of drills that passed is at least [`SUCCESS_TARGET_PER_MILLE`]; `None`: there
/// were none.
pub fn meets_success_target(total: usize, passed: usize) -> Option<bool> {
    let met = passed as u128 * 1000 >= total as u128 * u128::from(SUCCESS_TARGET_PER_MILLE);
    (total > 0).then_some(met)
}

/// Whether the policy wants a drill by now; `None`: it asks for none.
pub fn drill_is_due(policy: &Policy, last_passed: Option<WallTime>, now: WallTime) -> Option<bool> {
    let every = policy.drill_every?.duration();
    Some(last_passed.is_none_or(|at| now.since(at) >= every))
}

/// Whether the policy wants another proof by now. Without `verify_every` one is enough.
pub fn proof_is_due(policy: &Policy, proved: Option<WallTime>, now: WallTime) -> bool {
    match (proved, policy.verify_every) {
        (None, _) => true,
        (Some(at), Some(every)) => now.since(at) > every.duration() + GRACE,
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> WallTime {
        WallTime::from_unix_ms(hours * 3_600_000)
    }

    #[test]
    fn what_was_not_measured_is_never_met() {
        let target = Interval::minutes(15);
        let minutes = |n: u64| Some(LastDrill::Took(Duration::from_secs(n * 60)));
        assert_eq!(judge_rto(target, None), Judgement::Unknown);
        assert_eq!(judge_rto(target, Some(LastDrill::Unmeasured)), Judgement::Unknown);
        assert_eq!(judge_rto(target, minutes(15)), Judgement::Met);
        assert_eq!(judge_rto(target, minutes(16)), Judgement::Missed);
        assert_eq!(judge_rto(target, Some(LastDrill::Failed)), Judgement::Missed);
    }

    #[test]
    fn the_age_of_the_newest_point_is_held_against_the_rpo() {
        let judge = |newest, now| judge_rpo(Interval::hours(24), newest, at(100), at(now));
        assert_eq!(judge(Some(at(110)), 134), Judgement::Met);
        assert_eq!(judge(Some(at(110)), 135), Judgement::Missed);
        // No point: not asked for long enough to say, then missed for certain.
        assert_eq!(judge(None, 124), Judgement::Unknown);
        assert_eq!(judge(None, 125), Judgement::Missed);
        // A point of a clock that was ahead is new.
        assert_eq!(judge(Some(at(500)), 200), Judgement::Met);
    }

    #[test]
    fn a_policys_own_objectives_take_the_place_of_the_guides() {
        let plain = Policy::default();
        let own = Policy {
            rto: Some(Interval::hours(2)),
            verify_every: Some(Interval::days(30)),
            drill_every: Some(Interval::days(90)),
            ..Policy::default()
        };
        assert_eq!(rto_target(None), Interval::minutes(15));
        assert_eq!(rto_target(Some(&plain)), Interval::minutes(15));
        assert_eq!(rto_target(Some(&own)), Interval::hours(2));
        let unverified = |p, proved: Option<i64>, days: i64| {
            unverified_since(p, proved.map(at), at(0), at(days * 24))
        };
        assert_eq!(unverified(&plain, None, 7), None);
        assert_eq!(unverified(&plain, None, 8), Some(at(0)));
        assert_eq!(unverified(&plain, Some(24), 8), None);
        assert_eq!(unverified(&own, None, 30), None);
        assert_eq!(unverified(&own, Some(24), 32), Some(at(24)));
        // Nobody could have verified anything before the policy was on.
        assert_eq!(unverified_since(&plain, Some(at(1)), at(900), at(1000)), None);
        assert_eq!(drill_is_due(&plain, None, at(0)), None);
        assert_eq!(drill_is_due(&own, None, at(0)), Some(true));
        assert_eq!(drill_is_due(&own, Some(at(0)), at(90 * 24 - 1)), Some(false));
        assert_eq!(drill_is_due(&own, Some(at(0)), at(90 * 24)), Some(true));
        assert!(proof_is_due(&plain, None, at(0)));
        assert!(!proof_is_due(&plain, Some(at(0)), at(9999)));
        assert!(!proof_is_due(&own, Some(at(0)), at(30 * 24 + 2)));
        assert!(proof_is_due(&own, Some(at(0)), at(30 * 24 + 3)));
    }

    #[test]
    fn the_share_that_passed_is_exact() {
        assert_eq!(meets_success_target(0, 0), None);
        assert_eq!(meets_success_target(1000, 999), Some(true));
        assert_eq!(meets_success_target(999, 998), Some(false));
    }
}
