//! Each scheduled time of a policy's zone sees one backup begun: not none, and not two in the hour that
//! comes twice. In a calm world the backup also succeeds.
//!
//! Backups that a person asked for count as begun, since the schedule then has none to ask for; they
//! are no second one. Where a fault explains more or less, nothing is said: a clock that was set wrong,
//! a policy that was changed, a VM that is gone, a backup that was under way at the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_controller::store::{RunId, RunState};
use azdr_env::WallTime;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use super::Checker;
use crate::event::{Event, Policy};
use crate::record::View;

/// Spread over VMs, the scheduler's own pace, and a controller that is away for a while.
const SOON: Duration = Duration::from_secs(2 * 3600);
/// How far the controller's clock may be wrong.
const CLOCK: Duration = Duration::from_secs(3660);

/// See the module.
#[derive(Default)]
pub(super) struct ScheduleIsKept {
    vms: BTreeMap<String, Kept>,
    /// Jobs that people asked for.
    by_hand: BTreeSet<RunId>,
    /// When the clock was last seen wrong.
    wrong_until: Option<WallTime>,
    is_wrong: bool,
    calm: bool,
    /// When the next time of any VM is judged.
    next: Option<WallTime>,
}

/// One VM.
struct Kept {
    policy: Policy,
    zone: TimeZone,
    since: WallTime,
    gone: bool,
    /// The time that is judged when the one after it comes.
    judged: WallTime,
    until: WallTime,
    backups: Vec<Backup>,
}

struct Backup {
    id: RunId,
    begun: WallTime,
    ended: Option<WallTime>,
    succeeded: bool,
}

/// The first scheduled time after `after`, by the civil calendar: a time that does not exist on a day is
/// the first that does, one that comes twice is the first of the two.
fn next_time(policy: &Policy, zone: &TimeZone, after: WallTime) -> Option<WallTime> {
    let (hour, minute) = policy.time.split_once(':')?;
    let time = Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()?;
    let today = after.timestamp().to_zoned(zone.clone()).date();
    (-1..4).find_map(|n| {
        let day: Date = today.checked_add(jiff::Span::new().days(n)).ok()?;
        let at = first_instant(day, time, zone)?;
        (at > after).then_some(at)
    })
}

fn first_instant(day: Date, time: Time, zone: &TimeZone) -> Option<WallTime> {
    let civil = day.to_datetime(time);
    let found = zone.to_ambiguous_timestamp(civil);
    let at = match found.offset() {
        jiff::tz::AmbiguousOffset::Gap { .. } => {
            // Where the clocks jump: the first instant with a later civil time.
            let before = found.earlier().ok()?;
            let next =
                zone.following(before.checked_sub(jiff::Span::new().hours(3)).ok()?).next()?;
            next.timestamp()
        }
        _ => found.earlier().ok()?,
    };
    Some(WallTime::from(at))
}

impl ScheduleIsKept {
    fn promise(&mut self, policy: &Policy, now: WallTime) -> Result<(), String> {
        let zone = TimeZone::get(&policy.zone).map_err(|e| e.to_string())?;
        let kept = self.vms.entry(policy.vm.clone()).or_insert_with(|| Kept {
            policy: policy.clone(),
            zone: zone.clone(),
            since: now,
            gone: false,
            judged: now,
            until: now,
            backups: Vec::new(),
        });
        kept.policy = policy.clone();
        kept.zone = zone;
        kept.since = now;
        kept.start(now);
        self.next = None;
        Ok(())
    }

    fn was_wrong_since(&self, from: WallTime) -> bool {
        self.is_wrong || self.wrong_until.is_some_and(|until| until >= from)
    }

    fn judge(&mut self, now: WallTime) -> Result<(), String> {
        if self.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let mut result = Ok(());
        let (calm, by_hand) = (self.calm, &self.by_hand);
        let wrong_since = |from: WallTime| self.was_wrong_since(from);
        let mut found = Vec::new();
        for (vm, kept) in &self.vms {
            if now >= kept.until && kept.judged > kept.since && kept.is_expected() {
                let from = kept.judged.minus(CLOCK);
                if !wrong_since(from)
                    && let Err(what) = kept.judge(by_hand, calm)
                {
                    found.push(format!("{vm}: {what}"));
                }
            }
        }
        for kept in self.vms.values_mut().filter(|k| now >= k.until) {
            kept.go_on(now);
        }
        self.next = self.vms.values().map(|k| k.until).min();
        if !found.is_empty() {
            result = Err(found.join("; "));
        }
        result
    }
}

impl Kept {
    /// Nothing of the policy is judged before its first time.
    fn start(&mut self, now: WallTime) {
        self.judged = now;
        self.until = next_time(&self.policy, &self.zone, now).unwrap_or(now.plus(SOON));
    }

    fn go_on(&mut self, now: WallTime) {
        // Judged a little late: backups are begun after their time, never before it.
        self.judged = self.until;
        self.until = next_time(&self.policy, &self.zone, self.judged).unwrap_or(now.plus(SOON));
        let from = self.judged.minus(CLOCK);
        self.backups.retain(|b| b.begun >= from || b.ended.is_none_or(|ended| ended >= from));
    }

    fn is_expected(&self) -> bool {
        self.policy.enabled && !self.gone && self.policy.counts[0] > 0
    }

    fn judge(&self, by_hand: &BTreeSet<RunId>, calm: bool) -> Result<(), String> {
        let (from, to) = (self.judged, self.until);
        let begun: Vec<&Backup> =
            self.backups.iter().filter(|b| b.begun >= from && b.begun < to).collect();
        let scheduled: Vec<_> = begun.iter().filter(|b| !by_hand.contains(&b.id)).collect();
        let zone = &self.policy.zone;
        let time = &self.policy.time;
        if let [first, second, ..] = scheduled[..] {
            return Err(format!(
                "jobs {} and {} were both begun for {from} ({time} {zone})",
                first.id, second.id
            ));
        }
        let soon = from.plus(SOON);
        // One that was under way kept the next from being begun.
        let under_way = self
            .backups
            .iter()
            .any(|b| b.begun < soon && b.ended.is_none_or(|ended| ended >= from));
        let first = begun.iter().map(|b| b.begun).min();
        match first {
            None if !under_way => {
                return Err(format!("no backup was begun for {from} ({time} {zone})"));
            }
            Some(at) if at > soon && !under_way => {
                return Err(format!("the backup for {from} ({time} {zone}) was begun at {at}"));
            }
            _ => {}
        }
        if calm && !begun.iter().any(|b| b.succeeded) {
            return Err(format!("no backup for {from} ({time} {zone}) has succeeded"));
        }
        Ok(())
    }
}

impl Checker for ScheduleIsKept {
    fn invariant(&self) -> &'static str {
        "schedule"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        let now = view.now;
        let result = self.judge(now);
        match event {
            Event::LifeBegins(1) => self.calm = true,
            Event::PolicyPromised(policy) => self.promise(policy, now)?,
            Event::JobPromised(id) => {
                self.by_hand.insert(*id);
            }
            Event::Disturbance(_) => self.calm = false,
            Event::ClockSet(ms) => {
                self.is_wrong = *ms != 0;
                self.wrong_until = Some(now.plus(CLOCK));
            }
            Event::TakenAway(key) => {
                if let Some(kept) = self.vms.get_mut(key) {
                    kept.gone = true;
                }
            }
            Event::Run { id, workflow, input, state, .. } if workflow == "backup" => {
                let vm = input["vm"].as_str().unwrap_or_default().to_lowercase();
                if let Some(kept) = self.vms.get_mut(&vm) {
                    let known = kept.backups.iter_mut().find(|b| b.id == *id);
                    let ended = state.is_terminal().then_some(now);
                    let succeeded = *state == RunState::Succeeded;
                    match known {
                        Some(b) => (b.ended, b.succeeded) = (ended, succeeded),
                        None => {
                            kept.backups.push(Backup { id: *id, begun: now, ended, succeeded });
                        }
                    }
                }
            }
            _ => {}
        }
        result
    }
}
