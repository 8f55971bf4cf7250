//! `--until`: how far to look ahead.

use std::str::FromStr;
use std::time::Duration;

use azdr_env::WallTime;

use crate::since::span;

/// A time, absolute or counted from now, or none at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    In(Duration),
    At(WallTime),
    ForEver,
}

impl Until {
    /// `None`: for ever.
    pub(crate) fn unix_ms(self, now: WallTime) -> Option<i64> {
        match self {
            Self::In(d) => Some(now.plus(d).unix_ms()),
            Self::At(t) => Some(t.unix_ms()),
            Self::ForEver => None,
        }
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected a number with m, h, d or w (30d), a date (2026-12-01), a time in RFC 3339 \
             (2026-12-01T08:00:00Z), or forever"
                .to_owned()
        };
        if text == "forever" {
            return Ok(Self::ForEver);
        }
        if text.ends_with(|c: char| c.is_ascii_lowercase()) {
            return span(text).map(Self::In).map_err(|_| wrong());
        }
        let is_date = text.len() == 10;
        let full = if is_date { format!("{text}T00:00:00Z") } else { text.to_owned() };
        full.parse().map(Self::At).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_dates_and_for_ever_are_understood() {
        let now = WallTime::from_unix_ms(1_764_576_000_000);
        let ms = |text: &str| text.parse::<Until>().unwrap().unix_ms(now);
        assert_eq!(ms("30d"), Some(1_764_576_000_000 + 30 * 86_400_000));
        assert_eq!(ms("2025-12-02"), Some(1_764_633_600_000));
        assert_eq!(ms("forever"), None);
        for wrong in ["", "never", "30", "-1d", "tomorrow"] {
            assert!(wrong.parse::<Until>().is_err(), "{wrong:?}");
        }
    }
}
