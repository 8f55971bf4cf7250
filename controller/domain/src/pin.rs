//! A person's hold on a recovery point, and its mirror in a tag.
//!
//! The store holds the truth. The tag [`PIN_TAG`] on each snapshot and copy lets a catalogue that is
//! rebuilt from the subscription find the pins again. A value holds 256 characters: where pins do not
//! fit, reasons are cut first, then the pins that end first are left out. So the tag never ends a hold
//! earlier than the pins do.

use azdr_env::WallTime;
use jiff::tz::TimeZone;

use crate::policy_tag::TAG_VALUE_LIMIT;

/// The name of the tag.
pub const PIN_TAG: &str = "azdr:pin";
/// The longest reason of a pin, in characters.
pub const REASON_LIMIT: usize = 200;

const VERSION: &str = "azdr1";
const FOR_EVER: &str = "forever";

/// A person's hold on a recovery point, in all regions. Each person has at most one per point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The operator.
    pub owner: String,
    /// When it was set, or last changed.
    pub since: WallTime,
    /// When it lapses; `None`: never.
    pub until: Option<WallTime>,
    /// Why.
    pub reason: String,
}

impl Pin {
    /// Whether it still holds.
    pub fn holds(&self, now: WallTime) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// The value of the tag, at most [`TAG_VALUE_LIMIT`] characters; `None` without pins.
pub fn tag_value(pins: &[Pin]) -> Option<String> {
    let mut pins: Vec<&Pin> = pins.iter().collect();
    // The one that holds longest is the last to be left out.
    pins.sort_by_key(|p| {
        (std::cmp::Reverse(p.until.map_or(i64::MAX, WallTime::unix_ms)), &p.owner)
    });
    while !pins.is_empty() {
        for limit in [REASON_LIMIT, 100, 60, 30, 10, 0] {
            let words: Vec<String> = pins.iter().map(|p| written(p, limit)).collect();
            let value = format!("{VERSION}|{}", words.join("|"));
            if value.chars().count() <= TAG_VALUE_LIMIT {
                return Some(value);
            }
        }
        pins.pop();
    }
    None
}

/// Reads a value of the tag.
///
/// # Errors
/// In words, when it is not one that [`tag_value`] wrote.
pub fn parse_tag(value: &str) -> Result<Vec<Pin>, String> {
    let mut words = value.split('|');
    if words.next() != Some(VERSION) {
        return Err(format!("it does not begin with {VERSION}"));
    }
    words.map(read).collect()
}

fn written(pin: &Pin, reason_limit: usize) -> String {
    let until = pin.until.map_or_else(|| FOR_EVER.to_owned(), to_second);
    let reason: String = plain(&pin.reason).chars().take(reason_limit).collect();
    format!("{};{until};{};{}", plain(&pin.owner), to_second(pin.since), reason.trim_end())
}

fn read(word: &str) -> Result<Pin, String> {
    let mut fields = word.splitn(4, ';');
    let mut next = |what: &str| {
        fields.next().map(str::to_owned).ok_or_else(|| format!("\"{word}\" has no {what}"))
    };
    let time = |text: &str| {
        text.parse::<WallTime>().map_err(|_| format!("\"{text}\" is neither a time nor {FOR_EVER}"))
    };
    let owner = next("owner")?;
    if owner.is_empty() {
        return Err(format!("\"{word}\" has no owner"));
    }
    let until = match next("end")?.as_str() {
        FOR_EVER => None,
        text => Some(time(text)?),
    };
    Ok(Pin { owner, until, since: time(&next("beginning")?)?, reason: next("reason")? })
}

/// To the second, rounded up: a mirror must not end a hold early.
fn to_second(at: WallTime) -> String {
    let up = WallTime::from_unix_ms(at.unix_ms().saturating_add(999) / 1000 * 1000);
    up.timestamp().to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Without the separators.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '|' || c == ';' || c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_764_576_000_000;

    fn pin(owner: &str, until: Option<i64>, reason: &str) -> Pin {
        Pin {
            owner: owner.into(),
            since: WallTime::from_unix_ms(NOON),
            until: until.map(|days| WallTime::from_unix_ms(NOON + days * 86_400_000)),
            reason: reason.into(),
        }
    }

    #[test]
    fn the_tag_is_readable_and_reads_back() {
        let pins = [pin("bob", Some(30), "audit"), pin("alice", None, "forensics; case | 7")];
        let value = tag_value(&pins).unwrap();
        assert_eq!(
            value,
            "azdr1|alice;forever;2025-12-01T08:00:00Z;forensics  case   7\
             |bob;2025-12-31T08:00:00Z;2025-12-01T08:00:00Z;audit"
        );
        let read = parse_tag(&value).unwrap();
        assert_eq!(read[1], pins[0]);
        assert_eq!((read[0].owner.as_str(), read[0].until), ("alice", None));
        assert_eq!(tag_value(&[]), None);
    }

    #[test]
    fn what_does_not_fit_costs_reasons_first_and_never_the_longest_hold() {
        let long = "x".repeat(REASON_LIMIT);
        let two = [pin("bob", Some(30), &long), pin("alice", None, &long)];
        let read = parse_tag(&tag_value(&two).unwrap()).unwrap();
        assert_eq!(read.len(), 2);
        let many: Vec<Pin> = (0..40).map(|n| pin(&format!("o{n}"), Some(n), &long)).collect();
        let read = parse_tag(&tag_value(&many).unwrap()).unwrap();
        assert_eq!(read[0].until, many[39].until);
        assert!(read.len() < 40);
    }

    #[test]
    fn what_others_wrote_is_refused_with_words() {
        for wrong in
            ["", "pinned", "azdr1|", "azdr1|a;b", "azdr1|a;tomorrow;now;x", "azdr2|a;forever"]
        {
            assert!(parse_tag(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_pins_fit_and_read_back_at_least_as_long(
            pins in prop::collection::vec(("[a-z|;]{1,40}", prop::option::of(0..10_000i64), ".{0,220}"), 1..12)
        ) {
            let pins: Vec<Pin> = pins.iter().map(|(o, u, r)| pin(o, *u, r)).collect();
            if let Some(value) = tag_value(&pins) {
                prop_assert!(value.chars().count() <= TAG_VALUE_LIMIT);
                if let Ok(read) = parse_tag(&value) {
                    let longest = |p: &[Pin]| p.iter().map(|p| p.until.map_or(i64::MAX, WallTime::unix_ms)).max();
                    prop_assert_eq!(longest(&read), longest(&pins));
                }
            }
        }
    }
}
