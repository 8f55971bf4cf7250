//! Contents of disks: raw, sparse files in one directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The directory of contents within a state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("disks")
}

/// Makes an empty file of this size that takes no room.
///
/// # Errors
/// The operating system's.
pub fn create_empty(path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(size_bytes)?;
    file.sync_all()
}

/// Makes a file longer (never shorter).
///
/// # Errors
/// The operating system's.
pub fn grow(path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < size_bytes {
        file.set_len(size_bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// The parts of a file that hold data, as offset and length, in order.
///
/// # Errors
/// The operating system's.
pub fn data_ranges(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let end = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < end {
        let Some(start) = seek(file, position, libc::SEEK_DATA)? else { break };
        let stop = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(end).min(end);
        ranges.push((start, stop - start));
        position = stop;
    }
    Ok(ranges)
}

fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    if found >= 0 {
        return Ok(Some(found.unsigned_abs()));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
}

/// Copies a file, holes staying holes, and returns when the copy is on the disk. A partial copy is
/// removed.
///
/// # Errors
/// The operating system's.
pub fn copy_sparse(source: &Path, target: &Path) -> io::Result<()> {
    let result = copy_ranges(source, target);
    if result.is_err() {
        // The copy's own error is the one to report.
        let _ = std::fs::remove_file(target);
    }
    result
}

fn copy_ranges(source: &Path, target: &Path) -> io::Result<()> {
    let from = File::open(source)?;
    let to = File::create(target)?;
    to.set_len(from.metadata()?.len())?;
    for (offset, length) in data_ranges(&from)? {
        copy_range(&from, &to, offset, length)?;
    }
    to.sync_all()
}

fn copy_range(from: &File, to: &File, offset: u64, length: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; usize::try_from(length.min(1 << 20)).map_err(io::Error::other)?];
    let mut done = 0;
    while done < length {
        let want = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let got = from.read_at(&mut buffer[..want], offset + done)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..got], offset + done)?;
        done += got as u64;
    }
    Ok(())
}

/// Gives an immutable content a second name.
///
/// # Errors
/// The operating system's.
pub fn share(source: &Path, target: &Path) -> io::Result<()> {
    match std::fs::hard_link(source, target) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => copy_sparse(source, target),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_holds_the_same_and_stays_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        create_empty(&a, 64 << 20).unwrap();
        let file = OpenOptions::new().write(true).open(&a).unwrap();
        file.write_all_at(b"hello", 40 << 20).unwrap();
        copy_sparse(&a, &b).unwrap();
        let copy = File::open(&b).unwrap();
        let mut read = [0; 5];
        copy.read_exact_at(&mut read, 40 << 20).unwrap();
        assert_eq!(&read, b"hello");
        let meta = copy.metadata().unwrap();
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
    }
}
