//! The witness: a small file on every file system, written just before the freeze. A machine that
//! shows it was made from that recovery point.

use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use azdr_identity::{WitnessClaims, WitnessKey};
use azdr_proto::agent::{Freeze, Witness};
use serde::{Deserialize, Serialize};

use crate::atomic_file;

/// Our directory at the root of each file system.
pub(crate) const FOLDER: &CStr = c".azdr";
const FILE: &str = "witness";
/// Without a key: of a controller from before there were any.
const UNSEALED: u32 = 1;
const SEALED: u32 = 2;
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
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Sealed>,
}

/// What there is since format 2.
#[derive(Serialize, Deserialize)]
struct Sealed {
    vm_id: String,
    disk: String,
    disk_unique_id: String,
    sequence: u32,
    boot_id: String,
    written_at_monotonic_ns: u64,
    digests: Vec<String>,
    seal: String,
}

/// Where the witness is, below the root of a file system.
pub const PLACE: &str = ".azdr/witness";

/// A file system that gets a witness.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Where it is mounted.
    pub mount_point: String,
    /// Its UUID, as far as known.
    pub file_system_uuid: String,
    /// The disk that it is on: `os`, `lun N`, or a device's name; empty when it is on none of its own.
    pub disk: String,
    /// That disk's own identification, as far as known.
    pub disk_unique_id: String,
}

/// When witnesses are written, by all clocks.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The wall clock: milliseconds since 1970.
    pub unix_ms: i64,
    /// This boot's id.
    pub boot_id: String,
    /// Nanoseconds of this boot.
    pub monotonic_ns: u64,
}

/// The witnesses of one freeze, one for each place: each names what all of them say, and is sealed with
/// the freeze's key.
///
/// # Errors
/// In words: the key is not one.
pub fn of_freeze(
    freeze: &Freeze,
    places: &[Place],
    moment: &Moment,
) -> Result<Vec<Witness>, String> {
    let key = match freeze.witness_key.as_slice() {
        [] => None,
        bytes => Some(WitnessKey::from_bytes(bytes).ok_or("witness_key must have 32 bytes")?),
    };
    let witness = |(sequence, place): (u32, &Place)| Witness {
        mount_point: place.mount_point.clone(),
        operation_id: freeze.operation_id.clone(),
        recovery_point: freeze.recovery_point.clone(),
        nonce: freeze.nonce.clone(),
        written_at_unix_ms: moment.unix_ms,
        file_system_uuid: place.file_system_uuid.clone(),
        format: UNSEALED,
        vm_id: freeze.vm_id.to_ascii_lowercase(),
        disk: place.disk.clone(),
        disk_unique_id: place.disk_unique_id.clone(),
        sequence,
        boot_id: moment.boot_id.clone(),
        written_at_monotonic_ns: moment.monotonic_ns,
        written_at_mount_point: place.mount_point.clone(),
        ..Witness::default()
    };
    let mut witnesses: Vec<Witness> = (1..).zip(places).map(witness).collect();
    if let Some(key) = key {
        witnesses.iter_mut().for_each(|witness| witness.format = SEALED);
        let digests: Vec<String> =
            witnesses.iter().map(|w| WitnessClaims::from(w).digest()).collect();
        for (witness, digest) in witnesses.iter_mut().zip(&digests) {
            witness.seal = key.seal(digest, &digests);
            witness.digests.clone_from(&digests);
        }
    }
    Ok(witnesses)
}

/// The witness as the file's content.
///
/// # Errors
/// Never, as far as known: the format takes any text.
pub fn encode(witness: &Witness) -> io::Result<Vec<u8>> {
    let sealed = || Sealed {
        vm_id: witness.vm_id.clone(),
        disk: witness.disk.clone(),
        disk_unique_id: witness.disk_unique_id.clone(),
        sequence: witness.sequence,
        boot_id: witness.boot_id.clone(),
        written_at_monotonic_ns: witness.written_at_monotonic_ns,
        digests: witness.digests.clone(),
        seal: witness.seal.clone(),
    };
    let on_disk = OnDisk {
        format: witness.format,
        mount_point: witness.written_at_mount_point.clone(),
        operation_id: witness.operation_id.clone(),
        recovery_point: witness.recovery_point.clone(),
        nonce: witness.nonce.clone(),
        written_at_unix_ms: witness.written_at_unix_ms,
        file_system_uuid: witness.file_system_uuid.clone(),
        sealed: (witness.format >= SEALED).then(sealed),
    };
    Ok(serde_json::to_vec(&on_disk)?)
}

/// Reads a file's content, found now at `mount_point`.
///
/// # Errors
/// It is not a witness, or of a format that is not known.
pub fn decode(text: &[u8], mount_point: &str) -> io::Result<Witness> {
    let found: OnDisk = serde_json::from_slice(text)?;
    let witness = Witness {
        mount_point: mount_point.to_owned(),
        operation_id: found.operation_id,
        recovery_point: found.recovery_point,
        nonce: found.nonce,
        written_at_unix_ms: found.written_at_unix_ms,
        file_system_uuid: found.file_system_uuid,
        format: found.format,
        written_at_mount_point: found.mount_point,
        ..Witness::default()
    };
    match (found.format, found.sealed) {
        (UNSEALED, _) => Ok(witness),
        (SEALED, Some(sealed)) => Ok(Witness {
            vm_id: sealed.vm_id,
            disk: sealed.disk,
            disk_unique_id: sealed.disk_unique_id,
            sequence: sealed.sequence,
            boot_id: sealed.boot_id,
            written_at_monotonic_ns: sealed.written_at_monotonic_ns,
            digests: sealed.digests,
            seal: sealed.seal,
            ..witness
        }),
        (SEALED, None) => Err(io::Error::other("a witness of format 2 without a seal")),
        (format, _) => Err(io::Error::other(format!("witness format {format} is not known"))),
    }
}

/// Writes the witness to the file system whose root is `root`, durably.
///
/// # Errors
/// The disk's; or our directory there belongs to somebody else.
pub fn write(root: BorrowedFd<'_>, witness: &Witness) -> io::Result<()> {
    let folder = open_folder(root)?;
    atomic_file::write(&path_of(folder.as_fd()), FILE, &encode(witness)?)
}

/// Reads the witness of the file system whose root is `root`, as found now at `mount_point`.
///
/// # Errors
/// `NotFound`: there is none. Others: the disk's, or what is there is not a witness.
pub fn read(root: BorrowedFd<'_>, mount_point: &Path) -> io::Result<Witness> {
    let folder = our_folder(root)?;
    let mut text = Vec::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path_of(folder.as_fd()).join(FILE))?
        .take(MAX_LEN)
        .read_to_end(&mut text)?;
    decode(&text, &mount_point.to_string_lossy())
}

/// Our directory, made if it is not there.
fn open_folder(root: BorrowedFd<'_>) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(path_of(root).join(folder_name())) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => our_folder(root),
    }
}

/// Opens our directory. A root that everybody may write to (/tmp) could hold a directory or a
/// symlink planted by somebody else: only one of our own user's that nobody else can write to will
/// do, and it is reached through the root's descriptor, whatever is mounted over its path meanwhile.
fn our_folder(root: BorrowedFd<'_>) -> io::Result<File> {
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path_of(root).join(folder_name()))?;
    let (found, us) = (folder.metadata()?, fs::metadata("/proc/self")?.uid());
    if found.uid() != us || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "{} there belongs to somebody else",
            folder_name().display()
        )));
    }
    Ok(folder)
}

fn folder_name() -> &'static Path {
    Path::new(OsStr::from_bytes(FOLDER.to_bytes()))
}

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn freeze(operation: &str, key: &[u8]) -> Freeze {
        Freeze {
            operation_id: operation.to_owned(),
            recovery_point: "vm-backup-daily-20260101-0000".to_owned(),
            nonce: "ab".repeat(32),
            witness_key: key.to_vec(),
            vm_id: "DA560509-fad4-4f76-a9f1-63614eda019a".to_owned(),
            ..Freeze::default()
        }
    }

    fn witnesses(operation: &str, key: &[u8]) -> Vec<Witness> {
        let place = |mount_point: &str, disk: &str| Place {
            mount_point: mount_point.to_owned(),
            file_system_uuid: format!("uuid of {mount_point}"),
            disk: disk.to_owned(),
            ..Place::default()
        };
        let moment = Moment { unix_ms: 1_764_576_000_000, boot_id: "b".into(), monotonic_ns: 5 };
        of_freeze(&freeze(operation, key), &[place("/", "os"), place("/data", "lun 0")], &moment)
            .unwrap()
    }

    fn witness(operation: &str) -> Witness {
        witnesses(operation, &[7; 32]).remove(1)
    }

    #[test]
    fn what_is_written_is_read_and_the_newest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        assert_eq!(
            read(root.as_fd(), Path::new("/data")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        write(root.as_fd(), &witness("op-1")).unwrap();
        write(root.as_fd(), &witness("op-2")).unwrap();
        let found = read(root.as_fd(), Path::new("/elsewhere")).unwrap();
        assert_eq!(found, Witness { mount_point: "/elsewhere".to_owned(), ..witness("op-2") });
        let file = fs::metadata(folder.path().join(".azdr/witness")).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(folder.path().join(".azdr")).unwrap().collect();
        assert_eq!(left.len(), 1, "only the witness stays");
    }

    #[test]
    fn every_witness_names_all_and_is_sealed_and_the_key_is_in_none() {
        let key = [7; 32];
        let [root, data] = &witnesses("op-1", &key)[..] else { panic!() };
        assert_eq!(root.digests, data.digests);
        assert_eq!(root.digests, [root, data].map(|witness| WitnessClaims::from(witness).digest()));
        let seals = WitnessKey::from_bytes(&key).unwrap();
        for witness in [root, data] {
            assert!(seals.has_sealed(
                &WitnessClaims::from(witness).digest(),
                &witness.digests,
                &witness.seal
            ));
            assert_eq!(witness.vm_id, "da560509-fad4-4f76-a9f1-63614eda019a");
            let text = String::from_utf8(encode(witness).unwrap()).unwrap();
            assert!(!text.contains(&"07".repeat(32)), "{text}");
        }
        assert_eq!((root.sequence, data.sequence), (1, 2));
        assert_ne!(root.seal, data.seal);
        let refused = of_freeze(&freeze("op-1", &[1; 31]), &[], &Moment::default());
        assert!(refused.unwrap_err().contains("32 bytes"));
    }

    #[test]
    fn the_witness_of_an_older_agent_is_still_read_and_an_unknown_one_is_not() {
        let old = br#"{"format":1,"mount_point":"/data","operation_id":"op-1","recovery_point":"p",
            "nonce":"n","written_at_unix_ms":5,"file_system_uuid":"u"}"#;
        let found = decode(old, "/mnt").unwrap();
        assert_eq!((found.format, found.seal.as_str(), found.nonce.as_str()), (1, "", "n"));
        let unsealed = &witnesses("op-1", &[])[1];
        assert_eq!(unsealed.format, 1);
        let read_again = decode(&encode(unsealed).unwrap(), "/data").unwrap();
        assert_eq!((read_again.format, read_again.operation_id.as_str()), (1, "op-1"));
        assert!(decode(&old.map(|b| if b == b'1' { b'3' } else { b }), "/").is_err());
        assert!(decode(&old.map(|b| if b == b'1' { b'2' } else { b }), "/").is_err());
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_witness() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let old = witness("op-1");
        write(root.as_fd(), &old).unwrap();
        fs::write(folder.path().join(".azdr/witness.new"), "{\"format\":1,\"oper").unwrap();
        assert_eq!(read(root.as_fd(), Path::new("/data")).unwrap(), old);
        write(root.as_fd(), &witness("op-2")).unwrap();
        assert_eq!(read(root.as_fd(), Path::new("/data")).unwrap().operation_id, "op-2");
    }

    #[test]
    fn a_planted_directory_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), folder.path().join(".azdr")).unwrap();
        assert!(write(root.as_fd(), &witness("op-1")).is_err());
        fs::remove_file(folder.path().join(".azdr")).unwrap();
        fs::create_dir(folder.path().join(".azdr")).unwrap();
        let open_to_all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path().join(".azdr"), open_to_all).unwrap();
        assert!(write(root.as_fd(), &witness("op-1")).is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
