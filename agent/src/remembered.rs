//! What a session begins with, kept from the last time when nothing was under way.
//!
//! A session that is lost while file systems are frozen is opened again in the window, so that the
//! controller's Thaw arrives. Reading a file, asking the metadata service, resolving a name or opening a
//! root may then wait for what is frozen (N8): so the values of before are used again.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use azdr_proto::agent::{QuiesceState, Witness};
use tokio::net::TcpStream;

use crate::identity_store::StoredIdentity;
use crate::quiesce::Quiesce;
use crate::vm_id::VmId;

/// Each is `None` until it was known once.
#[derive(Debug, Default)]
struct Known {
    who: Option<(StoredIdentity, VmId)>,
    controller: Option<SocketAddr>,
    witnesses: Option<Vec<Witness>>,
    ssh_host_keys: Option<Vec<String>>,
}

/// In memory only: it is gone with the process.
#[derive(Debug)]
pub(crate) struct Remembered {
    quiesce: Quiesce,
    known: Mutex<Known>,
}

impl Remembered {
    pub(crate) fn new(quiesce: &Quiesce) -> Self {
        Self { quiesce: quiesce.clone(), known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While something is under way: what was known before. An agent that was started in the middle of
    /// something knows nothing; what its predecessor froze is thawed.
    fn of_before<T>(&self, pick: impl FnOnce(&Known) -> Option<T>) -> Option<T> {
        let busy = self.quiesce.state() != QuiesceState::Idle;
        busy.then(|| pick(&self.lock())).flatten()
    }

    /// This machine's identity and vmId: from before, or as `read` finds them.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) async fn who<E>(
        &self,
        read: impl Future<Output = Result<(StoredIdentity, VmId), E>>,
    ) -> Result<(StoredIdentity, VmId), E> {
        if let Some(known) = self.of_before(|known| known.who.clone()) {
            return Ok(known);
        }
        let found = read.await?;
        self.lock().who = Some(found.clone());
        Ok(found)
    }

    /// There is another identity on the disk now.
    pub(crate) fn forget_identity(&self) {
        self.lock().who = None;
    }

    /// The witnesses on this machine's file systems: from before, or as `look` finds them.
    pub(crate) async fn witnesses(&self, look: impl Future<Output = Vec<Witness>>) -> Vec<Witness> {
        if let Some(known) = self.of_before(|known| known.witnesses.clone()) {
            return known;
        }
        let found = look.await;
        self.lock().witnesses = Some(found.clone());
        found
    }

    /// The machine's SSH host keys, likewise.
    pub(crate) async fn ssh_host_keys(
        &self,
        look: impl Future<Output = Vec<String>>,
    ) -> Vec<String> {
        if let Some(known) = self.of_before(|known| known.ssh_host_keys.clone()) {
            return known;
        }
        let found = look.await;
        self.lock().ssh_host_keys = Some(found.clone());
        found
    }

    /// Connects to the controller at `name` (host:port), or to the address where it was last reached.
    ///
    /// # Errors
    /// The network's, or of the resolution of the name.
    pub(crate) async fn dial(&self, name: &str) -> io::Result<TcpStream> {
        let tcp = match self.of_before(|known| known.controller) {
            Some(address) => TcpStream::connect(address).await?,
            None => TcpStream::connect(name).await?,
        };
        tcp.set_nodelay(true)?;
        self.lock().controller = Some(tcp.peer_addr()?);
        Ok(tcp)
    }
}
