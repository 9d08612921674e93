//! Pacing: data leaves at a rate, in portions of about a millisecond.

use super::time::{MS, Time};

/// What is due within this may leave now.
const SLACK: u64 = MS / 4;

/// A driver that comes late may catch up on this much.
const CREDIT: u64 = 2 * MS;

/// The rate and when the next portion may leave.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Bytes per nanosecond; 0 if data is not paced.
    rate: f64,
    next: Time,
}

impl Pacing {
    pub(super) fn new() -> Self {
        Self { rate: 0.0, next: Time::START }
    }

    /// Sets the rate in bytes per nanosecond, 0 for none.
    pub(super) fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }

    /// When more may leave, unless that is now.
    pub(super) fn wait(&self, now: Time) -> Option<Time> {
        (self.rate > 0.0 && self.next > now.after(SLACK)).then(|| self.next.before(SLACK))
    }

    /// So many bytes leave now.
    pub(super) fn spend(&mut self, now: Time, bytes: u64) {
        if self.rate > 0.0 {
            let cost = bytes as f64 / self.rate;
            self.next = self.next.max(now.before(CREDIT)).after(cost as u64);
        }
    }

    /// Nothing was on its way: waiting gives credit for no more than what may leave now.
    pub(super) fn idle(&mut self, now: Time) {
        self.next = self.next.max(now);
    }

    /// The size of a portion: what leaves in a millisecond, or all if data is not paced.
    pub(super) fn portion(&self) -> u64 {
        if self.rate > 0.0 { (self.rate * MS as f64) as u64 } else { u64::MAX }
    }
}
