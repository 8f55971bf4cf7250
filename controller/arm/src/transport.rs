//! HTTP, and nothing of Azure: the seam at which tests and the in-process simulator take over.
//!
//! [`HttpTransport`] sends one request and buffers one answer. It never retries and never follows a
//! redirect, and an error says whether the request may have reached the other side: that is what
//! tells [`Unavailable`](crate::ErrorClass::Unavailable) from
//! [`OutcomeUnknown`](crate::ErrorClass::OutcomeUnknown).
//!
//! **Trust.** TLS is rustls with ring. The roots are the machine's own certificate store
//! (`rustls-native-certs`, which reqwest's rustls already brings along: no new dependency, and
//! operators update and extend it by the system's means; a compiled-in list such as `webpki-roots`
//! ages with the binary and knows no corporate proxy), plus the certificates of the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use crate::error::{AzureError, ErrorClass};

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One HTTP request. Its `Debug` shows neither headers, nor body, nor query.
#[derive(Clone)]
pub struct HttpRequest {
    /// GET, PUT, PATCH, POST or DELETE.
    pub method: Method,
    /// Absolute, with its query.
    pub url: Url,
    /// Values may be marked sensitive.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "HttpRequest({} {host}{})", self.method, self.url.path())
    }
}

/// One whole HTTP answer. Its `Debug` shows the status alone.
#[derive(Clone)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// A name may be there several times.
    pub headers: HeaderMap,
    /// Empty for none.
    pub body: Bytes,
}

impl HttpResponse {
    /// The values of a header, joined with commas.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values = self.headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        let mut joined = values.next()?.to_owned();
        for value in values {
            joined.push(',');
            joined.push_str(value);
        }
        Some(joined)
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpResponse({}, {} bytes)", self.status, self.body.len())
    }
}

/// Whether a request that brought no answer reached the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Surely not: there was no connection.
    No,
    /// Perhaps: the answer was lost, late or broken.
    Maybe,
}

/// A request that brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TransportError {
    /// Whether it reached the other side.
    pub sent: Sent,
    /// What happened, without URL and headers.
    pub message: String,
}

impl TransportError {
    /// The request surely did not leave.
    pub fn not_sent(message: impl Into<String>) -> Self {
        Self { sent: Sent::No, message: message.into() }
    }

    /// The request may have been carried out.
    pub fn maybe_sent(message: impl Into<String>) -> Self {
        Self { sent: Sent::Maybe, message: message.into() }
    }
}

/// Sends HTTP requests.
#[async_trait]
pub trait HttpTransport: Send + Sync {
    /// Sends one request, once, and reads its whole answer.
    ///
    /// # Errors
    /// When there is no whole answer; an answer of whatever status is `Ok`.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError>;
}

/// The network: one pooled client, HTTP/2 where the other side has it.
pub struct NetworkTransport {
    client: reqwest::Client,
}

impl NetworkTransport {
    /// A client that trusts the machine's roots and the certificates in `ca_certificate_pem`, and
    /// gives up after `request_timeout`.
    ///
    /// # Errors
    /// `Invalid` when the certificates cannot be read, or when there is no root at all.
    pub fn new(
        ca_certificate_pem: Option<&[u8]>,
        request_timeout: Duration,
    ) -> Result<Self, AzureError> {
        let invalid = |code, message: String| AzureError::new(ErrorClass::Invalid, code, message);
        let tls = tls_config(ca_certificate_pem)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(request_timeout)
            .pool_idle_timeout(Duration::from_secs(50))
            .build()
            .map_err(|e| invalid("TransportNotBuilt", describe(&e.without_url())))?;
        Ok(Self { client })
    }
}

impl fmt::Debug for NetworkTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkTransport")
    }
}

fn tls_config(extra_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, AzureError> {
    let invalid = |code, message: String| AzureError::new(ErrorClass::Invalid, code, message);
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "part of the system's certificate store cannot be read");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(pem) = extra_pem {
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| {
                invalid("InvalidCaCertificate", format!("the CA certificate is not PEM: {e}"))
            })?;
            roots.add(certificate).map_err(|e| {
                invalid("InvalidCaCertificate", format!("the CA certificate is not valid: {e}"))
            })?;
            found = true;
        }
        if !found {
            let message = "the file of CA certificates holds none";
            return Err(invalid("InvalidCaCertificate", message.to_owned()));
        }
    }
    if roots.is_empty() {
        let message = "there is no trusted root: install the system's CA certificates";
        return Err(invalid("NoTrustedRoot", message.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("TransportNotBuilt", e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[async_trait]
impl HttpTransport for NetworkTransport {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let HttpRequest { method, url, headers, body } = request;
        let answer = self.client.request(method, url).headers(headers).body(body).send().await;
        let answer = answer.map_err(transport_error)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.map_err(transport_error)?;
        Ok(HttpResponse { status, headers, body })
    }
}

fn transport_error(error: reqwest::Error) -> TransportError {
    // The URL may hold a SAS signature.
    let error = error.without_url();
    if error.is_connect() || error.is_builder() {
        TransportError::not_sent(describe(&error))
    } else {
        TransportError::maybe_sent(describe(&error))
    }
}

/// An error with its sources, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
