//! Long-running operations: plain data and pure transitions.
//!
//! An [`Operation`] is journalled between polls, so that a restarted controller goes on polling.
//! [`start`] reads the answer to the request that began it, [`step`] the answer to one poll; neither
//! sends anything. What they go by (`AZURE.md` A.2, A.3):
//!
//! - Whether something still runs is read from the headers (`Azure-AsyncOperation`, then `Location`),
//!   then from `provisioningState`, never from the status code: 200 can be running, and a failed
//!   operation is reported with 200.
//! - Statuses compare case-insensitively; what is not terminal is running. A missing
//!   `provisioningState` is success.
//! - Polling URLs are used as they came. A URL at a foreign host is not used at all.
//! - An operation's record expires. Then the resource itself is read.

use std::fmt;
use std::time::Duration;

use azdr_domain::ArmId;
use azdr_env::WallTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{AzureError, ErrorClass};
use crate::transport::HttpResponse;

mod pace;
mod step;

pub use pace::PollPace;
pub(crate) use step::{Next, Seen, step};

/// An operation that Azure works on. Plain data, for the journal; its `Debug` shows no URL.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub(crate) action: Action,
    target: ArmId,
    pub(crate) family: Family,
    /// Where the resource itself is read, with the API version of the request.
    pub(crate) resource_url: String,
    pub(crate) poll_at: PollAt,
    /// Where the result of a POST is.
    pub(crate) location: Option<String>,
    pub(crate) result: FinalResult,
    pub(crate) stage: Stage,
    started: WallTime,
    pub(crate) polls: u32,
    /// How often the record of the operation (or a new resource) was not found.
    pub(crate) missed: u32,
    /// What Azure asked for last.
    pub(crate) retry_after: Option<Duration>,
}

impl Operation {
    /// The resource that is worked on.
    pub fn target(&self) -> &ArmId {
        &self.target
    }

    /// When it was begun, by the wall clock.
    pub fn started(&self) -> WallTime {
        self.started
    }

    /// Whether it has ended. After an error from [`ArmClient::poll`](crate::ArmClient::poll) this
    /// tells a failed operation (true: begin anew, if at all) from a failed poll (false: poll again).
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("action", &self.action)
            .field("target", &self.target.as_str())
            .field("stage", &self.stage)
            .field("polls", &self.polls)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// PUT or PATCH.
    Write,
    Post,
    Delete,
}

/// Sets the pace of polls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    Disk,
    VirtualMachine,
    Network,
    Group,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PollAt {
    AsyncOperation(String),
    Location(String),
    Resource,
}

/// Where the final value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinalResult {
    /// The operation's own output, else a GET of the resource: one request less.
    Output,
    /// A GET of the resource.
    Resource,
    /// A GET at `Location`, else the operation's output.
    Location,
    /// Null.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Running,
    /// Succeeded; the final value is still to be read, at `Location` or at the resource.
    Fetching {
        at_location: bool,
    },
    Over,
}

/// How an action began. `Debug` does not show the value, which may hold a SAS.
#[derive(Clone, PartialEq)]
pub enum Started {
    /// It is done already; the value is what a poll would have given.
    Done(Value),
    /// It goes on.
    Running(Operation),
}

/// Where an operation is. `Debug` does not show the value, which may hold a SAS.
#[derive(Clone, PartialEq)]
pub enum Progress {
    /// It goes on.
    Running {
        /// When to poll again. (Inside a hold, sooner: DESIGN §5 rule 2.)
        poll_after: Duration,
    },
    /// It succeeded. The value is the resource, the action's output, or null.
    Done(Value),
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("Done(…)"),
            Self::Running(operation) => f.debug_tuple("Running").field(operation).finish(),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("Done(…)"),
            Self::Running { poll_after } => write!(f, "Running({poll_after:?})"),
        }
    }
}

/// What the caller knows when it begins an action.
pub(crate) struct Begin {
    pub(crate) action: Action,
    pub(crate) target: ArmId,
    pub(crate) family: Family,
    pub(crate) resource_url: String,
    pub(crate) result: FinalResult,
}

impl Begin {
    fn running(self, poll_at: PollAt, location: Option<String>, now: WallTime) -> Operation {
        Operation {
            action: self.action,
            target: self.target,
            family: self.family,
            resource_url: self.resource_url,
            poll_at,
            location,
            result: self.result,
            stage: Stage::Running,
            started: now,
            polls: 0,
            missed: 0,
            retry_after: None,
        }
    }
}

/// Reads the (2xx) answer to the request that began an action. `is_own` says whether a URL may be
/// sent our token.
///
/// # Errors
/// When the answer reports failure; `OutcomeUnknown` when an action was accepted whose progress can
/// only be read at a foreign host.
pub(crate) fn start(
    begin: Begin,
    answer: &HttpResponse,
    is_own: impl Fn(&str) -> bool,
    now: WallTime,
) -> Result<Started, AzureError> {
    let mut foreign = false;
    let mut url = |name: &str| {
        let url = answer.header(name).filter(|url| !url.is_empty())?;
        if !is_own(&url) {
            tracing::warn!(header = name, target = %begin.target.as_str(),
                "a polling URL at a foreign host is not used");
            foreign = true;
            return None;
        }
        Some(url)
    };
    let operation_url = url("azure-asyncoperation");
    let location = url("location");
    let accepted = answer.status == 202;

    if let Some(operation_url) = operation_url {
        let at = PollAt::AsyncOperation(operation_url);
        return Ok(Started::Running(begin.running(at, location, now)));
    }
    // With 200 and 201, `Location` names the resource and not an operation.
    if let Some(url) = location.clone().filter(|_| accepted) {
        return Ok(Started::Running(begin.running(PollAt::Location(url), location, now)));
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    match begin.action {
        Action::Delete if !accepted && !foreign => Ok(Started::Done(Value::Null)),
        Action::Post if foreign || accepted => Err(AzureError::new(
            ErrorClass::OutcomeUnknown,
            "NoOperationUrl",
            "the action was accepted, and Azure did not say where its progress can be read",
        )),
        Action::Post => Ok(Started::Done(body)),
        Action::Write if !foreign && !accepted => match provisioning(&body)? {
            Ended::Yes => Ok(Started::Done(body)),
            Ended::No => Ok(Started::Running(begin.running(PollAt::Resource, None, now))),
        },
        Action::Delete | Action::Write => {
            Ok(Started::Running(begin.running(PollAt::Resource, None, now)))
        }
    }
}

pub(crate) enum Ended {
    Yes,
    No,
}

/// Whether a status means the end; failure is an error, built from `error`.
pub(crate) fn status_ended(status: &str, error: Option<&Value>) -> Result<Ended, AzureError> {
    let is = |word: &str| status.eq_ignore_ascii_case(word);
    if is("succeeded") {
        Ok(Ended::Yes)
    } else if is("failed") || is("canceled") || is("cancelled") {
        Err(AzureError::from_failed_operation(status, error))
    } else {
        Ok(Ended::No)
    }
}

/// Whether a resource's `provisioningState` means the end.
pub(crate) fn provisioning(resource: &Value) -> Result<Ended, AzureError> {
    match resource.pointer("/properties/provisioningState").and_then(Value::as_str) {
        None => Ok(Ended::Yes),
        Some(state) => status_ended(
            state,
            resource.get("error").or_else(|| resource.pointer("/properties/error")),
        ),
    }
}

#[cfg(test)]
mod tests;
