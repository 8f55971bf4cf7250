//! What a client of the controller holds: its key, its certificate, and the authority it trusts.

use std::fmt;
use std::path::Path;

use azdr_env::WallTime;

use crate::certificate::{
    PeerCertificate, certificate_to_pem, certificates_from_pem, key_from_pem,
};

/// A key, its certificate chain, and the one authority that its holder trusts.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The private key in PEM: a secret.
    pub key_pem: String,
    /// The holder's certificate, followed by intermediates if there are any.
    pub chain_der: Vec<Vec<u8>>,
    /// The authority's certificate.
    pub ca_der: Vec<u8>,
}

/// A client identity that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the {what} cannot be used: {reason}")]
pub struct BadIdentity {
    what: String,
    reason: String,
}

impl ClientIdentity {
    /// From three PEM texts.
    ///
    /// # Errors
    /// Names the text that cannot be read; never quotes a key.
    pub fn from_pem(key_pem: &str, chain_pem: &str, ca_pem: &str) -> Result<Self, BadIdentity> {
        key_from_pem(key_pem).map_err(|e| bad("key", e))?;
        let chain_der = certificates_from_pem(chain_pem).map_err(|e| bad("certificate", e))?;
        let ca_der = certificates_from_pem(ca_pem).map_err(|e| bad("CA certificate", e))?.remove(0);
        Ok(Self { key_pem: key_pem.to_owned(), chain_der, ca_der })
    }

    /// From three PEM files.
    ///
    /// # Errors
    /// Names the file that cannot be read or parsed.
    pub fn load(key: &Path, certificate: &Path, ca: &Path) -> Result<Self, BadIdentity> {
        let read = |what: &str, path: &Path| {
            std::fs::read_to_string(path).map_err(|e| bad(&format!("{what} {}", path.display()), e))
        };
        let key_pem = read("key file", key)?;
        let chain_pem = read("certificate file", certificate)?;
        let ca_pem = read("CA certificate file", ca)?;
        Self::from_pem(&key_pem, &chain_pem, &ca_pem)
    }

    /// The chain in PEM, the holder's certificate first.
    pub fn chain_pem(&self) -> String {
        self.chain_der.iter().map(|der| certificate_to_pem(der)).collect()
    }

    /// The authority's certificate in PEM.
    pub fn ca_pem(&self) -> String {
        certificate_to_pem(&self.ca_der)
    }

    /// What the holder's own certificate says; `now` decides about `expired`.
    ///
    /// # Errors
    /// When there is no certificate, or it is not one of azdr's.
    pub fn certificate(&self, now: WallTime) -> Result<PeerCertificate, BadIdentity> {
        let der = self.chain_der.first().ok_or_else(|| bad("certificate", "there is none"))?;
        PeerCertificate::from_der(der, now).map_err(|e| bad("certificate", e))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ClientIdentity");
        if let Some(der) = self.chain_der.first() {
            shown.field("fingerprint", &crate::fingerprint(der));
        }
        shown.finish_non_exhaustive()
    }
}

fn bad(what: &str, reason: impl fmt::Display) -> BadIdentity {
    BadIdentity { what: what.to_owned(), reason: reason.to_string() }
}
