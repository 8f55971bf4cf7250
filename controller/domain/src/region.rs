//! Azure regions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that cannot be the name of an Azure region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("region \"{0}\" must be 2 to 40 letters and digits, like westus2")]
pub struct RegionError(String);

/// The name of an Azure region, in the normalised form that ARM uses: `West US 2` is `westus2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

impl Region {
    /// Normalises and checks a region's name. Whether Azure has such a region is not known here.
    ///
    /// # Errors
    /// When it is not 2 to 40 letters and digits once spaces are dropped.
    pub fn parse(name: &str) -> Result<Self, RegionError> {
        let normal = name.replace(' ', "").to_ascii_lowercase();
        let valid = (2..=40).contains(&normal.len())
            && normal.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if valid { Ok(Self(normal)) } else { Err(RegionError(name.to_owned())) }
    }

    /// The normalised name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Region {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Region {
    type Err = RegionError;

    fn from_str(s: &str) -> Result<Self, RegionError> {
        Self::parse(s)
    }
}

impl TryFrom<String> for Region {
    type Error = RegionError;

    fn try_from(s: String) -> Result<Self, RegionError> {
        Self::parse(&s)
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_and_short_names_are_the_same_region() {
        assert_eq!(Region::parse("West US 2").unwrap(), Region::parse("westus2").unwrap());
        for bad in ["", "x", "west-us", "../x", "westus/2"] {
            assert!(Region::parse(bad).is_err(), "{bad:?}");
        }
    }
}
