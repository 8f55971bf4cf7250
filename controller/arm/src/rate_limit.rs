//! What a request costs, and what an answer's headers say about the limits: the words between HTTP
//! and the [`Budget`].

use std::time::Duration;

use azdr_env::WallTime;
use http::Method;

use crate::budget::{Budget, OperationClass};
use crate::error::{AzureError, ErrorClass};
use crate::transport::HttpResponse;

/// What one request takes from the budget.
pub(crate) struct Charge {
    /// Empty for the tenant's own requests.
    pub(crate) subscription: String,
    pub(crate) classes: Vec<OperationClass>,
    /// Whether it can change something.
    pub(crate) write: bool,
}

impl Charge {
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        let segments: Vec<String> = path.split('/').skip(1).map(str::to_ascii_lowercase).collect();
        let subscription = match segments.as_slice() {
            [word, id, ..] if word == "subscriptions" => id.clone(),
            _ => String::new(),
        };
        let main = match *method {
            Method::GET | Method::HEAD => OperationClass::Reads,
            Method::DELETE => OperationClass::Deletes,
            _ => OperationClass::Writes,
        };
        let snapshot = segments.iter().any(|s| s == "snapshots")
            && segments.iter().any(|s| s == "microsoft.compute");
        let high_cost = main == OperationClass::Writes && snapshot && *method != Method::PATCH;
        // The scarcer token first: waiting for it must not hold a common one.
        let classes =
            if high_cost { vec![OperationClass::HighCostSnapshot, main] } else { vec![main] };
        Self { subscription, classes, write: main != OperationClass::Reads }
    }

    fn main_class(&self) -> OperationClass {
        self.classes.last().copied().unwrap_or(OperationClass::Reads)
    }
}

/// Takes over the remaining counts that an answer carries.
pub(crate) fn learn(budget: &Budget, charge: &Charge, answer: &HttpResponse) {
    const COUNTS: [(&str, OperationClass); 3] = [
        ("x-ms-ratelimit-remaining-subscription-reads", OperationClass::Reads),
        ("x-ms-ratelimit-remaining-subscription-writes", OperationClass::Writes),
        ("x-ms-ratelimit-remaining-subscription-deletes", OperationClass::Deletes),
    ];
    for (name, class) in COUNTS {
        if let Some(left) = answer.header(name).and_then(|v| v.trim().parse().ok()) {
            budget.learn(&charge.subscription, class, left);
        }
    }
    // `Microsoft.Compute/HighCostSnapshotCreateHydrate3Min;999,Microsoft.Compute/…30Min;7999`
    let buckets = answer.header("x-ms-ratelimit-remaining-resource").unwrap_or_default();
    for bucket in buckets.split(',') {
        if let Some((name, left)) = bucket.split_once(';')
            && name.to_ascii_lowercase().contains("highcostsnapshotcreatehydrate")
            && let Ok(left) = left.trim().parse()
        {
            budget.learn(&charge.subscription, OperationClass::HighCostSnapshot, left);
        }
    }
}

/// Counts a 429, and closes the bucket it came from if it was the subscription's own: a resource
/// provider's answer is about one VM or one bucket of its own, and must not stop everything else.
pub(crate) fn answered_429(
    budget: &Budget,
    charge: &Charge,
    answer: &HttpResponse,
    error: &AzureError,
) {
    if answer.status != 429 || error.class != ErrorClass::Throttled {
        return;
    }
    let whole_subscription = error.code.eq_ignore_ascii_case("SubscriptionRequestsThrottled")
        || ["reads", "writes", "deletes"].iter().any(|class| {
            let name = format!("x-ms-ratelimit-remaining-subscription-{class}");
            answer.header(&name).is_some_and(|left| left.trim() == "0")
        });
    let close = if whole_subscription {
        Some(charge.main_class())
    } else {
        charge.classes.iter().copied().find(|c| *c == OperationClass::HighCostSnapshot)
    };
    let pause = error.retry_after.unwrap_or(Duration::from_secs(5));
    let pause = pause.clamp(Duration::from_secs(1), Duration::from_secs(60));
    budget.throttled(&charge.subscription, &charge.classes, close, pause);
}

/// `Retry-After`, in seconds or as a date; also `x-ms-retry-after-ms` and `retry-after-ms`.
pub(crate) fn retry_after(answer: &HttpResponse, now: WallTime) -> Option<Duration> {
    for name in ["x-ms-retry-after-ms", "retry-after-ms"] {
        if let Some(ms) = answer.header(name).and_then(|v| v.trim().parse().ok()) {
            return Some(Duration::from_millis(ms));
        }
    }
    let text = answer.header("retry-after")?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = azure_core::time::parse_rfc7231(text.trim()).ok()?;
    Some(WallTime::from_unix_ms(date.unix_timestamp().saturating_mul(1000)).since(now))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answer(name: &'static str, value: &str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        HttpResponse { status: 200, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn requests_are_charged_by_method_and_resource() {
        use OperationClass as C;
        let classes = |method, path| Charge::of(&method, path).classes;
        let snapshot = "/subscriptions/S/resourceGroups/g/providers/Microsoft.Compute/Snapshots/x";
        assert_eq!(classes(Method::GET, snapshot), [C::Reads]);
        assert_eq!(classes(Method::PUT, snapshot), [C::HighCostSnapshot, C::Writes]);
        assert_eq!(classes(Method::PATCH, snapshot), [C::Writes]);
        assert_eq!(classes(Method::DELETE, snapshot), [C::Deletes]);
        let access = format!("{snapshot}/beginGetAccess");
        assert_eq!(classes(Method::POST, &access), [C::HighCostSnapshot, C::Writes]);
        let group = "/subscriptions/S/resourceGroups/snapshots";
        assert_eq!(classes(Method::PUT, group), [C::Writes]);
        assert_eq!(Charge::of(&Method::GET, snapshot).subscription, "s");
        assert_eq!(Charge::of(&Method::GET, "/tenants").subscription, "");
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now: WallTime = "2021-04-06T03:29:19Z".parse().unwrap();
        let read = |name, value| retry_after(&answer(name, value), now);
        assert_eq!(read("retry-after", "17"), Some(Duration::from_secs(17)));
        assert_eq!(
            read("retry-after", "Tue, 06 Apr 2021 03:29:49 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(read("retry-after", "Tue, 06 Apr 2021 03:29:09 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "soon"), None);
    }
}
