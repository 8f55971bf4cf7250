//! The content of a simulated disk: a tree of files that costs nothing to copy.
//!
//! As bytes (what a shared access signature reads) it is `azsimtr1`, the number of files, and per
//! file, in the order of paths, its path and content, each after its length (all numbers are 64 bits,
//! little-endian); zeroes follow up to the disk's size.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

const MAGIC: &[u8; 8] = b"azsimtr1";

/// A file that an OS disk needs to boot.
pub const BOOTABLE: &str = "/sbin/init";

/// Files by path. A clone shares them; the first change after that copies the table, not the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(Arc<BTreeMap<String, Bytes>>);

impl Tree {
    /// The file's content.
    pub fn read(&self, path: &str) -> Option<&Bytes> {
        self.0.get(path)
    }

    /// Replaces or makes a file.
    pub fn write(&mut self, path: &str, content: Bytes) {
        Arc::make_mut(&mut self.0).insert(path.to_owned(), content);
    }

    /// Removes a file, or all files under a path that ends with `/`.
    pub fn remove(&mut self, path: &str) {
        if path.ends_with('/') {
            Arc::make_mut(&mut self.0).retain(|file, _| !file.starts_with(path));
            return;
        }
        if self.0.contains_key(path) {
            Arc::make_mut(&mut self.0).remove(path);
        }
    }

    /// All paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether a machine comes up from it.
    pub fn is_bootable(&self) -> bool {
        self.0.contains_key(BOOTABLE)
    }

    /// How many bytes [`to_bytes`](Self::to_bytes) has.
    pub fn size_bytes(&self) -> u64 {
        let files = self.0.iter().map(|(path, content)| 16 + path.len() + content.len());
        16 + files.sum::<usize>() as u64
    }

    /// The tree without the zeroes that follow it on a disk.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::new();
        bytes.put_slice(MAGIC);
        bytes.put_u64_le(self.0.len() as u64);
        for (path, content) in self.0.iter() {
            for part in [path.as_bytes(), content] {
                bytes.put_u64_le(part.len() as u64);
                bytes.put_slice(part);
            }
        }
        bytes.into()
    }

    /// Reads a tree, whatever follows it; `None`: it is none. All zeroes are an empty tree.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes::copy_from_slice(bytes);
        if bytes.iter().take(MAGIC.len()).all(|byte| *byte == 0) {
            return Some(Self::default());
        }
        if bytes.len() < 16 || bytes.split_to(MAGIC.len()) != MAGIC[..] {
            return None;
        }
        let mut files = BTreeMap::new();
        for _ in 0..bytes.get_u64_le() {
            let mut part = || {
                if bytes.len() < 8 {
                    return None;
                }
                let length = usize::try_from(bytes.get_u64_le()).ok()?;
                (length <= bytes.len()).then(|| bytes.split_to(length))
            };
            let (path, content) = (part()?, part()?);
            files.insert(String::from_utf8(path.to_vec()).ok()?, content);
        }
        Some(Self(Arc::new(files)))
    }
}

impl<P: Into<String>, C: Into<Bytes>> FromIterator<(P, C)> for Tree {
    fn from_iter<I: IntoIterator<Item = (P, C)>>(files: I) -> Self {
        Self(Arc::new(files.into_iter().map(|(path, c)| (path.into(), c.into())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_hold_the_tree_and_may_be_followed_by_zeroes() {
        let tree: Tree = [("/sbin/init", "elf"), ("/empty", "")].into_iter().collect();
        let mut bytes = tree.to_bytes().to_vec();
        assert_eq!(bytes.len() as u64, tree.size_bytes());
        bytes.resize(4096, 0);
        assert_eq!(Tree::from_bytes(&bytes), Some(tree));
        assert_eq!(Tree::from_bytes(&[0; 4096]), Some(Tree::default()));
        assert_eq!(Tree::from_bytes(b"an ext4 file system"), None);
        assert_eq!(Tree::from_bytes(&bytes[..20]), None);
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut tree: Tree = [("/a", "1")].into_iter().collect();
        let copy = tree.clone();
        tree.write("/a", "2".into());
        tree.write("/b/1", "3".into());
        tree.remove("/b");
        assert_eq!(tree.paths().count(), 2, "that is no file");
        tree.remove("/b/");
        assert_eq!(tree.paths().collect::<Vec<_>>(), ["/a"]);
        assert_eq!(copy.read("/a").map(|c| &c[..]), Some(&b"1"[..]));
    }
}
