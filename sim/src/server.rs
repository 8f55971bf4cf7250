//! The simulator on sockets: ARM over TLS, metadata over plain HTTP.
//!
//! HTTP/1.1 only. A response with a [`Dropped`] extension closes its connection; `/_sim` is
//! answered to loopback peers only.

pub mod tls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{Dropped, FileBody, Simulator};

type OutBody = UnsyncBoxBody<Bytes, io::Error>;

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Arm,
    Metadata,
}

/// Answers ARM requests on `listener`, over TLS, until dropped.
pub async fn serve_arm(simulator: Simulator, listener: TcpListener, tls: Arc<ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Some((socket, peer)) = accept(&listener, &mut connections).await else { continue };
        let (simulator, acceptor) = (simulator.clone(), acceptor.clone());
        connections.spawn(async move {
            match acceptor.accept(socket).await {
                Ok(stream) => serve(simulator, stream, peer, Door::Arm).await,
                Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            }
        });
    }
}

/// Answers metadata requests on `listener`, until dropped.
pub async fn serve_metadata(simulator: Simulator, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Some((socket, peer)) = accept(&listener, &mut connections).await else { continue };
        connections.spawn(serve(simulator.clone(), socket, peer, Door::Metadata));
    }
}

/// The next connection; meanwhile, ended ones are forgotten.
async fn accept(
    listener: &TcpListener,
    connections: &mut tokio::task::JoinSet<()>,
) -> Option<(tokio::net::TcpStream, SocketAddr)> {
    while connections.try_join_next().is_some() {}
    match listener.accept().await {
        Ok((socket, peer)) => {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%peer, %error, "cannot disable Nagle's algorithm");
            }
            Some((socket, peer))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            azdr_env::sleep(std::time::Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    simulator: Simulator,
    stream: S,
    peer: SocketAddr,
    door: Door,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let simulator = simulator.clone();
        async move { answer(&simulator, request, peer, door).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // Idle connections stay: closing one while its client sends looks like a lost answer.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn answer(
    simulator: &Simulator,
    request: Request<Incoming>,
    peer: SocketAddr,
    door: Door,
) -> Result<Response<OutBody>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let admin = parts.uri.path().starts_with("/_sim");
    if admin && !peer.ip().is_loopback() {
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let request = Request::from_parts(parts, body);
    let response = match door {
        Door::Arm => simulator.handle(request).await,
        Door::Metadata => simulator.handle_metadata(request).await,
    };
    let (mut parts, body) = response.into_parts();
    if parts.extensions.remove::<Dropped>().is_some() {
        return Err(io::Error::other("dropped by the fault plan"));
    }
    let body = match parts.extensions.remove::<FileBody>() {
        Some(file) => file_body(file).await?,
        None => full(body),
    };
    Ok(Response::from_parts(parts, body))
}

fn full(bytes: Bytes) -> OutBody {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Streams a part of a file.
async fn file_body(part: FileBody) -> io::Result<OutBody> {
    let mut file = tokio::fs::File::open(&part.path).await?;
    file.seek(io::SeekFrom::Start(part.offset)).await?;
    let start = (file, part.length, Some(part.then));
    let frames = stream::try_unfold(start, |(mut file, left, then)| async move {
        if left == 0 {
            let last = then.filter(|bytes| !bytes.is_empty());
            return Ok(last.map(|bytes| (Frame::data(bytes), (file, 0, None))));
        }
        let mut buffer = vec![0; usize::try_from(left.min(1 << 20)).map_err(io::Error::other)?];
        file.read_exact(&mut buffer).await?;
        let left = left - buffer.len() as u64;
        Ok::<_, io::Error>(Some((Frame::data(Bytes::from(buffer)), (file, left, then))))
    });
    Ok(StreamBody::new(frames).boxed_unsync())
}
