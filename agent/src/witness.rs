//! The witness: a small file on every file system, written just before the freeze. A machine that
//! shows it was made from that recovery point.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use azdr_proto::agent::Witness;
use serde::{Deserialize, Serialize};

use crate::{atomic_file, kernel};

/// Our directory at the root of each file system.
const FOLDER: &str = ".azdr";
const FILE: &str = "witness";
const FORMAT: u32 = 1;
/// A longer file is not one of ours.
const MAX_LEN: u64 = 64 * 1024;
/// How many a message carries.
pub const MAX_WITNESSES: usize = 64;

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    mount_point: String,
    operation_id: String,
    recovery_point: String,
    nonce: String,
    written_at_unix_ms: i64,
    file_system_uuid: String,
}

/// Where the witness is, below the root of a file system.
pub const PLACE: &str = ".azdr/witness";

/// The witness as the file's content.
///
/// # Errors
/// Never, as far as known: the format takes any text.
pub fn encode(witness: &Witness) -> io::Result<Vec<u8>> {
    let on_disk = OnDisk {
        format: FORMAT,
        mount_point: witness.mount_point.clone(),
        operation_id: witness.operation_id.clone(),
        recovery_point: witness.recovery_point.clone(),
        nonce: witness.nonce.clone(),
        written_at_unix_ms: witness.written_at_unix_ms,
        file_system_uuid: witness.file_system_uuid.clone(),
    };
    Ok(serde_json::to_vec(&on_disk)?)
}

/// Reads a file's content, found now at `mount_point`.
///
/// # Errors
/// It is not a witness, or of a format that is not known.
pub fn decode(text: &[u8], mount_point: &str) -> io::Result<Witness> {
    let found: OnDisk = serde_json::from_slice(text)?;
    if found.format != FORMAT {
        return Err(io::Error::other(format!("witness format {} is not known", found.format)));
    }
    Ok(Witness {
        mount_point: mount_point.to_owned(),
        operation_id: found.operation_id,
        recovery_point: found.recovery_point,
        nonce: found.nonce,
        written_at_unix_ms: found.written_at_unix_ms,
        file_system_uuid: found.file_system_uuid,
    })
}

/// Writes the witness to the file system whose root is `root`, durably. `witness` says everything
/// but the file system's UUID, which is returned with it.
///
/// # Errors
/// The disk's; or our directory there belongs to somebody else.
pub fn write(root: BorrowedFd<'_>, witness: Witness) -> io::Result<Witness> {
    let uuid = kernel::file_system_uuid(root).unwrap_or_default();
    let witness = Witness { file_system_uuid: uuid, ..witness };
    let folder = open_folder(root, true)?;
    atomic_file::write(&path_of(folder.as_fd()), FILE, &encode(&witness)?)?;
    Ok(witness)
}

/// Reads the witness of the file system whose root is `root`, as found now at `mount_point`.
///
/// # Errors
/// `NotFound`: there is none. Others: the disk's, or what is there is not a witness.
pub fn read(root: BorrowedFd<'_>, mount_point: &Path) -> io::Result<Witness> {
    let folder = open_folder(root, false)?;
    let mut text = Vec::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path_of(folder.as_fd()).join(FILE))?
        .take(MAX_LEN)
        .read_to_end(&mut text)?;
    decode(&text, &mount_point.to_string_lossy())
}

/// Creates, syncs, renames and removes a file in our directory: the file system takes writes.
///
/// # Errors
/// The disk's.
pub fn try_write(root: BorrowedFd<'_>) -> io::Result<()> {
    let folder = open_folder(root, true)?;
    let path = path_of(folder.as_fd());
    atomic_file::write(&path, "probe", b"probe")?;
    fs::remove_file(path.join("probe"))
}

/// Opens our directory. A root that everybody may write to (/tmp) could hold a directory or a
/// symlink planted by somebody else: only one of our own user's that nobody else can write to will
/// do, and it is reached through the root's descriptor, whatever is mounted over its path meanwhile.
fn open_folder(root: BorrowedFd<'_>, create: bool) -> io::Result<File> {
    let path = path_of(root).join(FOLDER);
    if create {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(&path)?;
    let (found, us) = (folder.metadata()?, fs::metadata("/proc/self")?.uid());
    if found.uid() != us || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("{FOLDER} there belongs to somebody else")));
    }
    Ok(folder)
}

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn witness(operation: &str) -> Witness {
        Witness {
            mount_point: "/data".to_owned(),
            operation_id: operation.to_owned(),
            recovery_point: "vm-backup-daily-20260101-0000".to_owned(),
            nonce: "ab".repeat(32),
            written_at_unix_ms: 1_764_576_000_000,
            file_system_uuid: String::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_newest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        assert_eq!(
            read(root.as_fd(), Path::new("/data")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        write(root.as_fd(), witness("op-1")).unwrap();
        let written = write(root.as_fd(), witness("op-2")).unwrap();
        let found = read(root.as_fd(), Path::new("/elsewhere")).unwrap();
        assert_eq!(found, Witness { mount_point: "/elsewhere".to_owned(), ..written });
        let file = fs::metadata(folder.path().join(".azdr/witness")).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
        try_write(root.as_fd()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path().join(".azdr")).unwrap().collect();
        assert_eq!(left.len(), 1, "only the witness stays");
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_witness() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let old = write(root.as_fd(), witness("op-1")).unwrap();
        fs::write(folder.path().join(".azdr/witness.new"), "{\"format\":1,\"oper").unwrap();
        assert_eq!(read(root.as_fd(), Path::new("/data")).unwrap(), old);
        write(root.as_fd(), witness("op-2")).unwrap();
        assert_eq!(read(root.as_fd(), Path::new("/data")).unwrap().operation_id, "op-2");
    }

    #[test]
    fn a_planted_directory_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), folder.path().join(".azdr")).unwrap();
        assert!(write(root.as_fd(), witness("op-1")).is_err());
        fs::remove_file(folder.path().join(".azdr")).unwrap();
        fs::create_dir(folder.path().join(".azdr")).unwrap();
        let open_to_all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path().join(".azdr"), open_to_all).unwrap();
        assert!(write(root.as_fd(), witness("op-1")).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
