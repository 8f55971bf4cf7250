//! A policy in a YAML file: one flat mapping, of which every field may be left out.
//!
//! Only what such a file needs is read: anchors, aliases, tags and nesting are refused, so that no file
//! can grow while it is read.

use std::io::Read;
use std::path::Path;

use azdr_proto::admin::{ConfigureBackupRequest, ConsistencyDemand};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::CliError;

/// The largest file that is read.
const LIMIT: u64 = 1 << 20;

const FIELDS: &str =
    "daily, weekly, monthly, yearly, time, time_zone, consistency and target_region";

/// Reads a policy file.
///
/// # Errors
/// A usage error that names the file and, where there is one, the line, the field, its value and what
/// is allowed.
pub(crate) fn read(path: &Path) -> Result<ConfigureBackupRequest, CliError> {
    let shown = path.display();
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|e| CliError::usage(format!("{shown} cannot be read: {e}")))?;
    let read = file.take(LIMIT + 1).read_to_string(&mut text);
    read.map_err(|e| CliError::usage(format!("{shown} cannot be read: {e}")))?;
    if text.len() as u64 > LIMIT {
        return Err(CliError::usage(format!("{shown} is larger than 1 MB: it must be a policy")));
    }
    parse(&text).map_err(|(line, message)| CliError::usage(format!("{shown}:{line}: {message}")))
}

/// A line and what is wrong there.
type Wrong = (usize, String);

fn parse(text: &str) -> Result<ConfigureBackupRequest, Wrong> {
    let mut policy = ConfigureBackupRequest::default();
    let mut seen: Vec<String> = vec![];
    let mut field: Option<String> = None;
    let (mut documents, mut mappings) = (0, 0);
    for event in Parser::new_from_str(text) {
        let (event, span): (Event<'_>, Span) =
            event.map_err(|e| (e.marker().line(), format!("this is no YAML: {}", e.info())))?;
        let line = span.start.line();
        let fail = |message: &str| Err((line, message.to_owned()));
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return fail("there is a second document: a file has one policy");
                }
            }
            Event::MappingStart(0, None) if mappings == 0 => mappings += 1,
            Event::Scalar(value, style, 0, None) if mappings == 1 => match field.take() {
                None => {
                    let value = short(&value);
                    if seen.contains(&value) {
                        return Err((line, format!("{value} is given twice")));
                    }
                    seen.push(value.clone());
                    field = Some(value);
                }
                Some(name) => {
                    let plain = style == ScalarStyle::Plain;
                    set(&mut policy, &name, &value, plain).map_err(|message| (line, message))?;
                }
            },
            Event::Alias(_) => return fail("aliases are not allowed in a policy"),
            Event::Scalar(_, _, anchor, _)
            | Event::MappingStart(anchor, _)
            | Event::SequenceStart(anchor, _)
                if anchor != 0 =>
            {
                return fail("anchors are not allowed in a policy");
            }
            Event::Scalar(..) | Event::MappingStart(..) | Event::SequenceStart(..) => {
                let message = match &field {
                    Some(name) => format!("{name} must be a single value"),
                    None => format!("a policy is a list of \"field: value\" with {FIELDS}"),
                };
                return Err((line, message));
            }
            _ => {}
        }
    }
    if seen.is_empty() {
        return Err((1, format!("there is no policy: give some of {FIELDS}")));
    }
    Ok(policy)
}

/// For messages: as much of a text as a person wants to see.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn set(
    policy: &mut ConfigureBackupRequest,
    name: &str,
    value: &str,
    plain: bool,
) -> Result<(), String> {
    let count = |limit: u32| {
        let number = value.parse().ok().filter(|n| *n <= limit);
        let wrong =
            || format!("{name} is {:?}: it must be a whole number from 0 to {limit}", short(value));
        number.map(Some).ok_or_else(wrong)
    };
    let text = |allowed: &str| match value {
        "" | "~" | "null" if plain => Err(format!("{name} has no value: it must be {allowed}")),
        _ => Ok(value.to_owned()),
    };
    match name {
        "daily" => policy.daily_retention = count(3650)?,
        "weekly" => policy.weekly_retention = count(520)?,
        "monthly" => policy.monthly_retention = count(240)?,
        "yearly" => policy.yearly_retention = count(100)?,
        "time" => policy.schedule_time = Some(text("HH:MM")?),
        "time_zone" => policy.time_zone = Some(text("an IANA time zone, like Europe/Berlin")?),
        "consistency" => {
            let demand = match value {
                "require" => ConsistencyDemand::Require,
                "prefer" => ConsistencyDemand::Prefer,
                "any" => ConsistencyDemand::Any,
                _ => {
                    return Err(format!(
                        "{name} is {:?}: it must be require, prefer or any",
                        short(value)
                    ));
                }
            };
            policy.consistency = Some(demand.into());
        }
        "target_region" if value == "none" => policy.cross_region = Some(false),
        "target_region" => {
            policy.target_region = Some(text("a region like westus2, or none")?);
            policy.cross_region = Some(true);
        }
        _ => return Err(format!("there is no field {name:?}: a policy has {FIELDS}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_and_what_is_left_out_stays_open() {
        let text = "# nightly\ndaily: 7\nweekly: 0\ntime: \"02:30\"\ntime_zone: Europe/Berlin\n\
                    consistency: require\ntarget_region: none\n";
        let policy = parse(text).unwrap();
        assert_eq!((policy.daily_retention, policy.weekly_retention), (Some(7), Some(0)));
        assert_eq!(policy.monthly_retention, None);
        assert_eq!(policy.schedule_time.as_deref(), Some("02:30"));
        assert_eq!((policy.cross_region, policy.target_region), (Some(false), None));
        assert_eq!(parse("time: 02:30").unwrap().schedule_time.as_deref(), Some("02:30"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_its_field_and_what_is_allowed() {
        for (text, line, words) in [
            ("daily: 7\nweekly: lots\n", 2, "weekly is \"lots\": it must be a whole number from 0"),
            ("daily: 9999\n", 1, "daily is \"9999\": it must be a whole number from 0 to 3650"),
            ("daily: -1\n", 1, "daily is \"-1\""),
            ("daily: 7\n\nhourly: 3\n", 3, "there is no field \"hourly\": a policy has daily"),
            ("daily: 7\ndaily: 8\n", 2, "daily is given twice"),
            ("daily: [7]\n", 1, "daily must be a single value"),
            ("daily:\n  weekly: 4\n", 2, "daily must be a single value"),
            ("- daily\n", 1, "a policy is a list of"),
            ("daily: &a 7\nweekly: *a\n", 1, "anchors are not allowed"),
            ("a: &a [x,x]\nb: &b [*a,*a]\n", 1, "anchors are not allowed"),
            ("daily: 7\n---\nweekly: 4\n", 2, "second document"),
            ("daily: 'x\n", 1, "this is no YAML"),
            ("consistency: maybe\n", 1, "it must be require, prefer or any"),
            ("time:\n", 1, "time has no value: it must be HH:MM"),
            ("", 1, "there is no policy"),
            ("7\n", 1, "a policy is a list of"),
        ] {
            let (at, message) = parse(text).unwrap_err();
            assert!(message.contains(words), "{text:?}: {message}");
            assert!(message.contains("no YAML") || at == line, "{text:?}: line {at}: {message}");
        }
    }

    #[test]
    fn what_is_huge_or_deep_is_refused_at_once_and_in_few_words() {
        let many = 1_000_000;
        for text in [
            "[".repeat(many),
            "{".repeat(many),
            format!("daily: {}", "[".repeat(many)),
            format!("daily: {}", "9".repeat(many)),
            format!("{}: 7", "x".repeat(many)),
            format!("consistency: {}", "x".repeat(many)),
            "- ".repeat(many / 2),
            format!("a: &a [x]\nb: &b [{}]\n", "*a,".repeat(many / 4)),
        ] {
            let (_, message) = parse(&text).unwrap_err();
            assert!(message.len() < 300, "{message:.400}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_or_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        assert!(read(&path).unwrap_err().message.contains("cannot be read"));
        std::fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
        assert!(read(&path).unwrap_err().message.contains("larger than 1 MB"));
        std::fs::write(&path, "daily: x").unwrap();
        assert!(read(&path).unwrap_err().message.contains("policy.yaml:1: daily"));
    }
}
