//! Hashes of all of a disk, span by span.
//!
//! A hash of every block would be half a thousandth of the disk, for every backup. So a disk is seen as at
//! most [`MOST_SPANS`] *spans* of equal size, of which every one that holds anything has one hash: BLAKE3
//! over the numbers and hashes of its blocks, those left out that are all zeroes. What is listed as empty
//! reads as zeroes, so it is the same whether a block of zeroes was written or never touched; and two disks
//! of equal hashes hold the same bytes everywhere, not only where the first one held data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BLOCK_BYTES, BlockHash, Compared, Difference, ManifestError, NO_DATA, Whole};

/// The most spans of a disk: 40 bytes are kept of each.
pub const MOST_SPANS: u64 = 16_384;
/// The smallest span.
pub const LEAST_SPAN: u64 = 4 << 20;

/// How a manifest begins; the last byte is its version.
pub(super) const MAGIC: [u8; 8] = *b"azdrcnt\x02";
/// Magic, size, a span's size, number of entries.
const HEAD: usize = 32;
/// A span's number, how many blocks of it hold data, and its hash.
const ENTRY: usize = 40;
/// The hash of all that comes before it.
const ROOT: usize = 32;

/// How large the spans of a disk are: the smallest that makes no more than [`MOST_SPANS`] of it, doubling
/// from [`LEAST_SPAN`]. Up to 64 GiB 4 MiB, of 1 TiB 64 MiB, of 32 TiB 2 GiB.
pub fn span_bytes(size_bytes: u64) -> u64 {
    let mut span = LEAST_SPAN;
    while size_bytes.div_ceil(span) > MOST_SPANS {
        span *= 2;
    }
    span
}

/// A span that holds something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    number: u32,
    /// How many of its blocks are not all zeroes.
    blocks: u32,
    hash: BlockHash,
}

/// The hashes of all that a disk holds, or of its beginning while it is being read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SpanManifest {
    size_bytes: u64,
    span_bytes: u64,
    /// In order; those that hold nothing are left out.
    spans: Vec<Span>,
}

impl SpanManifest {
    fn new(size_bytes: u64, span_bytes: u64, spans: Vec<Span>) -> Result<Self, ManifestError> {
        let in_order = spans.windows(2).all(|pair| pair[0].number < pair[1].number);
        let sound = span_bytes >= LEAST_SPAN && span_bytes.is_multiple_of(BLOCK_BYTES);
        let there = |last: &Span| {
            u64::from(last.number).checked_mul(span_bytes).is_some_and(|first| first < size_bytes)
        };
        let filled =
            |span: &Span| span.blocks > 0 && u64::from(span.blocks) <= span_bytes / BLOCK_BYTES;
        if !in_order || !sound || !spans.last().is_none_or(there) || !spans.iter().all(filled) {
            return Err(ManifestError::Blocks);
        }
        Ok(Self { size_bytes, span_bytes, spans })
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The size of a span.
    pub fn span_bytes(&self) -> u64 {
        self.span_bytes
    }

    /// How many spans hold something.
    pub fn spans(&self) -> u64 {
        self.spans.len() as u64
    }

    /// How many blocks hold something.
    pub fn blocks(&self) -> u64 {
        self.spans.iter().map(|span| u64::from(span.blocks)).sum()
    }

    /// As it is kept: all numbers little-endian; `azdrcnt` and the version, the disk's size, a span's size,
    /// the number of entries, each of 8 bytes; per entry a span's number (4), how many of its blocks hold
    /// something (4), and hash (32); then the hash of all that (32).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + ENTRY * self.spans.len() + ROOT);
        bytes.extend_from_slice(&MAGIC);
        for number in [self.size_bytes, self.span_bytes, self.spans.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for span in &self.spans {
            bytes.extend_from_slice(&span.number.to_le_bytes());
            bytes.extend_from_slice(&span.blocks.to_le_bytes());
            bytes.extend_from_slice(&span.hash.0);
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
        let (head, entries) = body.split_at(HEAD);
        let number = |n: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&head[8 * n..8 * n + 8]);
            u64::from_le_bytes(eight)
        };
        let entries = entries.chunks_exact(ENTRY);
        if !entries.remainder().is_empty() || entries.len() as u64 != number(3) {
            return Err(ManifestError::Damaged);
        }
        let span = |entry: &[u8]| {
            let small = |from: usize| {
                let mut four = [0; 4];
                four.copy_from_slice(&entry[from..from + 4]);
                u32::from_le_bytes(four)
            };
            let mut hash = [0; 32];
            hash.copy_from_slice(&entry[8..]);
            Span { number: small(0), blocks: small(4), hash: BlockHash(hash) }
        };
        Self::new(number(1), number(2), entries.map(span).collect())
    }

    /// Compares with what a copy holds now, which was read in spans of the same size. A span that is in
    /// one of them alone is different: what was lost is told, and so is what was added.
    pub fn compare(&self, now: &Self) -> Compared {
        let mut both: BTreeMap<u32, (Option<&Span>, Option<&Span>)> = BTreeMap::new();
        for span in &self.spans {
            both.entry(span.number).or_default().0 = Some(span);
        }
        for span in &now.spans {
            both.entry(span.number).or_default().1 = Some(span);
        }
        let hash = |span: Option<&Span>| {
            span.map_or_else(|| NO_DATA.to_owned(), |span| span.hash.to_string())
        };
        let same_size = self.span_bytes == now.span_bytes;
        let differs = |pair: &(Option<&Span>, Option<&Span>)| pair.0 != pair.1 || !same_size;
        let first = both.iter().find(|(_, pair)| differs(pair));
        let equal = both.values().filter(|pair| !differs(pair)).filter_map(|pair| pair.0);
        let blocks = self.blocks();
        Compared {
            blocks,
            sampled: blocks,
            equal: equal.map(|span| u64::from(span.blocks)).sum(),
            difference: first.map(|(number, (expected, found))| Difference {
                offset: u64::from(*number) * self.span_bytes,
                expected: hash(*expected),
                found: hash(*found),
            }),
            whole: Some(Whole {
                span_bytes: self.span_bytes,
                spans: both.len() as u64,
                different: both.values().filter(|pair| differs(pair)).count() as u64,
            }),
        }
    }
}

impl From<SpanManifest> for String {
    /// In hexadecimal.
    fn from(manifest: SpanManifest) -> Self {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble is a digit");
        manifest.to_bytes().iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
    }
}

impl TryFrom<String> for SpanManifest {
    type Error = ManifestError;

    fn try_from(text: String) -> Result<Self, ManifestError> {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(ManifestError::Damaged);
        let pair = |pair: &[u8]| Ok((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
        let pairs = text.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(ManifestError::Damaged);
        }
        Self::from_bytes(&pairs.map(pair).collect::<Result<Vec<u8>, _>>()?)
    }
}

/// Hashes a disk's blocks in their order. What it holds is no more than the hashes so far.
pub struct SpanHasher {
    size_bytes: u64,
    span_bytes: u64,
    done: Vec<Span>,
    /// The first block of the span that is being hashed.
    next: u64,
    blocks: u32,
    hasher: blake3::Hasher,
}

impl SpanHasher {
    /// From a disk's beginning, in spans of this size (as [`span_bytes`] has it, or as it was chosen for
    /// what this is a copy of).
    pub fn new(size_bytes: u64, span_bytes: u64) -> Self {
        let done = Vec::new();
        Self { size_bytes, span_bytes, done, next: 0, blocks: 0, hasher: blake3::Hasher::new() }
    }

    /// Going on from [`so_far`](Self::so_far).
    pub fn resume(so_far: SpanManifest, next: u64) -> Self {
        let SpanManifest { size_bytes, span_bytes, spans } = so_far;
        Self { done: spans, next, ..Self::new(size_bytes, span_bytes) }
    }

    /// The next blocks: those from `first` on, whole but for the disk's last. Blocks that are left out are
    /// those that hold nothing.
    pub fn add(&mut self, first: u64, bytes: &[u8]) {
        static ZEROES: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
            self.reach(block);
            if bytes == &ZEROES[..bytes.len()] {
                continue;
            }
            self.hasher.update(&block.to_le_bytes());
            self.hasher.update(&BlockHash::of(bytes).0);
            self.blocks += 1;
        }
    }

    /// Ends the span that is being hashed, unless the block is in it.
    fn reach(&mut self, block: u64) {
        let per_span = self.span_bytes / BLOCK_BYTES;
        if block / per_span == self.next / per_span {
            return;
        }
        if self.blocks > 0 {
            // Of no disk that there is has a span such a number: there are MOST_SPANS.
            let number = u32::try_from(self.next / per_span).unwrap_or(u32::MAX);
            let hash = BlockHash(*self.hasher.finalize().as_bytes());
            self.done.push(Span { number, blocks: self.blocks, hash });
            self.blocks = 0;
            self.hasher.reset();
        }
        self.next = block / per_span * per_span;
    }

    /// The first block of the span that is being hashed: what comes before it is in
    /// [`so_far`](Self::so_far).
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The whole spans so far.
    ///
    /// # Errors
    /// When the blocks did not come in order, or are not on the disk.
    pub fn so_far(&self) -> Result<SpanManifest, ManifestError> {
        SpanManifest::new(self.size_bytes, self.span_bytes, self.done.clone())
    }

    /// All of the disk.
    ///
    /// # Errors
    /// As of [`so_far`](Self::so_far).
    pub fn finish(mut self) -> Result<SpanManifest, ManifestError> {
        self.reach(u64::MAX);
        self.so_far()
    }
}
