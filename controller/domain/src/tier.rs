//! Retention tiers, and the set of them that a recovery point carries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tier \"{0}\" must be one of daily, weekly, monthly, yearly")]
pub struct TierError(String);

/// A class of retention, from the shortest-lived to the longest-lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// One per calendar day.
    Daily,
    /// One per week; weeks start on Sunday.
    Weekly,
    /// One per calendar month.
    Monthly,
    /// One per calendar year.
    Yearly,
}

impl Tier {
    /// All tiers, lowest first.
    pub const ALL: [Self; 4] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// The tier's name, as in names and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = TierError;

    fn from_str(s: &str) -> Result<Self, TierError> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str().eq_ignore_ascii_case(s))
            .ok_or_else(|| TierError(s.to_owned()))
    }
}

/// A set of tiers. Serialised as a list of names, highest first.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Tier>", into = "Vec<Tier>")]
pub struct TierSet(u8);

impl TierSet {
    /// No tier.
    pub const EMPTY: Self = Self(0);

    /// The set of one tier.
    pub const fn only(tier: Tier) -> Self {
        Self(tier.bit())
    }

    /// Whether the set has no tier.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many tiers the set has.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set has this tier.
    pub const fn contains(self, tier: Tier) -> bool {
        self.0 & tier.bit() != 0
    }

    /// Adds a tier.
    pub fn insert(&mut self, tier: Tier) {
        self.0 |= tier.bit();
    }

    /// The longest-lived tier, under which a point is listed.
    pub fn highest(self) -> Option<Tier> {
        self.iter().next()
    }

    /// The tiers, highest first.
    pub fn iter(self) -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().rev().filter(move |t| self.contains(*t))
    }
}

impl FromIterator<Tier> for TierSet {
    fn from_iter<I: IntoIterator<Item = Tier>>(tiers: I) -> Self {
        let mut set = Self::EMPTY;
        tiers.into_iter().for_each(|t| set.insert(t));
        set
    }
}

impl<const N: usize> From<[Tier; N]> for TierSet {
    fn from(tiers: [Tier; N]) -> Self {
        tiers.into_iter().collect()
    }
}

impl From<Vec<Tier>> for TierSet {
    fn from(tiers: Vec<Tier>) -> Self {
        tiers.into_iter().collect()
    }
}

impl From<TierSet> for Vec<Tier> {
    fn from(set: TierSet) -> Self {
        set.iter().collect()
    }
}

impl fmt::Display for TierSet {
    /// Comma-separated, highest first; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (n, tier) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{tier}")?;
        }
        Ok(())
    }
}

impl FromStr for TierSet {
    type Err = TierError;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(s: &str) -> Result<Self, TierError> {
        if s == "none" {
            return Ok(Self::EMPTY);
        }
        s.split(',').map(str::parse).collect()
    }
}

impl fmt::Debug for TierSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_ordered_by_how_long_they_live() {
        assert!(Tier::ALL.windows(2).all(|w| w[0] < w[1]));
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse::<Tier>().unwrap(), tier);
        }
        assert_eq!("WEEKLY".parse::<Tier>().unwrap(), Tier::Weekly);
        assert!("hourly".parse::<Tier>().unwrap_err().to_string().contains("hourly"));
    }

    #[test]
    fn a_set_is_listed_highest_first_and_survives_text_and_json() {
        let set = TierSet::from([Tier::Daily, Tier::Monthly]);
        assert_eq!(set.highest(), Some(Tier::Monthly));
        assert_eq!(set.to_string(), "monthly,daily");
        assert_eq!(set.to_string().parse::<TierSet>().unwrap(), set);
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["monthly","daily"]"#);
        assert_eq!(serde_json::from_str::<TierSet>(r#"["daily","monthly"]"#).unwrap(), set);
        assert_eq!(TierSet::EMPTY.highest(), None);
        assert_eq!(TierSet::EMPTY.to_string().parse::<TierSet>().unwrap(), TierSet::EMPTY);
    }
}
