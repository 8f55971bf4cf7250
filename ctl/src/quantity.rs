//! Sizes, durations and times as people read them.

use std::time::Duration;

use azdr_env::WallTime;
use azdr_proto::admin::CostBasis;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// "128 GB"; binary units under their usual names. One decimal where it is not a whole number.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        GIB.. => (GIB, "GB"),
        MIB.. => (MIB, "MB"),
        KIB.. => (KIB, "KB"),
        _ => return format!("{bytes} bytes"),
    };
    if bytes.is_multiple_of(unit) {
        return format!("{} {name}", bytes / unit);
    }
    // Rounds to tenths in integers: floats would lose bytes of large disks.
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

/// "3m 42s", "1h 03m 42s"; below a second "0.4s".
pub(crate) fn duration(d: Duration) -> String {
    if !d.is_zero() && d < Duration::from_secs(1) {
        return format!("0.{}s", (d.as_millis() / 100).max(1));
    }
    let seconds = d.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}m {rest:02}s"),
        _ => format!("{hours}h {minutes:02}m {rest:02}s"),
    }
}

/// "7d", "36h", "15m": the largest unit that leaves no rest.
pub(crate) fn span(secs: u32) -> String {
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m")];
    match units.into_iter().find(|(unit, _)| secs > 0 && secs.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", secs / unit),
        None => format!("{secs}s"),
    }
}

/// A duration from milliseconds.
pub(crate) fn millis(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// The time between two instants of the interface; none while one of them is not known.
pub(crate) fn between(from_unix_ms: i64, to_unix_ms: i64) -> Option<Duration> {
    let known = from_unix_ms != 0 && to_unix_ms != 0 && to_unix_ms >= from_unix_ms;
    known.then(|| Duration::from_millis((to_unix_ms - from_unix_ms) as u64))
}

/// What is left, roughly: "3m", "45s", "1h 05m".
pub(crate) fn eta(seconds: u32) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds.div_ceil(60)),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// "10-15 minutes"; both ends rounded up to whole minutes. None when nothing was estimated.
pub(crate) fn estimate(low_secs: u32, high_secs: u32) -> Option<String> {
    let (low, high) = (low_secs.div_ceil(60), high_secs.max(low_secs).div_ceil(60));
    match (low, high) {
        (_, 0) => None,
        (low, high) if low < high => Some(format!("{low}-{high} minutes")),
        (_, 1) => Some("1 minute".to_owned()),
        (_, high) => Some(format!("{high} minutes")),
    }
}

/// "2025-12-01 08:00"; UTC. A dash for "never".
pub(crate) fn minute(unix_ms: i64) -> String {
    at(unix_ms, 16)
}

/// "2025-12-01 08:00:00 UTC". A dash for "never".
pub(crate) fn second(unix_ms: i64) -> String {
    if unix_ms == 0 { at(0, 19) } else { format!("{} UTC", at(unix_ms, 19)) }
}

/// RFC 3339, UTC; none for "never".
pub(crate) fn rfc3339(unix_ms: i64) -> Option<String> {
    (unix_ms != 0).then(|| WallTime::from_unix_ms(unix_ms).to_string())
}

fn at(unix_ms: i64, length: usize) -> String {
    match rfc3339(unix_ms) {
        Some(text) => text.chars().take(length).collect::<String>().replace('T', " "),
        None => "-".to_owned(),
    }
}

/// "7 days", "1 week".
pub(crate) fn count(n: u32, singular: &str) -> String {
    if n == 1 { format!("1 {singular}") } else { format!("{n} {singular}s") }
}

/// "99.3%"; never rounded up, so that only all is 100%. A dash for a share of nothing.
pub(crate) fn share(part: u32, whole: u32) -> String {
    match (u64::from(part) * 1000).checked_div(u64::from(whole)) {
        Some(n) => per_mille(n as u32),
        None => "-".to_owned(),
    }
}

/// Thousandths as percent: "99.9%", "100%".
pub(crate) fn per_mille(n: u32) -> String {
    match n % 10 {
        0 => format!("{}%", n / 10),
        tenth => format!("{}.{tenth}%", n / 10),
    }
}

/// Dollars with cents.
pub(crate) fn dollars(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// What an estimate rests on, in a line of its own.
pub(crate) fn basis(basis: Option<&CostBasis>) -> String {
    let Some(basis) = basis else { return String::new() };
    let disks = match basis.size_bytes {
        0 => return "No costs: the size of the VM's disks is not known\n".to_owned(),
        bytes => size(bytes),
    };
    let (whole, tenth) = (basis.change_per_mille / 10, basis.change_per_mille % 10);
    format!(
        "Estimates: list prices of {}, US dollars; disks of {disks}, all of it used; {whole}.{tenth} % \
         of it changes per day\n",
        basis.prices_as_of
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_with_one_decimal_at_most() {
        assert_eq!(size(128 * GIB), "128 GB");
        assert_eq!(size(GIB + GIB / 2), "1.5 GB");
        assert_eq!(size(64 * MIB), "64 MB");
        assert_eq!(size(10 * GIB + 1), "10 GB");
        assert_eq!(size(2 * KIB), "2 KB");
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(u64::MAX), "17179869184 GB");
    }

    #[test]
    fn durations_read_as_in_the_manual() {
        let of = |secs| duration(Duration::from_secs(secs));
        assert_eq!(of(222), "3m 42s");
        assert_eq!(of(8), "0m 08s");
        assert_eq!(of(0), "0m 00s");
        assert_eq!(of(3600 + 63), "1h 01m 03s");
        assert_eq!(millis(420), "0.4s");
        assert_eq!(millis(5), "0.1s");
        assert_eq!(span(7 * 24 * 3600), "7d");
        assert_eq!(
            (span(36 * 3600), span(900), span(61)),
            ("36h".into(), "15m".into(), "61s".into())
        );
        assert_eq!(eta(170), "3m");
        assert_eq!(eta(45), "45s");
        assert_eq!(estimate(600, 900).as_deref(), Some("10-15 minutes"));
        assert_eq!(estimate(50, 60).as_deref(), Some("1 minute"));
        assert_eq!(estimate(0, 0), None);
    }

    #[test]
    fn only_all_of_it_is_a_hundred_percent() {
        assert_eq!(share(144, 145), "99.3%");
        assert_eq!(share(9999, 10_000), "99.9%");
        assert_eq!(share(4, 4), "100%");
        assert_eq!(share(0, 4), "0%");
        assert_eq!(share(0, 0), "-");
    }

    #[test]
    fn times_are_utc_and_zero_is_never() {
        assert_eq!(minute(1_764_576_000_000), "2025-12-01 08:00");
        assert_eq!(second(1_764_576_000_000), "2025-12-01 08:00:00 UTC");
        assert_eq!(second(0), "-");
        assert_eq!(rfc3339(1_764_576_000_000).as_deref(), Some("2025-12-01T08:00:00Z"));
        assert_eq!(between(0, 5), None);
        assert_eq!(between(2000, 4500), Some(Duration::from_millis(2500)));
    }
}
