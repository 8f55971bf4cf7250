//! The client's side: gRPC channels to the controller.
//!
//! In TLS 1.3 a client has finished its handshake before the server has looked at the client's
//! certificate; a refusal would surface only at the first call, as an opaque transport error. HTTP/2
//! servers speak first, so a connection counts as made here only once the server's first byte has
//! arrived: a refused certificate is a [`ConnectError::Refused`] at connect. (A server that also
//! takes HTTP/1 would not speak first; ours do not.) Whoever is refused *after* that, because the
//! certificate was revoked, learns it from the call's status.
//!
//! A channel reconnects by itself when its connection breaks. Calls then fail with `UNAVAILABLE` and
//! carry the cause, which [`connect_error`] finds.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azdr_env::Clock;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::certificate::key_from_pem;
use crate::client_identity::ClientIdentity;
use crate::identity::is_sha256_hex;
use crate::provider;
use crate::verifier::{ControllerVerifier, Trust};

/// The buffer only serves to look at the server's first frame; long reads bypass it.
const FIRST_FRAME: usize = 128;

/// How connections are made and watched. The default suits agents and operators.
#[derive(Clone)]
pub struct ConnectOptions {
    /// How long TCP, TLS and the server's first word may take together. 5 s.
    pub connect_timeout: Duration,
    /// A ping after this much silence, also while no call is open. 10 s.
    pub keep_alive_interval: Duration,
    /// A server that does not answer a ping for so long is dead: calls fail. 10 s.
    pub keep_alive_timeout: Duration,
    /// Decides whether the server's certificate is current; the operating system's time when not
    /// given. For tests that move time.
    pub clock: Option<Arc<dyn Clock>>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(10),
            clock: None,
        }
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there. Try again later.
    #[error("cannot reach the controller at {address}")]
    Unreachable {
        /// host:port as given.
        address: String,
        /// What the network said.
        source: io::Error,
    },
    /// Somebody answers, but it is not our controller, or its certificate is not current. Trying
    /// again does not help.
    #[error("the server at {address} is not trusted: {reason}")]
    NotTrusted {
        /// host:port as given.
        address: String,
        /// In words.
        reason: String,
    },
    /// The controller does not accept our certificate. Trying again does not help.
    #[error("the controller at {address} refused this certificate: {reason}")]
    Refused {
        /// host:port as given.
        address: String,
        /// In words.
        reason: String,
    },
    /// Our own key, certificate, authority or fingerprint cannot be used.
    #[error("this client's identity cannot be used: {reason}")]
    BadIdentity {
        /// In words.
        reason: String,
    },
    /// The address is not `host:port`.
    #[error("{address:?} is not an address of the form host:port")]
    BadAddress {
        /// As given.
        address: String,
    },
}

/// Connects without a certificate to the controller whose authority has this fingerprint (SHA-256 of
/// its certificate, 64 hexadecimal digits; colons and capitals are fine).
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_pinned(
    address: &str,
    ca_fingerprint_sha256_hex: &str,
) -> Result<Channel, ConnectError> {
    connect_pinned_with(address, ca_fingerprint_sha256_hex, &ConnectOptions::default()).await
}

/// [`connect_pinned`] with options.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_pinned_with(
    address: &str,
    ca_fingerprint_sha256_hex: &str,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    let pinned = ca_fingerprint_sha256_hex.replace(':', "").to_ascii_lowercase();
    if !is_sha256_hex(&pinned) {
        return Err(ConnectError::BadIdentity {
            reason: "the CA's fingerprint must be 64 hexadecimal digits".to_owned(),
        });
    }
    let config = builder(Trust::Fingerprint(pinned), options)?.with_no_client_auth();
    connect(address, config, options, dial_tcp).await
}

/// Connects with a certificate.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_mutual(
    address: &str,
    identity: &ClientIdentity,
) -> Result<Channel, ConnectError> {
    connect_mutual_with(address, identity, &ConnectOptions::default()).await
}

/// [`connect_mutual`] with options.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_mutual_with(
    address: &str,
    identity: &ClientIdentity,
    options: &ConnectOptions,
) -> Result<Channel, ConnectError> {
    connect_mutual_over(address, identity, options, dial_tcp).await
}

/// [`connect_mutual_with`] over another network than this machine's: `dial` makes each connection.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_mutual_over<D, F, IO>(
    address: &str,
    identity: &ClientIdentity,
    options: &ConnectOptions,
    dial: D,
) -> Result<Channel, ConnectError>
where
    D: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let key = key_from_pem(&identity.key_pem).map_err(bad_identity)?;
    let chain = identity.chain_der.iter().cloned().map(CertificateDer::from).collect();
    let config = builder(Trust::Authority(identity.ca_der.clone()), options)?
        .with_client_auth_cert(chain, key)
        .map_err(bad_identity)?;
    connect(address, config, options, dial).await
}

/// The connection error behind a failed call, if that is what failed it.
pub fn connect_error(status: &tonic::Status) -> Option<&ConnectError> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<ConnectError>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(trust: Trust, options: &ConnectOptions) -> Result<Builder, ConnectError> {
    let time = provider::time_from(options.clock.clone());
    let builder = ClientConfig::builder_with_details(provider::ring(), time)
        .with_protocol_versions(provider::VERSIONS)
        .map_err(bad_identity)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ControllerVerifier::new(trust))))
}

/// This machine's network.
async fn dial_tcp(address: String) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn connect<D, F, IO>(
    address: &str,
    mut config: ClientConfig,
    options: &ConnectOptions,
    dial: D,
) -> Result<Channel, ConnectError>
where
    D: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let bad_address = || ConnectError::BadAddress { address: address.to_owned() };
    let uri: Uri = format!("http://{address}").parse().map_err(|_| bad_address())?;
    if uri.port_u16().is_none() || uri.path() != "/" || uri.query().is_some() {
        return Err(bad_address());
    }
    config.alpn_protocols = vec![provider::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // The name is not checked, so it need not be told either.
    config.enable_sni = false;
    let dialer = Dialer {
        address: address.to_owned(),
        tls: TlsConnector::from(Arc::new(config)),
        limit: options.connect_timeout,
        tcp: dial,
    };
    // The first connection is made before tonic is asked, so that its error comes back as it is.
    let first = Arc::new(Mutex::new(Some(dialer.dial().await?)));
    let reconnect = tower::service_fn(move |_: Uri| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dialer = dialer.clone();
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => dialer.dial().await?,
            };
            Ok::<_, ConnectError>(TokioIo::new(stream))
        }
    });
    // tonic's own TLS is not compiled in: to it this is a plain connection, whence the scheme.
    Endpoint::from(uri)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .connect_with_connector(reconnect)
        .await
        .map_err(|e| unreachable(address, io::Error::other(e)))
}

#[derive(Clone)]
struct Dialer<D> {
    address: String,
    tls: TlsConnector,
    limit: Duration,
    tcp: D,
}

impl<D, F, IO> Dialer<D>
where
    D: Fn(String) -> F,
    F: Future<Output = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    async fn dial(&self) -> Result<BufReader<TlsStream<IO>>, ConnectError> {
        let address = &self.address;
        timeout(self.limit, self.handshake()).await.unwrap_or_else(|_| {
            let words = format!("no answer within {} s", self.limit.as_secs());
            Err(unreachable(address, io::Error::new(io::ErrorKind::TimedOut, words)))
        })
    }

    async fn handshake(&self) -> Result<BufReader<TlsStream<IO>>, ConnectError> {
        let address = &self.address;
        let tcp = (self.tcp)(address.clone()).await.map_err(|e| unreachable(address, e))?;
        let name = ServerName::try_from("controller").expect("a valid name");
        let tls = self.tls.connect(name, tcp).await.map_err(|e| classify(address, e))?;
        let mut stream = BufReader::with_capacity(FIRST_FRAME, tls);
        let first = stream.fill_buf().await.map_err(|e| classify(address, e))?;
        if first.is_empty() {
            let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
            return Err(unreachable(address, closed));
        }
        Ok(stream)
    }
}

/// Says whose fault a failed handshake is.
fn classify(address: &str, error: io::Error) -> ConnectError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let address = address.to_owned();
    match tls {
        None => ConnectError::Unreachable { address, source: error },
        Some(rustls::Error::AlertReceived(alert)) => {
            ConnectError::Refused { address, reason: alert_in_words(*alert) }
        }
        Some(rustls::Error::InvalidCertificate(problem)) => {
            ConnectError::NotTrusted { address, reason: problem_in_words(problem) }
        }
        Some(other) => {
            let reason = format!("it does not speak as our controller does ({other})");
            ConnectError::NotTrusted { address, reason }
        }
    }
}

fn alert_in_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "it has expired, or is not yet valid".to_owned(),
        AlertDescription::CertificateRevoked => "it is revoked".to_owned(),
        AlertDescription::CertificateRequired => "none was offered".to_owned(),
        AlertDescription::UnknownCA => "it was issued by another authority".to_owned(),
        other => format!("TLS alert {other:?}"),
    }
}

fn problem_in_words(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was not issued by our certificate authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired (or this machine's clock is wrong)".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet (or this machine's clock is wrong)".to_owned()
        }
        CertificateError::NotValidForName => "its certificate is not the controller's".to_owned(),
        other => other.to_string(),
    }
}

fn unreachable(address: &str, source: io::Error) -> ConnectError {
    ConnectError::Unreachable { address: address.to_owned(), source }
}

fn bad_identity(error: impl std::fmt::Display) -> ConnectError {
    ConnectError::BadIdentity { reason: error.to_string() }
}
