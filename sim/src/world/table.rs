//! Tables that remember what was changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// One record's new content, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Table name.
    pub t: String,
    /// Record key.
    pub k: String,
    /// The record; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<Value>,
}

/// Records by key, in key order, with a note of what changed since it was last
/// journalled.
#[derive(Debug)]
pub struct Table<T> {
    name: &'static str,
    records: BTreeMap<String, T>,
    dirty: BTreeSet<String>,
    forgetful: bool,
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// An empty table.
    pub fn new(name: &'static str) -> Self {
        Self { name, records: BTreeMap::new(), dirty: BTreeSet::new(), forgetful: false }
    }

    /// The record at `key`.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.records.get(key)
    }

    /// The record at `key`, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        let record = self.records.get_mut(key)?;
        if !self.forgetful {
            self.dirty.insert(key.to_owned());
        }
        Some(record)
    }

    /// Writes a record.
    pub fn insert(&mut self, key: String, record: T) {
        if !self.forgetful {
            self.dirty.insert(key.clone());
        }
        self.records.insert(key, record);
    }

    /// Removes a record.
    pub fn remove(&mut self, key: &str) -> Option<T> {
        let record = self.records.remove(key)?;
        if !self.forgetful {
            self.dirty.insert(key.to_owned());
        }
        Some(record)
    }

    /// From now on no change is noted: there is no journal to write it to.
    pub(super) fn forget_changes(&mut self) {
        self.forgetful = true;
        self.dirty.clear();
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.records.iter()
    }

    /// The records whose key begins with `prefix`.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a T)> {
        self.with_prefix_after(prefix, None)
    }

    /// The records whose key begins with `prefix` and comes after `after`.
    pub fn with_prefix_after<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a String, &'a T)> {
        let from = match after.filter(|after| *after > prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        self.records
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes a journalled change that belongs to this table; `false` if it belongs to another.
    pub(super) fn apply(&mut self, change: &Change) -> Result<bool, serde_json::Error> {
        if change.t != self.name {
            return Ok(false);
        }
        match &change.v {
            Some(value) => {
                self.records.insert(change.k.clone(), serde_json::from_value(value.clone())?);
            }
            None => {
                self.records.remove(&change.k);
            }
        }
        Ok(true)
    }

    /// Moves what has changed since the last call into `into`.
    pub(super) fn drain(&mut self, into: &mut Vec<Change>) {
        for key in std::mem::take(&mut self.dirty) {
            let v = self.records.get(&key).map(|record| {
                serde_json::to_value(record).expect("records are plain data with string keys")
            });
            into.push(Change { t: self.name.to_owned(), k: key, v });
        }
    }

    /// Marks every record as changed: for a checkpoint.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.records.keys().cloned());
    }
}
