//! What happens to a request before it reaches the world: it is counted, token buckets and the fault
//! plan are asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use azdr_env::WallTime;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::buckets::{Asker, Buckets};
use super::request::ArmRequest;
use crate::faults::{Asked, FaultPlan, Verdict};
use crate::signing::Signer;
use crate::world::{ArmId, World};

/// How many of the latest requests are remembered.
const REMEMBERED: usize = 1000;

/// Counters and the fault plan.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pub(crate) plan: Mutex<FaultPlan>,
    counts: Mutex<Counts>,
    buckets: Buckets,
}

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    throttled: u64,
    dropped: u64,
    /// By kind of resource and method.
    by_kind: BTreeMap<String, BTreeMap<String, u64>>,
    latest: VecDeque<Seen>,
}

/// A request that was answered, or not.
#[derive(Debug)]
struct Seen {
    method: Method,
    path: String,
    status: Option<u16>,
}

impl Admission {
    /// Asks the fault plan about a request, and the token buckets if the plan lets it through.
    pub(crate) fn judge(
        &self,
        request: &ArmRequest,
        world: &Mutex<World>,
        signer: &Signer,
        now: WallTime,
    ) -> Verdict {
        let locked = || world.lock().expect("a panic ends the process");
        let region = || region_of(request, &locked());
        let asked = Asked {
            method: request.method.as_str(),
            path: &request.path,
            resource_type: request.kind(),
            now,
        };
        let plan = || self.plan.lock().expect("no code panics while holding this lock");
        let mut verdict = plan().judge(&asked, region);
        if verdict.refusal.is_some() || verdict.drop_before {
            return verdict;
        }
        let world = locked();
        let Some(sizes) = &world.limits.throttling else { return verdict };
        let claims = request.bearer().and_then(|token| signer.claims(token));
        let principal = claims.as_deref().and_then(|claims| claims["appid"].as_str());
        let asker = Asker {
            principal: principal.unwrap_or_default(),
            region: &|| region_of(request, &world).unwrap_or_default(),
            vm: &|| vm_of(request, &world),
        };
        match self.buckets.take(sizes, request, &asker, now) {
            Ok(headers) => verdict.headers = headers,
            Err(refusal) => verdict.refusal = Some(refusal),
        }
        verdict
    }

    /// Counts a request and its answer; `None`: it got none.
    pub(crate) fn count(&self, request: &ArmRequest, status: Option<u16>) {
        let mut counts = self.counts.lock().expect("no code panics while holding this lock");
        counts.total += 1;
        counts.throttled += u64::from(status == Some(429));
        counts.dropped += u64::from(status.is_none());
        let methods = counts.by_kind.entry(request.kind().to_owned()).or_default();
        *methods.entry(request.method.as_str().to_owned()).or_default() += 1;
        if counts.latest.len() == REMEMBERED {
            counts.latest.pop_front();
        }
        let (method, path) = (request.method.clone(), request.path.clone());
        counts.latest.push_back(Seen { method, path, status });
    }

    /// What `GET /_sim/requests` answers.
    pub(crate) fn counted(&self, with_latest: bool) -> Value {
        let counts = self.counts.lock().expect("no code panics while holding this lock");
        let by_kind = counts.by_kind.iter().flat_map(|(kind, methods)| {
            methods.iter().map(move |(method, count)| (format!("{method} {kind}"), *count))
        });
        let by_kind: BTreeMap<String, u64> = by_kind.collect();
        let mut document = json!({
            "total": counts.total,
            "throttled": counts.throttled,
            "dropped": counts.dropped,
            "requests": by_kind,
        });
        if with_latest {
            let seen =
                |s: &Seen| json!({"method": s.method.as_str(), "path": s.path, "status": s.status});
            document["latest"] = counts.latest.iter().map(seen).collect();
        }
        document
    }

    /// Starts counting anew.
    pub(crate) fn reset(&self) {
        *self.counts.lock().expect("no code panics while holding this lock") = Counts::default();
    }
}

/// The region that a request is for: of the resource in its path, of the path, or of its body.
fn region_of(request: &ArmRequest, world: &World) -> Option<String> {
    let path = first_8(&request.segments);
    let known = ArmId::parse(&path).and_then(|id| Some(world.state.common(&id)?.location.clone()));
    let named = || {
        let at = request.lower.iter().position(|segment| segment == "locations")?;
        request.lower.get(at + 1).cloned()
    };
    known.or_else(named).or_else(|| {
        #[derive(Deserialize)]
        struct Placed {
            location: String,
        }
        let body: Placed = serde_json::from_slice(&request.body).ok()?;
        Some(body.location.replace(' ', "").to_lowercase())
    })
}

/// The VM in a request's path, or the one whose operation is polled.
fn vm_of(request: &ArmRequest, world: &World) -> String {
    let polled = request.lower.last().and_then(|id| world.state.operations.get(id)?.vm());
    match polled {
        Some(vm) => vm.key(),
        None => first_8(&request.lower),
    }
}

/// As far as a resource's own ID goes.
fn first_8(segments: &[String]) -> String {
    segments[..segments.len().min(8)].join("/")
}

/// What kind of thing a path is about: `Microsoft.Compute/virtualMachines/start`,
/// `Microsoft.Compute/locations/DiskOperations`, `Microsoft.Resources/resourceGroups`, `token`, …
pub(super) fn type_of(segments: &[String], lower: &[String]) -> String {
    let Some(at) = lower.iter().rposition(|s| s == "providers") else {
        return match lower.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sas", ..] => "blob".to_owned(),
            [.., "token"] => "token".to_owned(),
            ["subscriptions"] | ["subscriptions", _] => {
                "Microsoft.Resources/subscriptions".to_owned()
            }
            ["subscriptions", _, "operationresults", _] => {
                "Microsoft.Resources/operationresults".to_owned()
            }
            ["subscriptions", _, "resourcegroups", _, "resources"] => {
                "Microsoft.Resources/resources".to_owned()
            }
            ["subscriptions", _, "resourcegroups", ..] => {
                "Microsoft.Resources/resourceGroups".to_owned()
            }
            ["subscriptions", _, what] => format!("Microsoft.Resources/{what}"),
            _ => "other".to_owned(),
        };
    };
    // Names stand between the parts of a type; an action follows a name.
    let parts: Vec<&str> = segments[at + 1..].iter().map(String::as_str).collect();
    let mut named = parts.first().map(|p| (*p).to_owned()).unwrap_or_default();
    for part in parts.iter().skip(1).step_by(2) {
        named.push('/');
        named.push_str(part);
    }
    named
}
