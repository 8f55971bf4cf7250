//! Items of long listings, read without the detour over a tree of values: thousands of resources with
//! kilobytes of tags each are listed again and again.
//!
//! As tolerant as the other views: a field of another type than expected counts as absent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use azdr_domain::ArmId;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::ResourceSummary;

/// Which tags a listing is read for. The others are passed over: a resource may have 50 of 256
/// characters each, and most listings are made for two or three of them.
pub trait WantedTags {
    /// Whether a tag of this name is read; names are compared without regard to case.
    fn wants(name: &str) -> bool;
}

/// Every tag.
pub(crate) struct AllTags;

impl WantedTags for AllTags {
    fn wants(_: &str) -> bool {
        true
    }
}

/// One item of a listing of resources; `None` when it has no ID that azdr can handle.
pub(crate) struct Listed<W = AllTags>(pub(crate) Option<ResourceSummary>, PhantomData<fn() -> W>);

#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "W: WantedTags"))]
struct Item<'a, W> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default, rename = "type")]
    resource_type: Text<'a>,
    #[serde(default)]
    tags: Tags<W>,
    #[serde(borrow, default)]
    location: Text<'a>,
    #[serde(borrow, default, rename = "createdTime")]
    created: Text<'a>,
}

impl<'de, W: WantedTags> Deserialize<'de> for Listed<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let item = Item::<W>::deserialize(deserializer)?;
        let id = item.id.0.and_then(|id| ArmId::parse(&id).ok());
        let summary = id.map(|id| ResourceSummary {
            resource_type: item
                .resource_type
                .0
                .map_or_else(|| id.resource_type().to_owned(), Cow::into_owned),
            tags: item.tags.0,
            location: item.location.0.map(Cow::into_owned),
            created: item.created.0.and_then(|at| at.parse().ok()),
            id,
        });
        Ok(Self(summary, PhantomData))
    }
}

/// A tag's name, borrowed where nothing in it is escaped.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A string; anything else counts as absent.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

/// The wanted strings of an object; anything else counts as absent.
struct Tags<W>(BTreeMap<String, String>, PhantomData<fn() -> W>);

impl<W> Default for Tags<W> {
    fn default() -> Self {
        Self(BTreeMap::new(), PhantomData)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

impl<'de, W: WantedTags> Deserialize<'de> for Tags<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TagsVisitor(PhantomData))
    }
}

struct TextVisitor;
struct TagsVisitor<W>(PhantomData<W>);

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

impl<'de, W: WantedTags> Visitor<'de> for TagsVisitor<W> {
    type Value = Tags<W>;

    ignore!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut tags = BTreeMap::new();
        while let Some(Name(name)) = fields.next_key()? {
            if !W::wants(&name) {
                fields.next_value::<IgnoredAny>()?;
            } else if let Some(value) = fields.next_value::<Text<'de>>()?.0 {
                tags.insert(name.into_owned(), value.into_owned());
            }
        }
        Ok(Tags(tags, PhantomData))
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
    fn unwanted_tags_are_passed_over() {
        struct Short;
        impl WantedTags for Short {
            fn wants(name: &str) -> bool {
                name.len() == 1
            }
        }
        let text = r#"{"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.X/y/z",
            "tags": {"a": "1", "long": "2", "longer": {"x": []}, "\u0062": "3", "c": 4}}"#;
        let found = serde_json::from_str::<Listed<Short>>(text).unwrap().0.unwrap();
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found.tags, BTreeMap::from([of("a", "1"), of("b", "3")]));
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
