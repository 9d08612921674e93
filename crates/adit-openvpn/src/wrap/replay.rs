//! Replay protection of control packets: a counter and the time at which it began.

use adit_tunnel::Dropped;

use super::REPLAY;

/// How far behind the newest id a packet may come. Twice what the reference uses is not needed: at most 64 packets of
/// a negotiation are under way.
const WINDOW: u32 = 64;

/// Our ids. They count up by one with every packet sent, retransmissions included.
#[derive(Debug)]
pub(super) struct Counter {
    next: u32,
    time: u32,
}

impl Counter {
    pub(super) fn new(first: u32, time: u32) -> Self {
        Self { next: first, time }
    }

    /// The next id and the time, as they are sent.
    pub(super) fn next(&mut self) -> [u8; REPLAY] {
        let (id, time) = (self.next, self.time);
        (self.next, self.time) = match id.checked_add(1) {
            Some(next) => (next, time),
            // A later time begins a new series, in which ids may start over.
            None => (1, time.wrapping_add(1)),
        };
        let mut bytes = [0; REPLAY];
        let (first, second) = bytes.split_at_mut(4);
        first.copy_from_slice(&id.to_be_bytes());
        second.copy_from_slice(&time.to_be_bytes());
        bytes
    }
}

/// The ids that were received.
#[derive(Debug, Default)]
pub(super) struct Window {
    time: Option<u32>,
    newest: u32,
    /// Bit n: `newest - n` was received.
    seen: u64,
}

impl Window {
    /// The time of the present series.
    pub(super) fn time(&self) -> Option<u32> {
        self.time
    }

    /// Takes an id and time that have been authenticated.
    pub(super) fn check(&mut self, replay: [u8; REPLAY]) -> Result<(), Dropped> {
        let [a, b, c, d, e, f, g, h] = replay;
        let (id, time) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        if id == 0 || self.time.is_some_and(|present| time < present) {
            return Err(Dropped::Replayed);
        }
        if self.time != Some(time) {
            *self = Self { time: Some(time), newest: id, seen: 1 };
            return Ok(());
        }
        if id > self.newest {
            let ahead = id - self.newest;
            self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
            self.newest = id;
            return Ok(());
        }
        let behind = self.newest - id;
        let bit = 1u64.checked_shl(behind).unwrap_or(0);
        if bit == 0 || self.seen & bit != 0 {
            return Err(Dropped::Replayed);
        }
        self.seen |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn replay(id: u32, time: u32) -> [u8; 8] {
        Counter::new(id, time).next()
    }

    #[test]
    fn a_later_time_begins_a_new_series_and_an_earlier_one_is_over() {
        let mut window = Window::default();
        assert_eq!(window.check(replay(5, 100)), Ok(()));
        assert_eq!(window.check(replay(1, 101)), Ok(()));
        assert_eq!(window.check(replay(6, 100)), Err(Dropped::Replayed));
        assert_eq!(window.check(replay(0, 102)), Err(Dropped::Replayed), "0 is no id");
    }

    #[test]
    fn our_counter_goes_on_in_a_new_series_when_it_is_used_up() {
        let mut counter = Counter::new(u32::MAX, 7);
        assert_eq!(counter.next(), [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 7]);
        assert_eq!(counter.next(), [0, 0, 0, 1, 0, 0, 0, 8]);
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(ids in proptest::collection::vec(1u32..200, 0..300)) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            for id in ids {
                let newest = seen.last().copied().unwrap_or(0);
                let fresh = id + WINDOW > newest && !seen.contains(&id);
                prop_assert_eq!(window.check(replay(id, 9)).is_ok(), fresh, "{}", id);
                if fresh {
                    seen.insert(id);
                }
            }
        }
    }
}
