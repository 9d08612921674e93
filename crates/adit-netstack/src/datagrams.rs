//! A bounded queue of datagrams in one piece of memory.

use std::collections::VecDeque;

/// Datagrams, oldest first, each with something known about it.
#[derive(Debug)]
pub(crate) struct Datagrams<M> {
    bytes: Vec<u8>,
    /// Where the oldest datagram starts; everything before is free.
    start: usize,
    entries: VecDeque<(M, usize)>,
    limit: usize,
    max_entries: usize,
}

impl<M: Copy> Datagrams<M> {
    /// A queue of at most `limit` bytes in at most `max_entries` datagrams. Memory is taken when needed.
    pub(crate) fn new(limit: usize, max_entries: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, entries: VecDeque::new(), limit, max_entries }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a datagram of `len` zeroes and returns it to be filled; `None` when the queue is full.
    pub(crate) fn push(&mut self, meta: M, len: usize) -> Option<&mut [u8]> {
        let used = self.bytes.len() - self.start;
        if used + len > self.limit || self.entries.len() >= self.max_entries {
            return None;
        }
        if self.bytes.len() + len > self.bytes.capacity() && self.start > 0 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(used);
            self.start = 0;
        }
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        self.entries.push_back((meta, len));
        Some(&mut self.bytes[at..])
    }

    /// Hands datagrams to `take` until it returns `false` (that one stays) or none is left; says whether none is.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(M, &[u8]) -> bool) -> bool {
        while let Some(&(meta, len)) = self.entries.front() {
            if !take(meta, &self.bytes[self.start..self.start + len]) {
                return false;
            }
            self.entries.pop_front();
            self.start += len;
        }
        self.bytes.clear();
        self.start = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered_within_the_limits(steps in proptest::collection::vec((any::<bool>(), 0usize..40), 0..100)) {
            let mut queue = Datagrams::new(100, 5);
            let mut model: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
            for (number, (push, n)) in steps.into_iter().enumerate() {
                if push {
                    let used: usize = model.iter().map(|(_, bytes)| bytes.len()).sum();
                    let place = queue.push(number, n);
                    prop_assert_eq!(place.is_some(), used + n <= 100 && model.len() < 5);
                    if let Some(place) = place {
                        place.fill(number as u8);
                        model.push_back((number, vec![number as u8; n]));
                    }
                } else {
                    let mut left = n;
                    queue.drain(|number, bytes| {
                        if left == 0 {
                            return false;
                        }
                        left -= 1;
                        let (expected, content) = model.pop_front().unwrap();
                        expected == number && content == bytes
                    });
                }
            }
            queue.drain(|number, bytes| model.pop_front() == Some((number, bytes.to_vec())));
            prop_assert!(queue.is_empty() && model.is_empty());
        }
    }
}
