//! A machine's way in from outside: its SSH server, as far as a probe looks. Whoever connects is told
//! who answers; there is no shell behind it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A machine whose OS disk has this file answers where its public address leads to.
pub const SSH_SERVER: &str = "/usr/sbin/sshd";

const BANNER: &[u8] = b"SSH-2.0-azure_sim\r\n";

/// Until an address that an earlier machine had is free.
const AGAIN: Duration = Duration::from_millis(20);

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Door(AbortHandle);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Door {
    /// Opens one; must be called within a runtime.
    pub(super) fn open(at: SocketAddr) -> Self {
        Self(tokio::spawn(answer(at)).abort_handle())
    }
}

async fn answer(at: SocketAddr) {
    let mut told = false;
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => return greet(listener).await,
            Err(error) if !told => {
                tracing::warn!(%at, %error, "a machine cannot be reached yet");
                told = true;
            }
            Err(_) => {}
        }
        azdr_env::sleep(AGAIN).await;
    }
}

async fn greet(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((caller, _)) => drop(tokio::spawn(say(caller))),
            // Out of descriptors: others will be closed.
            Err(_) => azdr_env::sleep(AGAIN).await,
        }
    }
}

/// A caller that is gone already has no use for it.
async fn say(mut caller: TcpStream) {
    let _gone = caller.write_all(BANNER).await;
    let _gone = caller.shutdown().await;
}
