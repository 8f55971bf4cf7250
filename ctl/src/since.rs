//! `--since`: how far to look back.

use std::str::FromStr;
use std::time::Duration;

use azdr_env::WallTime;

/// A time, absolute or counted back from now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Since {
    Ago(Duration),
    At(WallTime),
}

impl Since {
    pub(crate) fn unix_ms(self, now: WallTime) -> i64 {
        match self {
            Self::Ago(d) => now.minus(d).unix_ms(),
            Self::At(t) => t.unix_ms(),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected a number with m, h, d or w (7d), a date (2025-12-01) or a time in RFC 3339 \
             (2025-12-01T08:00:00Z)"
                .to_owned()
        };
        if text.ends_with(|c: char| c.is_ascii_lowercase()) {
            return span(text).map(Self::Ago).map_err(|_| wrong());
        }
        let is_date = text.len() == 10;
        let full = if is_date { format!("{text}T00:00:00Z") } else { text.to_owned() };
        full.parse().map(Self::At).map_err(|_| wrong())
    }
}

/// A number with m, h, d or w.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number with m, h, d or w, such as 90m or 7d".to_owned();
    let (digits, seconds) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, "m")) => (digits, 60),
        Some((digits, "h")) => (digits, 3600),
        Some((digits, "d")) => (digits, 24 * 3600),
        Some((digits, "w")) => (digits, 7 * 24 * 3600),
        _ => return Err(wrong()),
    };
    // Not every text that `parse` takes is one of ours: "+1".
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_dates_and_times_are_understood() {
        let now = WallTime::from_unix_ms(1_764_576_000_000);
        let ms = |text: &str| text.parse::<Since>().unwrap().unix_ms(now);
        assert_eq!(ms("7d"), 1_764_576_000_000 - 7 * 86_400_000);
        assert_eq!(ms("90m"), 1_764_576_000_000 - 90 * 60_000);
        assert_eq!(ms("2w"), 1_764_576_000_000 - 14 * 86_400_000);
        assert_eq!(ms("2025-12-01"), 1_764_547_200_000);
        assert_eq!(ms("2025-12-01T09:00:00+01:00"), 1_764_576_000_000);
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "7",
            "d",
            "-1d",
            "+1d",
            "7y",
            "1.5d",
            "yesterday",
            "2025-13-01",
            "7 d",
            "99999999999999999999d",
            "ä",
        ] {
            assert!(text.parse::<Since>().is_err(), "{text:?} was accepted");
        }
    }
}
