//! Polling: one transition of an [`Operation`] per call.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::client::{ArmClient, Call};
use crate::error::{AzureError, ErrorClass};
use crate::lro::{Next, Operation, Progress, Seen, step};
use crate::rate_limit;

impl ArmClient {
    /// Looks once at where an operation is. Journal `operation` after it.
    ///
    /// Sends one request, and a second one at once when the operation has succeeded and its value is
    /// elsewhere, or when its record expired and the resource itself must be read. Waits for nothing.
    ///
    /// # Errors
    /// When the operation failed or was cancelled, classed by its code, or its outcome can no longer
    /// be read (`OutcomeUnknown`): [`Operation::is_over`] is true then. When the poll itself failed,
    /// it is false: poll again later.
    pub async fn poll(&self, operation: &mut Operation) -> Result<Progress, AzureError> {
        self.poll_once(operation).await.map_err(|mut error| {
            error.resource = Some(operation.target().as_str().into());
            error
        })
    }

    async fn poll_once(&self, operation: &mut Operation) -> Result<Progress, AzureError> {
        if operation.is_over() {
            return Err(AzureError::new(
                ErrorClass::Invalid,
                "OperationOver",
                "the operation ended before",
            ));
        }
        // From the record to the resource, and from success to the value: never more.
        for _ in 0..3 {
            // The journal may have been written under another configuration.
            let url = self.core.own_url(operation.next_url()).ok_or_else(|| {
                AzureError::new(
                    ErrorClass::Invalid,
                    "ForeignOperationUrl",
                    "the operation was begun at another endpoint",
                )
            })?;
            operation.polls = operation.polls.saturating_add(1);
            operation.retry_after = None;
            let seen = match self.send(Call::new(Method::GET, url)).await {
                Ok(answer) => {
                    operation.retry_after =
                        rate_limit::retry_after(&answer, self.core.env.clock.wall());
                    // A 202 has an empty body, or one that is none of our business.
                    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
                    Seen::Answer { status: answer.status, body }
                }
                Err(error) if matches!(error.http_status, Some(404 | 410)) => Seen::Missing(error),
                Err(error) => Seen::Error(error),
            };
            match step(operation, seen)? {
                Next::Wait => break,
                Next::Again => {}
                Next::Done(value) => return Ok(Progress::Done(value)),
            }
        }
        Ok(Progress::Running { poll_after: self.poll_after(operation) })
    }

    /// How long to wait before the next poll of `operation`.
    pub fn poll_after(&self, operation: &Operation) -> Duration {
        self.core.pace.wait(operation)
    }
}
