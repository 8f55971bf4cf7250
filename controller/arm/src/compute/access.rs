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

/// Parts of a disk or snapshot that hold data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataRanges {
    /// First byte, and the byte behind the last; in order.
    pub ranges: Vec<(u64, u64)>,
    /// Where to go on; `None`: these are all.
    pub next: Option<String>,
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

    /// Asks which parts hold data (`Get Page Ranges`): up to 10,000 of them, from where an earlier
    /// answer's `next` says. The last range is a VHD's footer, behind the disk's end. No token is sent,
    /// and the budget is not asked: this is not ARM.
    ///
    /// # Errors
    /// `Denied` when the SAS expired or was revoked; `Failed` when the answer is no list of ranges.
    pub async fn data_ranges(
        &self,
        sas: &Sas,
        after: Option<&str>,
    ) -> Result<DataRanges, AzureError> {
        let mut url = sas.0.clone();
        url.query_pairs_mut().append_pair("comp", "pagelist").append_pair("maxresults", "10000");
        if let Some(marker) = after {
            url.query_pairs_mut().append_pair("marker", marker);
        }
        let answer = self.get_at(&url, HeaderMap::new()).await?;
        let text = String::from_utf8_lossy(&answer.body);
        page_list(&text).ok_or_else(|| {
            let message = "the answer is not a list of page ranges".to_owned();
            AzureError::new(ErrorClass::Failed, "NotAPageList", message).for_resource(sas.0.path())
        })
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
        self.get_at(url, headers).await
    }

    /// One GET at a URL that carries its own permission.
    async fn get_at(&self, url: &Url, mut headers: HeaderMap) -> Result<HttpResponse, AzureError> {
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

/// `<PageList><PageRange><Start>0</Start><End>511</End></PageRange>…<NextMarker>…</NextMarker></PageList>`.
/// Ranges that are listed as cleared hold no data.
fn page_list(text: &str) -> Option<DataRanges> {
    let (_, list) = text.split_once("<PageList")?;
    let (list, _) = list.split_once("</PageList>").or_else(|| list.split_once("/>"))?;
    let part = |text: &str, name: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim().to_owned())
    };
    let mut ranges = Vec::new();
    for range in list.split("<PageRange>").skip(1) {
        let (range, _) = range.split_once("</PageRange>")?;
        let (start, end): (u64, u64) =
            (part(range, "Start")?.parse().ok()?, part(range, "End")?.parse().ok()?);
        ranges.push((start, end.checked_add(1).filter(|end| start < *end)?));
    }
    let next = part(list, "NextMarker").filter(|marker| !marker.is_empty());
    Some(DataRanges { ranges, next })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_list_is_read_or_refused() {
        let read =
            |inside: &str| page_list(&format!("\u{feff}<?xml?><PageList>{inside}</PageList>"));
        let two = "<PageRange><Start>0</Start><End>511</End></PageRange>\n\
                   <ClearRange><Start>512</Start><End>1023</End></ClearRange>\n\
                   <PageRange><Start> 4096 </Start><End>8191</End></PageRange>";
        let all = |ranges| Some(DataRanges { ranges, next: None });
        assert_eq!(read(two), all(vec![(0, 512), (4096, 8192)]));
        assert_eq!(read(""), all(vec![]));
        let more = format!("{two}<NextMarker>abc</NextMarker>");
        assert_eq!(read(&more).unwrap().next.as_deref(), Some("abc"));
        assert_eq!(read(&format!("{two}<NextMarker></NextMarker>")).unwrap().next, None);
        assert_eq!(page_list("<?xml?><PageList/>"), all(vec![]));
        for wrong in [
            "<PageRange><Start>0</Start></PageRange>",
            "<PageRange><Start>5</Start><End>3</End></PageRange>",
            "<PageRange><Start>a</Start><End>3</End></PageRange>",
            "<PageRange><Start>0</Start><End>18446744073709551615</End></PageRange>",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(page_list("<Error><Code>x</Code></Error>"), None);
    }
}
