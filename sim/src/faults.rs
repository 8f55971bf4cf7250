//! The fault plan: chosen requests go wrong in a chosen way.
//!
//! A plan is a JSON list. Each entry counts the requests that it matches; it acts on the `nth`
//! (default: the first) and, from there, on `count` of them (default: one; for what lasts, that is
//! `region_down`, `capacity_gone`, and anything with a time or a probability: all). Times are of the
//! simulated clock, since the plan was set; the dice of a probability have a seed.
//!
//! ```json
//! [{"match": {"method": "PUT", "resource_type": "Microsoft.Compute/snapshots", "nth": 2},
//!   "action": "drop_after"},
//!  {"match": {"path_contains": "/start"}, "action": {"delay_ms": 500}},
//!  {"match": {"from_ms": 60000, "until_ms": 360000}, "action": {"region_down": {"region": "eastus"}}},
//!  {"match": {"probability": 0.01, "seed": 7}, "action": "drop_before"},
//!  {"match": {}, "action": {"capacity_gone": {"region": "westus"}}}]
//! ```

use std::time::Duration;

use azdr_env::{Ids, SeededIds, WallTime};
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
    /// Not before this time, in milliseconds since the plan was set.
    pub from_ms: Option<u64>,
    /// Not at or after this time, in milliseconds since the plan was set.
    pub until_ms: Option<u64>,
    /// Each matching request counts with this probability only.
    pub probability: Option<f64>,
    /// Seeds the dice of the probability, together with the place in the plan.
    pub seed: Option<u64>,
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
    /// The operation that it starts takes this many milliseconds longer; years are for ever.
    ProlongOperationMs(u64),
    /// The copy that it starts stops for ever at this percentage.
    StallCopyAtPercent(f64),
    /// The copy that it starts breaks at this percentage, as its `copyCompletionError` says.
    FailCopyAtPercent {
        /// Percentage.
        percent: f64,
        /// `errorCode`; the only one that Microsoft documents is `CopySourceNotFound`.
        code: String,
        /// `errorMessage`.
        message: String,
    },
    /// Just before it is handled, a resource vanishes, whatever protects it.
    Delete {
        /// The resource's id.
        id: String,
    },
    /// Just before it is handled, a resource gets another name in its group, whatever protects it.
    Rename {
        /// The resource's id.
        id: String,
        /// The new name.
        to: String,
    },
    /// Just before it is handled, a management lock named `fault-plan` appears.
    Lock {
        /// The id of what it locks: a subscription, resource group or resource.
        scope: String,
        /// `CanNotDelete` or `ReadOnly`.
        level: String,
    },
    /// Just before it is handled, that lock goes.
    Unlock {
        /// As of `lock`.
        scope: String,
    },
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
    faults: Vec<Entry>,
    /// When the plan was set.
    since: Option<WallTime>,
}

#[derive(Debug)]
struct Entry {
    fault: Fault,
    /// Requests that it has matched.
    seen: u64,
    dice: SeededIds,
}

/// What the plan wants to happen to one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    pub(crate) drop_before: bool,
    pub(crate) drop_after: bool,
    pub(crate) refusal: Option<ArmError>,
    pub(crate) injected: Injected,
    /// What happens to the world just before the request.
    pub(crate) behind_the_back: Vec<BehindTheBack>,
    /// Headers of the answer.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Something that nobody asked ARM for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BehindTheBack {
    /// The resource of this id vanishes.
    Delete(String),
    /// It gets another name.
    Rename(String, String),
    /// A lock of this level appears on it.
    Lock(String, String),
    /// The lock goes.
    Unlock(String),
}

/// A request, as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) resource_type: &'a str,
    pub(crate) now: WallTime,
}

impl FaultPlan {
    /// A plan from its start; its times count from the first request.
    pub fn new(faults: Vec<Fault>) -> Self {
        let entry = |(place, fault): (usize, Fault)| {
            let seed = fault.matching.seed.unwrap_or(0).wrapping_add(place as u64);
            Entry { fault, seen: 0, dice: SeededIds::new(seed) }
        };
        Self { faults: faults.into_iter().enumerate().map(entry).collect(), since: None }
    }

    /// The same, its times counting from `now`.
    pub(crate) fn starting(faults: Vec<Fault>, now: WallTime) -> Self {
        Self { since: Some(now), ..Self::new(faults) }
    }

    /// The faults, each with the number of requests that it has matched.
    pub fn progress(&self) -> impl Iterator<Item = (&Fault, u64)> {
        self.faults.iter().map(|entry| (&entry.fault, entry.seen))
    }

    /// Counts a request and decides on it. `region` says which region it is for.
    pub(crate) fn judge(
        &mut self,
        asked: &Asked<'_>,
        region: impl Fn() -> Option<String>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        if self.faults.is_empty() {
            return verdict;
        }
        let elapsed = asked.now.since(*self.since.get_or_insert(asked.now));
        for Entry { fault, seen, dice } in &mut self.faults {
            let matching = &fault.matching;
            if !matching.covers(asked, elapsed) || !matching.dice_say_so(dice) {
                continue;
            }
            *seen += 1;
            let first = matching.nth.unwrap_or(1);
            let lasting = matching.lasts()
                || matches!(fault.action, Action::RegionDown { .. } | Action::CapacityGone { .. });
            let count = matching.count.unwrap_or(if lasting { u64::MAX } else { 1 });
            if *seen < first || *seen - first >= count {
                continue;
            }
            fault.action.apply(&mut verdict, &region);
        }
        verdict
    }
}

impl Match {
    fn covers(&self, asked: &Asked<'_>, elapsed: Duration) -> bool {
        let contains = |part: &String| asked.path.to_lowercase().contains(&part.to_lowercase());
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.method.as_ref().is_none_or(|m| m.eq_ignore_ascii_case(asked.method))
            && self
                .resource_type
                .as_ref()
                .is_none_or(|t| t.eq_ignore_ascii_case(asked.resource_type))
            && self.from_ms.is_none_or(|from| ms >= from)
            && self.until_ms.is_none_or(|until| ms < until)
            && self.path_contains.as_ref().is_none_or(contains)
    }

    fn dice_say_so(&self, dice: &SeededIds) -> bool {
        const STEPS: f64 = (1_u64 << 53) as f64;
        self.probability.is_none_or(|probability| (dice.u64() >> 11) as f64 / STEPS < probability)
    }

    /// It is about more than single requests.
    fn lasts(&self) -> bool {
        self.from_ms.is_some() || self.until_ms.is_some() || self.probability.is_some()
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
            Self::ProlongOperationMs(ms) => {
                verdict.injected.prolong_operation += Duration::from_millis(*ms);
            }
            Self::StallCopyAtPercent(percent) => verdict.injected.stall_copy_at = Some(*percent),
            Self::FailCopyAtPercent { percent, code, message } => {
                verdict.injected.fail_copy_at = Some((*percent, code.clone(), message.clone()));
            }
            Self::Delete { id } => {
                verdict.behind_the_back.push(BehindTheBack::Delete(id.clone()));
            }
            Self::Rename { id, to } => {
                verdict.behind_the_back.push(BehindTheBack::Rename(id.clone(), to.clone()));
            }
            Self::Lock { scope, level } => {
                verdict.behind_the_back.push(BehindTheBack::Lock(scope.clone(), level.clone()));
            }
            Self::Unlock { scope } => {
                verdict.behind_the_back.push(BehindTheBack::Unlock(scope.clone()));
            }
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

    fn asked(method: &str, ms: i64) -> Asked<'_> {
        Asked { method, path: "/x", resource_type: "", now: WallTime::from_unix_ms(ms) }
    }

    fn plan(text: &str) -> FaultPlan {
        let faults = serde_json::from_str(text).unwrap();
        FaultPlan::starting(faults, WallTime::from_unix_ms(0))
    }

    #[test]
    fn a_plan_acts_on_the_nth_and_then_on_count_requests() {
        let mut plan = plan(
            r#"[{"match": {"method": "put", "nth": 2, "count": 2}, "action": "drop_before"}]"#,
        );
        let hits: Vec<bool> = ["PUT", "GET", "PUT", "PUT", "PUT"]
            .into_iter()
            .map(|method| plan.judge(&asked(method, 0), || None).drop_before)
            .collect();
        assert_eq!(hits, [false, false, true, true, false]);
    }

    #[test]
    fn a_region_is_down_for_its_own_resources_for_a_span_of_time() {
        let mut plan = plan(
            r#"[{"match": {"from_ms": 1000, "until_ms": 2000},
                 "action": {"region_down": {"region": "eastus"}}}]"#,
        );
        let mut down = |ms, region: &str| {
            plan.judge(&asked("GET", ms), || Some(region.to_owned())).refusal.is_some()
        };
        assert!(!down(999, "EastUS"));
        assert!(down(1000, "EastUS") && down(1999, "eastus") && !down(1500, "westus"));
        assert!(!down(2000, "EastUS"));
    }

    #[test]
    fn a_probability_has_a_seed() {
        let hits = |seed: u64| {
            let mut plan = plan(&format!(
                r#"[{{"match": {{"probability": 0.25, "seed": {seed}}}, "action": "drop_after"}}]"#
            ));
            let hit = |ms| plan.judge(&asked("GET", ms), || None).drop_after;
            (0..1000).map(hit).collect::<Vec<_>>()
        };
        let count = hits(1).into_iter().filter(|hit| *hit).count();
        assert!((200..300).contains(&count), "{count}");
        assert_eq!(hits(1), hits(1));
        assert_ne!(hits(1), hits(2));
    }

    #[test]
    fn a_plan_is_plain_data() {
        let text = r#"[{"match": {"nth": 3}, "action": {"fail_copy_at_percent":
            {"percent": 40.0, "code": "CopySourceNotFound", "message": "gone"}}},
            {"action": {"prolong_operation_ms": 60000}},
            {"action": {"delete": {"id": "/subscriptions/s"}}},
            {"action": {"lock": {"scope": "/subscriptions/s", "level": "ReadOnly"}}},
            {"action": {"unlock": {"scope": "/subscriptions/s"}}},
            {"action": {"rename": {"id": "/subscriptions/s", "to": "other"}}}]"#;
        let plan: Vec<Fault> = serde_json::from_str(text).unwrap();
        let again = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&again).unwrap(), plan);
    }
}
