//! Network resources: requests and documents.

use http::Method;
use serde_json::{Value, json};

use super::listing::{after, page};
use super::lro::Announce;
use super::reply::Reply;
use super::router::Scope;
use crate::world::{ArmError, ArmId, Kind, NetworkRequest, NetworkResource};

impl Scope<'_> {
    /// GET, PUT, PATCH, DELETE of one network resource.
    pub(super) fn one_network(&mut self, id: &ArmId) -> Result<Reply, ArmError> {
        let (request, injected, now) = (self.request, self.injected, self.now);
        match request.method {
            Method::GET => self.shown_network(id, 200),
            Method::PUT => {
                let accepted = self.world.put_network(id, request.json()?, injected, now)?;
                let reply = self.shown_network(id, if accepted.created { 201 } else { 200 })?;
                Ok(self.announce(reply, Announce::AsyncOnly, &accepted))
            }
            Method::PATCH => {
                let body: NetworkRequest = request.json()?;
                self.world.patch_network(id, body.tags)?;
                self.shown_network(id, 200)
            }
            Method::DELETE => {
                let accepted = self.world.delete_network(id, injected, now)?;
                Ok(self.deleted(accepted.as_ref()))
            }
            _ => Err(self.method_not_allowed()),
        }
    }

    fn shown_network(&self, id: &ArmId, status: u16) -> Result<Reply, ArmError> {
        let resource =
            self.world.state.networks.get(&id.key()).ok_or_else(|| self.not_found(id))?;
        let etag = format!("W/\"{}\"", resource.etag);
        Ok(Reply::json(status, self.network(resource)).header("etag", etag))
    }

    /// A subnet of a virtual network.
    pub(super) fn one_subnet(&self, vnet: &ArmId, name: &str) -> Result<Reply, ArmError> {
        if self.request.method != Method::GET {
            return Err(self.unknown());
        }
        let vnet =
            self.world.state.networks.get(&vnet.key()).ok_or_else(|| self.not_found(vnet))?;
        let document = self.network(vnet);
        let subnets = document["properties"]["subnets"].as_array().cloned().unwrap_or_default();
        subnets
            .into_iter()
            .find(|s| s["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
            .map(|subnet| Reply::json(200, subnet))
            .ok_or_else(|| {
                ArmError::new(
                    404,
                    "NotFound",
                    format!("Resource {}/subnets/{name} not found.", vnet.common.id),
                )
            })
    }

    /// A listing of network resources of one kind.
    pub(super) fn list_networks(&self, kind: Kind, prefix: &str) -> Reply {
        let after = after(self.request);
        let networks = &self.world.state.networks;
        let resources = networks
            .with_prefix_after(prefix, after.as_deref())
            .filter(|(_, resource)| resource.common.id.kind == kind);
        page(self.request, resources, &self.world.limits, |r| self.network(r))
    }

    fn network(&self, resource: &NetworkResource) -> Value {
        let mut document = self.envelope(&resource.common);
        let etag = format!("W/\"{}\"", resource.etag);
        let mut properties = resource.properties.clone();
        properties.insert("provisioningState".into(), json!(resource.common.provisioning));
        properties.insert("resourceGuid".into(), json!(resource.guid));
        match resource.common.id.kind {
            Kind::Nic => {
                if let Some(vm) = &resource.used_by {
                    properties.insert("virtualMachine".into(), json!({"id": vm.shouted()}));
                }
                properties.entry("enableIPForwarding").or_insert(json!(false));
                properties.entry("enableAcceleratedNetworking").or_insert(json!(false));
                properties.insert("nicType".into(), json!("Standard"));
            }
            Kind::PublicIp => {
                if let Some(nic) = &resource.used_by {
                    let first = self.world.state.networks.get(&nic.key());
                    let configuration = first.and_then(|nic| {
                        let all = nic.properties.get("ipConfigurations")?.as_array()?;
                        Some(all.first()?.get("id")?.clone())
                    });
                    properties.insert("ipConfiguration".into(), json!({"id": configuration}));
                }
            }
            Kind::VirtualNetwork => {
                let state = json!(resource.common.provisioning);
                let subnets = properties.get_mut("subnets").and_then(Value::as_array_mut);
                for subnet in subnets.into_iter().flatten() {
                    subnet["etag"] = json!(etag);
                    subnet["properties"]["provisioningState"] = state.clone();
                }
                properties.entry("virtualNetworkPeerings").or_insert(json!([]));
                properties.entry("enableDdosProtection").or_insert(json!(false));
            }
            _ => {
                let rules = properties.get_mut("securityRules").and_then(Value::as_array_mut);
                for rule in rules.into_iter().flatten() {
                    let name = rule["name"].as_str().unwrap_or_default().to_owned();
                    rule["id"] = json!(format!("{}/securityRules/{name}", resource.common.id));
                    rule["properties"]["provisioningState"] = json!(resource.common.provisioning);
                }
                properties
                    .insert("defaultSecurityRules".into(), default_rules(&resource.common.id));
            }
        }
        document["etag"] = json!(etag);
        if let Some(sku) = &resource.sku {
            document["sku"] = sku.clone();
        }
        if !resource.common.zones.is_empty() {
            document["zones"] = json!(resource.common.zones);
        }
        document["properties"] = Value::Object(properties);
        document
    }
}

fn default_rules(id: &ArmId) -> Value {
    let rule = |name: &str, priority: u32, access: &str, direction: &str, from: &str, to: &str| {
        json!({
            "name": name,
            "id": format!("{id}/defaultSecurityRules/{name}"),
            "properties": {
                "protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*",
                "sourceAddressPrefix": from, "destinationAddressPrefix": to,
                "access": access, "priority": priority, "direction": direction,
                "provisioningState": "Succeeded",
            },
        })
    };
    json!([
        rule("AllowVnetInBound", 65000, "Allow", "Inbound", "VirtualNetwork", "VirtualNetwork"),
        rule("AllowAzureLoadBalancerInBound", 65001, "Allow", "Inbound", "AzureLoadBalancer", "*"),
        rule("DenyAllInBound", 65500, "Deny", "Inbound", "*", "*"),
        rule("AllowVnetOutBound", 65000, "Allow", "Outbound", "VirtualNetwork", "VirtualNetwork"),
        rule("AllowInternetOutBound", 65001, "Allow", "Outbound", "*", "Internet"),
        rule("DenyAllOutBound", 65500, "Deny", "Outbound", "*", "*"),
    ])
}
