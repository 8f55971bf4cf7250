//! Opening a file only if nobody but root can have put it there, or can change it (R20).
//!
//! Each component is opened from the directory above it, never through a symbolic link, and looked at
//! through its descriptor. What is returned is what was looked at: a path that is changed afterwards
//! leads somewhere else, the descriptor does not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// What the last component must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// A directory, not writable by others.
    Directory,
    /// A regular file of mode 0700.
    Program,
    /// A regular file that only its owner can read or write.
    Private,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{0} is not there")]
    Missing(PathBuf),
    #[error("cannot open {0}: {1}")]
    Open(PathBuf, io::Error),
    /// The second part says what is wrong, and what is allowed.
    #[error("{0} {1}")]
    Refused(PathBuf, String),
}

/// An absolute path of plain names.
pub(super) fn is_plain(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir)
        && components.all(|part| matches!(part, Component::Normal(_)))
        // `components` drops them silently.
        && !path.to_string_lossy().split('/').any(|part| part == ".")
}

/// Opens a path, component by component.
///
/// # Errors
/// See [`CheckError`]; the path named is that of the component at fault.
pub(super) fn open(path: &Path, want: Want) -> Result<File, CheckError> {
    if !is_plain(path) {
        let why = "must be an absolute path without `.` and `..`".to_owned();
        return Err(CheckError::Refused(path.to_owned(), why));
    }
    let mut at = PathBuf::from("/");
    let mut file = open_at(&at, &at, true)?;
    check(&file, &at, Want::Directory)?;
    let names: Vec<_> = path.components().skip(1).collect();
    for (index, name) in names.iter().enumerate() {
        at.push(name);
        let last = index + 1 == names.len();
        let wanted = if last { want } else { Want::Directory };
        // Not the path as given: the name, in the directory that is open.
        let through = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())).join(name);
        file = open_at(&through, &at, wanted == Want::Directory)?;
        check(&file, &at, wanted)?;
    }
    Ok(file)
}

/// Opens `name` in a directory that [`open`] has opened as `folder`.
///
/// # Errors
/// As [`open`].
pub(super) fn open_in(
    directory: &File,
    folder: &Path,
    name: &str,
    want: Want,
) -> Result<File, CheckError> {
    let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    let at = folder.join(name);
    let file = open_at(&through, &at, want == Want::Directory)?;
    check(&file, &at, want)?;
    Ok(file)
}

fn open_at(path: &Path, name: &Path, directory: bool) -> Result<File, CheckError> {
    // Neither a FIFO nor a device may make this wait.
    let kind = if directory { libc::O_DIRECTORY } else { libc::O_NONBLOCK };
    let flags = kind | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ENOENT) => CheckError::Missing(name.to_owned()),
            Some(libc::ELOOP) => refused(name, "is a symbolic link, which is not followed"),
            // Of a symbolic link, too, where a directory is wanted.
            Some(libc::ENOTDIR) => refused(name, "is not a directory, or is a symbolic link"),
            _ => CheckError::Open(name.to_owned(), error),
        }
    })
}

fn refused(name: &Path, why: impl Into<String>) -> CheckError {
    CheckError::Refused(name.to_owned(), why.into())
}

fn check(file: &File, name: &Path, want: Want) -> Result<(), CheckError> {
    let found = file.metadata().map_err(|error| CheckError::Open(name.to_owned(), error))?;
    let mode = found.mode() & 0o7777;
    if found.uid() != 0 {
        return Err(refused(name, format!("belongs to user {}, must belong to root", found.uid())));
    }
    match want {
        Want::Directory if mode & 0o022 != 0 => Err(refused(
            name,
            format!("has mode {mode:04o}: must not be writable by group or others"),
        )),
        Want::Directory => Ok(()),
        _ if !found.is_file() => Err(refused(name, "is not a regular file")),
        Want::Program if mode != 0o700 => {
            Err(refused(name, format!("has mode {mode:04o}, must have 0700")))
        }
        Want::Private if mode & 0o7177 != 0 => {
            Err(refused(name, format!("has mode {mode:04o}, must have 0600")))
        }
        _ => Ok(()),
    }
}

/// At most `most` bytes from the start.
///
/// # Errors
/// The disk's.
pub(super) fn read_start(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.take(most).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_of_plain_names_are_looked_at() {
        for (path, plain) in [
            ("/etc/azdr/hooks.d", true),
            ("/", true),
            ("etc", false),
            ("/etc/../x", false),
            ("/etc/./x", false),
            ("", false),
        ] {
            assert_eq!(is_plain(Path::new(path)), plain, "{path}");
        }
    }

    #[test]
    fn what_others_may_change_is_refused_by_name() {
        // Everybody may write to /tmp.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let error = open(&folder.path().join("x"), Want::Program).unwrap_err().to_string();
        assert!(error.starts_with("/tmp has mode 1777") && error.contains("writable"), "{error}");
        let missing = open(Path::new("/proc/no-such-file"), Want::Program).unwrap_err();
        assert!(matches!(missing, CheckError::Missing(_)), "{missing}");
        let device = open(Path::new("/dev/null"), Want::Program).unwrap_err().to_string();
        assert_eq!(device, "/dev/null is not a regular file");
        let link = open(Path::new("/proc/self/status"), Want::Private).unwrap_err().to_string();
        assert!(link.contains("/proc/self is not a directory, or is a symbolic link"), "{link}");
    }
}
