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

/// The known regions whose names are most like a mistyped one, at most three, the likest first.
pub fn nearest<'a>(mistyped: &Region, known: &'a [Region]) -> Vec<&'a Region> {
    let mut near: Vec<(usize, &Region)> = known
        .iter()
        .map(|region| (edits(mistyped.as_str(), region.as_str()), region))
        .filter(|(edits, region)| *edits <= 1 + region.as_str().len() / 4)
        .collect();
    near.sort();
    near.into_iter().map(|(_, region)| region).take(3).collect()
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = vec![];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
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
    fn a_mistyped_region_is_like_some_and_not_like_others() {
        let known: Vec<Region> =
            ["eastus", "eastus2", "westus2", "westus3", "northeurope", "westeurope"]
                .into_iter()
                .map(|name| Region::parse(name).unwrap())
                .collect();
        let near = |text: &str| -> Vec<&str> {
            nearest(&Region::parse(text).unwrap(), &known).into_iter().map(Region::as_str).collect()
        };
        assert_eq!(near("westsu2"), ["westus2", "westus3"]);
        assert_eq!(near("westus")[..2], ["westus2", "westus3"]);
        assert_eq!(near("West Europa"), ["westeurope"]);
        assert_eq!(near("atlantis"), Vec::<&str>::new());
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("ab", "ba"), 1);
    }

    #[test]
    fn display_names_and_short_names_are_the_same_region() {
        assert_eq!(Region::parse("West US 2").unwrap(), Region::parse("westus2").unwrap());
        for bad in ["", "x", "west-us", "../x", "westus/2"] {
            assert!(Region::parse(bad).is_err(), "{bad:?}");
        }
    }
}
