//! How long a copy between regions will still take, from how fast it has been.

use std::time::Duration;

/// A rate that was measured over less of the copy than this says nothing yet.
const LEAST_PERCENT: f64 = 1.0;

/// What is left of a copy that has come to `percent` in `elapsed`, at the rate so far. `None` before
/// there is a rate.
pub fn time_left(elapsed: Duration, percent: f64) -> Option<Duration> {
    if !(LEAST_PERCENT..=100.0).contains(&percent) || elapsed.is_zero() {
        return None;
    }
    Some(elapsed.mul_f64((100.0 - percent) / percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_goes_at_the_rate_so_far() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(time_left(minutes(7), 70.0), Some(minutes(3)));
        assert_eq!(time_left(minutes(7), 100.0), Some(Duration::ZERO));
        for percent in [0.0, 0.9, -5.0, 101.0, f64::NAN] {
            assert_eq!(time_left(minutes(7), percent), None, "{percent}");
        }
        assert_eq!(time_left(Duration::ZERO, 50.0), None);
    }
}
