use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cost::Growth;
use crate::policy::Retention;

const DAY: i64 = 86_400_000;
const GIB: u64 = 1 << 30;

fn t(s: &str) -> WallTime {
    s.parse().unwrap()
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn policy(daily: u32, weekly: u32, monthly: u32, yearly: u32) -> Policy {
    Policy { retention: Retention { daily, weekly, monthly, yearly }, ..Policy::default() }
}

/// 02:00 UTC of a day from Monday, 2025-12-01.
fn day(n: i64) -> WallTime {
    WallTime::from_unix_ms(t("2025-12-01T02:00:00Z").unix_ms() + n * DAY)
}

fn facts(n: i64, tiers: impl Into<TierSet>, place: &str) -> PointFacts {
    let tiers = tiers.into();
    let highest = tiers.highest().unwrap_or(Tier::Daily);
    PointFacts {
        name: PointName::choose("vm", highest, day(n), |_| false),
        created: day(n),
        tiers,
        restorable: true,
        proved: ProofLevel::Unproved,
        region: region(place),
    }
}

fn dailies(days: std::ops::Range<i64>) -> Vec<PointFacts> {
    days.map(|n| facts(n, [Tier::Daily], "eastus")).collect()
}

/// Everything that a [`Start`] borrows.
#[derive(Debug)]
struct World {
    policy: Option<Policy>,
    home: Region,
    points: Vec<PointFacts>,
    holds: Vec<Hold>,
    lineage: Vec<LineageFact>,
    now: WallTime,
}

impl World {
    /// At 10:00 of the day of the newest point.
    fn new(policy: Policy, points: Vec<PointFacts>) -> Self {
        let newest = points.iter().map(|p| p.created).max().unwrap_or(day(0));
        Self {
            policy: Some(policy),
            home: region("eastus"),
            points,
            holds: vec![],
            lineage: vec![],
            now: newest.plus(Duration::from_secs(8 * 3600)),
        }
    }

    fn start(&self) -> Start<'_> {
        Start {
            policy: self.policy.as_ref(),
            vm_name: "vm",
            home: &self.home,
            points: &self.points,
            holds: &self.holds,
            lineage: &self.lineage,
            enabled_since: day(-1000),
            last_run: self.points.iter().map(|p| p.created).max().or(Some(self.now)),
            gone: false,
            jitter: Duration::ZERO,
            now: self.now,
        }
    }

    fn hold(&mut self, n: usize, kind: HoldKind, until: Option<WallTime>) {
        let point = self.points[n].name.clone();
        let (owner, reason) = ("alice".to_owned(), "audit".to_owned());
        self.holds.push(Hold { point, owner, kind, until, reason });
    }

    fn fate(&self, n: usize) -> Fate {
        let point = &self.points[n];
        let explained = explain(&self.start(), &point.name);
        explained.into_iter().find(|e| e.region == point.region).unwrap().fate
    }

    fn simulate(&self, days: i64, outages: &[Outage]) -> Simulation {
        let growth = Growth { size_bytes: 100 * GIB, change_per_mille: 20 };
        let until = WallTime::from_unix_ms(self.now.unix_ms() + days * DAY);
        simulate(&self.start(), outages, growth, until)
    }
}

fn goes(fate: Fate) -> WallTime {
    match fate {
        Fate::Deleted { at, .. } => at,
        other => panic!("{other}"),
    }
}

#[test]
fn a_daily_point_goes_when_its_count_of_newer_days_has_one() {
    let world = World::new(policy(7, 0, 0, 0), dailies(0..7));
    for n in 0..7 {
        assert_eq!(goes(world.fate(n)), day(7 + n as i64));
    }
    let explained = explain(&world.start(), &world.points[0].name);
    assert_eq!(explained[0].reasons[0].to_string(), "daily 2025-12-01 (7 of 7)");
    let words = "until the backup of 2025-12-08T02:00:00Z: beyond the newest 7 daily slots";
    assert_eq!(explained[0].fate.to_string(), words);
}

#[test]
fn the_longest_tier_and_the_longest_hold_decide() {
    let mut points = dailies(1..7);
    points.push(facts(0, [Tier::Monthly, Tier::Daily], "eastus"));
    let mut world = World::new(policy(7, 0, 2, 0), points);
    // December's point goes after the first backup of February.
    assert_eq!(goes(world.fate(6)), t("2026-02-01T02:00:00Z"));
    world.hold(6, HoldKind::Pin, Some(t("2026-03-10T12:00:00Z")));
    assert_eq!(goes(world.fate(6)), t("2026-03-11T02:00:00Z"));
    world.hold(6, HoldKind::Pin, None);
    assert_eq!(world.fate(6).to_string(), "for ever: pinned by alice for ever: audit");
    // A job's lease ends with the job, before the next backup.
    world.hold(0, HoldKind::Lease, None);
    assert_eq!(goes(world.fate(0)), day(8));
}

#[test]
fn what_the_schedule_never_ends_is_said_to_be_so() {
    let mut world = World::new(policy(3, 0, 0, 0), dailies(0..5));
    world.points[0].proved = ProofLevel::Booted;
    world.points[1].tiers = TierSet::EMPTY;
    let words = |world: &World, n| world.fate(n).to_string();
    let never = "not on the present schedule: ";
    assert_eq!(words(&world, 0), format!("{never}newest proved point of the region (booted)"));
    assert_eq!(words(&world, 1), format!("{never}carries no tier"));
    // Copies in a region to which nothing is copied any more, and the originals that they keep.
    world.points.push(facts(2, [Tier::Daily], "westus2"));
    assert_eq!(words(&world, 5), format!("{never}daily 2025-12-03 (1 of 3)"));
    assert_eq!(words(&world, 2), format!("{never}base of the next copy"));
    world.policy = Some(Policy { enabled: false, ..policy(3, 0, 0, 0) });
    assert_eq!(words(&world, 4), format!("{never}the VM's policy is off"));
    world.policy = None;
    assert_eq!(words(&world, 4), format!("{never}the VM has no policy"));
    assert_eq!(world.simulate(30, &[]).steps, []);
}

#[test]
fn originals_stay_while_a_copy_does_and_copies_run_one_behind() {
    let mut points = dailies(0..3);
    points.extend((0..3).map(|n| facts(n, [Tier::Daily], "westus2")));
    let target_region = Some(region("westus2"));
    let world = World::new(Policy { target_region, ..policy(2, 0, 0, 0) }, points);
    let explained = explain(&world.start(), &world.points[0].name);
    // Nothing wants it now; both go after the next backup, the copy still being newest but two.
    assert!(explained.iter().all(|e| e.reasons.is_empty()));
    assert!(explained.iter().all(|e| goes(e.fate.clone()) == day(3)));
    // With its copy of the same day still on the way, the point of the second day is kept there.
    assert_eq!(goes(world.fate(1)), day(4));
    assert_eq!(goes(world.fate(4)), day(4));
    let mut ahead = World { points: world.points.clone(), ..world };
    ahead.hold(3, HoldKind::Lock, None);
    let explained = explain(&ahead.start(), &ahead.points[0].name);
    assert!(explained[0].reasons.contains(&KeepReason::CopyKept(region("westus2"))));
}

#[test]
fn a_simulated_year_fills_its_tiers_and_misses_what_an_outage_hides() {
    let world = World::new(policy(7, 4, 12, 0), vec![]);
    let year = world.simulate(365, &[]);
    assert_eq!(year.steps.len(), 365);
    let end = year.months.last().unwrap();
    // Seven days, four weeks, twelve months; points of two tiers are there once.
    assert_eq!(end.holdings[0].points, 21);
    let outage = Outage { from: t("2025-12-10T00:00:00Z"), to: t("2025-12-12T12:00:00Z") };
    let year = world.simulate(365, &[outage]);
    assert_eq!(year.missed, [t("2025-12-10T02:00:00Z"), t("2025-12-11T02:00:00Z")]);
    let december = &year.months[0];
    assert_eq!((december.missed, december.late, december.partial), (2, 1, true));
    let late = year.steps.iter().find(|s| s.due.late).unwrap();
    assert_eq!((late.at, late.due.scheduled_for), (outage.to, t("2025-12-12T02:00:00Z")));
    // Storage of January: at least everything once, at 5 dollars, at most thrice that.
    let january = &year.months[1];
    assert!((500..1500).contains(&january.storage_cents), "{january:?}");
}

#[test]
fn months_add_up_and_nothing_is_counted_twice() {
    let target_region = Some(region("westus2"));
    let world = World::new(Policy { target_region, ..policy(3, 2, 1, 1) }, dailies(0..5));
    let s = world.simulate(400, &[]);
    let sum = |f: fn(&Month) -> u32| s.months.iter().map(f).sum::<u32>() as usize;
    assert_eq!(sum(|m| m.taken), s.steps.len());
    let deleted: usize = s.steps.iter().map(|step| step.deleted.len()).sum();
    assert_eq!(sum(|m| m.deleted), deleted);
    // What was there, was taken, was copied, and was not deleted, is there at the end.
    let left: u32 = s.months.last().unwrap().holdings.iter().map(|h| h.points).sum();
    assert_eq!(5 + 2 * s.steps.len() - deleted, left as usize);
    assert!(
        s.months.iter().filter(|m| !m.partial).all(|m| m.storage_cents > 0 && m.copy_cents > 0)
    );
    assert!(s.months.first().unwrap().partial && s.months.last().unwrap().partial);
}

#[test]
fn nothing_of_a_vm_that_is_gone_goes_by_the_schedule() {
    let world = World::new(policy(3, 0, 0, 0), dailies(0..5));
    let gone = Start { gone: true, ..world.start() };
    assert_eq!(Forecast::new(&gone, &[]).step(day(1000)), None);
    for point in &world.points {
        let is = |start: &Start<'_>| explain(start, &point.name).remove(0);
        assert!(matches!(is(&world.start()).fate, Fate::Deleted { .. }), "{}", point.name);
        let kept = is(&gone);
        // What no tier wants any more is left as well: nothing is pruned without a backup.
        let lasts = matches!(kept.fate, Fate::NotOnSchedule(_)) != kept.reasons.is_empty();
        assert!(lasts && !matches!(kept.fate, Fate::Deleted { .. }), "{}: {kept:?}", point.name);
    }
}

#[test]
fn a_diff_names_what_goes_at_once_and_what_stays_longer() {
    let mut points = dailies(1..10);
    points.insert(0, facts(0, [Tier::Monthly, Tier::Daily], "eastus"));
    let world = World::new(policy(10, 0, 1, 0), points);
    let other = policy(3, 0, 6, 0);
    let after = Start { policy: Some(&other), ..world.start() };
    let changes = diff(&world.start(), &after);
    let named = |f: &dyn Fn(&Change) -> bool| {
        changes.iter().filter(|c| f(c)).map(|c| c.created).collect::<Vec<_>>()
    };
    assert_eq!(named(&|c| c.at_once.is_some()), [6, 5, 4, 3, 2, 1].map(day));
    assert!(changes.iter().all(|c| !c.at_once_anyway));
    assert_eq!(named(&Change::is_longer), [day(0)]);
    assert_eq!(goes(changes.last().unwrap().after.clone()), t("2026-06-01T02:00:00Z"));
    assert_eq!(diff(&world.start(), &world.start()), []);
}

#[test]
fn a_year_of_one_vm_is_simulated_in_a_tenth_of_a_second() {
    let target_region = Some(region("westus2"));
    let world = World::new(Policy { target_region, ..policy(30, 12, 24, 7) }, dailies(0..30));
    let begun = Duration::from_nanos(cpu_nanos());
    let s = world.simulate(365, &[]);
    let took = Duration::from_nanos(cpu_nanos()) - begun;
    assert_eq!(s.steps.len(), 365);
    // Without optimisation everything is slower by an order of magnitude.
    let limit = if cfg!(debug_assertions) { 2000 } else { 100 };
    assert!(took < Duration::from_millis(limit), "{took:?}");
}

/// CPU time of this thread: other programs on the machine do not count.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn worlds() -> impl Strategy<Value = World> {
    let one =
        (0..40i64, 1..16u8, prop::bool::weighted(0.8), prop::bool::weighted(0.1), any::<bool>());
    let policy = ((0..5u32, 0..4u32, 0..3u32), any::<bool>());
    let pins = prop::collection::vec((0..20usize, prop::option::of(0..90i64)), 0..3);
    (prop::collection::vec(one, 1..20), policy, pins).prop_map(
        |(many, ((d, w, m), copies), pins)| {
            let mut taken = BTreeSet::new();
            let mut points = vec![];
            for (n, tiers, restorable, proved, copied) in many {
                let tiers: TierSet =
                    Tier::ALL.into_iter().filter(|t| tiers & (1 << *t as u8) != 0).collect();
                if !taken.insert(n) {
                    continue;
                }
                let proved = if proved { ProofLevel::Booted } else { ProofLevel::Unproved };
                points.push(PointFacts { restorable, proved, ..facts(n, tiers, "eastus") });
                if copied {
                    points.push(facts(n, tiers, "westus2"));
                }
            }
            let target_region = copies.then(|| region("westus2"));
            let d = if d + w + m == 0 { 1 } else { d };
            let mut world = World::new(Policy { target_region, ..policy_of(d, w, m) }, points);
            for (n, until) in pins {
                if n < world.points.len() {
                    let until = until.map(day);
                    world.hold(n, HoldKind::Pin, until);
                }
            }
            world
        },
    )
}

fn policy_of(daily: u32, weekly: u32, monthly: u32) -> Policy {
    policy(daily, weekly, monthly, 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What `explain` promises of each point is what happens to it in the simulation, and the
    /// simulation deletes nothing that the plain rules would keep at that moment (I1, I2).
    #[test]
    fn what_is_explained_is_what_is_simulated(world in worlds()) {
        let simulated = world.simulate(200, &[]);
        let gone = |p: &PointFacts| {
            let same = |d: &Delete| d.point == p.name && d.region == p.region;
            simulated.steps.iter().find(|s| s.deleted.iter().any(same)).map(|s| s.at)
        };
        for (n, p) in world.points.iter().enumerate() {
            match (world.fate(n), gone(p)) {
                (Fate::Deleted { at, .. }, Some(when)) => prop_assert_eq!(at, when),
                (Fate::Deleted { at, .. }, None) => prop_assert!(at >= simulated.until),
                (fate, gone) => prop_assert_eq!(gone, None, "{} {}", p.name, fate),
            }
        }
        for place in ["eastus", "westus2"] {
            let left = simulated.months.last().unwrap().holdings.iter().find(|h| h.region == region(place));
            let any = world.points.iter().any(|p| p.region == region(place));
            prop_assert!(!any || left.is_some(), "{} was emptied", place);
        }
    }
}
