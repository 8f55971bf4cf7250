//! Reading a certificate: whose it is, and how long it holds.

use azdr_env::WallTime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, hex, sha256_hex};

/// What is to be known of a certificate; for a server, of its client's.
///
/// Only a certificate that came out of a finished handshake has been *verified*; this type alone
/// says what it claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// Whose it is.
    pub identity: Identity,
    /// Serial number, lower-case hexadecimal, as in [`crate::Issued::serial_hex`].
    pub serial: String,
    /// Valid from this time, to the second.
    pub not_before: WallTime,
    /// Valid until this time, inclusive, to the second.
    pub not_after: WallTime,
    /// It was outside its validity (expired, or not yet valid) when it was read; for a server: when
    /// the connection was made. Connections outlive certificates: compare `not_after` to learn about
    /// now.
    pub expired: bool,
    /// SHA-256 of the DER, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not a usable certificate: {reason}")]
pub struct BadCertificate {
    reason: String,
}

impl PeerCertificate {
    /// Reads a certificate, without verifying it; `now` decides about `expired`.
    ///
    /// # Errors
    /// When it cannot be parsed, or has not exactly one URI name, or that is no [`Identity`].
    pub fn from_der(der: &[u8], now: WallTime) -> Result<Self, BadCertificate> {
        let certificate = parse(der)?;
        let (not_before, not_after) = validity(&certificate)?;
        Ok(Self {
            identity: identity_of(&certificate)?,
            serial: hex(certificate.raw_serial()),
            not_before,
            not_after,
            expired: now < not_before || not_after < now,
            fingerprint: fingerprint(der),
        })
    }
}

/// SHA-256 of a certificate's DER, 64 lower-case hexadecimal digits: what clients pin.
pub fn fingerprint(certificate_der: &[u8]) -> String {
    sha256_hex(certificate_der)
}

/// A certificate in PEM.
pub fn certificate_to_pem(der: &[u8]) -> String {
    // 48 bytes are 64 digits of base64, the line length of RFC 7468.
    let body: Vec<String> = der.chunks(48).map(|line| STANDARD.encode(line)).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", body.join("\n"))
}

/// The certificates of a PEM text, in order; at least one.
pub(crate) fn certificates_from_pem(pem: &str) -> Result<Vec<Vec<u8>>, BadCertificate> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|e| bad(format!("the PEM cannot be read: {e}")))?;
    if found.is_empty() {
        return Err(bad("the PEM holds no certificate"));
    }
    Ok(found.into_iter().map(|der| der.as_ref().to_vec()).collect())
}

/// A private key out of PEM. The error never quotes the text.
pub(crate) fn key_from_pem(pem: &str) -> Result<PrivateKeyDer<'static>, BadCertificate> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad("the PEM holds no private key"))
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, BadCertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(bad("there are bytes after its end")),
        Err(e) => Err(bad(format!("it cannot be parsed: {e}"))),
    }
}

/// First and last second at which it is valid.
pub(crate) fn validity(
    certificate: &X509Certificate<'_>,
) -> Result<(WallTime, WallTime), BadCertificate> {
    let validity = certificate.validity();
    let at = |seconds: i64| WallTime::from_unix_ms(seconds.saturating_mul(1000));
    let (from, to) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    if to < from {
        return Err(bad("it ends before it begins"));
    }
    Ok((from, to))
}

/// The identity that it names. Two URIs would leave it to the reader which one counts: refused.
pub(crate) fn identity_of(certificate: &X509Certificate<'_>) -> Result<Identity, BadCertificate> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| bad(format!("its alternative names cannot be read: {e}")))?
        .ok_or_else(|| bad("it names nobody: there is no subject alternative name"))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|e| bad(format!("{e}"))),
        (None, _) => Err(bad("it names nobody: there is no URI among its alternative names")),
        (Some(_), Some(_)) => Err(bad("it has more than one URI name")),
    }
}

pub(crate) fn bad(reason: impl Into<String>) -> BadCertificate {
    BadCertificate { reason: reason.into() }
}
