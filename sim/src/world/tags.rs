//! Tags: what they are, their limits, and the tags API (merge, replace, delete).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::state::group_key;
use super::{ArmError, ArmId, World};

/// Tags, in the case they were written in.
///
/// Few and seldom changed, but a listing looks at those of every resource there is, and snapshots have
/// kilobytes of them. So what most of them are not can be seen in one small piece of memory, and their
/// JSON is written once.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// In the order of the names.
    entries: Vec<(String, String)>,
    /// Of name and value of each entry.
    fingerprints: Vec<(u32, u32)>,
    written: OnceLock<Box<RawValue>>,
}

impl Tags {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tag's value, by its name exactly as it was written.
    pub fn get(&self, name: &str) -> Option<&String> {
        let wanted = fingerprint(name);
        let is_it = |(of_name, _), other: &str| of_name == wanted && other == name;
        self.find(is_it).map(|(_, value)| value)
    }

    /// Whether there is a tag of exactly this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a tag of exactly this name has this value: where most do not, much quicker than to
    /// [`get`](Self::get) it.
    pub fn has(&self, name: &str, value: &str) -> bool {
        let wanted = (fingerprint(name), fingerprint(value));
        let found = self.find(|of, other| of == wanted && other == name);
        found.is_some_and(|(_, other)| other == value)
    }

    /// Whether there is a tag of this name, whatever its case, with this value if one is asked for.
    pub(crate) fn matches(&self, name: &str, value: Option<&str>) -> bool {
        let wanted = (fingerprint(name), value.map(fingerprint));
        let found = self.find(|of, other| {
            of.0 == wanted.0
                && wanted.1.is_none_or(|wanted| wanted == of.1)
                && other.eq_ignore_ascii_case(name)
        });
        found.is_some_and(|(_, other)| value.is_none_or(|value| value == other))
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &String)> {
        self.entries.iter().map(|(name, value)| (name, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a tag, or changes its value.
    pub fn insert(&mut self, name: String, value: String) {
        match self.entries.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (name, value)),
        }
        *self = Self::of(std::mem::take(&mut self.entries));
    }

    /// Removes what is not `wanted`, by name and value.
    pub fn retain(&mut self, mut wanted: impl FnMut(&str, &str) -> bool) {
        self.entries.retain(|(name, value)| wanted(name, value));
        *self = Self::of(std::mem::take(&mut self.entries));
    }

    /// As JSON.
    pub(crate) fn as_json(&self) -> &RawValue {
        self.written.get_or_init(|| to_raw_value(self).expect("strings can be written"))
    }

    /// `entries` are in the order of their names.
    fn of(entries: Vec<(String, String)>) -> Self {
        let of = |(name, value): &(String, String)| (fingerprint(name), fingerprint(value));
        Self { fingerprints: entries.iter().map(of).collect(), entries, written: OnceLock::new() }
    }

    /// The first entry that is wanted, by its fingerprints and its name.
    fn find(&self, wanted: impl Fn((u32, u32), &str) -> bool) -> Option<&(String, String)> {
        let mut both = self.fingerprints.iter().zip(&self.entries);
        both.find(|(of, (name, _))| wanted(**of, name)).map(|(_, entry)| entry)
    }
}

/// The same for the same text whatever the case of its letters, and for few others: by its length and
/// both ends, since many have one end in common.
fn fingerprint(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let n = bytes.len().min(8);
    let word = |end: &[u8]| {
        let mut word = [0; 8];
        word[..n].copy_from_slice(end);
        u64::from_le_bytes(word) | u64::from_le_bytes([b' '; 8])
    };
    let (first, last) = (word(&bytes[..n]), word(&bytes[bytes.len() - n..]));
    let mixed = first ^ last.rotate_left(31) ^ (bytes.len() as u64).rotate_left(50);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

impl PartialEq for Tags {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl FromIterator<(String, String)> for Tags {
    /// Of several with one name, the last counts.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(tags: I) -> Self {
        let tags: BTreeMap<String, String> = tags.into_iter().collect();
        Self::of(tags.into_iter().collect())
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tags = BTreeMap::<String, String>::deserialize(deserializer)?;
        Ok(tags.into_iter().collect())
    }
}

/// `operation` of a PATCH on `Microsoft.Resources/tags/default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TagOperation {
    /// Adds, or changes values.
    #[serde(alias = "merge")]
    Merge,
    /// Makes the tags exactly these.
    #[serde(alias = "replace")]
    Replace,
    /// Removes those with the same name and (unless empty) value.
    #[serde(alias = "delete")]
    Delete,
}

/// What can carry tags.
#[derive(Clone, Debug)]
pub(crate) enum Tagged {
    /// A resource.
    Resource(ArmId),
    /// A resource group.
    Group { subscription: String, group: String },
}

/// Checks ARM's limits.
///
/// # Errors
/// 400.
pub fn checked_tags(tags: Tags) -> Result<Tags, ArmError> {
    if tags.len() > 50 {
        return Err(ArmError::bad_request(
            "TooManyTags",
            format!("The resource has {} tags, which exceeds the limit of 50.", tags.len()),
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (name, value) in tags.iter() {
        if name.is_empty() || name.chars().count() > 512 {
            return Err(ArmError::bad_request(
                "InvalidTagNameLength",
                "Tag names must have 1 to 512 characters.",
            ));
        }
        if name.contains(['<', '>', '%', '&', '\\', '?', '/']) || name.contains(char::is_control) {
            return Err(ArmError::bad_request(
                "InvalidTagNameCharacters",
                format!(
                    "The tag names '{name}' have reserved characters '<,>,%,&,\\,?,/' or control \
                     characters."
                ),
            ));
        }
        if value.chars().count() > 256 {
            return Err(ArmError::bad_request(
                "InvalidTagValueLength",
                format!("The value of tag '{name}' exceeds the maximum length of 256 characters."),
            ));
        }
        if !seen.insert(name.to_lowercase()) {
            return Err(ArmError::bad_request(
                "DuplicateTagNames",
                format!("The tag name '{name}' occurs twice: tag names are not case sensitive."),
            ));
        }
    }
    Ok(tags)
}

/// Carries out a tag operation.
fn combined(mut old: Tags, operation: TagOperation, new: Tags) -> Tags {
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    match operation {
        TagOperation::Replace => return new,
        TagOperation::Merge => {
            for (name, value) in new.entries {
                old.retain(|existing, _| !same(existing, &name));
                old.insert(name, value);
            }
        }
        TagOperation::Delete => {
            for (name, value) in new.entries {
                old.retain(|existing, existing_value| {
                    !(same(existing, &name) && (value.is_empty() || *existing_value == value))
                });
            }
        }
    }
    old
}

impl World {
    /// The tags of a resource or group.
    pub(crate) fn tags_of(&self, target: &Tagged) -> Result<&Tags, ArmError> {
        match target {
            Tagged::Resource(id) => {
                self.state.common(id).map(|c| &c.tags).ok_or_else(|| super::disks::not_found(id))
            }
            Tagged::Group { subscription, group } => {
                self.state.group(subscription, group).map(|group| &group.tags)
            }
        }
    }

    /// Changes the tags of a resource or group, and nothing else of it.
    pub(crate) fn change_tags(
        &mut self,
        target: &Tagged,
        operation: TagOperation,
        tags: Tags,
    ) -> Result<Tags, ArmError> {
        let old = self.tags_of(target)?.clone();
        let tags = checked_tags(combined(old, operation, tags))?;
        match target {
            Tagged::Resource(id) => {
                if let Some(common) = self.state.common_mut(id) {
                    common.tags = tags.clone();
                }
                if let Some(vm) = self.state.vms.get_mut(&id.key()) {
                    vm.etag += 1;
                }
            }
            Tagged::Group { subscription, group } => {
                if let Some(group) = self.state.groups.get_mut(&group_key(subscription, group)) {
                    group.tags = tags.clone();
                }
            }
        }
        Ok(tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn tags_are_in_order_and_their_json_is_that_of_now() {
        let mut some = tags(&[("b", "2"), ("a", "\"1\"")]);
        assert_eq!(some.as_json().get(), r#"{"a":"\"1\"","b":"2"}"#);
        some.insert("c".into(), "3".into());
        some.insert("b".into(), String::new());
        assert_eq!(some.as_json().get(), r#"{"a":"\"1\"","b":"","c":"3"}"#);
        some.retain(|name, _| name != "a");
        assert_eq!(some.as_json().get(), r#"{"b":"","c":"3"}"#);
        assert_eq!((some.get("c").map(String::as_str), some.get("C")), (Some("3"), None));
        assert!(some.contains_key("b") && !some.contains_key("a"));
        assert!(some.has("c", "3") && some.has("b", ""));
        assert!(some.matches("C", None) && some.matches("C", Some("3")));
        assert!(!some.matches("C", Some("4")) && !some.matches("a", None));
        assert!(!some.has("c", "4") && !some.has("C", "3") && !some.has("a", "1"));
        assert_eq!(some.clone().as_json().get(), some.as_json().get());
        let read: Tags = serde_json::from_str(r#"{"z": "1", "y": "2", "z": "3"}"#).unwrap();
        assert_eq!(read, tags(&[("y", "2"), ("z", "3")]));
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::json!({"y": "2", "z": "3"}));
    }

    #[test]
    fn merge_treats_names_alike_whatever_their_case() {
        let merged = combined(
            tags(&[("Owner", "a"), ("x", "1")]),
            TagOperation::Merge,
            tags(&[("owner", "b")]),
        );
        assert_eq!(merged, tags(&[("owner", "b"), ("x", "1")]));
    }

    #[test]
    fn delete_takes_a_value_into_account_when_there_is_one() {
        let old = tags(&[("a", "1"), ("b", "2")]);
        let left = combined(old, TagOperation::Delete, tags(&[("a", "other"), ("b", "")]));
        assert_eq!(left, tags(&[("a", "1")]));
    }

    #[test]
    fn limits_are_those_of_arm() {
        assert!(checked_tags(tags(&[("a/b", "")])).is_err());
        assert!(checked_tags(tags(&[("a:b", &"v".repeat(256))])).is_ok());
        assert_eq!(
            checked_tags(tags(&[("a", &"v".repeat(257))])).unwrap_err().code,
            "InvalidTagValueLength"
        );
        let many = (0..51).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(checked_tags(many).unwrap_err().code, "TooManyTags");
    }
}
