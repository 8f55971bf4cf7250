//! Files that appear whole or not at all, and are never overwritten.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Creates a folder (and its parents) that only we can enter, or leaves one that exists as it is.
///
/// # Errors
/// When it cannot be made, or something else has its name.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a new file with these permissions. It is on the disk when this returns.
///
/// # Errors
/// `AlreadyExists` when there is one already, which is left alone.
pub(super) fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = folder_of(path);
    let draft = draft_of(path)?;
    // What an earlier, killed attempt left behind is nobody's.
    remove_if_present(&draft)?;
    let written = write_synced(&draft, content, mode)
        // A link, unlike a rename, never replaces what is there.
        .and_then(|()| std::fs::hard_link(&draft, path));
    remove_if_present(&draft)?;
    written?;
    sync_dir(&folder)
}

/// Writes a file in a folder that nobody else sees yet.
///
/// # Errors
/// When there is one already or the disk does not take it.
pub(super) fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode above is cut by the process's mask, which is not ours to set.
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// The hidden name under which something is written before it appears.
///
/// # Errors
/// When the path names no file.
pub(super) fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.draft")))
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes new and renamed entries of a folder survive power loss.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_overwritten_and_a_left_draft_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(draft_of(&path).unwrap(), "half").unwrap();
        write_new(&path, b"whole", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = write_new(&path, b"other", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
