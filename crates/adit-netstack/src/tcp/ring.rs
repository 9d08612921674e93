//! The bytes of one direction, by their offset in the stream.

/// What the first byte takes from the system.
const FIRST: usize = 2048;
/// How much larger a ring becomes when it is too small.
const GROWTH: usize = 4;

/// A window of a stream that moves on: a ring whose memory is taken as it is needed, up to a limit.
///
/// Bytes may be written in any order; which of them mean something is for the owner to know.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: Vec<u8>,
    limit: usize,
    /// The offset of the first byte that is kept.
    start: u64,
    /// The offset that lies at index 0, or did a number of turns ago.
    origin: u64,
}

impl Ring {
    /// Forgets everything, for another stream of up to `limit` bytes; memory stays, if it is not more than that.
    pub(crate) fn reset(&mut self, limit: usize) {
        (self.start, self.origin, self.limit) = (0, 0, limit);
        if self.bytes.len() > limit {
            self.bytes = Vec::new();
        }
    }

    /// Gives its memory back; there must be nothing in it.
    pub(crate) fn release(&mut self) {
        self.bytes = Vec::new();
        self.origin = self.start;
    }

    /// It may take more bytes from here on.
    pub(crate) fn raise(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// The offset of the first byte that is kept.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The offset of the first byte that does not fit.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.limit as u64
    }

    /// How many bytes it may take.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that it takes now.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the bytes before `to`. `is_empty`: no bytes beyond are of interest either.
    pub(crate) fn advance(&mut self, to: u64, is_empty: bool) {
        self.start = self.start.max(to);
        if is_empty {
            // The next bytes take the place of these, which is in the processor's cache.
            self.origin = self.start;
        }
    }

    /// Takes memory so that bytes before `end` can be written, as far as the limit allows.
    pub(crate) fn reserve(&mut self, end: u64) {
        let need = end.saturating_sub(self.start).min(self.limit as u64) as usize;
        if need > self.bytes.len() {
            self.grow(need);
        }
    }

    fn grow(&mut self, need: usize) {
        let size = (self.bytes.len() * GROWTH).max(FIRST).max(need.next_power_of_two()).min(self.limit);
        let old = std::mem::replace(&mut self.bytes, vec![0; size]);
        if old.is_empty() {
            self.origin = self.start;
            return;
        }
        let at = ((self.start - self.origin) % old.len() as u64) as usize;
        let (wrapped, first) = old.split_at(at);
        self.bytes[..first.len()].copy_from_slice(first);
        self.bytes[first.len()..first.len() + wrapped.len()].copy_from_slice(wrapped);
        self.origin = self.start;
    }

    /// Writes bytes at an offset, for which memory was reserved.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let [first, second] = self.slices_mut(at, at + bytes.len() as u64);
        let (head, tail) = bytes.split_at(first.len().min(bytes.len()));
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
    }

    /// The bytes between two offsets: a piece, and the rest of it behind a wrap.
    pub(crate) fn slices(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let (at, len) = self.place(from, to);
        let first = len.min(self.bytes.len() - at);
        [&self.bytes[at..at + first], &self.bytes[..len - first]]
    }

    /// As [`slices`](Self::slices), to be written.
    pub(crate) fn slices_mut(&mut self, from: u64, to: u64) -> [&mut [u8]; 2] {
        let (at, len) = self.place(from, to);
        let (front, back) = self.bytes.split_at_mut(at);
        let first = len.min(back.len());
        [&mut back[..first], &mut front[..len - first]]
    }

    fn place(&self, from: u64, to: u64) -> (usize, usize) {
        let capacity = self.bytes.len() as u64;
        debug_assert!(from >= self.start && to <= self.start + capacity, "outside of the ring");
        if capacity == 0 || from < self.origin {
            return (0, 0);
        }
        let len = to.min(self.start + capacity).saturating_sub(from);
        (((from - self.origin) % capacity) as usize, len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(limit: usize) -> Ring {
        Ring { limit, ..Ring::default() }
    }

    #[test]
    fn nothing_is_taken_before_the_first_byte() {
        let mut ring = ring(1 << 20);
        assert_eq!(ring.capacity(), 0);
        ring.reserve(5);
        assert_eq!(ring.capacity(), FIRST);
        ring.reserve(1 << 30);
        assert_eq!(ring.capacity(), 1 << 20);
    }

    #[test]
    fn a_ring_that_may_take_more_keeps_what_it_has() {
        let mut ring = ring(3000);
        ring.reserve(3000);
        ring.write(0, &[1; 2000]);
        ring.advance(1500, false);
        ring.write(2000, &[2; 2500]);
        ring.raise(10_000);
        ring.reserve(11_500);
        assert_eq!((ring.capacity(), ring.end()), (10_000, 11_500));
        ring.write(4500, &[3; 7000]);
        let all = ring.slices(1500, 11_500).concat();
        assert!(all == [vec![1; 500], vec![2; 2500], vec![3; 7000]].concat());
        ring.reset(5000);
        assert_eq!(ring.capacity(), 0, "a larger one than may be is given back");
    }

    #[test]
    fn an_empty_ring_begins_at_its_front_again() {
        let mut ring = ring(4096);
        ring.reserve(100);
        ring.write(0, &[1; 100]);
        ring.advance(100, true);
        assert_eq!(ring.slices_mut(100, 100 + FIRST as u64)[0].len(), FIRST);
    }

    proptest! {
        #[test]
        fn the_ring_agrees_with_a_whole_stream(
            limit in 1usize..9000,
            steps in proptest::collection::vec((0usize..5000, 0usize..3000, 0usize..4000), 1..60),
        ) {
            let mut ring = ring(limit);
            let mut stream = vec![0u8; 500_000];
            let mut known = 0u64..0u64;
            for (number, (ahead, len, forward)) in steps.into_iter().enumerate() {
                let at = ring.start() + ahead as u64;
                let end = (at + len as u64).min(ring.end());
                if at < end {
                    ring.reserve(end);
                    let bytes: Vec<u8> = (at..end).map(|n| (n * 7 + number as u64) as u8).collect();
                    ring.write(at, &bytes);
                    stream[at as usize..end as usize].copy_from_slice(&bytes);
                    known = if at <= known.end && end >= known.start && known.start < known.end {
                        known.start.min(at)..known.end.max(end)
                    } else {
                        at..end
                    };
                }
                if known.start < known.end {
                    let read = ring.slices(known.start, known.end).concat();
                    prop_assert_eq!(&read, &stream[known.start as usize..known.end as usize]);
                }
                let to = ring.start() + forward as u64;
                ring.advance(to, to >= known.end);
                known = known.start.max(to)..known.end.max(to);
            }
        }
    }
}
