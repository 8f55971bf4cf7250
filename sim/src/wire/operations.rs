//! Polling: the operation's record, and its result.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::document::Shown;
use super::reply::Reply;
use super::router::Scope;
use super::times::azure_time;
use crate::signing::from_base64url;
use crate::world::{ArmError, Operation, Output, Service};

impl Scope<'_> {
    /// GET of a provider's operation URL.
    pub(super) fn poll(&self, id: &str, result_url: bool) -> Result<Reply, ArmError> {
        let operation = self.operation(id)?;
        let monitor = self.request.param("monitor").is_some_and(|m| m.eq_ignore_ascii_case("true"));
        Ok(if monitor || result_url { self.result(operation) } else { self.record(operation) })
    }

    /// GET of a resource group job's URL.
    pub(super) fn poll_job(&self, job: &str) -> Result<Reply, ArmError> {
        let id = from_base64url(job)
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|job| Some(job["jobId"].as_str()?.split_once('-')?.1.to_owned()));
        let operation = self.operation(&id.unwrap_or_default())?;
        Ok(self.result(operation))
    }

    fn operation(&self, id: &str) -> Result<&Operation, ArmError> {
        let ours = self
            .signer
            .verify(&format!("operation {id}"), self.request.param("s").unwrap_or_default());
        if !ours {
            tracing::warn!(id, "a polling URL was not used as it was given");
        }
        self.world.state.operations.get(id).filter(|_| ours).ok_or_else(|| {
            ArmError::new(404, "NotFound", format!("The operation '{id}' was not found."))
        })
    }

    fn wait_hint(&self, reply: Reply) -> Reply {
        match self.world.limits.retry_after_secs {
            Some(seconds) => reply.header("retry-after", seconds.to_string()),
            None => reply,
        }
    }

    /// HTTP 200 always; the status is in the body.
    fn record(&self, operation: &Operation) -> Reply {
        let status = match &operation.outcome {
            None => "InProgress",
            Some(outcome) if outcome.failure.is_some() => "Failed",
            Some(_) => "Succeeded",
        };
        let error = operation
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.failure.as_ref())
            .map(|failure| json!({"code": failure.code, "message": failure.message}));
        let mut body = Map::from_iter([("status".to_owned(), json!(status))]);
        if operation.service != Service::Network {
            body.insert("startTime".into(), json!(azure_time(operation.started)));
            body.insert("name".into(), json!(operation.id));
            if let Some(outcome) = &operation.outcome {
                body.insert("endTime".into(), json!(azure_time(outcome.at)));
            }
        }
        let produced = operation.outcome.is_some() && error.is_none();
        if let Some(error) = error {
            body.insert("error".into(), error);
        }
        let output = if produced { self.output(operation) } else { None };
        let reply =
            Reply::json(200, Record { body, properties: output.map(|output| Produced { output }) });
        if operation.outcome.is_none() { self.wait_hint(reply) } else { reply }
    }

    fn output(&self, operation: &Operation) -> Option<Made> {
        match &operation.output {
            Output::None => None,
            Output::Resource(id) => self.disk_or_snapshot(id, true).map(Made::Resource),
            Output::Access(path) => {
                let access_sas = format!("{}{path}", self.request.base);
                Some(Made::Access { access_sas })
            }
        }
    }

    /// 202 while it runs, then the result; a failure is an error status.
    fn result(&self, operation: &Operation) -> Reply {
        let Some(outcome) = &operation.outcome else {
            let url = self.polling_url(operation, true);
            return self.wait_hint(Reply::empty(202).header("location", url));
        };
        if let Some(failure) = &outcome.failure {
            return ArmError::new(409, &failure.code, failure.message.clone()).into();
        }
        match self.output(operation) {
            Some(output) => Reply::json(200, output),
            None => Reply::empty(200),
        }
    }
}

/// An operation's record.
#[derive(Serialize)]
struct Record {
    #[serde(flatten)]
    body: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Produced>,
}

#[derive(Serialize)]
struct Produced {
    output: Made,
}

/// What an operation has made.
#[derive(Serialize)]
#[serde(untagged)]
enum Made {
    Resource(Shown),
    Access {
        #[serde(rename = "accessSAS")]
        access_sas: String,
    },
}
