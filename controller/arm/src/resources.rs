//! `Microsoft.Resources`: groups, tags, and the listing by which residue is found. Raw JSON on the
//! pipeline.

use std::collections::BTreeMap;

use azdr_domain::{ArmId, RESOURCE_GROUP_TYPE};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::client::{ArmClient, Call, json_body};
use crate::compute::{invalid_id, with_api};
use crate::error::{AzureError, ErrorClass};
use crate::lro::{Action, Family, FinalResult, Started};
use crate::views::{Listed, ResourceGroup, ResourceSummary, WantedTags, tags};

const RESOURCES_API: &str = "2021-04-01";
const LOCATIONS_API: &str = "2022-12-01";

impl ArmClient {
    /// Makes sure that a resource group exists, and returns it. An existing one is left as it is, its
    /// region and tags included. After a time-out it may exist: repeat it.
    ///
    /// # Errors
    /// `Conflict` while a group of that name is being deleted; `Denied`.
    pub async fn ensure_resource_group(
        &self,
        id: &ArmId,
        location: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<ResourceGroup, AzureError> {
        match self.get_resource_group(id).await {
            Ok(group) if group.provisioning_state.as_deref() != Some("Deleting") => {
                return Ok(group);
            }
            Ok(_) => {
                let message = "the resource group is being deleted";
                return Err(AzureError::new(
                    ErrorClass::Conflict,
                    "AnotherOperationInProgress",
                    message,
                )
                .for_resource(id.as_str()));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let body = json!({"location": location, "tags": tags});
        let url = self.core.url(&with_api(id, RESOURCES_API))?;
        let answer = self.send(Call::new(Method::PUT, url).json(&body)).await?;
        Ok(ResourceGroup::from_json(&json_body(&answer)?))
    }

    /// Reads a resource group. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_resource_group(&self, id: &ArmId) -> Result<ResourceGroup, AzureError> {
        expect_group(id)?;
        Ok(ResourceGroup::from_json(&self.get_json(&with_api(id, RESOURCES_API)).await?))
    }

    /// Deletes a resource group **and everything in it**; one that does not exist is a success. Takes
    /// minutes. After a time-out it may be going: repeat it.
    ///
    /// # Errors
    /// `Locked` when it or anything in it is.
    pub async fn begin_delete_resource_group(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_group(id)?;
        let url = self.core.url(&with_api(id, RESOURCES_API))?;
        let answer = self.send(Call::new(Method::DELETE, url)).await;
        let result = FinalResult::Nothing;
        self.began(id, Action::Delete, Family::Group, result, RESOURCES_API, answer)
    }

    /// The regions in which a subscription may have resources, by their short names (`westus2`). A
    /// time-out changes nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_locations(&self, subscription: &str) -> Result<Vec<String>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(invalid_id)?;
        let path = format!("/subscriptions/{subscription}/locations?api-version={LOCATIONS_API}");
        let items = self.list_json(&path).await?;
        // Geographies and edge zones are listed beside regions.
        let is_region = |item: &&Value| {
            item.get("type").and_then(Value::as_str).is_none_or(|t| t == "Region")
                && item.pointer("/metadata/regionType").and_then(Value::as_str) != Some("Logical")
        };
        let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
        Ok(items.iter().filter(is_region).filter_map(name).collect())
    }

    /// All resources of a subscription that carry a tag with this value. A time-out changes nothing.
    ///
    /// The listing lags behind changes by up to a minute: also read what the journal names.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_by_tag(
        &self,
        subscription: &str,
        name: &str,
        value: &str,
    ) -> Result<Vec<ResourceSummary>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(invalid_id)?;
        let quoted = |text: &str| text.replace('\'', "''");
        let filter = format!("tagName eq '{}' and tagValue eq '{}'", quoted(name), quoted(value));
        let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
        let path = format!(
            "/subscriptions/{subscription}/resources?$filter={filter}&api-version={RESOURCES_API}"
        );
        Ok(self.list::<Listed>(&path).await?.into_iter().filter_map(|item| item.0).collect())
    }

    /// All resources of a subscription that carry a tag, whatever its value, with those of their tags
    /// that `W` wants ([`ArmClient::list_by_tag`] shows none) and times of creation. A time-out changes
    /// nothing.
    ///
    /// The listing lags behind changes by up to a minute.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_with_tag<W: WantedTags>(
        &self,
        subscription: &str,
        name: &str,
    ) -> Result<Vec<ResourceSummary>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(invalid_id)?;
        let filter = format!("tagName eq '{}'", name.replace('\'', "''"));
        let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
        let path = format!(
            "/subscriptions/{subscription}/resources?$filter={filter}&$expand=createdTime\
             &api-version={RESOURCES_API}"
        );
        Ok(self.list::<Listed<W>>(&path).await?.into_iter().filter_map(|item| item.0).collect())
    }

    /// All resource groups of a subscription that carry a tag, whatever its value. A time-out changes
    /// nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_resource_groups_with_tag(
        &self,
        subscription: &str,
        name: &str,
    ) -> Result<Vec<ResourceGroup>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(invalid_id)?;
        let filter = format!("tagName eq '{}'", name.replace('\'', "''"));
        let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
        let path = format!(
            "/subscriptions/{subscription}/resourcegroups?$filter={filter}\
             &api-version={RESOURCES_API}"
        );
        Ok(self.list_json(&path).await?.iter().map(ResourceGroup::from_json).collect())
    }

    /// Everything in a resource group; empty for one that does not exist. A time-out changes nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_in_group(&self, id: &ArmId) -> Result<Vec<ResourceSummary>, AzureError> {
        expect_group(id)?;
        let path = format!("{}/resources?api-version={RESOURCES_API}", id.as_str());
        match self.list::<Listed>(&path).await {
            Ok(items) => Ok(items.into_iter().filter_map(|item| item.0).collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// All resource groups of a subscription that carry a tag with this value (they are not in
    /// [`ArmClient::list_by_tag`]). A time-out changes nothing.
    ///
    /// # Errors
    /// Any; a listing is whole or an error.
    pub async fn list_resource_groups_by_tag(
        &self,
        subscription: &str,
        name: &str,
        value: &str,
    ) -> Result<Vec<ResourceGroup>, AzureError> {
        ArmId::resource_group_id(subscription, "g").map_err(invalid_id)?;
        let quoted = |text: &str| text.replace('\'', "''");
        let filter = format!("tagName eq '{}' and tagValue eq '{}'", quoted(name), quoted(value));
        let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
        let path = format!(
            "/subscriptions/{subscription}/resourcegroups?$filter={filter}\
             &api-version={RESOURCES_API}"
        );
        Ok(self.list_json(&path).await?.iter().map(ResourceGroup::from_json).collect())
    }

    /// Sets these tags of a resource and leaves its others alone. Repeating it changes nothing; after
    /// a time-out they may be set: repeat it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` beyond 50 tags or for a value beyond 256 characters.
    pub async fn merge_tags(
        &self,
        id: &ArmId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), AzureError> {
        let body = json!({"operation": "Merge", "properties": {"tags": tags}});
        let call = Call::new(Method::PATCH, self.core.url(&tags_path(id))?).json(&body);
        self.send(call).await.map(drop)
    }

    /// Removes these tags of a resource, whatever their values, and leaves its others alone.
    /// Repeating it changes nothing; after a time-out they may be gone: repeat it.
    ///
    /// # Errors
    /// `NotFound` when the resource does not exist.
    pub async fn remove_tags(&self, id: &ArmId, names: &[String]) -> Result<(), AzureError> {
        let present = self.get_tags(id).await?;
        let tags: BTreeMap<_, _> = present
            .into_iter()
            .filter(|(name, _)| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
            .collect();
        if tags.is_empty() {
            return Ok(());
        }
        let body = json!({"operation": "Delete", "properties": {"tags": tags}});
        let call = Call::new(Method::PATCH, self.core.url(&tags_path(id))?).json(&body);
        self.send(call).await.map(drop)
    }

    /// The tags of a resource. A time-out changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get_tags(&self, id: &ArmId) -> Result<BTreeMap<String, String>, AzureError> {
        let value = self.get_json(&tags_path(id)).await?;
        Ok(value.get("properties").map(tags).unwrap_or_default())
    }
}

fn tags_path(id: &ArmId) -> String {
    format!(
        "{}/providers/Microsoft.Resources/tags/default?api-version={RESOURCES_API}",
        id.as_str()
    )
}

fn expect_group(id: &ArmId) -> Result<(), AzureError> {
    if id.is_type(RESOURCE_GROUP_TYPE) {
        return Ok(());
    }
    let message = format!("{} is not a resource group", id.as_str());
    Err(AzureError::new(ErrorClass::Invalid, "WrongResourceType", message))
}
