//! What security groups let in.

use serde_json::{Map, Value};

use super::network::{ip_configurations, reference, subnet_reference};
use super::state::NetworkResource;
use super::{ArmId, World};

impl World {
    /// Whether the internet reaches this TCP port through the interface: every security group on
    /// the way (the subnet's, the interface's) must let it in. Without any group, all is let in.
    pub(super) fn lets_in(&self, nic: &NetworkResource, port: u16) -> bool {
        let own = reference(&nic.properties, "networkSecurityGroup");
        let of_subnets = ip_configurations(nic).filter_map(|c| self.subnet_group(c));
        own.into_iter()
            .chain(of_subnets)
            .filter_map(|id| self.state.networks.get(&id.key()))
            .all(|group| allows(group, port))
    }

    fn subnet_group(&self, configuration: &Map<String, Value>) -> Option<ArmId> {
        let (vnet, name) = subnet_reference(configuration)?;
        let vnet = self.state.networks.get(&vnet.key())?;
        let subnets = vnet.properties.get("subnets")?.as_array()?;
        let subnet = subnets
            .iter()
            .find(|s| s["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(&name)))?;
        reference(subnet["properties"].as_object()?, "networkSecurityGroup")
    }
}

/// The verdict of one group on a TCP connection from the internet: the first matching rule by
/// priority; the default rules end in deny.
fn allows(group: &NetworkResource, port: u16) -> bool {
    let rules = group.properties.get("securityRules").and_then(Value::as_array);
    let mut rules: Vec<&Map<String, Value>> =
        rules.into_iter().flatten().filter_map(|rule| rule["properties"].as_object()).collect();
    rules.sort_by_key(|rule| rule.get("priority").and_then(Value::as_u64));
    rules
        .into_iter()
        .find(|rule| matches(rule, port))
        .is_some_and(|rule| is(rule, "access", &["Allow"]))
}

fn matches(rule: &Map<String, Value>, port: u16) -> bool {
    is(rule, "direction", &["Inbound"])
        && is(rule, "protocol", &["Tcp", "*"])
        && values(rule, "sourceAddressPrefix", "sourceAddressPrefixes")
            .any(|source| !["VirtualNetwork", "AzureLoadBalancer"].contains(&source))
        && values(rule, "destinationPortRange", "destinationPortRanges").any(|r| covers(r, port))
}

fn is(rule: &Map<String, Value>, name: &str, any_of: &[&str]) -> bool {
    let value = rule.get(name).and_then(Value::as_str).unwrap_or_default();
    any_of.iter().any(|allowed| allowed.eq_ignore_ascii_case(value))
}

fn values<'a>(
    rule: &'a Map<String, Value>,
    one: &str,
    many: &str,
) -> impl Iterator<Item = &'a str> {
    let several = rule.get(many).and_then(Value::as_array).into_iter().flatten();
    rule.get(one).into_iter().chain(several).filter_map(Value::as_str)
}

fn covers(range: &str, port: u16) -> bool {
    match range.split_once('-') {
        _ if range == "*" => true,
        Some((from, to)) => {
            from.parse().is_ok_and(|f: u16| f <= port) && to.parse().is_ok_and(|t: u16| port <= t)
        }
        None => range.parse() == Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        assert!(covers("*", 22) && covers("22", 22) && covers("20-30", 22));
        assert!(!covers("23-30", 22) && !covers("x", 22));
    }
}
