//! Creating, changing and deleting network resources.

use azdr_env::WallTime;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::disks::not_found;
use super::network::{ip_configurations, reference, subnet_reference};
use super::operations::{Begin, Effect, Output, Service};
use super::state::{NetworkResource, provisioning};
use super::tags::{Tags, checked_tags};
use super::{Accepted, ArmError, ArmId, Injected, Kind, World};
use crate::latency::Action;

/// Body of a PUT or PATCH on a network resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkRequest {
    /// Region.
    pub location: Option<String>,
    /// Tags.
    pub tags: Option<Tags>,
    /// Zones.
    pub zones: Option<Vec<String>>,
    /// `sku`.
    pub sku: Option<Value>,
    /// Everything else.
    pub properties: Map<String, Value>,
}

impl World {
    /// Creates or replaces a network resource. Interfaces are complete at once; the others have an
    /// operation to poll.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn put_network(
        &mut self,
        id: &ArmId,
        request: NetworkRequest,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Accepted, ArmError> {
        let location = request.location.as_deref().ok_or_else(|| {
            ArmError::bad_request(
                "LocationRequired",
                "The location property is required for this definition.",
            )
        })?;
        let location = self.check_place(id, location)?;
        let before = self.state.networks.get(&id.key()).cloned();
        let mut common = match &before {
            Some(old) => old.common.clone(),
            None => self.common(id.clone(), location.clone(), Tags::new(), now),
        };
        common.tags = checked_tags(request.tags.unwrap_or_default())?;
        common.zones = request.zones.unwrap_or_default();
        let mut resource = NetworkResource {
            common,
            guid: before.as_ref().map_or_else(|| self.guid(), |old| old.guid.clone()),
            etag: self.guid(),
            sku: request.sku,
            properties: request.properties,
            used_by: before.as_ref().and_then(|old| old.used_by.clone()),
            next_host: before.as_ref().map(|old| old.next_host.clone()).unwrap_or_default(),
        };
        for read_only in ["provisioningState", "resourceGuid", "defaultSecurityRules"] {
            resource.properties.remove(read_only);
        }
        match id.kind {
            Kind::Nic => self.complete_nic(&mut resource, before.as_ref())?,
            Kind::VirtualNetwork => self.complete_virtual_network(&mut resource)?,
            Kind::SecurityGroup => {
                resource.properties.entry("securityRules").or_insert(json!([]));
            }
            _ => self.complete_public_ip(&mut resource, before.as_ref()),
        }
        let created = before.is_none();
        if id.kind == Kind::Nic && injected.fail_operation.is_none() {
            if let Some(before) = &before {
                self.unlink_addresses(before);
            }
            self.link_addresses(&resource);
            resource.common.provisioning = provisioning::SUCCEEDED.into();
            self.state.networks.insert(id.key(), resource);
            return Ok(Accepted { operation: None, created, joined: false });
        }
        resource.common.provisioning = provisioning::UPDATING.into();
        self.state.networks.insert(id.key(), resource);
        let operation = self.begin_network(id, &location, Effect::Ready(id.clone()), injected, now);
        Ok(Accepted { operation: Some(operation), created, joined: false })
    }

    /// Changes the tags of a network resource, at once.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn patch_network(&mut self, id: &ArmId, tags: Option<Tags>) -> Result<(), ArmError> {
        let tags = tags.map(checked_tags).transpose()?;
        let etag = self.guid();
        let resource = self.state.networks.get_mut(&id.key()).ok_or_else(|| not_found(id))?;
        if let Some(tags) = tags {
            resource.common.tags = tags;
        }
        resource.etag = etag;
        Ok(())
    }

    /// Deletes a network resource that nothing uses; a missing one is `None`.
    ///
    /// # Errors
    /// ARM's refusals.
    pub fn delete_network(
        &mut self,
        id: &ArmId,
        injected: &Injected,
        now: WallTime,
    ) -> Result<Option<Accepted>, ArmError> {
        let Some(resource) = self.state.networks.get(&id.key()) else { return Ok(None) };
        let location = resource.common.location.clone();
        self.check_unused(resource)?;
        let effect = Effect::Delete(id.clone());
        let operation = self.begin_network(id, &location, effect, injected, now);
        if let Some(resource) = self.state.networks.get_mut(&id.key()) {
            resource.common.provisioning = provisioning::DELETING.into();
        }
        Ok(Some(Accepted { operation: Some(operation), created: false, joined: false }))
    }

    fn begin_network(
        &mut self,
        id: &ArmId,
        location: &str,
        effect: Effect,
        injected: &Injected,
        now: WallTime,
    ) -> String {
        let begin = Begin {
            subscription: id.subscription.clone(),
            location: location.to_owned(),
            service: Service::Network,
            takes: self.takes(Action::Network),
            effect,
            output: Output::None,
            work: Vec::new(),
        };
        self.begin(begin, injected, now)
    }

    fn check_unused(&self, resource: &NetworkResource) -> Result<(), ArmError> {
        let id = &resource.common.id;
        match id.kind {
            Kind::Nic => match &resource.used_by {
                Some(vm) => Err(ArmError::bad_request(
                    "NicInUse",
                    format!(
                        "Network Interface {id} is used by existing resource {vm}. In order to delete \
                         the network interface, it must be dissociated from the resource."
                    ),
                )),
                None => Ok(()),
            },
            Kind::PublicIp => match &resource.used_by {
                Some(nic) => Err(ArmError::bad_request(
                    "PublicIPAddressCannotBeDeleted",
                    format!(
                        "Public IP address {id} can not be deleted since it is still allocated to \
                         resource {nic}."
                    ),
                )),
                None => Ok(()),
            },
            Kind::VirtualNetwork => {
                let user = self.interfaces().find(|nic| {
                    ip_configurations(nic).filter_map(subnet_reference).any(|(vnet, _)| vnet == *id)
                });
                user.map_or(Ok(()), |nic| {
                    Err(ArmError::bad_request(
                        "InUseSubnetCannotBeDeleted",
                        format!(
                            "A subnet of {id} is in use by {} and cannot be deleted. In order to \
                             delete the subnet, delete all the resources within the subnet.",
                            nic.common.id
                        ),
                    ))
                })
            }
            _ => match self.group_user(id) {
                Some(user) => Err(ArmError::bad_request(
                    "InUseNetworkSecurityGroupCannotBeDeleted",
                    format!(
                        "Network security group {id} cannot be deleted because it is in use by the \
                         following resources: {user}."
                    ),
                )),
                None => Ok(()),
            },
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &NetworkResource> {
        self.state.networks.iter().map(|(_, r)| r).filter(|r| r.common.id.kind == Kind::Nic)
    }

    /// A resource that a security group is associated with.
    fn group_user(&self, group: &ArmId) -> Option<String> {
        let is = |properties: &Map<String, Value>| {
            reference(properties, "networkSecurityGroup").as_ref() == Some(group)
        };
        self.state.networks.iter().map(|(_, r)| r).find_map(|resource| {
            let subnets = resource.properties.get("subnets").and_then(Value::as_array);
            let in_subnet =
                subnets.into_iter().flatten().filter_map(|s| s["properties"].as_object()).any(is);
            (is(&resource.properties) || in_subnet).then(|| resource.common.id.to_string())
        })
    }

    fn complete_virtual_network(&self, vnet: &mut NetworkResource) -> Result<(), ArmError> {
        let id = vnet.common.id.clone();
        let subnets = vnet.properties.entry("subnets").or_insert(json!([]));
        for subnet in subnets.as_array_mut().into_iter().flatten() {
            let name = subnet["name"].as_str().unwrap_or_default().to_owned();
            if name.is_empty()
                || subnet["properties"]["addressPrefix"].as_str().and_then(network).is_none()
            {
                return Err(ArmError::bad_request(
                    "InvalidRequestFormat",
                    format!("Subnet '{name}' of {id} needs a name and an IPv4 addressPrefix."),
                ));
            }
            self.check_reference(subnet["properties"].as_object(), "networkSecurityGroup", &id)?;
            subnet["id"] = json!(format!("{id}/subnets/{name}"));
            subnet["type"] = json!("Microsoft.Network/virtualNetworks/subnets");
        }
        Ok(())
    }

    fn check_reference(
        &self,
        properties: Option<&Map<String, Value>>,
        name: &str,
        from: &ArmId,
    ) -> Result<(), ArmError> {
        let Some(text) = properties.and_then(|p| p.get(name)?.get("id")?.as_str()) else {
            return Ok(());
        };
        let found =
            ArmId::parse(text).is_some_and(|id| self.state.networks.get(&id.key()).is_some());
        if found { Ok(()) } else { Err(dangling(text, from)) }
    }

    fn complete_public_ip(&self, ip: &mut NetworkResource, before: Option<&NetworkResource>) {
        let standard = ip.sku.as_ref().is_some_and(|s| s["name"] == "Standard");
        let method = if standard { "Static" } else { "Dynamic" };
        ip.properties.entry("publicIPAllocationMethod").or_insert(json!(method));
        ip.properties.entry("publicIPAddressVersion").or_insert(json!("IPv4"));
        ip.properties.entry("idleTimeoutInMinutes").or_insert(json!(4));
        let old = before.and_then(|before| before.properties.get("ipAddress").cloned());
        ip.properties.remove("ipAddress");
        if let Some(old) = old {
            ip.properties.insert("ipAddress".into(), old);
        } else if ip.properties["publicIPAllocationMethod"] == "Static" {
            ip.properties.insert("ipAddress".into(), json!(self.free_public_address()));
        }
    }

    /// Checks an interface's references and gives it private addresses.
    fn complete_nic(
        &mut self,
        nic: &mut NetworkResource,
        before: Option<&NetworkResource>,
    ) -> Result<(), ArmError> {
        let id = nic.common.id.clone();
        self.check_reference(Some(&nic.properties), "networkSecurityGroup", &id)?;
        let old: Vec<Value> = before
            .and_then(|b| b.properties.get("ipConfigurations")?.as_array().cloned())
            .unwrap_or_default();
        let configurations =
            nic.properties.get_mut("ipConfigurations").and_then(Value::as_array_mut);
        let Some(configurations) = configurations.filter(|c| !c.is_empty()) else {
            return Err(ArmError::bad_request(
                "NetworkInterfaceMustHaveAtLeastOneIpConfiguration",
                format!("Network interface {id} must have at least one IP configuration."),
            ));
        };
        for (n, configuration) in configurations.iter_mut().enumerate() {
            let name = configuration["name"].as_str().unwrap_or_default().to_owned();
            let properties = configuration["properties"].as_object().cloned().unwrap_or_default();
            let text = properties
                .get("subnet")
                .and_then(|s| s["id"].as_str())
                .unwrap_or_default()
                .to_owned();
            let subnet = subnet_reference(&properties).ok_or_else(|| dangling(&text, &id))?;
            self.check_address_reference(&properties, &id)?;
            let kept = old.iter().find(|c| c["name"] == configuration["name"]);
            let kept =
                kept.and_then(|c| c["properties"]["privateIPAddress"].as_str()).map(str::to_owned);
            let fixed =
                properties.get("privateIPAddress").and_then(Value::as_str).map(str::to_owned);
            let address = match fixed.or(kept) {
                Some(address) => address,
                None => self
                    .next_private_address(&subnet.0, &subnet.1)
                    .ok_or_else(|| dangling(&text, &id))?,
            };
            configuration["id"] = json!(format!("{id}/ipConfigurations/{name}"));
            configuration["type"] = json!("Microsoft.Network/networkInterfaces/ipConfigurations");
            let into = &mut configuration["properties"];
            into["provisioningState"] = json!("Succeeded");
            into["privateIPAddress"] = json!(address);
            if into["privateIPAllocationMethod"].is_null() {
                into["privateIPAllocationMethod"] = json!("Dynamic");
            }
            into["subnet"] = json!({"id": format!("{}/subnets/{}", subnet.0, subnet.1)});
            into["primary"] = json!(n == 0);
            into["privateIPAddressVersion"] = json!("IPv4");
        }
        Ok(())
    }

    fn check_address_reference(
        &self,
        configuration: &Map<String, Value>,
        nic: &ArmId,
    ) -> Result<(), ArmError> {
        self.check_reference(Some(configuration), "publicIPAddress", nic)?;
        let address = reference(configuration, "publicIPAddress");
        let user = address
            .and_then(|id| self.state.networks.get(&id.key()))
            .and_then(|address| address.used_by.clone());
        match user.filter(|user| user != nic) {
            Some(user) => Err(ArmError::bad_request(
                "PublicIPAddressInUse",
                format!("The public IP address is already allocated to resource {user}."),
            )),
            None => Ok(()),
        }
    }

    fn next_private_address(&mut self, vnet: &ArmId, subnet: &str) -> Option<String> {
        let vnet = self.state.networks.get_mut(&vnet.key())?;
        let subnets = vnet.properties.get("subnets")?.as_array()?;
        let found = subnets
            .iter()
            .find(|s| s["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(subnet)))?;
        let base = network(found["properties"]["addressPrefix"].as_str()?)?;
        // The first four addresses of a subnet are Azure's own.
        let host = vnet.next_host.entry(subnet.to_lowercase()).or_insert(4);
        let address = std::net::Ipv4Addr::from(base + *host);
        *host += 1;
        Some(address.to_string())
    }
}

fn network(prefix: &str) -> Option<u32> {
    let (address, bits) = prefix.split_once('/')?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 29)?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    Some(u32::from(address) & (u32::MAX.checked_shl(32 - bits).unwrap_or(0)))
}

fn dangling(text: &str, from: &ArmId) -> ArmError {
    ArmError::bad_request(
        "InvalidResourceReference",
        format!(
            "Resource {text} referenced by resource {from} was not found. Please make sure that the \
             referenced resource exists, and that both resources are in the same region."
        ),
    )
}
