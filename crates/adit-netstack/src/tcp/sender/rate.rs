//! How fast data is delivered: a sample for each ACK (draft-ietf-ccwg-bbr, section 4.1).

use super::Sender;
use super::ack::Arrivals;
use super::log::Sample;
use super::time::Time;

/// What was delivered and lost in all.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) delivered: u64,
    /// When the latest of it was.
    pub(super) at: Time,
    /// When the flight began.
    pub(super) first_sent: Time,
    pub(super) lost: u64,
    /// The application did not fill the path before this much is delivered.
    pub(super) limited_until: u64,
}

/// What one ACK says about the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateSample {
    /// Bytes per nanosecond.
    pub(super) rate: f64,
    /// Bytes delivered since the newest delivered transmission left, and in all when it did.
    pub(super) delivered: u64,
    pub(super) prior_delivered: u64,
    /// Bytes in flight when it left, and lost since.
    pub(super) in_flight: u64,
    pub(super) lost: u64,
    /// The application did not fill the path.
    pub(super) limited: bool,
}

impl Delivery {
    pub(super) fn new() -> Self {
        Self { delivered: 0, at: Time::START, first_sent: Time::START, lost: 0, limited_until: 0 }
    }

    /// The state that a transmission takes along.
    pub(super) fn sample(&self, in_flight: u64) -> Sample {
        Sample {
            delivered: self.delivered,
            delivered_at: self.at,
            first_sent: self.first_sent,
            in_flight,
            lost: self.lost,
            limited: self.limited_until > 0,
        }
    }
}

impl Sender {
    /// Something leaves; nothing else is on its way if `alone`.
    pub(super) fn begin_flight(&mut self, now: Time, alone: bool) {
        if alone {
            self.delivery.first_sent = now;
            self.delivery.at = now;
        }
    }

    /// The application leaves the path idle.
    pub(super) fn limit_by_application(&mut self) {
        if self.board.lost() == 0 && self.in_flight() < self.window.size {
            self.delivery.limited_until = (self.delivery.delivered + self.in_flight()).max(1);
        }
    }

    /// Counts what arrived, and computes the rate of the newest transmission of it.
    pub(super) fn sample_rate(&mut self, now: Time, arrivals: &Arrivals) -> Option<RateSample> {
        if arrivals.delivered == 0 {
            return None;
        }
        let delivery = &mut self.delivery;
        delivery.delivered += arrivals.delivered;
        delivery.at = now;
        if delivery.delivered > delivery.limited_until {
            delivery.limited_until = 0;
        }
        let (sent, offset) = arrivals.newest?;
        let prior = self.log.find(sent, offset)?.sample?;
        delivery.first_sent = sent;
        let interval = sent.since(prior.first_sent).max(now.since(prior.delivered_at));
        let shortest = self.rtt.shortest().unwrap_or(0);
        let delivered = delivery.delivered - prior.delivered;
        Some(RateSample {
            // What comes faster than a round trip says nothing about the path.
            rate: if interval == 0 || interval < shortest { 0.0 } else { delivered as f64 / interval as f64 },
            delivered,
            prior_delivered: prior.delivered,
            in_flight: prior.in_flight,
            lost: delivery.lost - prior.lost,
            limited: prior.limited,
        })
    }
}
