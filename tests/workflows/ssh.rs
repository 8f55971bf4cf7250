//! SSH of drills' machines, as far as the probe looks: a banner at the address that the next public IP
//! of the world gets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One world's. The public addresses of worlds are on loopback, and those of equal worlds are equal: so
/// each has a port of its own.
pub(crate) struct Ssh {
    /// Nobody else gets the port as long as it is taken here.
    reserved: std::net::TcpListener,
    at: Mutex<Option<(IpAddr, JoinHandle<()>)>>,
}

impl Ssh {
    pub(crate) fn new() -> Self {
        let reserved = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self { reserved, at: Mutex::default() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.reserved.local_addr().unwrap().port()
    }

    /// From now on it answers at this address.
    pub(crate) fn answer_at(&self, address: IpAddr) {
        let listener = std::net::TcpListener::bind((address, self.port())).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"SSH-2.0-Drill\r\n").await;
            }
        });
        *self.at.lock().unwrap() = Some((address, answering));
    }

    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.at.lock().unwrap().as_ref().map(|(address, _)| *address)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if let Some((_, answering)) = self.at.lock().unwrap().take() {
            answering.abort();
        }
    }
}
