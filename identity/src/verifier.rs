//! Whom each side believes.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::certificate::{fingerprint, identity_of, parse, validity};
use crate::identity::Identity;
use crate::provider;

/// How a client recognises the one authority that it trusts.
#[derive(Debug)]
pub(crate) enum Trust {
    /// It has the authority's certificate.
    Authority(Vec<u8>),
    /// It knows the SHA-256 of the authority's certificate (hexadecimal), which the server sends as
    /// the last certificate of its chain.
    Fingerprint(String),
}

/// A client's check: the chain leads to the one authority, and the certificate is the controller's.
///
/// Host names are ignored on purpose: the address under which a controller is reached may change,
/// and only the controller can hold a certificate with this identity.
#[derive(Debug)]
pub(crate) struct ControllerVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ControllerVerifier {
    pub(crate) fn new(trust: Trust) -> Self {
        Self { trust, provider: provider::ring() }
    }

    fn authority(&self, presented: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let der = match &self.trust {
            Trust::Authority(der) => CertificateDer::from(der.clone()),
            Trust::Fingerprint(pinned) => presented
                .iter()
                .find(|der| fingerprint(der) == *pinned)
                .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?
                .clone()
                .into_owned(),
        };
        let mut roots = RootCertStore::empty();
        roots.add(der)?;
        Ok(roots)
    }
}

impl ServerCertVerifier for ControllerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.authority(intermediates)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        match identity_of(&parse(end_entity).map_err(other)?).map_err(other)? {
            Identity::Controller => Ok(ServerCertVerified::assertion()),
            Identity::Agent { .. } | Identity::Operator { .. } => {
                Err(Error::InvalidCertificate(CertificateError::NotValidForName))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A server's check: the chain leads to our authority, the certificate may be used by a client, and
/// it names one of our identities.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    /// Restored machines come with their original's certificate, which may have expired years ago:
    /// the time of the check is then moved inside its validity. Everything else is still checked.
    allow_expired: bool,
}

impl ClientVerifier {
    /// # Errors
    /// When `ca_der` cannot be used as a trust anchor.
    pub(crate) fn new(ca_der: &[u8], allow_expired: bool) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca_der.to_vec())).map_err(|e| e.to_string())?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider::ring())
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { inner, allow_expired })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = parse(end_entity).map_err(other)?;
        identity_of(&certificate).map_err(other)?;
        let at = if self.allow_expired {
            let (from, to) = validity(&certificate).map_err(other)?;
            now.clamp(provider::unix_time(from), provider::unix_time(to))
        } else {
            now
        };
        self.inner.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn other(error: crate::BadCertificate) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
}
