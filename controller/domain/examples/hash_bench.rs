//! How fast blocks are hashed on one core, and what choosing and comparing a sample costs.
//!
//! Run by `cargo xtask bench hash`; prints one JSON object. BLAKE3 and SHA-256 take turns over the same
//! memory, which is larger than any cache: the ratio holds on a machine that is also doing other work.

use std::hint::black_box;
use std::time::Duration;

use azdr_domain::content::{
    BLOCK_BYTES, BlockHash, DEFAULT_SAMPLE, Manifest, Population, Seed, sample,
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
    let (mut blake3, mut sha256) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let hash = |b: &[u8]| {
            black_box(BlockHash::of(b));
        };
        blake3.push(timed(&mut || blocks().for_each(hash)));
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
            "sha256_gb_per_second": per_second(&mut sha256),
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
