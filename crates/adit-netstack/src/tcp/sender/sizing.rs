//! Packets that are too large for the path where nobody says so (RFC 4821): timeouts in a row make them smaller, and one of
//! full size tells later whether the path was only silent.

use super::Sender;
use super::api::{Kind, Segment};
use super::ranges::Losses;
use super::recovery::Phase;
use super::time::{MS, Time};

/// Payload that nearly every path takes (RFC 4821, section 7.2).
const BASE: u32 = 1024;

/// So many expiries in a row without an answer make packets smaller.
const EXPIRIES: u32 = 2;

/// A packet of full size that was lost is followed by another after this (RFC 4821, section 7.7).
const AGAIN: u64 = 600_000 * MS;

/// Packets are smaller than both ends would take.
#[derive(Debug)]
pub(super) struct Sizing {
    /// Payload of a full packet as the ends know it.
    full: u32,
    /// The packet of full size that is on its way.
    trial: Option<Trial>,
    /// When the next one may leave.
    next: Time,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    start: u64,
    end: u64,
    sent: Time,
}

impl Sender {
    /// The retransmission timer has expired without an answer so often. Small packets may pass where the full ones do not.
    pub(super) fn suspect_size(&mut self) {
        let smaller = if self.mss > BASE { BASE.max(self.least) } else { self.least };
        let head = self.board.front().map_or(0, |head| head.len());
        let is_due = self.unanswered > 0 && self.unanswered.is_multiple_of(EXPIRIES);
        if !is_due || smaller >= self.mss || head <= u64::from(smaller) {
            return;
        }
        let full = self.sizing.as_ref().map_or(self.mss, |sizing| sizing.full);
        self.sizing = Some(Box::new(Sizing { full, trial: None, next: Time::START }));
        self.mss = smaller;
    }

    /// The ends now take packets of `mss` bytes. Returns whether that is all there is to do: what is sent stays smaller.
    pub(super) fn resize(&mut self, mss: u32) -> bool {
        match &mut self.sizing {
            Some(sizing) if mss > self.mss => {
                sizing.full = mss;
                true
            }
            sizing => {
                *sizing = None;
                false
            }
        }
    }

    /// New data as one packet of full size, to see whether such packets pass.
    pub(super) fn trial(&self, now: Time, start: u64, end: u64, in_flight: u64) -> Option<Segment> {
        let sizing = self.sizing.as_ref()?;
        let full = u64::from(sizing.full);
        let fits = end - start >= full && in_flight + full <= self.window.size;
        let is_due = sizing.trial.is_none() && sizing.next <= now && self.phase == Phase::Open;
        (is_due && fits).then_some(Segment { start, end: start + full, kind: Kind::SizeProbe })
    }

    pub(super) fn sent_trial(&mut self, now: Time, segment: &Segment) {
        if let Some(sizing) = &mut self.sizing {
            sizing.trial = Some(Trial { start: segment.start, end: segment.end, sent: now });
        }
    }

    /// Judges what came of the packet of full size. That it alone was lost says nothing about congestion (RFC 4821, section
    /// 7.7), so it is no loss to react to.
    pub(super) fn judge_trial(&mut self, now: Time, losses: Losses) -> Losses {
        let Some(sizing) = &mut self.sizing else { return losses };
        let Some(Trial { start, end, sent }) = sizing.trial else { return losses };
        if self.board.is_lost(start, end) {
            sizing.trial = None;
            sizing.next = now.after(AGAIN);
            let alone = losses.bytes <= end - start && self.board.lost() == losses.bytes;
            return if alone { Losses::default() } else { losses };
        }
        if !self.board.is_out(start, end, sent) {
            self.mss = sizing.full;
            self.window.size = self.window.size.max(u64::from(self.mss));
            self.sizing = None;
        }
        losses
    }
}
