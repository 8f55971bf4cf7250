//! What a disk and a snapshot have in common: content, size, and descriptions that are inherited.

use std::time::Duration;

use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ArmId;
use super::state::Grant;

/// Where the content came from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Creation {
    /// `Empty`, `Copy` or `CopyStart`.
    pub option: String,
    /// The disk or snapshot that was copied.
    pub source: Option<ArmId>,
    /// That resource's unique id at the time.
    pub source_unique_id: Option<String>,
    /// Other fields of the caller, kept as written.
    pub extra: Map<String, Value>,
}

/// Content and what describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Azure's `uniqueId`; also names the content's file.
    pub unique_id: String,
    /// Exact size.
    pub size_bytes: u64,
    /// `Premium_LRS`, …
    pub sku: String,
    /// Where the content came from.
    pub creation: Creation,
    /// Descriptions that pass from disk to snapshot to disk: `osType`, `hyperVGeneration`,
    /// `purchasePlan`, `securityProfile`, `supportedCapabilities`, `supportsHibernation`,
    /// `encryption`.
    pub inherited: Map<String, Value>,
    /// Other properties of the caller, kept as written: `networkAccessPolicy`, …
    pub extra: Map<String, Value>,
    /// Read access that is granted.
    pub grant: Option<Grant>,
    /// Its creation failed: there is no content.
    pub broken: bool,
}

/// The properties that pass from a source to what is made from it.
pub(super) const INHERITED: [&str; 7] = [
    "osType",
    "hyperVGeneration",
    "purchasePlan",
    "securityProfile",
    "supportedCapabilities",
    "supportsHibernation",
    "encryption",
];

/// Properties that only Azure sets: ignored in requests, since clients send back what they read.
pub(super) const READ_ONLY: [&str; 19] = [
    "immutabilityPolicy",
    "provisioningState",
    "timeCreated",
    "uniqueId",
    "diskSizeBytes",
    "diskState",
    "creationData",
    "incremental",
    "incrementalSnapshotFamilyId",
    "completionPercent",
    "copyCompletionError",
    "snapshotAccessState",
    "diskSizeGB",
    "diskIOPSReadWrite",
    "diskMBpsReadWrite",
    "tier",
    "LastOwnershipUpdateTime",
    "isArmResource",
    "faultDomain",
];

impl Volume {
    /// The content file's name within the content directory.
    pub fn file(&self) -> String {
        format!("{}.raw", self.unique_id)
    }

    /// The grant, unless it has expired.
    pub fn active_grant(&self, now: WallTime) -> Option<&Grant> {
        self.grant.as_ref().filter(|grant| grant.expires > now)
    }

    /// Splits a request's properties into what is inherited and what is not, the request winning
    /// over `source`.
    pub(super) fn describe(
        mut properties: Map<String, Value>,
        source: Option<&Self>,
    ) -> (Map<String, Value>, Map<String, Value>) {
        let mut inherited = source.map(|volume| volume.inherited.clone()).unwrap_or_default();
        for name in INHERITED {
            if let Some(value) = properties.remove(name)
                && !value.is_null()
            {
                inherited.insert(name.to_owned(), value);
            }
        }
        properties.retain(|name, value| !READ_ONLY.contains(&name.as_str()) && !value.is_null());
        inherited
            .entry("encryption")
            .or_insert_with(|| serde_json::json!({"type": "EncryptionAtRestWithPlatformKey"}));
        (inherited, properties)
    }

    /// Premium SSD v2 or Ultra: snapshots of it are copied in the background.
    pub(super) fn is_background_copied(&self) -> bool {
        let sku = self.sku.to_lowercase();
        sku.starts_with("premiumv2") || sku.starts_with("ultrassd")
    }
}

/// A background copy. Its state is a function of the time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// When it began.
    pub started: WallTime,
    /// How long it takes if nothing happens.
    pub takes_ms: u64,
    /// It never gets past this percentage.
    pub stall_at: Option<f64>,
    /// It broke: percentage reached, code, words.
    pub error: Option<(f64, String, String)>,
    /// It is going to break: at which percentage, code, words.
    #[serde(default)]
    pub breaks_at: Option<(f64, String, String)>,
}

impl Progress {
    /// When it ends by itself; `None`: never.
    pub(super) fn ends(&self) -> Option<WallTime> {
        let breaks = self.breaks_at.as_ref().map_or(100.0, |(percent, ..)| percent.min(100.0));
        if self.stall_at.is_some_and(|limit| limit < breaks) {
            return None;
        }
        let takes_ms = (self.takes_ms as f64 * breaks / 100.0).ceil() as u64;
        Some(self.started.plus(Duration::from_millis(takes_ms)))
    }

    /// Why it will never be complete, if it has broken: code and words.
    pub fn failure(&self, now: WallTime) -> Option<(&str, &str)> {
        let broken = self.breaks_at.as_ref().filter(|(at, ..)| self.percent(now) >= *at);
        let (_, code, words) = self.error.as_ref().or(broken)?;
        Some((code, words))
    }

    /// Percentage done.
    pub fn percent(&self, now: WallTime) -> f64 {
        if let Some((reached, ..)) = &self.error {
            return *reached;
        }
        let done = now.since(self.started).as_secs_f64();
        let all = Duration::from_millis(self.takes_ms).as_secs_f64();
        let percent = if done >= all { 100.0 } else { (done / all * 1000.0).floor() / 10.0 };
        let limit = self.stall_at.into_iter().chain(self.breaks_at.as_ref().map(|(at, ..)| *at));
        limit.fold(percent, f64::min)
    }
}

/// Size in GiB as Azure shows it: rounded up.
pub fn gib(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_copy_stays_below_its_limit_for_ever() {
        let started = WallTime::from_unix_ms(0);
        let stall_at = Some(40.0);
        let progress = Progress { started, takes_ms: 1000, stall_at, error: None, breaks_at: None };
        assert_eq!(progress.percent(started), 0.0);
        assert_eq!(progress.percent(started.plus(Duration::from_millis(250))), 25.0);
        assert_eq!(progress.percent(started.plus(Duration::from_secs(3600))), 40.0);
    }
}
