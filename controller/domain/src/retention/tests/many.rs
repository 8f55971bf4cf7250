//! A hundred thousand random catalogues against the rules read naively, with a calendar of its own and
//! nothing of the code that is tested; and invariants I1 and I2, stated once more by themselves.

use std::collections::BTreeSet;

use super::*;

const CATALOGUES: u64 = 100_000;
/// Most points lie in one region.
const REGIONS: [&str; 4] = ["eastus", "eastus", "eastus", "westus2"];
/// Zones without changes of the clocks, with the minutes that they add to UTC.
const ZONES: [(&str, i64); 4] =
    [("UTC", 0), ("Etc/GMT+11", -660), ("Etc/GMT-14", 840), ("Asia/Kolkata", 330)];
/// The last hour in which a point may be taken: more than three years.
const HOURS: i64 = 30_000;

/// SplitMix64: the same catalogues in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, many: &[T]) -> T {
        many[self.below(many.len() as u64) as usize].clone()
    }
}

/// From Monday, 2025-12-01, 12:00 UTC.
fn hour(n: i64) -> WallTime {
    const BASE: i64 = 1_764_590_400_000;
    WallTime::from_unix_ms(BASE + n * 3_600_000)
}

/// The number of the day, week, month or year of a time, whose zone adds `offset` minutes to UTC.
fn slot(tier: Tier, at: WallTime, offset: i64) -> i64 {
    let day = (at.unix_ms() + offset * 60_000).div_euclid(DAY_MS);
    match tier {
        Tier::Daily => day,
        // 1970-01-01 was a Thursday: its week began four days earlier.
        Tier::Weekly => (day + 4).div_euclid(7),
        Tier::Monthly | Tier::Yearly => {
            let (mut year, mut left) = (1970, day);
            let length =
                |y: i64| if y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) { 366 } else { 365 };
            while left >= length(year) {
                left -= length(year);
                year += 1;
            }
            if tier == Tier::Yearly {
                return year;
            }
            let february = length(year) - 337;
            let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let mut month = 0;
            while left >= months[month] {
                left -= months[month];
                month += 1;
            }
            year * 12 + month as i64
        }
    }
}

struct Catalogue {
    policy: Option<Policy>,
    offset: i64,
    points: Vec<PointFacts>,
    holds: Vec<Hold>,
    lineage: Vec<LineageFact>,
    now: WallTime,
}

/// Some with several points of one day, some of many years.
fn catalogue(dice: &mut Dice, policies: &[(Policy, i64)]) -> Catalogue {
    let (mut policy, offset) = dice.of(policies);
    policy.enabled = !dice.one_in(50);
    policy.retention = Retention {
        daily: dice.below(4) as u32,
        weekly: dice.below(3) as u32,
        monthly: dice.below(3) as u32,
        yearly: dice.below(2) as u32,
    };
    let scale = dice.of(&[7, 29, 400, 2500]);
    let mut points: Vec<PointFacts> = vec![];
    for _ in 0..dice.below(13) {
        let created = hour((dice.below(12) as i64 * scale).min(HOURS));
        let tiers: TierSet = Tier::ALL.into_iter().filter(|_| dice.one_in(2)).collect();
        let tier = tiers.highest().unwrap_or(Tier::Daily);
        let name = PointName::choose("v", tier, created, |_| false);
        let region = region(dice.of(&REGIONS));
        let restorable = !dice.one_in(4);
        let proofs = [ProofLevel::Unproved, ProofLevel::Restorable, ProofLevel::Booted];
        let proved = if dice.one_in(3) { dice.of(&proofs) } else { ProofLevel::Unproved };
        if !points.iter().any(|p| p.name == name && p.region == region) {
            points.push(PointFacts { name, created, tiers, restorable, proved, region });
        }
    }
    let after_all = if dice.one_in(3) { 0 } else { HOURS };
    let now = hour(dice.below(12) as i64 * scale + after_all);
    let (mut holds, mut lineage) = (vec![], vec![]);
    for p in &points {
        if dice.one_in(8) {
            let kind = dice.of(&[HoldKind::Lease, HoldKind::Pin, HoldKind::Lock]);
            // Until just before, at, or just after now, or for ever.
            let until = match dice.below(4) {
                0 => None,
                n => Some(WallTime::from_unix_ms(now.unix_ms() + n as i64 - 2)),
            };
            let (owner, reason) = ("alice".to_owned(), String::new());
            holds.push(Hold { point: p.name.clone(), owner, kind, until, reason });
        }
        if dice.one_in(10) {
            let needs = [LineageNeed::CopySource, LineageNeed::CopyTarget, LineageNeed::DeltaBase];
            let (point, region) = (p.name.clone(), region(dice.of(&REGIONS)));
            lineage.push(LineageFact { point, region, need: dice.of(&needs) });
        }
    }
    let policy = (!dice.one_in(50)).then_some(policy);
    Catalogue { policy, offset, points, holds, lineage, now }
}

impl Catalogue {
    fn held(&self, p: &PointFacts) -> bool {
        let holds = |h: &Hold| match (h.kind, h.until) {
            (HoldKind::Lease, _) | (_, None) => true,
            (_, Some(until)) => until > self.now,
        };
        self.holds.iter().any(|h| h.point == p.name && holds(h))
    }

    fn needed(&self, p: &PointFacts) -> bool {
        self.lineage.iter().any(|l| l.point == p.name && l.region == p.region)
    }

    /// The newest of the region's points of the past that are so.
    fn newest(&self, p: &PointFacts, so: impl Fn(&PointFacts) -> bool) -> Option<&PointFacts> {
        let here = self.points.iter().filter(|q| q.region == p.region && q.created <= self.now);
        here.filter(|q| so(q)).max_by_key(|q| (q.created, q.name.clone()))
    }

    /// What invariant I1 protects of itself, whatever a policy says.
    fn is_floor(&self, p: &PointFacts) -> bool {
        let proved = |q: &PointFacts| q.proved != ProofLevel::Unproved;
        let newest_proved =
            self.newest(p, |q| proved(q) && q.restorable).or_else(|| self.newest(p, proved));
        newest_proved == Some(p) || self.newest(p, |q| q.restorable) == Some(p)
    }

    /// The slots that the tier counts in the point's region.
    fn counted(&self, tier: Tier, p: &PointFacts) -> BTreeSet<i64> {
        let here = self.points.iter().filter(|q| {
            q.region == p.region && q.created <= self.now && q.restorable && q.tiers.contains(tier)
        });
        here.map(|q| slot(tier, q.created, self.offset)).collect()
    }

    fn is_kept(&self, p: &PointFacts) -> bool {
        let Some(policy) = self.policy.as_ref().filter(|policy| policy.enabled) else {
            return true;
        };
        let wanted = |tier: Tier| {
            let own = slot(tier, p.created, self.offset);
            let newer = self.counted(tier, p).into_iter().filter(|slot| *slot > own).count();
            p.tiers.contains(tier) && newer < policy.retention.count(tier) as usize
        };
        self.held(p)
            || self.needed(p)
            || self.is_floor(p)
            || p.created > self.now
            || p.tiers.is_empty()
            || self.newest(p, |q| q.restorable).is_none()
            || Tier::ALL.into_iter().any(wanted)
    }

    fn plan(&self, points: &[PointFacts], now: WallTime) -> RetentionPlan {
        plan(self.policy.as_ref(), points, &self.holds, &self.lineage, now)
    }
}

#[test]
fn a_hundred_thousand_catalogues_are_judged_as_the_rules_read() {
    let policies = ZONES.map(|(zone, offset)| {
        let change = PolicyChange { time_zone: Some(zone.to_owned()), ..Default::default() };
        (Policy::default().apply(&change, &region("nowhere")).unwrap(), offset)
    });
    let (mut deleted, mut kept, mut floors) = (0u64, 0u64, 0u64);
    for seed in 0..CATALOGUES {
        let c = catalogue(&mut Dice(seed), &policies);
        let plan = c.plan(&c.points, c.now);
        assert_eq!(plan.keep.len() + plan.delete.len(), c.points.len(), "catalogue {seed}");
        assert!(plan.keep.iter().all(|k| !k.reasons.is_empty()), "catalogue {seed}");
        for p in &c.points {
            let goes = plan.deletes(&p.name, &p.region);
            assert_eq!(!goes, c.is_kept(p), "catalogue {seed}: {p:?}");
            // I1: holds, and the floors of each region.
            assert!(!goes || !c.held(p), "I1, catalogue {seed}: {p:?}");
            assert!(!goes || !c.is_floor(p), "I1, catalogue {seed}: {p:?}");
            // I2: what copies need.
            assert!(!goes || !c.needed(p), "I2, catalogue {seed}: {p:?}");
            floors += u64::from(c.is_floor(p));
        }
        deleted += plan.delete.len() as u64;
        kept += plan.keep.len() as u64;
        // I1: what is left after the plan loses nothing more by time passing, unless a hold lapses or
        // a point of the future arrives: a VM that is backed up no more is pruned no more.
        if c.points.iter().all(|p| p.created <= c.now) && c.holds.is_empty() {
            let stays = |p: &&PointFacts| !plan.deletes(&p.name, &p.region);
            let left: Vec<PointFacts> = c.points.iter().filter(stays).cloned().collect();
            let later = c.plan(&left, hour(100 * HOURS));
            assert!(later.delete.is_empty(), "I1, catalogue {seed}: {later:?}");
        }
    }
    // The catalogues are not trivial.
    let each = [deleted, kept, floors];
    assert!(each.iter().all(|n| *n > CATALOGUES / 2), "{each:?}");
}
