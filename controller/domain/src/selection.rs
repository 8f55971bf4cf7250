//! Which named policy a VM gets: by its resource group and its tags.
//!
//! A named policy says which VMs it is for. Of those that match a VM, the one with the most conditions
//! wins; two that have equally many are a tie, which is nobody's to break: the VM stays as it is, and is
//! reported. A policy that a person has set for the VM itself wins over all of them. A VM that no longer
//! matches keeps the policy that it has, and is reported: nothing is unprotected by a tag that went away.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arm_id::ArmId;
use crate::policy::{Policy, PolicyError};
use crate::region::Region;

/// The most conditions on tags.
pub const MAX_TAGS: usize = 20;
/// The longest name of a tag in Azure, and its longest value.
const TAG_NAME: usize = 512;
const TAG_VALUE: usize = 256;
/// The longest name of a resource group.
const GROUP: usize = 90;

/// The name of a policy: 1 to 63 lower-case letters, digits and hyphens, with neither end a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyName(String);

impl PolicyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PolicyName {
    type Err = PolicyError;

    fn from_str(s: &str) -> Result<Self, PolicyError> {
        let fits = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        let allowed = "it must be 1 to 63 lower-case letters, digits and hyphens, and neither begin nor \
                       end with a hyphen";
        if fits { Ok(Self(s.to_owned())) } else { Err(PolicyError::of("name", s, allowed)) }
    }
}

impl TryFrom<String> for PolicyName {
    type Error = PolicyError;

    fn try_from(s: String) -> Result<Self, PolicyError> {
        s.parse()
    }
}

impl From<PolicyName> for String {
    fn from(name: PolicyName) -> Self {
        name.0
    }
}

/// Which VMs a named policy is for: those that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// In this group; compared without case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_group: Option<String>,
    /// With these tags: names compared without case, values as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

impl Selector {
    /// A selector, checked.
    ///
    /// # Errors
    /// Without any condition, with more than [`MAX_TAGS`], or with a name or value that Azure cannot
    /// have.
    pub fn new(
        resource_group: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> Result<Self, PolicyError> {
        let wrong = |field, value: &str, allowed: &str| Err(PolicyError::of(field, value, allowed));
        if resource_group.is_none() && tags.is_empty() {
            return wrong("select", "", "give a resource_group, tags, or both");
        }
        if let Some(group) = &resource_group
            && ArmId::resource_group_id("s", group).is_err()
        {
            let allowed = "it must be the name of a resource group: at most 90 letters, digits, \
                           hyphens, underscores, periods and parentheses";
            return wrong(
                "resource_group",
                &group.chars().take(GROUP).collect::<String>(),
                allowed,
            );
        }
        if tags.len() > MAX_TAGS {
            let allowed = format!("at most {MAX_TAGS} are allowed");
            return wrong("tags", &tags.len().to_string(), &allowed);
        }
        for (name, value) in &tags {
            let shown = |text: &str| text.chars().take(60).collect::<String>();
            if name.is_empty()
                || name.chars().count() > TAG_NAME
                || name.chars().any(|c| c.is_control() || "<>%&\\?/".contains(c))
            {
                let allowed = "the name of a tag has 1 to 512 characters, and none of <>%&\\?/";
                return wrong("tags", &shown(name), allowed);
            }
            if value.chars().count() > TAG_VALUE || value.chars().any(char::is_control) {
                return wrong(
                    "tags",
                    &shown(value),
                    "the value of a tag has at most 256 characters",
                );
            }
            let same = |other: &&String| *other != name && other.eq_ignore_ascii_case(name);
            if tags.keys().find(same).is_some() {
                return wrong("tags", &shown(name), "Azure compares names of tags without case");
            }
        }
        Ok(Self { resource_group, tags })
    }

    /// The resource group, if it is a condition.
    pub fn resource_group(&self) -> Option<&str> {
        self.resource_group.as_deref()
    }

    /// The tags that are conditions.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    /// How many conditions there are: the more, the more specific.
    pub fn specificity(&self) -> usize {
        usize::from(self.resource_group.is_some()) + self.tags.len()
    }

    /// Whether a VM meets all of them.
    pub fn matches(&self, vm: &ArmId, tags: &BTreeMap<String, String>) -> bool {
        let has = |name: &str, value: &str| {
            tags.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
        };
        let group = self.resource_group.as_ref();
        group.is_none_or(|g| vm.resource_group().eq_ignore_ascii_case(g))
            && self.tags.iter().all(|(name, value)| has(name, value))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.resource_group.iter().map(|g| format!("resource group {g}"));
        let tags = self.tags.iter().map(|(name, value)| format!("tag {name}={value}"));
        f.write_str(&group.chain(tags).collect::<Vec<_>>().join(", "))
    }
}

/// A policy for all VMs that its selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Which VMs it is for.
    pub select: Selector,
    /// What is wanted for each of them.
    pub policy: Policy,
}

/// The policy that a VM has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present<'a> {
    /// None.
    Nothing,
    /// One that a person has set for this VM.
    ByHand,
    /// One that a selector gave it.
    Selected {
        /// The named policy's name.
        by: &'a PolicyName,
        /// As it is now.
        policy: &'a Policy,
    },
}

/// What becomes of a VM's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Nothing matches, and it has none.
    NotCovered,
    /// It gets its first policy.
    Enrol(&'a NamedPolicy),
    /// It gets another one, or the same as changed.
    Change(&'a NamedPolicy),
    /// It keeps the one that its selector gave it.
    Same(&'a PolicyName),
    /// A person's choice stays; a selector would have given another.
    ByHand {
        /// The one that would have been.
        instead_of: Option<&'a PolicyName>,
    },
    /// Nothing matches any more: it keeps the policy that this one gave it.
    NoLongerMatches {
        /// The named policy.
        by: PolicyName,
    },
    /// Equally specific ones match: it stays as it is.
    Tie(Vec<&'a PolicyName>),
    /// The one that matches cannot be this VM's: it stays as it is.
    Unfit {
        /// The named policy.
        by: &'a PolicyName,
        /// Why.
        why: PolicyError,
    },
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCovered => f.write_str("no selector matches it"),
            Self::Enrol(p) | Self::Change(p) => write!(f, "matches {}", p.select),
            Self::Same(by) => write!(f, "has the policy {by}"),
            Self::ByHand { instead_of: None } => f.write_str("its policy is set by hand"),
            Self::ByHand { instead_of: Some(by) } => {
                write!(f, "its policy is set by hand, which wins over {by}")
            }
            Self::NoLongerMatches { by } => {
                write!(f, "it does not match {by} any more, and keeps the policy as it was")
            }
            Self::Tie(names) => {
                let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
                write!(f, "{} match it with equally many conditions", names.join(" and "))
            }
            Self::Unfit { by, why } => write!(f, "{by} does not fit it: {why}"),
        }
    }
}

/// Decides about one VM.
pub fn decide<'a>(
    policies: &'a [NamedPolicy],
    vm: &ArmId,
    tags: &BTreeMap<String, String>,
    region: &Region,
    present: Present<'_>,
) -> Decision<'a> {
    let matching: Vec<&NamedPolicy> =
        policies.iter().filter(|p| p.select.matches(vm, tags)).collect();
    let most = matching.iter().map(|p| p.select.specificity()).max();
    let best: Vec<&NamedPolicy> =
        matching.into_iter().filter(|p| Some(p.select.specificity()) == most).collect();
    if present == Present::ByHand {
        return Decision::ByHand { instead_of: best.first().map(|p| &p.name) };
    }
    match (best.as_slice(), present) {
        ([], Present::Selected { by, .. }) => Decision::NoLongerMatches { by: by.clone() },
        ([], _) => Decision::NotCovered,
        ([one], present) => match (one.policy.check(region), present) {
            (Err(why), _) => Decision::Unfit { by: &one.name, why },
            (Ok(()), Present::Selected { by, policy })
                if *by == one.name && *policy == one.policy =>
            {
                Decision::Same(&one.name)
            }
            (Ok(()), Present::Selected { .. }) => Decision::Change(one),
            (Ok(()), _) => Decision::Enrol(one),
        },
        (several, _) => Decision::Tie(several.iter().map(|p| &p.name).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vm(group: &str, name: &str) -> ArmId {
        ArmId::virtual_machine("5b0f2f0e-0000-4000-8000-000000000001", group, name).unwrap()
    }

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn named(name: &str, group: Option<&str>, pairs: &[(&str, &str)]) -> NamedPolicy {
        NamedPolicy {
            name: name.parse().unwrap(),
            select: Selector::new(group.map(str::to_owned), tags(pairs)).unwrap(),
            policy: Policy::default(),
        }
    }

    fn eastus() -> Region {
        Region::parse("eastus").unwrap()
    }

    #[test]
    fn the_most_specific_wins_and_a_tie_is_nobodys() {
        let all = [
            named("group", Some("Prod"), &[]),
            named("tag", None, &[("Backup", "gold")]),
            named("both", Some("prod"), &[("backup", "gold")]),
        ];
        let decided = |policies: &[NamedPolicy], group: &str, pairs: &[(&str, &str)]| {
            let found =
                decide(policies, &vm(group, "db"), &tags(pairs), &eastus(), Present::Nothing);
            match found {
                Decision::Enrol(p) => p.name.to_string(),
                Decision::Tie(names) => format!("{names:?}"),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(decided(&all, "PROD", &[]), "group");
        assert_eq!(decided(&all, "test", &[("backup", "gold")]), "tag");
        assert_eq!(decided(&all, "prod", &[("BACKUP", "gold"), ("x", "y")]), "both");
        assert_eq!(decided(&all, "test", &[("backup", "Gold")]), "NotCovered");
        let tie = decided(&all[..2], "prod", &[("backup", "gold")]);
        assert!(tie.contains("\"group\"") && tie.contains("\"tag\""), "{tie}");
    }

    #[test]
    fn a_person_wins_and_what_no_longer_matches_keeps_its_policy() {
        let all = [named("group", Some("prod"), &[])];
        let decided =
            |group: &str, present| decide(&all, &vm(group, "db"), &tags(&[]), &eastus(), present);
        let name = &all[0].name;
        assert_eq!(decided("prod", Present::ByHand), Decision::ByHand { instead_of: Some(name) });
        assert_eq!(decided("test", Present::ByHand), Decision::ByHand { instead_of: None });
        let policy = &all[0].policy;
        let selected = Present::Selected { by: name, policy };
        assert_eq!(decided("prod", selected), Decision::Same(name));
        assert_eq!(decided("test", selected), Decision::NoLongerMatches { by: name.clone() });
        let other = Policy { enabled: true, ..Policy::default() };
        let mut changed = other.clone();
        changed.retention.daily = 3;
        let selected = Present::Selected { by: name, policy: &changed };
        assert_eq!(decided("prod", selected), Decision::Change(&all[0]));
        let gone: PolicyName = "gone".parse().unwrap();
        let selected = Present::Selected { by: &gone, policy };
        assert_eq!(decided("prod", selected), Decision::Change(&all[0]));
    }

    #[test]
    fn a_policy_that_copies_into_the_vms_own_region_does_not_fit_it() {
        let mut one = named("copied", Some("prod"), &[]);
        one.policy.target_region = Some(eastus());
        let all = [one];
        let found = decide(&all, &vm("prod", "db"), &tags(&[]), &eastus(), Present::Nothing);
        let Decision::Unfit { why, .. } = found else { panic!("{found:?}") };
        assert!(why.to_string().contains("it must differ from the VM's own region"), "{why}");
    }

    #[test]
    fn names_and_selectors_have_limits() {
        for bad in ["", "A", "a b", "-a", "a-", "ä", "a\u{202e}b", "a/b", &"x".repeat(64)] {
            let message = bad.parse::<PolicyName>().unwrap_err().to_string();
            assert!(message.contains("lower-case letters"), "{message}");
        }
        let wrong = |group: Option<&str>, pairs: &[(&str, &str)]| {
            Selector::new(group.map(str::to_owned), tags(pairs)).unwrap_err().to_string()
        };
        assert!(wrong(None, &[]).contains("give a resource_group, tags, or both"));
        assert!(wrong(Some("a/b"), &[]).contains("name of a resource group"));
        assert!(wrong(None, &[("", "x")]).contains("1 to 512 characters"));
        assert!(wrong(None, &[("a", &"x".repeat(257))]).contains("at most 256"));
        assert!(wrong(None, &[("a", "x"), ("A", "x")]).contains("without case"));
        let many: Vec<String> = (0..=MAX_TAGS).map(|n| format!("t{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|n| (n.as_str(), "x")).collect();
        assert!(wrong(None, &many).contains("at most 20"));
    }

    proptest! {
        /// Against the rule read off a sorted list, over any mixture of selectors.
        #[test]
        fn a_decision_is_the_naive_one(
            conditions in prop::collection::vec((any::<bool>(), 0..8u8), 0..8),
            group in any::<bool>(),
            carried in 0..8u8,
        ) {
            let bits = |mask: u8| -> Vec<(String, String)> {
                (0..3).filter(|n| mask & (1 << n) != 0).map(|n| (format!("t{n}"), "on".into())).collect()
            };
            let policies: Vec<NamedPolicy> = conditions
                .iter()
                .enumerate()
                .filter(|(_, (g, mask))| *g || *mask != 0)
                .map(|(n, (g, mask))| NamedPolicy {
                    name: format!("p{n}").parse().unwrap(),
                    select: Selector::new(
                        g.then(|| "prod".to_owned()),
                        bits(*mask).into_iter().collect(),
                    )
                    .unwrap(),
                    policy: Policy::default(),
                })
                .collect();
            let vm = vm(if group { "prod" } else { "test" }, "db");
            let tags: BTreeMap<String, String> = bits(carried).into_iter().collect();
            let mut scores: Vec<(u32, String)> = conditions
                .iter()
                .enumerate()
                .filter(|(_, (g, mask))| (*g || *mask != 0) && (!*g || group) && mask & !carried == 0)
                .map(|(n, (g, mask))| (u32::from(*g) + mask.count_ones(), format!("p{n}")))
                .collect();
            scores.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
            let tied = scores.iter().filter(|(score, _)| *score == scores[0].0).count();
            match decide(&policies, &vm, &tags, &eastus(), Present::Nothing) {
                Decision::NotCovered => prop_assert!(scores.is_empty()),
                Decision::Enrol(p) => {
                    prop_assert_eq!(tied, 1);
                    prop_assert_eq!(p.name.as_str(), scores[0].1.as_str());
                }
                Decision::Tie(names) => prop_assert_eq!(names.len(), tied),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
