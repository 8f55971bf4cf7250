//! The bridge to `azure_mgmt_compute` 0.21: its typed request builders, without anything else of it.
//!
//! The builders believe that they send through azure_core 0.21. What they get is [`Adapter`], which
//! hands the request to [`Core::send`], and a credential that returns a dummy: the old core prints
//! `Authorization` headers when tracing is on. Only `.send()` is used, never `.await` on a builder
//! (that re-sends a PUT instead of polling it), and never the response types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::time::OffsetDateTime;
use azure_core_legacy as legacy;
use azure_mgmt_compute::package_2024_07_01 as api;
use http::{HeaderName, HeaderValue, Method};
use legacy::auth::{AccessToken, TokenCredential};
use legacy::error::ErrorKind;

use crate::client::{Call, Core, Turn};
use crate::error::{AzureError, ErrorClass};
use crate::pipeline::{carried, carry};
use crate::transport::HttpResponse;

/// The API version that the builders put on disks and snapshots.
pub(crate) const DISK_API: &str = "2024-03-02";
/// The API version that the builders put on VMs.
pub(crate) const VM_API: &str = "2024-07-01";

/// The request builders of one client.
#[derive(Clone)]
pub(crate) struct Builders(api::Client);

impl Builders {
    pub(crate) fn new(core: Arc<Core>, turn: Turn) -> Self {
        let endpoint = core.endpoint.clone();
        let transport: Arc<dyn legacy::HttpClient> = Arc::new(Adapter { core, turn });
        let options = legacy::ClientOptions::default()
            .retry(legacy::RetryOptions::none())
            .transport(legacy::TransportOptions::new(transport));
        Self(api::Client::new(endpoint, Arc::new(NoCredential), Vec::new(), options))
    }

    pub(crate) fn disks(&self) -> api::disks::Client {
        self.0.disks_client()
    }

    pub(crate) fn snapshots(&self) -> api::snapshots::Client {
        self.0.snapshots_client()
    }

    pub(crate) fn virtual_machines(&self) -> api::virtual_machines::Client {
        self.0.virtual_machines_client()
    }
}

/// Sends what a builder built; the argument is the builder's `.send()`.
pub(crate) async fn sent<R>(
    request: impl Future<Output = legacy::Result<R>>,
) -> Result<HttpResponse, AzureError> {
    carried(request).await.map_err(azure_error)?.ok_or_else(|| {
        let message = "the request's builder answered by itself";
        AzureError::new(ErrorClass::Invalid, "RequestNotBuilt", message)
    })
}

fn azure_error(error: legacy::Error) -> AzureError {
    let text = error.to_string();
    error
        .into_downcast::<AzureError>()
        .unwrap_or_else(|_| AzureError::new(ErrorClass::Invalid, "RequestNotBuilt", text))
}

struct Adapter {
    core: Arc<Core>,
    turn: Turn,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Adapter")
    }
}

#[async_trait]
impl legacy::HttpClient for Adapter {
    async fn execute_request(&self, request: &legacy::Request) -> legacy::Result<legacy::Response> {
        let other = |message: String| legacy::Error::message(ErrorKind::Other, message);
        let method = Method::from_bytes(request.method().as_ref().as_bytes())
            .map_err(|e| other(e.to_string()))?;
        let mut call = Call::new(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            let kept = !["authorization", "user-agent", "content-length"].contains(&name.as_str());
            if kept
                && let (Ok(name), Ok(value)) =
                    (HeaderName::from_str(name.as_str()), HeaderValue::from_str(value.as_str()))
            {
                call.headers.insert(name, value);
            }
        }
        match request.body() {
            legacy::Body::Bytes(bytes) => call.body = bytes.clone(),
            legacy::Body::SeekableStream(_) => {
                return Err(other("streaming bodies are not supported".to_owned()));
            }
        }
        let answer = self
            .core
            .send(call, &self.turn)
            .await
            .map_err(|error| legacy::Error::new(ErrorKind::Other, error))?;
        let status = legacy::StatusCode::try_from(answer.status)
            .map_err(|_| other(format!("HTTP status {} has no name", answer.status)))?;
        carry(answer);
        let body = Box::pin(legacy::BytesStream::new_empty());
        Ok(legacy::Response::new(status, legacy::headers::Headers::new(), body))
    }
}

/// The real token is added by [`Core::send`].
#[derive(Debug)]
struct NoCredential;

#[async_trait]
impl TokenCredential for NoCredential {
    async fn get_token(&self, _scopes: &[&str]) -> legacy::Result<AccessToken> {
        Ok(AccessToken::new("added-later", OffsetDateTime::UNIX_EPOCH))
    }

    async fn clear_cache(&self) -> legacy::Result<()> {
        Ok(())
    }
}
