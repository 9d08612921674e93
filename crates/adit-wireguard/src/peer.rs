//! One WireGuard session: the only place that names boringtun.
//!
//! boringtun reads its own clock. Every method here takes `now`; with the feature `sim-clock` it becomes
//! boringtun's time, so that a simulation owns the clock. Without it the two clocks are the same one.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Dropped};
use boringtun::noise::errors::WireGuardError as TunnError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};

use crate::{PresharedKey, PrivateKey, PublicKey};

/// A data message is this much longer than its packet: type, index, counter, authentication tag.
pub const OVERHEAD: usize = 32;
/// The longest handshake message, and so the least space for [`Peer::initiate`] and its like.
pub const HANDSHAKE_LEN: usize = 148;

/// Rekey-Timeout of the WireGuard paper §6.1: an unanswered initiation is repeated after this time.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Reject-After-Time of the WireGuard paper §6.1: no key is used for longer.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// boringtun's timers advance only when it is asked; this often is enough for deadlines counted in seconds.
const TICK: Duration = Duration::from_secs(1);
/// After this time without data none of the timers that data starts (10 s, 15 s) is pending.
const BUSY: Duration = Duration::from_secs(17);
/// How many sessions boringtun keeps, by index modulo this.
const SESSIONS: u32 = 8;
/// boringtun reads the clock a little later than its caller.
const SKEW: Duration = Duration::from_millis(20);

/// What a session is made of.
#[derive(Clone, Debug)]
pub struct PeerKeys<'a> {
    /// Our private key.
    pub private: &'a PrivateKey,
    /// The peer's public key.
    pub public: PublicKey,
    /// The preshared key, if there is one.
    pub preshared: Option<&'a PresharedKey>,
}

/// The session with one peer: handshakes, keys, replay window, timers. It knows no addresses; whatever it
/// writes is to be sent to wherever the peer is.
pub struct Peer {
    /// Several kilobytes. Whoever has thousands of peers keeps places for sessions that most of them never have.
    tunn: Box<Tunn>,
    /// Whether there is a session that seals.
    ready: bool,
    ticked: Instant,
    /// When the unanswered initiation was sent.
    initiated: Option<Instant>,
    established: Option<Instant>,
    last_data: Option<Instant>,
    last_packet: Instant,
    keepalive: Option<Duration>,
    /// Our index of the session that seals.
    current: Option<u32>,
    /// Our index of the session that the peer asked for and has not used yet.
    offered: Option<u32>,
}

/// What [`Peer::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet of this length lies at the front of the buffer.
    Packet(usize),
    /// A data message without content.
    Keepalive,
    /// A handshake message was accepted; the answer of this length lies at the front of the buffer.
    Reply(usize),
    /// The peer is under load and sent a cookie; the next initiation will carry it.
    Cookie,
}

/// What [`Peer::handle_timeout`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Nothing to send.
    Idle,
    /// A handshake initiation of this length lies at the front of the buffer.
    Initiation(usize),
    /// A keepalive of this length lies at the front of the buffer.
    Keepalive(usize),
    /// The handshake was given up after 90 s without an answer.
    GaveUp,
}

/// Why a message was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It is dropped.
    Dropped(Dropped),
    /// It answers our handshake and proves our public key, but does not decrypt: the preshared keys differ.
    PskMismatch,
}

impl From<Dropped> for OpenError {
    fn from(dropped: Dropped) -> Self {
        Self::Dropped(dropped)
    }
}

impl Peer {
    /// A peer without a session. `index` (24 bits) is how its messages name us, unique among our peers.
    pub fn new(keys: &PeerKeys<'_>, index: u32, limiter: &Limiter, now: Instant) -> Self {
        set_clock(now);
        let tunn = Tunn::new(
            keys.private.secret().clone(),
            (*keys.public.as_bytes()).into(),
            keys.preshared.map(|key| *key.as_bytes()),
            None,
            index & 0x00ff_ffff,
            Some(Arc::clone(&limiter.inner)),
        );
        Self {
            tunn: Box::new(tunn),
            ready: false,
            ticked: now,
            initiated: None,
            established: None,
            last_data: None,
            last_packet: now,
            keepalive: None,
            current: None,
            offered: None,
        }
    }

    /// Sends something at least this often, so that a NAT keeps its mapping; `None` never does.
    pub fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.keepalive = interval.filter(|interval| !interval.is_zero());
    }

    /// Whether there is a session that seals packets.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether an initiation waits for its answer.
    pub fn is_initiating(&self) -> bool {
        self.initiated.is_some()
    }

    /// When the newest session was agreed.
    pub fn established(&self) -> Option<Instant> {
        self.established
    }

    /// Whether [`handle_timeout`](Self::handle_timeout) must run before the next message, because the timers have
    /// stood still for a while.
    pub fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ticked) >= TICK
    }

    /// Seals `packet` into the front of `out` and returns the length.
    ///
    /// # Errors
    /// [`Dropped::NotReady`] without a session.
    ///
    /// # Panics
    /// If `out` is not [`OVERHEAD`] longer than `packet`: a bug of the caller.
    pub fn seal(&mut self, now: Instant, packet: &[u8], out: &mut [u8]) -> Result<usize, Dropped> {
        if !self.ready {
            return Err(Dropped::NotReady);
        }
        set_clock(now);
        let TunnResult::WriteToNetwork(sealed) = self.tunn.encapsulate(packet, out) else {
            return Err(Dropped::NotReady);
        };
        self.last_packet = now;
        if !packet.is_empty() {
            self.last_data = Some(now);
        }
        Ok(sealed.len())
    }

    /// Writes a handshake initiation to the front of `out` and returns its length. 0 if one is under way,
    /// unless `again` says that another is wanted.
    ///
    /// # Panics
    /// If `out` is shorter than [`HANDSHAKE_LEN`]: a bug of the caller.
    pub fn initiate(&mut self, now: Instant, again: bool, out: &mut [u8]) -> usize {
        if self.is_stale(now)
            && let Timeout::Initiation(len) = self.tick(now, out)
        {
            return len;
        }
        set_clock(now);
        let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(out, again) else {
            return 0;
        };
        let len = message.len();
        self.initiated = Some(now);
        self.last_packet = now;
        self.spare_current(len, out)
    }

    /// Makes sure that the session which the initiation in `out` leads to, or a session that the peer begins next,
    /// does not take the place of the current one. boringtun keeps eight sessions, by index, and each initiation
    /// takes an index: after an outage with some of them a new session, which the peer may never come to use, would
    /// displace the one that carries packets.
    fn spare_current(&mut self, mut len: usize, out: &mut [u8]) -> usize {
        let Some(current) = self.current.filter(|_| self.ready) else { return len };
        let displaces = |index: u32| index % SESSIONS == current % SESSIONS;
        for _ in 0..2 {
            let Some(index) =
                index_at(out, 4).filter(|index| displaces(*index) || displaces(index.wrapping_add(1)))
            else {
                break;
            };
            tracing::trace!(index, current, "an index is left out");
            let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(out, true) else {
                break;
            };
            len = message.len();
        }
        len
    }

    /// Opens a message from `from` (which the cookie of an overloaded peer is bound to) into the front of `out`.
    ///
    /// # Errors
    /// [`OpenError`]; the message changes nothing then.
    ///
    /// # Panics
    /// If `out` is shorter than `message`, or than [`HANDSHAKE_LEN`]: a bug of the caller.
    pub fn open(
        &mut self,
        now: Instant,
        from: IpAddr,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<Opened, OpenError> {
        set_clock(now);
        let kind = message.first().copied();
        let opened = match self.tunn.decapsulate(Some(from), message, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                self.last_data = Some(now);
                Opened::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(reply) => {
                self.established = Some(now);
                self.initiated = None;
                Opened::Reply(reply.len())
            }
            TunnResult::Done if kind == Some(message_type::COOKIE) => return Ok(Opened::Cookie),
            TunnResult::Done => Opened::Keepalive,
            TunnResult::Err(TunnError::InvalidAeadTag) if kind == Some(message_type::RESPONSE) => {
                return Err(OpenError::PskMismatch);
            }
            TunnResult::Err(error) => return Err(dropped(&error).into()),
        };
        self.last_packet = now;
        match (kind, &opened) {
            // Our index is the receiver's in a response and in data, and the sender's in our response (paper §5.4).
            (Some(message_type::RESPONSE), _) => self.current = index_at(message, 8),
            (Some(message_type::INITIATION), Opened::Reply(len)) => self.offered = index_at(&out[..*len], 4),
            // A peer that uses the session which we offered makes it the current one.
            (Some(message_type::DATA), _)
                if self.offered.is_some() && self.offered == index_at(message, 4) =>
            {
                self.current = self.offered.take();
            }
            _ => {}
        }
        if !self.ready || matches!(opened, Opened::Reply(_)) {
            self.refresh_ready();
        }
        Ok(opened)
    }

    /// Does what is due: repeats an initiation, renews a session, keeps one alive, forgets old keys. To be repeated
    /// until [`Timeout::Idle`] or [`Timeout::GaveUp`].
    ///
    /// # Panics
    /// If `out` is shorter than [`HANDSHAKE_LEN`]: a bug of the caller.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut [u8]) -> Timeout {
        let done = self.tick(now, out);
        if done != Timeout::Idle {
            return done;
        }
        let due = self.keepalive.is_some_and(|interval| now >= self.last_packet + interval);
        if due && self.ready {
            // The seal moves `last_packet`, and with it the next keepalive.
            return self.seal(now, &[], out).map_or(Timeout::Idle, Timeout::Keepalive);
        }
        if due && self.initiated.is_none() {
            return Timeout::Initiation(self.initiate(now, false, out));
        }
        Timeout::Idle
    }

    fn tick(&mut self, now: Instant, out: &mut [u8]) -> Timeout {
        set_clock(now);
        self.ticked = now;
        let done = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => match message.first() {
                Some(&message_type::INITIATION) => {
                    let len = message.len();
                    self.initiated = Some(now);
                    Timeout::Initiation(self.spare_current(len, out))
                }
                _ => Timeout::Keepalive(message.len()),
            },
            TunnResult::Err(TunnError::ConnectionExpired) if self.initiated.take().is_some() => {
                Timeout::GaveUp
            }
            _ => Timeout::Idle,
        };
        if matches!(done, Timeout::Initiation(_) | Timeout::Keepalive(_)) {
            self.last_packet = now;
        }
        self.refresh_ready();
        done
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let at = |at: Instant, why| Some(Deadline { at, why });
        // Due already but not yet seen so by boringtun's later clock: the next tick.
        let not_before = self.ticked + SKEW;
        let retry = self
            .initiated
            .and_then(|sent| at((sent + REKEY_TIMEOUT + SKEW).max(not_before), "handshake retransmission"));
        let busy = self
            .last_data
            .filter(|data| self.ticked < *data + BUSY)
            .and_then(|_| at(self.ticked + TICK, "session timers"));
        let keepalive = self
            .keepalive
            .filter(|_| self.ready || self.initiated.is_none())
            .and_then(|interval| at((self.last_packet + interval).max(not_before), "persistent keepalive"));
        // The keys of a dead session are erased without waiting for traffic.
        let expiry = self.established.filter(|_| self.ready).and_then(|since| {
            at((since + REJECT_AFTER_TIME + SKEW).max(self.ticked + TICK), "session expiry")
        });
        [retry, busy, keepalive, expiry].into_iter().fold(None, Deadline::earlier)
    }

    fn refresh_ready(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("ready", &self.ready)
            .field("initiated", &self.initiated)
            .field("established", &self.established)
            .finish_non_exhaustive()
    }
}

/// The first byte of a message (WireGuard paper §5.4).
pub mod message_type {
    /// Handshake initiation.
    pub const INITIATION: u8 = 1;
    /// Handshake response.
    pub const RESPONSE: u8 = 2;
    /// Cookie reply.
    pub const COOKIE: u8 = 3;
    /// Transport data.
    pub const DATA: u8 = 4;
}

/// The guard before the expensive part of handshakes, shared by all peers of an interface: it checks `mac1`, and under
/// load it answers with a cookie instead of a Diffie-Hellman (WireGuard paper §5.3).
pub struct Limiter {
    public: PublicKey,
    outer: RateLimiter,
    /// boringtun wants one inside too; this one never limits, so that nothing is counted twice.
    inner: Arc<RateLimiter>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

/// What the [`Limiter`] says to a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass. For an initiation, this is who claims to send it; the claim is proven by [`Peer::open`] only.
    Pass(Option<PublicKey>),
    /// It must not, and the cookie reply of this length lies at the front of the buffer.
    Cookie(usize),
}

impl Limiter {
    /// Guards the interface with this key; more than `limit` handshake messages a second are too many.
    pub fn new(public: PublicKey, limit: u64, now: Instant) -> Self {
        set_clock(now);
        let key = (*public.as_bytes()).into();
        Self {
            public,
            outer: RateLimiter::new(&key, limit),
            inner: Arc::new(RateLimiter::new(&key, u64::MAX)),
        }
    }

    /// Judges a handshake message from `from`.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] and [`Dropped::Unauthentic`].
    pub fn check(
        &self,
        now: Instant,
        private: &PrivateKey,
        from: IpAddr,
        message: &[u8],
        out: &mut [u8],
    ) -> Result<Verdict, Dropped> {
        set_clock(now);
        self.outer.reset_count();
        match self.outer.verify_packet(Some(from), message, out) {
            Ok(Packet::HandshakeInit(initiation)) => {
                let public = (*self.public.as_bytes()).into();
                let half = parse_handshake_anon(private.secret(), &public, &initiation)
                    .map_err(|error| dropped(&error))?;
                Ok(Verdict::Pass(Some(PublicKey::from_bytes(half.peer_static_public))))
            }
            Ok(_) => Ok(Verdict::Pass(None)),
            Err(TunnResult::WriteToNetwork(reply)) => Ok(Verdict::Cookie(reply.len())),
            Err(TunnResult::Err(error)) => Err(dropped(&error)),
            Err(_) => Err(Dropped::Unexpected),
        }
    }
}

/// A session index in a message (little-endian, WireGuard paper §5.4), which names the session of its reader or writer.
fn index_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn dropped(error: &TunnError) -> Dropped {
    match error {
        TunnError::InvalidCounter | TunnError::DuplicateCounter | TunnError::WrongTai64nTimestamp => {
            Dropped::Replayed
        }
        TunnError::InvalidMac | TunnError::InvalidAeadTag | TunnError::WrongKey => Dropped::Unauthentic,
        TunnError::WrongIndex | TunnError::NoCurrentSession | TunnError::UnexpectedPacket => {
            Dropped::Unexpected
        }
        TunnError::UnderLoad | TunnError::LockFailed => Dropped::Backpressure,
        TunnError::ConnectionExpired => Dropped::NotReady,
        TunnError::DestinationBufferTooSmall
        | TunnError::IncorrectPacketLength
        | TunnError::WrongPacketType
        | TunnError::InvalidTai64nTimestamp
        | TunnError::InvalidPacket => Dropped::Malformed,
    }
}

#[cfg(not(feature = "sim-clock"))]
fn set_clock(_now: Instant) {}

/// boringtun's mock clock counts from an arbitrary zero, per thread: the first instant that the thread saw.
#[cfg(feature = "sim-clock")]
fn set_clock(now: Instant) {
    use std::cell::Cell;
    thread_local!(static ZERO: Cell<Option<Instant>> = const { Cell::new(None) });
    let zero = ZERO.get().unwrap_or_else(|| {
        ZERO.set(Some(now));
        now
    });
    mock_instant::MockClock::set_time(now.saturating_duration_since(zero));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn peer(own: u8, other: u8, now: Instant) -> Peer {
        let private = PrivateKey::from_bytes([own; 32]);
        let public = PrivateKey::from_bytes([other; 32]).public_key();
        let limiter = Limiter::new(private.public_key(), u64::MAX, now);
        Peer::new(&PeerKeys { private: &private, public, preshared: None }, 0, &limiter, now)
    }

    /// `from` calls and `to` answers; the answer arrives.
    fn shake_hands(from: &mut Peer, to: &mut Peer, now: Instant) {
        let (mut message, mut reply, mut keepalive) = ([0; 200], [0; 200], [0; 200]);
        let len = from.initiate(now, true, &mut message);
        let Ok(Opened::Reply(len)) = to.open(now, HERE, &message[..len], &mut reply) else {
            panic!("no answer")
        };
        let Ok(Opened::Reply(len)) = from.open(now, HERE, &reply[..len], &mut keepalive) else {
            panic!("the answer is not taken");
        };
        assert_eq!(to.open(now, HERE, &keepalive[..len], &mut message), Ok(Opened::Keepalive));
    }

    #[test]
    fn a_session_is_kept_until_the_next_one_is_used_however_many_calls_were_in_vain() {
        let packet = b"\x45\0\0\x14\0\0\0\0\x40\0\0\0\x0a\0\0\x01\x0a\0\0\x02";
        for vain in 0..20 {
            let now = Instant::now();
            let (mut ours, mut theirs) = (peer(1, 2, now), peer(2, 1, now));
            shake_hands(&mut ours, &mut theirs, now);
            let (mut message, mut other) = ([0; 200], [0; 200]);
            for _ in 0..vain {
                assert_eq!(ours.initiate(now, true, &mut message), HANDSHAKE_LEN);
            }
            // The peer calls too, and our answer is lost: what it sends is sealed as before.
            let len = theirs.initiate(now, true, &mut message);
            assert!(matches!(ours.open(now, HERE, &message[..len], &mut other), Ok(Opened::Reply(_))));
            let len = theirs.seal(now, packet, &mut message).unwrap();
            let opened = ours.open(now, HERE, &message[..len], &mut other);
            assert_eq!(opened, Ok(Opened::Packet(packet.len())), "after {vain} calls in vain");
            // And so is what we send.
            let len = ours.seal(now, packet, &mut message).unwrap();
            let opened = theirs.open(now, HERE, &message[..len], &mut other);
            assert_eq!(opened, Ok(Opened::Packet(packet.len())), "after {vain} calls in vain");
        }
    }
}
