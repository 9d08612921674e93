//! Round trips: the smoothed one, its variation, the shortest, and the retransmission timeout of them
//! (RFC 6298).

use super::time::{MS, Time};

/// Shortest time that the retransmission timeout adds to the round trip (Linux; RFC 6298 asks for a second).
pub(super) const MIN_RTO: u64 = 200 * MS;

/// Longest retransmission timeout, and longest time between two window probes.
pub(super) const MAX_RTO: u64 = 120_000 * MS;

/// Retransmission timeout before the first sample (RFC 6298, section 2).
const FIRST_RTO: u64 = 1000 * MS;

/// The shortest round trip is forgotten after this: the path may have changed (Linux, `tcp_min_rtt_wlen`).
const MIN_RTT_WINDOW: u64 = 300_000 * MS;

/// Estimates of the round trip, in nanoseconds.
#[derive(Debug)]
pub(super) struct Rtt {
    smoothed: u64,
    variation: u64,
    shortest: u64,
    shortest_at: Time,
    /// Samples in this round trip and in the last one.
    samples: u32,
    expected: u32,
}

impl Rtt {
    pub(super) fn new() -> Self {
        Self {
            smoothed: 0,
            variation: 0,
            shortest: u64::MAX,
            shortest_at: Time::START,
            samples: 0,
            expected: 1,
        }
    }

    /// Takes a sample. With several in a round trip each weighs less (RFC 7323, appendix G).
    pub(super) fn sample(&mut self, rtt: u64) {
        let rtt = rtt.clamp(1, MAX_RTO);
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (rtt, rtt / 2);
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let weight = u64::from(self.expected.max(1));
        self.variation = mix(self.variation, self.smoothed.abs_diff(rtt), 4 * weight);
        self.smoothed = mix(self.smoothed, rtt, 8 * weight).max(1);
    }

    /// Takes note of a sample that is exact, and not of a retransmission.
    pub(super) fn note_shortest(&mut self, now: Time, rtt: u64) {
        if rtt <= self.shortest || now.since(self.shortest_at) > MIN_RTT_WINDOW {
            (self.shortest, self.shortest_at) = (rtt.max(1), now);
        }
    }

    /// A round trip is over.
    pub(super) fn end_round(&mut self) {
        self.expected = self.samples.max(1);
        self.samples = 0;
    }

    /// The smoothed round trip.
    pub(super) fn smoothed(&self) -> Option<u64> {
        (self.smoothed > 0).then_some(self.smoothed)
    }

    /// The shortest round trip.
    pub(super) fn shortest(&self) -> Option<u64> {
        (self.shortest != u64::MAX).then_some(self.shortest)
    }

    /// The retransmission timeout after so many expiries in a row.
    pub(super) fn timeout(&self, backoff: u8) -> u64 {
        let base = match self.smoothed {
            0 => FIRST_RTO,
            smoothed => smoothed + (4 * self.variation).max(MIN_RTO),
        };
        base.clamp(MIN_RTO, MAX_RTO).saturating_mul(1 << backoff.min(16)).min(MAX_RTO)
    }
}

/// Moves `value` towards `sample` by one part in `weight`.
fn mix(value: u64, sample: u64, weight: u64) -> u64 {
    if sample >= value { value + (sample - value) / weight } else { value - (value - sample) / weight }
}
