//! The fault plan: chosen requests go wrong in a chosen way.
//!
//! A plan is a JSON list. Each entry counts the requests that it matches; it acts on the `nth`
//! (default: the first) and, from there, on `count` of them (default: one; for `region_down` and
//! `capacity_gone`: all).
//!
//! ```json
//! [{"match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "nth": 2},
//!   "action": "drop_after"},
//!  {"match": {"path_contains": "/start"}, "action": {"delay_ms": 500}},
//!  {"match": {}, "action": {"capacity_gone": {"region": "westus"}}}]
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::world::{ArmError, Failure, Injected};

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which requests.
    #[serde(rename = "match", default)]
    pub matching: Match,
    /// What happens to them.
    pub action: Action,
}

/// Which requests; what is absent matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// HTTP method.
    pub method: Option<String>,
    /// Part of the path, in any case.
    pub path_contains: Option<String>,
    /// As counted by `GET /_sim/requests`: `Microsoft.Compute/snapshots`,
    /// `Microsoft.Compute/virtualMachines/start`, … in any case.
    pub resource_type: Option<String>,
    /// The first of the matching requests to act on, from 1.
    pub nth: Option<u64>,
    /// On how many to act.
    pub count: Option<u64>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The request is handled this many milliseconds later.
    DelayMs(u64),
    /// The connection is closed; nothing happens.
    DropBefore,
    /// What was asked for happens; the connection is closed without an answer.
    DropAfter,
    /// Refused with this status.
    Status {
        /// HTTP status.
        status: u16,
        /// ARM's code. 429 with `OperationNotAllowed` gets the compute provider's odd envelope.
        code: String,
        /// Words.
        #[serde(default)]
        message: Option<String>,
        /// Seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// The operation that it starts fails, without effect.
    FailOperation {
        /// ARM's code.
        code: String,
        /// Words.
        message: String,
    },
    /// The copy that it starts stops for ever at this percentage.
    StallCopyAtPercent(f64),
    /// Requests for resources in this region are refused (503).
    RegionDown {
        /// Region name.
        region: String,
    },
    /// Machines in this region cannot be created, nor started after deallocation.
    CapacityGone {
        /// Region name.
        region: String,
    },
}

/// A plan and how far it has got.
#[derive(Debug, Default)]
pub struct FaultPlan {
    faults: Vec<(Fault, u64)>,
}

/// What the plan wants to happen to one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    pub(crate) drop_before: bool,
    pub(crate) drop_after: bool,
    pub(crate) refusal: Option<ArmError>,
    pub(crate) injected: Injected,
}

impl FaultPlan {
    /// A plan from its start.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self { faults: faults.into_iter().map(|fault| (fault, 0)).collect() }
    }

    /// The faults, each with the number of requests that it has matched.
    pub fn progress(&self) -> impl Iterator<Item = (&Fault, u64)> {
        self.faults.iter().map(|(fault, seen)| (fault, *seen))
    }

    /// Counts a request and decides on it. `region` says which region it is for.
    pub(crate) fn judge(
        &mut self,
        method: &str,
        path: &str,
        resource_type: &str,
        region: impl Fn() -> Option<String>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for (fault, seen) in &mut self.faults {
            if !fault.matching.covers(method, path, resource_type) {
                continue;
            }
            *seen += 1;
            let first = fault.matching.nth.unwrap_or(1);
            let lasting =
                matches!(fault.action, Action::RegionDown { .. } | Action::CapacityGone { .. });
            let count = fault.matching.count.unwrap_or(if lasting { u64::MAX } else { 1 });
            if *seen < first || *seen - first >= count {
                continue;
            }
            fault.action.apply(&mut verdict, &region);
        }
        verdict
    }
}

impl Match {
    fn covers(&self, method: &str, path: &str, resource_type: &str) -> bool {
        self.method.as_ref().is_none_or(|m| m.eq_ignore_ascii_case(method))
            && self
                .path_contains
                .as_ref()
                .is_none_or(|part| path.to_lowercase().contains(&part.to_lowercase()))
            && self.resource_type.as_ref().is_none_or(|t| t.eq_ignore_ascii_case(resource_type))
    }
}

impl Action {
    fn apply(&self, verdict: &mut Verdict, region: &impl Fn() -> Option<String>) {
        match self {
            Self::DelayMs(ms) => verdict.delay += Duration::from_millis(*ms),
            Self::DropBefore => verdict.drop_before = true,
            Self::DropAfter => verdict.drop_after = true,
            Self::Status { status, code, message, retry_after } => {
                let words =
                    message.clone().unwrap_or_else(|| "Wanted by the fault plan.".to_owned());
                let bare = *status == 429 && code == "OperationNotAllowed";
                verdict.refusal = Some(ArmError {
                    retry_after: *retry_after,
                    bare_target: bare.then(|| {
                        "{\"operationGroup\":\"HighCostGet\",\"allowedRequestCount\":12}".to_owned()
                    }),
                    ..ArmError::new(*status, code, words)
                });
            }
            Self::FailOperation { code, message } => {
                let (code, message) = (code.clone(), message.clone());
                verdict.injected.fail_operation = Some(Failure { code, message });
            }
            Self::StallCopyAtPercent(percent) => verdict.injected.stall_copy_at = Some(*percent),
            Self::CapacityGone { region } => {
                verdict.injected.no_capacity_in.push(region.to_lowercase());
            }
            Self::RegionDown { region: down } => {
                if region().is_some_and(|r| r.eq_ignore_ascii_case(down)) {
                    verdict.refusal = Some(ArmError::new(
                        503,
                        "ServiceUnavailable",
                        format!("The service in region '{down}' is unavailable."),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_acts_on_the_nth_and_then_on_count_requests() {
        let plan =
            r#"[{"match": {"method": "put", "nth": 2, "count": 2}, "action": "drop_before"}]"#;
        let mut plan = FaultPlan::new(serde_json::from_str(plan).unwrap());
        let hits: Vec<bool> = ["PUT", "GET", "PUT", "PUT", "PUT"]
            .into_iter()
            .map(|method| plan.judge(method, "/x", "", || None).drop_before)
            .collect();
        assert_eq!(hits, [false, false, true, true, false]);
    }

    #[test]
    fn a_region_stays_down_for_its_own_resources() {
        let plan = r#"[{"action": {"region_down": {"region": "eastus"}}}]"#;
        let mut plan = FaultPlan::new(serde_json::from_str(plan).unwrap());
        for _ in 0..3 {
            assert!(plan.judge("GET", "/x", "", || Some("EastUS".into())).refusal.is_some());
        }
        assert!(plan.judge("GET", "/x", "", || Some("westus".into())).refusal.is_none());
    }
}
