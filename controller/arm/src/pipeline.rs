//! The azure_core 1.1 pipeline over our [`HttpTransport`]: request id, user agent, sanitised logging,
//! no retries (the engine retries, between journal entries).
//!
//! Authorisation is not a policy of this pipeline: azure_core's own neither repeats a request after
//! 401 nor keeps its cache by our clock, so [`crate::client`] sets the header.

use std::cell::RefCell;
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, Context, HttpClient, Method as CoreMethod, Pipeline,
    PipelineSendOptions, Request, RetryOptions, StatusCode, Transport, UserAgentOptions,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::transport::{HttpRequest, HttpResponse, HttpTransport, TransportError};

tokio::task_local! {
    static ANSWER: RefCell<Option<HttpResponse>>;
}

/// Awaits what sends one request through somebody else's HTTP core, and returns the answer that was
/// [carried](carry) past it: the core would turn every header into its own kind, and copy the body,
/// while all that it must know is the status. One such sending may be within another.
pub(crate) async fn carried<T, E>(
    sending: impl Future<Output = Result<T, E>>,
) -> Result<Option<HttpResponse>, E> {
    let mut sending = pin!(ANSWER.scope(RefCell::new(None), sending));
    sending.as_mut().await?;
    Ok(sending.take_value().and_then(RefCell::into_inner))
}

/// Where that core sends: gives the answer to the innermost [`carried`].
pub(crate) fn carry(answer: HttpResponse) {
    ANSWER.with(|place| place.replace(Some(answer)));
}

/// Builds the pipeline of one client.
pub(crate) fn build(transport: Arc<dyn HttpTransport>) -> Pipeline {
    let options = ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(Transport::new(Arc::new(Leaving(transport)))),
        user_agent: UserAgentOptions { application_id: Some("azdr".to_owned()) },
        ..ClientOptions::default()
    };
    let (name, version) = (option_env!("CARGO_PKG_NAME"), option_env!("CARGO_PKG_VERSION"));
    Pipeline::new(name, version, options, Vec::new(), Vec::new(), None)
}

/// Sends one request through the pipeline; an answer of whatever status is `Ok`.
pub(crate) async fn send(
    pipeline: &Pipeline,
    request: HttpRequest,
) -> Result<HttpResponse, TransportError> {
    let method = match request.method {
        Method::PUT => CoreMethod::Put,
        Method::PATCH => CoreMethod::Patch,
        Method::POST => CoreMethod::Post,
        Method::DELETE => CoreMethod::Delete,
        Method::HEAD => CoreMethod::Head,
        _ => CoreMethod::Get,
    };
    let mut core = Request::new(request.url, method);
    for (name, value) in &request.headers {
        if let Ok(value) = value.to_str() {
            core.insert_header(name.as_str().to_owned(), value.to_owned());
        }
    }
    core.set_body(request.body);
    let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
    let context = Context::new();
    let answer = carried(pipeline.send(&context, &mut core, Some(options))).await;
    answer
        .map_err(transport_error)?
        .ok_or_else(|| TransportError::maybe_sent("the pipeline answered by itself"))
}

fn transport_error(error: azure_core::Error) -> TransportError {
    let text = error.to_string();
    error.into_downcast().unwrap_or_else(|_| TransportError::maybe_sent(text))
}

pub(crate) fn header_map<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(24);
    for (name, value) in pairs {
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_str(name), HeaderValue::from_str(value))
        {
            value.set_sensitive(name == http::header::AUTHORIZATION);
            headers.append(name, value);
        }
    }
    headers
}

/// Where the pipeline of [`build`] ends.
struct Leaving(Arc<dyn HttpTransport>);

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaving")
    }
}

#[async_trait]
impl HttpClient for Leaving {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = execute(&*self.0, request).await?;
        let status = StatusCode::from(answer.status);
        carry(answer);
        Ok(AsyncRawResponse::from_bytes(status, Headers::new(), Bytes::new()))
    }
}

/// Our transport, as `azure_identity` wants it.
pub(crate) struct PipelineTransport(pub(crate) Arc<dyn HttpTransport>);

impl fmt::Debug for PipelineTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PipelineTransport")
    }
}

#[async_trait]
impl HttpClient for PipelineTransport {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = execute(&*self.0, request).await?;
        let mut headers = Headers::new();
        for name in answer.headers.keys() {
            // Repeated headers are joined: azure_core keeps one value per name.
            if let Some(value) = answer.header(name.as_str()) {
                headers.insert(name.as_str().to_owned(), value);
            }
        }
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(answer.status), headers, answer.body))
    }
}

async fn execute(
    transport: &dyn HttpTransport,
    request: &Request,
) -> azure_core::Result<HttpResponse> {
    let Body::Bytes(body) = request.body() else {
        let message = "streaming bodies are not supported";
        return Err(azure_core::Error::with_message(ErrorKind::Other, message));
    };
    let headers =
        header_map(request.headers().iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let method = Method::from_bytes(request.method().as_ref().as_bytes())
        .map_err(|e| azure_core::Error::new(ErrorKind::Other, e))?;
    let request = HttpRequest { method, url: request.url().clone(), headers, body: body.clone() };
    transport.send(request).await.map_err(|e| azure_core::Error::new(ErrorKind::Io, e))
}
