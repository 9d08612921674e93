//! A peer as the data path has it: its session, the ways to it, what waits for it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Prefix};
use adit_wireguard::{Limiter, PeerKeys, PrivateKey, PublicKey, REJECT_AFTER_TIME, Staged};

use crate::netmap::{NodeId, Peer, RegionId};
use crate::paths::Paths;
use crate::{DiscoKey, Keys, NodeKey, Shared};

/// A session without a packet for this long is given back.
const FORGET: Duration = REJECT_AFTER_TIME;

/// Servers tell a peer of a new node up to a second or two after the node hears of the peer, and until then the peer drops
/// what the node sends. WireGuard alone would call again after 5 s, so the first calls follow each other faster: after
/// this time, and then after twice as long each time.
const CALL_AGAIN: Duration = Duration::from_millis(200);
/// How many calls do; then WireGuard's own pace is kept.
const FAST_CALLS: u32 = 5;

/// A peer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) name: String,
    /// The prefixes that are used of it.
    pub(super) prefixes: Vec<Prefix>,
    pub(super) key: NodeKey,
    pub(super) disco: DiscoKey,
    pub(super) home: RegionId,
    pub(super) jailed: bool,
    /// What we are called by this peer: our IPv4 and IPv6 address there.
    pub(super) masquerade: (Option<IpAddr>, Option<IpAddr>),
    /// Where a peer without disco is.
    pub(super) fixed: Option<SocketAddr>,
    shared: Option<Shared>,
    pub(super) paths: Paths,
    pub(super) session: Option<adit_wireguard::Peer>,
    pub(super) staged: Staged,
    /// What the packet end was told of the way: whether it leads through a relay.
    pub(super) told: Option<bool>,
    /// The region where the peer was heard last.
    pub(super) heard_at: Option<RegionId>,
    /// Our endpoints are to be sent to the peer once they are known again.
    pub(super) call_pending: bool,
    /// Initiations since a session was wanted, and when the next one is due.
    calls: u32,
    call_again: Option<Instant>,
    /// The peer looks for a way to us, so that it has packets for us.
    sought: bool,
    pub(super) received: u64,
    pub(super) sent: u64,
    last_used: Instant,
}

impl Member {
    pub(super) fn new(peer: &Peer, now: Instant) -> Self {
        let mut this = Self {
            id: peer.id,
            name: String::new(),
            prefixes: Vec::new(),
            key: peer.key,
            disco: peer.disco,
            home: peer.home_derp,
            jailed: false,
            masquerade: (None, None),
            fixed: None,
            shared: None,
            paths: Paths::default(),
            session: None,
            staged: Staged::default(),
            told: None,
            heard_at: None,
            call_pending: false,
            calls: 0,
            call_again: None,
            sought: false,
            received: 0,
            sent: 0,
            last_used: now,
        };
        this.update(peer, now);
        this
    }

    /// Takes over what the netmap says now. A new key is a new node; a new disco key is a new process.
    pub(super) fn update(&mut self, peer: &Peer, now: Instant) {
        if self.key != peer.key {
            self.session = None;
        }
        if self.disco != peer.disco {
            if !self.disco.is_zero() {
                self.paths.reset();
                self.session = None;
                self.heard_at = None;
            }
            self.shared = None;
        }
        (self.key, self.disco, self.home) = (peer.key, peer.disco, peer.home_derp);
        self.jailed = peer.jailed;
        self.masquerade = (peer.masquerade_v4, peer.masquerade_v6);
        self.fixed = peer.endpoints.first().copied().filter(|_| peer.wireguard_only);
        self.paths.set_endpoints(now, &peer.endpoints);
    }

    /// The name for people: the key where there is no other.
    pub(super) fn label(&self) -> String {
        if self.name.is_empty() { self.key.to_string() } else { self.name.clone() }
    }

    /// What our disco keys share.
    pub(super) fn shared(&mut self, keys: &Keys) -> &Shared {
        let theirs = self.disco;
        self.shared.get_or_insert_with(|| Shared::new(&keys.disco, theirs.as_bytes()))
    }

    /// The session, made where there is none.
    pub(super) fn session(
        &mut self,
        now: Instant,
        index: u32,
        private: &PrivateKey,
        limiter: &Limiter,
    ) -> &mut adit_wireguard::Peer {
        self.last_used = now;
        let key = self.key;
        self.session.get_or_insert_with(|| {
            let public = PublicKey::from_bytes(key.0);
            adit_wireguard::Peer::new(&PeerKeys { private, public, preshared: None }, index, limiter, now)
        })
    }

    /// An initiation is on its way.
    pub(super) fn initiated(&mut self, now: Instant) {
        self.call_again = (self.calls < FAST_CALLS).then(|| now + CALL_AGAIN * (1 << self.calls));
        self.calls = self.calls.saturating_add(1);
    }

    /// The peer has answered: it knows us, and lost the call if that has no answer yet.
    pub(super) fn heard(&mut self, now: Instant) {
        if self.calls == 1 && self.call_again.is_some() {
            self.call_again = Some(now);
        }
    }

    /// The peer looks for a way to us. Its own call may have come before it knew one, and the next comes 5 s later: then we
    /// call.
    pub(super) fn is_sought(&mut self, now: Instant) {
        if self.calls == 0 && self.call_again.is_none() && !self.is_ready() {
            (self.sought, self.call_again) = (true, Some(now + CALL_AGAIN));
        }
    }

    fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(adit_wireguard::Peer::is_ready)
    }

    /// Whether another initiation is due. Once there is a session, or nothing waits for one, none is.
    pub(super) fn calls_again(&mut self, now: Instant) -> bool {
        let wanted = (self.sought || !self.staged.is_empty()) && !self.is_ready();
        if !wanted {
            (self.calls, self.call_again, self.sought) = (0, None, false);
        }
        self.call_again.is_some_and(|at| now >= at)
    }

    pub(super) fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    /// Gives the session back when nobody has used it for long. Returns whether there is nothing left to be called for.
    pub(super) fn rest(&mut self, now: Instant) -> bool {
        if now >= self.last_used + FORGET && self.staged.is_empty() && !self.paths.is_active() {
            self.session = None;
        }
        self.session.is_none() && self.call_again.is_none() && !self.paths.is_active()
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let session = self.session.as_ref().and_then(adit_wireguard::Peer::poll_timeout);
        let rest = self.session.as_ref().map(|_| Deadline { at: self.last_used + FORGET, why: "idle peer" });
        // After its time is over a session that is still busy is looked at with its next deadline.
        let rest = rest.filter(|_| self.staged.is_empty() && !self.paths.is_active());
        let call = self.call_again.map(|at| Deadline { at, why: "call a peer again" });
        [session, self.paths.poll_timeout(), rest, call].into_iter().fold(None, Deadline::earlier)
    }

    /// What our address is for this peer, where it is another.
    pub(super) fn alias(&self, ours: IpAddr) -> Option<IpAddr> {
        let alias = if ours.is_ipv4() { self.masquerade.0 } else { self.masquerade.1 };
        alias.filter(|alias| *alias != ours)
    }
}
