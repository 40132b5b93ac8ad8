//! Chance that can be had again: numbers drawn from a seed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    match std::env::var("NKV_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("NKV_CHAOS_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0) % 1_000_000,
    }
}

/// Numbers that look random (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    /// One of many that a seed has.
    pub(crate) fn new(seed: u64, number: u64) -> Random {
        let mixed = (seed << 20) ^ number;
        let mut random = Random(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Whether something happens that does so once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time of less than so many milliseconds.
    pub(crate) fn pause(&mut self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.below(milliseconds))
    }
}
