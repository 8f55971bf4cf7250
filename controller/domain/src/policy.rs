//! What a person wants for a VM: schedule, retention, consistency, replication, objectives and proofs.
//!
//! A [`Policy`] is changed by a [`PolicyChange`] only, which validates all of it; every error names
//! the field, the value and what is allowed. The time zones known are those bundled with the program,
//! so that a policy means the same on every machine.

use std::fmt;
use std::str::FromStr;

use azdr_env::WallTime;
use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::interval::Interval;
use crate::region::Region;
use crate::tier::{Tier, TierSet};

/// A value that a policy cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be \"{value}\": {allowed}")]
pub struct PolicyError {
    /// The field's name, as in the API.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// What would be allowed.
    pub allowed: String,
}

impl PolicyError {
    fn new(field: &'static str, value: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), allowed: allowed.into() }
    }

    /// For what belongs to a policy and is checked elsewhere.
    pub(crate) fn of(field: &'static str, value: &str, allowed: &str) -> Self {
        Self::new(field, value, allowed)
    }
}

/// Counts of recovery points to keep per tier; 0 switches the tier off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// 0 to 3650.
    pub daily: u32,
    /// 0 to 520.
    pub weekly: u32,
    /// 0 to 240.
    pub monthly: u32,
    /// 0 to 100.
    pub yearly: u32,
}

impl Retention {
    /// How many slots of this tier are kept.
    pub const fn count(&self, tier: Tier) -> u32 {
        match tier {
            Tier::Daily => self.daily,
            Tier::Weekly => self.weekly,
            Tier::Monthly => self.monthly,
            Tier::Yearly => self.yearly,
        }
    }

    /// The tiers that are switched on.
    pub fn tiers(&self) -> TierSet {
        Tier::ALL.into_iter().filter(|t| self.count(*t) > 0).collect()
    }

    /// The largest count of a tier.
    pub const fn limit(tier: Tier) -> u32 {
        match tier {
            Tier::Daily => 3650,
            Tier::Weekly => 520,
            Tier::Monthly => 240,
            Tier::Yearly => 100,
        }
    }

    fn check(&self) -> Result<(), PolicyError> {
        for tier in Tier::ALL {
            let (count, limit) = (self.count(tier), Self::limit(tier));
            if count > limit {
                let allowed = format!("it must be 0 to {limit}");
                return Err(PolicyError::new(field_of(tier), count, allowed));
            }
        }
        if self.tiers().is_empty() {
            let allowed = "at least one of daily, weekly, monthly, yearly must be above 0";
            return Err(PolicyError::new("retention", "0 for every tier", allowed));
        }
        Ok(())
    }
}

const fn field_of(tier: Tier) -> &'static str {
    match tier {
        Tier::Daily => "daily_retention",
        Tier::Weekly => "weekly_retention",
        Tier::Monthly => "monthly_retention",
        Tier::Yearly => "yearly_retention",
    }
}

/// A time of day, `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    hour: i8,
    minute: i8,
}

impl TimeOfDay {
    /// A time of day, when `hour` is 0 to 23 and `minute` 0 to 59.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        let (hour, minute) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?);
        (hour < 24 && minute < 60).then_some(Self { hour, minute })
    }

    /// As jiff's type, for calendar arithmetic.
    pub fn civil(self) -> civil::Time {
        civil::time(self.hour, self.minute, 0, 0)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl FromStr for TimeOfDay {
    type Err = PolicyError;

    fn from_str(s: &str) -> Result<Self, PolicyError> {
        // "daily 02:30" says the same: there is no other rhythm.
        let time = s.strip_prefix("daily ").unwrap_or(s);
        let two_digits = |part: &str| -> Option<u8> {
            (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse().ok())
                .flatten()
        };
        time.split_once(':')
            .and_then(|(h, m)| Self::new(two_digits(h)?, two_digits(m)?))
            .ok_or_else(|| {
                let allowed = "it must be 00:00 to 23:59, or \"daily 02:30\" with such a time";
                PolicyError::new("schedule_time", s, allowed)
            })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = PolicyError;

    fn try_from(s: String) -> Result<Self, PolicyError> {
        s.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

/// The IANA name of a time zone that this program knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(String);

impl ZoneName {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self("UTC".to_owned())
    }

    /// The name, in the database's spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An instant as this zone's clocks show it, with the offset: `2025-12-01T08:00:00+01:00`.
    pub fn local(&self, at: WallTime) -> String {
        at.timestamp().to_zoned(self.zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    /// The zone's rules.
    pub fn zone(&self) -> TimeZone {
        TimeZone::get(&self.0).expect("the name was looked up when this value was made")
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ZoneName {
    type Err = PolicyError;

    fn from_str(s: &str) -> Result<Self, PolicyError> {
        TimeZone::get(s)
            .ok()
            .and_then(|zone| zone.iana_name().map(|name| Self(name.to_owned())))
            .ok_or_else(|| {
                let allowed = "it must be an IANA time zone, like UTC or Europe/Berlin";
                PolicyError::new("time_zone", s, allowed)
            })
    }
}

impl TryFrom<String> for ZoneName {
    type Error = PolicyError;

    fn try_from(s: String) -> Result<Self, PolicyError> {
        s.parse()
    }
}

impl From<ZoneName> for String {
    fn from(zone: ZoneName) -> Self {
        zone.0
    }
}

/// When backups are due: once a day at a time of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The local time.
    pub time: TimeOfDay,
    /// The zone in which `time`, days, weeks, months and years are meant.
    pub time_zone: ZoneName,
}

/// How consistent a backup has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsistencyDemand {
    /// A backup that is not at least file-system consistent fails and leaves nothing behind.
    Require,
    /// Freeze if it can be done, else record what was achieved.
    Prefer,
    /// Never freeze.
    Any,
}

impl ConsistencyDemand {
    const ALL: [Self; 3] = [Self::Require, Self::Prefer, Self::Any];

    /// The demand's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for ConsistencyDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ConsistencyDemand {
    type Err = PolicyError;

    fn from_str(s: &str) -> Result<Self, PolicyError> {
        Self::ALL
            .into_iter()
            .find(|d| d.as_str() == s)
            .ok_or_else(|| PolicyError::new("consistency", s, "it must be require, prefer or any"))
    }
}

/// What is wanted for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Off: nothing is scheduled and nothing is pruned.
    pub enabled: bool,
    /// How many slots of each tier are kept.
    pub retention: Retention,
    /// When backups are due.
    pub schedule: Schedule,
    /// Where recovery points are copied to; `None`: nowhere.
    pub target_region: Option<Region>,
    /// How consistent a backup has to be.
    pub consistency: ConsistencyDemand,
    /// How old the newest restorable point may be at most; 5 minutes to 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Interval>,
    /// How long a restore may take at most; 1 minute to 7 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<Interval>,
    /// How often the newest unproved point is verified; 1 hour to 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_every: Option<Interval>,
    /// How often a drill is held; 1 hour to 366 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_every: Option<Interval>,
}

/// A span of time that a policy can state: its field, and what is allowed.
#[derive(Debug, Clone, Copy)]
pub struct SpanField {
    /// As in the API.
    pub field: &'static str,
    /// The shortest.
    pub least: Interval,
    /// The longest.
    pub most: Interval,
}

impl SpanField {
    /// See [`Policy::rpo`].
    pub const RPO: Self =
        Self { field: "rpo", least: Interval::minutes(5), most: Interval::days(366) };
    /// See [`Policy::rto`].
    pub const RTO: Self =
        Self { field: "rto", least: Interval::minutes(1), most: Interval::days(7) };
    /// See [`Policy::verify_every`].
    pub const VERIFY_EVERY: Self =
        Self { field: "verify_every", least: Interval::hours(1), most: Interval::days(366) };
    /// See [`Policy::drill_every`].
    pub const DRILL_EVERY: Self =
        Self { field: "drill_every", least: Interval::hours(1), most: Interval::days(366) };

    fn check(self, value: Option<Interval>) -> Result<(), PolicyError> {
        match value {
            Some(value) if !(self.least..=self.most).contains(&value) => {
                let allowed = format!("it must be {} to {}, or none", self.least, self.most);
                Err(PolicyError::new(self.field, value, allowed))
            }
            _ => Ok(()),
        }
    }
}

/// The span after a change, in which 0 s is none.
fn changed_span(old: Option<Interval>, change: Option<u32>) -> Option<Interval> {
    match change {
        None => old,
        Some(0) => None,
        Some(secs) => Some(Interval::from_secs(secs)),
    }
}

impl Default for Policy {
    /// What a new policy is changed from: enabled, 7 daily, 02:00 UTC, no replication, `prefer`.
    fn default() -> Self {
        Self {
            enabled: true,
            retention: Retention { daily: 7, weekly: 0, monthly: 0, yearly: 0 },
            schedule: Schedule {
                time: TimeOfDay { hour: 2, minute: 0 },
                time_zone: ZoneName::utc(),
            },
            target_region: None,
            consistency: ConsistencyDemand::Prefer,
            rpo: None,
            rto: None,
            verify_every: None,
            drill_every: None,
        }
    }
}

/// A change of a policy, as a person gave it: what is `None` keeps its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Switches the policy on or off.
    pub enabled: Option<bool>,
    /// See [`Retention`].
    pub daily: Option<u32>,
    /// See [`Retention`].
    pub weekly: Option<u32>,
    /// See [`Retention`].
    pub monthly: Option<u32>,
    /// See [`Retention`].
    pub yearly: Option<u32>,
    /// `Some(true)` needs a target region, given here or before; `Some(false)` ends replication.
    pub cross_region: Option<bool>,
    /// Starts replication to this region, or moves it there.
    pub target_region: Option<String>,
    /// `HH:MM`, or `daily HH:MM`.
    pub schedule_time: Option<String>,
    /// An IANA name.
    pub time_zone: Option<String>,
    /// See [`ConsistencyDemand`].
    pub consistency: Option<ConsistencyDemand>,
    /// See [`Policy::rpo`]; 0: none.
    pub rpo_secs: Option<u32>,
    /// See [`Policy::rto`]; 0: none.
    pub rto_secs: Option<u32>,
    /// See [`Policy::verify_every`]; 0: never.
    pub verify_every_secs: Option<u32>,
    /// See [`Policy::drill_every`]; 0: never.
    pub drill_every_secs: Option<u32>,
}

impl Policy {
    /// The policy after a change. A new policy is `Policy::default().apply(…)`.
    ///
    /// # Errors
    /// When the outcome is not allowed; nothing is changed then.
    pub fn apply(&self, change: &PolicyChange, vm_region: &Region) -> Result<Self, PolicyError> {
        let policy = self.apply_anywhere(change)?;
        policy.check(vm_region)?;
        Ok(policy)
    }

    /// The same for a policy of VMs in any region.
    ///
    /// # Errors
    /// As [`Policy::apply`], but for the region.
    pub fn apply_anywhere(&self, change: &PolicyChange) -> Result<Self, PolicyError> {
        let old = &self.retention;
        let policy = Self {
            enabled: change.enabled.unwrap_or(self.enabled),
            retention: Retention {
                daily: change.daily.unwrap_or(old.daily),
                weekly: change.weekly.unwrap_or(old.weekly),
                monthly: change.monthly.unwrap_or(old.monthly),
                yearly: change.yearly.unwrap_or(old.yearly),
            },
            schedule: Schedule {
                time: match &change.schedule_time {
                    Some(time) => time.parse()?,
                    None => self.schedule.time,
                },
                time_zone: match &change.time_zone {
                    Some(zone) => zone.parse()?,
                    None => self.schedule.time_zone.clone(),
                },
            },
            target_region: self.changed_target(change)?,
            consistency: change.consistency.unwrap_or(self.consistency),
            rpo: changed_span(self.rpo, change.rpo_secs),
            rto: changed_span(self.rto, change.rto_secs),
            verify_every: changed_span(self.verify_every, change.verify_every_secs),
            drill_every: changed_span(self.drill_every, change.drill_every_secs),
        };
        policy.check_anywhere()?;
        Ok(policy)
    }

    /// Checks the limits of a policy that did not come from [`Policy::apply`].
    ///
    /// # Errors
    /// When a value is not allowed.
    pub fn check(&self, vm_region: &Region) -> Result<(), PolicyError> {
        self.check_anywhere()?;
        if self.target_region.as_ref() == Some(vm_region) {
            let allowed = "it must differ from the VM's own region";
            return Err(PolicyError::new("target_region", vm_region, allowed));
        }
        Ok(())
    }

    /// Checks what can be checked without knowing the VM's region.
    pub(crate) fn check_anywhere(&self) -> Result<(), PolicyError> {
        self.retention.check()?;
        SpanField::RPO.check(self.rpo)?;
        SpanField::RTO.check(self.rto)?;
        SpanField::VERIFY_EVERY.check(self.verify_every)?;
        SpanField::DRILL_EVERY.check(self.drill_every)
    }

    fn changed_target(&self, change: &PolicyChange) -> Result<Option<Region>, PolicyError> {
        match (change.cross_region, &change.target_region) {
            (Some(false), Some(target)) => {
                let allowed = "no target region can be given where cross_region is switched off";
                Err(PolicyError::new("target_region", target, allowed))
            }
            (Some(false), None) => Ok(None),
            (_, Some(target)) => Region::parse(target).map(Some).map_err(|_| {
                let allowed = "it must be 2 to 40 letters and digits, like westus2";
                PolicyError::new("target_region", target, allowed)
            }),
            (Some(true), None) if self.target_region.is_none() => {
                Err(PolicyError::new("cross_region", true, "it needs a target_region"))
            }
            (_, None) => Ok(self.target_region.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
