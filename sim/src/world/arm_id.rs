//! Resource ids.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of resource that the world knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Microsoft.Compute/disks`.
    Disk,
    /// `Microsoft.Compute/snapshots`.
    Snapshot,
    /// `Microsoft.Compute/virtualMachines`.
    Vm,
    /// `Microsoft.Network/networkInterfaces`.
    Nic,
    /// `Microsoft.Network/virtualNetworks`.
    VirtualNetwork,
    /// `Microsoft.Network/networkSecurityGroups`.
    SecurityGroup,
    /// `Microsoft.Network/publicIPAddresses`.
    PublicIp,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Disk,
        Self::Snapshot,
        Self::Vm,
        Self::Nic,
        Self::VirtualNetwork,
        Self::SecurityGroup,
        Self::PublicIp,
    ];

    /// The provider's name space.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Disk | Self::Snapshot | Self::Vm => "Microsoft.Compute",
            _ => "Microsoft.Network",
        }
    }

    /// The last part of the type's name.
    pub fn collection(self) -> &'static str {
        match self {
            Self::Disk => "disks",
            Self::Snapshot => "snapshots",
            Self::Vm => "virtualMachines",
            Self::Nic => "networkInterfaces",
            Self::VirtualNetwork => "virtualNetworks",
            Self::SecurityGroup => "networkSecurityGroups",
            Self::PublicIp => "publicIPAddresses",
        }
    }

    /// The full type name.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Disk => "Microsoft.Compute/disks",
            Self::Snapshot => "Microsoft.Compute/snapshots",
            Self::Vm => "Microsoft.Compute/virtualMachines",
            Self::Nic => "Microsoft.Network/networkInterfaces",
            Self::VirtualNetwork => "Microsoft.Network/virtualNetworks",
            Self::SecurityGroup => "Microsoft.Network/networkSecurityGroups",
            Self::PublicIp => "Microsoft.Network/publicIPAddresses",
        }
    }

    /// The kind of this type name, in any case.
    pub fn of_type(namespace: &str, collection: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| {
            kind.namespace().eq_ignore_ascii_case(namespace)
                && kind.collection().eq_ignore_ascii_case(collection)
        })
    }
}

/// The id of a resource in a resource group. Compares by [`key`](Self::key): case is not
/// significant, but kept as first written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmId {
    /// Subscription GUID.
    pub subscription: String,
    /// Resource group name.
    pub group: String,
    /// Type.
    pub kind: Kind,
    /// Name.
    pub name: String,
}

impl ArmId {
    /// The id with these parts.
    pub fn new(subscription: &str, group: &str, kind: Kind, name: &str) -> Self {
        Self { subscription: subscription.into(), group: group.into(), kind, name: name.into() }
    }

    /// Reads an id of a known type; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.trim_start_matches('/').split('/').collect();
        let [s, subscription, g, group, p, namespace, collection, name] = parts[..] else {
            return None;
        };
        let shape = s.eq_ignore_ascii_case("subscriptions")
            && g.eq_ignore_ascii_case("resourceGroups")
            && p.eq_ignore_ascii_case("providers");
        if !shape || name.is_empty() {
            return None;
        }
        Some(Self::new(subscription, group, Kind::of_type(namespace, collection)?, name))
    }

    /// Lower case: what ids are compared and found by.
    pub fn key(&self) -> String {
        lower_case(self.to_string())
    }

    /// The same id with its resource group in capitals, as the compute provider likes to answer.
    pub fn shouted(&self) -> String {
        Self { group: self.group.to_uppercase(), ..self.clone() }.to_string()
    }

    /// What all keys of this kind in this group begin with.
    pub fn prefix(subscription: &str, group: &str, kind: Kind) -> String {
        lower_case(format!(
            "/subscriptions/{subscription}/resourcegroups/{group}/providers/{}/",
            kind.type_name()
        ))
    }
}

/// In lower case, without a copy where ASCII suffices.
fn lower_case(mut text: String) -> String {
    if !text.is_ascii() {
        return text.to_lowercase();
    }
    text.make_ascii_lowercase();
    text
}

/// Whether two parts of an id are the same but for case.
fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!a.is_ascii() && a.to_lowercase() == b.to_lowercase())
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "/subscriptions/{}/resourceGroups/{}/providers/{}/{}",
            self.subscription,
            self.group,
            self.kind.type_name(),
            self.name
        )
    }
}

impl PartialEq for ArmId {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && same(&self.name, &other.name)
            && same(&self.group, &other.group)
            && same(&self.subscription, &other.subscription)
    }
}

impl Eq for ArmId {}

impl From<ArmId> for String {
    fn from(id: ArmId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ArmId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not the id of a known resource type"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_without_case_and_keep_the_case_they_were_written_in() {
        let id =
            ArmId::parse("/Subscriptions/S/resourcegroups/Rg/providers/microsoft.compute/Disks/D")
                .unwrap();
        assert_eq!(
            id.to_string(),
            "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.Compute/disks/D"
        );
        assert_eq!(id, ArmId::new("s", "RG", Kind::Disk, "d"));
        assert!(ArmId::parse("/subscriptions/s/resourceGroups/rg").is_none());
    }
}
