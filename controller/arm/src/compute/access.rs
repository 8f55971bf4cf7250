//! Reading the bytes of a disk or a snapshot: a SAS for a while, and ranges through it.

use std::fmt;
use std::time::Duration;

use azdr_domain::ArmId;
use azure_mgmt_compute::package_2024_07_01::models::{GrantAccessData, grant_access_data::Access};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use url::Url;

use super::{Action, DISK, FinalResult, SNAPSHOT, Started, expect_one_of};
use crate::bridge::sent;
use crate::client::{ArmClient, within};
use crate::error::{AzureError, ErrorClass};
use crate::lro::Progress;
use crate::transport::{HttpRequest, HttpResponse, Sent};

/// A URL that whoever has it can read a disk with. It cannot be serialised, and `Debug` shows its
/// host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Sas(Url);

impl Sas {
    /// Reads the final value of [`ArmClient::begin_grant_access`].
    ///
    /// # Errors
    /// `Failed` when there is no https URL in it.
    pub fn from_value(value: &Value) -> Result<Self, AzureError> {
        ["/accessSAS", "/properties/output/accessSAS"]
            .iter()
            .find_map(|pointer| value.pointer(pointer)?.as_str())
            .and_then(|text| Url::parse(text).ok())
            .filter(|url| url.scheme() == "https")
            .map(Self)
            .ok_or_else(|| {
                let message = "access was granted without a URL to read at";
                AzureError::new(ErrorClass::Failed, "NoSas", message)
            })
    }
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sas(https://{}/…)", self.0.host_str().unwrap_or_default())
    }
}

/// How long [`ArmClient::grant_access`] polls at most.
const GRANT_LIMIT: Duration = Duration::from_secs(120);

impl ArmClient {
    /// Grants read access to the bytes of a disk or snapshot. **The final value holds a SAS** (read it
    /// with [`Sas::from_value`]): it must not be journalled. Prefer [`ArmClient::grant_access`].
    ///
    /// Until access is revoked or expires, a snapshot cannot be deleted and a disk not attached.
    /// Repeating it grants again. After a time-out access may be granted: revoke it, or repeat this.
    ///
    /// # Errors
    /// `Conflict` for an attached disk, and beyond five snapshots of one family at a time; `Denied`
    /// when its network access policy forbids it.
    pub async fn begin_grant_access(
        &self,
        id: &ArmId,
        duration: Duration,
    ) -> Result<Started, AzureError> {
        expect_one_of(id, &[SNAPSHOT, DISK])?;
        let seconds = i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
        let access = GrantAccessData::new(Access::Read, seconds);
        let (subscription, group, name) = (id.subscription(), id.resource_group(), id.name());
        let answer = if id.is_type(SNAPSHOT) {
            let request = self.builders.snapshots().grant_access(subscription, group, name, access);
            sent(request.send()).await
        } else {
            let request = self.builders.disks().grant_access(subscription, group, name, access);
            sent(request.send()).await
        };
        self.begun(id, Action::Post, FinalResult::Location, answer)
    }

    /// Grants read access and waits for the SAS, polling by itself for up to two minutes.
    ///
    /// This is the one exception from "a client never polls": its result must not be journalled, so
    /// the engine cannot carry it from one poll to the next. Idempotency and time-outs as in
    /// [`ArmClient::begin_grant_access`].
    ///
    /// # Errors
    /// As there; `OutcomeUnknown` when the grant was not done within two minutes.
    pub async fn grant_access(&self, id: &ArmId, duration: Duration) -> Result<Sas, AzureError> {
        let granted = async {
            let mut operation = match self.begin_grant_access(id, duration).await? {
                Started::Done(value) => return Sas::from_value(&value),
                Started::Running(operation) => operation,
            };
            let mut wait = self.poll_after(&operation);
            loop {
                azdr_env::sleep(wait).await;
                wait = match self.poll(&mut operation).await {
                    Ok(Progress::Done(value)) => return Sas::from_value(&value),
                    Ok(Progress::Running { poll_after }) => poll_after,
                    Err(error) if error.is_retryable() && !operation.is_over() => {
                        error.retry_after.unwrap_or_default().max(self.poll_after(&operation))
                    }
                    Err(error) => return Err(error),
                };
            }
        };
        within(GRANT_LIMIT, granted)
            .await
            .unwrap_or_else(|| {
                let message = format!("access was not granted within {GRANT_LIMIT:?}");
                Err(AzureError::new(ErrorClass::OutcomeUnknown, "GrantTimedOut", message))
            })
            .map_err(|error| error.for_resource(id.as_str()))
    }

    /// Ends all access to the bytes of a disk or snapshot; without any, and without the resource, it
    /// succeeds as well. After a time-out access may be open still: repeat it.
    ///
    /// # Errors
    /// `Denied`, `Locked`.
    pub async fn begin_revoke_access(&self, id: &ArmId) -> Result<Started, AzureError> {
        expect_one_of(id, &[SNAPSHOT, DISK])?;
        let (subscription, group, name) = (id.subscription(), id.resource_group(), id.name());
        let answer = if id.is_type(SNAPSHOT) {
            let request = self.builders.snapshots().revoke_access(subscription, group, name);
            sent(request.send()).await
        } else {
            let request = self.builders.disks().revoke_access(subscription, group, name);
            sent(request.send()).await
        };
        match answer {
            Err(error) if error.is_not_found() => Ok(Started::Done(Value::Null)),
            answer => self.begun(id, Action::Post, FinalResult::Nothing, answer),
        }
    }

    /// Reads `len` bytes from `offset`; fewer only where the disk ends. No token is sent, and the
    /// budget is not asked: this is not ARM.
    ///
    /// # Errors
    /// `Denied` when the SAS expired or was revoked; `Failed` when the answer is not that range.
    pub async fn read_range(&self, sas: &Sas, offset: u64, len: u64) -> Result<Bytes, AzureError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let answer = self.get_blob(&sas.0, offset, len).await?;
        let wrong = |message: String| {
            AzureError::new(ErrorClass::Failed, "NotTheRange", message).for_resource(sas.0.path())
        };
        if answer.status != 206 {
            return Err(wrong(format!("a range was asked for, and HTTP {} came", answer.status)));
        }
        let received = answer.body.len() as u64;
        let (start, total) = content_range(&answer);
        let expected = total.map_or(len, |total| len.min(total.saturating_sub(offset)));
        if start.is_some_and(|start| start != offset) || received != expected {
            return Err(wrong(format!(
                "{expected} bytes from {offset} were asked for, and {received} from {start:?} came"
            )));
        }
        Ok(answer.body)
    }

    /// One GET with a range, at a URL that carries its own permission.
    pub(super) async fn get_blob(
        &self,
        url: &Url,
        offset: u64,
        len: u64,
    ) -> Result<HttpResponse, AzureError> {
        let mut headers = HeaderMap::new();
        let range = format!("bytes={offset}-{}", offset.saturating_add(len - 1));
        if let Ok(value) = HeaderValue::from_str(&range) {
            headers.insert(header::RANGE, value);
        }
        headers.insert("x-ms-version", HeaderValue::from_static("2021-08-06"));
        let id = self.core.env.ids.uuid().to_string();
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert("x-ms-client-request-id", value);
        }
        let request =
            HttpRequest { method: Method::GET, url: url.clone(), headers, body: Bytes::new() };
        let sent = within(self.core.request_timeout, self.core.transport.send(request)).await;
        let failed = |error: AzureError| {
            let error = error.for_resource(url.path());
            AzureError { client_request_id: Some(id.as_str().into()), ..error }
        };
        let unavailable =
            |code, message: String| AzureError::new(ErrorClass::Unavailable, code, message);
        let answer = match sent {
            None => return Err(failed(unavailable("AnswerLost", "no answer in time".to_owned()))),
            Some(Err(error)) => {
                let code = if error.sent == Sent::No { "ConnectionFailed" } else { "AnswerLost" };
                return Err(failed(unavailable(code, error.message)));
            }
            Some(Ok(answer)) => answer,
        };
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let error = AzureError::from_answer(answer.status, &answer.body, false);
        let request_id = answer.header("x-ms-request-id").map(Into::into);
        Err(failed(AzureError { request_id, ..error }))
    }
}

/// Start and total of `Content-Range: bytes 0-99/1000`.
pub(super) fn content_range(answer: &HttpResponse) -> (Option<u64>, Option<u64>) {
    let read = || {
        let header = answer.header("content-range")?;
        let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
        let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
        Some((start, total.trim().parse().ok()))
    };
    read().unwrap_or((None, None))
}
