//! Who a certificate speaks for, as its URI subject alternative name.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};

/// The longest operator name.
const NAME_LIMIT: usize = 64;

/// The holder of a certificate.
///
/// Written as a URI (`Display`), read back strictly (`FromStr`): no other spelling of the same
/// identity is accepted, so that identities compare by value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identity {
    /// `azdr://controller`: the controller's listeners.
    Controller,
    /// `azdr://agent/<hash>`: the agent of one protected VM.
    Agent {
        /// [`vm_hash`] of the VM's ARM resource ID: 64 lower-case hexadecimal digits.
        vm_hash: String,
    },
    /// `azdr://operator/<name>`: a person or a script that calls the admin interface.
    Operator {
        /// 1 to 64 ASCII letters, digits, `.`, `_`, `-`, `@`; begins with a letter or digit.
        name: String,
    },
}

/// A text that names no identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an azdr identity: {reason}")]
pub struct BadName {
    text: String,
    reason: &'static str,
}

impl Identity {
    /// The agent of the VM with this hash.
    ///
    /// # Errors
    /// When it is not 64 lower-case hexadecimal digits.
    pub fn agent(vm_hash: &str) -> Result<Self, BadName> {
        if !is_sha256_hex(vm_hash) {
            return Err(bad(vm_hash, "a VM's hash is 64 lower-case hexadecimal digits"));
        }
        Ok(Self::Agent { vm_hash: vm_hash.to_owned() })
    }

    /// The operator of this name.
    ///
    /// # Errors
    /// When it is empty, longer than 64, or has characters other than those listed at
    /// [`Identity::Operator`].
    pub fn operator(name: &str) -> Result<Self, BadName> {
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let known = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        if !begins_well || name.len() > NAME_LIMIT || !name.bytes().all(known) {
            return Err(bad(
                name,
                "an operator's name is 1 to 64 letters, digits, '.', '_', '-' or '@', and begins \
                 with a letter or digit",
            ));
        }
        Ok(Self::Operator { name: name.to_owned() })
    }

    /// Checks the text inside the variants, which anybody can build by hand.
    pub(crate) fn checked(&self) -> Result<(), BadName> {
        match self {
            Self::Controller => Ok(()),
            Self::Agent { vm_hash } => Self::agent(vm_hash).map(drop),
            Self::Operator { name } => Self::operator(name).map(drop),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("azdr://controller"),
            Self::Agent { vm_hash } => write!(f, "azdr://agent/{vm_hash}"),
            Self::Operator { name } => write!(f, "azdr://operator/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let unknown =
            || bad(text, "expected azdr://controller, azdr://agent/… or azdr://operator/…");
        let path = text.strip_prefix("azdr://").ok_or_else(unknown)?;
        match path.split_once('/') {
            None if path == "controller" => Ok(Self::Controller),
            Some(("agent", hash)) => Self::agent(hash),
            Some(("operator", name)) => Self::operator(name),
            _ => Err(unknown()),
        }
    }
}

/// SHA-256 of a VM's ARM resource ID, as 64 hexadecimal digits: what its agent's certificate names.
///
/// The caller passes the canonical ID in lower case; IDs compare case-insensitively, hashes do not.
pub fn vm_hash(canonical_lowercase_arm_id: &str) -> String {
    sha256_hex(canonical_lowercase_arm_id.as_bytes())
}

/// SHA-256 as 64 lower-case hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn bad(text: &str, reason: &'static str) -> BadName {
    BadName { text: text.chars().take(100).collect(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_back_as_written() {
        let hash = vm_hash("/subscriptions/s/resourcegroups/g/providers/x/virtualmachines/v");
        for identity in [
            Identity::Controller,
            Identity::agent(&hash).unwrap(),
            Identity::operator("alice@example.org").unwrap(),
        ] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn other_spellings_are_no_identity() {
        let upper = format!("azdr://agent/{}", "A".repeat(64));
        for text in [
            "",
            "azdr://",
            "azdr://controller/",
            "AZDR://controller",
            "azdr://agent/",
            "azdr://agent/abc",
            upper.as_str(),
            "azdr://operator/",
            "azdr://operator/.hidden",
            "azdr://operator/a/b",
            "azdr://operator/a b",
            "azdr://operator/ä",
            "azdr://root/x",
            "https://controller",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text} was accepted");
        }
        assert!(Identity::operator(&"a".repeat(65)).is_err());
    }
}
