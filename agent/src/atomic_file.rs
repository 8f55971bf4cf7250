//! Writing a file so that after a crash either the old or the new content is there, whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `folder/name` by `content`: temporary file, fsync, rename, fsync of the folder. The file
/// is private to its owner. Runs after each other for one name only: the temporary file's name is
/// fixed, so that a crash leaves at most one behind.
///
/// # Errors
/// The old content is still there, unless the last fsync failed.
pub fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private_also_after_an_interrupted_write() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "file", b"old and longer").unwrap();
        fs::write(folder.path().join("file.new"), b"half").unwrap();
        write(folder.path(), "file", b"new").unwrap();
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"new");
        assert_eq!(fs::metadata(folder.path().join("file")).unwrap().mode() & 0o777, 0o600);
        assert!(!folder.path().join("file.new").exists());
    }

    #[test]
    fn a_planted_symlink_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        fs::write(&target, b"mine").unwrap();
        symlink(&target, folder.path().join("file.new")).unwrap();
        symlink(&target, folder.path().join("file")).unwrap();
        write(folder.path(), "file", b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"new");
    }
}
