//! Probing for more bandwidth in turns, and the bound of the long term that comes of it.

use super::{Acked, BETA, Bbr, Feedback, LOSS, MIN_PACKETS, State};
use crate::tcp::sender::time::{MS, Time};
use crate::tcp::sender::window::Window;

impl Bbr {
    pub(super) fn start_down(&mut self, now: Time, ack: &Acked) {
        self.go_down(now, ack.delivered);
        self.begin_round(ack);
    }

    fn go_down(&mut self, now: Time, entropy: u64) {
        self.state = State::Down;
        self.feedback = Feedback::Stopping;
        self.phase_start = now;
        self.losses_in_round = false;
        self.latest_rate = 0.0;
        self.latest_delivered = 0;
        // Between two and three seconds, so that flows do not probe together.
        self.wait = 2000 * MS + (entropy.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 1000 * MS;
        self.rounds_since_probe = 0;
    }

    /// The cycle of probing for more bandwidth (draft, section 5.3.3).
    pub(super) fn update_cycle(&mut self, window: &Window, ack: &Acked) {
        if !self.full {
            return;
        }
        self.adapt_high(window, ack);
        let elapsed = ack.now.since(self.phase_start);
        match self.state {
            State::Down | State::Cruise => {
                if self.is_time_to_probe(elapsed, ack.mss) {
                    self.state = State::Refill;
                    self.feedback = Feedback::Refilling;
                    self.low = u64::MAX;
                    self.low_rate = f64::INFINITY;
                    self.up_rounds = 0;
                    self.up_credit = 0.0;
                    self.begin_round(ack);
                } else if self.state == State::Down && self.is_drained(ack) {
                    self.state = State::Cruise;
                }
            }
            State::Refill if self.round_start => {
                self.state = State::Up;
                self.feedback = Feedback::Starting;
                self.probing = true;
                self.phase_start = ack.now;
                self.full_rate = ack.sample.rate;
                self.begin_round(ack);
            }
            State::Up => {
                let queued = self.product(1.25).is_some_and(|product| ack.in_flight >= product);
                if elapsed > self.shortest && queued {
                    self.start_down(ack.now, ack);
                }
            }
            _ => {}
        }
    }

    fn is_drained(&self, ack: &Acked) -> bool {
        ack.in_flight <= self.with_headroom(ack.mss)
            && self.product(1.0).is_some_and(|product| ack.in_flight <= product)
    }

    /// After a few seconds, or as soon as Reno would have grown by what a probe adds.
    fn is_time_to_probe(&self, elapsed: u64, mss: u64) -> bool {
        let packets = self.product(1.0).unwrap_or(0) / mss;
        elapsed > self.wait || self.rounds_since_probe >= packets.clamp(MIN_PACKETS, 63)
    }

    /// The bound of the long term (draft, section 5.5.10.2).
    fn adapt_high(&mut self, window: &Window, ack: &Acked) {
        if self.feedback == Feedback::Starting && self.round_start {
            self.feedback = Feedback::None;
        }
        if self.feedback == Feedback::Stopping && self.round_start {
            if !ack.sample.limited && self.state != State::ProbeRtt {
                self.bandwidth = [self.bandwidth[1], 0.0];
                if self.bandwidth[1] == 0.0 {
                    self.bandwidth[1] = ack.sample.rate;
                }
            }
            self.probing = false;
            self.feedback = Feedback::None;
        }
        let sample = &ack.sample;
        if sample.lost as f64 > LOSS * sample.in_flight as f64 {
            if self.probing {
                self.too_high(window, sample.in_flight, sample.limited, ack.now);
            }
            return;
        }
        if self.high == u64::MAX {
            return;
        }
        self.high = self.high.max(sample.in_flight);
        if self.state == State::Up {
            self.raise_high(window, ack);
        }
    }

    /// While it is reached, the bound grows as in slow start, from one packet a round trip.
    fn raise_high(&mut self, window: &Window, ack: &Acked) {
        if ack.limited && window.size >= self.high {
            let growth = (ack.mss << self.up_rounds.min(30)) as f64;
            self.up_credit += growth * ack.newly as f64 / window.size.max(1) as f64;
            let whole = self.up_credit as u64;
            self.up_credit -= whole as f64;
            self.high = self.high.saturating_add(whole.min(ack.newly));
        }
        if self.round_start {
            self.up_rounds = (self.up_rounds + 1).min(30);
        }
    }

    /// Too much was in flight.
    pub(super) fn too_high(&mut self, window: &Window, in_flight: u64, limited: bool, now: Time) {
        self.probing = false;
        if !limited {
            let target = self.product(1.0).unwrap_or(window.size).min(window.size);
            self.high = in_flight.max((BETA * target as f64) as u64);
        }
        if self.state == State::Up {
            self.go_down(now, in_flight);
        }
    }
}
