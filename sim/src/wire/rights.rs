//! What a request does, in the words of role definitions, and to what else it reaches.

use http::Method;
use serde_json::Value;

use super::router::Scope;
use crate::world::ArmError;

impl Scope<'_> {
    /// Refuses what the token's principal has no right to, here or on what the body refers to.
    pub(super) fn check_rights(&self) -> Result<(), ArmError> {
        if self.world.state.assignments.is_empty() || self.request.lower.len() < 2 {
            return Ok(());
        }
        let claims = self.request.bearer().and_then(|token| self.signer.claims(token));
        let principal = claims.as_deref().and_then(|claims| claims["appid"].as_str());
        let principal = principal.unwrap_or_default();
        let action = self.action();
        // Listings and operations of a subscription are read with a right to anything in it.
        let segments = &self.request.segments;
        let in_group = self.request.lower.get(2).is_some_and(|s| s == "resourcegroups");
        let of_subscription = action.ends_with("/read") && !(in_group && segments.len() > 3);
        let depth = if of_subscription { 2 } else { segments.len() };
        let scope = format!("/{}", segments[..depth].join("/"));
        self.world.check_right(principal, &action, &scope)?;
        for (linked_action, linked) in self.linked() {
            self.world.check_linked_right(principal, &action, &scope, linked_action, &linked)?;
        }
        Ok(())
    }

    fn action(&self) -> String {
        let kind = match self.request.kind() {
            "Microsoft.Resources/resourceGroups" => {
                "Microsoft.Resources/subscriptions/resourceGroups"
            }
            "Microsoft.Resources/resources" => "Microsoft.Resources/subscriptions/resources",
            kind => kind,
        };
        let verb = match self.request.method {
            Method::GET | Method::HEAD => "read",
            Method::POST => "action",
            Method::DELETE => "delete",
            _ => "write",
        };
        format!("{kind}/{verb}")
    }

    /// What a PUT refers to, and the action that it takes on that. The source of a copy takes an
    /// action on *disks* even where it is a snapshot.
    fn linked(&self) -> Vec<(&'static str, String)> {
        if self.request.method != Method::PUT {
            return Vec::new();
        }
        let body: Value = serde_json::from_slice(&self.request.body).unwrap_or_default();
        let properties = &body["properties"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let creation = &properties["creationData"];
        let source = text(&creation["sourceResourceId"]).or_else(|| text(&creation["sourceUri"]));
        let mut linked: Vec<_> = source
            .into_iter()
            .map(|source| ("Microsoft.Compute/disks/beginGetAccess/action", source))
            .collect();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for nic in list(&properties["networkProfile"]["networkInterfaces"]) {
            let nic = text(&nic["id"]).into_iter();
            linked.extend(nic.map(|id| ("Microsoft.Network/networkInterfaces/join/action", id)));
        }
        for configuration in list(&properties["ipConfigurations"]) {
            let subnet = text(&configuration["properties"]["subnet"]["id"]).into_iter();
            linked.extend(
                subnet.map(|id| ("Microsoft.Network/virtualNetworks/subnets/join/action", id)),
            );
        }
        linked
    }
}
