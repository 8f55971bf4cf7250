mod clocks;

use proptest::prelude::*;

use super::*;
use crate::policy::{PolicyChange, Retention};
use crate::region::Region;

fn t(s: &str) -> WallTime {
    s.parse().unwrap()
}

fn policy(zone: &str, time: &str) -> Policy {
    let change = PolicyChange {
        time_zone: Some(zone.to_owned()),
        schedule_time: Some(time.to_owned()),
        weekly: Some(4),
        monthly: Some(12),
        yearly: Some(1),
        ..Default::default()
    };
    Policy::default().apply(&change, &Region::parse("eastus").unwrap()).unwrap()
}

fn history(enabled_since: &str, last_run: Option<&str>) -> History<'static> {
    History { enabled_since: t(enabled_since), last_run: last_run.map(t), successes: &[] }
}

#[test]
fn a_time_that_does_not_exist_runs_at_the_next_valid_instant() {
    let p = policy("America/New_York", "02:30");
    assert_eq!(next_due(&p, t("2025-03-08T12:00:00Z")), t("2025-03-09T07:00:00Z"));
    assert_eq!(next_due(&p, t("2025-03-09T07:00:00Z")), t("2025-03-10T06:30:00Z"));
}

#[test]
fn a_time_that_occurs_twice_runs_once() {
    let p = policy("America/New_York", "01:30");
    assert_eq!(next_due(&p, t("2025-11-02T00:00:00Z")), t("2025-11-02T05:30:00Z"));
    assert_eq!(next_due(&p, t("2025-11-02T05:30:00Z")), t("2025-11-03T06:30:00Z"));
    assert_eq!(previous_due(&p, t("2025-11-02T06:45:00Z")), Some(t("2025-11-02T05:30:00Z")));
}

#[test]
fn a_day_that_the_zone_skipped_has_no_run() {
    // Samoa went from Thursday the 29th to Saturday the 31st of December 2011.
    let p = policy("Pacific/Apia", "02:00");
    assert_eq!(next_due(&p, t("2011-12-29T11:59:00Z")), t("2011-12-29T12:00:00Z"));
    assert_eq!(next_due(&p, t("2011-12-29T12:00:00Z")), t("2011-12-30T12:00:00Z"));
}

#[test]
fn a_missed_run_is_caught_up_once_and_is_late() {
    let p = policy("UTC", "02:00");
    let now = t("2025-12-05T09:00:00Z");
    let long_ago = history("2025-01-01T00:00:00Z", Some("2025-12-01T02:00:03Z"));
    let due_now = due(&p, &long_ago, Duration::ZERO, now).unwrap();
    assert_eq!(due_now, Due { scheduled_for: t("2025-12-05T02:00:00Z"), late: true });
    let caught_up = history("2025-01-01T00:00:00Z", Some("2025-12-05T09:00:00Z"));
    assert_eq!(due(&p, &caught_up, Duration::ZERO, now), None);
    let on_time = due(&p, &long_ago, Duration::ZERO, t("2025-12-05T02:00:00Z")).unwrap();
    assert!(!on_time.late);
}

#[test]
fn nothing_was_missed_before_the_policy_was_on() {
    let p = policy("UTC", "02:00");
    let fresh = history("2025-12-05T08:00:00Z", None);
    assert_eq!(due(&p, &fresh, Duration::ZERO, t("2025-12-05T09:00:00Z")), None);
    assert!(due(&p, &fresh, Duration::ZERO, t("2025-12-06T02:00:00Z")).is_some());
    let off = Policy { enabled: false, ..p };
    assert_eq!(due(&off, &fresh, Duration::ZERO, t("2025-12-06T02:00:00Z")), None);
    assert_eq!(next_run(&off, &[], t("2025-12-06T02:00:00Z")), None);
}

#[test]
fn jitter_delays_a_run_without_making_it_late() {
    let p = policy("UTC", "02:00");
    let h = history("2025-01-01T00:00:00Z", Some("2025-12-04T02:30:00Z"));
    let wait = Duration::from_secs(30 * 60);
    assert_eq!(due(&p, &h, wait, t("2025-12-05T02:29:59Z")), None);
    let due_now = due(&p, &h, wait, t("2025-12-05T02:30:00Z")).unwrap();
    assert_eq!(due_now, Due { scheduled_for: t("2025-12-05T02:00:00Z"), late: false });
}

#[test]
fn jitter_is_stable_and_below_its_maximum() {
    let vm = |n: u32| ArmId::virtual_machine("s", "rg", &format!("vm{n}")).unwrap();
    let max = Duration::from_secs(600);
    assert_eq!(jitter(&vm(1), max), jitter(&vm(1), max));
    assert!((0..100).all(|n| jitter(&vm(n), max) < max));
    assert!((0..100).any(|n| jitter(&vm(n), max) < max / 4));
    assert!((0..100).any(|n| jitter(&vm(n), max) > max * 3 / 4));
    assert_eq!(jitter(&vm(1), Duration::ZERO), Duration::ZERO);
}

#[test]
fn the_first_of_a_month_is_monthly_a_sunday_weekly_and_both_carry_everything_under_the_higher_name()
{
    use crate::recovery_point::PointName;

    let p = policy("Europe/Berlin", "00:30");
    // A year of nights, each of which succeeds, from a day on which nothing is missing.
    let mut successes = vec![(t("2025-08-31T22:30:00Z"), Tier::ALL.into())];
    for (at, tiers, name) in [
        // Half past midnight of the next day in Berlin, in summer and in winter time.
        ("2025-09-02T22:30:00Z", vec![Tier::Daily], "db-backup-daily-20250902-2230"),
        ("2025-09-06T22:30:00Z", vec![Tier::Weekly], "db-backup-weekly-20250906-2230"),
        ("2025-09-07T22:30:00Z", vec![Tier::Daily], "db-backup-daily-20250907-2230"),
        (
            "2025-09-30T22:30:00Z",
            vec![Tier::Monthly, Tier::Weekly],
            "db-backup-monthly-20250930-2230",
        ),
        ("2025-10-04T22:30:00Z", vec![Tier::Weekly], "db-backup-weekly-20251004-2230"),
        (
            "2025-11-01T23:30:00Z",
            vec![Tier::Monthly, Tier::Weekly],
            "db-backup-monthly-20251101-2330",
        ),
    ] {
        let at = t(at);
        let expected: TierSet = tiers.into_iter().chain([Tier::Daily]).collect();
        let carried = tiers_for_run(&p, &successes, at, None).unwrap();
        assert_eq!(carried, expected, "{at}");
        let point = PointName::choose("db", carried.highest().unwrap(), at, |_| false);
        assert_eq!(point.to_string(), name);
        successes.push((at, carried));
    }
}

#[test]
fn over_a_year_each_night_has_the_tiers_of_its_day_whatever_was_missed_before() {
    let p = policy("UTC", "02:00");
    let night = |n: i64| t("2025-01-01T02:00:00Z").plus(Duration::from_secs(86_400 * n as u64));
    // All nights; all but the firsts of months and Sundays; every third.
    let missed: [fn(i64, Date) -> bool; 3] = [
        |_, _| false,
        |_, day| day.day() == 1 || day.weekday() == jiff::civil::Weekday::Sunday,
        |n, _| n % 3 != 0,
    ];
    for missed in missed {
        let mut successes: Vec<(WallTime, TierSet)> = vec![];
        let mut before: Option<Date> = None;
        for n in 0..730 {
            let day = night(n).timestamp().to_zoned(TimeZone::UTC).date();
            if missed(n, day) {
                continue;
            }
            // By the calendar alone: what no earlier success has had.
            let sunday = |d: Date| {
                d.checked_sub(jiff::Span::new().days(d.weekday().to_sunday_zero_offset())).unwrap()
            };
            let mut expected = vec![Tier::Daily];
            if before.is_none_or(|b| sunday(b) != sunday(day)) {
                expected.push(Tier::Weekly);
            }
            if before.is_none_or(|b| (b.year(), b.month()) != (day.year(), day.month())) {
                expected.push(Tier::Monthly);
            }
            if before.is_none_or(|b| b.year() != day.year()) {
                expected.push(Tier::Yearly);
            }
            let carried = tiers_for_run(&p, &successes, night(n), None).unwrap();
            assert_eq!(carried, expected.into_iter().collect(), "{day}");
            successes.push((night(n), carried));
            before = Some(day);
        }
    }
}

#[test]
fn the_first_run_of_a_period_carries_its_tier_and_a_missed_one_is_made_up() {
    let p = policy("UTC", "02:00");
    let all: TierSet = Tier::ALL.into();
    let first = t("2025-12-03T02:00:00Z");
    assert_eq!(tiers_for_run(&p, &[], first, None), Ok(all));
    let done = [(first, all)];
    let daily = TierSet::only(Tier::Daily);
    assert_eq!(tiers_for_run(&p, &done, t("2025-12-04T02:00:00Z"), None), Ok(daily));
    // The Sunday is missed: Monday makes it up. So is the 1st of January.
    let weekly = TierSet::from([Tier::Daily, Tier::Weekly]);
    assert_eq!(tiers_for_run(&p, &done, t("2025-12-08T02:00:00Z"), None), Ok(weekly));
    assert_eq!(tiers_for_run(&p, &done, t("2026-01-02T02:00:00Z"), None), Ok(all));
}

#[test]
fn a_forced_tier_stands_alone_and_must_be_retained() {
    let p = policy("UTC", "02:00");
    let now = t("2025-12-01T02:00:00Z");
    let weekly = TierSet::only(Tier::Weekly);
    assert_eq!(tiers_for_run(&p, &[], now, Some(Tier::Weekly)), Ok(weekly));
    let p = Policy { retention: Retention { weekly: 0, ..p.retention }, ..p };
    let error = tiers_for_run(&p, &[], now, Some(Tier::Weekly)).unwrap_err();
    assert!(error.to_string().contains("weekly_retention"));
    // A forced daily point on the 1st leaves the month's own point still wanted.
    let daily = [(now, TierSet::only(Tier::Daily))];
    let next = tiers_for_run(&p, &daily, t("2025-12-02T02:00:00Z"), None).unwrap();
    assert!(next.contains(Tier::Monthly));
}

#[test]
fn without_daily_points_a_day_that_wants_nothing_has_no_run() {
    let p = policy("UTC", "02:00");
    let retention = Retention { daily: 0, weekly: 4, monthly: 0, yearly: 0 };
    let p = Policy { retention, ..p };
    let weekly = TierSet::only(Tier::Weekly);
    let successes = [(t("2025-11-30T02:00:01Z"), weekly)];
    let h = History {
        enabled_since: t("2025-01-01T00:00:00Z"),
        last_run: Some(t("2025-11-30T02:00:00Z")),
        successes: &successes,
    };
    for now in ["2025-12-03T02:00:00Z", "2025-12-07T00:00:00Z"] {
        assert_eq!(due(&p, &h, Duration::ZERO, t(now)), None, "{now}");
    }
    assert!(due(&p, &h, Duration::ZERO, t("2025-12-07T02:00:00Z")).is_some());
    let sunday = Some(t("2025-12-07T02:00:00Z"));
    assert_eq!(next_run(&p, &successes, t("2025-12-01T00:00:00Z")), sunday);
    // A manual run in between carries what the policy retains.
    assert_eq!(tiers_for_run(&p, &successes, t("2025-12-03T10:00:00Z"), None), Ok(weekly));
}

#[test]
fn the_coming_runs_follow_the_clocks_and_carry_the_tiers_of_their_periods() {
    let p = policy("America/New_York", "02:30");
    let runs = upcoming(&p, &[], t("2025-03-07T12:00:00Z"), 4);
    let shown: Vec<_> = runs.iter().map(|r| format!("{} {}", r.at, r.tiers)).collect();
    assert_eq!(
        shown,
        [
            "2025-03-08T07:30:00Z yearly,monthly,weekly,daily",
            // Sunday: 02:30 does not exist, the clocks jump from 02:00 to 03:00.
            "2025-03-09T07:00:00Z weekly,daily",
            "2025-03-10T06:30:00Z daily",
            "2025-03-11T06:30:00Z daily",
        ]
    );
    // 01:30 occurs twice on the 2nd of November, and runs once.
    let twice = upcoming(&policy("America/New_York", "01:30"), &[], t("2025-11-01T12:00:00Z"), 2);
    assert_eq!(twice[0].at, t("2025-11-02T05:30:00Z"));
    assert_eq!(twice[1].at, t("2025-11-03T06:30:00Z"));
    // Without daily points there is one run a week, and none with the policy off.
    let weekly =
        Policy { retention: Retention { daily: 0, weekly: 4, monthly: 0, yearly: 0 }, ..p };
    let runs = upcoming(&weekly, &[], t("2025-03-07T12:00:00Z"), 3);
    let days: Vec<_> = runs.iter().map(|r| r.at.to_string()[..10].to_owned()).collect();
    assert_eq!(days, ["2025-03-08", "2025-03-09", "2025-03-16"]);
    assert_eq!(
        upcoming(&Policy { enabled: false, ..weekly }, &[], t("2025-03-07T12:00:00Z"), 3),
        []
    );
}

fn zones() -> impl Strategy<Value = String> {
    prop::sample::select(jiff::tz::db().available().map(|z| z.to_string()).collect::<Vec<_>>())
}

/// 1970 to 2060: every rule in use today and most of the strange ones of the past.
fn times() -> impl Strategy<Value = WallTime> {
    (0..2_840_000_000_000i64).prop_map(WallTime::from_unix_ms)
}

/// A start and a time of day, most often a day or two before a change of the zone's clocks and close
/// to the hour that is skipped or repeated.
fn awkward() -> impl Strategy<Value = (Policy, WallTime)> {
    (zones(), times(), -90..90i64, 0..3u8, 0..24u8, 0..60u8).prop_map(
        |(zone, start, minutes, kind, hour, minute)| {
            let tz = TimeZone::get(&zone).unwrap();
            let jump = tz.following(start.timestamp()).next();
            if let (1.., Some(jump)) = (kind, jump) {
                let jump = WallTime::from(jump.timestamp());
                let ms = minutes * 60_000;
                let about = WallTime::from_unix_ms(jump.unix_ms() + ms);
                let time = about.timestamp().to_zoned(tz).strftime("%H:%M").to_string();
                return (policy(&zone, &time), jump.minus(Duration::from_secs(40 * 3600)));
            }
            (policy(&zone, &format!("{hour:02}:{minute:02}")), start)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn scheduled_times_strictly_increase_about_a_day_apart(
        (p, start) in awkward(),
    ) {
        let mut at = next_due(&p, start);
        prop_assert!(at > start);
        for _ in 0..10 {
            let next = next_due(&p, at);
            prop_assert!(next > at);
            prop_assert_eq!(previous_due(&p, next), Some(next));
            prop_assert_eq!(previous_due(&p, next.minus(Duration::from_nanos(1))), Some(at));
            // Never more than two days apart, but for the day that a zone skipped.
            prop_assert!(next.since(at) <= Duration::from_secs(49 * 3600), "{} to {}", at, next);
            prop_assert!(next.since(at) >= Duration::from_secs(20 * 3600), "{} to {}", at, next);
            at = next;
        }
    }

    #[test]
    fn a_scheduled_time_reads_as_asked_unless_that_time_does_not_exist(
        (p, start) in awkward(),
    ) {
        let tz = p.schedule.time_zone.zone();
        let at = next_due(&p, next_due(&p, start)).timestamp().to_zoned(tz.clone());
        if at.time() != p.schedule.time.civil() {
            let asked = at.date().to_datetime(p.schedule.time.civil());
            let yesterday = asked.checked_sub(jiff::Span::new().days(1)).unwrap();
            let in_gap = |d| matches!(tz.to_ambiguous_timestamp(d).offset(), AmbiguousOffset::Gap { .. });
            prop_assert!(in_gap(asked) || in_gap(yesterday), "{} is not {}", at, asked);
            // And it is the very first instant after the gap.
            let before = at.timestamp().checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap();
            let before = before.to_zoned(tz);
            prop_assert!(before.offset() != at.offset());
        }
    }

    /// A controller that ticks irregularly, with holes of days: what a naive log of runs must show.
    #[test]
    fn ticking_runs_each_occurrence_at_most_once_and_never_skips_one_that_it_was_awake_for(
        zone in zones(), start in times(), hour in 0..24u8,
        gaps in prop::collection::vec(1..200_000u64, 1..40),
    ) {
        let p = policy(&zone, &format!("{hour:02}:30"));
        let mut now = start;
        let mut last_run = None;
        let mut runs: Vec<Due> = vec![];
        for gap in gaps {
            let previous_tick = now;
            now = now.plus(Duration::from_secs(gap));
            let h = History { enabled_since: start, last_run, successes: &[] };
            let first_missed = next_due(&p, previous_tick);
            match due(&p, &h, Duration::ZERO, now) {
                Some(due) => {
                    prop_assert!(first_missed <= now);
                    prop_assert!(due.scheduled_for <= now && due.scheduled_for > previous_tick);
                    prop_assert_eq!(due.late, now.since(due.scheduled_for) > LATE_AFTER);
                    runs.push(due);
                    last_run = Some(now);
                }
                None => prop_assert!(first_missed > now, "{} was not run at {}", first_missed, now),
            }
        }
        prop_assert!(runs.windows(2).all(|w| w[0].scheduled_for < w[1].scheduled_for));
    }

    /// Running daily for two months, with failures: every period with a success has each tier once.
    #[test]
    fn each_period_gets_its_tier_with_its_first_success(
        zone in zones(), start in times(), outcomes in prop::collection::vec(any::<bool>(), 60),
    ) {
        let p = policy(&zone, "02:00");
        let tz = p.schedule.time_zone.zone();
        let mut successes: Vec<(WallTime, TierSet)> = vec![];
        let mut at = start;
        for ok in outcomes {
            at = next_due(&p, at);
            let tiers = tiers_for_run(&p, &successes, at, None).unwrap();
            prop_assert!(tiers.contains(Tier::Daily));
            if ok {
                successes.push((at, tiers));
            }
        }
        for tier in [Tier::Weekly, Tier::Monthly, Tier::Yearly] {
            for (at, _) in &successes {
                let period = Period::of(tier, *at, &tz);
                let mut same = successes.iter().filter(|(t, _)| Period::of(tier, *t, &tz) == period);
                prop_assert!(same.next().unwrap().1.contains(tier));
                prop_assert!(same.all(|(_, tiers)| !tiers.contains(tier)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What is announced is what happens when each run succeeds at its time.
    #[test]
    fn what_is_announced_is_what_ticking_runs(
        (p, start) in awkward(), daily in any::<bool>(),
    ) {
        let retention = Retention { daily: u32::from(daily), ..p.retention };
        let p = Policy { retention, ..p };
        let announced = upcoming(&p, &[], start, 12);
        prop_assert_eq!(announced.len(), 12);
        let mut successes: Vec<(WallTime, TierSet)> = vec![];
        let mut at = start;
        for run in announced {
            loop {
                at = next_due(&p, at);
                let h = History { enabled_since: start, last_run: successes.last().map(|s| s.0), successes: &successes };
                if due(&p, &h, Duration::ZERO, at).is_some() {
                    break;
                }
            }
            let tiers = tiers_for_run(&p, &successes, at, None).unwrap();
            prop_assert_eq!(run, Upcoming { at, tiers });
            successes.push((at, tiers));
        }
    }
}
