//! What leaves now, and what is waited for. [`Sender::sendable`] alone decides, for sending and for timers.

use std::time::Instant;

use super::Sender;
use super::api::{Blocked, Kind, Segment};
use super::bbr::Bbr;
use super::control::Controller;
use super::log::Transmission;
use super::recovery::Phase;
use super::time::{MS, Time};

/// Below this window, in packets, and before any loss, data is not paced: that would cost short transfers half a
/// round trip.
const UNPACED: u64 = 64;

/// A round trip below this is shorter than timers are accurate: ACKs alone pace.
const UNPACED_RTT: u64 = MS;

/// A window is kept for this long without being used.
const KEEP: u64 = 1000 * MS;

/// What can be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sendable {
    Now(Segment),
    At(Time),
    Blocked(Blocked),
}

impl Sender {
    /// What has to be sent at `now`: at most `max` bytes of the data that ends at `available`.
    pub(crate) fn poll_transmit(&mut self, now: Instant, available: u64, max: u32) -> Option<Segment> {
        let now = self.time(now);
        self.largest = max.max(self.mss);
        self.run_timers(now);
        if self.board.is_empty() {
            self.wake(now, available);
        }
        match self.sendable(now, available) {
            Sendable::Now(segment) => {
                self.sent(now, &segment);
                Some(segment)
            }
            Sendable::At(_) => {
                self.block(now, available, Blocked::Pacing);
                None
            }
            Sendable::Blocked(reason) => {
                self.block(now, available, reason);
                None
            }
        }
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_transmit`] have to be called again. In the future after
    /// `poll_transmit` returned `None`.
    pub(crate) fn poll_timeout(&self, now: Instant, available: u64) -> Option<Instant> {
        let time = self.time(now);
        let mut at = self.retransmit_at.min(self.probe_at).min(self.reorder_at).min(self.persist_at);
        match self.sendable(time, available) {
            Sendable::Now(_) => return Some(now),
            Sendable::At(release) => at = at.min(release),
            Sendable::Blocked(_) => {}
        }
        at.instant(self.origin)
    }

    /// Decides what leaves at `now`.
    fn sendable(&self, now: Time, available: u64) -> Sendable {
        let (next, mss) = (self.board.next(), u64::from(self.mss));
        let available = available.max(next);
        if self.probe_due
            && let Some(segment) = self.probe_segment(available)
        {
            return Sendable::Now(segment);
        }
        let fresh = self.fresh().min(available - next).min(self.edge.saturating_sub(next));
        let (start, end, kind) = match self.board.first_lost() {
            Some((start, end)) if fresh == 0 => (start, end.min(self.edge), Kind::Retransmit),
            None if available == next => return Sendable::Blocked(Blocked::Application),
            _ => (next, available.min(self.edge), Kind::New),
        };
        if end <= start {
            return self.shut(now);
        }
        let in_flight = self.in_flight();
        if in_flight > 0 && in_flight + mss > self.window.size {
            return Sendable::Blocked(Blocked::Congestion);
        }
        if let Some(at) = self.pacing.wait(now).filter(|_| !self.is_urgent(kind)) {
            return Sendable::At(at);
        }
        let budget = (self.window.size.saturating_sub(in_flight) / mss).max(1) * mss;
        let goal = self.goal();
        let mut len = (end - start).min(goal).min(budget);
        if kind == Kind::New {
            if let Some(trial) = self.trial(now, start, end, in_flight) {
                return Sendable::Now(trial);
            }
            let waiting = available - next;
            if fresh == 0 && self.defers(now, budget, goal, waiting, in_flight) {
                return Sendable::Blocked(Blocked::Deferred);
            }
            if len < waiting && len < mss && in_flight > 0 && len < self.widest / 2 {
                return Sendable::Blocked(Blocked::Peer);
            }
            if len < waiting && len > mss {
                len -= len % mss;
            }
        }
        Sendable::Now(Segment { start, end: start + len, kind })
    }

    /// The peer takes nothing of what has to leave next. If nothing is on its way either, it is asked from time to
    /// time.
    fn shut(&self, now: Time) -> Sendable {
        if self.board.out() == 0 && self.persist_at <= now {
            let at = self.board.unacknowledged();
            return Sendable::Now(Segment { start: at, end: at, kind: Kind::WindowProbe });
        }
        Sendable::Blocked(Blocked::Peer)
    }

    /// Bytes of new data that go before retransmissions.
    fn fresh(&self) -> u64 {
        match &self.episode {
            Some(episode) if self.phase == Phase::Loss => episode.fresh,
            _ => 0,
        }
    }

    /// The first retransmission of an episode is not delayed by pacing.
    fn is_urgent(&self, kind: Kind) -> bool {
        kind == Kind::Retransmit && self.episode.as_ref().is_some_and(|episode| episode.repeated == 0)
    }

    /// Bytes that leave together: what the rate lets out in a millisecond, more where round trips are short.
    pub(super) fn goal(&self) -> u64 {
        let mss = u64::from(self.mss);
        let bonus = self.rtt.shortest().map_or(0, |rtt| 65_536 >> (rtt / (MS / 2)).min(31));
        let most = (u64::from(self.largest) / mss).max(1) * mss;
        let goal = self.pacing.portion().saturating_add(bonus).max(2 * mss).min(most);
        goal / mss * mss
    }

    /// Whether a larger segment is worth waiting for: more room is about to come with the next ACK.
    fn defers(&self, now: Time, budget: u64, goal: u64, waiting: u64, in_flight: u64) -> bool {
        let soon = || {
            let half = self.rtt.smoothed().unwrap_or(0) / 2;
            self.log.oldest_sent().is_some_and(|sent| now.since(sent) >= half)
        };
        self.phase == Phase::Open
            && in_flight > 0
            && budget < goal.min(self.window.size / 3)
            && budget < waiting
            && soon()
    }

    /// Nothing leaves for this reason.
    fn block(&mut self, now: Time, available: u64, reason: Blocked) {
        self.stats.blocked = reason;
        if reason != Blocked::Peer || self.board.out() > 0 {
            self.persist_at = Time::NEVER;
        }
        match reason {
            Blocked::Congestion | Blocked::Deferred => self.round.limit(now),
            Blocked::Pacing => {
                let room = self.window.size.saturating_sub(self.in_flight());
                let waiting = available.saturating_sub(self.board.next()) + self.board.lost();
                if waiting >= room {
                    self.round.limit(now);
                }
            }
            Blocked::Peer if self.board.out() == 0 && !self.persist_at.is_set() => {
                self.persist_at = now.after(self.rtt.timeout(self.backoff));
            }
            Blocked::Application => self.limit_by_application(),
            Blocked::Peer => {}
        }
    }

    /// New data comes after nothing was on its way.
    fn wake(&mut self, now: Time, available: u64) {
        if available <= self.board.next() || self.last_sent == Time::START {
            return;
        }
        self.pacing.idle(now);
        let idle = now.since(self.last_sent);
        self.last_sent = now;
        let Some(cubic) = self.control.cubic() else { return };
        cubic.pause(idle);
        let keep = KEEP.max(2 * self.rtt.smoothed().unwrap_or(0));
        if idle > keep {
            // As Linux does, but later: data is paced.
            let halvings = u32::try_from(idle / self.rtt.timeout(0)).unwrap_or(63).min(63);
            self.window.threshold = self.window.threshold.max(self.window.size / 4 * 3);
            self.window.size = (self.window.size >> halvings).max(self.initial_window).min(self.window.size);
            self.set_rate();
        }
    }

    /// Takes note of what leaves.
    fn sent(&mut self, now: Time, segment: &Segment) {
        if segment.kind == Kind::WindowProbe {
            self.unanswered = self.unanswered.saturating_add(1);
            self.backoff = self.backoff.saturating_add(1);
            self.persist_at = now.after(self.rtt.timeout(self.backoff));
            return;
        }
        let len = segment.end - segment.start;
        if segment.kind == Kind::SizeProbe {
            self.sent_trial(now, segment);
        }
        let new = segment.start == self.board.next();
        let alone = self.board.out() == 0;
        self.persist_at = Time::NEVER;
        if segment.kind == Kind::TailProbe {
            self.sent_probe(now, segment);
        }
        if new {
            self.board.push(segment.end, now);
        } else if segment.kind == Kind::TailProbe {
            self.board.repeat_tail(segment.start, now);
        } else {
            self.board.retransmit(segment.start, segment.end, now);
        }
        let (start, end) = (segment.start, segment.end);
        self.begin_flight(now, alone);
        let sample = self.control.is_bbr().then(|| self.delivery.sample(self.in_flight()));
        self.log.push(Transmission { sent: now, start, end, sample });
        self.account(segment, len, new);
        self.last_sent = now;
        self.pacing.spend(now, len);
        self.round.in_flight(self.in_flight());
        self.arm_after_transmission(now, segment, new);
    }

    fn account(&mut self, segment: &Segment, len: u64, new: bool) {
        if !new {
            self.stats.retransmitted += len;
        }
        if self.phase == Phase::Open {
            return;
        }
        if let Some(episode) = &mut self.episode {
            episode.prr.out += len;
            if segment.kind == Kind::Retransmit {
                episode.repeated += len;
            } else {
                episode.fresh = episode.fresh.saturating_sub(len);
            }
        }
    }

    /// The retransmission timer runs from the first transmission, and from the first repetition of the head: later
    /// ones do not put it off, or a head that is lost again and again would never be waited for.
    fn arm_after_transmission(&mut self, now: Time, segment: &Segment, new: bool) {
        let head = segment.start == self.board.unacknowledged()
            && self.board.front().is_some_and(|head| head.transmissions == 2);
        if !self.retransmit_at.is_set() || (segment.kind == Kind::Retransmit && head) {
            self.retransmit_at = now.after(self.rtt.timeout(self.backoff));
        }
        if new && segment.kind == Kind::New {
            self.arm_probe(now);
        }
    }

    /// Sets the pacing rate from the window and the round trip.
    pub(super) fn set_rate(&mut self) {
        let unpaced = !self.paced && self.window.size < UNPACED * u64::from(self.mss);
        let rtt = self.rtt.smoothed().filter(|_| !unpaced);
        let short = self.rtt.shortest().is_none_or(|shortest| shortest < UNPACED_RTT);
        let Some(rtt) = rtt.filter(|_| !short) else {
            self.pacing.set_rate(0.0);
            return;
        };
        if let Controller::Bbr(bbr) = &self.control {
            // A flow of small messages has shown little of what the path can do.
            let least = if bbr.is_full() { 0.0 } else { Bbr::first_rate(self.initial_window, rtt) };
            self.pacing.set_rate(bbr.rate.max(least));
            return;
        }
        let gain = if self.window.size < self.window.threshold / 2 { 2.0 } else { 1.2 };
        let window = self.window.size.max(self.in_flight());
        self.pacing.set_rate(gain * window as f64 / rtt as f64);
    }
}
