//! Reasons that people give: one line of text, for whoever wonders later.

use tonic::Status;

/// The reason without the white space around it. `what` needs it, as in "a pin".
///
/// # Errors
/// `INVALID_ARGUMENT` when it is empty, longer than `limit` characters, or holds a control character, a line
/// break for one: it is shown in tables.
pub(super) fn reason(what: &str, given: &str, limit: usize) -> Result<String, Status> {
    let reason = given.trim();
    let length = reason.chars().count();
    if length == 0 || length > limit {
        return Err(Status::invalid_argument(format!(
            "{what} needs a reason of 1 to {limit} characters, this one has {length}"
        )));
    }
    match reason.chars().find(|c| c.is_control()) {
        Some(c) => Err(Status::invalid_argument(format!(
            "{what} needs a reason of one line without control characters, this one has U+{:04X}",
            c as u32
        ))),
        None => Ok(reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_within_its_limit() {
        assert_eq!(reason("a pin", "  audit 2025, Prüfung ", 200).unwrap(), "audit 2025, Prüfung");
        for (given, words) in [
            ("", "1 to 5 characters, this one has 0"),
            (" \n ", "this one has 0"),
            ("äöüßxy", "this one has 6"),
            ("a\nb", "U+000A"),
            ("a\u{1b}b", "U+001B"),
            ("a\u{85}b", "U+0085"),
        ] {
            let refused = reason("a pin", given, 5).unwrap_err();
            assert!(refused.message().contains(words), "{given:?}: {refused}");
        }
        assert!(reason("a pin", "äöüßx", 5).is_ok(), "characters, not bytes");
    }
}
