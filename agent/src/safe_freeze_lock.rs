//! The lock that Azure Backup and Site Recovery hold while they freeze: held around our freeze, since
//! their freezer thaws whatever it finds frozen (R15).
//!
//! The file is made and removed as they do it, so that a version of theirs which makes the folder anew
//! each time is not shut out. Since whoever lets go removes the file, a lock counts only when the path
//! still leads to the file that is locked. The lock is an open file description's: no other part of this
//! process can lose it, and it ends with the process, as does the freeze.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Agent;
use crate::kernel;

/// Where Azure's extensions have it.
pub const DEFAULT_LOCK: &str = "/etc/azure/MicrosoftRecoverySvcsSafeFreezeLock/SafeFreezeLockFile";
/// For so long it is waited for; then the freeze is postponed.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The lock, held. Dropping it removes the file and lets go, on a thread of its own, since that writes to
/// a disk: to be dropped only when nothing is frozen.
#[derive(Debug)]
pub struct SafeFreezeLock {
    path: PathBuf,
    file: Option<File>,
}

/// Takes the lock, waiting 5 s for it.
///
/// # Errors
/// In words for an operator; nothing must be frozen.
pub async fn take(agent: &Agent) -> Result<SafeFreezeLock, String> {
    let path = &agent.config.safe_freeze_lock;
    let start = agent.env.clock.monotonic();
    loop {
        let attempt = path.clone();
        let attempt = move || try_take(&attempt);
        let taken = agent.blocking.run("taking of Azure Backup's lock", PATIENCE, attempt).await;
        match taken.map_err(|stuck| stuck.to_string())? {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if agent.env.clock.monotonic().since(start) < PATIENCE => {}
            Ok(None) => {
                return Err(format!(
                    "postponed: Azure Backup or Site Recovery is freezing (somebody has held {} for \
                     5 s)",
                    path.display()
                ));
            }
            Err(error) => {
                return Err(format!(
                    "postponed: Azure Backup's lock {} cannot be taken: {error}",
                    path.display()
                ));
            }
        }
        azdr_env::sleep(PAUSE).await;
    }
}

/// Takes the lock if it can be had now. `None`: somebody else has it, or it changed hands just now.
///
/// # Errors
/// The file cannot be made or opened, or is a link.
pub fn try_take(path: &Path) -> io::Result<Option<SafeFreezeLock>> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path);
    let file = match opened {
        // Its folder was removed after we made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !kernel::lock_whole_file(&file)? {
        return Ok(None);
    }
    let (held, there) = (file.metadata()?, fs::symlink_metadata(path));
    let same = there.is_ok_and(|t| (t.dev(), t.ino()) == (held.dev(), held.ino()));
    let good = same && held.nlink() == 1;
    Ok(good.then(|| SafeFreezeLock { path: path.to_owned(), file: Some(file) }))
}

impl Drop for SafeFreezeLock {
    fn drop(&mut self) {
        let (path, file) = (std::mem::take(&mut self.path), self.file.take());
        let release = move || {
            if let Some(file) = file {
                release(&path, file);
            }
        };
        // Without a thread to be had the file stays behind, and nobody holds it.
        let _ = std::thread::Builder::new().name("freeze lock".to_owned()).spawn(release);
    }
}

fn release(path: &Path, held: File) {
    // Whoever opened the file before finds that it is gone.
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, "the freeze lock {} stays behind", path.display());
    }
    // Not when there is anything else in it.
    path.parent().map(fs::remove_dir);
    drop(held);
}

/// Whether somebody holds the lock now, without changing anything.
pub fn is_held(path: &Path) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    file.is_ok_and(|file| kernel::is_locked(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_by_one_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("azure/lock/SafeFreezeLockFile");
        assert!(!is_held(&path));
        let mut lock = try_take(&path).unwrap().unwrap();
        assert!(is_held(&path));
        assert!(try_take(&path).unwrap().is_none());
        release(&path, lock.file.take().unwrap());
        assert!(!path.parent().unwrap().exists());
        assert!(folder.path().join("azure").exists());
        // As when the process ends: the file stays and nobody holds it.
        let mut lock = try_take(&path).unwrap().unwrap();
        drop(lock.file.take());
        assert!(path.exists() && !is_held(&path));
        assert!(try_take(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_worth_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("SafeFreezeLockFile");
        let other = File::create(&path).unwrap();
        assert!(kernel::lock_whole_file(&other).unwrap());
        fs::remove_file(&path).unwrap();
        let ours = try_take(&path).unwrap().unwrap();
        // Azure's way to let go, while we hold it: what we hold is gone, and the next one is new.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(
            try_take(&path).unwrap().is_some(),
            "the path leads to a file that nobody has locked"
        );
        drop((ours, other));
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, path) = (folder.path().join("target"), folder.path().join("lock"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(try_take(&path).is_err());
        assert!(!target.exists());
    }
}
