//! Every change of the clocks of many zones from 2024 to 2030, leap days, ends of years, missed days and
//! changed policies, against an oracle that looks at every quarter of an hour and knows no calendar
//! arithmetic.

use jiff::civil::Weekday;

use super::*;

/// Both hemispheres, half and quarter hours, changes at midnight, a change by half an hour, a zone
/// whose summer time is negative, and some without any change.
const ZONES: [&str; 28] = [
    "UTC",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Lisbon",
    "Europe/Athens",
    "Europe/Istanbul",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Jerusalem",
    "Asia/Gaza",
    "Asia/Tehran",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Sydney",
    "Australia/Adelaide",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Havana",
    "America/Santiago",
    "America/Asuncion",
];

const QUARTER: Duration = Duration::from_secs(15 * 60);
const DAY: Duration = Duration::from_secs(86_400);

/// The scheduled times from `from` to `to`: of each local day the first quarter of an hour that is not
/// before the time of day. `from` should lie a day before what matters.
fn scanned(p: &Policy, from: WallTime, to: WallTime) -> Vec<WallTime> {
    let zone = p.schedule.time_zone.zone();
    let mut at = WallTime::from_unix_ms(from.unix_ms() / 900_000 * 900_000);
    let mut found: Vec<(Date, WallTime)> = vec![];
    while at <= to {
        let local = at.timestamp().to_zoned(zone.clone());
        let seen = found.iter().rev().take(3).any(|(day, _)| *day == local.date());
        if local.time() >= p.schedule.time.civil() && !seen {
            found.push((local.date(), at));
        }
        at = at.plus(QUARTER);
    }
    // The first day may have begun before the scan.
    found.into_iter().skip(1).map(|(_, at)| at).collect()
}

fn daily(zone: &str, time: &str) -> Policy {
    let retention = Retention { daily: 7, weekly: 4, monthly: 12, yearly: 3 };
    Policy { retention, ..policy(zone, time) }
}

#[test]
fn around_every_change_of_the_clocks_each_day_runs_once_at_its_first_valid_instant() {
    let mut changes = 0;
    for name in ZONES {
        let zone = TimeZone::get(name).unwrap();
        let end = t("2031-01-01T00:00:00Z").timestamp();
        for change in zone.following(t("2024-01-01T00:00:00Z").timestamp()) {
            if change.timestamp() >= end {
                break;
            }
            changes += 1;
            let change = WallTime::from(change.timestamp());
            let about = |minutes: i64| {
                let at = WallTime::from_unix_ms(change.unix_ms() + minutes * 60_000);
                at.timestamp().to_zoned(zone.clone()).strftime("%H:%M").to_string()
            };
            // Before, in, at the edges of and after the hour that is skipped or repeated; in a gap
            // the clock never shows the middle one.
            let skipped = {
                let before = WallTime::from_unix_ms(change.unix_ms() - 60_000);
                let local = before.timestamp().to_zoned(zone.clone()).datetime();
                let middle = local.checked_add(jiff::Span::new().minutes(16)).unwrap();
                middle.strftime("%H:%M").to_string()
            };
            for time in [about(-60), about(-15), about(0), about(45), skipped] {
                let p = daily(name, &time);
                let (from, to) = (change.minus(4 * DAY), change.plus(2 * DAY));
                let expected = scanned(&p, from, to);
                assert!(expected.len() >= 4, "{name} {time}: {expected:?}");
                let mut at = expected[0].minus(QUARTER);
                for one in &expected {
                    at = next_due(&p, at);
                    assert_eq!(at, *one, "{name} {time} around {change}");
                    assert_eq!(previous_due(&p, at), Some(at), "{name} {time} around {change}");
                }
            }
        }
    }
    assert!(changes > 250, "{changes}");
}

#[test]
fn leap_days_and_ends_of_years_begin_their_periods_in_every_zone() {
    for name in ZONES {
        let p = daily(name, "00:15");
        let zone = p.schedule.time_zone.zone();
        for (from, days) in [("2024-02-20T00:00:00Z", 20), ("2027-12-20T00:00:00Z", 24)] {
            let runs = upcoming(&p, &[], t(from), days);
            let local: Vec<_> =
                runs.iter().map(|r| (r.at.timestamp().to_zoned(zone.clone()), r.tiers)).collect();
            // Each day once, the 29th of February among them.
            let follow =
                |w: &[(jiff::Zoned, TierSet)]| w[0].0.date().tomorrow().unwrap() == w[1].0.date();
            assert!(local.windows(2).all(follow), "{name} {from}");
            for (at, tiers) in local.iter().skip(1) {
                let day = at.date();
                assert_eq!(
                    tiers.contains(Tier::Weekly),
                    day.weekday() == Weekday::Sunday,
                    "{name} {at}"
                );
                assert_eq!(tiers.contains(Tier::Monthly), day.day() == 1, "{name} {at}");
                assert_eq!(tiers.contains(Tier::Yearly), day.day_of_year() == 1, "{name} {at}");
            }
        }
    }
}

/// A scheduler that looks every three hours, sleeps for days, and whose policy changes under it.
#[test]
fn missed_days_and_changed_policies_never_run_a_time_twice_nor_lose_the_newest() {
    let times = ["00:00", "02:30", "13:15", "23:45"];
    let tick = Duration::from_secs(3 * 3600);
    let (mut ran, mut late, mut changed) = (0, 0, 0);
    for (n, name) in ZONES.iter().enumerate() {
        // Each zone begins before another change of the clocks.
        let mut now = t("2026-03-01T00:10:00Z").plus(DAY * (n as u32 * 23));
        let mut p = daily(name, times[n % 4]);
        let (since, mut last_run, mut successes) = (now, None, vec![]);
        let mut dice = n as u64 * 77 + 5;
        for _ in 0..150 {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let roll = dice >> 33;
            now =
                now.plus(if roll.is_multiple_of(40) { DAY * (roll % 5 + 1) as u32 } else { tick });
            if roll.is_multiple_of(37) {
                let other = daily(
                    ZONES[(roll / 37) as usize % ZONES.len()],
                    times[(roll / 5) as usize % 4],
                );
                p = Policy { retention: p.retention, ..other };
                changed += 1;
            }
            let history = History { enabled_since: since, last_run, successes: &successes };
            let found = due(&p, &history, Duration::ZERO, now);
            let newest = scanned(&p, now.minus(4 * DAY), now).last().copied();
            let wanted = newest.filter(|at| *at >= since && last_run.is_none_or(|run| run < *at));
            assert_eq!(found.map(|d| d.scheduled_for), wanted, "{name} at {now}");
            let Some(found) = found else { continue };
            assert_eq!(found.late, now.since(found.scheduled_for) > LATE_AFTER);
            ran += 1;
            late += u32::from(found.late);
            let tiers = tiers_for_run(&p, &successes, now, None).unwrap();
            last_run = Some(now);
            // Every fourth one fails: its tiers are made up for by the next.
            if !roll.is_multiple_of(4) {
                successes.push((now, tiers));
                let left = tiers_wanted(&p, &successes, now);
                assert_eq!(left, TierSet::only(Tier::Daily), "{name} at {now}");
            }
        }
    }
    assert!(ran > 300 && late > 100 && changed > 50, "{ran} {late} {changed}");
}
