//! Raw disk images with holes: copying them, and making the holes again.

use std::fs::{File, OpenOptions};
use std::io::{self, Error};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

const CHUNK_BYTES: usize = 1024 * 1024;

/// Creates a file of `size_bytes` that holds nothing yet.
///
/// # Errors
/// When it exists already: somebody's disk is never overwritten.
pub(crate) fn create(path: &Path, size_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.set_len(size_bytes)?;
    Ok(file)
}

/// Copies what `source` holds into the new file `target`, and makes it durable. Blocks.
///
/// # Errors
/// When `target` exists, and any input or output error; a partial `target` is removed.
pub(crate) fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let from = File::open(source)?;
    let size_bytes = from.metadata()?.len();
    let to = create(target, size_bytes)?;
    let copied = copy_data(&from, &to, size_bytes).and_then(|()| make_durable(target, &to));
    if copied.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(target);
    }
    copied
}

fn copy_data(from: &File, to: &File, size_bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut position = 0;
    while let Some(data) = next_data(from, position, size_bytes)? {
        position = data.start;
        while position < data.end {
            let want = usize::try_from(data.end - position).unwrap_or(CHUNK_BYTES);
            let chunk = &mut buffer[..want.min(CHUNK_BYTES)];
            from.read_exact_at(chunk, position)?;
            if chunk.iter().any(|byte| *byte != 0) {
                to.write_all_at(chunk, position)?;
            }
            position += chunk.len() as u64;
        }
    }
    Ok(())
}

/// Gives the space back that is allocated but was never written (QEMU allocates zeroes).
pub(crate) fn dig_holes(file: &File) -> io::Result<()> {
    let size_bytes = file.metadata()?.len();
    let mut position = 0;
    while position < size_bytes {
        let data = next_data(file, position, size_bytes)?.unwrap_or(size_bytes..size_bytes);
        if position < data.start {
            punch_hole(file, position..data.start)?;
        }
        position = data.end;
    }
    Ok(())
}

/// Flushes the file and its name.
pub(crate) fn make_durable(path: &Path, file: &File) -> io::Result<()> {
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The first stretch of data at or after `position`.
pub(crate) fn next_data(
    file: &File,
    position: u64,
    size_bytes: u64,
) -> io::Result<Option<Range<u64>>> {
    match seek(file, position, libc::SEEK_DATA) {
        Ok(start) => Ok(Some(start..seek(file, start, libc::SEEK_HOLE)?.min(size_bytes))),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

fn seek(file: &File, position: u64, whence: libc::c_int) -> io::Result<u64> {
    let position = libc::off_t::try_from(position).map_err(Error::other)?;
    // SAFETY: a system call without pointers on an open descriptor.
    let found = unsafe { libc::lseek(file.as_raw_fd(), position, whence) };
    u64::try_from(found).map_err(|_| Error::last_os_error())
}

fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    let offset = libc::off_t::try_from(range.start).map_err(Error::other)?;
    let length = libc::off_t::try_from(range.end - range.start).map_err(Error::other)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a system call without pointers on an open descriptor.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } {
        0 => Ok(()),
        // The image is right without holes, only larger.
        _ if Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_copy_is_equal_and_keeps_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("a"), folder.path().join("b"));
        let file = create(&source, 32 * MIB + 5).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 17 * MIB - 3).unwrap();
        file.write_all_at(b"end", 32 * MIB + 2).unwrap();
        copy(&source, &target).unwrap();
        assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap());
        assert!(std::fs::metadata(&target).unwrap().blocks() * 512 < 8 * MIB);
    }

    #[test]
    fn a_copy_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&source, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        assert_eq!(copy(&source, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn allocated_zeroes_become_holes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = create(&path, 16 * MIB).unwrap();
        file.write_all_at(b"data", 5 * MIB).unwrap();
        // SAFETY: a system call without pointers on an open descriptor.
        let allocated = unsafe {
            libc::fallocate(file.as_raw_fd(), 0, 0, libc::off_t::try_from(16 * MIB).unwrap())
        };
        assert_eq!(allocated, 0);
        dig_holes(&file).unwrap();
        make_durable(&path, &file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 8 * MIB);
        assert_eq!(file.metadata().unwrap().len(), 16 * MIB);
        let mut data = [0; 4];
        file.read_exact_at(&mut data, 5 * MIB).unwrap();
        assert_eq!(&data, b"data");
    }
}
