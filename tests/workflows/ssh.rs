//! SSH of drills' machines, as far as the probe looks: a banner at the address that the next public IP
//! of the world gets.

use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the first public IP of a world gets. The simulator draws it, on loopback; every world here comes
/// from one seed.
pub(crate) const FIRST_PUBLIC_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 170, 128, 1);

/// One world's: each has a port of its own.
pub(crate) struct Ssh {
    port: u16,
    answering: JoinHandle<()>,
}

impl Ssh {
    /// Answers from now on.
    pub(crate) fn new() -> Self {
        let listener = std::net::TcpListener::bind((FIRST_PUBLIC_ADDRESS, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-Drill\r\n").await;
            }
        });
        Self { port, answering }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.answering.abort();
    }
}
