//! What is done about losses: recovery by what has arrived, and the retransmission timeout.

use super::Sender;
use super::control::{Controller, SavedControl};
use super::prr::Prr;
use super::ranges::{Losses, State};
use super::time::Time;
use super::window::Window;

/// Duplicate ACKs after which the first packet is lost (RFC 5681, section 3.2).
const DUPLICATES: u32 = 3;

/// Whether losses are being mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is lost.
    Open,
    /// Losses are mended at the pace of what arrives.
    Recovery,
    /// The retransmission timer expired.
    Loss,
}

/// A time of losses, from their detection on until the next.
#[derive(Debug)]
pub(super) struct Episode {
    /// What was unacknowledged at its beginning.
    pub(super) from: u64,
    /// It is over when this is acknowledged.
    pub(super) high: u64,
    pub(super) started: Time,
    pub(super) prr: Prr,
    /// What is restored if nothing was lost; gone when it is known that something was.
    pub(super) saved: Option<Saved>,
    /// Bytes that were sent again in it.
    pub(super) repeated: u64,
    /// Bytes that arrived twice, and bytes whose first transmission arrived in spite of a second. The same byte may
    /// be counted in both.
    pub(super) duplicated: u64,
    pub(super) early: u64,
    /// When the timer expired, as long as that may have been wrong (RFC 5682).
    pub(super) timeout_at: Option<Time>,
    /// ACKs that advanced since then.
    pub(super) advances: u8,
    /// New data that may leave before more is sent again, to see whether the timeout was wrong.
    pub(super) fresh: u64,
    /// A lost retransmission starts the episode anew once this is acknowledged.
    pub(super) renewable: u64,
}

/// The state before a reduction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    pub(super) window: Window,
    pub(super) control: SavedControl,
}

impl Sender {
    /// Looks for transmissions that are overdue, and arms the timer for the next one.
    pub(super) fn detect(&mut self, now: Time) -> Losses {
        let mut found = Losses::default();
        self.reorder_at = Time::NEVER;
        if !self.sack {
            self.log.oldest(&self.board);
            return found;
        }
        let eager = self.phase != Phase::Open || self.board.sacked() >= 3 * u64::from(self.mss);
        let window = self.rack.window(eager, self.rtt.shortest(), self.rtt.smoothed());
        let patience = self.rack.patience(window);
        while let Some(entry) = self.log.oldest(&self.board) {
            let end = match entry.sent {
                sent if sent < self.rack.sent => entry.end,
                sent if sent == self.rack.sent => entry.end.min(self.rack.end),
                _ => break,
            };
            if end <= entry.start {
                break;
            }
            let due = entry.sent.after(patience);
            if due > now {
                self.reorder_at = due;
                break;
            }
            let losses = self.board.lose(entry.start, end, entry.sent);
            found.bytes += losses.bytes;
            found.again |= losses.again;
            self.count_lost(losses.bytes);
            if let (Controller::Bbr(bbr), Some(sample), 1..) =
                (&mut self.control, &entry.sample, losses.bytes)
            {
                bbr.on_loss(&self.window, sample, losses.bytes, self.delivery.lost, now);
            }
            self.log.trim(end);
        }
        found
    }

    /// Without SACK: the third duplicate ACK, or an ACK that stops before the end of recovery, tells of one loss
    /// (RFC 6582).
    pub(super) fn detect_without_sack(&mut self, acknowledged: u64) -> Losses {
        let partial = self.phase == Phase::Recovery
            && acknowledged > 0
            && self.episode.as_ref().is_some_and(|episode| self.board.unacknowledged() < episode.high);
        let third = self.phase == Phase::Open && acknowledged == 0 && self.duplicates == DUPLICATES;
        if !partial && !third {
            return Losses::default();
        }
        let losses = self.board.lose_head(u64::from(self.mss));
        self.count_lost(losses.bytes);
        Losses { again: false, ..losses }
    }

    /// Recovery is over when everything is acknowledged that was outstanding at its beginning.
    pub(super) fn leave_recovery(&mut self) {
        let over = |episode: &Episode| self.board.unacknowledged() >= episode.high;
        if self.phase == Phase::Open || !self.episode.as_deref().is_none_or(over) {
            return;
        }
        if self.control.is_bbr() {
            if self.phase == Phase::Loss {
                self.window.size = self.window.size.max(self.before_timeout);
            }
        } else if self.phase == Phase::Recovery {
            self.window.size = self.window.threshold.max(u64::from(self.mss));
        }
        self.phase = Phase::Open;
        self.duplicates = 0;
        self.rack.recovered();
        if let Some(episode) = &mut self.episode {
            episode.timeout_at = None;
            episode.fresh = 0;
        }
    }

    /// Begins a recovery if there are losses, or begins it anew if a retransmission was lost: a full queue
    /// swallows retransmissions until the window is smaller.
    pub(super) fn enter_recovery(&mut self, now: Time, losses: Losses, delivered: u64) {
        if losses.bytes == 0 {
            return;
        }
        let again = self.phase == Phase::Recovery
            && losses.again
            && !self.control.is_bbr()
            && self.episode.as_ref().is_some_and(|episode| self.board.unacknowledged() >= episode.renewable);
        if self.phase != Phase::Open && !again {
            return;
        }
        let saved = (!again).then(|| self.save());
        self.begin_episode(now, saved, delivered);
        self.reduce();
        self.phase = Phase::Recovery;
        self.probe = None;
        self.probe_at = Time::NEVER;
        self.probe_due = false;
    }

    /// Reduces the threshold, and with it the window that recovery ends with, if that is how the control takes a
    /// loss.
    pub(super) fn reduce(&mut self) {
        let mss = u64::from(self.mss);
        if let Some(cubic) = self.control.cubic() {
            self.window.threshold = cubic.reduce(&self.window, mss);
        }
    }

    pub(super) fn count_lost(&mut self, bytes: u64) {
        self.stats.lost += bytes;
        self.delivery.lost += bytes;
    }

    pub(super) fn save(&self) -> Saved {
        Saved { window: self.window, control: self.control.save() }
    }

    fn begin_episode(&mut self, now: Time, saved: Option<Saved>, delivered: u64) {
        self.paced = true;
        let (from, next) = (self.board.unacknowledged(), self.board.next());
        let flight = next - from - self.board.sacked() + delivered;
        let episode = Episode {
            from,
            high: next,
            started: now,
            prr: Prr { flight, ..Prr::default() },
            saved,
            repeated: 0,
            duplicated: 0,
            early: 0,
            timeout_at: None,
            advances: 0,
            fresh: 0,
            renewable: next,
        };
        match &mut self.episode {
            Some(old) => **old = episode,
            None => self.episode = Some(Box::new(episode)),
        }
    }

    /// Does what [`Self::poll_timeout`] asked for.
    pub(crate) fn handle_timeout(&mut self, now: std::time::Instant) {
        let now = self.time(now);
        self.run_timers(now);
    }

    pub(super) fn run_timers(&mut self, now: Time) {
        if self.reorder_at <= now {
            let losses = self.detect(now);
            let losses = self.judge_trial(now, losses);
            self.enter_recovery(now, losses, 0);
            if losses.bytes > 0 && self.phase == Phase::Recovery && !self.control.is_bbr() {
                // There is no ACK that lets the retransmission out.
                self.window.size = self.in_flight() + u64::from(self.mss);
            }
            self.set_rate();
        }
        if self.probe_at <= now {
            self.probe_at = Time::NEVER;
            self.probe_due = self.may_probe();
        }
        if self.retransmit_at <= now && !self.probe_due {
            if self.board.out() > 0 || self.has_reneged() {
                self.unanswered = self.unanswered.saturating_add(1);
                self.stats.timeouts = self.stats.timeouts.saturating_add(1);
                self.backoff = self.backoff.saturating_add(1);
                self.suspect_size();
                self.expire(now);
                self.judge_trial(now, Losses::default());
            } else {
                self.retransmit_at = Time::NEVER;
            }
        }
    }

    /// Whether the peer has thrown away what it said it had: else it would acknowledge the head.
    fn has_reneged(&self) -> bool {
        self.board.front().is_some_and(|head| head.state == State::Sacked)
    }

    /// The retransmission timer has expired: everything is lost but what left just now, and the first packet in
    /// any case.
    pub(super) fn expire(&mut self, now: Time) {
        let reneged = self.has_reneged();
        if reneged {
            self.board.renege();
        }
        let progressed =
            self.episode.as_ref().is_none_or(|episode| self.board.unacknowledged() > episode.from);
        match self.phase {
            Phase::Open => {
                let saved = self.save();
                self.begin_episode(now, Some(saved), 0);
                self.before_timeout = self.window.size;
                self.reduce();
                if let Some(episode) = &mut self.episode {
                    episode.timeout_at = (!reneged).then_some(now);
                }
            }
            Phase::Loss if progressed => {
                self.begin_episode(now, None, 0);
                self.reduce();
            }
            Phase::Recovery => self.before_timeout = self.window.size,
            Phase::Loss => {}
        }
        if let Some(episode) = &mut self.episode {
            episode.high = self.board.next();
        }
        let window = self.rack.window(true, self.rtt.shortest(), self.rtt.smoothed());
        let young = self.rtt.smoothed().unwrap_or(0) + window;
        self.duplicates = 0;
        let losses = self.board.lose_older(now.before(young.max(1)), u64::from(self.mss));
        self.count_lost(losses.bytes);
        self.window.size = self.in_flight() + u64::from(self.mss);
        self.phase = Phase::Loss;
        self.probe = None;
        self.probe_due = false;
        self.probe_at = Time::NEVER;
        self.reorder_at = Time::NEVER;
        self.retransmit_at = now.after(self.rtt.timeout(self.backoff));
        self.set_rate();
    }
}
