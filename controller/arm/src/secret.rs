//! Values that must not be shown.

use std::fmt;

use serde::Deserialize;

/// A text that neither `Debug` nor serialisation shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: hand it on to what needs it, never to a log, an error or the journal.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `text` with the values of bearer tokens and of SAS signatures taken out.
pub(crate) fn redact(text: &str) -> String {
    let mut out = text.to_owned();
    for marker in ["sig=", "Bearer ", "access_token\":\"", "client_secret="] {
        out = redact_after(&out, marker);
    }
    out
}

fn redact_after(text: &str, marker: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // ASCII case changes no offsets.
    let (lower, marker) = (text.to_ascii_lowercase(), marker.to_ascii_lowercase());
    let mut at = 0;
    while let Some(found) = lower[at..].find(&marker) {
        let value = at + found + marker.len();
        let end = text[value..]
            .find(|c: char| {
                c.is_whitespace() || matches!(c, '&' | '"' | '\'' | '<' | '>' | ')' | '\\')
            })
            .map_or(text.len(), |n| value + n);
        out.push_str(&text[at..value]);
        if end > value {
            out.push_str("REDACTED");
        }
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redaction_takes_out_the_value_and_nothing_else() {
        assert_eq!(
            redact("get https://x/y?sv=1&SIG=abc%3D&se=2 with bearer ey.j, then"),
            "get https://x/y?sv=1&SIG=REDACTED&se=2 with bearer REDACTED then"
        );
        assert_eq!(redact("no secrets: über"), "no secrets: über");
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("x")), "Secret(…)");
    }
}
