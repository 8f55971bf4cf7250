//! Whether file systems came or went while others were held: a snapshot may then show one that was
//! not frozen. Other changes of the mount table do not matter: container hosts mount all the time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::kernel;
use crate::mounts::Device;
use crate::survey::{Scope, devices_now};

/// Notices every change of the mount table since it was made.
#[derive(Debug)]
pub(crate) struct MountWatch {
    table: AsyncFd<File>,
    scope: Scope,
}

impl MountWatch {
    /// Begins to watch; `scope` as configured.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub(crate) fn start(scope: Scope) -> io::Result<Self> {
        let table = kernel::watch_for_changes(File::open("/proc/self/mountinfo")?)?;
        Ok(Self { table, scope })
    }

    /// Waits until other file systems than `before` are there, and says which.
    pub(crate) async fn change(&self, before: &BTreeSet<Device>) -> String {
        loop {
            match self.table.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends. What is there in the end is looked at in any case.
                Err(_) => std::future::pending().await,
            }
            if let Some(change) = self.change_since(before) {
                return change;
            }
        }
    }

    /// How what is there now differs from `before`, in words.
    pub(crate) fn change_since(&self, before: &BTreeSet<Device>) -> Option<String> {
        match devices_now(&self.scope) {
            Ok(now) if now == *before => None,
            Ok(now) => {
                let changed = before.symmetric_difference(&now).map(Device::to_string);
                let changed = changed.collect::<Vec<_>>().join(", ");
                Some(format!("mounted or unmounted meanwhile: {changed}"))
            }
            Err(error) => Some(format!("changed meanwhile: {}", crate::chain(&error))),
        }
    }
}
