//! How steps fail: plain data, because a failure is journalled and read back after a crash.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// Why something failed, for people and for scripts. Boxed texts keep the many results that carry
/// one small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable word for scripts, for example `azure_throttled` or `no_agent`.
    pub kind: Box<str>,
    /// What failed, naming the object.
    pub message: Box<str>,
    /// What to do next; may be empty.
    #[serde(default)]
    pub hint: Box<str>,
    /// ARM resource ID, where one is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Box<str>>,
    /// Azure's `x-ms-request-id`, for a support case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_request_id: Option<Box<str>>,
    /// What is still there that should be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into().into(),
            hint: Box::default(),
            resource: None,
            azure_request_id: None,
            left: Vec::new(),
        }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into().into();
        self
    }

    /// Adds the resource to blame.
    pub fn resource(mut self, resource: impl ToString) -> Self {
        self.resource = Some(resource.to_string().into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a step answers instead of its output. It decides nothing about waiting or repeating: the
/// engine does, by this class.
#[derive(Debug)]
pub enum StepError {
    /// May succeed when repeated: the engine backs off and calls the step again, within its time
    /// limit.
    Retry {
        /// Why.
        failure: Failure,
        /// Not before this long from now, when the other side said so.
        after: Option<Duration>,
    },
    /// Repeating cannot help: the run turns back.
    Fail(Failure),
    /// Nothing is wrong, it is just not there yet: call again after `after`, within the time limit.
    NotYet {
        /// For the progress display.
        detail: String,
        /// 0 to 100, if known.
        percent: Option<f64>,
        /// When to look again.
        after: Duration,
        /// What is being waited for, where it is one resource: its ARM resource ID.
        resource: Option<Box<str>>,
    },
    /// Something else waits for a person first: so does this run, and then goes on from here.
    Stuck(Failure),
    /// Somebody asked the run to stop.
    Cancelled,
    /// The controller is shutting down: the run goes on after the next start.
    ShuttingDown,
    /// The journal could not be read or written: the run goes on when the store is back.
    Store(StoreError),
}

impl StepError {
    /// A failure that repeating cannot mend.
    pub fn fail(kind: &str, message: impl Into<String>) -> Self {
        Self::Fail(Failure::new(kind, message))
    }

    /// A failure that may pass.
    pub fn retry(kind: &str, message: impl Into<String>) -> Self {
        Self::Retry { failure: Failure::new(kind, message), after: None }
    }

    /// Not there yet.
    pub fn not_yet(detail: impl Into<String>, after: Duration) -> Self {
        Self::NotYet { detail: detail.into(), percent: None, after, resource: None }
    }
}

impl From<StoreError> for StepError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}
