//! What an ACK says. The order of the steps is part of the design: a reduction that turns out to be wrong is
//! taken back before it is applied, and losses are found before the window is computed.

use std::time::Instant;

use super::api::{Ack, TICK};
use super::bbr::Acked;
use super::control::Controller;
use super::cubic::Growing;
use super::rack::Rack;
use super::ranges::Losses;
use super::ranges::Record;
use super::rate::RateSample;
use super::recovery::Phase;
use super::time::{Time, nanos};
use super::{MIN_MSS, Sender};

/// What has arrived according to one ACK.
#[derive(Debug)]
pub(super) struct Arrivals {
    now: Time,
    pub(super) echo: Option<Time>,
    shortest: Option<u64>,
    /// When the retransmission timer expired, if that may have been wrong.
    timeout_at: Option<Time>,
    cumulative: bool,
    pub(super) rack: Rack,
    /// Bytes that were not known to have arrived.
    pub(super) delivered: u64,
    /// When the youngest of them left that were sent once.
    youngest: Option<Time>,
    /// When the youngest left of all, and where it began.
    pub(super) newest: Option<(Time, u64)>,
    /// Bytes whose first transmission arrived, although they were sent again.
    pub(super) early: u64,
    /// Something arrived that left before the retransmission timer expired and was not sent again.
    pub(super) original: bool,
}

impl Arrivals {
    fn take(&mut self, record: &Record) {
        let len = record.len();
        self.delivered += len;
        if record.transmissions == 1 {
            self.youngest = Some(self.youngest.map_or(record.sent, |sent| sent.max(record.sent)));
            self.rack.reordered |= record.end < self.rack.forward;
            self.original |= self.timeout_at.is_some_and(|at| record.sent <= at);
        } else if self.is_early(record) {
            self.early += len;
            self.rack.reordered = true;
            self.rack.forward = self.rack.forward.max(record.end);
            return;
        }
        self.newest = self.newest.max(Some((record.sent, record.start)));
        self.rack.forward = self.rack.forward.max(record.end);
        let impossible = self.shortest.is_some_and(|shortest| self.now.since(record.sent) < shortest);
        if record.transmissions == 1 || !impossible {
            self.rack.arrived(self.now, record.sent, record.end);
        }
    }

    /// Whether the ACK echoes a timestamp from before the last transmission of the record (RFC 3522).
    fn is_early(&self, record: &Record) -> bool {
        self.cumulative && self.echo.is_some_and(|echo| echo.after(nanos(TICK)) <= record.sent)
    }
}

impl Sender {
    /// Takes note of what the peer says. Returns how many units are newly acknowledged for good.
    pub(crate) fn handle_ack(&mut self, now: Instant, ack: &Ack<'_>) -> u64 {
        if ack.acknowledged > self.board.next() {
            return 0;
        }
        let now = self.time(now);
        let before = self.board.unacknowledged();
        let moved = self.take_window(now, ack);
        let duplicate = ack.duplicate.filter(|&range| self.is_ours(range));
        let mut arrivals = self.arrivals(now, ack);
        self.mark(ack, &mut arrivals);
        let acknowledged = self.board.unacknowledged() - before;
        if !self.sack {
            let bare = ack.bare && !moved && ack.acknowledged == before;
            self.count_duplicates(acknowledged, bare, &mut arrivals);
        }
        self.rack = arrivals.rack;
        if let Some((start, end)) = duplicate {
            self.note_duplicate(end - start);
        }
        let rtt = self.sample(now, acknowledged, &arrivals);
        let rate = self.sample_rate(now, &arrivals);
        let mut losses = self.detect(now);
        if !self.sack {
            losses = self.detect_without_sack(acknowledged);
        }
        let losses = self.judge_trial(now, losses);
        self.judge_probe(&arrivals, duplicate);
        self.judge_undo(now, acknowledged, &arrivals);
        self.leave_recovery();
        self.enter_recovery(now, losses, arrivals.delivered);
        self.adapt_window(now, acknowledged, &arrivals, losses, rtt, rate);
        if self.board.unacknowledged() >= self.round.end && acknowledged > 0 {
            self.end_round(now);
        }
        self.arm_after_ack(now, acknowledged);
        self.set_rate();
        acknowledged
    }

    /// Takes the peer's window. Returns whether its edge moved.
    fn take_window(&mut self, now: Time, ack: &Ack<'_>) -> bool {
        if self.persist_at.is_set() {
            // A peer may keep its window shut for as long as it says so.
            self.unanswered = 0;
        }
        let Some(window) = ack.window.filter(|_| ack.acknowledged >= self.board.unacknowledged()) else {
            return false;
        };
        let edge = ack.acknowledged.saturating_add(window);
        let moved = edge != self.edge;
        if edge > self.edge && self.persist_at.is_set() {
            self.persist_at = Time::NEVER;
            self.backoff = 0;
            self.round.used_at = now;
        }
        self.edge = edge;
        self.widest = self.widest.max(window);
        moved
    }

    /// Whether a duplicate is of data that was sent again lately, and not the network's doing.
    fn is_ours(&self, (start, end): (u64, u64)) -> bool {
        let sent_again = |from: u64| start < end && end <= self.board.next() && end > from;
        self.episode.as_ref().is_some_and(|episode| sent_again(episode.from))
            || self.probe.as_ref().is_some_and(|probe| start < end && end == probe.end)
    }

    fn arrivals(&self, now: Time, ack: &Ack<'_>) -> Arrivals {
        Arrivals {
            now,
            echo: ack.echo.map(|echo| self.time(echo)),
            shortest: self.rtt.shortest(),
            timeout_at: self.episode.as_ref().and_then(|episode| episode.timeout_at),
            cumulative: true,
            rack: self.rack,
            delivered: 0,
            youngest: None,
            newest: None,
            early: 0,
            original: false,
        }
    }

    /// Marks on the scoreboard what has arrived.
    fn mark(&mut self, ack: &Ack<'_>, arrivals: &mut Arrivals) {
        if ack.acknowledged > self.board.unacknowledged() {
            self.board.acknowledge(ack.acknowledged, |record| arrivals.take(record));
        }
        if !self.sack || ack.sacked.is_empty() {
            return;
        }
        arrivals.cumulative = false;
        // In ascending order, or blocks that make up for lost ACKs would look like reordering.
        let mut blocks = [(0, 0); 4];
        for (to, from) in blocks.iter_mut().zip(ack.sacked) {
            *to = *from;
        }
        blocks.sort_unstable();
        let mss = u64::from(self.mss.max(u32::from(MIN_MSS)));
        for (start, end) in blocks {
            self.board.sack(start, end, mss, |record| arrivals.take(record));
        }
    }

    /// Takes one sample of the round trip: of data that was sent once, else of the timestamp (RFC 7323, section
    /// 4), never of the time of a retransmission.
    fn sample(&mut self, now: Time, acknowledged: u64, arrivals: &Arrivals) -> Option<u64> {
        let exact = arrivals.youngest.map(|sent| now.since(sent));
        if let Some(rtt) = exact {
            self.rtt.note_shortest(now, rtt);
        }
        let rtt = exact.or_else(|| {
            let echo = arrivals.echo.filter(|_| acknowledged > 0)?;
            Some(now.since(echo))
        });
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        exact
    }

    /// Computes the congestion window.
    fn adapt_window(
        &mut self,
        now: Time,
        acknowledged: u64,
        arrivals: &Arrivals,
        losses: Losses,
        rtt: Option<u64>,
        rate: Option<RateSample>,
    ) {
        if self.control.is_bbr() {
            self.adapt_model(now, arrivals.delivered, losses, rtt, rate);
        } else if self.phase == Phase::Recovery {
            self.reduce_proportionally(arrivals.delivered, acknowledged > 0 && losses.bytes == 0);
        } else if arrivals.delivered > 0 && self.round.uses(&self.window) {
            let growing = Growing {
                now,
                delivered: arrivals.delivered,
                unacknowledged: self.board.unacknowledged(),
                next: self.board.next(),
                rtt,
                smoothed: self.rtt.smoothed().unwrap_or(0),
                shortest: self.rtt.shortest(),
                mss: u64::from(self.mss),
            };
            if let Controller::Cubic(cubic) = &mut self.control {
                cubic.grow(&mut self.window, &growing);
            }
        }
    }

    /// Tells the model of the path what arrived.
    fn adapt_model(
        &mut self,
        now: Time,
        newly: u64,
        losses: Losses,
        rtt: Option<u64>,
        rate: Option<RateSample>,
    ) {
        let Some(sample) = rate else {
            if newly > 0 && self.phase == Phase::Loss {
                self.window.size += newly;
            }
            return;
        };
        let acked = Acked {
            now,
            sample,
            newly,
            delivered: self.delivery.delivered,
            losing: losses.bytes > 0,
            rtt,
            in_flight: self.in_flight(),
            limited: self.round.uses(&self.window),
            mss: u64::from(self.mss),
            portion: self.goal(),
            initial_window: self.initial_window,
        };
        if let Controller::Bbr(bbr) = &mut self.control {
            bbr.on_ack(&mut self.window, &acked);
        }
    }

    /// A round trip is over. A window that was not full for as long as a timeout shrinks towards what was used (RFC
    /// 7661).
    fn end_round(&mut self, now: Time) {
        let validates = self.phase == Phase::Open && !self.control.is_bbr();
        if validates && now.since(self.round.used_at) > self.rtt.timeout(0) {
            let used = self.round.most().max(self.initial_window);
            if used < self.window.size {
                self.window.threshold = self.window.threshold.max(self.window.size / 4 * 3);
                self.window.size = (self.window.size + used) / 2;
            }
            self.round.used_at = now;
        }
        self.round.turn(self.board.next());
        self.rtt.end_round();
    }

    fn arm_after_ack(&mut self, now: Time, acknowledged: u64) {
        if self.board.is_empty() {
            self.retransmit_at = Time::NEVER;
            self.probe_at = Time::NEVER;
            self.reorder_at = Time::NEVER;
            self.probe_due = false;
        }
        if acknowledged > 0 {
            self.backoff = 0;
            self.unanswered = 0;
            if !self.board.is_empty() {
                self.retransmit_at = now.after(self.rtt.timeout(0));
            }
            self.arm_probe(now);
        } else if self.board.sacked() > 0 {
            self.probe_at = Time::NEVER;
        }
        if self.board.out() > 0 && !self.retransmit_at.is_set() {
            // What was lost beyond a shut window is on its way after all.
            self.retransmit_at = now.after(self.rtt.timeout(self.backoff));
        }
    }

    /// A peer without SACK says only that something arrived: each duplicate ACK stands for one packet (RFC 5681,
    /// section 3.2).
    fn count_duplicates(&mut self, acknowledged: u64, bare: bool, arrivals: &mut Arrivals) {
        let mss = u64::from(self.mss);
        if acknowledged > 0 {
            let packets = u32::try_from(acknowledged.div_ceil(mss)).unwrap_or(u32::MAX);
            let known = u64::from(self.duplicates) * mss;
            arrivals.delivered = arrivals.delivered.saturating_sub(known).max(mss.min(acknowledged));
            self.duplicates = self.duplicates.saturating_sub(packets.saturating_sub(1));
            if self.board.is_empty() {
                self.duplicates = 0;
            }
        } else if bare && self.board.out() > 0 {
            let most = u32::try_from(self.board.out() / mss).unwrap_or(u32::MAX);
            if self.duplicates < most {
                self.duplicates += 1;
                arrivals.delivered += mss;
            }
        }
    }
}
