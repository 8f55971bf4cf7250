//! Calendar periods: the slots that tiers count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use azdr_env::WallTime;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::tier::Tier;

/// The day, week, month or year of a time zone in which a time falls.
///
/// Periods of one tier are ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Period {
    /// Which kind of period it is.
    pub tier: Tier,
    /// Its first day.
    pub first_day: Date,
}

impl Period {
    /// The period of this tier around a time. Weeks start on Sunday.
    pub fn of(tier: Tier, at: WallTime, zone: &TimeZone) -> Self {
        Self::around(tier, at.timestamp().to_zoned(zone.clone()).date())
    }

    fn around(tier: Tier, day: Date) -> Self {
        let first_day = match tier {
            Tier::Daily => day,
            // Saturates at the very first week that dates can express.
            Tier::Weekly => day.saturating_sub(
                jiff::Span::new().days(i64::from(day.weekday().to_sunday_zero_offset())),
            ),
            Tier::Monthly => day.first_of_month(),
            Tier::Yearly => day.first_of_year(),
        };
        Self { tier, first_day }
    }
}

/// The calendar of one time zone, which remembers the local day of each time that it was asked about:
/// a simulation asks about the same recovery points thousands of times.
pub(crate) struct Calendar {
    zone: TimeZone,
    days: RefCell<HashMap<WallTime, Date>>,
}

impl Calendar {
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self { zone, days: RefCell::default() }
    }

    /// [`Period::of`].
    pub(crate) fn period(&self, tier: Tier, at: WallTime) -> Period {
        let mut days = self.days.borrow_mut();
        let day = || at.timestamp().to_zoned(self.zone.clone()).date();
        Period::around(tier, *days.entry(at).or_insert_with(day))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = self.first_day;
        match self.tier {
            Tier::Daily => write!(f, "{day}"),
            Tier::Weekly => write!(f, "week of {day}"),
            Tier::Monthly => write!(f, "{:04}-{:02}", day.year(), day.month()),
            Tier::Yearly => write!(f, "{:04}", day.year()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_follow_the_zone_and_weeks_start_on_sunday() {
        // A Monday in UTC, still Sunday in New York.
        let at: WallTime = "2025-12-01T02:00:00Z".parse().unwrap();
        let new_york = TimeZone::get("America/New_York").unwrap();
        let text = |tier, zone: &TimeZone| Period::of(tier, at, zone).to_string();
        assert_eq!(text(Tier::Daily, &TimeZone::UTC), "2025-12-01");
        assert_eq!(text(Tier::Daily, &new_york), "2025-11-30");
        assert_eq!(text(Tier::Weekly, &TimeZone::UTC), "week of 2025-11-30");
        assert_eq!(text(Tier::Weekly, &new_york), "week of 2025-11-30");
        assert_eq!(text(Tier::Monthly, &TimeZone::UTC), "2025-12");
        assert_eq!(text(Tier::Monthly, &new_york), "2025-11");
        assert_eq!(text(Tier::Yearly, &new_york), "2025");
    }
}
