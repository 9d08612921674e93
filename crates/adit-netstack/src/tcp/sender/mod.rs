//! The sending half of a connection: which bytes leave when.
//!
//! A [`Sender`] knows offsets, not bytes: 0 is the first byte of the payload, a FIN is one unit after the last,
//! and the SYN is none of its business. After [`handle_ack`](Sender::handle_ack),
//! [`handle_timeout`](Sender::handle_timeout) and new data its owner calls
//! [`poll_transmit`](Sender::poll_transmit) until `None`, then arms a timer for
//! [`poll_timeout`](Sender::poll_timeout). Time is an argument: when the packets were read, not when they are
//! looked at.
//!
//! | what | where | source |
//! |---|---|---|
//! | what is outstanding, every transmission in order | `ranges`, `log` | |
//! | round trips, retransmission timeout | `rtt` | RFC 6298, RFC 7323 |
//! | which transmissions are lost | `rack` | RFC 8985 |
//! | probing a silent tail | `probe` | RFC 8985, section 7 |
//! | how much leaves while losses are mended | `prr` | RFC 9937 |
//! | recovery, timeouts, and taking them back | `recovery`, `undo` | RFC 5682, RFC 3522, RFC 3708 |
//! | the congestion window | `cubic`, `hystart` | RFC 9438, RFC 9406 |
//! | the congestion window by a model of the path | `bbr`, `rate` | draft-ietf-ccwg-bbr |
//! | letting data out at a rate | `pacing` | |
//! | packets that the path swallows for their size | `sizing` | RFC 4821 |

mod ack;
mod api;
mod bbr;
mod control;
mod cubic;
mod hystart;
mod log;
mod pacing;
mod probe;
mod prr;
mod rack;
mod ranges;
mod rate;
mod recovery;
mod rtt;
mod sizing;
mod time;
mod transmit;
mod undo;
mod window;

use std::time::{Duration, Instant};

pub(crate) use self::api::{Ack, Kind, Segment, SenderConfig, SenderStats, TICK};
use self::control::Controller;
use self::log::Log;
use self::pacing::Pacing;
use self::probe::Probe;
use self::rack::Rack;
use self::ranges::Scoreboard;
use self::rate::Delivery;
use self::recovery::{Episode, Phase};
use self::rtt::Rtt;
use self::sizing::Sizing;
use self::time::{Time, nanos};
use self::window::{Round, Window};

/// Smallest payload of a full packet: no peer makes us send smaller ones.
const MIN_MSS: u16 = 64;

/// The sending half of one connection.
#[derive(Debug)]
pub(crate) struct Sender {
    /// What [`Time`] counts from.
    origin: Instant,
    mss: u32,
    /// What every path takes.
    least: u32,
    sizing: Option<Box<Sizing>>,
    /// The largest segment that the owner takes.
    largest: u32,
    sack: bool,
    board: Scoreboard,
    log: Log,
    /// Right edge of the peer's window.
    edge: u64,
    /// The largest window that the peer has offered.
    widest: u64,
    rtt: Rtt,
    rack: Rack,
    phase: Phase,
    /// The latest recovery, whether it is over or not.
    episode: Option<Box<Episode>>,
    window: Window,
    initial_window: u64,
    round: Round,
    control: Controller,
    delivery: Delivery,
    /// The window before a timeout, for a control that comes back to it.
    before_timeout: u64,
    pacing: Pacing,
    /// Duplicate ACKs of a peer without SACK: so many packets have arrived somewhere.
    duplicates: u32,
    probe: Option<Probe>,
    /// A probe has to leave now.
    probe_due: bool,
    /// Expiries without progress, which double the timeout.
    backoff: u8,
    /// Expiries without any answer.
    unanswered: u32,
    retransmit_at: Time,
    probe_at: Time,
    reorder_at: Time,
    persist_at: Time,
    last_sent: Time,
    /// Something was once taken for lost: from then on data is paced however small the window.
    paced: bool,
    stats: SenderStats,
}

impl Sender {
    /// A sender at offset 0.
    pub(crate) fn new(config: &SenderConfig, now: Instant) -> Self {
        let mss = u32::from(config.mss.max(MIN_MSS));
        let initial_window = u64::from(mss) * u64::from(config.initial_window.max(1));
        let mut rtt = Rtt::new();
        if let Some(handshake) = config.handshake {
            rtt.sample(nanos(handshake));
            rtt.note_shortest(Time::START, nanos(handshake));
        }
        Self {
            origin: now,
            mss,
            least: u32::from(config.least.max(MIN_MSS)),
            sizing: None,
            largest: mss,
            sack: config.sack,
            board: Scoreboard::default(),
            log: Log::default(),
            edge: config.window,
            widest: config.window,
            rtt,
            rack: Rack::new(),
            phase: Phase::Open,
            episode: None,
            window: Window { size: initial_window, threshold: u64::MAX },
            initial_window,
            round: Round::new(),
            control: Controller::new(config.control),
            delivery: Delivery::new(),
            before_timeout: 0,
            pacing: Pacing::new(),
            duplicates: 0,
            probe: None,
            probe_due: false,
            backoff: 0,
            unanswered: 0,
            retransmit_at: Time::NEVER,
            probe_at: Time::NEVER,
            reorder_at: Time::NEVER,
            persist_at: Time::NEVER,
            last_sent: Time::START,
            paced: false,
            stats: SenderStats::default(),
        }
    }

    /// Sets the payload of a full packet. If it has become smaller, what is outstanding did not fit the path and
    /// is sent again in smaller pieces; that says nothing about congestion.
    pub(crate) fn set_mss(&mut self, now: Instant, mss: u16) {
        let mss = u32::from(mss.max(MIN_MSS));
        if self.resize(mss) {
            return;
        }
        if mss < self.mss {
            let now = self.time(now);
            let losses = self.board.lose_older(now, u64::from(mss));
            self.count_lost(losses.bytes);
            self.probe = None;
            self.probe_due = false;
            self.probe_at = Time::NEVER;
        }
        self.mss = mss;
        self.window.size = self.window.size.max(u64::from(mss));
    }

    /// The path works again: what waits for the retransmission timer is due now, and waits start anew.
    pub(crate) fn nudge(&mut self, now: Instant) {
        let now = self.time(now);
        self.backoff = 0;
        self.unanswered = 0;
        if self.persist_at.is_set() {
            self.persist_at = now;
        }
        let patience = self.rtt.smoothed().unwrap_or(0);
        let stale = self.board.front().is_some_and(|head| now.since(head.sent) > patience);
        if stale && self.board.out() > 0 {
            self.expire(now);
        } else if self.retransmit_at.is_set() {
            self.retransmit_at = self.retransmit_at.min(now.after(self.rtt.timeout(0)));
        }
    }

    /// Everything before it has arrived.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.board.unacknowledged()
    }

    /// End of what was ever sent.
    pub(crate) fn next(&self) -> u64 {
        self.board.next()
    }

    /// Payload of a full packet.
    pub(crate) fn mss(&self) -> u16 {
        u16::try_from(self.mss).unwrap_or(u16::MAX)
    }

    /// The congestion window in bytes.
    #[cfg(test)]
    pub(crate) fn congestion_window(&self) -> u64 {
        self.window.size
    }

    /// The smoothed round trip, once there was a sample.
    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.rtt.smoothed().map(Duration::from_nanos)
    }

    /// The shortest round trip of late.
    pub(crate) fn shortest_rtt(&self) -> Option<Duration> {
        self.rtt.shortest().map(Duration::from_nanos)
    }

    /// How often in a row a timer expired without an answer: retransmissions or window probes.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Counters and state.
    #[cfg(test)]
    pub(crate) fn stats(&self) -> SenderStats {
        self.stats
    }

    fn time(&self, now: Instant) -> Time {
        Time::new(self.origin, now)
    }

    /// Bytes that are in the network, as far as is known.
    fn in_flight(&self) -> u64 {
        self.board.out().saturating_sub(u64::from(self.duplicates) * u64::from(self.mss))
    }
}

#[cfg(test)]
mod tests;
