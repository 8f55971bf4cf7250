//! Times as Azure writes them.

use azdr_env::WallTime;

/// RFC 3339 with seven fraction digits and `+00:00`.
pub(crate) fn azure_time(time: WallTime) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z');
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<7.7}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_digits_whatever_the_clock_says() {
        assert_eq!(azure_time(WallTime::from_unix_ms(0)), "1970-01-01T00:00:00.0000000+00:00");
        let fine: WallTime = "2021-04-06T03:29:19.705281699Z".parse().unwrap();
        assert_eq!(azure_time(fine), "2021-04-06T03:29:19.7052816+00:00");
    }
}
