//! The ways to one peer: which addresses might lead there, which do, and which is best.
//!
//! A direct address carries packets alone while it is trusted, which a pong makes it for a few seconds; while none is,
//! packets go through the peer's relay as well, so that no change of the network loses any.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::Deadline;

use crate::disco::Transaction;

/// While packets are sent, the best address is pinged this often.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A pong makes an address trusted for this long.
const TRUST: Duration = Duration::from_millis(6500);
/// Without packets for this long, nothing is pinged any more.
const ACTIVE: Duration = Duration::from_secs(45);
/// One address is not pinged more often by a search.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A pong is not waited for longer.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A better address than a good one is searched for this often.
const UPGRADE_INTERVAL: Duration = Duration::from_secs(60);
/// No better address is searched for.
const GOOD_ENOUGH: Duration = Duration::from_millis(5);
/// An address that was learned from a packet and not confirmed is forgotten after this time.
const LEARNED: Duration = Duration::from_secs(45);
/// Candidates that are kept.
const MAX_CANDIDATES: usize = 100;
/// Pings that wait for their pongs.
const MAX_PINGS: usize = 128;
/// An address takes the place of a trusted one only if it leads by so many points: jitter makes nothing flap.
const MARGIN: i64 = 10;

/// What sends a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// To this address.
    pub(crate) direct: Option<SocketAddr>,
    /// Through the peer's relay.
    pub(crate) relay: bool,
}

/// What a pong told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ponged {
    /// The round trip.
    pub(crate) rtt: Duration,
    /// Whether the address is the best now and was not.
    pub(crate) chosen: bool,
    /// Whose question it answers, if somebody asked.
    pub(crate) token: Option<u64>,
}

#[derive(Clone, Debug)]
struct Candidate {
    address: SocketAddr,
    /// In the netmap.
    listed: bool,
    /// In the last call of the peer.
    called: bool,
    /// Seen as the source of a ping; for so long.
    learned: Option<Instant>,
    pinged: Option<Instant>,
}

impl Candidate {
    fn is_wanted(&self, now: Instant) -> bool {
        self.listed || self.called || self.learned.is_some_and(|until| now < until)
    }
}

#[derive(Clone, Debug)]
struct Ping {
    transaction: Transaction,
    /// `None` is through a relay.
    to: Option<SocketAddr>,
    at: Instant,
    token: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Best {
    address: SocketAddr,
    rtt: Duration,
    trusted_until: Instant,
}

/// The ways to one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    candidates: Vec<Candidate>,
    pings: Vec<Ping>,
    best: Option<Best>,
    /// The last round trip through a relay.
    relayed: Option<Duration>,
    last_search: Option<Instant>,
    last_send: Option<Instant>,
    heartbeat: Option<Instant>,
}

impl Paths {
    /// Takes the endpoints of the netmap.
    pub(crate) fn set_endpoints(&mut self, now: Instant, endpoints: &[SocketAddr]) {
        for candidate in &mut self.candidates {
            candidate.listed = false;
        }
        for address in endpoints {
            if let Some(candidate) = self.candidate(now, *address) {
                candidate.listed = true;
            }
        }
        self.prune(now);
    }

    /// A ping came from `address`; returns whether it is worth one back.
    pub(crate) fn learn(&mut self, now: Instant, address: SocketAddr) -> bool {
        let trusted = self.is_trusted(now);
        let Some(candidate) = self.candidate(now, address) else { return false };
        candidate.learned = Some(now + LEARNED);
        !trusted && candidate.pinged.is_none_or(|at| now >= at + PING_INTERVAL)
    }

    /// The peer called: it may be found at these addresses now, all of which are to be pinged at once.
    pub(crate) fn called(&mut self, now: Instant, endpoints: impl Iterator<Item = SocketAddr>) {
        for candidate in &mut self.candidates {
            candidate.called = false;
            candidate.pinged = None;
        }
        for address in endpoints.filter(|address| !is_link_local(address.ip())) {
            if let Some(candidate) = self.candidate(now, address) {
                candidate.called = true;
            }
        }
        self.prune(now);
    }

    fn candidate(&mut self, now: Instant, address: SocketAddr) -> Option<&mut Candidate> {
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return None;
        }
        let known = self.candidates.iter().position(|candidate| candidate.address == address);
        let at = known.unwrap_or_else(|| {
            if self.candidates.len() >= MAX_CANDIDATES {
                self.prune(now);
                // The oldest that was only seen makes room.
                if self.candidates.len() >= MAX_CANDIDATES {
                    let seen = self.candidates.iter().position(|known| !known.listed && !known.called);
                    self.candidates.remove(seen.unwrap_or(0));
                }
            }
            let new = Candidate { address, listed: false, called: false, learned: None, pinged: None };
            self.candidates.push(new);
            self.candidates.len() - 1
        });
        self.candidates.get_mut(at)
    }

    fn prune(&mut self, now: Instant) {
        let best = self.best.map(|best| best.address);
        self.candidates.retain(|candidate| candidate.is_wanted(now) || best == Some(candidate.address));
    }

    fn is_trusted(&self, now: Instant) -> bool {
        self.best.is_some_and(|best| now <= best.trusted_until)
    }

    /// How a packet goes now.
    pub(crate) fn route(&self, now: Instant) -> Route {
        Route { direct: self.best.map(|best| best.address), relay: !self.is_trusted(now) }
    }

    /// The address that is trusted to carry packets alone.
    pub(crate) fn trusted(&self, now: Instant) -> Option<SocketAddr> {
        self.best.filter(|best| now <= best.trusted_until).map(|best| best.address)
    }

    /// The last round trip on the way that carries packets now.
    pub(crate) fn rtt(&self, now: Instant) -> Option<Duration> {
        self.best.filter(|best| now <= best.trusted_until).map(|best| best.rtt).or(self.relayed)
    }

    /// A packet is sent. Returns whether a search for addresses is due.
    pub(crate) fn note_send(&mut self, now: Instant) -> bool {
        self.last_send = Some(now);
        self.heartbeat.get_or_insert(now + HEARTBEAT);
        self.wants_search(now)
    }

    fn wants_search(&self, now: Instant) -> bool {
        let since = |at: Option<Instant>, interval| at.is_none_or(|at| now >= at + interval);
        match self.best {
            Some(best) if now <= best.trusted_until => {
                best.rtt > GOOD_ENOUGH && since(self.last_search, UPGRADE_INTERVAL)
            }
            // The reference asks with every packet and limits the pings of each address.
            _ => since(self.last_search, PING_INTERVAL),
        }
    }

    /// The addresses where the peer may be.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        self.candidates.iter().map(|candidate| candidate.address)
    }

    /// The addresses that a search pings now.
    pub(crate) fn search(&mut self, now: Instant) -> Vec<SocketAddr> {
        self.last_search = Some(now);
        self.prune(now);
        let due = |candidate: &&Candidate| candidate.pinged.is_none_or(|at| now >= at + PING_INTERVAL);
        self.candidates.iter().filter(due).map(|candidate| candidate.address).collect()
    }

    /// A ping was sent.
    pub(crate) fn pinged(
        &mut self,
        now: Instant,
        to: Option<SocketAddr>,
        transaction: Transaction,
        token: Option<u64>,
    ) {
        if self.pings.len() >= MAX_PINGS {
            self.pings.remove(0);
        }
        self.pings.push(Ping { transaction, to, at: now, token });
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| Some(candidate.address) == to) {
            candidate.pinged = Some(now);
        }
    }

    /// A pong came: directly, or through a relay where `direct` is not set.
    pub(crate) fn pong(&mut self, now: Instant, transaction: &Transaction, direct: bool) -> Option<Ponged> {
        let at = self.pings.iter().position(|ping| ping.transaction == *transaction)?;
        let ping = self.pings.swap_remove(at);
        let rtt = now.saturating_duration_since(ping.at);
        let mut ponged = Ponged { rtt, chosen: false, token: ping.token };
        if ping.to.is_none() && !direct {
            self.relayed = Some(rtt);
        }
        let Some(address) = ping.to.filter(|_| direct) else { return Some(ponged) };
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.address == address)
            && candidate.learned.is_some()
        {
            candidate.learned = Some(now + LEARNED);
        }
        let trusted_until = now + TRUST;
        match &mut self.best {
            Some(best) if best.address == address => (best.rtt, best.trusted_until) = (rtt, trusted_until),
            Some(best)
                if now <= best.trusted_until && !is_better((address, rtt), (best.address, best.rtt)) => {}
            best => {
                *best = Some(Best { address, rtt, trusted_until });
                ponged.chosen = true;
            }
        }
        Some(ponged)
    }

    /// The network says that an address cannot be reached: it is not trusted any more. Returns whether it was the best.
    pub(crate) fn unreachable(&mut self, address: SocketAddr) -> bool {
        let hit = self.best.is_some_and(|best| best.address == address);
        if hit {
            self.best = None;
            self.last_search = None;
        }
        hit
    }

    /// Nothing that was found holds any more: the machine, or the peer, is somewhere else.
    pub(crate) fn forget_trust(&mut self) {
        self.best = None;
        self.relayed = None;
        self.last_search = None;
        self.pings.clear();
        for candidate in &mut self.candidates {
            candidate.pinged = None;
        }
    }

    /// The peer is another process: everything that was learned is forgotten.
    pub(crate) fn reset(&mut self) {
        self.forget_trust();
        self.candidates.retain(|candidate| candidate.listed);
        for candidate in &mut self.candidates {
            (candidate.called, candidate.learned) = (false, None);
        }
    }

    /// Does what is due. Returns the address to ping, and whether a search is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> (Option<SocketAddr>, bool) {
        let mut lost = false;
        let best = self.best;
        self.pings.retain(|ping| {
            let late = now >= ping.at + PING_TIMEOUT;
            lost |= late && best.is_some_and(|best| ping.to == Some(best.address));
            !late
        });
        if lost && !self.is_trusted(now) {
            self.best = None;
        }
        if self.heartbeat.is_none_or(|at| now < at) {
            return (None, false);
        }
        if self.last_send.is_none_or(|at| now >= at + ACTIVE) {
            self.heartbeat = None;
            return (None, false);
        }
        self.heartbeat = Some(now + HEARTBEAT);
        (self.best.map(|best| best.address), self.wants_search(now))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        let heartbeat = self.heartbeat.map(|at| Deadline { at, why: "heartbeat" });
        let ping = self.pings.iter().map(|ping| ping.at + PING_TIMEOUT).min();
        Deadline::earlier(heartbeat, ping.map(|at| Deadline { at, why: "pong is late" }))
    }

    /// Whether packets are, or were lately, sent to the peer.
    pub(crate) fn is_active(&self) -> bool {
        self.heartbeat.is_some() || !self.pings.is_empty()
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Whether a path is better than a trusted one: latency in percent, and points for staying near.
fn is_better((a, a_rtt): (SocketAddr, Duration), (b, b_rtt): (SocketAddr, Duration)) -> bool {
    let micros = |rtt: Duration| i64::try_from(rtt.as_micros()).unwrap_or(i64::MAX / 200).max(1);
    let (a_rtt, b_rtt) = (micros(a_rtt), micros(b_rtt));
    // How much shorter the shorter is than the longer.
    let gained = 100 * (b_rtt - a_rtt) / a_rtt.max(b_rtt);
    near(a.ip()) + gained > near(b.ip()) + MARGIN
}

fn near(ip: IpAddr) -> i64 {
    let place = match ip {
        _ if ip.is_loopback() => 50,
        IpAddr::V4(ip) if ip.is_link_local() => 30,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 30,
        IpAddr::V4(ip) if ip.is_private() => 20,
        IpAddr::V6(ip) if ip.is_unique_local() => 20,
        _ => 0,
    };
    place + if ip.is_ipv6() { 10 } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const MS: Duration = Duration::from_millis(1);

    /// Pings `address` at `now`, and the pong comes `rtt` later.
    fn confirm(paths: &mut Paths, now: Instant, address: SocketAddr, rtt: Duration) -> bool {
        let transaction = rtt.as_nanos().to_le_bytes()[..12].try_into().unwrap();
        paths.pinged(now, Some(address), transaction, None);
        paths.pong(now + rtt, &transaction, true).unwrap().chosen
    }

    #[test]
    fn a_pong_makes_an_address_carry_packets_alone_for_a_while() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        paths.set_endpoints(now, &[at("192.0.2.1:1")]);
        assert_eq!(paths.route(now), Route { direct: None, relay: true });
        assert!(paths.note_send(now));
        assert_eq!(paths.search(now), [at("192.0.2.1:1")]);
        assert!(confirm(&mut paths, now, at("192.0.2.1:1"), MS));
        let direct = Some(at("192.0.2.1:1"));
        assert_eq!(paths.route(now + TRUST), Route { direct, relay: false });
        assert_eq!(paths.route(now + TRUST + 2 * MS), Route { direct, relay: true });
        assert_eq!(paths.pong(now, &[9; 12], true), None, "nobody asked");
    }

    #[test]
    fn heartbeats_keep_the_trust_and_end_with_the_packets() {
        let (mut paths, start) = (Paths::default(), Instant::now());
        let address = at("192.0.2.1:1");
        paths.set_endpoints(start, &[address]);
        paths.note_send(start);
        confirm(&mut paths, start, address, MS);
        let (mut now, mut beats) = (start, 0);
        while let Some(deadline) = paths.poll_timeout() {
            now = deadline.at;
            if let (Some(to), _) = paths.handle_timeout(now) {
                assert!(paths.trusted(now).is_some());
                confirm(&mut paths, now, to, MS);
                beats += 1;
            }
        }
        assert_eq!((beats, now - start), (14, ACTIVE));
    }

    #[test]
    fn a_best_address_that_is_silent_is_given_up_and_searched_for_again() {
        let (mut paths, start) = (Paths::default(), Instant::now());
        let address = at("192.0.2.1:1");
        paths.set_endpoints(start, &[address]);
        paths.note_send(start);
        confirm(&mut paths, start, address, MS);
        let mut searches = 0;
        for second in 0..12 {
            let now = start + Duration::from_secs(second);
            paths.last_send = Some(now);
            let (beat, search) = paths.handle_timeout(now);
            if let Some(to) = beat {
                paths.pinged(now, Some(to), [second as u8; 12], None);
            }
            if search {
                searches += 1;
                paths.search(now);
            }
        }
        let now = start + Duration::from_secs(12);
        assert_eq!(paths.route(now), Route { direct: None, relay: true });
        assert!(searches > 0);
    }

    #[test]
    fn a_near_address_and_a_much_faster_one_win_and_jitter_does_not() {
        let (far, near) = (at("192.0.2.1:1"), at("10.0.0.1:1"));
        let mut paths = Paths::default();
        let now = Instant::now();
        assert!(confirm(&mut paths, now, far, 10 * MS));
        assert!(!confirm(&mut paths, now, at("192.0.2.2:1"), 95 * MS / 10));
        assert!(confirm(&mut paths, now, at("192.0.2.3:1"), 5 * MS));
        assert!(confirm(&mut paths, now, near, 51 * MS / 10));
        assert!(!confirm(&mut paths, now, far, 5 * MS));
    }

    #[test]
    fn a_call_replaces_earlier_calls_and_candidates_have_a_limit() {
        let (mut paths, now) = (Paths::default(), Instant::now());
        paths.set_endpoints(now, &[at("192.0.2.1:1")]);
        paths.called(now, [at("192.0.2.2:2"), at("[fe80::1]:3")].into_iter());
        assert_eq!(paths.search(now), [at("192.0.2.1:1"), at("192.0.2.2:2")]);
        paths.called(now, [at("192.0.2.3:3")].into_iter());
        assert_eq!(paths.search(now), [at("192.0.2.1:1"), at("192.0.2.3:3")]);
        for port in 1..500 {
            paths.learn(now, SocketAddr::new(at("192.0.2.9:1").ip(), port));
        }
        assert!(paths.candidates.len() <= MAX_CANDIDATES);
        paths.prune(now + LEARNED);
        assert!(paths.candidates.len() <= 2);
    }

    proptest! {
        #[test]
        fn steady_conditions_make_nothing_flap(
            base in prop::collection::vec(1u64..200, 2..6),
            jitter in prop::collection::vec(0u64..4, 100),
        ) {
            // Every candidate answers every ping, with up to 3 % of jitter; heartbeats and searches go on for minutes.
            let addresses: Vec<_> =
                (0..base.len()).map(|i| SocketAddr::from(([192, 0, 2, i as u8 + 1], 1))).collect();
            let (mut paths, start) = (Paths::default(), Instant::now());
            paths.set_endpoints(start, &addresses);
            let (mut changes, mut drawn) = (Vec::new(), jitter.iter().cycle());
            for beat in 0..100u64 {
                let now = start + HEARTBEAT * u32::try_from(beat).unwrap();
                let mut pings = Vec::new();
                if paths.note_send(now) {
                    pings = paths.search(now);
                }
                pings.extend(paths.handle_timeout(now).0);
                for address in pings {
                    let index = addresses.iter().position(|a| *a == address).unwrap();
                    let rtt = Duration::from_micros(base[index] * (1000 + 10 * drawn.next().unwrap()));
                    if confirm(&mut paths, now, address, rtt) {
                        changes.push(address);
                    }
                }
            }
            // A better one may be found later, but what was left is not come back to.
            let mut once = changes.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), changes.len(), "{:?} with {:?} ms", changes, base);
        }
    }
}
