//! How network resources hang together: who uses whom, addresses, and ways into a machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::state::{NetworkResource, Vm};
use super::{ArmId, Kind, World};

/// How many public addresses a world can give out.
const PUBLIC_ADDRESSES: u32 = 1 << 15;

/// The first public address of a world: on loopback, so that each can be listened on, and in a part of
/// it that the world drew, so that two worlds on one machine do not answer for each other.
fn first_public(signing_key: &str) -> u32 {
    let drawn = signing_key.get(..4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let [high, low] = drawn.unwrap_or_default().to_be_bytes();
    u32::from_be_bytes([127, 64 + high % 128, low & 0x80, 1])
}

/// The `ipConfigurations` of an interface.
pub(crate) fn ip_configurations(
    nic: &NetworkResource,
) -> impl Iterator<Item = &Map<String, Value>> {
    nic.properties
        .get("ipConfigurations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|c| c["properties"].as_object())
}

/// The resource that `properties[name].id` names.
pub(crate) fn reference(properties: &Map<String, Value>, name: &str) -> Option<ArmId> {
    ArmId::parse(properties.get(name)?.get("id")?.as_str()?)
}

/// The virtual network and subnet name of a subnet id.
pub(crate) fn subnet_of(id: &str) -> Option<(ArmId, String)> {
    let (vnet, subnet) = id.rsplit_once('/')?;
    let vnet = vnet.get(..vnet.len().checked_sub("/subnets".len())?)?;
    Some((ArmId::parse(vnet)?, subnet.to_owned()))
}

/// The subnet that an IP configuration is in.
pub(crate) fn subnet_reference(configuration: &Map<String, Value>) -> Option<(ArmId, String)> {
    subnet_of(configuration.get("subnet")?.get("id")?.as_str()?)
}

impl World {
    /// Takes a network resource out of the world and out of what it used.
    pub(super) fn remove_network(&mut self, id: &ArmId) {
        let Some(resource) = self.state.networks.remove(&id.key()) else { return };
        if id.kind == Kind::Nic {
            self.unlink_addresses(&resource);
        }
    }

    /// The VM of an interface is gone; the interface goes too if `delete`, and its public addresses
    /// where their own `deleteOption` says so.
    pub(super) fn release_nic(&mut self, id: &ArmId, delete: bool) {
        let Some(nic) = self.state.networks.get_mut(&id.key()) else { return };
        nic.used_by = None;
        if !delete {
            return;
        }
        let addresses: Vec<ArmId> = ip_configurations(nic)
            .filter(|c| {
                let option =
                    &c.get("publicIPAddress").unwrap_or(&Value::Null)["properties"]["deleteOption"];
                option.as_str().is_some_and(|o| o.eq_ignore_ascii_case("Delete"))
            })
            .filter_map(|c| reference(c, "publicIPAddress"))
            .collect();
        self.remove_network(id);
        self.remove_locks_of(id);
        for address in addresses {
            self.remove_network(&address);
        }
    }

    /// Marks the public addresses that an interface names as used by it.
    pub(super) fn link_addresses(&mut self, nic: &NetworkResource) {
        let addresses: Vec<ArmId> =
            ip_configurations(nic).filter_map(|c| reference(c, "publicIPAddress")).collect();
        for address in addresses {
            if let Some(address) = self.state.networks.get_mut(&address.key()) {
                address.used_by = Some(nic.common.id.clone());
            }
        }
    }

    pub(super) fn unlink_addresses(&mut self, nic: &NetworkResource) {
        let addresses: Vec<ArmId> =
            ip_configurations(nic).filter_map(|c| reference(c, "publicIPAddress")).collect();
        for address in addresses {
            if let Some(address) = self.state.networks.get_mut(&address.key()) {
                address.used_by = None;
            }
        }
    }

    /// An address that nobody has.
    pub(super) fn free_public_address(&self) -> String {
        let taken: BTreeSet<u32> = self
            .state
            .networks
            .iter()
            .filter_map(|(_, r)| r.properties.get("ipAddress")?.as_str()?.parse::<Ipv4Addr>().ok())
            .map(u32::from)
            .collect();
        let first = first_public(&self.state.facts.signing_key);
        let last = first + PUBLIC_ADDRESSES - 2;
        let free = (first..last).find(|address| {
            !taken.contains(address) && address & 0xff != 0 && address & 0xff != 0xff
        });
        Ipv4Addr::from(free.unwrap_or(last)).to_string()
    }

    /// Gives dynamic public addresses of a VM that starts their value.
    pub(super) fn assign_addresses(&mut self, vm: &ArmId) {
        for key in self.dynamic_addresses(vm) {
            let address = self.free_public_address();
            if let Some(resource) = self.state.networks.get_mut(&key) {
                resource.properties.entry("ipAddress").or_insert(json!(address));
            }
        }
    }

    /// Takes dynamic public addresses from a VM that was deallocated.
    pub(super) fn release_addresses(&mut self, vm: &ArmId) {
        for key in self.dynamic_addresses(vm) {
            if let Some(resource) = self.state.networks.get_mut(&key) {
                resource.properties.remove("ipAddress");
            }
        }
    }

    fn dynamic_addresses(&self, vm: &ArmId) -> Vec<String> {
        let Some(vm) = self.state.vms.get(&vm.key()) else { return Vec::new() };
        self.public_addresses(vm)
            .filter(|(_, address)| {
                let method =
                    address.properties.get("publicIPAllocationMethod").and_then(Value::as_str);
                method.is_some_and(|m| m.eq_ignore_ascii_case("Dynamic"))
            })
            .map(|(_, address)| address.common.id.key())
            .collect()
    }

    /// The VM's interfaces and their public addresses.
    fn public_addresses<'a>(
        &'a self,
        vm: &'a Vm,
    ) -> impl Iterator<Item = (&'a NetworkResource, &'a NetworkResource)> {
        vm.nics.iter().filter_map(|n| self.state.networks.get(&n.nic.key())).flat_map(|nic| {
            ip_configurations(nic)
                .filter_map(|c| reference(c, "publicIPAddress"))
                .filter_map(|id| self.state.networks.get(&id.key()))
                .map(move |address| (nic, address))
        })
    }

    /// Where the VM's TCP ports can be reached from outside: address and port.
    pub fn ways_in(&self, vm: &Vm) -> Vec<(Ipv4Addr, u16)> {
        let mut ways = Vec::new();
        for (nic, address) in self.public_addresses(vm) {
            let ip = address.properties.get("ipAddress").and_then(Value::as_str);
            let Some(ip) = ip.and_then(|ip| ip.parse().ok()) else { continue };
            for port in &self.limits.guest_ports {
                if self.lets_in(nic, *port) {
                    ways.push((ip, *port));
                }
            }
        }
        ways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnets_id_names_its_network() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/a";
        let (vnet, subnet) = subnet_of(id).unwrap();
        assert_eq!((vnet.name.as_str(), subnet.as_str()), ("v", "a"));
        assert!(subnet_of("/subnets/a").is_none());
    }
}
