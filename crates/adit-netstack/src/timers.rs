//! Deadlines in order: a binary heap that knows where each entry is, so that one entry per flow suffices and
//! nothing is allocated after the flow came to be.

use std::time::Instant;

const ABSENT: u32 = u32::MAX;

/// At most one deadline for each of a set of small numbers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Vec<(Instant, u32)>,
    /// Position in the heap by key.
    places: Vec<u32>,
}

impl Timers {
    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Sets, moves or removes the deadline of `key`.
    pub(crate) fn set(&mut self, key: u32, at: Option<Instant>) {
        let slot = key as usize;
        if slot >= self.places.len() {
            if at.is_none() {
                return;
            }
            self.places.resize(slot + 1, ABSENT);
        }
        match (self.places[slot], at) {
            (ABSENT, None) => {}
            (ABSENT, Some(at)) => {
                self.heap.push((at, key));
                self.up(self.heap.len() - 1);
            }
            (place, None) => self.remove(place as usize),
            (place, Some(at)) => {
                self.heap[place as usize].0 = at;
                self.up(place as usize);
                self.down(self.places[slot] as usize);
            }
        }
    }

    /// Removes and returns a key whose deadline is not after `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, key) = self.heap.first()?;
        (at <= now).then(|| {
            self.remove(0);
            key
        })
    }

    fn remove(&mut self, place: usize) {
        let (_, key) = self.heap.swap_remove(place);
        self.places[key as usize] = ABSENT;
        if let Some(&(_, moved)) = self.heap.get(place) {
            self.up(place);
            self.down(self.places[moved as usize] as usize);
        }
    }

    fn up(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        self.places[self.heap[place].1 as usize] = place as u32;
    }

    fn down(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(least) = children.min_by_key(|&child| self.heap[child]) else { break };
            if self.heap[place] <= self.heap[least] {
                break;
            }
            self.swap(place, least);
            place = least;
        }
        self.places[self.heap[place].1 as usize] = place as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_heap_agrees_with_a_map(steps in proptest::collection::vec((0u32..20, proptest::option::of(0u64..50)), 0..200)) {
            let start = Instant::now();
            let (mut timers, mut model) = (Timers::default(), BTreeMap::new());
            for (key, at) in steps {
                let at = at.map(|ms| start + Duration::from_millis(ms));
                timers.set(key, at);
                match at {
                    Some(at) => model.insert(key, at),
                    None => model.remove(&key),
                };
                prop_assert_eq!(timers.next(), model.values().min().copied());
            }
            while let Some(at) = timers.next() {
                let key = timers.pop_due(at).unwrap();
                prop_assert_eq!(model.remove(&key), Some(at));
            }
            prop_assert!(model.is_empty());
        }
    }
}
