//! The window of packet numbers that may still come.

/// Which packet numbers were seen: all below the window count as seen (RFC 6479's ring of words, without its shifts).
///
/// The reference implementation also forgets numbers by age; a window by number alone lets nothing through twice.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// One bit for each number, at its value modulo the number of bits; at least one word more than the window.
    words: Box<[u64]>,
    size: u64,
    highest: u64,
}

impl Replay {
    /// A window over `size` numbers, bounded to 1..=65536.
    pub(crate) fn new(size: u32) -> Self {
        let size = u64::from(size.clamp(1, 1 << 16));
        let words = (size.div_ceil(64) + 1).next_power_of_two();
        Self { words: vec![0; words as usize].into_boxed_slice(), size, highest: 0 }
    }

    /// Forgets everything, for a new key.
    pub(crate) fn reset(&mut self) {
        self.words.fill(0);
        self.highest = 0;
    }

    /// Whether `id` may be accepted. Zero never is.
    pub(crate) fn is_fresh(&self, id: u64) -> bool {
        if id > self.highest {
            return true;
        }
        id != 0 && self.highest - id < self.size && self.words[self.word(id)] & bit(id) == 0
    }

    /// Takes note of an authentic packet; the answer is that of [`is_fresh`](Self::is_fresh).
    pub(crate) fn accept(&mut self, id: u64) -> bool {
        if !self.is_fresh(id) {
            return false;
        }
        let (from, to) = (self.highest >> 6, id >> 6);
        if to > from {
            // What the ring wraps over is stale.
            for word in from + 1..=to.min(from + self.words.len() as u64) {
                let index = (word as usize) & (self.words.len() - 1);
                self.words[index] = 0;
            }
        }
        self.highest = self.highest.max(id);
        let word = self.word(id);
        self.words[word] |= bit(id);
        true
    }

    /// Below the number of words, which is a power of two.
    fn word(&self, id: u64) -> usize {
        (id >> 6) as usize & (self.words.len() - 1)
    }
}

fn bit(id: u64) -> u64 {
    1 << (id & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_number_passes_once_and_only_inside_the_window() {
        let mut window = Replay::new(64);
        assert!(!window.accept(0));
        assert!(window.accept(100) && !window.accept(100));
        assert!(window.accept(37) && !window.accept(37));
        assert!(!window.accept(36), "64 numbers ending with 100 begin with 37");
        assert!(window.accept(1 << 40) && !window.accept(100));
    }

    proptest! {
        #[test]
        fn the_window_answers_like_a_set_of_all_numbers(
            size in 1u32..300, start in prop::sample::select(vec![1u64, 60, 1 << 32, (1 << 48) - 3000]),
            steps in proptest::collection::vec((any::<bool>(), 0u64..400), 1..400),
        ) {
            let mut window = Replay::new(size);
            let (mut seen, mut highest, mut at) = (HashSet::new(), 0u64, start);
            for (forward, step) in steps {
                at = if forward { at + step } else { at.saturating_sub(step) };
                let fresh = at != 0 && !seen.contains(&at) && at + u64::from(size) > highest;
                prop_assert_eq!(window.is_fresh(at), fresh, "{} with the highest {}", at, highest);
                prop_assert_eq!(window.accept(at), fresh);
                if fresh {
                    seen.insert(at);
                    highest = highest.max(at);
                }
            }
        }
    }
}
