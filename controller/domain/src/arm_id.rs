//! ARM resource IDs, resource names and regions, validated before they can reach a URL.
//!
//! Azure returns the same ID in varying case (`resourcegroups`, `/Subscriptions/…`), so an [`ArmId`]
//! is compared, ordered and hashed by its lower-case key and shown as it was written. What passes
//! here cannot alter a URL: no slash beyond the ID's own, no `?`, `#`, `%`, white space, `.` or `..`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::name::{HYPHENATED, NameError, NameKind, WORD, check_generic_name, class_of};

/// Why a text is not an ARM resource ID that azdr can handle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmIdError {
    /// The text does not have the form of a resource ID inside a resource group.
    #[error(
        "\"{id}\" is not a resource ID of the form \
         /subscriptions/{{id}}/resourceGroups/{{name}}[/providers/{{namespace}}/{{type}}/{{name}}…]"
    )]
    Form {
        /// What was given.
        id: String,
    },
    /// The subscription has characters that no subscription has.
    #[error("subscription \"{subscription}\" must be 1 to 64 letters, digits or hyphens")]
    Subscription {
        /// What was given.
        subscription: String,
    },
    /// A name inside the ID is not valid.
    #[error("a name in the resource ID \"{id}\" is not valid")]
    Name {
        /// The ID that holds it.
        id: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
}

/// The types that azdr creates or reads, in Azure's own spelling.
const KNOWN_TYPES: [(&str, NameKind); 8] = [
    ("Microsoft.Compute/disks", NameKind::Disk),
    ("Microsoft.Compute/snapshots", NameKind::Snapshot),
    ("Microsoft.Compute/virtualMachines", NameKind::VirtualMachine),
    ("Microsoft.Network/networkInterfaces", NameKind::Network),
    ("Microsoft.Network/networkSecurityGroups", NameKind::Network),
    ("Microsoft.Network/publicIPAddresses", NameKind::Network),
    ("Microsoft.Network/virtualNetworks", NameKind::Network),
    ("Microsoft.Network/virtualNetworks/subnets", NameKind::Network),
];

/// The type that [`ArmId::resource_type`] gives for a resource group itself.
pub const RESOURCE_GROUP_TYPE: &str = "Microsoft.Resources/resourceGroups";

/// The ID of a resource group or of a resource inside one.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmId {
    text: String,
    key: String,
    resource_type: Cow<'static, str>,
}

impl ArmId {
    /// Reads an ID as Azure or a person wrote it; the fixed words are matched whatever their case.
    ///
    /// # Errors
    /// When the form or one of the names is not valid; the message names it.
    pub fn parse(id: &str) -> Result<Self, ArmIdError> {
        Self::try_from(id.to_owned())
    }

    /// The ID as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The lower-case form by which IDs are compared, and stored as keys.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The subscription, as it was written.
    pub fn subscription(&self) -> &str {
        self.segment(1)
    }

    /// The resource group's name, as it was written.
    pub fn resource_group(&self) -> &str {
        self.segment(3)
    }

    /// The last name: the resource's own, or the group's for a group's ID.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// The type, for example `Microsoft.Compute/disks`: in Azure's spelling for the types that azdr
    /// knows, else as it was written.
    pub fn resource_type(&self) -> &str {
        &self.resource_type
    }

    /// Whether the resource is of this type, whatever the case.
    pub fn is_type(&self, resource_type: &str) -> bool {
        self.resource_type.eq_ignore_ascii_case(resource_type)
    }

    /// The ID of the resource group that this resource is in (itself, for a group).
    pub fn group(&self) -> Self {
        Self::resource_group_id(self.subscription(), self.resource_group())
            .expect("both parts were validated when this ID was made")
    }

    /// The SHA-256 of [`ArmId::key`], 64 hexadecimal digits.
    pub fn hash_hex(&self) -> String {
        sha256_hex(&self.key)
    }

    /// The first 8 digits of [`ArmId::hash_hex`]: tells apart things of the same name.
    pub fn short_hash(&self) -> String {
        let mut hash = self.hash_hex();
        hash.truncate(8);
        hash
    }

    /// The ID of a resource group itself.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn resource_group_id(subscription: &str, group: &str) -> Result<Self, ArmIdError> {
        check_subscription(subscription)?;
        // Checked by itself first: `parse` would read a slash in it as a path of its own.
        let id = format!("/subscriptions/{subscription}/resourceGroups/{group}");
        NameKind::ResourceGroup
            .check(group)
            .map_err(|source| ArmIdError::Name { id: id.clone(), source })?;
        Self::parse(&id)
    }

    /// The ID of a managed disk.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn disk(subscription: &str, group: &str, name: &str) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Compute/disks", name)
    }

    /// The ID of a snapshot.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn snapshot(subscription: &str, group: &str, name: &str) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Compute/snapshots", name)
    }

    /// The ID of a VM.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn virtual_machine(
        subscription: &str,
        group: &str,
        name: &str,
    ) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Compute/virtualMachines", name)
    }

    /// The ID of a network interface.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn network_interface(
        subscription: &str,
        group: &str,
        name: &str,
    ) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Network/networkInterfaces", name)
    }

    /// The ID of a virtual network.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn virtual_network(
        subscription: &str,
        group: &str,
        name: &str,
    ) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Network/virtualNetworks", name)
    }

    /// The ID of a network security group.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn network_security_group(
        subscription: &str,
        group: &str,
        name: &str,
    ) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Network/networkSecurityGroups", name)
    }

    /// The ID of a public IP address.
    ///
    /// # Errors
    /// When a part is not valid.
    pub fn public_ip(subscription: &str, group: &str, name: &str) -> Result<Self, ArmIdError> {
        Self::resource(subscription, group, "Microsoft.Network/publicIPAddresses", name)
    }

    /// The ID of a subnet of this virtual network.
    ///
    /// # Errors
    /// When the name is not valid, or this is not a virtual network.
    pub fn subnet(&self, name: &str) -> Result<Self, ArmIdError> {
        if !self.is_type("Microsoft.Network/virtualNetworks") {
            return Err(ArmIdError::Form { id: format!("{self}/subnets/{name}") });
        }
        Self::parse_with_name(&format!("{self}/subnets/"), name)
    }

    fn resource(
        subscription: &str,
        group: &str,
        resource_type: &str,
        name: &str,
    ) -> Result<Self, ArmIdError> {
        let group = Self::resource_group_id(subscription, group)?;
        Self::parse_with_name(&format!("{group}/providers/{resource_type}/"), name)
    }

    /// Appends one name, which `parse` alone could take for several segments.
    fn parse_with_name(prefix: &str, name: &str) -> Result<Self, ArmIdError> {
        let id = format!("{prefix}{name}");
        check_generic_name(name).map_err(|source| ArmIdError::Name { id: id.clone(), source })?;
        Self::parse(&id)
    }

    fn segment(&self, n: usize) -> &str {
        self.text.split('/').nth(n + 1).unwrap_or_default()
    }
}

/// The SHA-256 of a text, 64 hexadecimal digits.
pub(crate) fn sha256_hex(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks an ID, and says of which type it is.
fn type_of(id: &str) -> Result<Cow<'static, str>, ArmIdError> {
    let form = || ArmIdError::Form { id: id.to_owned() };
    let name_error = |source| ArmIdError::Name { id: id.to_owned(), source };

    let mut segments = [""; MAX_SEGMENTS];
    let mut count = 0;
    if !id.starts_with('/') {
        return Err(form());
    }
    let mut begin = 1;
    // In one go: IDs are read by the million, and each search that `split` would make begins anew.
    for end in memchr::memchr_iter(b'/', id.as_bytes()).skip(1).chain([id.len()]) {
        *segments.get_mut(count).ok_or_else(form)? = &id[begin..end];
        count += 1;
        begin = end + 1;
    }
    let [subscriptions, subscription, groups, group, rest @ ..] = &segments[..count] else {
        return Err(form());
    };
    if !subscriptions.eq_ignore_ascii_case("subscriptions")
        || !groups.eq_ignore_ascii_case("resourceGroups")
    {
        return Err(form());
    }
    check_subscription(subscription)?;
    NameKind::ResourceGroup.check(group).map_err(name_error)?;

    let (namespace, pairs) = match rest {
        [] => return Ok(Cow::Borrowed(RESOURCE_GROUP_TYPE)),
        [providers, namespace, pairs @ ..]
            if providers.eq_ignore_ascii_case("providers")
                && !pairs.is_empty()
                && pairs.len().is_multiple_of(2)
                && is_namespace(namespace) =>
        {
            (*namespace, pairs)
        }
        _ => return Err(form()),
    };
    for pair in pairs.chunks(2) {
        if pair[0].is_empty() || class_of(pair[0]) & WORD == 0 {
            return Err(form());
        }
        check_generic_name(pair[1]).map_err(name_error)?;
    }
    let words = || [namespace].into_iter().chain(pairs.iter().step_by(2).copied());
    let length = words().map(|word| word.len() + 1).sum::<usize>() - 1;
    let is_this = |known: &str| known.len() == length && is_spelled(known, words());
    let known = KNOWN_TYPES.iter().find(|(known, _)| is_this(known));
    match (known, pairs.last()) {
        (Some((spelling, kind)), Some(name)) => {
            kind.check(name).map_err(name_error)?;
            Ok(Cow::Borrowed(*spelling))
        }
        _ => Ok(Cow::Owned(words().collect::<Vec<_>>().join("/"))),
    }
}

/// A resource has eight, a resource in a resource ten; more than this none that Azure has.
const MAX_SEGMENTS: usize = 32;

fn check_subscription(subscription: &str) -> Result<(), ArmIdError> {
    let valid = (1..=64).contains(&subscription.len()) && class_of(subscription) & HYPHENATED != 0;
    if valid {
        Ok(())
    } else {
        Err(ArmIdError::Subscription { subscription: subscription.to_owned() })
    }
}

/// Words joined by `.`.
fn is_namespace(text: &str) -> bool {
    let mut in_word = false;
    for byte in text.bytes() {
        let ends = byte == b'.';
        if ends && !in_word || !ends && !byte.is_ascii_alphanumeric() {
            return false;
        }
        in_word = !ends;
    }
    in_word
}

/// Whether a type's name consists of these words, whatever their case.
fn is_spelled<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> bool {
    let mut rest = Some(name);
    for word in words {
        let Some(front) = rest.and_then(|rest| rest.get(..word.len())) else { return false };
        if !front.eq_ignore_ascii_case(word) {
            return false;
        }
        rest = match rest.and_then(|rest| rest.get(word.len()..)) {
            Some("") => None,
            Some(more) => match more.strip_prefix('/') {
                Some(more) => Some(more),
                None => return false,
            },
            None => return false,
        };
    }
    rest.is_none()
}

impl PartialEq for ArmId {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for ArmId {}

impl Hash for ArmId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl PartialOrd for ArmId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ArmId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArmId({})", self.text)
    }
}

impl std::str::FromStr for ArmId {
    type Err = ArmIdError;

    fn from_str(s: &str) -> Result<Self, ArmIdError> {
        Self::parse(s)
    }
}

impl TryFrom<String> for ArmId {
    type Error = ArmIdError;

    fn try_from(text: String) -> Result<Self, ArmIdError> {
        let resource_type = type_of(&text)?;
        let key = if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() };
        Ok(Self { text, key, resource_type })
    }
}

impl From<ArmId> for String {
    fn from(id: ArmId) -> Self {
        id.text
    }
}

#[cfg(test)]
mod tests;
