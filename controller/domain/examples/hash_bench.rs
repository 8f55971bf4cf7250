//! How fast blocks are hashed on one core, one by one and in spans, and what choosing and comparing a sample
//! costs.
//!
//! Run by `cargo xtask bench hash`; prints one JSON object. Blocks, spans and SHA-256 take turns over the same
//! memory, which is larger than any cache: the ratio holds on a machine that is also doing other work.

use std::hint::black_box;
use std::time::Duration;

use azdr_domain::content::{
    BLOCK_BYTES, BlockHash, DEFAULT_SAMPLE, LEAST_SPAN, MOST_SPANS, Manifest, Population, Seed,
    SpanHasher, sample, span_bytes,
};
use azdr_env::Env;
use serde_json::json;

/// What is hashed in each turn.
const MEMORY: usize = 512 << 20;
/// How many turns each has.
const TURNS: usize = 5;
/// A large disk, half of which holds data, in as many pieces as are asked for at most.
const DISK: u64 = 4 << 40;
/// So many.
const PIECES: u64 = 500_000;

fn main() {
    let env = Env::system();
    let timed = |work: &mut dyn FnMut()| -> Duration {
        let began = env.clock.monotonic();
        work();
        env.clock.monotonic().since(began)
    };
    let mut memory = vec![0_u8; MEMORY];
    for chunk in memory.chunks_mut(1 << 20) {
        env.ids.fill(chunk);
    }
    let blocks = || memory.chunks(BLOCK_BYTES as usize);
    let (mut blake3, mut spans, mut sha256) = (Vec::new(), Vec::new(), Vec::new());
    // In pieces, as a whole disk is read.
    let span_hashes = || {
        let mut hasher = SpanHasher::new(MEMORY as u64, span_bytes(MEMORY as u64));
        for (n, piece) in (0..).zip(memory.chunks(LEAST_SPAN as usize)) {
            hasher.add(n * (LEAST_SPAN / BLOCK_BYTES), piece);
        }
        hasher.finish().expect("blocks in order, on the disk")
    };
    for _ in 0..TURNS {
        let hash = |b: &[u8]| {
            black_box(BlockHash::of(b));
        };
        blake3.push(timed(&mut || blocks().for_each(hash)));
        spans.push(timed(&mut || {
            black_box(span_hashes());
        }));
        let hash = |b: &[u8]| {
            black_box(ring::digest::digest(&ring::digest::SHA256, b));
        };
        sha256.push(timed(&mut || blocks().for_each(hash)));
    }
    let per_second = |times: &mut Vec<Duration>| {
        times.sort();
        let gigabytes = |time: &Duration| MEMORY as f64 / 1e9 / time.as_secs_f64();
        json!({"median": gigabytes(&times[TURNS / 2]), "worst": gigabytes(&times[TURNS - 1])})
    };
    // The most that is ever kept of a disk.
    let mut full = SpanHasher::new(DISK, span_bytes(DISK));
    (0..MOST_SPANS).for_each(|n| full.add(n * span_bytes(DISK) / BLOCK_BYTES, b"data"));
    let full = full.finish().expect("blocks in order, on the disk");
    let mut differs = true;
    let comparing_spans = timed(&mut || differs = full.compare(&full).difference.is_some());
    assert!(!differs);
    let seed = Seed::new("00");
    let half = DISK / PIECES / 2;
    let pieces = (0..PIECES).map(|n| (2 * n * half, (2 * n + 1) * half));
    let population = Population::of_ranges(DISK, pieces);
    let mut chosen = Vec::new();
    let choosing = timed(&mut || chosen = sample(&seed, None, &population, DEFAULT_SAMPLE));
    let hash =
        |n: usize| BlockHash::of(&memory[n * BLOCK_BYTES as usize..][..BLOCK_BYTES as usize]);
    let mut hashes = Vec::new();
    let hashing = timed(&mut || hashes = (0..chosen.len()).map(hash).collect());
    let entries = chosen.into_iter().zip(hashes.iter().copied()).collect();
    let manifest = Manifest::new(DISK, population.total(), entries).expect("a sample is in order");
    let mut kept = Vec::new();
    let mut equal = 0;
    let comparing = timed(&mut || {
        kept = manifest.to_bytes();
        let read = Manifest::from_bytes(&kept).expect("as it was written");
        equal = read.compare(&hashes).equal;
    });
    assert_eq!(equal, hashes.len() as u64);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{}",
        json!({
            "blake3_gb_per_second": per_second(&mut blake3),
            "spans_gb_per_second": per_second(&mut spans),
            "sha256_gb_per_second": per_second(&mut sha256),
            "spans": {
                "most": full.spans(),
                "comparing_us": micros(comparing_spans),
                "kept_bytes": full.to_bytes().len(),
            },
            "sample": {
                "blocks": hashes.len(),
                "of": population.total(),
                "choosing_us": micros(choosing),
                "hashing_us": micros(hashing),
                "comparing_us": micros(comparing),
                "read_bytes": hashes.len() as u64 * BLOCK_BYTES,
                "kept_bytes": kept.len(),
            },
        })
    );
}
