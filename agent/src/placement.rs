//! Nothing that this agent needs while file systems are frozen lies on one of them (N12).
//!
//! The identity does (`state_dir`, on most machines on the root file system): it is read before, and
//! written only while nothing is frozen.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::mounts::{Device, device_of};
use crate::namespaces::read_mounts;
use crate::survey::{Scope, devices_now};

/// What lies on a file system that would be frozen, in words, and how to mend it. Empty as well when it
/// cannot be told what would be frozen: then nothing is.
pub fn misplaced(scope: &Scope, config: &Config) -> Vec<String> {
    let (Ok(mounts), Ok(frozen)) = (read_mounts(&scope.roots.proc), devices_now(scope)) else {
        return Vec::new();
    };
    let on_frozen = |path: &Path| -> Option<Device> {
        device_of(path, &mounts).filter(|device| frozen.contains(device))
    };
    let mut found = Vec::new();
    let socket = &config.thawd_socket;
    if on_frozen(&resolved(socket)).is_some() {
        found.push(format!(
            "field `thawd_socket`: {} is on a file system that a freeze covers; it must be on one that \
             is not, such as /run",
            socket.display()
        ));
    }
    let streams = [("standard error", 2), ("standard output", 1)];
    for (name, descriptor) in streams {
        let path = fs::read_link(scope.roots.proc.join(format!("self/fd/{descriptor}")));
        let file = path.ok().filter(|path| fs::metadata(path).is_ok_and(|file| file.is_file()));
        if let Some(path) = file.filter(|path| on_frozen(path).is_some()) {
            found.push(format!(
                "{name} goes to {}, on a file system that a freeze covers; it must go to the journal, or \
                 to a file system that is not covered",
                path.display()
            ));
        }
    }
    found
}

/// The path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let (folder, name) = (path.parent(), path.file_name());
    match (folder.and_then(|folder| fs::canonicalize(folder).ok()), name) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}
