//! Contents of disks: raw, sparse files in one directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::guests::sparse;

/// The directory of contents within a state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("disks")
}

/// Makes an empty file of this size that takes no room.
///
/// # Errors
/// When it exists already, or the operating system's.
pub fn create_empty(path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = sparse::create(path, size_bytes)?;
    sparse::make_durable(path, &file)
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
pub fn data_ranges(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let (mut ranges, mut position) = (Vec::new(), 0);
    while let Some(data) = sparse::next_data(&file, position, end)? {
        position = data.end;
        ranges.push((data.start, data.end - data.start));
    }
    Ok(ranges)
}

/// Copies a file, holes staying holes.
///
/// # Errors
/// When `target` exists already, or the operating system's.
pub fn copy(source: &Path, target: &Path) -> io::Result<()> {
    sparse::copy(source, target)
}

/// Gives an immutable content a second name.
///
/// # Errors
/// The operating system's.
pub fn share(source: &Path, target: &Path) -> io::Result<()> {
    match std::fs::hard_link(source, target) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => sparse::copy(source, target),
        _ => Ok(()),
    }
}
