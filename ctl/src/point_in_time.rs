//! `--at`: a time to go back to.

use std::str::FromStr;

use azdr_env::WallTime;

use crate::since::Since;

/// A time in the past, absolute or counted back from now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PointInTime(Since);

impl PointInTime {
    pub(crate) fn unix_ms(self, now: WallTime) -> i64 {
        self.0.unix_ms(now)
    }
}

impl FromStr for PointInTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As times are shown: to the minute, UTC.
        let minute = match text.split_once(' ') {
            Some((date, time)) if date.len() == 10 && time.len() == 5 => {
                format!("{date}T{time}:00Z")
            }
            _ => text.to_owned(),
        };
        minute.parse().map(Self).map_err(|_| {
            "expected a time such as \"2025-12-01 07:00\" (UTC) or 2025-12-01T07:00:00Z, a date, or a \
             number with m, h, d or w (2h: two hours ago)"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_they_are_shown() {
        let now = WallTime::from_unix_ms(1_764_576_000_000);
        let ms = |text: &str| text.parse::<PointInTime>().unwrap().unix_ms(now);
        assert_eq!(ms("2025-12-01 07:00"), 1_764_572_400_000);
        assert_eq!(ms("2025-12-01T07:00:00Z"), 1_764_572_400_000);
        assert_eq!(ms("2025-12-01"), 1_764_547_200_000);
        assert_eq!(ms("2h"), 1_764_568_800_000);
        for wrong in ["", "07:00", "2025-12-01 7:00", "2025-12-01 25:00", "yesterday"] {
            assert!(wrong.parse::<PointInTime>().is_err(), "{wrong:?}");
        }
    }
}
