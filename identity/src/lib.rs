//! Certificates, identities, pinning, the seal of witnesses, fingerprints of SSH host keys, and the TLS
//! acceptor and connector that the three binaries share.
//!
//! The certificate *is* the identity: a URI subject alternative name says who its holder is
//! ([`Identity`]), and nothing in a message body can claim another. The controller owns a small
//! [`CertificateAuthority`]; servers learn of their client what [`PeerCertificate`] holds; clients
//! trust exactly one authority, either by its certificate ([`connect_mutual`]) or, before they have
//! one, by its fingerprint ([`connect_pinned`]).
//!
//! Of the messages it knows the witness, which writer and reader must hash alike. It must not know any
//! gRPC service, who may call what, or which certificates are revoked: handlers decide that from the
//! [`PeerInfo`] in their request's extensions.
//!
//! Invariants:
//! - TLS 1.3 only, ring only, and never the process-wide default provider (a second provider in the
//!   dependency graph would make that panic at run time).
//! - No session resumption and no tickets: resumption skips certificate checks.
//! - A certificate has exactly one URI name, and it is one of ours, or it is no identity.
//! - Of a signing request only the public key is used, after its signature was checked.
//! - One bad peer never stops or delays the acceptor.

mod acceptor;
mod authority;
mod certificate;
mod client_identity;
mod connector;
mod identity;
mod provider;
mod server_tls;
mod ssh_host_key;
mod verifier;
mod witness_seal;

pub use acceptor::{AcceptLimits, Incoming, listen, serve_incoming};
pub use authority::{AuthorityError, CertificateAuthority, Issued, Serial, generate_key_and_csr};
pub use certificate::{BadCertificate, PeerCertificate, certificate_to_pem, fingerprint};
pub use client_identity::{BadIdentity, ClientIdentity};
pub use connector::{
    ConnectError, ConnectOptions, connect_error, connect_mutual, connect_mutual_over,
    connect_mutual_with, connect_pinned, connect_pinned_with,
};
pub use identity::{BadName, Identity, vm_hash};
pub use server_tls::{ClientAuth, PeerInfo, ServerTls, TlsConnection, TlsSetupError};
pub use ssh_host_key::{is_ssh_fingerprint, ssh_fingerprint};
pub use witness_seal::{WitnessClaims, WitnessKey};

#[cfg(test)]
mod tests;
