//! Folders of worlds: in memory where the system has a place for that (tests crash controllers, never
//! machines, so nothing has to reach a disk), and kept as images from which worlds are made again.

use std::os::unix::fs::FileExt;
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

/// How finely holes are looked for.
const PART: usize = 64 * 1024;
static NOTHING: [u8; PART] = [0; PART];

enum Content {
    Folder,
    /// A length, and the parts that are not all zeroes: a disk is restored with its holes.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
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
                self.0.push((path, Content::Sparse(about.len(), Vec::new())));
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                let parts = (0..).step_by(PART).zip(bytes.chunks(PART));
                let filled = parts.filter(|(_, part)| *part != &NOTHING[..part.len()]);
                let filled = filled.map(|(at, part)| (at, part.to_vec())).collect();
                self.0.push((path, Content::Sparse(bytes.len() as u64, filled)));
            }
        }
    }

    /// Makes the same again in an empty folder.
    pub(crate) fn restore(&self, folder: &Path) {
        for (path, content) in &self.0 {
            let path = folder.join(path);
            match content {
                Content::Folder => std::fs::create_dir(path).unwrap(),
                Content::Sparse(length, parts) => {
                    let file = std::fs::File::create(path).unwrap();
                    file.set_len(*length).unwrap();
                    for (at, part) in parts {
                        file.write_all_at(part, *at).unwrap();
                    }
                }
            }
        }
    }
}
