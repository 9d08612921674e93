//! CUBIC (RFC 9438). Windows are in packets here.

use super::hystart::{Growth, HyStart};
use super::time::Time;
use super::window::Window;

/// How fast the window grows, in packets per cubic second (RFC 9438, section 5).
const C: f64 = 0.4;

/// What is left of the window after a loss.
const BETA: f64 = 0.7;

/// Growth of Reno's window that is fair with `BETA`, in packets a round trip (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The state of CUBIC beside the window.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    curve: Curve,
    /// Growth of less than a byte.
    fraction: f64,
    pub(super) hystart: HyStart,
}

/// What a reduction changes, and what is restored when it is taken back. Windows in packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Curve {
    /// The window before the last reduction; 0 before the first.
    largest: f64,
    /// Seconds from the start of the epoch until the window reaches `origin`.
    inflection: f64,
    origin: f64,
    /// When the growth since the last reduction began.
    epoch: Time,
    /// The window that Reno would have.
    reno: f64,
    /// The window before the last reduction, without fast convergence.
    before: f64,
}

/// What an ACK says to a congestion control.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growing {
    pub(super) now: Time,
    /// Bytes that arrived.
    pub(super) delivered: u64,
    /// Everything before it is acknowledged.
    pub(super) unacknowledged: u64,
    pub(super) next: u64,
    /// Round trip of data that was sent once.
    pub(super) rtt: Option<u64>,
    pub(super) smoothed: u64,
    pub(super) shortest: Option<u64>,
    pub(super) mss: u64,
}

impl Curve {
    /// Growth begins at a window of `size` packets.
    fn begin(&mut self, now: Time, size: f64) {
        self.epoch = now;
        self.reno = size;
        self.origin = self.largest.max(size);
        self.inflection = ((self.origin - size) / C).cbrt();
    }

    /// The window so many seconds after the beginning (section 4.2).
    fn at(&self, seconds: f64) -> f64 {
        C * (seconds - self.inflection).powi(3) + self.origin
    }
}

impl Cubic {
    pub(super) fn new() -> Self {
        let curve =
            Curve { largest: 0.0, inflection: 0.0, origin: 0.0, epoch: Time::NEVER, reno: 0.0, before: 0.0 };
        Self { curve, fraction: 0.0, hystart: HyStart::new() }
    }

    /// Grows the window for data that arrived.
    pub(super) fn grow(&mut self, window: &mut Window, ack: &Growing) {
        if !window.in_slow_start() {
            self.avoid(window, ack);
            return;
        }
        let packets = window.size / ack.mss;
        let growth = match self.hystart.on_ack(ack, packets) {
            Growth::Full => ack.delivered,
            Growth::Quarter => ack.delivered / 4,
            Growth::Stop => {
                window.threshold = window.size;
                return;
            }
        };
        window.size = (window.size + growth).min(window.threshold);
    }

    /// Congestion avoidance (sections 4.2 to 4.5).
    fn avoid(&mut self, window: &mut Window, ack: &Growing) {
        let mss = ack.mss as f64;
        let size = window.size as f64 / mss;
        let curve = &mut self.curve;
        if !curve.epoch.is_set() {
            curve.begin(ack.now, size);
        }
        let elapsed = seconds(ack.now.since(curve.epoch));
        let acked = ack.delivered as f64 / mss;
        let alpha = if curve.reno >= curve.before { 1.0 } else { ALPHA };
        curve.reno += alpha * acked / size;
        let growth = if curve.at(elapsed) < curve.reno {
            curve.reno - size
        } else {
            // Growth depends on time, never on what an ACK takes away: the target is at least the window.
            let target = curve.at(elapsed + seconds(ack.smoothed)).clamp(size, 1.5 * size);
            acked * (target - size) / size
        };
        // Before any loss slow start may have ended too early: at least 5 % in a round trip, as Linux does.
        let growth = if curve.largest == 0.0 { growth.max(0.05 * acked) } else { growth };
        let bytes = growth.clamp(0.0, acked) * mss + self.fraction;
        let whole = bytes.floor();
        self.fraction = bytes - whole;
        window.size += whole as u64;
    }

    /// Something was lost: the new threshold (sections 4.6 and 4.7).
    pub(super) fn reduce(&mut self, window: &Window, mss: u64) -> u64 {
        let size = window.size as f64 / mss as f64;
        let largest = self.curve.largest;
        self.curve.before = size;
        self.curve.largest = if size < largest { size * (1.0 + BETA) / 2.0 } else { size };
        self.curve.epoch = Time::NEVER;
        self.fraction = 0.0;
        self.hystart.stop();
        ((size * BETA).max(2.0) * mss as f64) as u64
    }

    /// Time in which the window was not used does not count.
    pub(super) fn pause(&mut self, nanos: u64) {
        let epoch = &mut self.curve.epoch;
        if epoch.is_set() {
            *epoch = epoch.after(nanos);
        }
    }

    pub(super) fn save(&self) -> Curve {
        self.curve
    }

    /// Takes back a reduction that was made so many nanoseconds ago.
    pub(super) fn restore(&mut self, saved: &Curve, ago: u64) {
        self.curve = *saved;
        self.fraction = 0.0;
        self.pause(ago);
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
