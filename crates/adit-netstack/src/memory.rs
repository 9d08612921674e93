//! The budget of buffer memory.

use crate::Budget;

/// The smallest buffer of one direction: slow on a long path, but better than no connection.
const MIN_BUFFER: usize = 8 * 1024;
/// The largest buffer that a connection begins with.
const FIRST_BUFFER: usize = 1 << 20;
const PAGE: usize = 4096;

/// Buffer memory of all flows.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: Budget,
    used: usize,
}

impl Memory {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, used: 0 }
    }

    /// Takes the buffers of a flow out of the budget: bytes per direction, or `None` when it is used up.
    ///
    /// A flow's share falls with the cube of the part that is free, so that the first flows get all they can use
    /// and thousands more still find a place.
    pub(crate) fn reserve_flow(&mut self) -> Option<usize> {
        let free = self.budget.bytes.saturating_sub(self.used);
        let part = free as f64 / self.budget.bytes.max(1) as f64;
        let largest = self.max_buffer().min(FIRST_BUFFER);
        let share = (largest as f64 * part * part * part) as usize;
        let buffer = share.min(free / 2).max(MIN_BUFFER) / PAGE * PAGE;
        self.reserve(2 * buffer).then_some(buffer)
    }

    /// The largest buffer of one direction that a flow may ever have.
    pub(crate) fn max_buffer(&self) -> usize {
        self.budget.max_flow / 2
    }

    /// Takes what doubles a buffer of `size` bytes out of the budget; returns the new size. `None` if it is as large as it
    /// may be, or if more than half of the budget would be used, which is for connections to come.
    pub(crate) fn double(&mut self, size: usize) -> Option<usize> {
        let larger = (2 * size).min(self.max_buffer());
        let more = larger.saturating_sub(size);
        let fits = more > 0 && self.used + more <= self.budget.bytes / 2;
        (fits && self.reserve(more)).then_some(larger)
    }

    /// Takes `bytes` out of the budget; `false` when it is used up.
    pub(crate) fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.used + bytes <= self.budget.bytes;
        if fits {
            self.used += bytes;
        }
        fits
    }

    /// Gives back what was reserved.
    pub(crate) fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "more is given back than was taken");
        self.used = self.used.saturating_sub(bytes);
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_flow_gets_the_most_and_thousands_find_a_place() {
        let mut memory = Memory::new(Budget::default());
        let mut sizes = Vec::new();
        while let Some(buffer) = memory.reserve_flow() {
            sizes.push(buffer);
        }
        assert_eq!(sizes[0], 1 << 20);
        assert!(sizes[100] >= 240 << 10 && sizes[1000] >= 16 << 10, "{} {}", sizes[100], sizes[1000]);
        assert!(sizes.is_sorted_by(|a, b| a >= b));
        assert!(sizes.len() > 4500, "{}", sizes.len());
        assert!(memory.used() <= Budget::default().bytes);
    }

    #[test]
    fn buffers_double_until_they_are_large_enough_or_half_of_the_budget_is_used() {
        let mut memory = Memory::new(Budget { bytes: 64 << 20, max_flow: 16 << 20 });
        let first = memory.reserve_flow().unwrap();
        assert_eq!(first, FIRST_BUFFER);
        let mut size = first;
        while let Some(larger) = memory.double(size) {
            assert!(larger > size);
            size = larger;
        }
        assert_eq!((size, memory.used()), (8 << 20, 9 << 20));
        while memory.used() + (7 << 20) <= 32 << 20 {
            let mut size = FIRST_BUFFER;
            while let Some(larger) = memory.double(size) {
                size = larger;
            }
        }
        assert_eq!(memory.double(4 << 20).filter(|_| memory.used() > 32 << 20), None);
        assert!(memory.used() <= 32 << 20);
        assert!(memory.reserve_flow().is_some(), "a connection finds a place");
    }

    #[test]
    fn what_is_released_can_be_taken_again() {
        let mut memory = Memory::new(Budget { bytes: 17 << 10, max_flow: 2 << 20 });
        assert_eq!(memory.reserve_flow(), Some(MIN_BUFFER));
        assert_eq!(memory.reserve_flow(), None);
        memory.release(2 * MIN_BUFFER);
        assert_eq!(memory.reserve_flow(), Some(MIN_BUFFER));
    }
}
