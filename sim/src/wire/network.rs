//! Network resources: requests and documents.

use http::Method;
use serde_json::{Map, Value, json};

use super::document::Shown;
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
            Method::GET => self.shown_network(id),
            Method::PUT => {
                let accepted = self.world.put_network(id, request.json()?, injected, now)?;
                let status = if accepted.created { 201 } else { 200 };
                // Unlike the answer to a GET, this one has its ETag in the body alone.
                let reply = Reply::json(status, self.network(self.found_network(id)?));
                Ok(self.announce(reply, Announce::AsyncOnly, &accepted))
            }
            Method::PATCH => {
                let body: NetworkRequest = request.json()?;
                self.world.patch_network(id, body.tags)?;
                self.shown_network(id)
            }
            Method::DELETE => {
                let accepted = self.world.delete_network(id, injected, now)?;
                Ok(self.deleted(accepted.as_ref()))
            }
            _ => Err(self.method_not_allowed()),
        }
    }

    fn found_network(&self, id: &ArmId) -> Result<&NetworkResource, ArmError> {
        self.world.state.networks.get(&id.key()).ok_or_else(|| self.not_found(id))
    }

    fn shown_network(&self, id: &ArmId) -> Result<Reply, ArmError> {
        let resource = self.found_network(id)?;
        let etag = format!("W/\"{}\"", resource.etag);
        Ok(Reply::json(200, self.network(resource)).header("etag", etag))
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

    fn network(&self, resource: &NetworkResource) -> Shown {
        let mut document = Shown::of(&resource.common);
        let etag = format!("W/\"{}\"", resource.etag);
        let mut properties = resource.properties.clone();
        properties.insert("provisioningState".into(), json!(resource.common.provisioning));
        properties.insert("resourceGuid".into(), json!(resource.guid));
        match resource.common.id.kind {
            Kind::Nic => {
                if let Some(vm) = &resource.used_by {
                    properties.insert("virtualMachine".into(), json!({"id": vm.shouted()}));
                }
                let all = properties.get_mut("ipConfigurations").and_then(Value::as_array_mut);
                for configuration in all.into_iter().flatten() {
                    configuration["etag"] = json!(etag);
                }
                properties.insert("nicType".into(), json!("Standard"));
                put_defaults(&mut properties, &of_interface());
                document["kind"] = json!("Regular");
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
                    if let Some(properties) = subnet["properties"].as_object_mut() {
                        put_defaults(properties, &of_subnet());
                    }
                }
                put_defaults(&mut properties, &of_virtual_network());
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

/// What Azure shows where nothing was asked for.
fn put_defaults(properties: &mut Map<String, Value>, defaults: &Value) {
    for (name, value) in defaults.as_object().into_iter().flatten() {
        properties.entry(name).or_insert_with(|| value.clone());
    }
}

fn of_interface() -> Value {
    json!({
        "dnsSettings": {
            "dnsServers": [], "appliedDnsServers": [],
            "internalDomainNameSuffix": "bx.internal.cloudapp.net",
        },
        "enableIPForwarding": false, "enableAcceleratedNetworking": false,
        "vnetEncryptionSupported": false, "disableTcpStateTracking": false,
        "hostedWorkloads": [], "tapConfigurations": [], "allowPort25Out": true,
        "defaultOutboundConnectivityEnabled": false, "auxiliaryMode": "None", "auxiliarySku": "None",
    })
}

fn of_subnet() -> Value {
    json!({
        "delegations": [], "privateEndpointNetworkPolicies": "Disabled",
        "privateLinkServiceNetworkPolicies": "Enabled",
    })
}

fn of_virtual_network() -> Value {
    json!({
        "virtualNetworkPeerings": [], "enableDdosProtection": false,
        "privateEndpointVNetPolicies": "Disabled",
    })
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
