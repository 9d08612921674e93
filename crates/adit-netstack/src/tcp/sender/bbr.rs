//! BBR version 3 (draft-ietf-ccwg-bbr): a model of the path, its bandwidth and its shortest round trip, instead of
//! a window that every loss cuts. Losses matter when there are many.
//!
//! One thing is ours: the short-term bounds are lowered only in rounds that lost more than [`LOSS`], where the
//! draft lowers them in every round with a loss. On paths that lose at random that is the difference between a
//! part and nearly all of the bandwidth.

mod cycle;

use super::log::Sample;
use super::rate::RateSample;
use super::time::{MS, Time};
use super::window::Window;

/// A round that loses more than this part has too much in flight (draft, section 2.7).
const LOSS: f64 = 0.02;

/// What is left of a bound after such a round.
const BETA: f64 = 0.7;

/// Part of the long-term bound that is left to others.
const HEADROOM: f64 = 0.15;

/// The pacing rate lies below the model by this part, so that queues drain.
const MARGIN: f64 = 0.01;

const STARTUP_GAIN: f64 = 2.77;
const DRAIN_GAIN: f64 = 0.5;
const WINDOW_GAIN: f64 = 2.0;
const UP_WINDOW_GAIN: f64 = 2.25;

/// The shortest round trip is looked for after this, for so long, and forgotten after the third.
const PROBE_RTT_INTERVAL: u64 = 5000 * MS;
const PROBE_RTT_TIME: u64 = 200 * MS;
const MIN_RTT_WINDOW: u64 = 10_000 * MS;

/// Rounds without growth by a quarter after which the path is full.
const FULL_ROUNDS: u8 = 3;

/// Separate losses in a round of startup that end it, if they are more than [`LOSS`].
const STARTUP_LOSSES: u8 = 6;

/// Packets that may always be in flight.
const MIN_PACKETS: u64 = 4;

/// What the model is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The rate doubles every round trip.
    Startup,
    /// The queue that this made is drained.
    Drain,
    /// Below the bandwidth, to drain what probing put into the queue.
    Down,
    /// At the bandwidth, with headroom.
    Cruise,
    /// At the bandwidth, without bounds of the short term.
    Refill,
    /// Above the bandwidth, to see whether there is more.
    Up,
    /// With half a window, to see the shortest round trip.
    ProbeRtt,
}

/// What ACKs say about the latest probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feedback {
    None,
    Refilling,
    Starting,
    Stopping,
}

/// The model.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    state: State,
    feedback: Feedback,
    /// Highest bandwidth of this cycle and of the one before, in bytes per nanosecond.
    bandwidth: [f64; 2],
    shortest: u64,
    shortest_at: Time,
    probed: u64,
    probed_at: Time,
    /// When half a window has been held long enough, once it is reached.
    probe_until: Time,
    probe_round: bool,
    /// Window before it was halved.
    prior_window: u64,
    /// A round ends when what was delivered at its beginning has grown to this.
    round_end: u64,
    round_start: bool,
    loss_round_end: u64,
    loss_round_start: bool,
    losses: u8,
    losses_in_round: bool,
    lost_too_much: bool,
    latest_rate: f64,
    latest_delivered: u64,
    full_rate: f64,
    full_rounds: u8,
    full: bool,
    /// Bounds of what is in flight: of the long term, and of the short term with the rate.
    high: u64,
    low: u64,
    low_rate: f64,
    up_rounds: u8,
    up_credit: f64,
    probing: bool,
    phase_start: Time,
    wait: u64,
    rounds_since_probe: u64,
    /// Bursts of ACKs: what came more than the rate explains, its maximum now and in the rounds before.
    burst_start: Time,
    burst_delivered: u64,
    bursts: [u64; 2],
    burst_rounds: u8,
    pub(super) rate: f64,
}

/// What an ACK says to the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acked {
    pub(super) now: Time,
    pub(super) sample: RateSample,
    /// Bytes that this ACK delivered, and all together.
    pub(super) newly: u64,
    pub(super) delivered: u64,
    /// This ACK showed losses.
    pub(super) losing: bool,
    pub(super) rtt: Option<u64>,
    pub(super) in_flight: u64,
    /// The window is what keeps more from leaving.
    pub(super) limited: bool,
    pub(super) mss: u64,
    /// Bytes that leave together.
    pub(super) portion: u64,
    pub(super) initial_window: u64,
}

/// Bounds that are restored when losses turn out to be none.
#[derive(Clone, Copy, Debug)]
pub(super) struct SavedBbr {
    high: u64,
    low: u64,
    low_rate: f64,
}

impl Bbr {
    pub(super) fn new() -> Self {
        Self {
            state: State::Startup,
            feedback: Feedback::None,
            bandwidth: [0.0; 2],
            shortest: u64::MAX,
            shortest_at: Time::START,
            probed: u64::MAX,
            probed_at: Time::START,
            probe_until: Time::NEVER,
            probe_round: false,
            prior_window: 0,
            round_end: 0,
            round_start: false,
            loss_round_end: 0,
            loss_round_start: false,
            losses: 0,
            losses_in_round: false,
            lost_too_much: false,
            latest_rate: 0.0,
            latest_delivered: 0,
            full_rate: 0.0,
            full_rounds: 0,
            full: false,
            high: u64::MAX,
            low: u64::MAX,
            low_rate: f64::INFINITY,
            up_rounds: 0,
            up_credit: 0.0,
            probing: false,
            phase_start: Time::START,
            wait: 0,
            rounds_since_probe: 0,
            burst_start: Time::START,
            burst_delivered: 0,
            bursts: [0; 2],
            burst_rounds: 0,
            rate: 0.0,
        }
    }

    /// Whether the path was once full, so that the model knows it.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// The pacing rate, in bytes per nanosecond, before the path was full.
    pub(super) fn first_rate(window: u64, rtt: u64) -> f64 {
        STARTUP_GAIN * window as f64 / rtt.max(1) as f64
    }

    /// Updates the model, then rate and window (draft, section 5.2.3).
    pub(super) fn on_ack(&mut self, window: &mut Window, ack: &Acked) {
        self.update_rounds(ack);
        self.update_signals(window, ack);
        self.update_bursts(ack, window.size);
        self.check_full(ack);
        self.check_drained(ack);
        self.update_cycle(window, ack);
        self.update_shortest(window, ack);
        if self.loss_round_start {
            self.latest_rate = ack.sample.rate;
            self.latest_delivered = ack.sample.delivered;
        }
        self.set_rate();
        self.set_window(window, ack);
    }

    /// A transmission was lost of which `lost` bytes are missing now; `total`: all that was lost so far.
    pub(super) fn on_loss(&mut self, window: &Window, sample: &Sample, lost: u64, total: u64, now: Time) {
        self.losses = self.losses.saturating_add(1);
        if !self.probing {
            return;
        }
        let all = total.saturating_sub(sample.lost);
        if all as f64 > LOSS * sample.in_flight as f64 {
            // What was in flight when the losses became too many (draft, section 5.5.10.2).
            let before = sample.in_flight.saturating_sub(lost) as f64;
            let lost_before = all.saturating_sub(lost) as f64;
            let prefix = ((LOSS * before - lost_before) / (1.0 - LOSS)).max(0.0);
            self.too_high(window, (before + prefix) as u64, sample.limited, now);
        }
    }

    pub(super) fn save(&self) -> SavedBbr {
        SavedBbr { high: self.high, low: self.low, low_rate: self.low_rate }
    }

    /// There was no loss: the bounds are what they were, or what they have become since.
    pub(super) fn restore(&mut self, saved: &SavedBbr) {
        self.high = self.high.max(saved.high);
        self.low = self.low.max(saved.low);
        self.low_rate = self.low_rate.max(saved.low_rate);
    }

    fn max_rate(&self) -> f64 {
        self.bandwidth[0].max(self.bandwidth[1])
    }

    /// Bandwidth times round trip, times `gain`; `None` before both are known.
    fn product(&self, gain: f64) -> Option<u64> {
        let rate = self.max_rate().min(self.low_rate);
        (self.shortest != u64::MAX && rate > 0.0).then_some((gain * rate * self.shortest as f64) as u64)
    }

    fn update_rounds(&mut self, ack: &Acked) {
        self.round_start = ack.sample.prior_delivered >= self.round_end;
        if self.round_start {
            self.round_end = ack.delivered;
            self.rounds_since_probe += 1;
        }
        self.loss_round_start = ack.sample.prior_delivered >= self.loss_round_end;
        if self.loss_round_start {
            self.loss_round_end = ack.delivered;
        }
    }

    fn begin_round(&mut self, ack: &Acked) {
        self.round_end = ack.delivered;
    }

    /// The bandwidth, and the bounds of the short term (draft, section 5.5.10.3).
    fn update_signals(&mut self, window: &Window, ack: &Acked) {
        let sample = &ack.sample;
        self.latest_rate = self.latest_rate.max(sample.rate);
        self.latest_delivered = self.latest_delivered.max(sample.delivered);
        if sample.rate > 0.0 && (sample.rate >= self.max_rate() || !sample.limited) {
            self.bandwidth[1] = self.bandwidth[1].max(sample.rate);
        }
        self.losses_in_round |= ack.losing;
        if !self.loss_round_start {
            return;
        }
        self.lost_too_much = sample.lost as f64 > LOSS * sample.in_flight as f64;
        let probing = matches!(self.state, State::Startup | State::Refill | State::Up | State::ProbeRtt);
        if self.losses_in_round && self.lost_too_much && !probing {
            if self.low_rate.is_infinite() {
                self.low_rate = self.max_rate();
            }
            if self.low == u64::MAX {
                self.low = window.size;
            }
            self.low_rate = self.latest_rate.max(BETA * self.low_rate);
            self.low = self.latest_delivered.max((BETA * self.low as f64) as u64);
        }
    }

    /// What arrives in bursts, because ACKs do, needs a larger window (draft, section 5.5.9).
    fn update_bursts(&mut self, ack: &Acked, window: u64) {
        if self.round_start {
            self.burst_rounds += 1;
            let rounds = if self.full { 5 } else { 1 };
            if self.burst_rounds >= rounds {
                self.burst_rounds = 0;
                self.bursts = [self.bursts[1], 0];
            }
        }
        let rate = self.max_rate().min(self.low_rate);
        let mut expected = rate * ack.now.since(self.burst_start) as f64;
        if self.burst_delivered as f64 <= expected {
            self.burst_delivered = 0;
            self.burst_start = ack.now;
            expected = 0.0;
        }
        self.burst_delivered += ack.newly;
        let burst = (self.burst_delivered as f64 - expected).max(0.0) as u64;
        self.bursts[1] = self.bursts[1].max(burst.min(window));
    }

    /// Whether startup has filled the path (draft, section 5.3.1).
    fn check_full(&mut self, ack: &Acked) {
        if self.full {
            return;
        }
        if self.round_start && !ack.sample.limited {
            if self.max_rate() >= self.full_rate * 1.25 {
                self.full_rate = self.max_rate();
                self.full_rounds = 0;
            } else {
                self.full_rounds += 1;
                self.full = self.full_rounds >= FULL_ROUNDS;
            }
        }
        if self.loss_round_start {
            if self.state == State::Startup && self.lost_too_much && self.losses >= STARTUP_LOSSES {
                self.full = true;
                self.high = self.product(1.0).unwrap_or(0).max(self.latest_delivered);
            }
            self.losses = 0;
            self.losses_in_round = false;
        }
    }

    fn check_drained(&mut self, ack: &Acked) {
        if self.loss_round_start {
            self.losses = 0;
            self.losses_in_round = false;
        }
        if self.state == State::Startup && self.full {
            self.state = State::Drain;
            self.low = u64::MAX;
            self.low_rate = f64::INFINITY;
        }
        if self.state == State::Drain && self.product(1.0).is_some_and(|product| ack.in_flight <= product) {
            self.start_down(ack.now, ack);
        }
    }

    /// The shortest round trip, and when to look for it (draft, section 5.3.4).
    fn update_shortest(&mut self, window: &mut Window, ack: &Acked) {
        let now = ack.now;
        let expired = now.since(self.probed_at) > PROBE_RTT_INTERVAL;
        if let Some(rtt) = ack.rtt.filter(|rtt| *rtt < self.probed || expired) {
            self.probed = rtt.max(1);
            self.probed_at = now;
        }
        if self.probed < self.shortest || now.since(self.shortest_at) > MIN_RTT_WINDOW {
            self.shortest = self.probed;
            self.shortest_at = self.probed_at;
        }
        if expired && self.state != State::ProbeRtt && self.full {
            self.state = State::ProbeRtt;
            self.prior_window = window.size;
            self.probe_until = Time::NEVER;
            self.feedback = Feedback::Stopping;
            self.begin_round(ack);
        }
        if self.state != State::ProbeRtt {
            return;
        }
        if !self.probe_until.is_set() {
            if ack.in_flight <= self.half_window(ack.mss) {
                self.probe_until = now.after(PROBE_RTT_TIME);
                self.probe_round = false;
                self.begin_round(ack);
            }
            return;
        }
        self.probe_round |= self.round_start;
        if self.probe_round && now >= self.probe_until {
            self.probed_at = now;
            window.size = window.size.max(self.prior_window);
            self.low = u64::MAX;
            self.low_rate = f64::INFINITY;
            self.start_down(now, ack);
            self.state = State::Cruise;
            // What arrives from here on left with half a window.
            self.loss_round_end = ack.delivered;
        }
    }

    fn half_window(&self, mss: u64) -> u64 {
        self.product(0.5).unwrap_or(0).max(MIN_PACKETS * mss)
    }

    fn with_headroom(&self, mss: u64) -> u64 {
        if self.high == u64::MAX {
            return u64::MAX;
        }
        let headroom = ((HEADROOM * self.high as f64) as u64).max(mss);
        self.high.saturating_sub(headroom).max(MIN_PACKETS * mss)
    }

    fn set_rate(&mut self) {
        let gain = match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => DRAIN_GAIN,
            State::Down => 0.9,
            State::Up => 1.25,
            State::Cruise | State::Refill | State::ProbeRtt => 1.0,
        };
        let rate = gain * self.max_rate().min(self.low_rate) * (1.0 - MARGIN);
        if rate > 0.0 && (self.full || rate > self.rate) {
            self.rate = rate;
        }
    }

    /// The window of the model (draft, section 5.6.4).
    fn set_window(&mut self, window: &mut Window, ack: &Acked) {
        let least = MIN_PACKETS * ack.mss;
        let gain = if self.state == State::Up { UP_WINDOW_GAIN } else { WINDOW_GAIN };
        let target = self.product(gain).map(|product| {
            let bursts = self.bursts[0].max(self.bursts[1]);
            let probe = if self.state == State::Up { 2 * ack.mss } else { 0 };
            (product + bursts).max(3 * ack.portion).max(least) + probe
        });
        match target {
            Some(target) if self.full => window.size = (window.size + ack.newly).min(target),
            Some(target) if window.size >= target && ack.delivered >= ack.initial_window => {}
            _ => window.size += ack.newly,
        }
        let cap = match self.state {
            State::Down | State::Refill | State::Up => self.high,
            State::Cruise => self.with_headroom(ack.mss),
            State::ProbeRtt => self.with_headroom(ack.mss).min(self.half_window(ack.mss)),
            State::Startup | State::Drain => u64::MAX,
        };
        window.size = window.size.min(cap.min(self.low)).max(least);
    }
}
