//! Azure's instance metadata service, for an agent that runs on this machine instead of in a guest:
//! it says which VM this machine is to be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

/// A metadata service on loopback that answers until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    address: SocketAddr,
}

impl Metadata {
    /// Starts one that says this vmId.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn of(vm_id: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let address = listener.local_addr()?;
        let body = format!("{{\"vmId\": \"{vm_id}\"}}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                // Whoever asks and does not wait for the answer is not served.
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Ok(Self { address })
    }

    /// What the agent's configuration calls `instance_metadata_url`.
    pub fn url(self) -> String {
        format!("http://{}", self.address)
    }
}
