//! Tags: their limits, and the tags API (merge, replace, delete).

use serde::Deserialize;

use super::state::{Tags, group_key};
use super::{ArmError, ArmId, World};

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
    for (name, value) in &tags {
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
            for (name, value) in new {
                old.retain(|existing, _| !same(existing, &name));
                old.insert(name, value);
            }
        }
        TagOperation::Delete => {
            for (name, value) in new {
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
