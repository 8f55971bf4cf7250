//! Folders of worlds: in memory where the system has a place for that (tests crash controllers, never
//! machines, so nothing has to reach a disk), and kept as images from which worlds are made again.

use std::path::{Path, PathBuf};

/// Linux's folder in memory.
const IN_MEMORY: &str = "/dev/shm";

/// A new folder, which goes when it is dropped.
pub(crate) fn new() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("azdr-world-").to_owned();
    builder().tempdir_in(IN_MEMORY).or_else(|_| builder().tempdir()).unwrap()
}

/// What is in a folder, by path within it.
pub(crate) struct Image(Vec<(PathBuf, Content)>);

enum Content {
    Folder,
    Bytes(Vec<u8>),
    /// A hole of this length: an empty disk.
    Hole(u64),
}

impl Image {
    /// Of a folder that nobody is writing to.
    pub(crate) fn of(folder: &Path) -> Self {
        let mut image = Self(Vec::new());
        image.add(folder, Path::new(""));
        image
    }

    fn add(&mut self, folder: &Path, inside: &Path) {
        use std::os::unix::fs::MetadataExt;
        for entry in std::fs::read_dir(folder.join(inside)).unwrap() {
            let entry = entry.unwrap();
            let (path, about) = (inside.join(entry.file_name()), entry.metadata().unwrap());
            if about.is_dir() {
                self.0.push((path.clone(), Content::Folder));
                self.add(folder, &path);
            } else if about.blocks() == 0 {
                self.0.push((path, Content::Hole(about.len())));
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                self.0.push((path, Content::Bytes(bytes)));
            }
        }
    }

    /// Makes the same again in an empty folder.
    pub(crate) fn restore(&self, folder: &Path) {
        for (path, content) in &self.0 {
            let path = folder.join(path);
            match content {
                Content::Folder => std::fs::create_dir(path).unwrap(),
                Content::Bytes(bytes) => std::fs::write(path, bytes).unwrap(),
                Content::Hole(length) => {
                    std::fs::File::create(path).unwrap().set_len(*length).unwrap();
                }
            }
        }
    }
}
