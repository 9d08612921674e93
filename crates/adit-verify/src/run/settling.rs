//! The time in which what is missing may still be on its way: a coordination server tells the nodes of its network of each
//! other, of routes and of permissions one after the other.

use std::time::Duration;

use tokio::time::Instant;

use super::{Missed, Run};
use crate::dialer::DialFailure;
use crate::event::{Event, ms};
use crate::failure::seconds;
use crate::{Failure, Stage};

/// What the last attempt needs before the deadline over everything: a verdict with its class says more than the deadline.
const LAST_TRY: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// The network has sent its first map, now or long ago.
    pub(super) fn begin_to_settle(&self) {
        let now = Instant::now();
        let known = self.fresh_status().configured.unwrap_or_default();
        let grace = if self.own().denied.is_some() { self.plan.grace } else { Duration::ZERO };
        let deadline = self.began + self.plan.timeout.saturating_sub(LAST_TRY);
        // It begins once for a run.
        let _ = self.settled.set((now + grace.saturating_sub(known)).min(deadline));
    }

    /// How long what is missing may still be on its way.
    pub(super) fn unsettled(&self) -> Duration {
        let until = self.settled.get();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether a failure may heal by itself.
    pub(super) fn is_provisional(&self, found: &DialFailure) -> bool {
        !self.unsettled().is_zero() && found.may_settle(self.own())
    }

    /// A stage is tried again although its failure would be final; said once for each stage.
    pub(super) fn provisional(&self, id: Stage, target: Option<usize>, failure: &Failure) {
        let wait = self.unsettled();
        let first = self.log().running.get_mut(&(id, target)).is_some_and(|running| {
            running.limit = running.limit.max(running.since.elapsed() + wait);
            !std::mem::replace(&mut running.provisional, true)
        });
        if first {
            self.observer.notice(Event::Provisional {
                id,
                target: target.map(|index| self.plan.targets[index].to_string()),
                class: failure.class.clone(),
                summary: failure.summary.clone(),
                wait_ms: ms(wait),
            });
        }
    }

    /// The verdict of a stage, with how long it was not taken for one.
    pub(super) fn missed(&self, failure: Failure, attempts: u32, provisional: u32, since: Instant) -> Missed {
        let failure = match provisional {
            0 => failure,
            _ => failure.seen(format!(
                "asked {attempts} times within {}, in case it was still on its way through the network",
                seconds(since.elapsed())
            )),
        };
        Missed { failure, attempts, provisional }
    }
}
