//! What is shown of a resource.

use std::ops::{Index, IndexMut};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::listing::{Document, mixed_case};
use crate::world::{Common, Tags};

/// A resource's document: its fields, and its tags as they are written already.
pub(super) struct Shown {
    fields: Map<String, Value>,
    tags: Option<Box<RawValue>>,
}

impl Shown {
    /// These fields and the tags, if there are any.
    pub(super) fn new(fields: Map<String, Value>, tags: &Tags) -> Self {
        Self { fields, tags: (!tags.is_empty()).then(|| tags.as_json().to_owned()) }
    }

    /// What every document has.
    pub(super) fn of(common: &Common) -> Self {
        let mut fields = Map::new();
        fields.insert("name".into(), json!(common.id.name));
        fields.insert("id".into(), json!(common.id.to_string()));
        fields.insert("type".into(), json!(common.id.kind.type_name()));
        fields.insert("location".into(), json!(common.location));
        Self::new(fields, &common.tags)
    }
}

impl Index<&str> for Shown {
    type Output = Value;

    /// `null` for what there is not.
    fn index(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }
}

impl IndexMut<&str> for Shown {
    fn index_mut(&mut self, name: &str) -> &mut Value {
        self.fields.entry(name).or_insert(Value::Null)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        if let Some(tags) = &self.tags {
            map.serialize_entry("tags", tags)?;
        }
        map.end()
    }
}

impl Document for Shown {
    fn mix_case(&mut self) {
        self.fields.mix_case();
    }
}

impl Document for Map<String, Value> {
    fn mix_case(&mut self) {
        if let Some(Value::String(id)) = self.get_mut("id")
            && let Some(mixed) = mixed_case(id)
        {
            *id = mixed;
        }
    }
}
