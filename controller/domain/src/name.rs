//! Resource names, validated per kind.
//!
//! The checks keep out whatever could alter a URL or a path; Azure's finer rules (what a name may
//! start or end with) are Azure's to judge, since names also come *from* it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a name names, which decides its length and characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// 1 to 90 letters (of any script), digits, `-_.()`, not ending in a period.
    ResourceGroup,
    /// 1 to 64 ASCII letters, digits, `-_.`.
    VirtualMachine,
    /// 1 to 80 ASCII letters, digits, `-_.`.
    Disk,
    /// 1 to 80 ASCII letters, digits, `-_.`.
    Snapshot,
    /// Network interface, virtual network, subnet, security group, public address: as for a disk.
    Network,
}

impl NameKind {
    /// The longest name, in characters.
    pub const fn max_len(self) -> usize {
        match self {
            Self::ResourceGroup => 90,
            Self::VirtualMachine => 64,
            Self::Disk | Self::Snapshot | Self::Network => 80,
        }
    }

    /// Checks a name.
    ///
    /// # Errors
    /// When it is too long, empty, or has characters that this kind does not allow.
    pub fn check(self, name: &str) -> Result<(), NameError> {
        // IDs are read by the million, and almost all of their names are of ASCII.
        let class = class_of(name);
        let characters = match self {
            Self::ResourceGroup => {
                !name.ends_with('.') && (class & GROUP != 0 || name.chars().all(is_group_character))
            }
            _ => class & NAME != 0,
        };
        let length = if class == 0 { name.chars().count() } else { name.len() };
        if characters && (1..=self.max_len()).contains(&length) && !is_dots(name) {
            Ok(())
        } else {
            Err(NameError {
                what: self.to_string(),
                name: name.to_owned(),
                max_len: self.max_len(),
                characters: match self {
                    Self::ResourceGroup => "letters, digits, -_.(), not ending in a period",
                    _ => "ASCII letters, digits, -_.",
                },
            })
        }
    }
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResourceGroup => "resource group",
            Self::VirtualMachine => "virtual machine",
            Self::Disk => "disk",
            Self::Snapshot => "snapshot",
            Self::Network => "network resource",
        })
    }
}

/// A name that its kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name \"{name}\" must be 1 to {max_len} characters of: {characters}")]
pub struct NameError {
    what: String,
    name: String,
    max_len: usize,
    characters: &'static str,
}

/// A name that is safe inside a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(String);

impl ResourceName {
    /// Checks a name of the given kind.
    ///
    /// # Errors
    /// When the kind does not allow it.
    pub fn new(kind: NameKind, name: &str) -> Result<Self, NameError> {
        kind.check(name)?;
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ResourceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ResourceName {
    type Error = NameError;

    /// The kind is not known here, so only what holds for every kind is checked.
    fn try_from(name: String) -> Result<Self, NameError> {
        NameKind::ResourceGroup.check(&name)?;
        Ok(Self(name))
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.0
    }
}

/// Checks a name whose kind azdr does not know, inside somebody's resource ID.
pub(crate) fn check_generic_name(name: &str) -> Result<(), NameError> {
    if (1..=260).contains(&name.len()) && class_of(name) & GROUP != 0 && !is_dots(name) {
        return Ok(());
    }
    Err(NameError {
        what: "resource".to_owned(),
        name: name.to_owned(),
        max_len: 260,
        characters: "ASCII letters, digits, -_.()",
    })
}

/// ASCII letters and digits.
pub(crate) const WORD: u8 = 1;
/// Those and `-`.
pub(crate) const HYPHENATED: u8 = 1 << 1;
/// Those, `_` and `.`.
const NAME: u8 = 1 << 2;
/// Those, `(` and `)`.
const GROUP: u8 = 1 << 3;

/// The classes that each byte is in.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => WORD | HYPHENATED | NAME | GROUP,
            b'-' => HYPHENATED | NAME | GROUP,
            b'_' | b'.' => NAME | GROUP,
            b'(' | b')' => GROUP,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// The classes that all bytes of a text are in; 0 also for one that is not of ASCII.
pub(crate) fn class_of(text: &str) -> u8 {
    text.bytes().fold(u8::MAX, |classes, byte| classes & CLASSES[usize::from(byte)])
}

fn is_group_character(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')')
}

/// `.` and `..` are path steps, not names.
fn is_dots(name: &str) -> bool {
    name.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_length() {
        for kind in [
            NameKind::ResourceGroup,
            NameKind::VirtualMachine,
            NameKind::Disk,
            NameKind::Snapshot,
            NameKind::Network,
        ] {
            assert!(ResourceName::new(kind, &"x".repeat(kind.max_len())).is_ok());
            let error = ResourceName::new(kind, &"x".repeat(kind.max_len() + 1)).unwrap_err();
            assert!(error.to_string().contains(&kind.to_string()), "{error}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<ResourceName>("\"ok-1\"").is_ok());
        assert!(serde_json::from_str::<ResourceName>("\"../x\"").is_err());
    }
}
