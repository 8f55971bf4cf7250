//! Whole numbers on the command line: what is wrong says what is allowed.

/// A whole number within these bounds.
pub(crate) fn whole<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = digits(text).and_then(|n| u32::try_from(n).ok());
    let number = number.filter(|n| (LEAST..=MOST).contains(n));
    number.ok_or_else(|| format!("must be a whole number from {LEAST} to {MOST}"))
}

/// The number of a job.
pub(crate) fn job(text: &str) -> Result<i64, String> {
    let number = digits(text).filter(|n| *n > 0);
    number.ok_or_else(|| "must be the number of a job, as azdr job list shows it".to_owned())
}

/// The number of an alert.
pub(crate) fn alert(text: &str) -> Result<i64, String> {
    let number = digits(text).filter(|n| *n > 0);
    number.ok_or_else(|| "must be the ID of an alert, as azdr alert list shows it".to_owned())
}

/// Digits alone: `parse` would take a sign as well.
fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_named() {
        assert_eq!((whole::<1, 9>("1"), whole::<1, 9>("9")), (Ok(1), Ok(9)));
        for wrong in ["", "0", "10", "-1", "+1", "1.0", "x", "99999999999999999999"] {
            assert_eq!(whole::<1, 9>(wrong).unwrap_err(), "must be a whole number from 1 to 9");
        }
        assert_eq!(job("9007199254740993"), Ok(9_007_199_254_740_993));
        for wrong in ["", "0", "-1", "x", "9223372036854775808"] {
            assert!(job(wrong).is_err() && alert(wrong).is_err(), "{wrong:?}");
        }
    }
}
