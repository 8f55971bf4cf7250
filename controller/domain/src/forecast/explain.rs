//! Why points are kept and until when, and what a change of the policy does to that.

use std::collections::BTreeMap;
use std::fmt;

use azdr_env::WallTime;

use super::{Forecast, Start};
use crate::recovery_point::PointName;
use crate::region::Region;
use crate::retention::{self, DeleteReason, HoldKind, KeepReason, LineageNeed, PointFacts};
use crate::tier::TierSet;

/// How far ahead is looked. What is kept longer is said to be so.
const HORIZON_YEARS: i64 = 30;

/// After so many runs no copy of today is under way, and the base of the next copy is a later point.
const SETTLED: u32 = 3;

/// How often, in runs, it is asked whether what still keeps a point will ever end.
const ASK_EVERY: u32 = 16;

/// When a point goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// After the backup of this time, the first after which nothing would keep it.
    Deleted {
        /// When that run starts.
        at: WallTime,
        /// Why nothing keeps it then.
        reason: DeleteReason,
    },
    /// Still kept at the end of what was computed.
    Later(WallTime),
    /// The present schedule never ends this reason.
    NotOnSchedule(KeepReason),
    /// Somebody wants it without end.
    ForEver(KeepReason),
}

impl Fate {
    /// The later the greater.
    fn rank(&self) -> (u8, Option<WallTime>) {
        match self {
            Self::Deleted { at, .. } => (0, Some(*at)),
            Self::Later(_) => (1, None),
            Self::NotOnSchedule(_) => (2, None),
            Self::ForEver(_) => (3, None),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted { at, reason } => write!(f, "until the backup of {at}: {reason}"),
            Self::Later(than) => write!(f, "beyond {than}"),
            Self::NotOnSchedule(reason) => write!(f, "not on the present schedule: {reason}"),
            Self::ForEver(reason) => write!(f, "for ever: {reason}"),
        }
    }
}

/// Why a point is kept in one region, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Where.
    pub region: Region,
    /// Everything that keeps it now; empty when it goes with the next pruning.
    pub reasons: Vec<KeepReason>,
    /// When it goes.
    pub fate: Fate,
}

/// Explains one point, in every region where it is.
pub fn explain(start: &Start<'_>, point: &PointName) -> Vec<Explanation> {
    let forecast = Forecast::new(start, &[]);
    let mut fates = fates(start, |p| p.name == *point);
    let mut explained = vec![];
    for (region, reasons) in forecast.reasons_now(point) {
        if let Some(fate) = fates.remove(&(point.clone(), region.clone())) {
            explained.push(Explanation { region, reasons, fate });
        }
    }
    explained
}

/// What a change of the policy does to a point in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The point.
    pub point: PointName,
    /// Where.
    pub region: Region,
    /// When it was taken.
    pub created: WallTime,
    /// Its tiers.
    pub tiers: TierSet,
    /// Deleted by the first pruning under the new policy, since that does not want it as things are.
    pub at_once: Option<DeleteReason>,
    /// The present policy does not want it either.
    pub at_once_anyway: bool,
    /// When it goes under the present policy.
    pub before: Fate,
    /// When it goes under the new one.
    pub after: Fate,
}

impl Change {
    /// Kept longer under the new policy.
    pub fn is_longer(&self) -> bool {
        self.after.rank() > self.before.rank()
    }
}

/// What changes for the points that exist when `after` takes the place of `before`, newest first;
/// points with the same fate under both are left out unless they go at once.
pub fn diff(before: &Start<'_>, after: &Start<'_>) -> Vec<Change> {
    let (now_before, now_after) =
        (Forecast::new(before, &[]).doomed(), Forecast::new(after, &[]).doomed());
    let (mut fates_before, mut fates_after) = (fates(before, |_| true), fates(after, |_| true));
    let mut changes = vec![];
    for p in retention::by_region(after.points).into_values().flatten() {
        let key = (p.name.clone(), p.region.clone());
        let (Some(before), Some(after)) = (fates_before.remove(&key), fates_after.remove(&key))
        else {
            continue;
        };
        let same = |d: &&retention::Delete| d.point == p.name && d.region == p.region;
        let at_once = now_after.iter().find(same).map(|d| d.reason.clone());
        if at_once.is_some() || before.rank() != after.rank() {
            changes.push(Change {
                point: p.name.clone(),
                region: p.region.clone(),
                created: p.created,
                tiers: p.tiers,
                at_once,
                at_once_anyway: now_before.iter().any(|d| same(&d)),
                before,
                after,
            });
        }
    }
    changes
}

/// A point that the first pruning under a new policy deletes in a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtOnce {
    /// The point.
    pub point: PointName,
    /// Where.
    pub region: Region,
    /// When it was taken.
    pub created: WallTime,
    /// Its tiers.
    pub tiers: TierSet,
    /// Why.
    pub reason: DeleteReason,
    /// The present policy does not want it either.
    pub anyway: bool,
}

/// What goes at once when `after` takes the place of `before`, newest first: [`diff`] without the later
/// fates, which take long to compute.
pub fn at_once(before: &Start<'_>, after: &Start<'_>) -> Vec<AtOnce> {
    let doomed_before = Forecast::new(before, &[]).doomed();
    let doomed = Forecast::new(after, &[]).doomed();
    let points = retention::by_region(after.points).into_values().flatten();
    points
        .filter_map(|p| {
            let same = |d: &&retention::Delete| d.point == p.name && d.region == p.region;
            Some(AtOnce {
                reason: doomed.iter().find(same)?.reason.clone(),
                anyway: doomed_before.iter().any(|d| same(&d)),
                point: p.name.clone(),
                region: p.region.clone(),
                created: p.created,
                tiers: p.tiers,
            })
        })
        .collect()
}

type Key = (PointName, Region);

/// When each of these points goes, in each region.
fn fates(start: &Start<'_>, of: impl Fn(&PointFacts) -> bool) -> BTreeMap<Key, Fate> {
    let horizon = start.now.timestamp().to_zoned(jiff::tz::TimeZone::UTC);
    let horizon = horizon.saturating_add(jiff::Span::new().years(HORIZON_YEARS)).timestamp().into();
    let mut forecast = Forecast::new(start, &[]);
    let mut open: Vec<Key> =
        start.points.iter().filter(|p| of(p)).map(|p| (p.name.clone(), p.region.clone())).collect();
    let mut fates = BTreeMap::new();
    while !open.is_empty() {
        let Some(step) = forecast.step(horizon) else { break };
        for deleted in step.deleted {
            let key = (deleted.point, deleted.region);
            if let Some(n) = open.iter().position(|k| *k == key) {
                let fate = Fate::Deleted { at: step.at, reason: deleted.reason };
                fates.insert(open.swap_remove(n), fate);
            }
        }
        if forecast.steps % ASK_EVERY == SETTLED {
            forecast.find_endless(&mut open, &mut fates);
        }
    }
    forecast.find_endless(&mut open, &mut fates);
    for key in open {
        fates.insert(key, Fate::Later(horizon));
    }
    fates
}

impl Forecast<'_> {
    /// What keeps a point now, by region.
    fn reasons_now(&self, point: &PointName) -> Vec<(Region, Vec<KeepReason>)> {
        let mut found = vec![];
        for (region, points) in retention::by_region(&self.points) {
            self.judge(&points, |p, reasons| {
                if p.name == *point {
                    found.push((region.clone(), reasons));
                }
            });
        }
        // Originals stay while a copy does.
        let home = self.start.home;
        let kept_copy = found.iter().find(|(r, reasons)| r != home && !reasons.is_empty());
        let kept_copy = kept_copy.map(|(r, _)| KeepReason::CopyKept(r.clone()));
        let originals = found.iter_mut().find(|(r, _)| r == home);
        if let (Some(kept_copy), Some((_, reasons))) = (kept_copy, originals) {
            reasons.push(kept_copy);
        }
        found
    }

    /// Moves points that something keeps without end from `open` to `fates`.
    fn find_endless(&self, open: &mut Vec<Key>, fates: &mut BTreeMap<Key, Fate>) {
        let mut kept: BTreeMap<(&PointName, &Region), Vec<KeepReason>> = BTreeMap::new();
        let mut future = vec![];
        for (region, points) in retention::by_region(&self.points) {
            self.judge(&points, |p, reasons| {
                if reasons.contains(&KeepReason::FutureDated) {
                    future.push(region);
                }
                if open.iter().any(|(name, r)| *name == p.name && r == region) {
                    kept.insert((&p.name, region), reasons);
                }
            });
        }
        // Copies first: originals depend on them.
        open.sort_by_key(|(_, region)| region == self.start.home);
        open.retain(|key| {
            let reasons = kept.get(&(&key.0, &key.1)).map(Vec::as_slice).unwrap_or_default();
            let moves = future.contains(&&key.1);
            // The first one said of those that last longest.
            let fate = reasons
                .iter()
                .rev()
                .filter_map(|reason| self.endless(reason, &key.1, moves))
                .max_by_key(Fate::rank)
                .or_else(|| self.endless_copy(key, fates));
            match fate {
                Some(fate) => {
                    fates.insert(key.clone(), fate);
                    false
                }
                None => true,
            }
        });
    }

    /// `moves`: a point of the region becomes the newest by the passing of time.
    fn endless(&self, reason: &KeepReason, region: &Region, moves: bool) -> Option<Fate> {
        let grows = self.grows(region) || moves;
        match reason {
            KeepReason::Held { kind: HoldKind::Pin | HoldKind::Lock, until: None, .. } => {
                Some(Fate::ForEver(reason.clone()))
            }
            KeepReason::NoTier
            | KeepReason::NewestProved(_)
            | KeepReason::NoPolicy
            | KeepReason::PolicyOff => Some(Fate::NotOnSchedule(reason.clone())),
            KeepReason::Lineage(LineageNeed::DeltaBase) if self.steps >= SETTLED => {
                Some(Fate::NotOnSchedule(reason.clone()))
            }
            KeepReason::Slot { .. }
            | KeepReason::NewestRestorable
            | KeepReason::NothingRestorable
                if !grows =>
            {
                Some(Fate::NotOnSchedule(reason.clone()))
            }
            _ => None,
        }
    }

    fn endless_copy(&self, (name, region): &Key, fates: &BTreeMap<Key, Fate>) -> Option<Fate> {
        if region != self.start.home {
            return None;
        }
        let copies = fates.iter().filter(|((n, r), _)| n == name && r != region);
        let (copy, fate) = copies.max_by_key(|(_, fate)| fate.rank())?;
        let reason = KeepReason::CopyKept(copy.1.clone());
        match fate {
            Fate::ForEver(_) => Some(Fate::ForEver(reason)),
            Fate::NotOnSchedule(_) => Some(Fate::NotOnSchedule(reason)),
            Fate::Deleted { .. } | Fate::Later(_) => None,
        }
    }
}
