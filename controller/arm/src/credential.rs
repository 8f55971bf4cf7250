//! Who we are to Azure: bearer tokens, acquired through `azure_identity` and cached here.
//!
//! Each acquisition builds a fresh credential, so the cache below is the only one: `azure_identity`
//! keeps tokens by the operating system's clock and would hand out a refused one again. At most one
//! acquisition runs at a time, it has an outer time limit (a managed identity retries by itself for
//! longer than anybody wants to wait), and a failure answers everybody who asks within the next
//! seconds. Token requests go through the same [`HttpTransport`](crate::HttpTransport) as all others.
//!
//! Not there yet: a client certificate. It needs an own JWT assertion, signed with ring, behind
//! `azure_identity::ClientAssertionCredential`, and nothing else here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Env, Monotonic, WallTime};
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, HttpClient, RetryOptions, Transport};
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use crate::client::within;
use crate::error::{AzureError, ErrorClass};
use crate::pipeline::PipelineTransport;
use crate::secret::{Secret, redact};
use crate::transport::{HttpTransport, TransportError, describe};

/// How azdr signs in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialConfig {
    /// The identity that Azure gave the machine azdr runs on: its metadata service, or the one that
    /// `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` name (App Service; a simulator's).
    ManagedIdentity {
        /// Which one, if it has several.
        #[serde(default)]
        client_id: Option<String>,
    },
    /// A Kubernetes service account; reads `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
    /// `AZURE_FEDERATED_TOKEN_FILE`.
    WorkloadIdentity,
    /// A service principal with a password.
    ClientSecret {
        /// Its directory.
        tenant_id: String,
        /// Its application id.
        client_id: String,
        /// Its password.
        client_secret: Secret,
    },
    /// Whoever is signed in to the Azure CLI (`az`).
    AzureCli,
}

/// Where a client's tokens come from.
pub enum Tokens {
    /// Always this one: for tests and simulations.
    Fixed(Secret),
    /// As [`ArmConfig::credential`](crate::ArmConfig::credential) says.
    Configured,
    /// An `azure_identity` credential, or another one, that the caller made.
    Credential(Arc<dyn TokenCredential>),
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "Fixed(…)",
            Self::Configured => "Configured",
            Self::Credential(_) => "Credential(…)",
        })
    }
}

/// The longest that acquiring one token may take.
const ACQUISITION_LIMIT: Duration = Duration::from_secs(30);
/// A token is replaced this long before it expires.
const REFRESH_AHEAD: Duration = Duration::from_secs(300);
/// A failed acquisition is not repeated sooner than this.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct TokenCache {
    source: Source,
    scope: String,
    env: Env,
    state: Mutex<State>,
}

enum Source {
    Fixed(Secret),
    Credential(Arc<dyn TokenCredential>),
    Configured { credential: CredentialConfig, authority: Option<Url>, http: Arc<dyn HttpClient> },
}

#[derive(Default)]
struct State {
    token: Option<(Secret, WallTime)>,
    failure: Option<(AzureError, Monotonic)>,
}

impl TokenCache {
    pub(crate) fn new(
        tokens: Tokens,
        credential: CredentialConfig,
        authority: Option<Url>,
        audience: &str,
        transport: Arc<dyn HttpTransport>,
        env: Env,
    ) -> Self {
        let source = match tokens {
            Tokens::Fixed(token) => Source::Fixed(token),
            Tokens::Credential(credential) => Source::Credential(credential),
            Tokens::Configured => Source::Configured {
                http: Arc::new(PipelineTransport(transport)),
                credential,
                authority,
            },
        };
        let scope = format!("{}/.default", audience.trim_end_matches('/'));
        Self { source, scope, env, state: Mutex::default() }
    }

    /// A token that is good for a few minutes at least, acquired if need be.
    ///
    /// # Errors
    /// `Denied` when Azure or the configuration says no; `Unavailable` when nobody answered.
    pub(crate) async fn get(&self) -> Result<Secret, AzureError> {
        let mut state = self.state.lock().await;
        let now = self.env.clock.wall();
        if let Some((token, expires)) = &state.token
            && *expires > now.plus(REFRESH_AHEAD)
        {
            return Ok(token.clone());
        }
        if let Some((error, at)) = &state.failure
            && self.env.clock.monotonic().since(*at) < FAILURE_PAUSE
        {
            return Err(error.clone());
        }
        let acquired = match within(ACQUISITION_LIMIT, self.acquire()).await {
            Some(acquired) => acquired,
            None => Err(AzureError::new(
                ErrorClass::Unavailable,
                "TokenTimedOut",
                format!("no access token within {} s", ACQUISITION_LIMIT.as_secs()),
            )),
        };
        match acquired {
            Ok((token, expires)) => {
                state.failure = None;
                state.token = Some((token.clone(), expires));
                Ok(token)
            }
            Err(error) => {
                // The old token may still be good for some minutes.
                if let Some((token, expires)) = &state.token
                    && *expires > now
                {
                    tracing::warn!(%error, "the access token could not be renewed");
                    return Ok(token.clone());
                }
                state.failure = Some((error.clone(), self.env.clock.monotonic()));
                Err(error)
            }
        }
    }

    /// Forgets a token that Azure refused, so that the next [`TokenCache::get`] acquires another.
    pub(crate) async fn refuse(&self, token: &Secret) {
        let mut state = self.state.lock().await;
        if state.token.as_ref().is_some_and(|(cached, _)| cached == token) {
            state.token = None;
        }
    }

    async fn acquire(&self) -> Result<(Secret, WallTime), AzureError> {
        let credential = match &self.source {
            Source::Fixed(token) => {
                let forever = WallTime::from_unix_ms(i64::MAX);
                return Ok((token.clone(), forever));
            }
            Source::Credential(credential) => credential.clone(),
            Source::Configured { credential, authority, http } => {
                build(credential, authority.as_ref(), http.clone())
                    .map_err(|e| AzureError { class: ErrorClass::Denied, ..token_error(&e) })?
            }
        };
        let token =
            credential.get_token(&[&self.scope], None).await.map_err(|e| token_error(&e))?;
        let expires = i64::try_from(token.expires_on.unix_timestamp_nanos() / 1_000_000)
            .map_or(self.env.clock.wall(), WallTime::from_unix_ms);
        Ok((Secret::new(token.token.secret()), expires))
    }
}

fn build(
    config: &CredentialConfig,
    authority: Option<&Url>,
    http: Arc<dyn HttpClient>,
) -> azure_core::Result<Arc<dyn TokenCredential>> {
    let cloud = authority.map(|url| {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = url.as_str().trim_end_matches('/').to_owned();
        Arc::new(CloudConfiguration::from(cloud))
    });
    let client_options = ClientOptions {
        transport: Some(Transport::new(http)),
        retry: RetryOptions::none(),
        cloud,
        ..ClientOptions::default()
    };
    Ok(match config {
        CredentialConfig::ManagedIdentity { client_id } => {
            ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                client_options,
            }))?
        }
        CredentialConfig::WorkloadIdentity => {
            WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                ..WorkloadIdentityCredentialOptions::default()
            }))?
        }
        CredentialConfig::ClientSecret { tenant_id, client_id, client_secret } => {
            ClientSecretCredential::new(
                tenant_id,
                client_id.clone(),
                client_secret.expose().to_owned().into(),
                Some(ClientSecretCredentialOptions { client_options }),
            )?
        }
        CredentialConfig::AzureCli => AzureCliCredential::new(None)?,
    })
}

/// `Denied` when somebody said no, `Unavailable` when nobody answered. Nothing was asked of ARM in
/// either case.
fn token_error(error: &azure_core::Error) -> AzureError {
    let mut status = error.http_status().map(u16::from);
    let mut lost = false;
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = source {
        lost |= cause.is::<TransportError>();
        if let Some(inner) = cause.downcast_ref::<azure_core::Error>() {
            status = status.or(inner.http_status().map(u16::from));
        }
        source = cause.source();
    }
    let (class, code) = match status {
        _ if lost => (ErrorClass::Unavailable, "TokenEndpointUnreachable"),
        Some(408 | 429 | 500..) => (ErrorClass::Unavailable, "TokenEndpointUnavailable"),
        _ => (ErrorClass::Denied, "SignInFailed"),
    };
    AzureError { http_status: status, ..AzureError::new(class, code, redact(&describe(error))) }
}

#[cfg(test)]
mod tests;
