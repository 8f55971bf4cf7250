//! Proof of content: which blocks of a disk are hashed when it is backed up, what is kept of that, and
//! what it is worth when the same blocks of a copy have the same hashes.
//!
//! Some blocks or [all](Sampling): of all, hashes are kept [of spans](SpanManifest), and equality says that
//! every byte is the same. Of some:
//!
//! A disk is seen as blocks of [`BLOCK_BYTES`]; those that hold data are its [`Population`]. Of them a
//! [`Seed`] that is drawn for this one recovery point, after it was taken, chooses a [`sample`]: nobody
//! knows beforehand which blocks are looked at. Their hashes (BLAKE3) are a [`Manifest`], which holds its
//! own hash too. Later the same blocks of any copy are hashed and [compared](Manifest::compare).
//!
//! What equality is worth is exact: if k of the N blocks had changed, wherever they are, m sampled ones
//! would miss all of them with probability C(N−k, m) / C(N, m) ([`missed`]). A sample as large as the
//! population misses nothing. Blocks that held no data are not looked at, and not claimed.

mod manifest;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use manifest::{Difference, Hashes, Manifest, ManifestError, NO_DATA};
pub use spans::{LEAST_SPAN, MOST_SPANS, SpanHasher, SpanManifest, span_bytes};

/// One block: one request, and large enough for BLAKE3 to run at its full speed.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// Of each disk, unless the configuration says otherwise: a change of 1 % of its blocks is missed with a
/// probability of 5 %.
pub const DEFAULT_SAMPLE: u32 = 300;
/// The most that may be asked for of each disk, other than all: 625 MiB are read, and about 400 kB are kept.
pub const MOST_SAMPLED: u32 = 10_000;
/// How large a change the stated probability is about, in blocks per thousand.
pub const CHANGE_PER_MILLE: u64 = 10;

/// How much of each disk is hashed. Written as a number or as `all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sampling {
    /// So many blocks, or all that hold data where there are no more; 0: none.
    Blocks(u32),
    /// Everything.
    All,
}

/// How [`Sampling::All`] is written.
pub const ALL: &str = "all";

impl Serialize for Sampling {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Blocks(blocks) => serializer.serialize_u32(*blocks),
            Self::All => serializer.serialize_str(ALL),
        }
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(blocks) => Ok(Self::Blocks(blocks)),
            Written::Word(word) if word == ALL => Ok(Self::All),
            Written::Word(word) => {
                Err(serde::de::Error::custom(format!("{word:?} is neither a number nor \"{ALL}\"")))
            }
        }
    }
}

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// Of a block's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What chooses the blocks of one recovery point: random, and drawn only once the point is taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(String);

impl Seed {
    /// From random text; 32 bytes in hexadecimal are meant.
    pub fn new(random: impl Into<String>) -> Self {
        Self(random.into())
    }

    /// Random numbers for one disk of the point, the same ones each time.
    fn numbers(&self, lun: Option<u32>) -> Numbers {
        let key = blake3::derive_key("azdr 2026 content sample v1", self.0.as_bytes());
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&lun.map_or(-1, i64::from).to_le_bytes());
        Numbers(hasher.finalize_xof())
    }
}

struct Numbers(blake3::OutputReader);

impl Numbers {
    /// Uniform among those below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        // Numbers of the last, incomplete round would come more often than others.
        let whole_rounds = u64::MAX - u64::MAX % end;
        loop {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            let number = u64::from_le_bytes(bytes);
            if number < whole_rounds {
                return number % end;
            }
        }
    }
}

/// The blocks of a disk that are worth looking at: those that hold data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Population {
    size_bytes: u64,
    /// First block and number of blocks, in order and apart from each other.
    runs: Vec<(u64, u64)>,
    total: u64,
}

impl Population {
    /// Every block of a disk.
    pub fn whole(size_bytes: u64) -> Self {
        Self::of_ranges(size_bytes, [(0, size_bytes)])
    }

    /// The blocks that these ranges touch: first byte, and the byte behind the last. They may overlap,
    /// come in any order, and reach beyond the disk (a VHD's footer does).
    pub fn of_ranges(size_bytes: u64, ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut runs: Vec<(u64, u64)> = ranges
            .into_iter()
            .map(|(start, end)| (start, end.min(size_bytes)))
            .filter(|(start, end)| start < end)
            .map(|(start, end)| (start / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES)))
            .collect();
        runs.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in runs {
            match merged.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => merged.push((start, end)),
            }
        }
        let runs: Vec<_> = merged.into_iter().map(|(start, end)| (start, end - start)).collect();
        let total = runs.iter().map(|(_, count)| count).sum();
        Self { size_bytes, runs, total }
    }

    /// How many blocks.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The blocks from `from` on, in order, in pieces of at most `most` blocks that lie next to each other:
    /// first block and number. No piece goes across a multiple of `most`, which is not 0.
    pub fn pieces(&self, from: u64, most: u64) -> impl Iterator<Item = (u64, u64)> + Send + '_ {
        let begins = self.runs.partition_point(|(first, count)| first + count <= from);
        self.runs[begins..].iter().flat_map(move |(first, count)| {
            let (mut at, end) = ((*first).max(from), first + count);
            std::iter::from_fn(move || {
                let piece = (at, end.min((at / most + 1) * most).saturating_sub(at));
                at += piece.1;
                (piece.1 > 0).then_some(piece)
            })
        })
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// The numbers of the blocks that are looked at, in order: so many of the population, each set of them as
/// likely as any other; all of it where it has no more.
pub fn sample(seed: &Seed, lun: Option<u32>, population: &Population, size: u32) -> Vec<u64> {
    let (all, size) = (population.total, u64::from(size).min(population.total));
    let mut numbers = seed.numbers(lun);
    // Floyd's way: no more draws than blocks, however large the disk.
    let mut chosen = BTreeSet::new();
    for last in all - size..all {
        let drawn = numbers.below(last + 1);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    // From places in the population to places on the disk.
    let mut blocks = Vec::with_capacity(chosen.len());
    let mut runs = population.runs.iter();
    let (mut run, mut before) = (runs.next(), 0);
    for place in chosen {
        while let Some((first, count)) = run {
            if place < before + count {
                blocks.push(first + (place - before));
                break;
            }
            before += count;
            run = runs.next();
        }
    }
    blocks
}

/// Where a block is: its first byte, and its length, which is less at the disk's end.
pub fn place(block: u64, size_bytes: u64) -> (u64, u64) {
    let offset = block * BLOCK_BYTES;
    (offset, BLOCK_BYTES.min(size_bytes.saturating_sub(offset)))
}

/// The probability that `sampled` of `all` blocks, each set of them equally likely, have none of
/// `changed` ones among them.
pub fn missed(all: u64, sampled: u64, changed: u64) -> f64 {
    let (sampled, changed) = (sampled.min(all), changed.min(all));
    if sampled > all - changed {
        return 0.0;
    }
    // C(N−k, m) / C(N, m) is the same with k and m exchanged: the shorter product.
    let (few, many) = (sampled.min(changed), sampled.max(changed));
    (0..few).map(|i| (all - many - i) as f64 / (all - i) as f64).product()
}

/// How many blocks are [`CHANGE_PER_MILLE`] of so many, rounded up.
pub fn small_change(all: u64) -> u64 {
    (all * CHANGE_PER_MILLE).div_ceil(1000)
}

/// What comparing one disk has shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Blocks that held data when the backup was taken.
    pub blocks: u64,
    /// Of them looked at.
    pub sampled: u64,
    /// Of them equal.
    pub equal: u64,
    /// The first that is not; where all of the disk was compared, the first span that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// Where all of the disk was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
}

/// What comparing all of a disk has shown, in spans.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// The size of a span.
    pub span_bytes: u64,
    /// Spans that held something when the backup was taken, or do now.
    pub spans: u64,
    /// Of them different.
    pub different: u64,
}

impl Compared {
    /// The probability that a change of [`CHANGE_PER_MILLE`] of this disk's blocks is missed.
    pub fn missed(&self) -> f64 {
        // Of no blocks none can be missed.
        if self.sampled >= self.blocks {
            return 0.0;
        }
        missed(self.blocks, self.sampled, small_change(self.blocks))
    }
}

/// What comparing all disks of a recovery point is worth.
#[derive(Clone, PartialEq, Debug)]
pub struct Worth {
    /// Blocks that held data when the backup was taken.
    pub blocks: u64,
    /// Of them looked at.
    pub sampled: u64,
    /// Of them equal.
    pub equal: u64,
    /// The probability that a change of [`CHANGE_PER_MILLE`] of one disk's blocks is missed, on the disk
    /// where that is likeliest.
    pub missed: f64,
    /// All of every disk was compared: every byte, whether or not it held data.
    pub whole: bool,
}

impl Worth {
    /// Of all disks.
    pub fn of<'a>(disks: impl IntoIterator<Item = &'a Compared>) -> Self {
        let none = Self { blocks: 0, sampled: 0, equal: 0, missed: 0.0, whole: false };
        disks.into_iter().enumerate().fold(none, |sum, (n, disk)| Self {
            blocks: sum.blocks + disk.blocks,
            sampled: sum.sampled + disk.sampled,
            equal: sum.equal + disk.equal,
            missed: sum.missed.max(disk.missed()),
            whole: (n == 0 || sum.whole) && disk.whole.is_some(),
        })
    }
}

impl fmt::Display for Worth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, sampled, equal, missed, whole } = self;
        if *blocks == 0 {
            return f.write_str("no block held data: nothing was compared");
        }
        if *whole && equal == blocks {
            return write!(
                f,
                "all {blocks} blocks with data equal, and the rest as empty as it was: every byte was compared"
            );
        }
        if sampled == blocks {
            return write!(f, "{equal} of all {blocks} blocks with data equal: none was left out");
        }
        write!(
            f,
            "{equal} of {sampled} sampled blocks equal, out of {blocks} with data; a change of {} % of a \
             disk's blocks would be missed with probability {}",
            CHANGE_PER_MILLE / 10,
            Probability(*missed)
        )
    }
}

/// In two digits that mean something, and as a frequency.
struct Probability(f64);

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = self.0;
        if p <= 0.0 {
            return f.write_str("0");
        }
        if p < 1e-6 {
            return f.write_str("below 0.000001 (1 in 1,000,000)");
        }
        let places = (1.0 - p.log10().floor()).clamp(2.0, 7.0) as usize;
        write!(f, "{p:.places$}")?;
        if p > 0.5 {
            return Ok(());
        }
        let digits = format!("{:.0}", 1.0 / p);
        let mut grouped = String::new();
        for (n, digit) in digits.chars().enumerate() {
            if n > 0 && (digits.len() - n) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        write!(f, " (1 in {grouped})")
    }
}
