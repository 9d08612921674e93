//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(30);

/// A pause that grows with every failure. A random part keeps nodes apart that lost the same server.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pause {
    /// After a success.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// After a failure.
    pub(super) fn longer(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.mul_f64(1.7).min(LONGEST);
        jittered(pause)
    }

    /// After an end that is no failure.
    pub(super) fn short(&self) -> Duration {
        jittered(FIRST)
    }
}

/// Between half and one and a half times as long. Without randomness, as long as said.
fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        let mut pause = Pause::default();
        let waits: Vec<Duration> = (0..20).map(|_| pause.longer()).collect();
        assert!(waits[0] <= FIRST.mul_f64(1.5) && waits[0] >= FIRST / 2);
        assert!(waits.iter().all(|wait| *wait <= LONGEST.mul_f64(1.5)));
        assert!(waits[19] >= LONGEST / 2);
        pause.reset();
        assert!(pause.longer() <= FIRST.mul_f64(1.5));
    }
}
