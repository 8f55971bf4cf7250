//! Ids and random bytes.

use std::sync::Mutex;

use rand::rngs::{OsRng, StdRng};
use rand::{RngCore, SeedableRng, TryRngCore};
use uuid::Uuid;

/// A source of random values. Everything random in the project comes from here.
pub trait Ids: Send + Sync {
    /// Fills `buf` with random bytes. In production they come from the operating system and are fit
    /// for keys and nonces.
    fn fill(&self, buf: &mut [u8]);

    /// A random UUID (version 4).
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A random number.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// `2 * len` lower-case hexadecimal digits.
    fn hex(&self, len: usize) -> String {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The operating system's randomness.
#[derive(Debug)]
pub struct OsIds;

impl Ids for OsIds {
    fn fill(&self, buf: &mut [u8]) {
        OsRng.try_fill_bytes(buf).expect("a machine without randomness cannot hold keys");
    }
}

/// Repeats itself for equal seeds: for tests and simulations, never for keys.
#[derive(Debug)]
pub struct SeededIds {
    rng: Mutex<StdRng>,
}

impl SeededIds {
    /// A source that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }
}

impl Ids for SeededIds {
    fn fill(&self, buf: &mut [u8]) {
        self.rng.lock().expect("no code panics while holding this lock").fill_bytes(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_ids_and_different_seeds_do_not() {
        assert_eq!(SeededIds::new(7).uuid(), SeededIds::new(7).uuid());
        assert_ne!(SeededIds::new(7).hex(8), SeededIds::new(8).hex(8));
    }
}
