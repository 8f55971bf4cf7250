//! The mirror of a policy in the VM's tag.
//!
//! The store holds the truth. The tag lets people see the policy in Azure, lets drift be reported,
//! and lets a catalogue be rebuilt from the subscription alone. A tag's value holds 256 characters
//! and can be edited by anybody, so reading one says plainly whose it is and what is wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::arm_id::sha256_hex;
use crate::interval::Interval;
use crate::policy::{Policy, Retention, Schedule};
use crate::region::Region;
use crate::selection::PolicyName;

/// The name of the tag.
pub const POLICY_TAG: &str = "azlin:backup-schedule";

/// The most characters that the value of a tag can have.
pub const TAG_VALUE_LIMIT: usize = 256;

const VERSION: &str = "azdr1";

/// What a value of the tag turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyTag {
    /// A whole policy.
    Policy(Policy),
    /// The policy was too long to be written out; this is the hash of its long form.
    Digest(String),
    /// Written by something else.
    Foreign,
    /// Written by a newer azdr, whose version this is.
    Newer(String),
    /// Ours, but damaged or edited into nonsense; says where.
    Corrupt(String),
}

/// The named policy that a value says its VM has the policy from.
pub fn origin(value: &str) -> Option<PolicyName> {
    let from = value.split_ascii_whitespace().find_map(|word| word.strip_prefix("from="));
    from?.parse().ok().filter(|_| !matches!(PolicyTag::parse(value), PolicyTag::Foreign))
}

/// What a tag shows that is not the policy of its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What kind of thing.
    pub kind: DriftKind,
    /// In words, with as much of the value as fits.
    pub words: String,
}

/// What kind of thing a tag shows instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// There is no tag.
    Missing,
    /// Another policy.
    Edited,
    /// Something that azdr has not written.
    Foreign,
    /// Something that a newer azdr has written.
    Newer,
    /// Something of azdr's that is damaged.
    Corrupt,
}

impl DriftKind {
    /// Whether the value is, as far as one can see, azdr's own to write over.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Missing | Self::Edited)
    }
}

/// What a VM's tag, by its value, shows instead of the policy; `None`: it mirrors it.
pub fn drift(value: Option<&str>, policy: &Policy) -> Option<Drift> {
    let Some(value) = value else {
        let words = format!("the VM has no tag {POLICY_TAG}");
        return Some(Drift { kind: DriftKind::Missing, words });
    };
    let tag = PolicyTag::parse(value);
    if tag.mirrors(policy) {
        return None;
    }
    // A person's terminal must not be steered by what stands in a tag.
    let plain = |c: char| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c };
    let mut shown: String = value.chars().map(plain).take(80).collect();
    if value.chars().count() > 80 {
        shown.push('…');
    }
    let (kind, words) = match tag {
        PolicyTag::Policy(_) | PolicyTag::Digest(_) => {
            (DriftKind::Edited, format!("the tag shows another policy: \"{shown}\""))
        }
        PolicyTag::Foreign => {
            (DriftKind::Foreign, format!("the tag was not written by azdr: \"{shown}\""))
        }
        PolicyTag::Newer(_) => {
            (DriftKind::Newer, format!("the tag was written by a newer azdr: \"{shown}\""))
        }
        PolicyTag::Corrupt(why) => {
            let why: String = why.chars().map(plain).take(120).collect();
            (DriftKind::Corrupt, format!("the tag is damaged ({why}): \"{shown}\""))
        }
    };
    Some(Drift { kind, words })
}

/// Characters that change how others are shown, and are not shown themselves.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl Policy {
    /// The value of the tag [`POLICY_TAG`], at most [`TAG_VALUE_LIMIT`] characters; too long, it is the
    /// policy's name and a hash. `origin`: the named policy that the VM has it from.
    pub fn tag_value(&self, origin: Option<&PolicyName>) -> String {
        fit(&self.long_tag_value(), origin)
    }

    fn long_tag_value(&self) -> String {
        let Retention { daily, weekly, monthly, yearly } = self.retention;
        let mut tag = format!(
            "{VERSION} on={} d={daily} w={weekly} m={monthly} y={yearly} at={} tz={} need={}",
            u8::from(self.enabled),
            self.schedule.time,
            self.schedule.time_zone,
            self.consistency,
        );
        let spans = [
            ("rpo", self.rpo),
            ("rto", self.rto),
            ("verify", self.verify_every),
            ("drill", self.drill_every),
        ];
        for (name, span) in spans {
            if let Some(span) = span {
                tag.push_str(&format!(" {name}={span}"));
            }
        }
        if let Some(region) = &self.target_region {
            tag.push_str(" to=");
            tag.push_str(region.as_str());
        }
        tag
    }
}

impl PolicyTag {
    /// Reads a value of the tag.
    pub fn parse(value: &str) -> Self {
        let mut words = value.split_ascii_whitespace();
        match words.next() {
            Some(VERSION) => {}
            Some(word) if is_version(word) => return Self::Newer(word.to_owned()),
            _ => return Self::Foreign,
        }
        let mut fields = BTreeMap::new();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Self::Corrupt(format!("\"{word}\" is not name=value"));
            };
            if fields.insert(name, value).is_some() {
                return Self::Corrupt(format!("\"{name}\" occurs twice"));
            }
        }
        // Whose it was is for people, and nothing depends on it.
        if let Some(from) = fields.remove("from")
            && let Err(e) = from.parse::<PolicyName>()
        {
            return Self::Corrupt(in_words(e));
        }
        if let Some(digest) = fields.get("sha256") {
            return Self::Digest((*digest).to_owned());
        }
        read_policy(&mut fields).map_or_else(Self::Corrupt, Self::Policy)
    }

    /// Whether the tag says what the policy says; `false` is drift.
    pub fn mirrors(&self, policy: &Policy) -> bool {
        match self {
            Self::Policy(tagged) => tagged == policy,
            Self::Digest(digest) => *digest == sha256_hex(&policy.long_tag_value()),
            Self::Foreign | Self::Newer(_) | Self::Corrupt(_) => false,
        }
    }
}

fn fit(long: &str, origin: Option<&PolicyName>) -> String {
    let from = origin.map(|name| format!(" from={name}")).unwrap_or_default();
    if long.len() + from.len() <= TAG_VALUE_LIMIT {
        format!("{long}{from}")
    } else {
        format!("{VERSION} sha256={}{from}", sha256_hex(long))
    }
}

fn is_version(word: &str) -> bool {
    word.strip_prefix("azdr")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn read_policy(fields: &mut BTreeMap<&str, &str>) -> Result<Policy, String> {
    let mut take = |name: &str| fields.remove(name).ok_or_else(|| format!("\"{name}\" is missing"));
    let count = |name: &str, value: &str| {
        value.parse::<u32>().map_err(|_| format!("{name}={value} is not a count"))
    };
    let policy = Policy {
        enabled: match take("on")? {
            "1" => true,
            "0" => false,
            other => return Err(format!("on={other} is neither 0 nor 1")),
        },
        retention: Retention {
            daily: count("d", take("d")?)?,
            weekly: count("w", take("w")?)?,
            monthly: count("m", take("m")?)?,
            yearly: count("y", take("y")?)?,
        },
        schedule: Schedule {
            time: take("at")?.parse().map_err(in_words)?,
            time_zone: take("tz")?.parse().map_err(in_words)?,
        },
        consistency: take("need")?.parse().map_err(in_words)?,
        target_region: match fields.remove("to") {
            Some(region) => Some(Region::parse(region).map_err(in_words)?),
            None => None,
        },
        rpo: span(fields, "rpo")?,
        rto: span(fields, "rto")?,
        verify_every: span(fields, "verify")?,
        drill_every: span(fields, "drill")?,
    };
    match fields.keys().next() {
        Some(name) => Err(format!("\"{name}\" is unknown")),
        None => policy.check_anywhere().map_err(in_words).map(|()| policy),
    }
}

fn span(fields: &mut BTreeMap<&str, &str>, name: &str) -> Result<Option<Interval>, String> {
    fields.remove(name).map(|value| value.parse().map_err(in_words)).transpose()
}

fn in_words(error: impl std::error::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{ConsistencyDemand, PolicyChange};

    fn policies() -> impl Strategy<Value = Policy> {
        let zones: Vec<String> = jiff::tz::db().available().map(|z| z.to_string()).collect();
        let demands =
            [ConsistencyDemand::Require, ConsistencyDemand::Prefer, ConsistencyDemand::Any];
        (
            any::<bool>(),
            (1..=3650u32, 0..=520u32, 0..=240u32, 0..=100u32),
            (0..24u8, 0..60u8),
            prop::sample::select(zones),
            prop::option::of("[a-z0-9]{2,40}"),
            prop::sample::select(demands.to_vec()),
            prop::collection::vec(prop::option::of(3600..600_000u32), 4),
        )
            .prop_map(|(enabled, (d, w, m, y), (hour, minute), zone, to, need, spans)| {
                let change = PolicyChange {
                    enabled: Some(enabled),
                    daily: Some(d),
                    weekly: Some(w),
                    monthly: Some(m),
                    yearly: Some(y),
                    cross_region: None,
                    target_region: to,
                    schedule_time: Some(format!("{hour:02}:{minute:02}")),
                    time_zone: Some(zone),
                    consistency: Some(need),
                    rpo_secs: spans[0],
                    rto_secs: spans[1],
                    verify_every_secs: spans[2],
                    drill_every_secs: spans[3],
                };
                Policy::default().apply(&change, &Region::parse("thevmsown").unwrap()).unwrap()
            })
    }

    proptest! {
        #[test]
        fn every_policy_fits_and_reads_back(
            policy in policies(),
            origin in prop::option::of("[a-z][a-z0-9]{0,62}"),
        ) {
            let origin: Option<PolicyName> = origin.map(|name| name.parse().unwrap());
            let value = policy.tag_value(origin.as_ref());
            prop_assert!(value.len() <= TAG_VALUE_LIMIT);
            let read = PolicyTag::parse(&value);
            prop_assert!(read.mirrors(&policy));
            prop_assert!(matches!(read, PolicyTag::Policy(_) | PolicyTag::Digest(_)));
            if let PolicyTag::Policy(read) = read {
                prop_assert_eq!(read, policy);
            }
            prop_assert_eq!(super::origin(&value), origin);
        }

        #[test]
        fn no_text_is_too_strange_to_read(value in ".{0,300}", ours in any::<bool>()) {
            let value = if ours { format!("azdr1 {value}") } else { value };
            let _ = PolicyTag::parse(&value);
        }
    }

    #[test]
    fn the_tag_is_readable() {
        let mut policy = Policy::default();
        assert_eq!(
            policy.tag_value(None),
            "azdr1 on=1 d=7 w=0 m=0 y=0 at=02:00 tz=UTC need=prefer"
        );
        policy.rpo = Some(Interval::hours(36));
        policy.drill_every = Some(Interval::days(30));
        assert_eq!(
            policy.tag_value(Some(&"gold".parse().unwrap())),
            "azdr1 on=1 d=7 w=0 m=0 y=0 at=02:00 tz=UTC need=prefer rpo=36h drill=30d from=gold"
        );
    }

    #[test]
    fn a_value_that_is_too_long_becomes_a_digest() {
        let name = "x".repeat(63).parse().unwrap();
        let value = fit(&format!("azdr1 {}", "x".repeat(251)), Some(&name));
        assert!(value.len() <= TAG_VALUE_LIMIT && value.ends_with(&format!(" from={name}")));
        assert!(matches!(PolicyTag::parse(&value), PolicyTag::Digest(_)));
        assert!(!PolicyTag::parse(&value).mirrors(&Policy::default()));
        let long = Policy::default().long_tag_value();
        assert!(PolicyTag::Digest(sha256_hex(&long)).mirrors(&Policy::default()));
    }

    #[test]
    fn drift_says_what_the_tag_shows_instead_and_steers_no_terminal() {
        let policy = Policy::default();
        let value = policy.tag_value(None);
        assert_eq!(drift(Some(&value), &policy), None);
        for (value, kind, words) in [
            (None, DriftKind::Missing, "the VM has no tag azlin:backup-schedule"),
            (
                Some(value.replace("d=7", "d=8")),
                DriftKind::Edited,
                "another policy: \"azdr1 on=1 d=8",
            ),
            (Some("azdr1 sha256=00".to_owned()), DriftKind::Edited, "another policy"),
            (
                Some("x\u{202e}y\u{1b}[2J".to_owned()),
                DriftKind::Foreign,
                "\"x\u{fffd}y\u{fffd}[2J\"",
            ),
            (Some("azdr9 z".to_owned()), DriftKind::Newer, "a newer azdr"),
            (Some("azdr1 on=x\u{1b}".to_owned()), DriftKind::Corrupt, "damaged (on=x\u{fffd}"),
        ] {
            let drift = drift(value.as_deref(), &policy).unwrap();
            assert_eq!(drift.kind, kind);
            assert!(drift.words.contains(words), "{}", drift.words);
            assert!(drift.words.len() < 500 && !drift.words.contains('\u{1b}'));
            assert_eq!(kind.is_ours(), matches!(kind, DriftKind::Missing | DriftKind::Edited));
        }
    }

    #[test]
    fn what_others_wrote_is_foreign_and_what_was_edited_is_corrupt() {
        assert_eq!(PolicyTag::parse(r#"{"daily": 7}"#), PolicyTag::Foreign);
        assert_eq!(PolicyTag::parse(""), PolicyTag::Foreign);
        assert_eq!(PolicyTag::parse("azdr2 x"), PolicyTag::Newer("azdr2".to_owned()));
        let good = Policy::default().tag_value(None);
        for (from, to) in [
            ("d=7", "d=x"),
            ("d=7", "d=9999"),
            ("d=7", "d=0"),
            ("d=7", ""),
            ("d=7", "d=7 d=7"),
            ("on=1", "on=2"),
            ("at=02:00", "at=2"),
            ("tz=UTC", "tz=Nowhere"),
            ("need=prefer", "need=maybe"),
            ("need=prefer", "need=prefer z=1"),
            ("need=prefer", "need=prefer rpo=1s"),
            ("need=prefer", "need=prefer verify=often"),
            ("need=prefer", "need=prefer from=A/B"),
        ] {
            let tag = PolicyTag::parse(&good.replace(from, to));
            assert!(matches!(tag, PolicyTag::Corrupt(_)), "{from} -> {to}: {tag:?}");
        }
    }
}
