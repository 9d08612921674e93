//! Randomness that can be repeated.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A small generator (SplitMix64; Steele, Lea, Flood 2014): every run with the same seed draws the same numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The bias of the remainder is far below what a simulation can see.
        self.next_u64() % limit.max(1)
    }

    /// `true` in this share of all draws.
    pub fn chance(&mut self, share: f64) -> bool {
        // The upper 53 bits are as many as the fraction of an f64 holds.
        ((self.next_u64() >> 11) as f64 / (1u64 << 53) as f64) < share
    }
}

/// Runs `scenario` with the seeds `0..count`, or with the one that `ADIT_SEED` names. A failure prints its seed
/// and the command that repeats it, then goes on failing.
///
/// `test` is the test's path as the harness prints it, `command` what runs its binary (`cargo test -p … --test …`).
pub fn each_seed(command: &str, test: &str, count: u64, mut scenario: impl FnMut(u64)) {
    let chosen = std::env::var("ADIT_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = match chosen {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("seed {seed} failed; repeat it with:\n    ADIT_SEED={seed} {command} {test}");
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_chances_are_met() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..5).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        let mut rng = Rng::new(1);
        let hits = (0..10_000).filter(|_| rng.chance(0.1)).count();
        assert!((900..1100).contains(&hits), "{hits} of 10000 at 10 %");
    }
}
