//! Certificates, identities and TLS.
