//! Token buckets: which ones a request needs a token of, and what is left in them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use azdr_env::WallTime;
use http::Method;
use serde_json::json;

use super::request::ArmRequest;
use crate::throttling::{Bucket, Meter, Per, Throttling};
use crate::world::ArmError;

/// All buckets. One that was never used is full.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    levels: Mutex<BTreeMap<(Meter, usize, String), Level>>,
}

/// What a bucket held at a time.
#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: WallTime,
}

impl Level {
    fn now(self, bucket: &Bucket, now: WallTime) -> f64 {
        let refilled = now.since(self.at).as_secs_f64() * rate(bucket);
        (self.tokens + refilled).min(f64::from(bucket.burst))
    }
}

/// Tokens per second.
fn rate(bucket: &Bucket) -> f64 {
    f64::from(bucket.refill) / f64::from(bucket.per_secs.max(1))
}

/// Whose buckets a request takes from. Each is looked up when a bucket is shared so.
pub(super) struct Asker<'a> {
    pub(super) principal: &'a str,
    pub(super) region: &'a dyn Fn() -> String,
    pub(super) vm: &'a dyn Fn() -> String,
}

impl Buckets {
    /// Takes a token from each bucket, or none; the headers that say what is left.
    pub(super) fn take(
        &self,
        sizes: &Throttling,
        request: &ArmRequest,
        asker: &Asker<'_>,
        now: WallTime,
    ) -> Result<Vec<(&'static str, String)>, ArmError> {
        let Some("subscriptions") = request.lower.first().map(String::as_str) else {
            return Ok(Vec::new());
        };
        let subscription = request.lower.get(1).map(String::as_str).unwrap_or_default();
        let mut levels = self.levels.lock().expect("no code panics while holding this lock");
        let mut taken = Vec::new();
        let mut region = None;
        for meter in meters(request).into_iter().flatten() {
            for (place, bucket) in sizes.0.get(&meter).into_iter().flatten().enumerate() {
                let whose = match bucket.per {
                    Per::Principal => format!("{subscription} {}", asker.principal),
                    Per::Subscription => subscription.to_owned(),
                    Per::Region => {
                        format!("{subscription} {}", region.get_or_insert_with(asker.region))
                    }
                    Per::Vm => (asker.vm)(),
                };
                let key = (meter, place, whose);
                let full = Level { tokens: f64::from(bucket.burst), at: now };
                let tokens = levels.get(&key).copied().unwrap_or(full).now(bucket, now);
                if tokens < 1.0 {
                    let wait = (1.0 - tokens) / rate(bucket).max(f64::MIN_POSITIVE);
                    return Err(refusal(meter, bucket, wait));
                }
                taken.push((key, bucket, tokens - 1.0));
            }
        }
        let mut headers = Vec::new();
        let mut resource = Vec::new();
        for (key, bucket, tokens) in taken {
            let left = tokens.floor();
            match key.0 {
                Meter::ArmReads | Meter::ArmWrites | Meter::ArmDeletes => {
                    headers.extend(arm_header(&bucket.name).map(|name| (name, left.to_string())));
                }
                Meter::NetworkReads | Meter::NetworkWrites => {}
                _ => resource.push(format!("Microsoft.Compute/{};{left}", bucket.name)),
            }
            levels.insert(key, Level { tokens, at: now });
        }
        if !resource.is_empty() {
            headers.push(("x-ms-ratelimit-remaining-resource", resource.join(",")));
        }
        Ok(headers)
    }
}

fn arm_header(bucket: &str) -> Option<&'static str> {
    const NAMES: [&str; 6] = [
        "x-ms-ratelimit-remaining-subscription-reads",
        "x-ms-ratelimit-remaining-subscription-writes",
        "x-ms-ratelimit-remaining-subscription-deletes",
        "x-ms-ratelimit-remaining-subscription-global-reads",
        "x-ms-ratelimit-remaining-subscription-global-writes",
        "x-ms-ratelimit-remaining-subscription-global-deletes",
    ];
    let is =
        |name: &&&str| name.strip_prefix("x-ms-ratelimit-remaining-subscription-") == Some(bucket);
    NAMES.iter().find(is).copied()
}

/// The front door's and the network's refusal is ARM's; the compute provider's has no outer `error`
/// and says `OperationNotAllowed`.
fn refusal(meter: Meter, bucket: &Bucket, wait: f64) -> ArmError {
    let retry_after = Some((wait.ceil() as u64).max(1));
    let arm = match meter {
        Meter::ArmReads | Meter::ArmWrites | Meter::ArmDeletes => true,
        Meter::NetworkReads | Meter::NetworkWrites => false,
        _ => {
            let policy = json!({
                "operationGroup": bucket.name,
                "allowedRequestCount": bucket.burst,
                "measuredRequestCount": u64::from(bucket.burst) + 1,
            });
            return ArmError {
                retry_after,
                bare_target: Some(policy.to_string()),
                ..ArmError::new(
                    429,
                    "OperationNotAllowed",
                    "The server rejected the request because too many requests have been received \
                     for this subscription.",
                )
            };
        }
    };
    ArmError {
        retry_after,
        gateway: arm,
        ..ArmError::new(
            429,
            "TooManyRequests",
            format!(
                "The request is being throttled as the limit of '{}' has been reached.",
                bucket.name
            ),
        )
    }
}

/// The front door's and the provider's class of a request.
fn meters(request: &ArmRequest) -> [Option<Meter>; 2] {
    let arm = match request.method {
        Method::GET | Method::HEAD => Meter::ArmReads,
        Method::DELETE => Meter::ArmDeletes,
        _ => Meter::ArmWrites,
    };
    [Some(arm), provider_meter(request)]
}

fn provider_meter(request: &ArmRequest) -> Option<Meter> {
    let kind = request.kind().to_ascii_lowercase();
    let (namespace, rest) = kind.split_once('/')?;
    let get = request.method == Method::GET;
    let delete = request.method == Method::DELETE;
    Some(match (namespace, rest) {
        ("microsoft.network", _) if get => Meter::NetworkReads,
        ("microsoft.network", _) => Meter::NetworkWrites,
        ("microsoft.compute", "locations/operations") => Meter::VmOperation,
        ("microsoft.compute", "locations/diskoperations") => Meter::DiskOperation,
        ("microsoft.compute", "virtualmachines") if get => {
            let one = request.lower.last().is_some_and(|last| last != "virtualmachines");
            if one { Meter::VmGet } else { Meter::VmList }
        }
        ("microsoft.compute", "virtualmachines") if delete => Meter::VmDelete,
        ("microsoft.compute", "virtualmachines") if request.method == Method::PUT => {
            Meter::VmCreate
        }
        ("microsoft.compute", "virtualmachines/deallocate") => Meter::VmDelete,
        (
            "microsoft.compute",
            "virtualmachines/instanceview" | "virtualmachines/retrievebootdiagnosticsdata",
        ) => Meter::VmGet,
        ("microsoft.compute", vm) if vm.starts_with("virtualmachines") => Meter::VmUpdate,
        ("microsoft.compute", "disks" | "snapshots") if get => Meter::DiskGet,
        ("microsoft.compute", "disks" | "snapshots") if delete => Meter::DiskDelete,
        ("microsoft.compute", "snapshots") if request.method == Method::PUT => {
            Meter::SnapshotCreate
        }
        ("microsoft.compute", "disks" | "snapshots") => Meter::DiskUpdate,
        ("microsoft.compute", disk) if disk.starts_with("disks/") => Meter::DiskHydrate,
        ("microsoft.compute", snapshot) if snapshot.starts_with("snapshots/") => {
            Meter::SnapshotCreate
        }
        _ => return None,
    })
}
