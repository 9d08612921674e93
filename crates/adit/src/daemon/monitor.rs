//! When a running session is checked again, and what the outcomes mean. Free of clocks and I/O.

use std::time::{Duration, Instant};

use adit_path::Phase;

/// How much a check covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One round trip: is anything still there?
    Light,
    /// Every target to its deepest stage.
    Full,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Checks fail repeatedly.
    Degraded,
    /// Checks succeed again.
    Recovered,
}

/// Decides when to check. A failed check never ends a session: it is repeated soon, and only several in a row
/// say that something is wrong.
#[derive(Clone, Debug)]
pub struct Monitor {
    next_light: Instant,
    next_full: Instant,
    failures: u32,
    degraded: bool,
    phase: Phase,
}

impl Monitor {
    /// A light check follows after this time.
    pub const LIGHT: Duration = Duration::from_secs(30);
    /// A full check follows after this time.
    pub const FULL: Duration = Duration::from_secs(300);
    /// A check is repeated so soon after a failure.
    pub const AGAIN: Duration = Duration::from_secs(5);
    /// So many failures in a row mean a degraded session.
    pub const THRESHOLD: u32 = 3;

    /// A monitor of a session that was verified at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            next_light: now + Self::LIGHT,
            next_full: now + Self::FULL,
            failures: 0,
            degraded: false,
            phase: Phase::Up,
        }
    }

    /// When the next check is due.
    pub fn due(&self) -> Instant {
        self.next_light.min(self.next_full)
    }

    /// Takes the check that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<Depth> {
        if now >= self.next_full {
            return Some(Depth::Full);
        }
        (now >= self.next_light).then_some(Depth::Light)
    }

    /// Takes the outcome of a check.
    pub fn record(&mut self, now: Instant, depth: Depth, ok: bool) -> Option<Change> {
        let pause = if ok { Self::LIGHT } else { Self::AGAIN };
        self.next_light = now + pause;
        if depth == Depth::Full {
            self.next_full = now + if ok { Self::FULL } else { Self::AGAIN };
        }
        if ok {
            self.failures = 0;
            return std::mem::take(&mut self.degraded).then_some(Change::Recovered);
        }
        self.failures += 1;
        let degraded = self.failures >= Self::THRESHOLD && !self.degraded;
        self.degraded |= degraded;
        degraded.then_some(Change::Degraded)
    }

    /// Takes the network's phase. One that came back is checked in full at once.
    pub fn phase(&mut self, now: Instant, phase: Phase) {
        if phase == Phase::Up && self.phase != Phase::Up {
            self.next_full = now;
        }
        self.phase = phase;
    }

    /// How many checks failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_checks_come_often_and_full_ones_now_and_then() {
        let start = Instant::now();
        let mut monitor = Monitor::new(start);
        assert_eq!(monitor.take_due(start), None);
        let mut depths = Vec::new();
        for _ in 0..11 {
            let due = monitor.due();
            let depth = monitor.take_due(due).unwrap();
            assert_eq!(monitor.record(due, depth, true), None);
            depths.push(depth);
        }
        assert_eq!(depths.iter().filter(|depth| **depth == Depth::Full).count(), 1);
        assert_eq!(depths[9], Depth::Full);
    }

    #[test]
    fn three_failures_in_a_row_degrade_and_one_success_recovers() {
        let now = Instant::now();
        let mut monitor = Monitor::new(now);
        let outcomes = [false, false, true, false, false, false, false, true, true];
        let changes: Vec<_> = outcomes.into_iter().map(|ok| monitor.record(now, Depth::Light, ok)).collect();
        let degraded = Some(Change::Degraded);
        assert_eq!(changes, [None, None, None, None, None, degraded, None, Some(Change::Recovered), None]);
    }

    #[test]
    fn a_failed_check_is_repeated_soon_and_a_network_that_came_back_at_once() {
        let now = Instant::now();
        let mut monitor = Monitor::new(now);
        monitor.record(now, Depth::Light, false);
        assert_eq!(monitor.due(), now + Monitor::AGAIN);
        monitor.phase(now, Phase::Reconnecting);
        monitor.phase(now, Phase::Up);
        assert_eq!(monitor.take_due(now), Some(Depth::Full));
    }
}
