//! The disks of simulated machines, and their files where they are to outlive the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::tree::Tree;
use crate::content::{self, missing};

/// Holds the disks of a change of several until each has its own file.
const PENDING: &str = "simulated.pending";

/// A content.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) size_bytes: u64,
    pub(super) tree: Tree,
}

/// Contents by name.
#[derive(Debug, Default)]
pub(super) struct Disks {
    disks: BTreeMap<String, Disk>,
    /// The state directory, if they outlive the process.
    dir: Option<PathBuf>,
}

impl Disks {
    /// What a state directory holds. Contents that are no trees are empty disks.
    pub(super) fn load(state_dir: &Path, durable: bool) -> io::Result<Self> {
        let mut disks = Self::default();
        let directory = content::directory(state_dir);
        let mut unfinished = Vec::new();
        if let Ok(pending) = std::fs::read(state_dir.join(PENDING))
            && let Some(pending) = Tree::from_bytes(&pending)
        {
            // The process died while it wrote these.
            for name in pending.paths() {
                let tree = pending.read(name).and_then(|bytes| Tree::from_bytes(bytes));
                let size_bytes = std::fs::metadata(directory.join(name)).map_or(0, |m| m.len());
                let disk = Disk { size_bytes, tree: tree.unwrap_or_default() };
                disks.disks.insert(name.to_owned(), disk);
                unfinished.push(name.to_owned());
            }
        }
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Entry::Vacant(place) = disks.disks.entry(name) {
                place.insert(read(&entry.path())?);
            }
        }
        disks.dir = durable.then(|| state_dir.to_owned());
        disks.persist(&unfinished.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(disks)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.dir.is_some()
    }

    pub(super) fn get(&self, name: &str) -> io::Result<&Disk> {
        self.disks.get(name).ok_or_else(|| missing(name))
    }

    /// The tree of a content; of a missing one, an empty tree.
    pub(super) fn tree(&self, name: &str) -> Tree {
        self.disks.get(name).map(|disk| disk.tree.clone()).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, name: &str, disk: Disk) -> io::Result<()> {
        self.disks.insert(name.to_owned(), disk);
        self.persist(&[name])
    }

    /// Changes a file, in memory; [`persist`](Self::persist) comes after it.
    pub(super) fn write(&mut self, name: &str, path: &str, content: Bytes) -> io::Result<()> {
        let disk = self.disks.get_mut(name).ok_or_else(|| missing(name))?;
        let mut tree = disk.tree.clone();
        tree.write(path, content);
        if tree.size_bytes() > disk.size_bytes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        disk.tree = tree;
        Ok(())
    }

    pub(super) fn remove_file(&mut self, name: &str, path: &str) -> io::Result<()> {
        self.disks.get_mut(name).ok_or_else(|| missing(name))?.tree.remove(path);
        self.persist(&[name])
    }

    pub(super) fn grow(&mut self, name: &str, size_bytes: u64) -> io::Result<()> {
        let disk = self.disks.get_mut(name).ok_or_else(|| missing(name))?;
        disk.size_bytes = disk.size_bytes.max(size_bytes);
        self.persist(&[name])
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disks.remove(name);
        let Some(dir) = &self.dir else { return Ok(()) };
        match std::fs::remove_file(content::directory(dir).join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes these disks durable, all or none.
    pub(super) fn persist(&self, names: &[&str]) -> io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let disks: BTreeMap<&str, &Disk> =
            names.iter().filter_map(|name| Some((*name, self.disks.get(*name)?))).collect();
        let pending = dir.join(PENDING);
        if disks.len() > 1 {
            let all: Tree = disks.iter().map(|(name, d)| (*name, d.tree.to_bytes())).collect();
            replace(&pending, &all.to_bytes(), None)?;
        }
        for (name, disk) in &disks {
            let path = content::directory(dir).join(name);
            replace(&path, &disk.tree.to_bytes(), Some(disk.size_bytes))?;
        }
        match std::fs::remove_file(&pending) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Disk> {
    let file = File::open(path)?;
    let size_bytes = file.metadata()?.len();
    // A tree is at the beginning and has no holes of a page's size.
    let end = crate::guests::sparse::next_data(&file, 0, size_bytes)?.map_or(0, |data| data.end);
    let mut head = vec![0; usize::try_from(end).map_err(io::Error::other)?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0)?;
    let tree = Tree::from_bytes(&head).unwrap_or_else(|| {
        tracing::warn!(path = %path.display(), "not a tree of files: taken for an empty disk");
        Tree::default()
    });
    Ok(Disk { size_bytes, tree })
}

fn replace(path: &Path, bytes: &[u8], size_bytes: Option<u64>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    if let Some(size_bytes) = size_bytes {
        file.set_len(size_bytes)?;
    }
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}
