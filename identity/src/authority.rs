//! The controller's certificate authority.

use std::fmt;
use std::time::Duration;

use azdr_env::{Env, Ids, WallTime};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::certificate::{BadCertificate, certificate_to_pem, certificates_from_pem, fingerprint};
use crate::identity::{BadName, Identity, hex};
use crate::witness_seal::WitnessKey;

/// The largest signing request that is parsed at all; an ECDSA one has about 300 bytes.
const REQUEST_LIMIT: usize = 8 * 1024;

/// How long the authority itself is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3652 * 24 * 3600);

/// Issues the certificates of one azdr installation. ECDSA P-256, valid 10 years.
///
/// Whether a certificate of it is revoked is not known here.
pub struct CertificateAuthority {
    certificate_der: Vec<u8>,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was just made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issued {
    /// The certificate.
    pub cert_der: Vec<u8>,
    /// Its serial number, lower-case hexadecimal.
    pub serial_hex: String,
    /// Valid from this time, cut to the second.
    pub not_before: WallTime,
    /// Valid until this time, inclusive, cut to the second.
    pub not_after: WallTime,
}

impl Issued {
    /// The certificate in PEM.
    pub fn cert_pem(&self) -> String {
        certificate_to_pem(&self.cert_der)
    }
}

/// A certificate's serial number: 16 bytes, of which 126 bits are free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Serial([u8; 16]);

impl Serial {
    /// A fresh one.
    pub fn random(ids: &dyn Ids) -> Self {
        let mut bytes = [0; 16];
        ids.fill(&mut bytes);
        // DER integers are signed and have no leading zeros: with the top bits 01 the encoding always
        // has these 16 bytes, and what a peer's certificate shows is this very text.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The signing request is not one, or its signature is wrong. The requester's fault.
    #[error("the certificate signing request is refused: {0}")]
    BadRequest(String),
    /// The identity cannot be written into a certificate.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// The validity ends before it begins, or lies outside what a certificate can say.
    #[error("no certificate can be valid from {not_before} to {not_after}")]
    BadValidity {
        /// Asked for.
        not_before: WallTime,
        /// Asked for.
        not_after: WallTime,
    },
    /// The authority's own certificate cannot be used.
    #[error("the certificate authority's certificate cannot be used")]
    BadCertificate(#[from] BadCertificate),
    /// The authority's certificate and key do not belong together, or one is not an authority's.
    #[error("the certificate authority cannot be used: {0}")]
    BadAuthority(String),
    /// Making a key or a signature failed.
    #[error("cannot make a key or certificate")]
    Crypto(#[source] rcgen::Error),
}

impl CertificateAuthority {
    /// A new authority with a new key, valid for 10 years from now.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate(env: &Env) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Crypto)?;
        let now = env.clock.wall();
        // The subject names the authority uniquely: two installations must not share an issuer name.
        let serial = Serial::random(env.ids.as_ref());
        let name = format!("azdr certificate authority {}", &serial.to_string()[..12]);
        let not_before = now.minus(Duration::from_secs(3600));
        let mut params = params(&name, not_before, now.plus(AUTHORITY_LIFETIME), serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Crypto)?;
        Self::from_pem(&certificate_to_pem(certificate.der()), &key.serialize_pem())
    }

    /// An authority that was made before.
    ///
    /// # Errors
    /// When either text cannot be read, or they do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let refused = |reason: &str| AuthorityError::BadAuthority(reason.to_owned());
        let certificate_der = certificates_from_pem(certificate_pem)?.remove(0);
        // rcgen's own error may quote what it could not read.
        let key = KeyPair::from_pem(key_pem).map_err(|_| refused("its key cannot be read"))?;
        let parsed = crate::certificate::parse(&certificate_der)?;
        if !parsed.is_ca() {
            return Err(refused("its certificate is not an authority's"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(refused("certificate and key do not belong together"));
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(&certificate_der[..]), key)
            .map_err(AuthorityError::Crypto)?;
        Ok(Self { key_pem: key_pem.to_owned(), issuer, certificate_der })
    }

    /// The authority's certificate.
    pub fn cert_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The authority's certificate in PEM.
    pub fn cert_pem(&self) -> String {
        certificate_to_pem(&self.certificate_der)
    }

    /// The authority's private key in PEM: a secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The key that seals the witnesses of one operation. It is the same as long as the authority is:
    /// also for a catalogue that was rebuilt.
    pub fn witness_key(&self, operation_id: &str) -> WitnessKey {
        WitnessKey::derive(&self.issuer.key().serialize_der(), operation_id)
    }

    /// SHA-256 of the authority's certificate, 64 lower-case hexadecimal digits: what agents pin.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate_der)
    }

    /// Certifies the public key of a signing request (DER) as `identity`'s.
    ///
    /// Nothing else is taken from the request: not its subject, names, usages or extensions.
    ///
    /// # Errors
    /// [`AuthorityError::BadRequest`] when it is larger than 8 KiB, cannot be parsed, is signed with
    /// another key than it shows (or was changed), or its key is not ECDSA P-256, P-384 or Ed25519.
    pub fn issue_from_csr(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        not_before: WallTime,
        not_after: WallTime,
        serial: Serial,
    ) -> Result<Issued, AuthorityError> {
        let key = public_key_of(csr_der)?;
        self.issue(&key, identity, not_before, not_after, serial)
    }

    /// Makes a key and certifies it as `identity`'s. The second part is the private key in PEM.
    ///
    /// # Errors
    /// As for [`Self::issue_from_csr`], without those of the request.
    pub fn issue_with_new_key(
        &self,
        identity: &Identity,
        not_before: WallTime,
        not_after: WallTime,
        serial: Serial,
    ) -> Result<(Issued, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Crypto)?;
        let issued = self.issue(&key, identity, not_before, not_after, serial)?;
        Ok((issued, key.serialize_pem()))
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        not_before: WallTime,
        not_after: WallTime,
        serial: Serial,
    ) -> Result<Issued, AuthorityError> {
        identity.checked()?;
        let uri = identity.to_string();
        // The common name is for people who print the certificate; nobody decides by it. X.509 cuts
        // it at 64 characters.
        let common_name: String = uri.chars().take(64).collect();
        let mut params = params(&common_name, not_before, not_after, serial)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A controller's certificate is no client's, and the reverse: an agent whose key is stolen
        // cannot pose as the controller, even to software that looks at no name.
        params.extended_key_usages = vec![match identity {
            Identity::Controller => ExtendedKeyUsagePurpose::ServerAuth,
            Identity::Agent { .. } | Identity::Operator { .. } => {
                ExtendedKeyUsagePurpose::ClientAuth
            }
        }];
        let uri = uri.try_into().expect("identities are ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        let certificate = params.signed_by(key, &self.issuer).map_err(AuthorityError::Crypto)?;
        Ok(Issued {
            cert_der: certificate.der().to_vec(),
            serial_hex: serial.to_string(),
            not_before: to_the_second(not_before),
            not_after: to_the_second(not_after),
        })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CertificateAuthority");
        shown.field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// Makes a private key (PEM) and a signing request (DER) for it. The name is for people only.
///
/// # Errors
/// When the operating system has no randomness.
pub fn generate_key_and_csr(common_name: &str) -> Result<(String, Vec<u8>), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Crypto)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(common_name);
    let request = params.serialize_request(&key).map_err(AuthorityError::Crypto)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

fn public_key_of(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, AuthorityError> {
    let refused = |reason: &str| AuthorityError::BadRequest(reason.to_owned());
    if csr_der.len() > REQUEST_LIMIT {
        return Err(refused("it is larger than 8 KiB"));
    }
    let ([], request) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| refused("it cannot be parsed"))?
    else {
        return Err(refused("there are bytes after its end"));
    };
    request.verify_signature().map_err(|_| refused("its signature is wrong"))?;
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| refused("its kind of key is not known"))?;
    let algorithm = key.algorithm();
    let taken = [&PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if !taken.contains(&algorithm) {
        return Err(refused("its key is not ECDSA P-256, ECDSA P-384 or Ed25519"));
    }
    Ok(key)
}

fn params(
    common_name: &str,
    not_before: WallTime,
    not_after: WallTime,
    serial: Serial,
) -> Result<CertificateParams, AuthorityError> {
    let refused = || AuthorityError::BadValidity { not_before, not_after };
    let at = |t: WallTime| {
        OffsetDateTime::from_unix_timestamp(t.unix_ms().div_euclid(1000)).map_err(|_| refused())
    };
    let mut params = CertificateParams::default();
    params.not_before = at(not_before)?;
    params.not_after = at(not_after)?;
    // 1950 to 9999 is what a certificate can say.
    let sayable = |t: OffsetDateTime| (1950..=9999).contains(&t.year());
    if params.not_after < params.not_before
        || !sayable(params.not_before)
        || !sayable(params.not_after)
    {
        return Err(refused());
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.distinguished_name = named(common_name);
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn to_the_second(t: WallTime) -> WallTime {
    WallTime::from_unix_ms(t.unix_ms().div_euclid(1000) * 1000)
}
