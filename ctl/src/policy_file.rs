//! Policies in a YAML file: one of which every field may be left out, or several with names and
//! selectors. The fields are in one table, which the schema is made of too.

use std::collections::HashMap;
use std::path::Path;

use azdr_proto::admin::{ConfigureBackupRequest, ConsistencyDemand, NamedPolicy, VmSelector};
use serde_json::json;

use crate::error::CliError;
use crate::quantity::span;
use crate::since;
use crate::yaml::{self, Field, Node, Place, Value, Wrong, short};

/// The most policies in a file, and the most tags in a selector.
const MAX_POLICIES: usize = 100;
const MAX_TAGS: usize = 20;

/// What a field's value can be.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number from 0.
    Count(u32),
    /// `HH:MM`.
    Time,
    /// `daily HH:MM`.
    Schedule,
    Zone,
    Demand,
    /// A region, or `none`.
    Region,
    /// A span of seconds between two, or `none`.
    Span(u32, u32),
}

/// A field of a policy.
struct Known {
    name: &'static str,
    kind: Kind,
    about: &'static str,
}

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

const FIELDS: [Known; 13] = [
    field("daily", Kind::Count(3650), "For how many days to keep daily backups; 0 for none"),
    field("weekly", Kind::Count(520), "For how many weeks to keep weekly backups; 0 for none"),
    field("monthly", Kind::Count(240), "For how many months to keep monthly backups; 0 for none"),
    field("yearly", Kind::Count(100), "For how many years to keep yearly backups; 0 for none"),
    field("time", Kind::Time, "When the daily run is due, in the time zone"),
    field("schedule", Kind::Schedule, "The same, in other words"),
    field("time_zone", Kind::Zone, "IANA time zone of the schedule"),
    field("consistency", Kind::Demand, "What to do when file systems cannot be frozen"),
    field("target_region", Kind::Region, "Region of the copies, other than the VM's own"),
    field("rpo", Kind::Span(5 * MINUTE, 366 * DAY), "How old the newest restorable backup may be"),
    field("rto", Kind::Span(MINUTE, 7 * DAY), "How long a restore may take"),
    field(
        "verify_every",
        Kind::Span(HOUR, 366 * DAY),
        "How often the newest unproved backup is verified",
    ),
    field("drill_every", Kind::Span(HOUR, 366 * DAY), "How often a DR test is held"),
];

const fn field(name: &'static str, kind: Kind, about: &'static str) -> Known {
    Known { name, kind, about }
}

fn names() -> String {
    let names: Vec<&str> = FIELDS.iter().map(|f| f.name).collect();
    names.join(", ")
}

impl Kind {
    fn allowed(self) -> String {
        match self {
            Self::Count(most) => format!("a whole number from 0 to {most}"),
            Self::Time => "HH:MM".to_owned(),
            Self::Schedule => "daily HH:MM".to_owned(),
            Self::Zone => "an IANA time zone, like Europe/Berlin".to_owned(),
            Self::Demand => "require, prefer or any".to_owned(),
            Self::Region => "a region like westus2, or none".to_owned(),
            Self::Span(least, most) => {
                format!("{} to {} (a number with m, h, d or w), or none", span(least), span(most))
            }
        }
    }

    fn schema(self) -> serde_json::Value {
        match self {
            Self::Count(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
            Self::Time => {
                json!({ "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$" })
            }
            Self::Schedule => {
                json!({ "type": "string", "pattern": "^daily ([01][0-9]|2[0-3]):[0-5][0-9]$" })
            }
            Self::Zone => json!({ "type": "string", "minLength": 1 }),
            Self::Demand => json!({ "enum": ["require", "prefer", "any"] }),
            Self::Region => json!({ "type": "string", "pattern": "^[A-Za-z0-9 ]{2,60}$" }),
            Self::Span(..) => json!({ "type": "string", "pattern": "^(none|[0-9]+[mhdw])$" }),
        }
    }
}

/// Reads a file with one policy.
///
/// # Errors
/// A usage error that names the file and, where there is one, the place, the field, its value and what
/// is allowed.
pub(crate) fn read(path: &Path) -> Result<ConfigureBackupRequest, CliError> {
    yaml::read_file(path, parse)
}

/// Reads a file with named policies.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_named(path: &Path) -> Result<Vec<NamedPolicy>, CliError> {
    yaml::read_file(path, parse_named)
}

fn parse(text: &str) -> Result<ConfigureBackupRequest, Wrong> {
    let expected = || format!("a policy is a list of \"field: value\" with some of {}", names());
    let root = yaml::read(text)?;
    let root =
        root.ok_or_else(|| Wrong::at(Place::START, format!("there is no policy: {}", expected())))?;
    let Value::Mapping(fields) = &root.value else {
        return Err(Wrong::at(root.at, expected()));
    };
    policy(fields, &[])
}

/// The policy in these fields; the `others` are somebody else's.
fn policy(fields: &[Field], others: &[&str]) -> Result<ConfigureBackupRequest, Wrong> {
    let mut policy = ConfigureBackupRequest::default();
    for field in fields.iter().filter(|f| !others.contains(&f.name.as_str())) {
        let Some(known) = FIELDS.iter().find(|known| known.name == field.name) else {
            let others: String = others.iter().map(|name| format!("{name}, ")).collect();
            return Err(Wrong::at(
                field.at,
                format!(
                    "there is no field {:?}: a policy has {others}{}",
                    short(&field.name),
                    names()
                ),
            ));
        };
        if known.name == "schedule" && fields.iter().any(|f| f.name == "time") {
            return Err(Wrong::at(field.at, "schedule and time say the same: give one of them"));
        }
        set(&mut policy, known, &field.node)?;
    }
    Ok(policy)
}

/// A single value that is not left out.
fn text<'a>(name: &str, allowed: &str, node: &'a Node) -> Result<&'a str, Wrong> {
    match &node.value {
        Value::Text { text, quoted: false } if ["", "~", "null"].contains(&text.as_str()) => {
            Err(Wrong::at(node.at, format!("{name} has no value: it must be {allowed}")))
        }
        Value::Text { text, .. } => Ok(text),
        _ => Err(Wrong::at(node.at, format!("{name} must be a single value: {allowed}"))),
    }
}

fn set(policy: &mut ConfigureBackupRequest, known: &Known, node: &Node) -> Result<(), Wrong> {
    let Known { name, kind, .. } = known;
    let allowed = kind.allowed();
    let value = text(name, &allowed, node)?;
    let wrong =
        || Wrong::at(node.at, format!("{name} is {:?}: it must be {allowed}", short(value)));
    let plain_number = |value: &str| value.bytes().all(|b| b.is_ascii_digit());
    match *kind {
        Kind::Count(most) => {
            let count = Some(value).filter(|v| plain_number(v)).and_then(|v| v.parse().ok());
            let count = Some(count.filter(|n| *n <= most).ok_or_else(wrong)?);
            match *name {
                "daily" => policy.daily_retention = count,
                "weekly" => policy.weekly_retention = count,
                "monthly" => policy.monthly_retention = count,
                _ => policy.yearly_retention = count,
            }
        }
        Kind::Time | Kind::Schedule => {
            let time = match kind {
                Kind::Schedule => value.strip_prefix("daily ").ok_or_else(wrong)?,
                _ => value,
            };
            policy.schedule_time = Some(time).filter(|t| is_time(t)).map(str::to_owned);
            policy.schedule_time.as_ref().ok_or_else(wrong)?;
        }
        Kind::Zone if value.is_empty() => return Err(wrong()),
        Kind::Zone => policy.time_zone = Some(value.to_owned()),
        Kind::Demand => {
            let demand = match value {
                "require" => ConsistencyDemand::Require,
                "prefer" => ConsistencyDemand::Prefer,
                "any" => ConsistencyDemand::Any,
                _ => return Err(wrong()),
            };
            policy.consistency = Some(demand.into());
        }
        Kind::Region if value == "none" => policy.cross_region = Some(false),
        Kind::Region if value.is_empty() => return Err(wrong()),
        Kind::Region => {
            policy.target_region = Some(value.to_owned());
            policy.cross_region = Some(true);
        }
        Kind::Span(least, most) => {
            let secs = match value {
                "none" => 0,
                given => since::span(given)
                    .ok()
                    .and_then(|d| u32::try_from(d.as_secs()).ok())
                    .filter(|secs| (least..=most).contains(secs))
                    .ok_or_else(wrong)?,
            };
            match *name {
                "rpo" => policy.rpo_secs = Some(secs),
                "rto" => policy.rto_secs = Some(secs),
                "verify_every" => policy.verify_every_secs = Some(secs),
                _ => policy.drill_every_secs = Some(secs),
            }
        }
    }
    Ok(())
}

fn is_time(text: &str) -> bool {
    let part = |text: &str, below: u8| {
        text.len() == 2
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u8>().is_ok_and(|n| n < below)
    };
    text.split_once(':').is_some_and(|(h, m)| part(h, 24) && part(m, 60))
}

fn parse_named(text: &str) -> Result<Vec<NamedPolicy>, Wrong> {
    let expected = "expected \"policies:\" with a list, each with name, select and the fields of a policy; \
                    `azdr policy schema` prints all of it";
    let root = yaml::read(text)?.ok_or_else(|| Wrong::at(Place::START, expected))?;
    let Value::Mapping(fields) = &root.value else { return Err(Wrong::at(root.at, expected)) };
    if let Some(other) = fields.iter().find(|f| f.name != "policies") {
        let name = short(&other.name);
        return Err(Wrong::at(other.at, format!("there is no field {name:?} here: {expected}")));
    }
    let Some(Field { node: list, .. }) = fields.first() else {
        return Err(Wrong::at(root.at, expected));
    };
    let Value::List(list) = &list.value else {
        return Err(Wrong::at(
            list.at,
            "policies must be a list, each beginning with \"- name: …\"",
        ));
    };
    if list.len() > MAX_POLICIES {
        let at = list[MAX_POLICIES].at;
        return Err(Wrong::at(at, format!("at most {MAX_POLICIES} policies are allowed")));
    }
    let mut policies: Vec<NamedPolicy> = vec![];
    for node in list {
        let (at, policy) = named(node)?;
        if policies.iter().any(|p| p.name == policy.name) {
            return Err(Wrong::at(at, format!("policy {} is given twice", policy.name)));
        }
        policies.push(policy);
    }
    Ok(policies)
}

/// One named policy, and where its name stands.
fn named(node: &Node) -> Result<(Place, NamedPolicy), Wrong> {
    let Value::Mapping(fields) = &node.value else {
        return Err(Wrong::at(
            node.at,
            "a policy must be a mapping with name, select and its fields",
        ));
    };
    let find = |name: &str| fields.iter().find(|f| f.name == name);
    let allowed = "1 to 63 lower-case letters, digits and hyphens, with a hyphen at neither end";
    let name = find("name")
        .ok_or_else(|| Wrong::at(node.at, format!("name is missing: it must be {allowed}")))?;
    let value = text("name", allowed, &name.node)?;
    if !is_name(value) {
        let message = format!("name is {:?}: it must be {allowed}", short(value));
        return Err(Wrong::at(name.node.at, message));
    }
    let select = find("select").ok_or_else(|| {
        Wrong::at(node.at, "select is missing: it must have a resource_group, tags, or both")
    })?;
    let policy = policy(fields, &["name", "select"])?;
    let named = NamedPolicy {
        name: value.to_owned(),
        select: Some(selector(&select.node)?),
        policy: Some(policy),
        vms: 0,
    };
    Ok((name.node.at, named))
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn selector(node: &Node) -> Result<VmSelector, Wrong> {
    let allowed = "select must have a resource_group, tags, or both";
    let Value::Mapping(fields) = &node.value else { return Err(Wrong::at(node.at, allowed)) };
    let mut selector = VmSelector::default();
    for field in fields {
        match field.name.as_str() {
            "resource_group" => {
                let allowed = "the name of a resource group";
                let group = text("resource_group", allowed, &field.node)?;
                if group.is_empty() || group.chars().count() > 90 {
                    let message =
                        format!("resource_group is {:?}: it must be {allowed}", short(group));
                    return Err(Wrong::at(field.node.at, message));
                }
                selector.resource_group = group.to_owned();
            }
            "tags" => selector.tags = tags(&field.node)?,
            other => {
                let message = format!("there is no field {:?}: {allowed}", short(other));
                return Err(Wrong::at(field.at, message));
            }
        }
    }
    if selector.resource_group.is_empty() && selector.tags.is_empty() {
        return Err(Wrong::at(node.at, allowed));
    }
    Ok(selector)
}

fn tags(node: &Node) -> Result<HashMap<String, String>, Wrong> {
    let Value::Mapping(fields) = &node.value else {
        return Err(Wrong::at(node.at, "tags must be a list of \"name: value\""));
    };
    if fields.len() > MAX_TAGS {
        let at = fields[MAX_TAGS].at;
        return Err(Wrong::at(at, format!("at most {MAX_TAGS} tags are allowed")));
    }
    let tag = |field: &Field| {
        let name = short(&field.name);
        if field.name.is_empty() || field.name.chars().count() > 512 {
            let message = format!("tag {name:?}: a tag's name has 1 to 512 characters");
            return Err(Wrong::at(field.at, message));
        }
        let value = text(&format!("tag {name}"), "a text of at most 256 characters", &field.node)?;
        if value.chars().count() > 256 {
            let message = format!("tag {name}: its value has at most 256 characters");
            return Err(Wrong::at(field.node.at, message));
        }
        Ok((field.name.clone(), value.to_owned()))
    };
    fields.iter().map(tag).collect()
}

/// The JSON schema of a file with named policies, for editors and checks before `policy apply`.
pub(crate) fn schema() -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    let name = json!({
        "type": "string",
        "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "description": "Unique in the file",
    });
    properties.insert("name".to_owned(), name);
    properties.insert("select".to_owned(), selector_schema());
    for known in &FIELDS {
        let mut schema = known.kind.schema();
        schema["description"] = format!("{}: {}", known.about, known.kind.allowed()).into();
        properties.insert(known.name.to_owned(), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Named policies of azdr, for `azdr policy apply -f FILE`",
        "type": "object",
        "required": ["policies"],
        "additionalProperties": false,
        "properties": {
            "policies": {
                "type": "array",
                "maxItems": MAX_POLICIES,
                "items": {
                    "type": "object",
                    "required": ["name", "select"],
                    "additionalProperties": false,
                    "not": { "required": ["time", "schedule"] },
                    "properties": properties,
                },
            },
        },
    })
}

fn selector_schema() -> serde_json::Value {
    json!({
        "description": "Which VMs the policy is for: those that meet all conditions",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": false,
        "properties": {
            "resource_group": {
                "type": "string",
                "minLength": 1,
                "maxLength": 90,
                "description": "Name of the VMs' resource group; compared without case",
            },
            "tags": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": MAX_TAGS,
                "propertyNames": { "minLength": 1, "maxLength": 512 },
                "additionalProperties": { "type": ["string", "number", "boolean"], "maxLength": 256 },
                "description": "Tags of the VMs: names are compared without case, values as they are",
            },
        },
    })
}

#[cfg(test)]
mod tests;
