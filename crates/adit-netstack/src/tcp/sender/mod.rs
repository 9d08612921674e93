//! The sending half of a connection: which bytes leave when.
//!
//! A [`Sender`] knows offsets, not bytes: 0 is the first byte of the payload, a FIN is one unit after the last,
//! and the SYN is none of its business. After [`handle_ack`](Sender::handle_ack),
//! [`handle_timeout`](Sender::handle_timeout) and new data its owner calls
//! [`poll_transmit`](Sender::poll_transmit) until `None`, then arms a timer for
//! [`poll_timeout`](Sender::poll_timeout). Time is an argument: when the packets were read, not when they are
//! looked at.

mod api;

use std::time::{Duration, Instant};

pub(crate) use api::{Ack, Blocked, Control, Kind, Segment, SenderConfig, SenderStats, TICK};

/// Shortest retransmission timeout (RFC 6298 asks for a second, Linux has this).
const MIN_RTO: Duration = Duration::from_millis(200);

/// Longest retransmission timeout, and longest time between two window probes.
const MAX_RTO: Duration = Duration::from_secs(120);

/// Retransmission timeout before the first sample (RFC 6298, section 2).
const FIRST_RTO: Duration = Duration::from_secs(1);

/// The sending half of one connection.
#[derive(Debug)]
pub(crate) struct Sender {
    mss: u32,
    unacknowledged: u64,
    /// What leaves next; it goes back when data is taken for lost.
    cursor: u64,
    /// End of what was ever sent.
    next: u64,
    /// Right edge of the peer's window.
    edge: u64,
    window: u64,
    threshold: u64,
    duplicates: u32,
    /// Recovery lasts until this offset is acknowledged.
    recover: Option<u64>,
    srtt: Option<Duration>,
    variation: Duration,
    backoff: u32,
    timer: Option<Instant>,
    stats: SenderStats,
}

impl Sender {
    /// A sender at offset 0.
    pub(crate) fn new(config: &SenderConfig, _now: Instant) -> Self {
        let mss = u32::from(config.mss.max(1));
        let mut sender = Self {
            mss,
            unacknowledged: 0,
            cursor: 0,
            next: 0,
            edge: config.window,
            window: u64::from(mss) * u64::from(config.initial_window.max(1)),
            threshold: u64::MAX,
            duplicates: 0,
            recover: None,
            srtt: None,
            variation: Duration::ZERO,
            backoff: 0,
            timer: None,
            stats: SenderStats::default(),
        };
        if let Some(rtt) = config.handshake {
            sender.sample(rtt);
        }
        sender
    }

    /// Sets the payload of a full packet. What is outstanding and does not fit is sent again in smaller pieces.
    pub(crate) fn set_mss(&mut self, _now: Instant, mss: u16) {
        let mss = u32::from(mss.max(1));
        if mss < self.mss {
            self.cursor = self.unacknowledged;
        }
        self.mss = mss;
    }

    /// Takes note of what the peer says. Returns how many units are newly acknowledged for good.
    pub(crate) fn handle_ack(&mut self, now: Instant, ack: &Ack<'_>) -> u64 {
        if ack.acknowledged > self.next || ack.acknowledged < self.unacknowledged {
            return 0;
        }
        let edge = ack.window.map_or(self.edge, |window| ack.acknowledged.saturating_add(window));
        let moved = edge != self.edge;
        self.edge = edge;
        let new = ack.acknowledged - self.unacknowledged;
        if new == 0 {
            if ack.bare && !moved && self.next > self.unacknowledged {
                self.duplicate(now);
            }
            return 0;
        }
        self.unacknowledged = ack.acknowledged;
        self.cursor = self.cursor.max(ack.acknowledged);
        self.duplicates = 0;
        self.backoff = 0;
        if let Some(sent) = ack.echo {
            self.sample(now.saturating_duration_since(sent));
        }
        if self.recover.is_some_and(|recover| ack.acknowledged >= recover) {
            self.recover = None;
        }
        if self.window < self.threshold {
            self.window += new;
        } else {
            self.window += u64::from(self.mss) * new / self.window.max(1);
        }
        self.timer = (self.next > self.unacknowledged).then(|| now + self.rto());
        new
    }

    /// Does what [`Self::poll_timeout`] asked for.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.timer.is_none_or(|timer| timer > now) || self.next == self.unacknowledged {
            return;
        }
        self.backoff += 1;
        self.timer = Some(now + self.rto());
        self.stats.timeouts += 1;
        self.reduce();
        self.window = u64::from(self.mss);
        self.cursor = self.unacknowledged;
    }

    /// What has to be sent at `now`: at most `max` bytes of the data that ends at `available`.
    pub(crate) fn poll_transmit(&mut self, now: Instant, available: u64, max: u32) -> Option<Segment> {
        let mss = u64::from(self.mss);
        let limit = (self.unacknowledged + self.window).min(self.edge).min(available.max(self.next));
        let length = limit.saturating_sub(self.cursor);
        let most = (u64::from(max) / mss).max(1) * mss;
        let length = length.min(most);
        if length == 0 {
            if self.edge <= self.unacknowledged && self.next == self.unacknowledged && available > self.next {
                return self.probe(now);
            }
            return None;
        }
        let kind = if self.cursor < self.next { Kind::Retransmit } else { Kind::New };
        let segment = Segment { start: self.cursor, end: self.cursor + length, kind };
        self.cursor = segment.end;
        if kind == Kind::Retransmit {
            self.stats.retransmitted += length;
        }
        self.next = self.next.max(segment.end);
        if self.timer.is_none() {
            self.timer = Some(now + self.rto());
        }
        Some(segment)
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_transmit`] have to be called again. In the future after
    /// `poll_transmit` returned `None`.
    pub(crate) fn poll_timeout(&self, _now: Instant, _available: u64) -> Option<Instant> {
        self.timer
    }

    /// The path works again: what waits for the retransmission timer is due now, and waits start anew.
    pub(crate) fn nudge(&mut self, now: Instant) {
        if self.timer.is_some() && self.backoff > 0 {
            self.backoff = 0;
            self.timer = Some(now);
            self.handle_timeout(now);
            self.backoff = 0;
        }
    }

    /// Everything before it has arrived.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    /// End of what was ever sent.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Payload of a full packet.
    pub(crate) fn mss(&self) -> u16 {
        u16::try_from(self.mss).unwrap_or(u16::MAX)
    }

    /// The congestion window in bytes.
    pub(crate) fn congestion_window(&self) -> u64 {
        self.window
    }

    /// The smoothed round trip, once there was a sample.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// How often in a row a timer expired without an answer: retransmissions or window probes.
    pub(crate) fn unanswered(&self) -> u32 {
        self.backoff
    }

    /// Counters and state.
    pub(crate) fn stats(&self) -> SenderStats {
        self.stats
    }

    fn duplicate(&mut self, now: Instant) {
        self.duplicates += 1;
        if self.duplicates == 3 && self.recover.is_none() {
            self.reduce();
            self.window = self.threshold;
            self.cursor = self.unacknowledged;
            self.timer = Some(now + self.rto());
        }
    }

    fn reduce(&mut self) {
        if self.recover.is_none() {
            self.threshold = ((self.next - self.unacknowledged) / 2).max(2 * u64::from(self.mss));
        }
        self.recover = Some(self.next);
        self.stats.lost += self.next - self.unacknowledged;
    }

    fn probe(&mut self, now: Instant) -> Option<Segment> {
        match self.timer {
            None => {
                self.timer = Some(now + self.rto());
                None
            }
            Some(timer) if timer <= now => {
                self.backoff += 1;
                self.timer = Some(now + self.rto());
                let at = self.unacknowledged;
                Some(Segment { start: at, end: at, kind: Kind::WindowProbe })
            }
            Some(_) => None,
        }
    }

    fn sample(&mut self, rtt: Duration) {
        match self.srtt {
            None => (self.srtt, self.variation) = (Some(rtt), rtt / 2),
            Some(srtt) => {
                self.variation = (self.variation * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    fn rto(&self) -> Duration {
        let base = self.srtt.map_or(FIRST_RTO, |srtt| srtt + (self.variation * 4).max(MIN_RTO));
        base.saturating_mul(1 << self.backoff.min(10)).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests;
