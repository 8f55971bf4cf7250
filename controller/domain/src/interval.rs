//! Spans of time as a policy states them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;
const WEEK: u32 = 7 * DAY;

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no span of time: it must be a whole number with m, h, d or w, like 15m or 7d")]
pub struct IntervalError(String);

/// A span of whole seconds; written with one unit, `15m`, `24h`, `7d`, `4w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interval {
    secs: u32,
}

impl Interval {
    /// So many seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self { secs }
    }

    /// So many minutes; saturates.
    pub const fn minutes(n: u32) -> Self {
        Self { secs: n.saturating_mul(MINUTE) }
    }

    /// So many hours; saturates.
    pub const fn hours(n: u32) -> Self {
        Self { secs: n.saturating_mul(HOUR) }
    }

    /// So many days; saturates.
    pub const fn days(n: u32) -> Self {
        Self { secs: n.saturating_mul(DAY) }
    }

    /// In seconds.
    pub const fn as_secs(self) -> u32 {
        self.secs
    }

    /// As the standard library's.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.secs as u64)
    }
}

impl fmt::Display for Interval {
    /// In the largest of days, hours, minutes and seconds that leaves no rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")];
        match units.into_iter().find(|(secs, _)| self.secs > 0 && self.secs.is_multiple_of(*secs)) {
            Some((secs, unit)) => write!(f, "{}{unit}", self.secs / secs),
            None => write!(f, "{}s", self.secs),
        }
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(s: &str) -> Result<Self, IntervalError> {
        let wrong = || IntervalError(s.chars().take(40).collect());
        let (unit, secs) = [("s", 1), ("m", MINUTE), ("h", HOUR), ("d", DAY), ("w", WEEK)]
            .into_iter()
            .find(|(unit, _)| s.ends_with(unit))
            .ok_or_else(wrong)?;
        let number = &s[..s.len() - unit.len()];
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u32 = plain.then(|| number.parse().ok()).flatten().ok_or_else(wrong)?;
        number.checked_mul(secs).map(Self::from_secs).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_span_reads_back(secs in any::<u32>()) {
            let interval = Interval::from_secs(secs);
            prop_assert_eq!(interval.to_string().parse::<Interval>(), Ok(interval));
        }

        #[test]
        fn no_text_is_too_strange_to_read(text in "\\PC{0,20}|[0-9]{0,12}[smhdw]?") {
            if let Ok(interval) = text.parse::<Interval>() {
                // What is read is what was written, up to the unit.
                prop_assert_eq!(interval.to_string().parse::<Interval>(), Ok(interval));
            }
        }
    }

    #[test]
    fn a_span_has_one_unit() {
        for (text, secs) in [("15m", 900), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(text.parse::<Interval>().unwrap().as_secs(), secs);
        }
        assert_eq!(Interval::hours(24).to_string(), "1d");
        assert_eq!(Interval::hours(36).to_string(), "36h");
        assert_eq!(Interval::from_secs(0).to_string(), "0s");
        for bad in
            ["", "d", "7", "-1d", "+1d", " 1d", "1 d", "1D", "1.5h", "1d2h", "٧d", "99999999w"]
        {
            let message = bad.parse::<Interval>().unwrap_err().to_string();
            assert!(message.contains("it must be a whole number with m, h, d or w"), "{message}");
        }
    }
}
