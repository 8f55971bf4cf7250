//! Subscriptions, resource groups, and listings across types.

use http::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::listing::{Document, after, mixed_case, page};
use super::lro::Announce;
use super::reply::Reply;
use super::router::Scope;
use super::times::azure_time;
use super::versions;
use crate::world::{ArmError, Common, Group, Kind, State, Tags};

impl Scope<'_> {
    pub(super) fn subscriptions(&mut self) -> Result<Reply, ArmError> {
        let all = self.world.state.facts.subscriptions.clone();
        let value: Vec<Value> = all.iter().map(|s| self.subscription(s)).collect();
        Ok(Reply::json(
            200,
            json!({"value": value, "count": {"type": "Total", "value": value.len()}}),
        ))
    }

    pub(super) fn subscription(&self, id: &str) -> Value {
        json!({
            "id": format!("/subscriptions/{id}"),
            "subscriptionId": id,
            "tenantId": self.world.state.facts.tenant,
            "displayName": "Simulated subscription",
            "state": "Enabled",
            "authorizationSource": "RoleBased",
            "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "quotaId": "PayAsYouGo_2014-09-01", "spendingLimit": "Off"},
        })
    }

    pub(super) fn tenants(&mut self) -> Result<Reply, ArmError> {
        let tenant = &self.world.state.facts.tenant;
        Ok(Reply::json(
            200,
            json!({"value": [{"id": format!("/tenants/{tenant}"), "tenantId": tenant, "displayName": "Simulated tenant"}]}),
        ))
    }

    pub(super) fn locations(&mut self) -> Result<Reply, ArmError> {
        let subscription = &self.request.segments[1];
        let value: Vec<Value> = self
            .world
            .state
            .facts
            .regions
            .iter()
            .map(|region| {
                json!({
                    "id": format!("/subscriptions/{subscription}/locations/{region}"),
                    "name": region,
                    "displayName": region,
                    "regionalDisplayName": region,
                    "type": "Region",
                    "metadata": {"regionType": "Physical"},
                })
            })
            .collect();
        Ok(Reply::json(200, json!({"value": value})))
    }

    /// A provider's registration: which types there are, and their api-versions.
    pub(super) fn provider(&mut self, namespace: &str) -> Result<Reply, ArmError> {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| kind.namespace().eq_ignore_ascii_case(namespace))
            .collect();
        let Some(first) = kinds.first() else {
            return Err(ArmError::new(
                404,
                "InvalidResourceNamespace",
                format!("The resource namespace '{namespace}' is invalid."),
            ));
        };
        let types: Vec<Value> = kinds
            .iter()
            .map(|kind| {
                let mut accepted = versions::accepted(namespace, &kind.collection().to_lowercase())
                    .unwrap_or_default()
                    .to_vec();
                accepted.reverse();
                json!({
                    "resourceType": kind.collection(),
                    "locations": self.world.state.facts.regions,
                    "apiVersions": accepted,
                })
            })
            .collect();
        let id =
            format!("/subscriptions/{}/providers/{}", self.request.segments[1], first.namespace());
        Ok(Reply::json(
            200,
            json!({"id": id, "namespace": first.namespace(), "registrationState": "Registered", "resourceTypes": types}),
        ))
    }

    pub(super) fn groups(&mut self, subscription: &str) -> Result<Reply, ArmError> {
        let filter = Filter::parse(self.request.param("$filter"))?;
        let prefix = format!("/subscriptions/{subscription}/").to_lowercase();
        let after = after(self.request);
        let groups = self
            .world
            .state
            .groups
            .with_prefix_after(&prefix, after.as_deref())
            .filter(|(_, group)| filter.tags_match(&group.tags));
        Ok(page(self.request, groups, &self.world.limits, group_document))
    }

    pub(super) fn one_group(&mut self, subscription: &str, name: &str) -> Result<Reply, ArmError> {
        match self.request.method {
            Method::GET => {
                let group = self.world.state.group(subscription, name)?;
                Ok(Reply::json(200, group_document(group)))
            }
            Method::HEAD => {
                let exists = self.world.state.group(subscription, name).is_ok();
                Ok(Reply::empty(if exists { 204 } else { 404 }))
            }
            Method::PUT => {
                let accepted = self.world.put_group(subscription, name, self.request.json()?)?;
                let group = self.world.state.group(subscription, name)?;
                Ok(Reply::json(if accepted.created { 201 } else { 200 }, group_document(group)))
            }
            Method::PATCH => {
                self.world.patch_group(subscription, name, self.request.json()?)?;
                let group = self.world.state.group(subscription, name)?;
                Ok(Reply::json(200, group_document(group)))
            }
            Method::DELETE => {
                let accepted =
                    self.world.delete_group(subscription, name, self.injected, self.now)?;
                Ok(self.announce(Reply::empty(202), Announce::LocationOnly, &accepted))
            }
            _ => Err(self.method_not_allowed()),
        }
    }

    /// A listing of resources of all types. As documented, tags cannot be combined with other
    /// filters, and a listing by tag name *and* value does not show the tags.
    pub(super) fn resources(
        &mut self,
        subscription: &str,
        group: Option<&str>,
    ) -> Result<Reply, ArmError> {
        let filter = Filter::parse(self.request.param("$filter"))?;
        let prefix = match group {
            Some(group) => {
                self.world.state.group(subscription, group)?;
                format!("/subscriptions/{subscription}/resourceGroups/{group}/").to_lowercase()
            }
            None => format!("/subscriptions/{subscription}/").to_lowercase(),
        };
        let after = after(self.request);
        let state = &self.world.state;
        let found = state
            .all_common_in_order(&prefix, after.as_deref(), |common| filter.matches(common))
            .map(|(key, common)| (key, (key, common)));
        let expand = self.request.param("$expand").unwrap_or_default().to_lowercase();
        let (with_time, with_state) =
            (expand.contains("createdtime"), expand.contains("provisioningstate"));
        let with_tags = !filter.by_tag_value();
        let render = |(key, common): (&String, _)| {
            line(state, key, common, with_tags, with_time, with_state)
        };
        Ok(page(self.request, found, &self.world.limits, render))
    }
}

/// One resource in a listing of all types.
#[derive(Serialize)]
struct Line<'a> {
    id: String,
    name: &'a str,
    r#type: &'static str,
    location: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a RawValue>,
    #[serde(rename = "createdTime", skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(rename = "provisioningState", skip_serializing_if = "Option::is_none")]
    provisioning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku: Option<Sku<'a>>,
}

#[derive(Serialize)]
struct Sku<'a> {
    name: &'a str,
}

impl Document for Line<'_> {
    fn mix_case(&mut self) {
        self.id = mixed_case(&self.id).unwrap_or_else(|| std::mem::take(&mut self.id));
    }
}

fn line<'a>(
    state: &'a State,
    key: &str,
    common: &'a Common,
    with_tags: bool,
    with_time: bool,
    with_state: bool,
) -> Line<'a> {
    let sku = match common.id.kind {
        Kind::Disk => state.disks.get(key).map(|disk| disk.volume.sku.as_str()),
        Kind::Snapshot => state.snapshots.get(key).map(|snapshot| snapshot.volume.sku.as_str()),
        _ => None,
    };
    Line {
        id: common.id.to_string(),
        name: &common.id.name,
        r#type: common.id.kind.type_name(),
        location: &common.location,
        tags: (with_tags && !common.tags.is_empty()).then(|| common.tags.as_json()),
        created: with_time.then(|| azure_time(common.created)),
        provisioning: with_state.then_some(&common.provisioning),
        sku: sku.map(|name| Sku { name }),
    }
}

fn group_document(group: &Group) -> Value {
    let state = if group.deleting { "Deleting" } else { "Succeeded" };
    let mut document = json!({
        "id": format!("/subscriptions/{}/resourceGroups/{}", group.subscription, group.name),
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "properties": {"provisioningState": state},
    });
    if !group.tags.is_empty() {
        document["tags"] = json!(group.tags);
    }
    document
}

/// A `$filter`: `name eq 'value'`, joined by `and`.
#[derive(Debug, Default)]
struct Filter {
    terms: Vec<(String, String)>,
    /// The tag's name and its value, where the terms have them.
    tag: Option<(String, Option<String>)>,
}

impl Filter {
    fn parse(text: Option<&str>) -> Result<Self, ArmError> {
        let mut filter = Self::default();
        let Some(text) = text.map(str::trim).filter(|t| !t.is_empty()) else { return Ok(filter) };
        let invalid = || {
            ArmError::bad_request(
                "InvalidFilterInQueryString",
                format!("Invalid $filter '{text}' specified in the query string."),
            )
        };
        let mut rest = text;
        loop {
            let (name, after) = rest.split_once(' ').ok_or_else(invalid)?;
            let after = after.trim_start();
            let value = after.strip_prefix("eq ").ok_or_else(invalid)?.trim_start();
            let (value, after) = quoted(value).ok_or_else(invalid)?;
            let name = name.to_lowercase();
            let known =
                ["tagname", "tagvalue", "resourcetype", "resourcegroup", "name", "location"];
            if !known.contains(&name.as_str()) {
                return Err(invalid());
            }
            filter.terms.push((name, value));
            let after = after.trim();
            if after.is_empty() {
                break;
            }
            rest = after.strip_prefix("and ").ok_or_else(invalid)?.trim_start();
        }
        let tags = filter.terms.iter().filter(|(name, _)| name.starts_with("tag")).count();
        if tags > 0 && tags < filter.terms.len() {
            return Err(invalid());
        }
        if filter.value("tagvalue").is_some() && filter.value("tagname").is_none() {
            return Err(invalid());
        }
        let value = filter.value("tagvalue").map(str::to_owned);
        filter.tag = filter.value("tagname").map(|name| (name.to_owned(), value));
        Ok(filter)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.terms.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn by_tag_value(&self) -> bool {
        self.value("tagvalue").is_some()
    }

    fn tags_match(&self, tags: &Tags) -> bool {
        let Some((name, value)) = &self.tag else { return true };
        tags.matches(name, value.as_deref())
    }

    fn matches(&self, common: &Common) -> bool {
        let is = |name: &str, actual: &str| {
            self.value(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(actual))
        };
        if self.tag.is_some() {
            // Tags are not combined with anything else.
            return self.tags_match(&common.tags);
        }
        is("resourcetype", common.id.kind.type_name())
            && is("resourcegroup", &common.id.group)
            && is("name", &common.id.name)
            && is("location", &common.location)
    }
}

/// The content of a quoted string (`''` is a quote) and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.strip_prefix('\'')?.char_indices();
    let body = &text[1..];
    while let Some((at, c)) = characters.next() {
        if c != '\'' {
            value.push(c);
        } else if body[at + 1..].starts_with('\'') {
            value.push('\'');
            characters.next();
        } else {
            return Some((value, &body[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_with_their_quotes() {
        let filter = Filter::parse(Some("tagName eq 'a b' and tagValue eq 'it''s'")).unwrap();
        assert_eq!(filter.value("tagname"), Some("a b"));
        assert_eq!(filter.value("tagvalue"), Some("it's"));
        assert!(Filter::parse(Some("tagName eq 'a' and resourceType eq 'b'")).is_err());
        assert!(Filter::parse(Some("colour eq 'a'")).is_err());
        assert!(Filter::parse(Some("name eq 'open")).is_err());
    }
}
