//! As much of an HTTP client as the lab needs: one request per connection, over TLS or not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

const LIMIT: Duration = Duration::from_secs(20);

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Http {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Http {
    /// A server without TLS.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// A server whose certificate the authority in `ca` has issued.
    ///
    /// # Errors
    /// When the file holds no certificate.
    pub fn tls(address: SocketAddr, ca: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).context("cannot read the CA")? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, tls: Some(Arc::new(config)) })
    }

    /// Sends a request and returns the answer's body.
    ///
    /// # Errors
    /// When there is no answer, or one that is not a success.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let (status, body) = self.send(method, path, body.as_bytes())?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let about = || format!("{method} {} {path}", self.address);
        ensure!((200..300).contains(&status), "{}: status {status}: {body}", about());
        Ok(body)
    }

    /// Sends a request and returns the answer's status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.send_as(method, path, body, None)
    }

    /// The same, with a bearer token.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send_as(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        token: Option<&str>,
    ) -> Result<(u16, Vec<u8>)> {
        let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let about = || format!("{method} {} {path}", self.address);
        let socket = TcpStream::connect_timeout(&self.address, LIMIT).with_context(about)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             {token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let request = [request.as_bytes(), body].concat();
        let answer = match &self.tls {
            None => exchange(socket, &request),
            Some(config) => {
                let name = ServerName::from(self.address.ip());
                let connection = ClientConnection::new(Arc::clone(config), name)?;
                exchange(StreamOwned::new(connection, socket), &request)
            }
        };
        parse(&answer.with_context(about)?).with_context(about)
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // A server may close without TLS's farewell; the length says whether all is there.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(e) => return Err(e.into()),
    }
    Ok(answer)
}

fn parse(answer: &[u8]) -> Result<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status =
        head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let mut body = answer[end + 4..].to_vec();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
    if head.lines().any(|l| l.starts_with("transfer-encoding:") && l.contains("chunked")) {
        body = unchunked(&body).context("the answer is cut")?;
    } else if let Some(length) = length {
        let length: usize = length;
        if body.len() < length {
            bail!("the answer is cut: {} of {length} bytes", body.len());
        }
    }
    Ok((status, body))
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&body[..line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(body.get(line + 2..line + 2 + size)?);
        body = body.get(line + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(plain).unwrap(), (200, b"{}".to_vec()));
        assert!(parse(&plain[..plain.len() - 1]).is_err());
        let chunked =
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), (404, b"ab".to_vec()));
    }
}
