//! What can go wrong, in classes that decide what a caller does next.
//!
//! ARM's error bodies are read by us, from the bytes: azure_core 1.1 loses the code of a message
//! that holds an escaped quote, and CRP's throttling answer lacks the outer `error`. An
//! [`AzureError`] is plain data (it is journalled) and never holds a token or a SAS signature.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secret::redact;

/// What a caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The resource, its group or its parent does not exist. Right after a create this may be
    /// replication lag.
    NotFound,
    /// The resource's state forbids it now: another operation, another content, a wrong state.
    Conflict,
    /// The `If-Match` did not match: read again and plan again.
    PreconditionFailed,
    /// Too many requests; [`AzureError::retry_after`] says how long to wait, when Azure said it.
    Throttled,
    /// A quota must be raised by a person first.
    Quota,
    /// Azure has no such size left there: take another size, zone or region.
    Capacity,
    /// Not signed in, or not allowed.
    Denied,
    /// A management lock is in the way; never retried.
    Locked,
    /// Azure (or this client) does not accept the request; repeating it changes nothing.
    Invalid,
    /// The request was not carried out, and may succeed later.
    Unavailable,
    /// The request may or may not have been carried out. Look, or repeat it: every action of this
    /// crate may be repeated.
    OutcomeUnknown,
    /// Anything else: the operation was carried out and failed.
    Failed,
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition failed",
            Self::Throttled => "throttled",
            Self::Quota => "quota exceeded",
            Self::Capacity => "no capacity",
            Self::Denied => "denied",
            Self::Locked => "locked",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome unknown",
            Self::Failed => "failed",
        })
    }
}

/// One failed action against Azure. Plain data: may be journalled and shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub struct AzureError {
    /// What a caller can do about it.
    pub class: ErrorClass,
    /// ARM's code (`OperationNotAllowed`), or this client's (`RequestTimedOut`) where Azure gave
    /// none.
    pub code: String,
    /// Azure's words, with the words of its details appended.
    pub message: String,
    /// The status of the HTTP answer; absent when there was none, and for an operation that failed
    /// after it was accepted (that is reported with HTTP 200).
    pub http_status: Option<u16>,
    /// The path of the resource that the request was for.
    pub resource: Option<Box<str>>,
    /// Our id of the request, `x-ms-client-request-id`.
    pub client_request_id: Option<Box<str>>,
    /// Azure's id of the request, `x-ms-request-id`: what its support asks for.
    pub request_id: Option<Box<str>>,
    /// How long Azure wants us to wait.
    pub retry_after: Option<Duration>,
}

impl AzureError {
    /// An error of this client's own making.
    pub fn new(class: ErrorClass, code: &str, message: impl Into<String>) -> Self {
        Self {
            class,
            code: code.to_owned(),
            message: redact(&message.into()),
            http_status: None,
            resource: None,
            client_request_id: None,
            request_id: None,
            retry_after: None,
        }
    }

    /// Names the resource, if none is named yet.
    #[must_use]
    pub fn for_resource(mut self, resource: &str) -> Self {
        self.resource.get_or_insert_with(|| resource.into());
        self
    }

    /// Whether the same action may succeed when it is repeated later, unchanged.
    ///
    /// True for [`ErrorClass::Throttled`], [`ErrorClass::Unavailable`] and
    /// [`ErrorClass::OutcomeUnknown`] (every action of this crate may be repeated), and for those
    /// conflicts that end by themselves: another operation, a disk being detached, a NIC still
    /// reserved for its late VM.
    pub fn is_retryable(&self) -> bool {
        match self.class {
            ErrorClass::Throttled | ErrorClass::Unavailable | ErrorClass::OutcomeUnknown => true,
            ErrorClass::Conflict => PASSING_CONFLICTS.iter().any(|c| is(&self.code, c)),
            _ => false,
        }
    }

    /// Whether the resource does not exist.
    pub fn is_not_found(&self) -> bool {
        self.class == ErrorClass::NotFound
    }

    /// Reads the answer to a request that Azure refused. `write` says whether the request could
    /// have changed something.
    pub(crate) fn from_answer(status: u16, body: &[u8], write: bool) -> Self {
        let words = ErrorWords::parse(body);
        let class = words.class(status, write);
        let code = words.codes.first().cloned().unwrap_or_else(|| format!("Http{status}"));
        let message = if words.message.is_empty() {
            format!("Azure answered with HTTP {status}")
        } else {
            words.message
        };
        Self { http_status: Some(status), ..Self::new(class, &code, message) }
    }

    /// Reads the `error` of an operation that ended in `status` (Failed or Canceled).
    pub(crate) fn from_failed_operation(status: &str, error: Option<&Value>) -> Self {
        let words = error.map(ErrorWords::read).unwrap_or_default();
        let class = words
            .codes
            .iter()
            .find_map(|code| class_of_code(code, &words.message, None))
            .unwrap_or(ErrorClass::Failed);
        let code =
            words.codes.first().cloned().unwrap_or_else(|| format!("Operation{}", capital(status)));
        let message = if words.message.is_empty() {
            format!("the operation ended as {status} without a reason")
        } else {
            words.message
        };
        Self::new(class, &code, message)
    }
}

impl fmt::Display for AzureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.code, self.class)?;
        if let Some(status) = self.http_status {
            write!(f, ", HTTP {status}")?;
        }
        f.write_str(")")?;
        if let Some(resource) = &self.resource {
            write!(f, " for {resource}")?;
        }
        write!(f, ": {}", self.message)?;
        match (&self.client_request_id, &self.request_id) {
            (Some(ours), Some(theirs)) => write!(f, " [request {ours}, Azure's {theirs}]"),
            (Some(ours), None) => write!(f, " [request {ours}]"),
            (None, Some(theirs)) => write!(f, " [Azure's request {theirs}]"),
            (None, None) => Ok(()),
        }
    }
}

/// Conflicts that end by themselves.
const PASSING_CONFLICTS: [&str; 7] = [
    "AnotherOperationInProgress",
    "RetryableErrorDueToAnotherOperation",
    "RetryableError",
    "Conflict",
    "AttachDiskWhileBeingDetached",
    "NicReservedForAnotherVm",
    "DiskPendingCopyOperation",
];

/// What an error body says, whichever of its shapes it has.
#[derive(Default)]
struct ErrorWords {
    /// The error's own code, then its details', then its inner errors'.
    codes: Vec<String>,
    message: String,
}

impl ErrorWords {
    fn parse(body: &[u8]) -> Self {
        if let Ok(json) = serde_json::from_slice::<Value>(body) {
            return Self::read(&json);
        }
        // Blob storage answers in XML, and a proxy in HTML or plain text.
        let text = String::from_utf8_lossy(&body[..body.len().min(2_000)]);
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once("</")?.0.trim().to_owned())
        };
        match element("Code") {
            Some(code) => Self {
                codes: vec![code],
                message: element("Message").unwrap_or_default().replace('\n', " "),
            },
            None => Self { codes: Vec::new(), message: text.trim().to_owned() },
        }
    }

    fn read(json: &Value) -> Self {
        let error = match json.get("error") {
            Some(inner @ Value::Object(_)) => inner,
            _ => json,
        };
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
        };
        // The token endpoint: {"error": "invalid_client", "error_description": "…"}.
        if let Some(code) = error.get("error").and_then(Value::as_str) {
            return Self {
                codes: vec![code.to_owned()],
                message: text(error, "error_description"),
            };
        }
        let mut words = Self { codes: Vec::new(), message: text(error, "message") };
        let mut add = |value: &Value, say: bool| {
            let (code, message) = (text(value, "code"), text(value, "message"));
            if say && !message.is_empty() && !words.message.contains(&message) {
                let prefix = if code.is_empty() { String::new() } else { format!("{code}: ") };
                words.message = format!("{} ({prefix}{message})", words.message).trim().to_owned();
            }
            if !code.is_empty() {
                words.codes.push(code);
            }
        };
        add(error, false);
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            add(detail, true);
        }
        let mut inner = error.get("innererror");
        while let Some(value @ Value::Object(_)) = inner {
            add(value, true);
            inner = value.get("innererror");
        }
        words
    }

    fn class(&self, status: u16, write: bool) -> ErrorClass {
        // The status decides these, whatever the code: CRP throttles with `OperationNotAllowed`.
        if status == 412 {
            return ErrorClass::PreconditionFailed;
        }
        if status == 429 {
            let busy = self.codes.iter().any(|c| is(c, "RetryableErrorDueToAnotherOperation"));
            return if busy { ErrorClass::Conflict } else { ErrorClass::Throttled };
        }
        let by_code =
            self.codes.iter().find_map(|code| class_of_code(code, &self.message, Some(status)));
        if status < 500
            && status != 408
            && let Some(class) = by_code
        {
            return class;
        }
        match status {
            401 | 403 | 407 => ErrorClass::Denied,
            404 | 410 => ErrorClass::NotFound,
            409 => ErrorClass::Conflict,
            423 => ErrorClass::Locked,
            408 | 500 | 502 | 504 if write => ErrorClass::OutcomeUnknown,
            408 | 500..=599 => by_code
                .filter(|c| matches!(c, ErrorClass::Capacity | ErrorClass::Quota))
                .unwrap_or(ErrorClass::Unavailable),
            400..=499 => ErrorClass::Invalid,
            _ if write => ErrorClass::OutcomeUnknown,
            _ => ErrorClass::Failed,
        }
    }
}

/// What a code alone says. `status` is absent for an operation that failed after acceptance.
fn class_of_code(code: &str, message: &str, status: Option<u16>) -> Option<ErrorClass> {
    use ErrorClass as C;
    const TABLE: &[(&str, ErrorClass)] = &[
        ("ResourceNotFound", C::NotFound),
        ("ResourceGroupNotFound", C::NotFound),
        ("ParentResourceNotFound", C::NotFound),
        ("SubscriptionNotFound", C::NotFound),
        ("NotFound", C::NotFound),
        ("AuthorizationFailed", C::Denied),
        ("LinkedAuthorizationFailed", C::Denied),
        ("InvalidAuthenticationToken", C::Denied),
        ("ExpiredAuthenticationToken", C::Denied),
        ("RequestDisallowedByPolicy", C::Denied),
        ("ScopeLocked", C::Locked),
        ("PreconditionFailed", C::PreconditionFailed),
        ("TooManyRequests", C::Throttled),
        ("SubscriptionRequestsThrottled", C::Throttled),
        ("QuotaExceeded", C::Quota),
        ("ResourceQuotaExceeded", C::Quota),
        ("PublicIPCountLimitReached", C::Quota),
        ("SkuNotAvailable", C::Capacity),
        ("AllocationFailed", C::Capacity),
        ("ZonalAllocationFailed", C::Capacity),
        ("OverconstrainedAllocationRequest", C::Capacity),
        ("OverconstrainedZonalAllocationRequest", C::Capacity),
        ("AnotherOperationInProgress", C::Conflict),
        ("RetryableErrorDueToAnotherOperation", C::Conflict),
        ("OperationPreempted", C::Conflict),
        ("ConflictingUserInput", C::Conflict),
        ("AttachDiskWhileBeingDetached", C::Conflict),
        ("NicReservedForAnotherVm", C::Conflict),
        ("Conflict", C::Conflict),
        ("InternalServerError", C::Unavailable),
        ("InternalExecutionError", C::Unavailable),
        ("ServiceUnavailable", C::Unavailable),
        ("ServerTimeout", C::Unavailable),
        ("InvalidParameter", C::Invalid),
    ];
    if is(code, "OperationNotAllowed") {
        let quota = message.to_ascii_lowercase().contains("quota");
        return match (quota, status) {
            (true, _) => Some(C::Quota),
            (false, Some(403)) => Some(C::Denied),
            (false, _) => Some(C::Conflict),
        };
    }
    TABLE.iter().find(|(name, _)| is(code, name)).map(|(_, class)| *class)
}

fn is(code: &str, name: &str) -> bool {
    code.eq_ignore_ascii_case(name)
}

/// `failed` as `Failed`, for a code of our own.
fn capital(status: &str) -> String {
    let lower = status.to_ascii_lowercase();
    let mut letters = lower.chars();
    letters.next().map(|c| c.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or(lower)
}

#[cfg(test)]
mod tests;
