//! Proportional rate reduction: while losses are mended the window shrinks with what arrives (RFC 9937).

use super::Sender;

/// How much arrived and left since the recovery began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prr {
    pub(super) delivered: u64,
    pub(super) out: u64,
    /// What was in flight when it began.
    pub(super) flight: u64,
}

impl Prr {
    /// What may leave now (section 6.2). `progress`: the start of the data advanced and nothing else was lost.
    fn allowance(&self, pipe: u64, threshold: u64, delivered: u64, progress: bool, mss: u64) -> u64 {
        let allowance = if pipe > threshold {
            let share = u128::from(self.delivered) * u128::from(threshold);
            let share = share.div_ceil(u128::from(self.flight.max(1)));
            u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(self.out)
        } else {
            let conservative = self.delivered.saturating_sub(self.out).max(delivered);
            let bound = conservative + if progress { mss } else { 0 };
            bound.min(threshold - pipe)
        };
        // The fast retransmit itself.
        if self.out == 0 { allowance.max(mss) } else { allowance }
    }
}

impl Sender {
    /// Computes the window during recovery.
    pub(super) fn reduce_proportionally(&mut self, delivered: u64, progress: bool) {
        let (pipe, mss) = (self.in_flight(), u64::from(self.mss));
        if let Some(episode) = &mut self.episode {
            episode.prr.delivered += delivered;
            let threshold = self.window.threshold;
            self.window.size = pipe + episode.prr.allowance(pipe, threshold, delivered, progress, mss);
            self.window.size = self.window.size.max(mss);
        }
    }
}
