mod many;

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::PolicyChange;

const DAY_MS: i64 = 86_400_000;

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn policy(daily: u32, weekly: u32, monthly: u32, yearly: u32) -> Policy {
    let retention = Retention { daily, weekly, monthly, yearly };
    Policy { retention, ..Policy::default() }
}

fn noon(day: i64) -> WallTime {
    // 2025-12-01, a Monday.
    let base: WallTime = "2025-12-01T12:00:00Z".parse().unwrap();
    WallTime::from_unix_ms(base.unix_ms() + day * DAY_MS)
}

fn point(day: i64, tiers: impl Into<TierSet>) -> PointFacts {
    let tiers = tiers.into();
    let highest = tiers.highest().unwrap_or(Tier::Daily);
    PointFacts {
        name: PointName::choose("vm", highest, noon(day), |_| false),
        created: noon(day),
        tiers,
        restorable: true,
        proved: ProofLevel::Unproved,
        region: region("eastus"),
    }
}

fn dailies(days: std::ops::Range<i64>) -> Vec<PointFacts> {
    days.map(|day| point(day, [Tier::Daily])).collect()
}

/// Days, relative to 2025-12-01, of the points that would be deleted.
fn deleted(points: &[PointFacts], plan: &RetentionPlan) -> Vec<i64> {
    let day = |d: &Delete| {
        let facts = points.iter().find(|p| p.name == d.point && p.region == d.region).unwrap();
        (facts.created.unix_ms() - noon(0).unix_ms()).div_euclid(DAY_MS)
    };
    plan.delete.iter().map(day).collect()
}

fn reasons<'a>(plan: &'a RetentionPlan, point: &PointFacts) -> &'a [KeepReason] {
    let kept = plan.keep.iter().find(|k| k.point == point.name && k.region == point.region);
    kept.map_or(&[], |k| &k.reasons)
}

#[test]
fn the_newest_slots_of_each_tier_are_kept_with_their_rank() {
    let points = dailies(0..10);
    let plan = plan(Some(&policy(7, 0, 0, 0)), &points, &[], &[], noon(20));
    assert_eq!(deleted(&points, &plan), [0, 1, 2]);
    assert_eq!(plan.keep[0].reasons[0].to_string(), "daily 2025-12-10 (1 of 7)");
    assert_eq!(plan.keep[6].reasons[0].to_string(), "daily 2025-12-04 (7 of 7)");
    assert_eq!(plan.delete[0].reason.to_string(), "beyond the newest 7 daily slots");
}

#[test]
fn a_point_stays_while_any_of_its_tiers_wants_it() {
    let mut points = dailies(1..10);
    points.insert(0, point(0, [Tier::Monthly, Tier::Daily]));
    let monthly = plan(Some(&policy(2, 0, 1, 0)), &points, &[], &[], noon(20));
    assert_eq!(deleted(&points, &monthly), [1, 2, 3, 4, 5, 6, 7]);
    let off = plan(Some(&policy(2, 0, 0, 0)), &points, &[], &[], noon(20));
    assert_eq!(deleted(&points, &off)[0], 0);
    let words = "monthly points are not retained, beyond the newest 2 daily slots";
    assert_eq!(off.delete[0].reason.to_string(), words);
}

#[test]
fn points_of_one_day_share_a_slot() {
    let mut points = dailies(0..3);
    let mut manual = point(2, [Tier::Daily]);
    manual.created = manual.created.plus(Duration::from_secs(3600));
    manual.name = PointName::choose("vm", Tier::Daily, manual.created, |_| false);
    points.push(manual);
    let plan = plan(Some(&policy(2, 0, 0, 0)), &points, &[], &[], noon(20));
    assert_eq!(deleted(&points, &plan), [0]);
}

#[test]
fn days_are_those_of_the_policys_zone() {
    let change = PolicyChange {
        daily: Some(1),
        time_zone: Some("Pacific/Auckland".to_owned()),
        ..Default::default()
    };
    let policy = Policy::default().apply(&change, &region("eastus")).unwrap();
    // Noon UTC and 10:30 UTC of one UTC day lie on two days in Auckland.
    let mut points = dailies(0..1);
    let mut early = point(0, [Tier::Daily]);
    early.created = "2025-12-01T10:30:00Z".parse().unwrap();
    early.name = PointName::choose("vm", Tier::Daily, early.created, |_| false);
    points.push(early.clone());
    let plan = plan(Some(&policy), &points, &[], &[], noon(20));
    assert!(plan.deletes(&early.name, &early.region));
}

#[test]
fn broken_points_never_push_out_good_ones() {
    let mut points = dailies(0..10);
    points[5..].iter_mut().for_each(|p| p.restorable = false);
    let plan = plan(Some(&policy(3, 0, 0, 0)), &points, &[], &[], noon(20));
    assert_eq!(deleted(&points, &plan), [0, 1]);
    assert!(reasons(&plan, &points[9])[0].to_string().contains("not counted"));
    assert!(reasons(&plan, &points[4]).contains(&KeepReason::NewestRestorable));
}

#[test]
fn a_region_without_a_restorable_point_is_left_alone() {
    let mut points = dailies(0..5);
    points.iter_mut().for_each(|p| p.restorable = false);
    let plan = plan(Some(&policy(0, 1, 0, 0)), &points, &[], &[], noon(20));
    assert!(plan.delete.is_empty());
    assert_eq!(plan.keep[0].reasons, [KeepReason::NothingRestorable]);
}

#[test]
fn the_newest_proved_point_is_kept_in_each_region() {
    let mut points = dailies(0..6);
    points[1].proved = ProofLevel::Booted;
    points[0].proved = ProofLevel::Content;
    let mut replicas = points.clone();
    replicas.iter_mut().for_each(|p| {
        p.region = region("westus2");
        p.proved = ProofLevel::Unproved;
    });
    replicas[0].proved = ProofLevel::Restorable;
    replicas[4].restorable = false;
    replicas[5].restorable = false;
    points.extend(replicas);
    let plan = plan(Some(&policy(1, 0, 0, 0)), &points, &[], &[], noon(20));
    let east: Vec<_> = plan.keep.iter().filter(|k| k.region == region("eastus")).collect();
    let west: Vec<_> = plan.keep.iter().filter(|k| k.region == region("westus2")).collect();
    let names = |kept: &[&Keep]| kept.iter().map(|k| k.point.clone()).collect::<Vec<_>>();
    let name = |n: usize| points[n].name.clone();
    assert_eq!(names(&east), [name(5), name(1)]);
    assert_eq!(names(&west), [name(5), name(4), name(3), name(0)]);
    assert_eq!(plan.gone_everywhere(), BTreeSet::from([&points[2].name]));
    assert_eq!(east[1].reasons, [KeepReason::NewestProved(ProofLevel::Booted)]);
}

#[test]
fn holds_keep_a_point_everywhere_and_only_pins_and_locks_lapse() {
    let points = dailies(0..6);
    let hold = |n: usize, kind, until| Hold {
        point: points[n].name.clone(),
        owner: "run 7".to_owned(),
        kind,
        until,
        reason: String::new(),
    };
    let holds = [
        hold(0, HoldKind::Lease, Some(noon(1))),
        hold(1, HoldKind::Pin, Some(noon(21))),
        hold(2, HoldKind::Pin, Some(noon(20))),
        hold(3, HoldKind::Lock, None),
    ];
    let plan = plan(Some(&policy(1, 0, 0, 0)), &points, &holds, &[], noon(20));
    assert_eq!(deleted(&points, &plan), [2, 4]);
    assert_eq!(reasons(&plan, &points[0])[0].to_string(), "leased by run 7 until it ends");
    let until = noon(21);
    assert_eq!(reasons(&plan, &points[1])[0].to_string(), format!("pinned by run 7 until {until}"));
    assert_eq!(reasons(&plan, &points[3])[0].to_string(), "locked by run 7 for ever");
}

#[test]
fn a_person_may_delete_what_the_policy_wants_but_not_what_is_held_or_the_newest() {
    let points = dailies(0..4);
    let pin = Hold {
        point: points[1].name.clone(),
        owner: "alice".to_owned(),
        kind: HoldKind::Pin,
        until: Some(noon(21)),
        reason: "audit".to_owned(),
    };
    let lineage = LineageFact {
        point: points[2].name.clone(),
        region: region("eastus"),
        need: LineageNeed::CopySource,
    };
    let reasons = |n: usize, now: WallTime| -> Vec<String> {
        let (holds, lineage) = ([pin.clone()], [lineage.clone()]);
        protection(&points[n].name, &points[n].region, &points, &holds, &lineage, now)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    let until = noon(21);
    assert_eq!(reasons(0, noon(20)), [""; 0]);
    assert_eq!(reasons(1, noon(20)), [format!("pinned by alice until {until}: audit")]);
    assert_eq!(reasons(1, noon(21)), [""; 0]);
    assert_eq!(reasons(2, noon(20)), ["being copied"]);
    assert_eq!(reasons(3, noon(20)), ["newest restorable point of the region"]);
}

#[test]
fn lineage_keeps_a_point_in_its_region_only() {
    let mut points = dailies(0..3);
    let mut replica = points[0].clone();
    replica.region = region("westus2");
    let mut newer = points[1].clone();
    newer.region = region("westus2");
    points.extend([replica, newer]);
    let base = LineageFact {
        point: points[0].name.clone(),
        region: region("westus2"),
        need: LineageNeed::DeltaBase,
    };
    let plan = plan(Some(&policy(1, 0, 0, 0)), &points, &[], &[base], noon(20));
    assert!(plan.deletes(&points[0].name, &region("eastus")));
    assert!(!plan.deletes(&points[0].name, &region("westus2")));
}

#[test]
fn without_a_policy_or_with_one_that_is_off_nothing_is_deleted() {
    let points = dailies(0..10);
    let off = Policy { enabled: false, ..policy(1, 0, 0, 0) };
    for policy in [None, Some(&off)] {
        let plan = plan(policy, &points, &[], &[], noon(20));
        assert!(plan.delete.is_empty());
        assert!(plan.keep.iter().all(|k| !k.reasons.is_empty()));
    }
}

#[test]
fn points_dated_in_the_future_are_kept_and_push_nothing_out() {
    let mut points = dailies(0..2);
    points.extend(dailies(5000..5003));
    let plan = plan(Some(&policy(1, 0, 0, 0)), &points, &[], &[], noon(1));
    assert_eq!(deleted(&points, &plan), [0]);
    assert!(reasons(&plan, &points[1]).contains(&KeepReason::NewestRestorable));
}

fn facts() -> impl Strategy<Value = Vec<PointFacts>> {
    let proofs = [ProofLevel::Unproved, ProofLevel::Restorable, ProofLevel::Content];
    let one = (
        0..2_000i64,
        0..16u8,
        prop::bool::weighted(0.8),
        prop::sample::select(proofs.to_vec()),
        prop::sample::select(vec!["eastus", "westus2"]),
    );
    prop::collection::vec(one, 0..60).prop_map(|many| {
        let mut taken = HashSet::new();
        let mut points = vec![];
        for (hours, tiers, restorable, proved, place) in many {
            let created = WallTime::from_unix_ms(noon(0).unix_ms() + hours * 7 * DAY_MS / 24);
            let tiers: TierSet =
                Tier::ALL.into_iter().filter(|t| tiers & (1 << *t as u8) != 0).collect();
            let tier = tiers.highest().unwrap_or(Tier::Daily);
            let name = PointName::choose("vm", tier, created, |_| false);
            if taken.insert((name.clone(), place)) {
                let region = region(place);
                points.push(PointFacts { name, created, tiers, restorable, proved, region });
            }
        }
        points
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let zones = prop::sample::select(vec!["UTC", "Pacific/Auckland", "America/New_York"]);
    ((0..8u32, 0..5u32, 0..4u32, 0..3u32), zones).prop_map(|((d, w, m, y), zone)| {
        let change = PolicyChange { time_zone: Some(zone.to_owned()), ..Default::default() };
        let retention = Retention { daily: d, weekly: w, monthly: m, yearly: y };
        Policy { retention, ..Policy::default().apply(&change, &region("nowhere")).unwrap() }
    })
}

/// Holds and lineage on the points that `picks` selects.
fn wishes(points: &[PointFacts], picks: &[(usize, u8)]) -> (Vec<Hold>, Vec<LineageFact>) {
    let (mut holds, mut lineage) = (vec![], vec![]);
    for (n, kind) in picks {
        let Some(p) = points.get(*n) else { continue };
        let (point, owner, reason) = (p.name.clone(), "x".to_owned(), "audit".to_owned());
        match kind {
            0 => {
                let until = Some(noon(0));
                holds.push(Hold { point, owner, kind: HoldKind::Lease, until, reason });
            }
            1 => holds.push(Hold { point, owner, kind: HoldKind::Pin, until: None, reason }),
            _ => lineage.push(LineageFact {
                point,
                region: p.region.clone(),
                need: LineageNeed::DeltaBase,
            }),
        }
    }
    (holds, lineage)
}

/// The rules again, one point at a time and without sorting anything.
fn oracle(
    policy: &Policy,
    points: &[PointFacts],
    holds: &[Hold],
    lineage: &[LineageFact],
    now: WallTime,
    p: &PointFacts,
) -> bool {
    let zone = policy.schedule.time_zone.zone();
    let here = || points.iter().filter(|q| q.region == p.region && q.created <= now);
    let newer = |q: &PointFacts| (q.created, &q.name) > (p.created, &p.name);
    let wanted_by = |tier: Tier| {
        let own = Period::of(tier, p.created, &zone);
        let newer_slots: HashSet<Period> = here()
            .filter(|q| q.restorable && q.tiers.contains(tier))
            .map(|q| Period::of(tier, q.created, &zone))
            .filter(|period| *period > own)
            .collect();
        p.tiers.contains(tier) && newer_slots.len() < policy.retention.count(tier) as usize
    };
    let proved = |q: &PointFacts| q.proved > ProofLevel::Unproved;
    let proved_and_sound = |q: &PointFacts| proved(q) && q.restorable;
    let newest_proved = if here().any(proved_and_sound) {
        proved_and_sound(p) && !here().any(|q| proved_and_sound(q) && newer(q))
    } else {
        proved(p) && !here().any(|q| proved(q) && newer(q))
    };
    p.created > now
        || p.tiers.is_empty()
        || !here().any(|q| q.restorable)
        || Tier::ALL.into_iter().any(wanted_by)
        || (p.restorable && !here().any(|q| q.restorable && newer(q)))
        || newest_proved
        || holds.iter().any(|h| h.point == p.name)
        || lineage.iter().any(|l| l.point == p.name && l.region == p.region)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_plan_is_what_a_naive_reading_of_the_rules_says(
        policy in policies(), points in facts(), now_day in 0..700i64,
        picks in prop::collection::vec((0..60usize, 0..3u8), 0..6),
    ) {
        let (holds, lineage) = wishes(&points, &picks);
        let now = noon(now_day);
        let plan = plan(Some(&policy), &points, &holds, &lineage, now);
        prop_assert_eq!(plan.keep.len() + plan.delete.len(), points.len());
        prop_assert!(plan.keep.iter().all(|k| !k.reasons.is_empty()));
        for p in &points {
            let keep = oracle(&policy, &points, &holds, &lineage, now, p);
            prop_assert_eq!(plan.deletes(&p.name, &p.region), !keep, "{:?}", p);
        }
    }

    #[test]
    fn carrying_a_plan_out_leaves_nothing_more_to_delete_and_time_alone_changes_nothing(
        policy in policies(), points in facts(),
    ) {
        let first = plan(Some(&policy), &points, &[], &[], noon(700));
        let later = plan(Some(&policy), &points, &[], &[], noon(70_000));
        prop_assert_eq!(&first, &later);
        let left: Vec<PointFacts> =
            points.into_iter().filter(|p| !first.deletes(&p.name, &p.region)).collect();
        let again = plan(Some(&policy), &left, &[], &[], noon(700));
        prop_assert!(again.delete.is_empty());
        prop_assert_eq!(again.keep, first.keep);
    }

    #[test]
    fn wanting_more_never_deletes_more(
        policy in policies(), points in facts(), more in (0..3u32, 0..3u32, 0..3u32, 0..3u32),
        picks in prop::collection::vec((0..60usize, 0..3u8), 0..6),
    ) {
        let less = plan(Some(&policy), &points, &[], &[], noon(700));
        let r = policy.retention;
        let retention = Retention {
            daily: r.daily + more.0,
            weekly: r.weekly + more.1,
            monthly: r.monthly + more.2,
            yearly: r.yearly + more.3,
        };
        let policy = Policy { retention, ..policy };
        let (holds, lineage) = wishes(&points, &picks);
        let plan = plan(Some(&policy), &points, &holds, &lineage, noon(700));
        for d in &plan.delete {
            prop_assert!(less.deletes(&d.point, &d.region), "{:?}", d);
        }
    }
}
