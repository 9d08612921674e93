//! Everything unpredictable comes from the injected seed: hash keys, ports, sequence numbers, identifiers.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// SipHash keyed by the seed, so that peers, who choose ports, cannot choose collisions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64);

impl Keyed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        // `DefaultHasher::new` has fixed keys; the secret prefix takes their place.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// A stream of numbers that cannot be foretold without the seed.
#[derive(Debug)]
pub(crate) struct Random {
    key: Keyed,
    count: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: Keyed::new(!seed), count: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.count += 1;
        self.key.hash_one(self.count)
    }

    /// The number that belongs to `what`, for example to the addresses of a connection (RFC 6528 §3).
    pub(crate) fn of(&self, what: &impl Hash) -> u64 {
        self.key.hash_one(what)
    }
}
