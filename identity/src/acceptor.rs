//! Turns a TCP listener into a stream of connections whose handshakes are done.
//!
//! Handshakes run side by side in tasks of their own, each with a time limit: a peer that sends
//! nothing, garbage or a wrong certificate costs one place for at most that long, and is only
//! logged. The stream never yields an error and never ends by itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_stream::Stream;

use crate::server_tls::{ServerTls, TlsConnection};

/// How many connections the kernel keeps for us until we accept them. The default of 128 makes a
/// reconnect storm of thousands of agents take half a minute.
const BACKLOG: u32 = 4096;

/// What one listener bears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptLimits {
    /// Connections at a time; one more is closed at once, and its client tries again. About 45 KiB of
    /// memory and one descriptor each.
    pub max_connections: usize,
    /// Handshakes at a time; more wait in the kernel's backlog.
    pub max_handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for AcceptLimits {
    /// 12,000 connections, 1,024 handshakes of at most 10 s.
    fn default() -> Self {
        Self {
            max_connections: 12_000,
            max_handshakes: 1024,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Binds an address, with a backlog for reconnect storms. Must be called inside a tokio runtime.
///
/// # Errors
/// When the address is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A controller that restarts must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The connections of `listener`, for tonic's `serve_with_incoming` (which then ignores its own TCP
/// options: nodelay is set here).
///
/// Each request's extensions hold the connection's [`crate::PeerInfo`]. Dropping the stream closes
/// the listener and breaks off the handshakes under way. Must be called inside a tokio runtime.
pub fn serve_incoming(listener: TcpListener, tls: ServerTls, limits: AcceptLimits) -> Incoming {
    // A short queue: connections that nobody takes should be felt by the acceptor.
    let (done, connections) = mpsc::channel(64);
    let acceptor = tokio::spawn(accept_all(listener, tls, limits, done));
    Incoming { connections, acceptor }
}

/// See [`serve_incoming`].
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<TlsConnection>,
    acceptor: JoinHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Drops its JoinSet too, and with it every handshake.
        self.acceptor.abort();
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: ServerTls,
    limits: AcceptLimits,
    done: mpsc::Sender<TlsConnection>,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        if handshakes.len() >= limits.max_handshakes {
            handshakes.join_next().await;
            continue;
        }
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a peer that gave up in the queue: neither ends the listener,
                // but the first would spin.
                tracing::warn!(%error, "cannot accept a connection");
                azdr_env::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(%from, limit = limits.max_connections, "too many connections: closed");
            continue;
        };
        handshakes.spawn(handshake(stream, from, tls.clone(), limits, slot, done.clone()));
    }
}

async fn handshake(
    stream: TcpStream,
    from: SocketAddr,
    tls: ServerTls,
    limits: AcceptLimits,
    slot: OwnedSemaphorePermit,
    done: mpsc::Sender<TlsConnection>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%from, %error, "the peer was gone before its handshake");
        return;
    }
    match timeout(limits.handshake_timeout, tls.accept(stream, from)).await {
        // The receiver is gone when the server shuts down: so is the connection then.
        Ok(Ok(connection)) => drop(done.send(connection.holding(slot)).await),
        Ok(Err(error)) => tracing::info!(%from, %error, "TLS handshake failed"),
        Err(_) => tracing::info!(%from, "TLS handshake took too long"),
    }
}
