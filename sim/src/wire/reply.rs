//! Answers, before they become HTTP responses.

use std::path::PathBuf;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

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
    Json(Value),
    Text(&'static str, String),
    File(FileBody),
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

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self { body: Body::Json(body), ..Self::empty(status) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The HTTP response. A file body becomes an extension.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let (content_type, bytes, file) = match self.body {
            Body::Empty => (None, Bytes::new(), None),
            Body::Json(value) => {
                (Some("application/json; charset=utf-8"), Bytes::from(value.to_string()), None)
            }
            Body::Text(content_type, text) => (Some(content_type), Bytes::from(text), None),
            Body::File(file) => (Some("application/octet-stream"), Bytes::new(), Some(file)),
        };
        let mut builder = Response::builder()
            .status(self.status)
            .header("cache-control", "no-cache")
            .header("pragma", "no-cache")
            .header("expires", "-1")
            .header("strict-transport-security", "max-age=31536000; includeSubDomains")
            .header("x-content-type-options", "nosniff")
            .header("x-ms-request-id", request_id)
            .header("x-ms-correlation-request-id", request_id);
        if let Some(content_type) = content_type {
            builder = builder.header("content-type", content_type);
        }
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        let mut response = builder.body(bytes).unwrap_or_else(|e| {
            tracing::error!(error = %e, "an answer had an illegal header");
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        if let Some(file) = file {
            response.extensions_mut().insert(file);
        }
        response
    }
}

impl From<ArmError> for Reply {
    fn from(error: ArmError) -> Self {
        super::errors::envelope(error)
    }
}
