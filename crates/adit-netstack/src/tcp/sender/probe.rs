//! Tail loss probes: when ACKs stop, the last data again makes the peer say what is missing (RFC 8985, section 7).

use super::ack::Arrivals;
use super::api::{Kind, Segment, TICK};
use super::recovery::Phase;
use super::time::{MS, Time, nanos};
use super::{Sender, rtt};

/// Longest time for which a peer keeps the ACK of a single packet to itself (RFC 8985, section 7.2).
const DELAYED_ACK: u64 = 200 * MS;

/// Margin for a peer that answers two packets at once.
const MARGIN: u64 = 2 * MS;

/// A probe that is outstanding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) end: u64,
    sent: Time,
    /// It was old data.
    again: bool,
}

impl Sender {
    pub(super) fn may_probe(&self) -> bool {
        self.sack
            && self.phase == Phase::Open
            && self.board.sacked() == 0
            && self.board.lost() == 0
            && self.board.out() > 0
            && self.probe.is_none()
    }

    /// Arms the timer of the probe anew.
    pub(super) fn arm_probe(&mut self, now: Time) {
        self.probe_at = Time::NEVER;
        if !self.may_probe() {
            return;
        }
        let alone = self.board.out() <= u64::from(self.mss);
        let margin = if alone { DELAYED_ACK } else { MARGIN };
        let wait = self.rtt.smoothed().map_or(1000 * MS, |smoothed| 2 * smoothed + margin);
        let last = if self.retransmit_at.is_set() { self.retransmit_at } else { now.after(rtt::MAX_RTO) };
        self.probe_at = now.after(wait).min(last);
    }

    /// The segment that probes: new data if there is any and the peer takes it, else the last packet again.
    pub(super) fn probe_segment(&self, available: u64) -> Option<Segment> {
        let next = self.board.next();
        let new = available.min(self.edge).saturating_sub(next).min(u64::from(self.mss));
        if new > 0 {
            return Some(Segment { start: next, end: next + new, kind: Kind::TailProbe });
        }
        let last = self.board.back()?;
        // Records begin with a packet, so that the last packet is what does not fill one.
        let tail = (last.len() - 1) % u64::from(self.mss) + 1;
        Some(Segment { start: last.end - tail, end: last.end, kind: Kind::TailProbe })
    }

    /// A probe leaves.
    pub(super) fn sent_probe(&mut self, now: Time, segment: &Segment) {
        let again = segment.start < self.board.next();
        self.probe = Some(Probe { end: segment.end, sent: now, again });
        self.probe_due = false;
        self.probe_at = Time::NEVER;
        self.stats.probes = self.stats.probes.saturating_add(1);
        self.retransmit_at = now.after(self.rtt.timeout(self.backoff));
    }

    /// Judges what came of a probe (section 7.4): if it repeated data and that did not arrive twice, it mended a
    /// loss, and the window is reduced once.
    pub(super) fn judge_probe(&mut self, arrivals: &Arrivals, duplicate: Option<(u64, u64)>) {
        let Some(probe) = self.probe else { return };
        let at = self.board.unacknowledged();
        if at < probe.end {
            return;
        }
        let early = arrivals.echo.is_some_and(|echo| echo.after(nanos(TICK)) <= probe.sent);
        let twice = duplicate.is_some_and(|(_, end)| end == probe.end);
        if !probe.again || early || twice {
            self.probe = None;
        } else if at > probe.end {
            self.probe = None;
            if self.phase == Phase::Open {
                self.paced = true;
                self.reduce();
                self.window.size = self.window.size.min(self.window.threshold);
            }
        }
    }
}
