//! Answers, before they become HTTP responses.

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::world::ArmError;

/// Response extension: the connection is closed instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped;

/// Response extension: the body is this part of a file; the response's own body is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBody {
    /// The file.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, of the file.
    pub length: u64,
    /// What follows.
    pub then: Bytes,
}

/// A body.
#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    /// As it is written.
    Json(Vec<u8>),
    Text(&'static str, String),
    Bytes(Bytes),
    /// A part of a disk's or snapshot's content.
    Content(ContentPart),
    /// The serial console's log of a machine.
    SerialLog(String),
}

/// A part of a content.
#[derive(Clone, Debug)]
pub(crate) struct ContentPart {
    /// The content's name.
    pub(crate) name: String,
    /// First byte.
    pub(crate) offset: u64,
    /// Number of bytes, of the content.
    pub(crate) length: u64,
    /// What follows.
    pub(crate) then: Bytes,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
    /// The operation whose work is to be started.
    pub(crate) operation: Option<String>,
}

impl Reply {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Empty, operation: None }
    }

    /// With a document. (`Display` of a value would take twice as long: it writes piece by piece.)
    pub(crate) fn json(status: u16, body: impl Serialize) -> Self {
        let text = serde_json::to_vec(&body).expect("documents can be written");
        Self { body: Body::Json(text), ..Self::empty(status) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The HTTP response. Contents and logs are left to the caller.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let (content_type, bytes) = match self.body {
            Body::Empty => (None, Bytes::new()),
            Body::Json(text) => (Some(JSON), Bytes::from(text)),
            Body::Text(content_type, text) => (Some(content_type), Bytes::from(text)),
            Body::Bytes(bytes) => (Some("application/octet-stream"), bytes),
            Body::Content(_) | Body::SerialLog(_) => {
                (Some("application/octet-stream"), Bytes::new())
            }
        };
        let mut response = Response::new(bytes);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.reserve(16);
        for (name, value) in ALWAYS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let ours = [("x-ms-request-id", request_id), ("x-ms-correlation-request-id", request_id)];
        let content_type = content_type.map(|content_type| ("content-type", content_type));
        let own = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in ours.into_iter().chain(content_type).chain(own) {
            match HeaderValue::from_str(value) {
                Ok(value) => {
                    headers.append(HeaderName::from_static(name), value);
                }
                Err(error) => tracing::error!(name, value, %error, "an illegal header"),
            }
        }
        response
    }
}

const JSON: &str = "application/json; charset=utf-8";

/// Headers of every answer.
const ALWAYS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-cache"),
    (header::PRAGMA, "no-cache"),
    (header::EXPIRES, "-1"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

impl From<ArmError> for Reply {
    fn from(error: ArmError) -> Self {
        super::errors::envelope(error)
    }
}
