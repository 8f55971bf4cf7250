//! A year of backups and pruning, month by month, with what it would cost.

use std::collections::BTreeMap;

use azdr_env::WallTime;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Forecast, Outage, Start, Step};
use crate::cost::{Growth, PerMonth};
use crate::region::Region;
use crate::retention::PointFacts;

/// What lies in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Where.
    pub region: Region,
    /// How many points, or copies of them.
    pub points: u32,
    /// What is billed for them, estimated.
    pub bytes: u64,
}

/// A calendar month of the policy's time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Month {
    /// Its first day.
    pub first_day: Date,
    /// The simulation begins or ends within it.
    pub partial: bool,
    /// Backups taken.
    pub taken: u32,
    /// Of those, how many made up for a missed time.
    pub late: u32,
    /// Scheduled times that passed without a backup.
    pub missed: u32,
    /// Points and copies deleted.
    pub deleted: u32,
    /// What lies in each region at its end.
    pub holdings: Vec<Holding>,
    /// Storage, US cents, estimated; of the part that was simulated.
    pub storage_cents: u64,
    /// Traffic between regions, US cents, estimated.
    pub copy_cents: u64,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// The first instant that was not simulated.
    pub until: WallTime,
    /// What lay in each region at the beginning.
    pub at_start: Vec<Holding>,
    /// In order.
    pub months: Vec<Month>,
    /// Every backup, with what was deleted after it.
    pub steps: Vec<Step>,
    /// Scheduled times that passed without a backup.
    pub missed: Vec<WallTime>,
}

/// Runs the catalogue forward until `until`.
pub fn simulate(
    start: &Start<'_>,
    outages: &[Outage],
    growth: Growth,
    until: WallTime,
) -> Simulation {
    let zone = start.policy.map_or(TimeZone::UTC, |p| p.schedule.time_zone.zone());
    let mut forecast = Forecast::new(start, outages);
    let at_start = holdings(forecast.points(), growth);
    let mut ledger = Ledger { months: months(start.now, until, &zone), current: 0, at: start.now };
    let mut steps = vec![];
    loop {
        let before = holdings(forecast.points(), growth);
        let Some(step) = forecast.step(until) else {
            ledger.advance(until, &before);
            break;
        };
        ledger.advance(step.at, &before);
        ledger.note(&step);
        if let Some(target) = start.policy.and_then(|p| p.target_region.as_ref()) {
            let copied = copied_bytes(forecast.points(), target, step.at, growth);
            ledger.copy(start.home, copied);
        }
        steps.push(step);
    }
    for at in &forecast.missed {
        let day = at.timestamp().to_zoned(zone.clone()).date().first_of_month();
        if let Some(open) = ledger.months.iter_mut().find(|m| m.month.first_day == day) {
            open.month.missed += 1;
        }
    }
    let months = ledger.months.into_iter().map(Open::close).collect();
    Simulation { until, at_start, months, steps, missed: forecast.missed }
}

/// Estimated bytes and points of each region.
fn holdings(points: &[PointFacts], growth: Growth) -> Vec<Holding> {
    let mut regions: BTreeMap<&Region, Vec<WallTime>> = BTreeMap::new();
    for point in points {
        regions.entry(&point.region).or_default().push(point.created);
    }
    let holding = |(region, mut times): (&Region, Vec<WallTime>)| {
        times.sort_unstable();
        Holding {
            region: region.clone(),
            points: times.len() as u32,
            bytes: growth.held_bytes(&times),
        }
    };
    regions.into_iter().map(holding).collect()
}

/// What the copy of the point of `at` carries: what has changed since the newest copy before it.
fn copied_bytes(points: &[PointFacts], target: &Region, at: WallTime, growth: Growth) -> u64 {
    let earlier = points.iter().filter(|p| p.region == *target && p.created < at);
    match earlier.map(|p| p.created).max() {
        Some(base) => growth.changed_bytes(at.since(base)),
        None => growth.size_bytes,
    }
}

/// A month that is being counted.
struct Open {
    month: Month,
    to: WallTime,
    storage: PerMonth,
    copies: u64,
}

impl Open {
    fn close(self) -> Month {
        let (storage_cents, copy_cents) = (self.storage.cents(), self.copies.div_ceil(100));
        Month { storage_cents, copy_cents, ..self.month }
    }
}

/// The months from `now` to `until`, clipped to them.
fn months(now: WallTime, until: WallTime, zone: &TimeZone) -> Vec<Open> {
    let mut first_day = now.timestamp().to_zoned(zone.clone()).date().first_of_month();
    let mut months = vec![];
    loop {
        let next = first_day.saturating_add(jiff::Span::new().months(1));
        let begin = |day: Date| day.to_zoned(zone.clone()).map(|z| WallTime::from(z.timestamp()));
        let (Ok(begins), Ok(ends)) = (begin(first_day), begin(next)) else { return months };
        if begins >= until || ends <= begins {
            return months;
        }
        months.push(Open {
            month: Month {
                first_day,
                partial: begins < now || until < ends,
                taken: 0,
                late: 0,
                missed: 0,
                deleted: 0,
                holdings: vec![],
                storage_cents: 0,
                copy_cents: 0,
            },
            to: ends.min(until),
            storage: PerMonth::of(ends.since(begins)),
            copies: 0,
        });
        first_day = next;
    }
}

/// Counts into the months.
struct Ledger {
    months: Vec<Open>,
    current: usize,
    at: WallTime,
}

impl Ledger {
    /// `holdings` lay there from the last call until `to`.
    fn advance(&mut self, to: WallTime, holdings: &[Holding]) {
        let bytes = holdings.iter().map(|h| h.bytes).sum();
        while let Some(open) = self.months.get_mut(self.current) {
            let end = open.to.min(to);
            open.storage.add(bytes, end.since(self.at));
            self.at = end;
            if open.to > to {
                break;
            }
            open.month.holdings = holdings.to_vec();
            self.current += 1;
        }
    }

    fn note(&mut self, step: &Step) {
        if let Some(open) = self.months.get_mut(self.current) {
            open.month.taken += 1;
            open.month.late += u32::from(step.due.late);
            open.month.deleted += step.deleted.len() as u32;
        }
    }

    fn copy(&mut self, from: &Region, bytes: u64) {
        if let Some(open) = self.months.get_mut(self.current) {
            open.copies += crate::cost::copy_hundredths(from, bytes);
        }
    }
}
