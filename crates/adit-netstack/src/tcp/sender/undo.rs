//! Taking reductions back that turn out to be wrong: nothing was lost, it was late (RFC 5682, RFC 3522, RFC 3708).

use super::Sender;
use super::ack::Arrivals;
use super::log::Transmission;
use super::recovery::{Episode, Phase};
use super::time::Time;

impl Sender {
    /// So many bytes arrived twice.
    pub(super) fn note_duplicate(&mut self, bytes: u64) {
        self.rack.duplicated(self.board.unacknowledged(), self.board.next());
        if let Some(episode) = &mut self.episode {
            episode.duplicated = (episode.duplicated + bytes).min(episode.repeated);
        }
    }

    /// Decides whether the latest reduction was right.
    pub(super) fn judge_undo(&mut self, now: Time, acknowledged: u64, arrivals: &Arrivals) {
        let mss = u64::from(self.mss);
        let (phase, at) = (self.phase, self.board.unacknowledged());
        let Some(episode) = &mut self.episode else { return };
        episode.early = (episode.early + arrivals.early).min(episode.repeated);
        let wrong = episode.was_wrong(phase, at) || (arrivals.original && phase == Phase::Loss);
        if wrong && episode.saved.is_some() {
            self.undo(now);
            return;
        }
        if phase == Phase::Loss && episode.timeout_at.is_some() && acknowledged > 0 {
            episode.advances = episode.advances.saturating_add(1);
            if episode.advances == 1 {
                episode.fresh = 2 * mss;
            } else {
                episode.timeout_at = None;
                episode.fresh = 0;
            }
        }
    }

    /// Restores what was before the latest reduction. What was taken for lost is on its way and watched again;
    /// pacing takes the burst that this allows.
    fn undo(&mut self, now: Time) {
        let Some(episode) = &mut self.episode else { return };
        let Some(saved) = episode.saved.take() else { return };
        episode.timeout_at = None;
        episode.fresh = 0;
        self.window.size = self.window.size.max(saved.window.size);
        self.window.threshold = saved.window.threshold;
        self.control.restore(&saved.control, now.since(episode.started));
        let log = &mut self.log;
        let mut restored = false;
        self.board.restore(|record| {
            let (sent, start, end) = (record.sent, record.start, record.end);
            log.push(Transmission { sent, start, end, sample: None });
            restored = true;
        });
        if restored {
            log.sort();
        }
        self.phase = Phase::Open;
        self.backoff = 0;
        self.rack.reordered = true;
        self.stats.undone = self.stats.undone.saturating_add(1);
    }
}

impl Episode {
    /// Whether everything that was sent again had arrived without it.
    fn was_wrong(&self, phase: Phase, acknowledged: u64) -> bool {
        if self.repeated > 0 {
            return self.duplicated >= self.repeated || self.early >= self.repeated;
        }
        phase != Phase::Open && acknowledged >= self.high
    }
}
