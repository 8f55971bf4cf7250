//! Which recovery points are kept, which may be deleted, and why (invariants I1 and I2).
//!
//! Retention is a pure function: prune, `explain` and `simulate` all show what [`plan`] says. The
//! rules, applied to each region by itself:
//!
//! - **Slots.** A tier with count *n* keeps the newest *n* of its calendar periods (days, weeks from
//!   Sunday, months, years, in the policy's time zone) that have a *restorable* point carrying that
//!   tier, and every point of the tier in them. A period without a restorable point uses up no
//!   count, and its points stay as long as a counted older period does: a week of broken backups
//!   never pushes out the good ones. Several points of one day share its slot, so a manual point
//!   lives as long as its day.
//! - **Never by age.** Nothing becomes deletable by the passing of time: a VM that stopped being
//!   backed up stops being pruned. `now` only ends pins and finds points dated in the future, which
//!   are kept and not counted, since a clock was wrong.
//! - **Always** the newest restorable and the newest proved point; a region without any restorable
//!   point is left alone; so is a point that carries no tier.
//! - **Holds** keep a point in all regions. **Lineage** keeps what copies need.
//! - No policy, or one that is off: nothing is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use azdr_env::WallTime;
use jiff::tz::TimeZone;

use crate::period::{Calendar, Period};
use crate::policy::{Policy, Retention};
use crate::recovery_point::{PointName, ProofLevel};
use crate::region::Region;
use crate::tier::{Tier, TierSet};

/// What retention has to know of a recovery point, or of its replica, in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFacts {
    /// The point's name; its replicas bear the same.
    pub name: PointName,
    /// When the point was taken, also for a replica.
    pub created: WallTime,
    /// The tiers that it carries.
    pub tiers: TierSet,
    /// Complete in this region and not known to be broken: false while it is being copied, and after
    /// a failed verification.
    pub restorable: bool,
    /// The best proof that it has in this region.
    pub proved: ProofLevel,
    /// Where these snapshots lie.
    pub region: Region,
}

/// Who holds a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldKind {
    /// A run; ends with the run and never by time.
    Lease,
    /// A person.
    Pin,
    /// A management or legal lock.
    Lock,
}

/// A wish that a point be kept, in all regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The point.
    pub point: PointName,
    /// A run or a person, for the reason shown.
    pub owner: String,
    /// What kind of hold it is.
    pub kind: HoldKind,
    /// When a pin or lock lapses, if it does; without meaning for a lease.
    pub until: Option<WallTime>,
    /// Why a person wants it; empty for a lease.
    pub reason: String,
}

/// What copying needs a point's snapshots for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineageNeed {
    /// One of them is being copied from.
    CopySource,
    /// One of them is being copied to.
    CopyTarget,
    /// The last fully copied one of a disk: the next copy is a delta to it.
    DeltaBase,
}

/// A point that must not be deleted in a region, for the sake of copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageFact {
    /// The point.
    pub point: PointName,
    /// Where the snapshots lie that are needed.
    pub region: Region,
    /// What for.
    pub need: LineageNeed,
}

/// Why a point is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepReason {
    /// A tier wants it.
    Slot {
        /// The slot.
        period: Period,
        /// Its place among the tier's counted slots, the newest being 1; `None` when it has no
        /// restorable point and is not counted.
        rank: Option<u32>,
        /// How many the tier keeps.
        of: u32,
    },
    /// The newest restorable point of its region.
    NewestRestorable,
    /// The newest proved point of its region.
    NewestProved(ProofLevel),
    /// Somebody holds it.
    Held {
        /// How.
        kind: HoldKind,
        /// Who.
        owner: String,
        /// Until when, if it lapses; never for a lease.
        until: Option<WallTime>,
        /// Why; empty for a lease.
        reason: String,
    },
    /// Copies need it.
    Lineage(LineageNeed),
    /// These are the originals, and the copy in this region is kept. [`plan`] judges each region by
    /// itself and never says so; whoever carries it out deletes originals last.
    CopyKept(Region),
    /// It is dated after now.
    FutureDated,
    /// It carries no tier, so that nobody can say how long it is wanted.
    NoTier,
    /// No point of its region is known to be restorable.
    NothingRestorable,
    /// The VM has no policy.
    NoPolicy,
    /// The VM's policy is off.
    PolicyOff,
}

/// Why a point may be deleted: no hold, no copy, and each of its tiers has enough newer slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteReason {
    /// The point's tiers, highest first, with the count that the policy gives each.
    pub tiers: Vec<(Tier, u32)>,
}

/// A point that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// The point.
    pub point: PointName,
    /// Where.
    pub region: Region,
    /// Every reason, never empty.
    pub reasons: Vec<KeepReason>,
}

/// A point that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// The point.
    pub point: PointName,
    /// Where.
    pub region: Region,
    /// Why.
    pub reason: DeleteReason,
}

/// What becomes of each point, by region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// By region, newest first.
    pub keep: Vec<Keep>,
    /// By region, oldest first: the order in which to delete.
    pub delete: Vec<Delete>,
}

/// Decides what becomes of the points of one VM.
pub fn plan(
    policy: Option<&Policy>,
    points: &[PointFacts],
    holds: &[Hold],
    lineage: &[LineageFact],
    now: WallTime,
) -> RetentionPlan {
    let calendar = calendar(policy);
    let mut plan = RetentionPlan::default();
    for (region, points) in by_region(points) {
        let mut deletable = vec![];
        judge(policy, &points, holds, lineage, now, &calendar, |point, reasons| match policy {
            Some(policy) if reasons.is_empty() => deletable.push(Delete {
                point: point.name.clone(),
                region: region.clone(),
                reason: DeleteReason::new(point, &policy.retention),
            }),
            _ => {
                plan.keep.push(Keep { point: point.name.clone(), region: region.clone(), reasons })
            }
        });
        plan.delete.extend(deletable.into_iter().rev());
    }
    plan
}

/// The calendar in which the policy's slots are meant.
pub(crate) fn calendar(policy: Option<&Policy>) -> Calendar {
    Calendar::new(policy.map_or(TimeZone::UTC, |p| p.schedule.time_zone.zone()))
}

/// The points of each region, newest first.
pub(crate) fn by_region(points: &[PointFacts]) -> BTreeMap<&Region, Vec<&PointFacts>> {
    let mut regions: BTreeMap<&Region, Vec<&PointFacts>> = BTreeMap::new();
    for point in points {
        regions.entry(&point.region).or_default().push(point);
    }
    for points in regions.values_mut() {
        points.sort_by_key(|p| std::cmp::Reverse((p.created, &p.name)));
    }
    regions
}

/// Every reason to keep each point of one region, newest first as they are given; none: it may go.
pub(crate) fn judge<'a>(
    policy: Option<&Policy>,
    newest_first: &[&'a PointFacts],
    holds: &[Hold],
    lineage: &[LineageFact],
    now: WallTime,
    calendar: &Calendar,
    mut verdict: impl FnMut(&'a PointFacts, Vec<KeepReason>),
) {
    let judge = Judge::new(policy, newest_first, now, calendar);
    for point in newest_first {
        let mut reasons = judge.reasons(point);
        reasons.extend(holding(holds, point, now));
        reasons.extend(needed(lineage, point));
        verdict(point, reasons);
    }
}

/// Why nobody may delete this point in this region, not even on purpose: holds, copies, and that it
/// is the newest restorable or the newest proved one of the region (I1, I2). Empty when a person may.
pub fn protection(
    point: &PointName,
    region: &Region,
    points: &[PointFacts],
    holds: &[Hold],
    lineage: &[LineageFact],
    now: WallTime,
) -> Vec<KeepReason> {
    // What slots want is the policy's wish, which a person may overrule.
    let plan = plan(Some(&Policy::default()), points, holds, lineage, now);
    let kept = plan.keep.into_iter().find(|k| k.point == *point && k.region == *region);
    let binding = |reason: &KeepReason| {
        matches!(
            reason,
            KeepReason::Held { .. }
                | KeepReason::Lineage(_)
                | KeepReason::NewestRestorable
                | KeepReason::NewestProved(_)
        )
    };
    kept.into_iter().flat_map(|k| k.reasons).filter(binding).collect()
}

/// What the policy, and invariant I1, want of one region's points.
struct Judge<'a> {
    policy: Option<&'a Policy>,
    calendar: &'a Calendar,
    now: WallTime,
    newest_restorable: Option<&'a PointName>,
    newest_proved: Option<&'a PointName>,
    /// The slots that are kept, with their rank.
    slots: BTreeMap<Period, Option<u32>>,
}

impl<'a> Judge<'a> {
    /// `newest_first` are the points of one region.
    fn new(
        policy: Option<&'a Policy>,
        newest_first: &[&'a PointFacts],
        now: WallTime,
        calendar: &'a Calendar,
    ) -> Self {
        let dated: Vec<&PointFacts> =
            newest_first.iter().copied().filter(|p| p.created <= now).collect();
        let proved = |p: &&&PointFacts| p.proved > ProofLevel::Unproved;
        // A proof outlives a point's health: one that can still be restored goes first.
        let newest_proved = dated
            .iter()
            .filter(|p| p.restorable)
            .find(proved)
            .or_else(|| dated.iter().find(proved));
        let mut slots = BTreeMap::new();
        for tier in Tier::ALL {
            let count = policy.map_or(0, |p| p.retention.count(tier));
            slots.extend(kept_slots(tier, count, &dated, calendar));
        }
        Self {
            policy,
            now,
            newest_restorable: dated.iter().find(|p| p.restorable).map(|p| &p.name),
            newest_proved: newest_proved.map(|p| &p.name),
            slots,
            calendar,
        }
    }

    fn reasons(&self, point: &PointFacts) -> Vec<KeepReason> {
        let Some(policy) = self.policy else {
            return vec![KeepReason::NoPolicy];
        };
        let mut reasons = vec![];
        if !policy.enabled {
            reasons.push(KeepReason::PolicyOff);
        }
        if point.created > self.now {
            reasons.push(KeepReason::FutureDated);
        } else {
            reasons.extend(self.wanting_slots(point, &policy.retention));
        }
        if self.newest_restorable == Some(&point.name) {
            reasons.push(KeepReason::NewestRestorable);
        }
        if self.newest_proved == Some(&point.name) {
            reasons.push(KeepReason::NewestProved(point.proved));
        }
        if self.newest_restorable.is_none() {
            reasons.push(KeepReason::NothingRestorable);
        }
        if point.tiers.is_empty() {
            reasons.push(KeepReason::NoTier);
        }
        reasons
    }

    fn wanting_slots(&self, point: &PointFacts, retention: &Retention) -> Vec<KeepReason> {
        let slot = |tier| {
            let period = self.calendar.period(tier, point.created);
            let rank = *self.slots.get(&period)?;
            Some(KeepReason::Slot { period, rank, of: retention.count(tier) })
        };
        point.tiers.iter().filter_map(slot).collect()
    }
}

/// The slots of one tier that are kept, with their rank among the counted ones.
fn kept_slots(
    tier: Tier,
    count: u32,
    newest_first: &[&PointFacts],
    calendar: &Calendar,
) -> BTreeMap<Period, Option<u32>> {
    let mut periods: Vec<(Period, bool)> = vec![];
    for point in newest_first.iter().filter(|p| p.tiers.contains(tier)) {
        let period = calendar.period(tier, point.created);
        match periods.last_mut() {
            Some((last, restorable)) if *last == period => *restorable |= point.restorable,
            _ => periods.push((period, point.restorable)),
        }
    }
    let mut kept = BTreeMap::new();
    let mut counted = 0;
    for (period, restorable) in periods {
        if counted == count {
            break;
        }
        counted += u32::from(restorable);
        kept.insert(period, restorable.then_some(counted));
    }
    kept
}

fn holding(holds: &[Hold], point: &PointFacts, now: WallTime) -> Vec<KeepReason> {
    let lasts = |hold: &&Hold| {
        hold.point == point.name
            && (hold.kind == HoldKind::Lease || hold.until.is_none_or(|until| until > now))
    };
    let reason = |hold: &Hold| KeepReason::Held {
        kind: hold.kind,
        owner: hold.owner.clone(),
        until: hold.until.filter(|_| hold.kind != HoldKind::Lease),
        reason: hold.reason.clone(),
    };
    holds.iter().filter(lasts).map(reason).collect()
}

fn needed(lineage: &[LineageFact], point: &PointFacts) -> Vec<KeepReason> {
    lineage
        .iter()
        .filter(|fact| fact.point == point.name && fact.region == point.region)
        .map(|fact| KeepReason::Lineage(fact.need))
        .collect()
}

impl DeleteReason {
    pub(crate) fn new(point: &PointFacts, retention: &Retention) -> Self {
        Self { tiers: point.tiers.iter().map(|t| (t, retention.count(t))).collect() }
    }
}

impl RetentionPlan {
    /// Whether the plan would delete this point in this region.
    pub fn deletes(&self, point: &PointName, region: &Region) -> bool {
        self.delete.iter().any(|d| d.point == *point && d.region == *region)
    }

    /// The points that would be gone from every region.
    pub fn gone_everywhere(&self) -> BTreeSet<&PointName> {
        let kept: BTreeSet<&PointName> = self.keep.iter().map(|k| &k.point).collect();
        self.delete.iter().map(|d| &d.point).filter(|p| !kept.contains(p)).collect()
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot { period, rank: Some(rank), of } => {
                write!(f, "{} {period} ({rank} of {of})", period.tier)
            }
            Self::Slot { period, rank: None, .. } => {
                write!(f, "{} {period} (not restorable, not counted)", period.tier)
            }
            Self::NewestRestorable => f.write_str("newest restorable point of the region"),
            Self::NewestProved(level) => write!(f, "newest proved point of the region ({level})"),
            Self::Held { kind, owner, until, reason } => {
                let how = match kind {
                    HoldKind::Lease => return write!(f, "leased by {owner} until it ends"),
                    HoldKind::Pin => "pinned",
                    HoldKind::Lock => "locked",
                };
                write!(f, "{how} by {owner} ")?;
                match until {
                    Some(until) => write!(f, "until {until}")?,
                    None => f.write_str("for ever")?,
                }
                if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
            }
            Self::Lineage(LineageNeed::CopySource) => f.write_str("being copied"),
            Self::Lineage(LineageNeed::CopyTarget) => f.write_str("copy still arriving"),
            Self::Lineage(LineageNeed::DeltaBase) => f.write_str("base of the next copy"),
            Self::CopyKept(region) => write!(f, "its copy in {region} is kept"),
            Self::FutureDated => f.write_str("dated in the future"),
            Self::NoTier => f.write_str("carries no tier"),
            Self::NothingRestorable => f.write_str("no point of the region is restorable"),
            Self::NoPolicy => f.write_str("the VM has no policy"),
            Self::PolicyOff => f.write_str("the VM's policy is off"),
        }
    }
}

impl fmt::Display for DeleteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (tier, count)) in self.tiers.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            match count {
                0 => write!(f, "{separator}{tier} points are not retained")?,
                _ => write!(f, "{separator}beyond the newest {count} {tier} slots")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
