//! What is kept of the blocks that were hashed.

use serde::{Deserialize, Serialize};

use super::{BlockHash, Compared, SpanManifest, place, spans};

/// How a manifest begins; the last byte is its version.
const MAGIC: [u8; 8] = *b"azdrcnt\x01";
/// Magic, size, population, number of entries.
const HEAD: usize = 32;
/// A block's number and its hash.
const ENTRY: usize = 40;
/// The hash of all that comes before it.
const ROOT: usize = 32;

/// The hashes of some of a disk's blocks, or of all that held data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    size_bytes: u64,
    population: u64,
    /// In order of the blocks.
    hashes: Vec<(u64, BlockHash)>,
}

/// A manifest that cannot be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// It was not written by this program, or by a later one.
    #[error("the content hashes are of a format that this program does not know")]
    Format,
    /// Its own hash is another.
    #[error("the content hashes are damaged: they do not have the hash that was written with them")]
    Damaged,
    /// It does not hold together.
    #[error("the content hashes name blocks that the disk does not have")]
    Blocks,
}

/// In place of a span's hash: it holds nothing.
pub const NO_DATA: &str = "no data";

/// A block or a span that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// Its first byte.
    pub offset: u64,
    /// Its BLAKE3 hash when the backup was taken; [`NO_DATA`] of a span that held none.
    pub expected: String,
    /// And now.
    pub found: String,
}

/// What was hashed of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hashes {
    /// Some of its blocks.
    Sample(Manifest),
    /// All of it.
    All(SpanManifest),
}

impl Hashes {
    /// Reads what either of the two wrote.
    ///
    /// # Errors
    /// When it is something else, or not all of it as it was written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.starts_with(&spans::MAGIC) {
            return SpanManifest::from_bytes(bytes).map(Self::All);
        }
        Manifest::from_bytes(bytes).map(Self::Sample)
    }

    /// How many blocks held data.
    pub fn blocks(&self) -> u64 {
        match self {
            Self::Sample(manifest) => manifest.population(),
            Self::All(manifest) => manifest.blocks(),
        }
    }

    /// How many of them were hashed.
    pub fn hashed(&self) -> u64 {
        match self {
            Self::Sample(manifest) => manifest.blocks().len() as u64,
            Self::All(manifest) => manifest.blocks(),
        }
    }
}

impl Manifest {
    /// Of a disk's blocks; `population`: how many there were to choose from.
    ///
    /// # Errors
    /// `Blocks` when they are not in order, not on the disk, or more than there are.
    pub fn new(
        size_bytes: u64,
        population: u64,
        hashes: Vec<(u64, BlockHash)>,
    ) -> Result<Self, ManifestError> {
        let in_order = hashes.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let on_disk = |block: u64| {
            block.checked_mul(super::BLOCK_BYTES).is_some_and(|offset| offset < size_bytes)
        };
        let there = hashes.last().is_none_or(|(block, _)| on_disk(*block));
        if !in_order || !there || hashes.len() as u64 > population {
            return Err(ManifestError::Blocks);
        }
        Ok(Self { size_bytes, population, hashes })
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many blocks there were to choose from.
    pub fn population(&self) -> u64 {
        self.population
    }

    /// The numbers of the blocks that were hashed, in order.
    pub fn blocks(&self) -> Vec<u64> {
        self.hashes.iter().map(|(block, _)| *block).collect()
    }

    /// As it is kept: all numbers little-endian; `azdrcnt` and the version, the disk's size, the
    /// population, the number of entries, each of 8 bytes; per entry a block's number (8) and hash (32);
    /// then the hash of all that (32).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + ENTRY * self.hashes.len() + ROOT);
        bytes.extend_from_slice(&MAGIC);
        for number in [self.size_bytes, self.population, self.hashes.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (block, hash) in &self.hashes {
            bytes.extend_from_slice(&block.to_le_bytes());
            bytes.extend_from_slice(&hash.0);
        }
        let root = BlockHash::of(&bytes);
        bytes.extend_from_slice(&root.0);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// When it is something else, or not all of it as it was written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
            return Err(ManifestError::Format);
        }
        let split = bytes.len().checked_sub(ROOT).filter(|split| *split >= HEAD);
        let (body, root) = bytes.split_at(split.ok_or(ManifestError::Damaged)?);
        if BlockHash::of(body).0 != *root {
            return Err(ManifestError::Damaged);
        }
        let number = |from: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&body[from..from + 8]);
            u64::from_le_bytes(eight)
        };
        let entries = body[HEAD..].chunks_exact(ENTRY);
        if !entries.remainder().is_empty() || entries.len() as u64 != number(24) {
            return Err(ManifestError::Damaged);
        }
        let hashes = (0..entries.len()).map(|n| {
            let from = HEAD + n * ENTRY;
            let mut hash = [0; 32];
            hash.copy_from_slice(&body[from + 8..from + ENTRY]);
            (number(from), BlockHash(hash))
        });
        Self::new(number(8), number(16), hashes.collect())
    }

    /// Compares with the hashes that the same blocks have now, in the same order. One that is absent is
    /// not equal.
    pub fn compare(&self, now: &[BlockHash]) -> Compared {
        let pairs = || self.hashes.iter().zip(now);
        let difference = pairs().find(|((_, expected), found)| expected != *found);
        Compared {
            blocks: self.population,
            sampled: self.hashes.len() as u64,
            equal: pairs().filter(|((_, expected), found)| expected == *found).count() as u64,
            difference: difference.map(|((block, expected), found)| Difference {
                offset: place(*block, self.size_bytes).0,
                expected: expected.to_string(),
                found: found.to_string(),
            }),
            whole: None,
        }
    }
}
