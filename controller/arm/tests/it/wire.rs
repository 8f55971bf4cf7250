//! Real sockets and real TLS: trust, lost answers, and what the HTTP stack logs.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_arm::{ArmClient, ArmConfig, CredentialConfig, ErrorClass, PollPace, Secret};
use azdr_domain::ArmId;
use azdr_env::Env;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use tracing_subscriber::fmt::MakeWriter;

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Name and test.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_configured_authority_is_trusted_for_tokens_and_requests", || Box::pin(trusted())),
    ("an_unknown_authority_is_not_trusted_and_nothing_was_sent", || Box::pin(untrusted())),
    ("a_closed_port_is_unavailable", || Box::pin(closed())),
    ("a_connection_that_ends_without_an_answer_leaves_the_outcome_unknown", || Box::pin(dropped())),
    ("an_answer_that_is_too_late_leaves_the_outcome_unknown", || Box::pin(late())),
    ("redirects_are_not_followed", || Box::pin(redirected())),
    ("an_endpoint_without_tls_is_refused", || Box::pin(plain())),
    ("the_http_stack_logs_no_token", || Box::pin(logged())),
];

/// What the server does with a request that is not for a token.
#[derive(Clone, Copy)]
enum Answer {
    Text(&'static str),
    Close,
    Nothing,
}

const VM: &str = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"name\":\"vm1\"}";
const TOKEN: &str = "{\"token_type\":\"Bearer\",\"expires_in\":3600,\"ext_expires_in\":3600,\
                     \"access_token\":\"TOPSECRET-TOKEN\"}";

/// Serves on a loopback port until the runtime ends; returns the port and the authority's PEM.
async fn serve(answer: Answer) -> (u16, String) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(acceptor.clone(), stream, answer));
        }
    });
    (port, ca.pem())
}

async fn converse(acceptor: TlsAcceptor, stream: TcpStream, answer: Answer) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => read.extend_from_slice(&chunk[..n]),
            _ => return,
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        read.clear();
        let reply = if head.contains("/oauth2/v2.0/token") {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{TOKEN}", TOKEN.len())
        } else {
            match answer {
                Answer::Text(text) => text.to_owned(),
                Answer::Close => return,
                Answer::Nothing => return std::future::pending().await,
            }
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn config(port: u16, ca: Option<String>) -> ArmConfig {
    let url: url::Url = format!("https://127.0.0.1:{port}").parse().unwrap();
    ArmConfig {
        endpoint: url.clone(),
        authority: Some(url),
        ca_certificate_pem: ca.map(String::into_bytes),
        request_timeout: Duration::from_secs(10),
        pace: PollPace::quick(),
        ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
            tenant_id: "tenant".to_owned(),
            client_id: "client".to_owned(),
            client_secret: Secret::new("TOPSECRET-PASSWORD"),
        })
    }
}

fn vm() -> ArmId {
    ArmId::virtual_machine("00000000-0000-0000-0000-000000000001", "g", "vm1").unwrap()
}

async fn trusted() {
    let (port, ca) = serve(Answer::Text(VM)).await;
    let client = ArmClient::new(config(port, Some(ca)), Env::system()).unwrap();
    assert_eq!(client.get_vm(&vm()).await.unwrap().name.as_deref(), Some("vm1"));
}

async fn untrusted() {
    let (port, _) = serve(Answer::Text(VM)).await;
    let (_, another_ca) = serve(Answer::Close).await;
    let client = ArmClient::new(config(port, Some(another_ca)), Env::system()).unwrap();
    let error = client.begin_delete_vm(&vm()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");
}

async fn closed() {
    let (_, ca) = serve(Answer::Close).await;
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let client = ArmClient::new(config(port, Some(ca)), Env::system()).unwrap();
    let error = client.begin_delete_vm(&vm()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
}

async fn dropped() {
    let (port, ca) = serve(Answer::Close).await;
    let client = ArmClient::new(config(port, Some(ca)), Env::system()).unwrap();
    let error = client.begin_delete_vm(&vm()).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::OutcomeUnknown, "AnswerLost"));
    assert_eq!(client.get_vm(&vm()).await.unwrap_err().class, ErrorClass::Unavailable);
}

async fn late() {
    let (port, ca) = serve(Answer::Nothing).await;
    let request_timeout = Duration::from_millis(300);
    let config = ArmConfig { request_timeout, ..config(port, Some(ca)) };
    let client = ArmClient::new(config, Env::system()).unwrap();
    let error = client.begin_start(&vm()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::OutcomeUnknown);
}

async fn redirected() {
    let (port, ca) = serve(Answer::Text(
        "HTTP/1.1 307 T\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n",
    ))
    .await;
    let client = ArmClient::new(config(port, Some(ca)), Env::system()).unwrap();
    let error = client.get_vm(&vm()).await.unwrap_err();
    assert_eq!(error.http_status, Some(307));
}

async fn plain() {
    let mut config = config(1, None);
    config.endpoint = "http://127.0.0.1:1".parse().unwrap();
    let error = ArmClient::new(config, Env::system()).unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Invalid, "InvalidEndpoint"));
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn logged() {
    let log = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (port, ca) = serve(Answer::Text(VM)).await;
    let client = ArmClient::new(config(port, Some(ca)), Env::system()).unwrap();
    client.get_vm(&vm()).await.unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("hyper"), "the capture works: {log}");
    assert!(!log.contains("TOPSECRET"), "{log}");
}
