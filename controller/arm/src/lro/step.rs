//! One transition of an operation: what a poll's answer means.

use serde_json::Value;

use super::{Action, Ended, FinalResult, Operation, PollAt, Stage, provisioning, status_ended};
use crate::error::{AzureError, ErrorClass};

/// What a poll saw.
pub(crate) enum Seen {
    /// An answer in the 200s.
    Answer { status: u16, body: Value },
    /// 404 or 410.
    Missing(AzureError),
    /// Any other error, the answer's or the transport's.
    Error(AzureError),
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Wait,
    /// Poll at once: the final value is elsewhere.
    Again,
    Done(Value),
}

/// A new resource, or the record of a new operation, may not be visible everywhere at once.
const GRACE: u32 = 3;
/// How long a delete may leave a resource unmarked, in polls.
const DELETE_POLLS: u32 = 10;

impl Operation {
    /// Where the next poll goes.
    pub(crate) fn next_url(&self) -> &str {
        match (self.stage, &self.poll_at, &self.location) {
            (Stage::Fetching { at_location: true }, _, Some(location)) => location,
            (Stage::Fetching { .. }, ..) | (_, PollAt::Resource, _) => &self.resource_url,
            (_, PollAt::AsyncOperation(url) | PollAt::Location(url), _) => url,
        }
    }
}

/// Takes in what one poll saw.
///
/// # Errors
/// When the operation failed or its outcome cannot be known ([`Operation::is_over`] is true then),
/// and when the poll itself failed (it is false then, and the operation unchanged).
pub(crate) fn step(operation: &mut Operation, seen: Seen) -> Result<Next, AzureError> {
    let result = match (operation.stage, &operation.poll_at) {
        (Stage::Fetching { at_location }, _) => fetched(at_location, seen),
        (_, PollAt::AsyncOperation(_)) => operation_polled(operation, seen),
        (_, PollAt::Location(_)) => location_polled(operation, seen),
        (_, PollAt::Resource) => resource_polled(operation, seen),
    };
    match result {
        Ok(next) => {
            if matches!(next, Next::Done(_)) {
                operation.stage = Stage::Over;
            }
            Ok(next)
        }
        Err(Failure::Poll(error)) => Err(error),
        Err(Failure::Operation(error)) => {
            operation.stage = Stage::Over;
            Err(error)
        }
    }
}

enum Failure {
    /// The operation may still run.
    Poll(AzureError),
    /// It has ended.
    Operation(AzureError),
}

fn operation_polled(operation: &mut Operation, seen: Seen) -> Result<Next, Failure> {
    let (status, body) = match seen {
        Seen::Answer { status, body } => (status, body),
        Seen::Missing(_) => return Ok(record_missing(operation)),
        Seen::Error(error) => return Err(Failure::Poll(error)),
    };
    let ended = match body.get("status").and_then(Value::as_str) {
        Some(word) => status_ended(word, body.get("error")).map_err(Failure::Operation)?,
        None if status == 202 => Ended::No,
        None => provisioning(&body).map_err(Failure::Operation)?,
    };
    match ended {
        Ended::No => Ok(Next::Wait),
        Ended::Yes => {
            let output = body.pointer("/properties/output").filter(|o| o.is_object()).cloned();
            Ok(finish(operation, output))
        }
    }
}

fn location_polled(operation: &mut Operation, seen: Seen) -> Result<Next, Failure> {
    match seen {
        Seen::Answer { status: 202, .. } => Ok(Next::Wait),
        Seen::Answer { body, .. } => match provisioning(&body).map_err(Failure::Operation)? {
            Ended::No => Ok(Next::Wait),
            Ended::Yes if operation.result == FinalResult::Location => Ok(Next::Done(body)),
            Ended::Yes => Ok(finish(operation, None)),
        },
        Seen::Missing(_) if operation.action == Action::Delete => Ok(Next::Done(Value::Null)),
        Seen::Missing(_) => Ok(record_missing(operation)),
        // At `Location` the operation's own failure is the answer's status.
        Seen::Error(error) if matches!(error.http_status, Some(400 | 409 | 412 | 422)) => {
            Err(Failure::Operation(error))
        }
        Seen::Error(error) => Err(Failure::Poll(error)),
    }
}

fn resource_polled(operation: &mut Operation, seen: Seen) -> Result<Next, Failure> {
    let unknown = |code, message: &str| {
        Failure::Operation(AzureError::new(ErrorClass::OutcomeUnknown, code, message))
    };
    let body = match (seen, operation.action) {
        (Seen::Answer { body, .. }, _) => body,
        (Seen::Missing(_), Action::Delete) => return Ok(Next::Done(Value::Null)),
        (Seen::Missing(error), _) => {
            operation.missed += 1;
            return if operation.missed <= GRACE {
                Ok(Next::Wait)
            } else {
                Err(Failure::Operation(error))
            };
        }
        (Seen::Error(error), _) => return Err(Failure::Poll(error)),
    };
    let ended = provisioning(&body).map_err(Failure::Operation)?;
    match (operation.action, ended) {
        (Action::Write, Ended::Yes) => Ok(Next::Done(body)),
        (Action::Post, Ended::Yes) => Err(unknown(
            "OperationRecordExpired",
            "the operation is no longer on record, and its resource does not show its outcome",
        )),
        (Action::Delete, Ended::Yes) if operation.polls >= DELETE_POLLS => {
            Err(unknown("DeletionNotSeen", "the resource is still there, and nothing deletes it"))
        }
        (_, Ended::No) | (Action::Delete, Ended::Yes) => Ok(Next::Wait),
    }
}

fn fetched(at_location: bool, seen: Seen) -> Result<Next, Failure> {
    match seen {
        Seen::Answer { body, .. } => Ok(Next::Done(body)),
        Seen::Missing(_) if at_location => Err(Failure::Operation(AzureError::new(
            ErrorClass::OutcomeUnknown,
            "ResultExpired",
            "the action succeeded, and its result is no longer on record",
        ))),
        // Deleted since, by somebody else.
        Seen::Missing(error) => Err(Failure::Operation(error)),
        Seen::Error(error) => Err(Failure::Poll(error)),
    }
}

fn record_missing(operation: &mut Operation) -> Next {
    operation.missed += 1;
    // A resource tells little about a POST: be patient with its record.
    if operation.action == Action::Post && operation.missed <= GRACE {
        return Next::Wait;
    }
    operation.missed = 0;
    operation.poll_at = PollAt::Resource;
    Next::Again
}

fn finish(operation: &mut Operation, output: Option<Value>) -> Next {
    let fetch = |at_location| (Stage::Fetching { at_location }, Next::Again);
    let (stage, next) = match (operation.result, output) {
        (FinalResult::Nothing, _) => (Stage::Over, Next::Done(Value::Null)),
        (FinalResult::Output, Some(output)) => (Stage::Over, Next::Done(output)),
        (FinalResult::Output | FinalResult::Resource, _) => fetch(false),
        (FinalResult::Location, _) if operation.location.is_some() => fetch(true),
        (FinalResult::Location, output) => (Stage::Over, Next::Done(output.unwrap_or(Value::Null))),
    };
    operation.stage = stage;
    next
}
