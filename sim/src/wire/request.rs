//! Requests, taken apart.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::admission::type_of;
use crate::world::ArmError;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct ArmRequest {
    pub(crate) method: Method,
    /// `https://host:port`, as the client wrote it.
    pub(crate) base: String,
    /// The path as sent.
    pub(crate) path: String,
    /// The path's decoded segments.
    pub(crate) segments: Vec<String>,
    /// The same in lower case.
    pub(crate) lower: Vec<String>,
    kind: String,
    query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ArmRequest {
    pub(crate) fn read(request: Request<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let host = parts
            .uri
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or_else(|| Some(parts.headers.get("host")?.to_str().ok()?.to_owned()))
            .unwrap_or_else(|| "management.azure.com".to_owned());
        let path = parts.uri.path().to_owned();
        let decode = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(decode).collect();
        let lower: Vec<String> = segments.iter().map(|s| s.to_lowercase()).collect();
        let query = parts.uri.query().unwrap_or_default();
        let query = url::form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        Self {
            method: parts.method,
            base: format!("https://{host}"),
            path,
            kind: type_of(&segments, &lower),
            segments,
            lower,
            query,
            headers: parts.headers,
            body,
        }
    }

    /// What kind of thing the path is about: see [`type_of`].
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// A query parameter; its name in any case.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The access token.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let header = self.header("authorization")?;
        let token = header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer "));
        token.map(str::trim)
    }

    /// The body as JSON; an empty one as `{}`.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ArmError> {
        let body: Cow<'_, [u8]> =
            if self.body.is_empty() { Cow::Borrowed(b"{}") } else { Cow::Borrowed(&self.body) };
        serde_json::from_slice(&body).map_err(|e| {
            ArmError::bad_request(
                "InvalidRequestContent",
                format!("The request content was invalid and could not be deserialized: '{e}'."),
            )
        })
    }

    /// The URL of this request with another `$skiptoken`.
    pub(crate) fn next_link(&self, token: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in &self.query {
            if !name.eq_ignore_ascii_case("$skiptoken") {
                query.append_pair(name, value);
            }
        }
        query.append_pair("$skiptoken", token);
        format!("{}{}?{}", self.base, self.path, query.finish())
    }
}
