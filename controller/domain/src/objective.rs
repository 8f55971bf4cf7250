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

/// Whether a VM's backups are without a proof for longer than they should be. `unproved_since` is when the
/// first of them was taken that came after the last proof, if any has; but the time does not count from
/// before the policy was on. A verification that is begun in its time may end a little later.
pub fn is_unverified(
    policy: &Policy,
    unproved_since: Option<WallTime>,
    enabled_since: WallTime,
    now: WallTime,
) -> bool {
    let allowed = verification_target(policy).duration() + GRACE;
    unproved_since.is_some_and(|at| now.since(at.max(enabled_since)) > allowed)
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
pub fn proof_is_due(
    policy: &Policy,
    proved: Option<WallTime>,
    unproved_since: Option<WallTime>,
    now: WallTime,
) -> bool {
    let Some(proved) = proved else { return true };
    let Some(every) = policy.verify_every else { return false };
    unproved_since.is_some_and(|at| now.since(at.max(proved)) > every.duration() + GRACE)
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
        let unverified = |p, since: Option<i64>, days: i64| {
            is_unverified(p, since.map(at), at(0), at(days * 24))
        };
        assert!(!unverified(&plain, Some(0), 7));
        assert!(unverified(&plain, Some(0), 8));
        assert!(!unverified(&plain, None, 900), "all that came is proved");
        assert!(!unverified(&own, Some(0), 30));
        assert!(unverified(&own, Some(24), 32));
        // Nobody could have verified anything before the policy was on.
        assert!(!is_unverified(&plain, Some(at(1)), at(900), at(1000)));
        assert_eq!(drill_is_due(&plain, None, at(0)), None);
        assert_eq!(drill_is_due(&own, None, at(0)), Some(true));
        assert_eq!(drill_is_due(&own, Some(at(0)), at(90 * 24 - 1)), Some(false));
        assert_eq!(drill_is_due(&own, Some(at(0)), at(90 * 24)), Some(true));
        let due = |p, proved: Option<i64>, since: Option<i64>, now| {
            proof_is_due(p, proved.map(at), since.map(at), at(now))
        };
        assert!(due(&plain, None, None, 0));
        assert!(!due(&plain, Some(0), Some(0), 9999));
        assert!(!due(&own, Some(0), Some(0), 30 * 24 + 2));
        assert!(due(&own, Some(0), Some(0), 30 * 24 + 3));
        assert!(!due(&own, Some(0), None, 9999), "there is nothing new to prove");
    }

    #[test]
    fn the_share_that_passed_is_exact() {
        assert_eq!(meets_success_target(0, 0), None);
        assert_eq!(meets_success_target(1000, 999), Some(true));
        assert_eq!(meets_success_target(999, 998), Some(false));
    }
}
