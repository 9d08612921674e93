//! RACK: a transmission is lost if one that left sufficiently later has arrived (RFC 8985).

use super::time::{MS, Time};

/// What the driver's clock may be off by: times are those of batches.
const RESOLUTION: u64 = 1;

/// The reordering window grows to at most this many quarters of the shortest round trip.
const MAX_MULTIPLE: u8 = 20;

/// Recoveries without a duplicate after which the window is small again (RFC 8985, section 6.2).
const PERSIST: u8 = 16;

/// The latest transmission that has arrived, and how much reordering the path shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rack {
    /// When it left.
    pub(super) sent: Time,
    /// Where it ended.
    pub(super) end: u64,
    /// How long it took.
    pub(super) rtt: u64,
    /// Highest end of what has arrived.
    pub(super) forward: u64,
    /// Data has arrived out of order.
    pub(super) reordered: bool,
    multiple: u8,
    persist: u8,
    /// A duplicate widens the window again once this offset is acknowledged.
    widened: u64,
}

impl Rack {
    pub(super) fn new() -> Self {
        Self {
            sent: Time::START,
            end: 0,
            rtt: 0,
            forward: 0,
            reordered: false,
            multiple: 1,
            persist: PERSIST,
            widened: 0,
        }
    }

    /// A transmission has arrived.
    pub(super) fn arrived(&mut self, now: Time, sent: Time, end: u64) {
        if (sent, end) > (self.sent, self.end) {
            (self.sent, self.end, self.rtt) = (sent, end, now.since(sent));
        }
    }

    /// Something arrived twice: more reordering than the window bears. Widens it once a round trip.
    pub(super) fn duplicated(&mut self, unacknowledged: u64, next: u64) {
        if unacknowledged >= self.widened {
            self.multiple = (self.multiple + 1).min(MAX_MULTIPLE);
            self.persist = PERSIST;
            self.widened = next;
        }
    }

    /// A recovery is over.
    pub(super) fn recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.multiple = 1;
        }
    }

    /// How much later than it should a transmission may arrive. `eager`: enough has arrived after it, or losses
    /// are being mended anyway.
    pub(super) fn window(&self, eager: bool, shortest: Option<u64>, smoothed: Option<u64>) -> u64 {
        if !self.reordered && eager {
            return 0;
        }
        let quarter = shortest.unwrap_or(MS) / 4;
        (u64::from(self.multiple) * quarter).min(smoothed.unwrap_or(u64::MAX))
    }

    /// How long after its departure a transmission is lost, given the window.
    pub(super) fn patience(&self, window: u64) -> u64 {
        self.rtt + window + if window > 0 { RESOLUTION } else { 0 }
    }
}
