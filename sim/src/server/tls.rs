//! The simulator's own certificate authority, in its state directory: `ca.pem` is what clients
//! must trust.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::persistence::{PersistenceError, at};

/// Makes the authority and a server certificate for loopback, unless they exist.
///
/// # Errors
/// The directory cannot be written.
pub fn ensure_certificates(dir: &Path) -> Result<(), PersistenceError> {
    if dir.join("server.key").exists() {
        return Ok(());
    }
    let (ca, server, key) = make().map_err(|e| at(dir)(io::Error::other(e)))?;
    write(&dir.join("ca.pem"), &ca, 0o644)?;
    write(&dir.join("server.pem"), &server, 0o644)?;
    write(&dir.join("server.key"), &key, 0o600)
}

/// Certificate of the authority (whose key is thrown away), of the server, and the server's key.
fn make() -> Result<(String, String, String), rcgen::Error> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "Simulated cloud");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let names = ["localhost", "127.0.0.1", "::1", "management.azure.com"];
    let mut server = CertificateParams::new(names.map(str::to_owned).to_vec())?;
    server.distinguished_name.push(DnType::CommonName, "Simulated cloud, server");
    server.use_authority_key_identifier_extension = true;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let server_pem = server.signed_by(&key, &issuer)?.pem();
    Ok((ca_pem, server_pem, key.serialize_pem()))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PersistenceError> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(mode);
    let mut file = options.open(path).map_err(at(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at(path))
}

/// TLS with the state directory's certificate, HTTP/1.1.
///
/// # Errors
/// The certificate cannot be read or is unusable.
pub fn server_config(dir: &Path) -> Result<Arc<ServerConfig>, PersistenceError> {
    let (chain, key) = (dir.join("server.pem"), dir.join("server.key"));
    let bad = |path: &Path, error: String| at(path)(io::Error::other(error));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&chain)
        .and_then(Iterator::collect)
        .map_err(|e| bad(&chain, e.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|e| bad(&key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, secret))
        .map_err(|e| bad(&key, e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
