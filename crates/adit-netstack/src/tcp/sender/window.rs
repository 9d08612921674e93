//! The congestion window, and what says whether it is used.

use super::time::Time;

/// The window and the size below which it grows by slow start, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: u64,
    pub(super) threshold: u64,
}

impl Window {
    pub(super) fn in_slow_start(&self) -> bool {
        self.size < self.threshold
    }
}

/// What happened within a round trip. A window that nothing ran into says nothing about the path and does not
/// grow.
#[derive(Debug)]
pub(super) struct Round {
    /// The round is over when this is acknowledged.
    pub(super) end: u64,
    /// The window was full in this round, and in the one before.
    limited: bool,
    was_limited: bool,
    /// The most that was in flight in this round, and in the one before.
    most: u64,
    was_most: u64,
    /// When the window was full for the last time, or was cut for not being so.
    pub(super) used_at: Time,
}

impl Round {
    pub(super) fn new() -> Self {
        Self { end: 0, limited: false, was_limited: false, most: 0, was_most: 0, used_at: Time::START }
    }

    /// The window is what keeps more from leaving.
    pub(super) fn limit(&mut self, now: Time) {
        self.limited = true;
        self.used_at = now;
    }

    pub(super) fn in_flight(&mut self, bytes: u64) {
        self.most = self.most.max(bytes);
    }

    /// The next round ends with `next`.
    pub(super) fn turn(&mut self, next: u64) {
        self.end = next;
        (self.was_limited, self.limited) = (self.limited, false);
        (self.was_most, self.most) = (self.most, 0);
    }

    /// The most that was in flight lately.
    pub(super) fn most(&self) -> u64 {
        self.most.max(self.was_most)
    }

    /// Whether `window` is used so much that it may grow.
    pub(super) fn uses(&self, window: &Window) -> bool {
        if window.in_slow_start() {
            return window.size < 2 * self.most();
        }
        self.limited || self.was_limited
    }
}
