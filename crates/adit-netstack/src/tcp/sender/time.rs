//! Time inside a sender: nanoseconds since it was made, half the size of an `Instant`.

use std::time::{Duration, Instant};

/// A moment, or [`Time::NEVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(u64);

impl Time {
    /// When the sender was made, and everything before.
    pub(super) const START: Self = Self(0);
    /// A deadline that is not set.
    pub(super) const NEVER: Self = Self(u64::MAX);

    pub(super) fn new(origin: Instant, now: Instant) -> Self {
        Self(nanos(now.saturating_duration_since(origin)))
    }

    pub(super) fn instant(self, origin: Instant) -> Option<Instant> {
        (self != Self::NEVER).then(|| origin + Duration::from_nanos(self.0))
    }

    pub(super) fn is_set(self) -> bool {
        self != Self::NEVER
    }

    /// Nanoseconds since `earlier`, 0 if that is later.
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    pub(super) fn before(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }
}

/// A duration in nanoseconds, of at most 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;
