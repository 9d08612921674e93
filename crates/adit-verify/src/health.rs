//! A running session: three questions about its health, and when to check it again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_path::{Phase, Status};
use adit_tunnel::Deadline;

/// A cheap check (one probe per target) happens this often.
pub const CHEAP: Duration = Duration::from_secs(30);

/// A full check (every stage) happens this often.
pub const FULL: Duration = Duration::from_secs(300);

/// So many failures in a row make a session degraded.
const DEGRADED: u32 = 3;

/// A node key that expires within this time is worth a word.
const SOON: Duration = Duration::from_secs(24 * 3600);

/// When the key by which the network knows this machine expires (RFC 3339), if that is soon.
pub fn key_expires_soon(status: &Status, now: SystemTime) -> Option<String> {
    let seconds = status.own.as_ref()?.key_expires?;
    let soon = now.duration_since(UNIX_EPOCH).unwrap_or_default() + SOON;
    (seconds <= soon.as_secs()).then(|| crate::rfc3339(seconds))
}

/// The three questions of `status --check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does the process that owns the tunnel answer?
    Live,
    /// Has the tunnel been up at least once?
    Startup,
    /// Is it up, and did the last check succeed recently?
    Ready,
}

impl Question {
    /// The answer. `live` is implied by there being a status at all.
    pub fn holds(self, status: &Status, checks: &Recheck, now: Instant) -> bool {
        match self {
            Self::Live => status.phase != Phase::Closed,
            Self::Startup => status.ups > 0,
            Self::Ready => status.phase == Phase::Up && checks.is_fresh(now),
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// One probe per target.
    Cheap,
    /// Every stage.
    Full,
}

/// What a finished check changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Three checks in a row failed. The session is kept: a working connection is worth more than a probe.
    Degraded,
    /// A check succeeded after the session was degraded.
    Recovered,
}

/// When to check a verified session again: cheaply every 30 s, fully every 5 min. Never tears anything down.
///
/// Ask [`due`](Self::due) at [`poll_timeout`](Self::poll_timeout) at the latest, do what it says, and report with
/// [`handle_result`](Self::handle_result).
#[derive(Clone, Debug)]
pub struct Recheck {
    next_cheap: Instant,
    next_full: Instant,
    last_success: Option<Instant>,
    failures: u32,
    degraded: bool,
}

impl Recheck {
    /// Starts with the result of the first verification.
    pub fn new(now: Instant, verified: bool) -> Self {
        Self {
            next_cheap: now + CHEAP,
            next_full: now + FULL,
            last_success: verified.then_some(now),
            failures: u32::from(!verified),
            degraded: false,
        }
    }

    /// The check that is due, if one is.
    pub fn due(&self, now: Instant) -> Option<Check> {
        if now >= self.next_full {
            Some(Check::Full)
        } else if now >= self.next_cheap {
            Some(Check::Cheap)
        } else {
            None
        }
    }

    /// When the next check is due.
    pub fn poll_timeout(&self) -> Deadline {
        if self.next_full <= self.next_cheap {
            Deadline { at: self.next_full, why: "full check" }
        } else {
            Deadline { at: self.next_cheap, why: "cheap check" }
        }
    }

    /// Takes the result of a check that ended at `now`.
    pub fn handle_result(&mut self, now: Instant, check: Check, success: bool) -> Option<Change> {
        self.next_cheap = now + CHEAP;
        if check == Check::Full {
            self.next_full = now + FULL;
        }
        if success {
            self.failures = 0;
            self.last_success = Some(now);
            return std::mem::take(&mut self.degraded).then_some(Change::Recovered);
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= DEGRADED && !self.degraded {
            self.degraded = true;
            return Some(Change::Degraded);
        }
        None
    }

    /// Whether three checks in a row failed and none succeeded since.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Whether the last success is recent enough to call the session ready: two cheap checks may be missing.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.last_success.is_some_and(|at| now.saturating_duration_since(at) <= CHEAP * DEGRADED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_checks_come_every_thirty_seconds_and_a_full_one_every_five_minutes() {
        let start = Instant::now();
        let mut recheck = Recheck::new(start, true);
        let (mut now, mut cheap, mut full) = (start, 0, 0);
        while now < start + Duration::from_secs(600) {
            now = recheck.poll_timeout().at;
            let check = recheck.due(now).expect("the deadline says so");
            if check == Check::Full {
                full += 1
            } else {
                cheap += 1
            }
            assert_eq!(recheck.handle_result(now, check, true), None);
        }
        assert_eq!((cheap, full), (18, 2));
    }

    #[test]
    fn three_failures_degrade_and_one_success_recovers() {
        let now = Instant::now();
        let mut recheck = Recheck::new(now, true);
        let fail = |recheck: &mut Recheck| recheck.handle_result(now, Check::Cheap, false);
        assert_eq!((fail(&mut recheck), fail(&mut recheck)), (None, None));
        assert_eq!(fail(&mut recheck), Some(Change::Degraded));
        assert_eq!(fail(&mut recheck), None, "degraded is said once");
        assert_eq!(recheck.handle_result(now, Check::Cheap, true), Some(Change::Recovered));
        assert!(!recheck.is_degraded());
    }

    #[test]
    fn the_three_questions_have_three_answers() {
        let now = Instant::now();
        let status = |phase, ups| Status { phase, ups, ..Status::default() };
        let fresh = Recheck::new(now, true);
        let ask = |status: &Status, checks: &Recheck, now| {
            [Question::Live, Question::Startup, Question::Ready]
                .map(|question| question.holds(status, checks, now))
        };
        assert_eq!(ask(&status(Phase::Connecting, 0), &Recheck::new(now, false), now), [true, false, false]);
        assert_eq!(ask(&status(Phase::Up, 1), &fresh, now), [true, true, true]);
        assert_eq!(ask(&status(Phase::Reconnecting, 1), &fresh, now), [true, true, false]);
        assert_eq!(ask(&status(Phase::Up, 1), &fresh, now + Duration::from_secs(91)), [true, true, false]);
        assert_eq!(ask(&status(Phase::Closed, 1), &fresh, now), [false, true, false]);
    }
}
