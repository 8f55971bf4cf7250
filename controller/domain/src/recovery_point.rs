//! What a recovery point is: its names, its proof, and the VM's description at that time.
//!
//! Names are deterministic, so that a step run again finds what it made before (invariant I7), and
//! are never cut into a collision: whatever does not fit is shortened with a hash.

use std::fmt;
use std::str::FromStr;

use azdr_env::WallTime;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::arm_id::{ArmId, sha256_hex};
use crate::name::{NameKind, ResourceName};
use crate::tier::Tier;

pub use crate::vm_description::{DiskDescription, VmDescription};

/// The most characters that a VM's name takes in a point's name: 80, less `-backup-monthly`,
/// `-20251201-0800`, `-99`, `-` and 8 hexadecimal digits, `-lun63`.
const VM_PART_LIMIT: usize = 33;

/// A text that is not the name of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not of the form {{vm}}-backup-{{tier}}-{{yyyymmdd}}-{{hhmm}}")]
pub struct PointNameError(String);

/// The name of a recovery point, `{vm}-backup-{tier}-{yyyymmdd}-{hhmm}` in UTC, unique per VM; a
/// second one in the same minute ends in `-2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PointName(String);

impl PointName {
    /// The first free name for a point taken at `at`; `taken` knows the names of the VM's points,
    /// deleted ones whose snapshots may linger included.
    pub fn choose(vm_name: &str, tier: Tier, at: WallTime, taken: impl Fn(&str) -> bool) -> Self {
        let minute = at.timestamp().to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M");
        let base = format!("{}-backup-{tier}-{minute}", vm_part(vm_name));
        if !taken(&base) {
            return Self(base);
        }
        let free = (2u64..).map(|n| format!("{base}-{n}")).find(|name| !taken(name));
        Self(free.expect("a VM has fewer points than there are numbers"))
    }

    /// Reads a name.
    ///
    /// # Errors
    /// When it does not have the form of one.
    pub fn parse(name: &str) -> Result<Self, PointNameError> {
        let valid = NameKind::Snapshot.check(name).is_ok() && parts(name).is_some();
        if valid { Ok(Self(name.to_owned())) } else { Err(PointNameError(name.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The highest tier that the point carried when it was made.
    pub fn tier(&self) -> Tier {
        parts(&self.0).expect("checked when this name was made").0
    }

    /// The minute in which the point was taken.
    pub fn minute(&self) -> WallTime {
        parts(&self.0).expect("checked when this name was made").1
    }
}

/// Tier and minute of a well-formed name.
fn parts(name: &str) -> Option<(Tier, WallTime)> {
    let (vm, rest) = name.rsplit_once("-backup-")?;
    let mut words = rest.split('-');
    let (tier, day, time, number) = (words.next()?, words.next()?, words.next()?, words.next());
    let tier: Tier = Tier::ALL.into_iter().find(|t| t.as_str() == tier)?;
    let digits = |s: &str, len| s.len() == len && s.bytes().all(|b| b.is_ascii_digit());
    let numbered =
        number.is_none_or(|n| n.parse::<u64>().is_ok_and(|m| m > 1 && m.to_string() == n));
    if vm.is_empty() || !digits(day, 8) || !digits(time, 4) || !numbered || words.next().is_some() {
        return None;
    }
    // By hand: a fleet has a million names.
    let number = |s: &str, place: usize| s[place..place + 2].parse::<i8>().ok();
    let date = Date::new(day[..4].parse().ok()?, number(day, 4)?, number(day, 6)?).ok()?;
    let minute = date.to_datetime(Time::new(number(time, 0)?, number(time, 2)?, 0, 0).ok()?);
    Some((tier, WallTime::from(minute.to_zoned(TimeZone::UTC).ok()?.timestamp())))
}

/// The VM's name where it fits and suits, else its beginning with 8 digits of its hash.
pub(crate) fn vm_part(vm_name: &str) -> String {
    let suits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !vm_name.is_empty() && vm_name.len() <= VM_PART_LIMIT && vm_name.chars().all(suits) {
        return vm_name.to_owned();
    }
    let head = vm_name.chars().map(|c| if suits(c) { c } else { '-' });
    let head: String = head.take(VM_PART_LIMIT - 9).collect();
    format!("{}-{}", head.trim_end_matches('-'), &sha256_hex(&vm_name.to_lowercase())[..8])
}

/// The name of one snapshot of a recovery point: `{point}-{8 hex of the VM's id}`, and `-lun{n}` for a
/// data disk. At most 80 characters, whatever the parts.
pub fn snapshot_name(point: &PointName, vm: &ArmId, lun: Option<u32>) -> ResourceName {
    let mut suffix = format!("-{}", vm.short_hash());
    if let Some(lun) = lun {
        suffix.push_str(&format!("-lun{lun}"));
    }
    let room = NameKind::Snapshot.max_len() - suffix.len();
    let point = if point.as_str().len() <= room {
        point.as_str().to_owned()
    } else {
        // Only for names that this module did not choose, and for absurd numbers.
        let hash = &sha256_hex(point.as_str())[..16];
        format!("{}-{hash}", &point.as_str()[..room - hash.len() - 1])
    };
    ResourceName::new(NameKind::Snapshot, &format!("{point}{suffix}"))
        .expect("a point's name is made of a snapshot's characters, and the length was kept")
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for PointName {
    type Err = PointNameError;

    fn from_str(s: &str) -> Result<Self, PointNameError> {
        Self::parse(s)
    }
}

impl TryFrom<String> for PointName {
    type Error = PointNameError;

    fn try_from(s: String) -> Result<Self, PointNameError> {
        Self::parse(&s)
    }
}

impl From<PointName> for String {
    fn from(name: PointName) -> Self {
        name.0
    }
}

/// What is known to work of a recovery point; shown also, and above all, when it is nothing.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ProofLevel {
    /// Nobody tried.
    #[default]
    Unproved,
    /// A test disk was made of every snapshot and its bytes were read.
    Restorable,
    /// An isolated VM started from it and its agent reported the witness.
    Booted,
    /// Hashes of data equal those taken at capture.
    Content,
}

impl ProofLevel {
    const ALL: [Self; 4] = [Self::Unproved, Self::Restorable, Self::Booted, Self::Content];

    /// The level's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unproved => "unproved",
            Self::Restorable => "restorable",
            Self::Booted => "booted",
            Self::Content => "content",
        }
    }
}

impl fmt::Display for ProofLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no level of proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proof level \"{0}\" must be one of unproved, restorable, booted, content")]
pub struct ProofLevelError(String);

impl FromStr for ProofLevel {
    type Err = ProofLevelError;

    fn from_str(s: &str) -> Result<Self, ProofLevelError> {
        Self::ALL.into_iter().find(|l| l.as_str() == s).ok_or_else(|| ProofLevelError(s.to_owned()))
    }
}

#[cfg(test)]
mod tests;
