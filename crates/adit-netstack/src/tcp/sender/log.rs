//! Every transmission in the order of time, until its fate is known.

use std::collections::VecDeque;

use super::ranges::Scoreboard;
use super::time::Time;

/// What was known about delivery when a transmission left; the rate sample of the BBR draft.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Bytes delivered by then.
    pub(super) delivered: u64,
    /// When the last of them were.
    pub(super) delivered_at: Time,
    /// When the flight began of which it is part.
    pub(super) first_sent: Time,
    /// Bytes in flight with it.
    pub(super) in_flight: u64,
    /// Bytes lost by then.
    pub(super) lost: u64,
    /// The application did not fill the path.
    pub(super) limited: bool,
}

/// One transmission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transmission {
    pub(super) sent: Time,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Missing if the transmission was taken for lost and is watched again.
    pub(super) sample: Option<Sample>,
}

/// Transmissions, oldest first. One is forgotten at the front when none of its bytes is still out.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Transmission>,
}

impl Log {
    pub(super) fn push(&mut self, transmission: Transmission) {
        self.entries.push_back(transmission);
    }

    /// The oldest transmission of which something is still out.
    pub(super) fn oldest(&mut self, board: &Scoreboard) -> Option<Transmission> {
        while let Some(front) = self.entries.front() {
            if front.end > board.unacknowledged() && board.is_out(front.start, front.end, front.sent) {
                return Some(*front);
            }
            self.entries.pop_front();
        }
        if self.entries.capacity() > 64 && board.is_empty() {
            self.entries = VecDeque::new();
        }
        None
    }

    /// When the oldest one left.
    pub(super) fn oldest_sent(&self) -> Option<Time> {
        self.entries.front().map(|front| front.sent)
    }

    /// The oldest one is watched only from `start` on, or no more.
    pub(super) fn trim(&mut self, start: u64) {
        if let Some(front) = self.entries.front_mut() {
            front.start = start;
            if front.start >= front.end {
                self.entries.pop_front();
            }
        }
    }

    /// The transmission at `sent` that carried the byte at `offset`.
    pub(super) fn find(&self, sent: Time, offset: u64) -> Option<&Transmission> {
        let after = self.entries.partition_point(|entry| (entry.sent, entry.start) <= (sent, offset));
        let entry = self.entries.get(after.checked_sub(1)?)?;
        (entry.sent == sent && offset < entry.end).then_some(entry)
    }

    /// Watches transmissions again that were taken for lost: `added` are at the end.
    pub(super) fn sort(&mut self) {
        self.entries.make_contiguous().sort_by_key(|entry| (entry.sent, entry.start));
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = &Transmission> {
        self.entries.iter()
    }
}
