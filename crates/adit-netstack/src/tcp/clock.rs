//! The clock that a peer sees in timestamps (RFC 7323 §5.4).

use std::time::{Duration, Instant};

use super::sender::TICK;

/// Ticks since the stack began, with an offset that hides when that was (RFC 7323 §7.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    epoch: Instant,
    offset: u32,
}

impl Clock {
    pub(super) fn new(epoch: Instant, offset: u32) -> Self {
        Self { epoch, offset }
    }

    /// The timestamp of a segment that leaves at `now`.
    pub(super) fn value(&self, now: Instant) -> u32 {
        self.offset.wrapping_add(self.ticks(now) as u32)
    }

    /// When `value` was current; `None` if we cannot have sent it.
    pub(super) fn when(&self, value: u32, now: Instant) -> Option<Instant> {
        let ticks = self.ticks(now);
        let age = u64::from(self.value(now).wrapping_sub(value));
        (age <= ticks).then(|| self.epoch + TICK * u32::try_from(ticks - age).unwrap_or(u32::MAX))
    }

    fn ticks(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.epoch).as_micros() / TICK.as_micros()) as u64
    }
}

/// A timestamp that was not renewed for this long says nothing any more (RFC 7323 §5.5).
const LIFETIME: Duration = Duration::from_secs(24 * 24 * 3600);
/// A segment may be as much older than the one before it, whatever the round trip: paths reorder.
const TOLERANCE: Duration = Duration::from_millis(200);

/// The peer's clock as it was last seen (TS.Recent, RFC 7323 §4.3).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    value: u32,
    since: Option<Instant>,
}

impl Recent {
    /// What is echoed.
    pub(super) fn value(&self) -> u32 {
        self.value
    }

    pub(super) fn set(&mut self, now: Instant, value: u32) {
        (self.value, self.since) = (value, Some(now));
    }

    /// Goes on to `value`, unless that is older.
    pub(super) fn advance(&mut self, now: Instant, value: u32) {
        if value == self.value || self.lead(now, value).is_none() {
            self.set(now, value);
        }
    }

    /// Whether `value` is newer.
    pub(super) fn is_before(&self, now: Instant, value: u32) -> bool {
        value != self.value && self.lead(now, value).is_none()
    }

    /// Whether `value` is older by more than reordering explains, where a path takes `most` to deliver.
    pub(super) fn is_older(&self, now: Instant, value: u32, most: Duration) -> bool {
        self.lead(now, value).is_some_and(|lead| lead > most.max(TOLERANCE))
    }

    /// By how much `value` is older.
    fn lead(&self, now: Instant, value: u32) -> Option<Duration> {
        let is_valid = self.since.is_some_and(|since| now.saturating_duration_since(since) < LIFETIME);
        let ticks = u32::try_from(self.value.wrapping_sub(value) as i32).ok()?;
        (is_valid && ticks > 0).then(|| TICK * ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_tells_when_its_tick_began_and_one_from_the_future_nothing() {
        let epoch = Instant::now();
        let clock = Clock::new(epoch, u32::MAX - 5);
        let sent = epoch + Duration::from_micros(7_300);
        let now = epoch + Duration::from_millis(90);
        assert_eq!(clock.when(clock.value(sent), now), Some(epoch + Duration::from_millis(7)));
        assert_eq!(clock.when(clock.value(now), now), Some(now));
        assert_eq!(clock.when(clock.value(now).wrapping_add(1), now), None);
    }

    #[test]
    fn timestamps_are_compared_across_their_wrap_and_are_forgotten() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.set(now, u32::MAX);
        recent.advance(now, 500);
        assert_eq!(recent.value(), 500);
        recent.advance(now, u32::MAX);
        assert_eq!(recent.value(), 500, "the older one came late");
        assert!(recent.is_older(now, u32::MAX, Duration::ZERO));
        assert!(!recent.is_older(now, 300, Duration::ZERO), "reordering");
        assert!(!recent.is_older(now, u32::MAX, Duration::from_secs(1)), "reordering of a long path");
        assert!(!recent.is_older(now, 501, Duration::ZERO));
        assert!(!recent.is_older(now + LIFETIME, u32::MAX, Duration::ZERO));
    }
}
