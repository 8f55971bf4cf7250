//! [`ArmClient`]: one request, from the budget to a classified answer. The families of calls are in
//! [`crate::compute`], [`crate::network`] and [`crate::resources`].
//!
//! A request is: a token of the budget, a bearer token, a fresh `x-ms-client-request-id`, the
//! pipeline under a time limit, and the answer's class. After a 401 the token is acquired anew and
//! the request repeated, once. Nothing else is repeated here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azdr_env::Env;
use azure_core::http::Pipeline;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::bridge;
use crate::budget::{Budget, Counters, OperationClass, Passes, Priority};
use crate::credential::{CredentialConfig, TokenCache, Tokens};
use crate::error::{AzureError, ErrorClass};
use crate::lro::PollPace;
use crate::pipeline;
use crate::rate_limit;
use crate::secret::Secret;
use crate::transport::{HttpRequest, HttpResponse, HttpTransport, NetworkTransport, Sent};

/// The audience of tokens for Azure's public cloud.
pub const PUBLIC_AUDIENCE: &str = "https://management.azure.com";

/// Where Azure is, and how to sign in. Plain configuration; `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct ArmConfig {
    /// Resource Manager, `https://management.azure.com` or a simulator. Its path is not used.
    pub endpoint: Url,
    /// The host that issues tokens, if it is not Azure's public one. A managed identity does not
    /// need it.
    pub authority: Option<Url>,
    /// What tokens are for, [`PUBLIC_AUDIENCE`] in the public cloud.
    pub audience: String,
    /// Certificates (PEM, one or more) to trust in addition to the machine's own roots.
    pub ca_certificate_pem: Option<Vec<u8>>,
    /// How to sign in.
    pub credential: CredentialConfig,
    /// The longest that one request may take, tokens and the budget's queue not counted.
    pub request_timeout: Duration,
    /// How often operations are polled.
    pub pace: PollPace,
}

impl ArmConfig {
    /// Azure's public cloud, with 60 s per request.
    pub fn public_cloud(credential: CredentialConfig) -> Self {
        Self {
            endpoint: Url::parse(PUBLIC_AUDIENCE).expect("a constant that parses"),
            authority: None,
            audience: PUBLIC_AUDIENCE.to_owned(),
            ca_certificate_pem: None,
            credential,
            request_timeout: Duration::from_secs(60),
            pace: PollPace::azure(),
        }
    }
}

/// Azure Resource Manager, as azdr uses it. Cheap to clone; clones share connections, tokens and
/// budget.
#[derive(Clone)]
pub struct ArmClient {
    pub(crate) core: Arc<Core>,
    pub(crate) turn: Turn,
    pub(crate) builders: bridge::Builders,
}

/// How a client's requests queue.
#[derive(Clone, Default)]
pub(crate) struct Turn {
    priority: Priority,
    passes: Option<Arc<Passes>>,
}

impl ArmClient {
    /// A client over the network. Connects to nothing yet.
    ///
    /// # Errors
    /// `Invalid` when the endpoint is not https, or a certificate cannot be read.
    pub fn new(config: ArmConfig, env: Env) -> Result<Self, AzureError> {
        for url in [Some(&config.endpoint), config.authority.as_ref()].into_iter().flatten() {
            if url.scheme() != "https" || url.host().is_none() {
                let message = format!("{url} must be an https URL: it is sent tokens");
                return Err(AzureError::new(ErrorClass::Invalid, "InvalidEndpoint", message));
            }
        }
        let transport =
            NetworkTransport::new(config.ca_certificate_pem.as_deref(), config.request_timeout)?;
        Ok(Self::with_transport(config, env, Arc::new(transport), Tokens::Configured))
    }

    /// A client over another transport: a scripted one, or a simulator in this process.
    pub fn with_transport(
        config: ArmConfig,
        env: Env,
        transport: Arc<dyn HttpTransport>,
        tokens: Tokens,
    ) -> Self {
        let mut endpoint = config.endpoint;
        endpoint.set_path("/");
        endpoint.set_query(None);
        let core = Arc::new(Core {
            tokens: TokenCache::new(
                tokens,
                config.credential,
                config.authority,
                &config.audience,
                transport.clone(),
                env.clone(),
            ),
            pipeline: pipeline::build(transport.clone()),
            budget: Budget::new(env.clone()),
            endpoint,
            request_timeout: config.request_timeout,
            pace: config.pace,
            transport,
            env,
        });
        Self::assemble(core, Turn::default())
    }

    fn assemble(core: Arc<Core>, turn: Turn) -> Self {
        let builders = bridge::Builders::new(core.clone(), turn.clone());
        Self { core, turn, builders }
    }

    /// The same client, whose requests queue with this priority ([`Priority::Backup`] by default).
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        Self::assemble(self.core.clone(), Turn { priority, passes: self.turn.passes.clone() })
    }

    /// What was asked of Azure so far, by this client and its clones.
    pub fn counters(&self) -> Counters {
        self.core.budget.counters()
    }

    /// Waits until `n` snapshot writes can be sent without waiting, and keeps that room until the
    /// reservation is dropped: to be called *before* a machine is frozen.
    ///
    /// Waits five minutes at most; without room even then, the requests wait their turn.
    pub async fn reserve_snapshot_writes(&self, n: u32) -> Reservation {
        let passes = self.core.budget.reserve(n, self.turn.priority).await;
        let turn = Turn { priority: self.turn.priority, passes: Some(passes.clone()) };
        Reservation { client: Self::assemble(self.core.clone(), turn), passes }
    }

    /// The pace of polls that this client was configured with.
    pub fn pace(&self) -> PollPace {
        self.core.pace
    }

    pub(crate) async fn send(&self, call: Call) -> Result<HttpResponse, AzureError> {
        self.core.send(call, &self.turn).await
    }

    /// A GET whose answer is JSON.
    pub(crate) async fn get_json(&self, path: &str) -> Result<Value, AzureError> {
        json_body(&self.send(Call::new(Method::GET, self.core.url(path)?)).await?)
    }

    /// All items of a listing. Follows `nextLink` over empty pages, to [`PAGE_LIMIT`].
    pub(crate) async fn list_json(&self, path: &str) -> Result<Vec<Value>, AzureError> {
        self.list(path).await
    }

    /// The same, of items that need not become values first.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, AzureError> {
        let mut url = self.core.url(path)?;
        let mut items = Vec::new();
        for _ in 0..PAGE_LIMIT {
            let answer = self.send(Call::new(Method::GET, url.clone())).await?;
            let page: Page<T> = parsed(&answer)?;
            items.extend(page.value.into_iter().flatten());
            match page.next_link.filter(|link| !link.is_empty()) {
                None => return Ok(items),
                Some(next) => {
                    url = self.core.own_url(&next).ok_or_else(|| {
                        let message = "the next page is at a host that gets no token";
                        AzureError::new(ErrorClass::Failed, "ForeignNextLink", message)
                    })?;
                }
            }
        }
        let message = format!("a listing of more than {PAGE_LIMIT} pages does not end");
        Err(AzureError::new(ErrorClass::Failed, "EndlessListing", message))
    }
}

/// A page of a listing.
#[derive(Deserialize)]
struct Page<T> {
    value: Option<Vec<T>>,
    #[serde(rename = "nextLink")]
    next_link: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { value: None, next_link: None }
    }
}

/// A listing that needs more pages than this does not end (100 to 1000 items are on one).
const PAGE_LIMIT: usize = 2_000;

impl fmt::Debug for ArmClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArmClient({}, {:?})", self.core.endpoint, self.turn.priority)
    }
}

/// Room for snapshot writes that was waited for already. Given back when dropped.
pub struct Reservation {
    client: ArmClient,
    passes: Arc<Passes>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reservation")
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Clones of the client may live longer.
        self.passes.release();
    }
}

impl Reservation {
    /// The client whose snapshot writes use this room. (Another client's would queue as usual.)
    pub fn client(&self) -> &ArmClient {
        &self.client
    }
}

/// One request to ARM.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        // Not its `Display`, which writes piece by piece.
        self.body = serde_json::to_vec(body).expect("a JSON value can be written").into();
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    pub(crate) fn if_match(mut self, etag: Option<&str>) -> Result<Self, AzureError> {
        if let Some(etag) = etag {
            let value = HeaderValue::from_str(etag).map_err(|_| {
                AzureError::new(
                    ErrorClass::Invalid,
                    "InvalidEtag",
                    "the ETag is not a header value",
                )
            })?;
            self.headers.insert(header::IF_MATCH, value);
        }
        Ok(self)
    }
}

/// What all clones share.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) transport: Arc<dyn HttpTransport>,
    pub(crate) endpoint: Url,
    pub(crate) pace: PollPace,
    pub(crate) request_timeout: Duration,
    pipeline: Pipeline,
    tokens: TokenCache,
    pub(crate) budget: Arc<Budget>,
}

impl Core {
    /// The endpoint with this path and query, which start with a slash.
    pub(crate) fn url(&self, path_and_query: &str) -> Result<Url, AzureError> {
        self.endpoint.join(path_and_query).map_err(|_| {
            AzureError::new(ErrorClass::Invalid, "InvalidUrl", "the path does not make a URL")
                .for_resource(path_and_query)
        })
    }

    /// A URL that Azure gave us, if it may be sent our token: same scheme and port as the endpoint,
    /// and its host or a name below it.
    ///
    /// ARM hands out polling URLs and next links at its own host (seen with an explicit `:443`);
    /// whatever else comes in such a header must not receive a token that opens the subscription.
    pub(crate) fn own_url(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let (host, own) = (url.host_str()?, self.endpoint.host_str()?);
        let below = matches!(self.endpoint.host(), Some(url::Host::Domain(_)))
            && host.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'));
        let same = url.scheme() == self.endpoint.scheme()
            && url.port_or_known_default() == self.endpoint.port_or_known_default()
            && url.username().is_empty()
            && (host == own || below);
        same.then_some(url)
    }

    /// Sends one request; an answer that is not 2xx is an error.
    pub(crate) async fn send(&self, call: Call, turn: &Turn) -> Result<HttpResponse, AzureError> {
        let resource = call.url.path().to_owned();
        self.send_unnamed(call, turn).await.map_err(|error| error.for_resource(&resource))
    }

    async fn send_unnamed(&self, call: Call, turn: &Turn) -> Result<HttpResponse, AzureError> {
        let charge = rate_limit::Charge::of(&call.method, call.url.path());
        let mut refused: Option<Secret> = None;
        loop {
            self.take_turn(&charge, turn).await?;
            let token = self.tokens.get().await?;
            let id = self.env.ids.uuid().to_string();
            let mut request = HttpRequest {
                method: call.method.clone(),
                url: call.url.clone(),
                headers: call.headers.clone(),
                body: call.body.clone(),
            };
            set_headers(&mut request.headers, &token, &id)?;

            self.budget.count_request(&charge.classes);
            let sent = within(self.request_timeout, pipeline::send(&self.pipeline, request)).await;
            let answer = match sent {
                Some(Ok(answer)) => answer,
                Some(Err(error)) => return Err(lost(error.sent, charge.write, error.message, &id)),
                None => {
                    let message = format!("no answer within {:?}", self.request_timeout);
                    return Err(lost(Sent::Maybe, charge.write, message, &id));
                }
            };
            rate_limit::learn(&self.budget, &charge, &answer);
            if answer.status == 401 && refused.is_none() {
                self.tokens.refuse(&token).await;
                refused = Some(token);
                continue;
            }
            if (200..300).contains(&answer.status) {
                return Ok(answer);
            }
            let mut error = AzureError::from_answer(answer.status, &answer.body, charge.write);
            error.client_request_id = Some(id.into());
            error.request_id = answer.header("x-ms-request-id").map(Into::into);
            error.retry_after = rate_limit::retry_after(&answer, self.env.clock.wall());
            rate_limit::answered_429(&self.budget, &charge, &answer, &error);
            return Err(error);
        }
    }

    async fn take_turn(&self, charge: &rate_limit::Charge, turn: &Turn) -> Result<(), AzureError> {
        if charge.classes.contains(&OperationClass::HighCostSnapshot)
            && let Some(passes) = &turn.passes
            && passes.take(&charge.subscription)
        {
            return Ok(());
        }
        for class in &charge.classes {
            self.budget.acquire(&charge.subscription, *class, turn.priority).await?;
        }
        Ok(())
    }
}

fn set_headers(headers: &mut HeaderMap, token: &Secret, id: &str) -> Result<(), AzureError> {
    let invalid =
        |_| AzureError::new(ErrorClass::Denied, "InvalidToken", "the token is not a header value");
    let mut bearer =
        HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(invalid)?;
    bearer.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, bearer);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert("x-ms-client-request-id", HeaderValue::from_str(id).map_err(invalid)?);
    headers.insert("x-ms-return-client-request-id", HeaderValue::from_static("true"));
    Ok(())
}

/// The error of a request without an answer.
fn lost(sent: Sent, write: bool, message: String, id: &str) -> AzureError {
    let (class, code) = match (sent, write) {
        (Sent::Maybe, true) => (ErrorClass::OutcomeUnknown, "AnswerLost"),
        (Sent::Maybe, false) => (ErrorClass::Unavailable, "AnswerLost"),
        (Sent::No, _) => (ErrorClass::Unavailable, "ConnectionFailed"),
    };
    AzureError { client_request_id: Some(id.into()), ..AzureError::new(class, code, message) }
}

/// Runs `future` for `limit` at most, on tokio's clock.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = azdr_env::sleep(limit) => None,
    }
}

/// The body of an answer as JSON; null for an empty one.
pub(crate) fn json_body(answer: &HttpResponse) -> Result<Value, AzureError> {
    parsed(answer)
}

/// The body of an answer; the default for an empty one.
fn parsed<T: DeserializeOwned + Default>(answer: &HttpResponse) -> Result<T, AzureError> {
    if answer.body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&answer.body).map_err(|e| {
        let error = AzureError::new(
            ErrorClass::Failed,
            "UnreadableAnswer",
            format!("the answer is not JSON: {e}"),
        );
        AzureError { http_status: Some(answer.status), ..error }
    })
}

#[cfg(test)]
mod tests;
