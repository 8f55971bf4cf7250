//! The server's side of a handshake, and what it learns of its client.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};

use azdr_env::Clock;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::{BadCertificate, PeerCertificate, bad, identity_of, key_from_pem, parse};
use crate::identity::Identity;
use crate::provider;
use crate::verifier::ClientVerifier;

/// What a listener wants of its clients. Listeners with different demands use different ports: that
/// is simpler to reason about than an optional certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// No certificate: enrolment. One that is offered is not asked for and not seen.
    None,
    /// A certificate of our authority that is valid now.
    RequireCurrent,
    /// A certificate of our authority, valid now or not; [`PeerCertificate::expired`] says which.
    /// For the door that is open to restored machines. Handlers must look at the flag.
    RequireAllowExpired,
}

/// The TLS of one listener. Cheap to clone; clones share the certificate that can be replaced.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificate: Arc<CurrentCertificate>,
    ca_der: Arc<[u8]>,
    clock: Arc<dyn Clock>,
}

/// A listener's TLS that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The server's certificate is not the controller's, or cannot be used.
    #[error("the server's certificate cannot be used")]
    Certificate(#[from] BadCertificate),
    /// Certificate and key do not belong together, or the key's kind is not supported.
    #[error("the server's key cannot be used: {0}")]
    Key(String),
    /// The authority's certificate cannot be used.
    #[error("the certificate authority cannot be used: {0}")]
    Authority(String),
}

impl ServerTls {
    /// A listener that shows the controller's certificate `cert_der`, followed by `ca_der` (clients
    /// that pin the authority need to see it). `clock` decides what is expired.
    ///
    /// # Errors
    /// When certificate, key and authority are not usable together.
    pub fn new(
        cert_der: &[u8],
        key_pem: &str,
        ca_der: &[u8],
        client_auth: ClientAuth,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsSetupError> {
        let current = Arc::new(certified_key(cert_der, key_pem, ca_der)?);
        let certificate = Arc::new(CurrentCertificate(RwLock::new(current)));
        let time = provider::time_from(Some(clock.clone()));
        let builder = ServerConfig::builder_with_details(provider::ring(), time)
            .with_protocol_versions(provider::VERSIONS)
            .map_err(|e| TlsSetupError::Key(e.to_string()))?;
        let verifier = |allow_expired| {
            let verifier = ClientVerifier::new(ca_der, allow_expired);
            verifier.map(Arc::new).map_err(TlsSetupError::Authority)
        };
        let builder = match client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::RequireCurrent => builder.with_client_cert_verifier(verifier(false)?),
            ClientAuth::RequireAllowExpired => builder.with_client_cert_verifier(verifier(true)?),
        };
        let mut config = builder.with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![provider::ALPN.to_vec()];
        // A resumed session would skip the certificate check.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), certificate, ca_der: ca_der.into(), clock })
    }

    /// Shows another certificate from the next handshake on; connections that stand are not touched.
    ///
    /// # Errors
    /// As for [`Self::new`]; the old certificate then stays.
    pub fn replace_certificate(&self, cert_der: &[u8], key_pem: &str) -> Result<(), TlsSetupError> {
        let new = Arc::new(certified_key(cert_der, key_pem, &self.ca_der)?);
        *self.certificate.0.write().expect("no code panics while holding this lock") = new;
        Ok(())
    }

    /// Does the handshake on a connection. Without a time limit: see [`crate::serve_incoming`].
    ///
    /// # Errors
    /// When the peer breaks off, does not speak TLS 1.3 and HTTP/2, or is refused.
    pub async fn accept<IO>(&self, io: IO, remote_addr: SocketAddr) -> io::Result<TlsConnection<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config.clone()).accept(io).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = shown.map(|der| PeerCertificate::from_der(der, self.clock.wall())).transpose();
        let peer = peer.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(TlsConnection { stream, info: PeerInfo { peer, remote_addr }, _slot: None })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// Who is at the other end of a connection; in every request's extensions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// The client's verified certificate; none where none was demanded.
    pub peer: Option<PeerCertificate>,
    /// Where the connection comes from: for logs, never for decisions.
    pub remote_addr: SocketAddr,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct TlsConnection<IO = TcpStream> {
    stream: TlsStream<IO>,
    info: PeerInfo,
    /// Its place among the connections that the listener allows.
    _slot: Option<OwnedSemaphorePermit>,
}

impl<IO> TlsConnection<IO> {
    /// Who is at the other end.
    pub fn peer_info(&self) -> &PeerInfo {
        &self.info
    }

    pub(crate) fn holding(mut self, slot: OwnedSemaphorePermit) -> Self {
        self._slot = Some(slot);
        self
    }
}

impl<IO> Connected for TlsConnection<IO> {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsConnection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsConnection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The certificate that the next handshake shows.
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect("no code panics while holding this lock").clone())
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

fn certified_key(
    cert_der: &[u8],
    key_pem: &str,
    ca_der: &[u8],
) -> Result<CertifiedKey, TlsSetupError> {
    // Clients would refuse any other identity: say so here, where it can be repaired.
    let identity = identity_of(&parse(cert_der)?)?;
    if identity != Identity::Controller {
        return Err(bad(format!("it is {identity}'s, not the controller's")).into());
    }
    let key = key_from_pem(key_pem).map_err(|e| TlsSetupError::Key(e.to_string()))?;
    let chain =
        vec![CertificateDer::from(cert_der.to_vec()), CertificateDer::from(ca_der.to_vec())];
    CertifiedKey::from_der(chain, key, &provider::ring())
        .map_err(|e| TlsSetupError::Key(e.to_string()))
}
