//! Contents of disks and snapshots, by name: raw, sparse files in one directory, or memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::guests::sparse;

/// Keeps contents. Creating is done again after a crash: what half exists is replaced.
pub trait Contents: Send + Sync {
    /// Makes an empty content of this size that takes no room.
    ///
    /// # Errors
    /// The operating system's.
    fn create_empty(&self, name: &str, size_bytes: u64) -> io::Result<()>;

    /// Makes a content from a raw image; returns the size.
    ///
    /// # Errors
    /// The image cannot be read, or the operating system's.
    fn import(&self, name: &str, image: &Path) -> io::Result<u64>;

    /// Writes into a content that nobody uses.
    ///
    /// # Errors
    /// There is no such content, or the operating system's.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a content longer (never shorter).
    ///
    /// # Errors
    /// There is no such content, or the operating system's.
    fn grow(&self, name: &str, size_bytes: u64) -> io::Result<()>;

    /// Gives an immutable content a second name.
    ///
    /// # Errors
    /// There is no such content, or the operating system's.
    fn share(&self, source: &str, target: &str) -> io::Result<()>;

    /// What `source` holds at this instant, under a second name. Only of contents that are not
    /// files: those are copied by the machine that writes to them.
    ///
    /// # Errors
    /// There is no such content, or the operating system's.
    fn capture(&self, source: &str, target: &str) -> io::Result<()>;

    /// Removes a content; a missing one is no error.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The parts that hold data, as offset and length, in order.
    ///
    /// # Errors
    /// There is no such content, or the operating system's.
    fn data_ranges(&self, name: &str) -> io::Result<Vec<(u64, u64)>>;

    /// A part.
    ///
    /// # Errors
    /// There is no such content, it is shorter, or the operating system's.
    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Bytes>;

    /// The directory of the files that machines use as their disks; `None`: machines know of these
    /// contents by themselves.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Nothing here waits for a disk.
    fn is_instant(&self) -> bool {
        false
    }
}

/// The directory of contents within a state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("disks")
}

/// Contents as files, for machines that need files.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
}

impl Files {
    /// The contents of a state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { directory: directory(state_dir) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Contents for Files {
    fn create_empty(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        self.remove(name)?;
        let path = self.path(name);
        sparse::make_durable(&path, &sparse::create(&path, size_bytes)?)
    }

    fn import(&self, name: &str, image: &Path) -> io::Result<u64> {
        let path = self.path(name);
        sparse::copy(image, &path)?;
        Ok(std::fs::metadata(&path)?.len())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.write_all_at(bytes, offset)?;
        file.sync_all()
    }

    fn grow(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        if file.metadata()?.len() < size_bytes {
            file.set_len(size_bytes)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn share(&self, source: &str, target: &str) -> io::Result<()> {
        let (source, target) = (self.path(source), self.path(target));
        match std::fs::hard_link(&source, &target) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => sparse::copy(&source, &target),
            _ => Ok(()),
        }
    }

    fn capture(&self, source: &str, target: &str) -> io::Result<()> {
        self.remove(target)?;
        sparse::copy(&self.path(source), &self.path(target))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn data_ranges(&self, name: &str) -> io::Result<Vec<(u64, u64)>> {
        data_ranges(&self.path(name))
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        if length > 0 {
            File::open(self.path(name))?.read_exact_at(&mut bytes, offset)?;
        }
        Ok(Bytes::from(bytes))
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.directory)
    }
}

/// The parts of a file that hold data, as offset and length, in order.
fn data_ranges(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let (mut ranges, mut position) = (Vec::new(), 0);
    while let Some(data) = sparse::next_data(&file, position, end)? {
        position = data.end;
        ranges.push((data.start, data.end - data.start));
    }
    Ok(ranges)
}

/// Contents that end with the process: nobody writes to them, and copying one takes no room.
#[derive(Debug, Default)]
pub struct Memory {
    contents: Mutex<BTreeMap<String, Held>>,
}

/// A content in memory.
#[derive(Clone, Debug, Default)]
struct Held {
    size_bytes: u64,
    /// Offset and bytes, in order and apart from each other.
    extents: Arc<Vec<(u64, Bytes)>>,
}

impl Memory {
    /// What the files of a state directory hold.
    ///
    /// # Errors
    /// The operating system's.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let memory = Self::default();
        for entry in std::fs::read_dir(directory(state_dir))? {
            let entry = entry?;
            memory.import(&entry.file_name().to_string_lossy(), &entry.path())?;
        }
        Ok(memory)
    }

    fn contents(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        self.contents.lock().expect("no code panics while holding this lock")
    }

    fn held(&self, name: &str) -> io::Result<Held> {
        self.contents().get(name).cloned().ok_or_else(|| missing(name))
    }
}

/// There is no content of this name.
pub(crate) fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no content {name}"))
}

/// Most of a simulated disk.
static NOTHING: [u8; 4 << 20] = [0; 4 << 20];

/// A part of a content of `size_bytes` that holds `extents` and zeroes.
pub(crate) fn part(
    extents: &[(u64, Bytes)],
    size_bytes: u64,
    offset: u64,
    length: u64,
) -> io::Result<Bytes> {
    let end = offset.checked_add(length).filter(|end| *end <= size_bytes);
    let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let index = |at: u64| usize::try_from(at).map_err(io::Error::other);
    let touches =
        |(start, data): &&(u64, Bytes)| *start < end && offset < start + data.len() as u64;
    if length <= NOTHING.len() as u64 && !extents.iter().any(|extent| touches(&extent)) {
        return Ok(Bytes::from_static(&NOTHING[..index(length)?]));
    }
    let mut bytes = vec![0; index(length)?];
    for (start, data) in extents {
        let (from, to) = ((*start).max(offset), (start + data.len() as u64).min(end));
        if from < to {
            let source = &data[index(from - start)?..index(to - start)?];
            bytes[index(from - offset)?..index(to - offset)?].copy_from_slice(source);
        }
    }
    Ok(Bytes::from(bytes))
}

impl Contents for Memory {
    fn create_empty(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        self.contents().insert(name.to_owned(), Held { size_bytes, ..Held::default() });
        Ok(())
    }

    fn import(&self, name: &str, image: &Path) -> io::Result<u64> {
        let file = File::open(image)?;
        let size_bytes = file.metadata()?.len();
        let mut extents = Vec::new();
        for (offset, length) in data_ranges(image)? {
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, offset)?;
            extents.push((offset, Bytes::from(bytes)));
        }
        let held = Held { size_bytes, extents: Arc::new(extents) };
        self.contents().insert(name.to_owned(), held);
        Ok(size_bytes)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.contents();
        let held = contents.get_mut(name).ok_or_else(|| missing(name))?;
        let whole = part(&held.extents, held.size_bytes, 0, held.size_bytes)?;
        let mut whole = whole.to_vec();
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let target = whole.get_mut(at..at + bytes.len());
        target.ok_or_else(|| io::Error::from(io::ErrorKind::WriteZero))?.copy_from_slice(bytes);
        held.extents = Arc::new(vec![(0, Bytes::from(whole))]);
        Ok(())
    }

    fn grow(&self, name: &str, size_bytes: u64) -> io::Result<()> {
        let mut contents = self.contents();
        let held = contents.get_mut(name).ok_or_else(|| missing(name))?;
        held.size_bytes = held.size_bytes.max(size_bytes);
        Ok(())
    }

    fn share(&self, source: &str, target: &str) -> io::Result<()> {
        self.capture(source, target)
    }

    fn capture(&self, source: &str, target: &str) -> io::Result<()> {
        let held = self.held(source)?;
        self.contents().insert(target.to_owned(), held);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.contents().remove(name);
        Ok(())
    }

    fn data_ranges(&self, name: &str) -> io::Result<Vec<(u64, u64)>> {
        let held = self.held(name)?;
        Ok(held.extents.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).collect())
    }

    fn read(&self, name: &str, offset: u64, length: u64) -> io::Result<Bytes> {
        let held = self.held(name)?;
        part(&held.extents, held.size_bytes, offset, length)
    }

    fn is_instant(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_holds_what_was_imported_and_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"hello", 4 << 20).unwrap();
        let memory = Memory::default();
        assert_eq!(memory.import("a", &image).unwrap(), 8 << 20);
        memory.capture("a", "b").unwrap();
        memory.grow("b", 9 << 20).unwrap();
        memory.remove("a").unwrap();
        assert_eq!(&memory.read("b", (4 << 20) - 1, 7).unwrap()[..], b"\0hello\0");
        assert_eq!(&memory.read("b", (9 << 20) - 2, 2).unwrap()[..], b"\0\0");
        assert!(memory.read("b", (9 << 20) - 2, 3).is_err());
        assert!(memory.read("a", 0, 1).is_err());
    }
}
