//! The end of slow start before there are losses: HyStart++ (RFC 9406), and the train of ACKs of the older
//! HyStart.

use super::cubic::Growing;
use super::time::{MS, Time};

/// Smallest window in packets at which the end is looked for.
const LOW_WINDOW: u64 = 16;

/// Samples that a round needs (RFC 9406, section 4.3).
const SAMPLES: u8 = 8;

/// Rounds of conservative slow start.
const ROUNDS: u8 = 5;

/// The round trip has grown if it did by an eighth, within these bounds.
const RTT_THRESHOLD: (u64, u64) = (4 * MS, 16 * MS);

/// ACKs that follow each other this closely are a train.
const TRAIN_GAP: u64 = 2 * MS;

/// Below it ACKs are read in batches as long as the train.
const TRAIN_MIN_RTT: u64 = 2 * MS;

/// How the window grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// By what arrived.
    Full,
    /// By a quarter of that: conservative slow start.
    Quarter,
    /// Slow start is over.
    Stop,
}

/// What the rounds of slow start showed.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    end: u64,
    last: u64,
    current: u64,
    /// The shortest round trip when conservative slow start began; 0 outside it.
    base: u64,
    train: Time,
    train_end: Time,
    samples: u8,
    rounds: u8,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            end: 0,
            last: u64::MAX,
            current: u64::MAX,
            base: 0,
            train: Time::NEVER,
            train_end: Time::NEVER,
            samples: 0,
            rounds: 0,
        }
    }

    /// Looks at an ACK in slow start, with a window of `packets`.
    pub(super) fn on_ack(&mut self, ack: &Growing, packets: u64) -> Growth {
        if ack.unacknowledged > self.end {
            self.end = ack.next;
            (self.last, self.current) = (self.current, u64::MAX);
            self.samples = 0;
            (self.train, self.train_end) = (ack.now, ack.now);
            if self.base > 0 {
                self.rounds += 1;
                if self.rounds >= ROUNDS {
                    return Growth::Stop;
                }
            }
        }
        if self.is_train(ack) && packets >= LOW_WINDOW {
            return Growth::Stop;
        }
        if let Some(rtt) = ack.rtt {
            self.current = self.current.min(rtt);
            self.samples = self.samples.saturating_add(1);
        }
        self.judge(packets)
    }

    fn judge(&mut self, packets: u64) -> Growth {
        if self.base > 0 {
            if self.samples >= SAMPLES && self.current < self.base {
                self.base = 0;
                return Growth::Full;
            }
            return Growth::Quarter;
        }
        let known = self.samples >= SAMPLES && self.last != u64::MAX && packets >= LOW_WINDOW;
        let threshold = (self.last / 8).clamp(RTT_THRESHOLD.0, RTT_THRESHOLD.1);
        if known && self.current >= self.last.saturating_add(threshold) {
            self.base = self.current;
            self.rounds = 0;
            return Growth::Quarter;
        }
        Growth::Full
    }

    /// A run of ACKs without a gap as long as most of the round trip: the path is full. Pacing at twice the window
    /// a round trip spreads them over half of it, so that the threshold lies above.
    fn is_train(&mut self, ack: &Growing) -> bool {
        let Some(shortest) = ack.shortest.filter(|shortest| *shortest >= TRAIN_MIN_RTT) else { return false };
        if !self.train_end.is_set() || ack.now.since(self.train_end) > TRAIN_GAP {
            self.train_end = Time::NEVER;
            return false;
        }
        self.train_end = ack.now;
        ack.now.since(self.train) > shortest / 100 * 65
    }

    /// A loss has ended slow start; what comes after a timeout begins with fresh rounds.
    pub(super) fn stop(&mut self) {
        *self = Self { end: self.end, ..Self::new() };
    }
}
