//! A network cable between an agent and its controller, which can be pulled out.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::lab::free_address;

/// Passes on whatever comes, unless it is out. Dropping it ends what passes.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    is_in: bool,
    gone: bool,
    /// Both ends of every connection there has been since it was put in.
    streams: Vec<TcpStream>,
}

impl Cable {
    /// A cable that leads to `target`, and is in.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let address = free_address()?;
        let listener = TcpListener::bind(address).context("no port for the cable")?;
        let state = Arc::new(Mutex::new(State { is_in: true, gone: false, streams: Vec::new() }));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if lock(&shared).gone {
                    return;
                }
                // One that cannot be led on is closed, as by a network without a way.
                let _ = client.and_then(|client| lead_on(client, target, &shared));
            }
        });
        Ok(Self { address, state })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more, and whoever is connected learns it at once.
    pub fn pull_out(&self) {
        let mut state = lock(&self.state);
        state.is_in = false;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// New connections get through again.
    pub fn put_in(&self) {
        lock(&self.state).is_in = true;
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        lock(&self.state).gone = true;
        self.pull_out();
        // The thread that waits for the next connection sees that there is none to wait for.
        let _ = TcpStream::connect(self.address);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lead_on(client: TcpStream, target: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let mut state = lock(state);
    if !state.is_in {
        return Ok(());
    }
    state.streams.extend([client.try_clone()?, server.try_clone()?]);
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || pass(from, to));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // However one direction ends, its end is passed on.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn nothing_passes_while_it_is_out() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let cable = Cable::to(server.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(cable.address()).unwrap();
        client.write_all(b"a").unwrap();
        let (mut served, _) = server.accept().unwrap();
        let mut byte = [0];
        served.read_exact(&mut byte).unwrap();
        served.write_all(&[byte[0] + 1]).unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        cable.pull_out();
        let ended = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Ok(0) | Err(_));
        assert!(ended(&mut client) && ended(&mut served));
        let mut refused = TcpStream::connect(cable.address()).unwrap();
        assert!(ended(&mut refused));
        cable.put_in();
        let mut again = TcpStream::connect(cable.address()).unwrap();
        again.write_all(b"c").unwrap();
        let (mut served, _) = server.accept().unwrap();
        // The refused one may have reached the server before it was closed.
        while served.read(&mut byte).unwrap_or(0) == 0 {
            served = server.accept().unwrap().0;
        }
        assert_eq!(&byte, b"c");
    }
}
