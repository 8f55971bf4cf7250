//! What can be put on any scope: tags and locks.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::Reply;
use super::router::Scope;
use super::versions;
use crate::world::{ArmError, ArmId, Lock, TagOperation, Tagged, Tags};

#[derive(Deserialize)]
struct TagsBody {
    operation: Option<TagOperation>,
    #[serde(default)]
    properties: TagsProperties,
}

#[derive(Default, Deserialize)]
struct TagsProperties {
    #[serde(default)]
    tags: Tags,
}

impl Scope<'_> {
    /// Answers if the path ends in the tags or the locks of some scope.
    pub(super) fn scoped(&mut self, lower: &[&str]) -> Option<Result<Reply, ArmError>> {
        let at = lower.len();
        match lower {
            [.., "providers", "microsoft.resources", "tags", "default"] => Some(self.tags(at - 4)),
            [.., "providers", "microsoft.authorization", "locks"] => Some(self.locks(at - 3)),
            [.., "providers", "microsoft.authorization", "locks", _] => Some(self.one_lock(at - 4)),
            _ => None,
        }
    }

    fn tagged(&self, length: usize) -> Result<Tagged, ArmError> {
        let segments = &self.request.segments[..length];
        match segments {
            [_, subscription, _, group] => {
                Ok(Tagged::Group { subscription: subscription.clone(), group: group.clone() })
            }
            _ => ArmId::parse(&segments.join("/"))
                .map(Tagged::Resource)
                .ok_or_else(|| self.unknown()),
        }
    }

    fn tags(&mut self, length: usize) -> Result<Reply, ArmError> {
        versions::check(self.request, "microsoft.resources", "tags")?;
        let target = self.tagged(length)?;
        let operation = match self.request.method {
            Method::GET => {
                let tags = self.world.tags_of(&target)?;
                return Ok(Reply::json(200, self.tags_document(length, tags)));
            }
            Method::DELETE => {
                self.world.change_tags(&target, TagOperation::Replace, Tags::new())?;
                return Ok(Reply::empty(200));
            }
            Method::PUT => Some(TagOperation::Replace),
            Method::PATCH => None,
            _ => return Err(self.method_not_allowed()),
        };
        let body: TagsBody = self.request.json()?;
        let operation = operation.or(body.operation).ok_or_else(|| {
            ArmError::bad_request(
                "InvalidTagsPatchOperation",
                "The tags patch operation is missing.",
            )
        })?;
        let tags = self.world.change_tags(&target, operation, body.properties.tags)?;
        Ok(Reply::json(200, self.tags_document(length, &tags)))
    }

    fn tags_document(&self, length: usize, tags: &Tags) -> Value {
        let scope = self.request.segments[..length].join("/");
        json!({
            "id": format!("/{scope}/providers/Microsoft.Resources/tags/default"),
            "name": "default",
            "type": "Microsoft.Resources/tags",
            "properties": {"tags": tags},
        })
    }

    fn locks(&mut self, length: usize) -> Result<Reply, ArmError> {
        versions::check(self.request, "microsoft.authorization", "locks")?;
        let scope = format!("/{}", self.request.segments[..length].join("/"));
        let value: Vec<Value> = self.world.locks_at(&scope).map(lock_document).collect();
        Ok(Reply::json(200, json!({"value": value})))
    }

    fn one_lock(&mut self, length: usize) -> Result<Reply, ArmError> {
        versions::check(self.request, "microsoft.authorization", "locks")?;
        let scope = format!("/{}", self.request.segments[..length].join("/"));
        let name = self.request.segments[length + 3].clone();
        let missing =
            || ArmError::new(404, "LockNotFound", format!("The lock '{name}' could not be found."));
        match self.request.method {
            Method::PUT => {
                let created = self.world.put_lock(&scope, &name, self.request.json()?)?;
                let lock = self.world.lock(&scope, &name).ok_or_else(missing)?;
                Ok(Reply::json(if created { 201 } else { 200 }, lock_document(lock)))
            }
            Method::GET => {
                let lock = self.world.lock(&scope, &name).ok_or_else(missing)?;
                Ok(Reply::json(200, lock_document(lock)))
            }
            Method::DELETE => {
                Ok(Reply::empty(if self.world.delete_lock(&scope, &name) { 200 } else { 204 }))
            }
            _ => Err(self.method_not_allowed()),
        }
    }
}

fn lock_document(lock: &Lock) -> Value {
    let mut properties = json!({"level": lock.level});
    if let Some(notes) = &lock.notes {
        properties["notes"] = json!(notes);
    }
    json!({
        "id": lock.id,
        "name": lock.name,
        "type": "Microsoft.Authorization/locks",
        "properties": properties,
    })
}
