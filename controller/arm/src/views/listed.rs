//! Items of long listings, read without the detour over a tree of values: thousands of resources with
//! kilobytes of tags each are listed again and again.
//!
//! As tolerant as the other views: a field of another type than expected counts as absent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use azdr_domain::ArmId;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ResourceSummary;

/// One item of a listing of resources; `None` when it has no ID that azdr can handle.
pub(crate) struct Listed(pub(crate) Option<ResourceSummary>);

#[derive(serde::Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default, rename = "type")]
    resource_type: Text<'a>,
    #[serde(default)]
    tags: Tags,
    #[serde(borrow, default)]
    location: Text<'a>,
    #[serde(borrow, default, rename = "createdTime")]
    created: Text<'a>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let item = Item::deserialize(deserializer)?;
        let id = item.id.0.and_then(|id| ArmId::parse(&id).ok());
        Ok(Self(id.map(|id| ResourceSummary {
            resource_type:
                item.resource_type.0.map_or_else(|| id.resource_type().to_owned(), Cow::into_owned),
            tags: item.tags.0,
            location: item.location.0.map(Cow::into_owned),
            created: item.created.0.and_then(|at| at.parse().ok()),
            id,
        })))
    }
}

/// A string; anything else counts as absent.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

/// The strings of an object; anything else counts as absent.
#[derive(Default)]
struct Tags(BTreeMap<String, String>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TagsVisitor)
    }
}

struct TextVisitor;
struct TagsVisitor;

/// What is absent, whatever it is.
macro_rules! ignore {
    ($($visit:ident($of:ty)),*) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
            while values.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
        $(fn $visit<E>(self, _: $of) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*
    };
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    ignore!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = Tags;

    ignore!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut tags = BTreeMap::new();
        while let Some((name, value)) = fields.next_entry::<String, Text<'de>>()? {
            if let Some(value) = value.0 {
                tags.insert(name, value.into_owned());
            }
        }
        Ok(Tags(tags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Option<ResourceSummary> {
        serde_json::from_str::<Listed>(text).unwrap().0
    }

    #[test]
    fn an_item_is_read_with_its_tags_and_whatever_else_it_has() {
        let found = listed(
            r#"{"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d",
                "sku": {"name": "x"}, "tags": {"a": "b\"c", "n": 1, "m": {"x": [1]}, "z": null},
                "location": "eastus", "createdTime": "2025-12-01T08:00:00.0000000+00:00"}"#,
        )
        .unwrap();
        assert_eq!(found.resource_type, "Microsoft.Compute/disks");
        assert_eq!(found.tags, BTreeMap::from([("a".to_owned(), "b\"c".to_owned())]));
        assert_eq!(found.location.as_deref(), Some("eastus"));
        assert_eq!(found.created.unwrap().unix_ms(), 1_764_576_000_000);
    }

    #[test]
    fn odd_fields_count_as_absent() {
        for odd in ["7", "-7", "1.5", "true", "null", "[[1], {}]", r#"{"a": [1]}"#, r#""text""#] {
            let item = format!(
                r#"{{"tags": {odd}, "location": {odd}, "createdTime": {odd}, "type": {odd},
                     "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.X/y/z"}}"#
            );
            let found = listed(&item).unwrap();
            assert!(found.tags.is_empty() || odd.starts_with('{'), "{odd}");
            assert_eq!(found.location.is_some(), odd.starts_with('"'), "{odd}");
            assert_eq!(found.created, None, "{odd}");
            assert!(listed(&format!(r#"{{"id": {odd}}}"#)).is_none(), "{odd}");
        }
        assert!(listed("{}").is_none());
    }
}
