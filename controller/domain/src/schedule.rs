//! When a backup is due, and which tiers it carries.
//!
//! All functions are pure: (policy, history, now) in, answer out. Days, weeks (from Sunday), months
//! and years are those of the policy's time zone. A local time that does not exist on a day is the
//! next valid instant; one that occurs twice is the first of the two; a day that a zone skipped
//! altogether has no run.
//!
//! Two decisions that are easy to miss:
//!
//! - A tier is wanted while no successful point *carrying it* lies in its current period, so a missed
//!   Sunday or 1st is made up by the next successful run, and a run forced to `daily` on the 1st does
//!   not cost the month its monthly point.
//! - Where no daily points are retained, most days want nothing, and nothing is due on them. A manual
//!   run on such a day carries the lowest tier that is retained.

use std::time::Duration;

use azdr_env::WallTime;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::arm_id::ArmId;
use crate::period::Period;
use crate::policy::{Policy, Schedule};
use crate::tier::{Tier, TierSet};

/// A run that starts this much after its time (jitter excluded) is recorded as late.
pub const LATE_AFTER: Duration = Duration::from_secs(15 * 60);

/// How many days ahead or back an occurrence is looked for: more than any zone ever skipped.
const SEARCH_DAYS: i64 = 4;

/// How many occurrences [`next_run`] looks ahead: more than a year's, so that every period passes.
const SEARCH_OCCURRENCES: usize = 750;

/// A run that should start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The time it was scheduled for, without jitter. Missed runs before it are not made up.
    pub scheduled_for: WallTime,
    /// More than [`LATE_AFTER`] behind its time: it was missed and is caught up.
    pub late: bool,
}

/// What the schedule has to know of a VM's past.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Since when the policy is on: nothing before it was missed.
    pub enabled_since: WallTime,
    /// The newest start, not after now, of a backup run, whoever asked for it and however it ended.
    pub last_run: Option<WallTime>,
    /// Successful recovery points, in any order; those of the current and the last year suffice.
    pub successes: &'a [(WallTime, TierSet)],
}

/// A tier that was asked for although the policy keeps none of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy retains no {tier} recovery points: set {tier}_retention above 0 first")]
pub struct TierNotRetained {
    /// The tier.
    pub tier: Tier,
}

/// The first scheduled time after `after`, whether or not a tier wants a point then.
///
/// Saturates at the end of the calendar.
pub fn next_due(policy: &Policy, after: WallTime) -> WallTime {
    let zone = policy.schedule.time_zone.zone();
    occurrences_around(&policy.schedule, &zone, after)
        .into_iter()
        .find(|t| *t > after)
        .unwrap_or(WallTime::from(Timestamp::MAX))
}

/// The last scheduled time at or before `at`, if the calendar has one.
pub fn previous_due(policy: &Policy, at: WallTime) -> Option<WallTime> {
    let zone = policy.schedule.time_zone.zone();
    occurrences_around(&policy.schedule, &zone, at).into_iter().rev().find(|t| *t <= at)
}

/// The next scheduled time after `after` at which a tier wants a point, if nothing is taken until
/// then: what people are shown as the next run. `None` for a policy that is off.
pub fn next_run(
    policy: &Policy,
    successes: &[(WallTime, TierSet)],
    after: WallTime,
) -> Option<WallTime> {
    if !policy.enabled {
        return None;
    }
    std::iter::successors(Some(next_due(policy, after)), |t| Some(next_due(policy, *t)))
        .take(SEARCH_OCCURRENCES)
        .find(|t| !tiers_wanted(policy, successes, *t).is_empty())
}

/// A run that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upcoming {
    /// Its time, without jitter.
    pub at: WallTime,
    /// The tiers that its point will carry, if every run before it succeeds.
    pub tiers: TierSet,
}

/// The next runs after `after`, at most `count`, if each succeeds at its time. None for a policy that
/// is off.
pub fn upcoming(
    policy: &Policy,
    successes: &[(WallTime, TierSet)],
    after: WallTime,
    count: usize,
) -> Vec<Upcoming> {
    let mut successes = successes.to_vec();
    let mut runs: Vec<Upcoming> = vec![];
    let mut after = after;
    while runs.len() < count {
        let Some(at) = next_run(policy, &successes, after) else { break };
        let tiers = tiers_wanted(policy, &successes, at);
        retain_decisive(&mut successes, at);
        successes.push((at, tiers));
        runs.push(Upcoming { at, tiers });
        after = at;
    }
    runs
}

/// Forgets successes that no period from `at` on can need: of each tier the newest two up to `at`
/// suffice.
pub(crate) fn retain_decisive(successes: &mut Vec<(WallTime, TierSet)>, at: WallTime) {
    successes.sort_by_key(|(t, _)| std::cmp::Reverse(*t));
    let mut seen = [0u8; Tier::ALL.len()];
    successes.retain(|(t, tiers)| {
        let mut decisive = *t > at;
        for tier in tiers.iter().filter(|tier| *tier != Tier::Daily && *t <= at) {
            seen[tier as usize] += 1;
            decisive |= seen[tier as usize] <= 2;
        }
        decisive
    });
}

/// Whether a scheduled run should start now.
///
/// `jitter` delays each run of this VM ([`jitter`]); lateness is counted from there.
pub fn due(policy: &Policy, history: &History<'_>, jitter: Duration, now: WallTime) -> Option<Due> {
    if !policy.enabled {
        return None;
    }
    let scheduled_for = previous_due(policy, now.minus(jitter))?;
    let missed_before_the_policy = scheduled_for < history.enabled_since;
    let done = history.last_run.is_some_and(|run| run >= scheduled_for);
    if missed_before_the_policy
        || done
        || tiers_wanted(policy, history.successes, scheduled_for).is_empty()
    {
        return None;
    }
    let late = now.minus(jitter).since(scheduled_for) > LATE_AFTER;
    Some(Due { scheduled_for, late })
}

/// A delay below `max` that is always the same for the same VM, and spread evenly over VMs.
pub fn jitter(vm: &ArmId, max: Duration) -> Duration {
    let hash = u64::from_str_radix(&vm.hash_hex()[..16], 16).expect("a hash is hexadecimal");
    let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if max_ms == 0 { 0 } else { hash % max_ms })
}

/// The tiers that a point taken at `at` is wanted for; empty when daily points are not retained and
/// the current week, month and year have what they need.
pub fn tiers_wanted(policy: &Policy, successes: &[(WallTime, TierSet)], at: WallTime) -> TierSet {
    let zone = policy.schedule.time_zone.zone();
    let missing = |tier: &Tier| {
        let period = Period::of(*tier, at, &zone);
        let fills = |t: WallTime, tiers: TierSet| {
            tiers.contains(*tier) && Period::of(*tier, t, &zone) == period
        };
        // Each run is a daily one; a second on the same day just fills the slot again.
        *tier == Tier::Daily || !successes.iter().any(|(t, tiers)| fills(*t, *tiers))
    };
    policy.retention.tiers().iter().filter(missing).collect()
}

/// The tiers of a run that takes its point now; never empty for a valid policy.
///
/// A forced tier is carried alone.
///
/// # Errors
/// When the policy retains nothing of the forced tier: the point would be pruned at once.
pub fn tiers_for_run(
    policy: &Policy,
    successes: &[(WallTime, TierSet)],
    now: WallTime,
    forced: Option<Tier>,
) -> Result<TierSet, TierNotRetained> {
    let retained = policy.retention.tiers();
    if let Some(tier) = forced {
        return if retained.contains(tier) {
            Ok(TierSet::only(tier))
        } else {
            Err(TierNotRetained { tier })
        };
    }
    let wanted = tiers_wanted(policy, successes, now);
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    Ok(retained.iter().last().map_or(TierSet::EMPTY, TierSet::only))
}

/// The scheduled times of the days around `at`, in order.
fn occurrences_around(schedule: &Schedule, zone: &TimeZone, at: WallTime) -> Vec<WallTime> {
    let day = at.timestamp().to_zoned(zone.clone()).date();
    (-SEARCH_DAYS..=SEARCH_DAYS)
        .filter_map(|n| day.checked_add(jiff::Span::new().days(n)).ok())
        .filter_map(|day| occurrence(schedule, zone, day))
        .collect()
}

/// The instant of the scheduled time on one local day; `None` where the zone skipped the day, or
/// the calendar ends.
fn occurrence(schedule: &Schedule, zone: &TimeZone, day: Date) -> Option<WallTime> {
    let local = day.to_datetime(schedule.time.civil());
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let instant = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
            ambiguous.earlier().ok()?
        }
        AmbiguousOffset::Gap { .. } => {
            let day_exists = day.to_zoned(zone.clone()).ok()?.date() == day;
            if !day_exists {
                return None;
            }
            // Read with the offset after the gap, the time lies just before the jump.
            let before_the_jump = ambiguous.earlier().ok()?;
            zone.following(before_the_jump).next()?.timestamp()
        }
    };
    Some(WallTime::from(instant))
}

#[cfg(test)]
mod tests;
