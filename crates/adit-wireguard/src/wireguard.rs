//! A WireGuard interface with its peers, as a [`Tunnel`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::view::addresses;
use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, HostPort, LinkSpec, MAX_PACKET, NetInput, Outbox, PeerStatus,
    PrefixTable, Segments, Tunnel, Unreachable,
};

use crate::config::net_config;
use crate::endpoint::Resolved;
use crate::error::{Cause, WireGuardError};
use crate::member::{LINK, Member};
use crate::peer::{
    HANDSHAKE_LEN, Limiter, OVERHEAD, OpenError, Opened, Peer, PeerKeys, Verdict, message_type,
};
use crate::{Config, PeerConfig, PublicKey};

/// More handshake messages a second than this are answered with cookies.
const HANDSHAKES_PER_SECOND: u64 = 100;
/// A socket that was lost is opened again after this time.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// What an owner may ask of a running interface.
#[derive(Clone, Debug)]
pub enum Command {
    /// These are the peers from now on. Sessions of peers whose keys stay survive.
    SetPeers(Vec<PeerConfig>),
    /// The peer is to be found here; a handshake follows at once.
    SetEndpoint {
        /// The peer.
        peer: PublicKey,
        /// Where.
        endpoint: HostPort,
    },
    /// The machine's network changed: show the peers our new address and find theirs again.
    NetworkChanged,
    /// Agree on new keys with this peer, or with all.
    Rehandshake(Option<PublicKey>),
    /// Forget all sessions and close the link.
    Shutdown,
}

/// A WireGuard interface: several peers on one UDP link, cryptokey routing, roaming.
///
/// Peers with an endpoint are called at once, without waiting for a packet, so that [`Event::Up`] can be waited
/// for; later handshakes happen when traffic or a keepalive asks for one. Packets wait (up to a limit) while
/// there is no session.
#[derive(Debug)]
pub struct WireGuard {
    config: Config,
    ours: PublicKey,
    limiter: Limiter,
    /// By the 24-bit index under which a peer's messages name us.
    members: BTreeMap<u32, Member>,
    by_key: BTreeMap<PublicKey, u32>,
    allowed: PrefixTable<u32>,
    link: Link,
    events: VecDeque<Event<WireGuardError>>,
    up: bool,
    /// Draws session indices, which are unguessable for convenience, not for security.
    seed: u64,
    /// Where a segment of a super-segment lies while it is sealed: the cipher reads one place and writes another.
    scratch: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Opening,
    Open,
    Lost { reopen: Instant },
    Shut,
}

impl WireGuard {
    /// An interface that opens its link and calls its peers as soon as it is driven. `seed` is random.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        let ours = config.private_key.public_key();
        let mut this = Self {
            limiter: Limiter::new(ours, HANDSHAKES_PER_SECOND, now),
            ours,
            members: BTreeMap::new(),
            by_key: BTreeMap::new(),
            allowed: PrefixTable::default(),
            link: Link::Opening,
            events: VecDeque::new(),
            up: false,
            seed,
            scratch: vec![0; MAX_PACKET].into_boxed_slice(),
            config,
        };
        let peers = std::mem::take(&mut this.config.peers);
        this.events.push_back(Event::OpenLink(LINK, LinkSpec::Udp { port: this.config.listen_port }));
        this.set_peers(now, peers);
        this
    }

    /// Our public key.
    pub fn public_key(&self) -> PublicKey {
        self.ours
    }

    fn set_peers(&mut self, now: Instant, peers: Vec<PeerConfig>) {
        let mut old = std::mem::take(&mut self.members);
        let old_keys = std::mem::take(&mut self.by_key);
        self.allowed = PrefixTable::default();
        for config in peers {
            let known = old_keys.get(&config.public_key).and_then(|index| Some((*index, old.remove(index)?)));
            let (index, member) = match known {
                Some((index, mut member)) if member.config.preshared_key == config.preshared_key => {
                    member.reconfigure(config);
                    (index, member)
                }
                _ => {
                    let index = self.unused_index();
                    let keys = PeerKeys {
                        private: &self.config.private_key,
                        public: config.public_key,
                        preshared: config.preshared_key.as_ref(),
                    };
                    (index, Member::new(config.clone(), Peer::new(&keys, index, &self.limiter, now)))
                }
            };
            for prefix in &member.config.allowed_ips {
                self.allowed.insert(*prefix, index);
            }
            self.by_key.insert(member.config.public_key, index);
            self.members.insert(index, member);
        }
        let net = net_config(&self.config, self.members.values().map(|member| &member.config));
        self.events.push_back(Event::Configured(net));
        self.ask_for_names();
    }

    fn unused_index(&mut self) -> u32 {
        loop {
            // SplitMix64 (Steele, Lea, Flood 2014).
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let index = (z >> 40) as u32;
            if !self.members.contains_key(&index) {
                return index;
            }
        }
    }

    fn ask_for_names(&mut self) {
        for member in self.members.values_mut() {
            if let Some(name) = member.endpoint.take_question() {
                self.events.push_back(Event::Resolve(name));
            }
        }
    }

    /// Calls the peers that have never answered.
    fn call_peers(&mut self, now: Instant, out: &mut Outbox) {
        if self.link != Link::Open {
            return;
        }
        for member in self.members.values_mut() {
            if !member.was_up && !member.peer.is_initiating() {
                member.initiate(now, false, &mut out.net);
            }
        }
    }

    fn network_changed(&mut self, now: Instant, out: &mut Outbox) {
        for member in self.members.values_mut() {
            member.endpoint.forget_roaming();
            member.endpoint.resolve_again(now);
            if self.link == Link::Open && (member.was_up || member.peer.is_initiating()) {
                member.initiate(now, true, &mut out.net);
            }
        }
        self.ask_for_names();
    }

    fn datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let word = |at: usize| {
            data.get(at..at + 4)
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                .ok_or(Dropped::Malformed)
        };
        match u8::try_from(word(0)?).map_err(|_| Dropped::Malformed)? {
            message_type::DATA => self.data(now, word(4)? >> 8, from, data, out),
            message_type::RESPONSE => self.handshake(now, word(8)? >> 8, from, data, out),
            message_type::COOKIE => self.handshake(now, word(4)? >> 8, from, data, out),
            message_type::INITIATION => {
                let mut cookie = [0; HANDSHAKE_LEN];
                let key = &self.config.private_key;
                match self.limiter.check(now, key, from.ip(), data, &mut cookie)? {
                    Verdict::Cookie(len) => {
                        let mut slot = out.net.reserve(LINK, Some(from), len).ok_or(Dropped::Backpressure)?;
                        slot.copy_from_slice(&cookie[..len]);
                        slot.commit(len);
                        Ok(())
                    }
                    Verdict::Pass(claimed) => {
                        let index =
                            claimed.and_then(|key| self.by_key.get(&key)).ok_or(Dropped::Unexpected)?;
                        self.handshake(now, *index, from, data, out)
                    }
                }
            }
            _ => Err(Dropped::Malformed),
        }
    }

    fn data(
        &mut self,
        now: Instant,
        index: u32,
        from: SocketAddr,
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let Some(member) = self.members.get_mut(&index) else {
            let of = self.members.values_mut().find(|member| member.endpoint.current() == Some(from));
            if let Some(member) = of {
                member.symptoms.foreign();
            }
            return Err(Dropped::Unexpected);
        };
        if member.peer.is_stale(now) {
            member.handle_timeout(now, &mut out.net);
        }
        // The cipher works on the packet and its tag together.
        let mut slot = out.host.reserve(data.len()).ok_or(Dropped::Backpressure)?;
        let was_ready = member.peer.is_ready();
        let opened = member.peer.open(now, from.ip(), data, &mut slot).map_err(|error| match error {
            OpenError::Dropped(dropped) => dropped,
            OpenError::PskMismatch => Dropped::Unauthentic,
        })?;
        member.heard(now, from, data.len());
        if let Some((session, number)) = session_and_number(data) {
            member.symptoms.received(now, session, number);
        }
        let allowed = match opened {
            Opened::Packet(len) => match addresses(&slot[..len]) {
                Some((source, _)) if self.allowed.lookup(source) == Some(&index) => {
                    slot.commit(len);
                    Ok(())
                }
                Some(_) => Err(Dropped::SourceNotAllowed),
                None => Err(Dropped::Malformed),
            },
            Opened::Keepalive | Opened::Reply(_) | Opened::Cookie => Ok(()),
        };
        if !was_ready || !self.up {
            self.after_success(now, index, out);
        }
        allowed
    }

    fn handshake(
        &mut self,
        now: Instant,
        index: u32,
        from: SocketAddr,
        message: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let member = self.members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        if member.peer.is_stale(now) {
            member.handle_timeout(now, &mut out.net);
        }
        if message.len() > HANDSHAKE_LEN {
            return Err(Dropped::Malformed);
        }
        let mut reply = [0; HANDSHAKE_LEN];
        match member.peer.open(now, from.ip(), message, &mut reply) {
            Ok(Opened::Reply(len)) => {
                member.heard(now, from, message.len());
                member.symptoms.renewed(now);
                member.send(&reply[..len], &mut out.net);
                self.after_success(now, index, out);
                Ok(())
            }
            Ok(Opened::Cookie) => {
                if let Some(trouble) = &mut member.trouble {
                    trouble.cookie = true;
                }
                Ok(())
            }
            Ok(Opened::Packet(_) | Opened::Keepalive) => Ok(()),
            Err(OpenError::PskMismatch) => {
                if let Some(trouble) = &mut member.trouble {
                    trouble.bad_responses += 1;
                }
                self.judge(now);
                Err(Dropped::Unauthentic)
            }
            Err(OpenError::Dropped(dropped)) => Err(dropped),
        }
    }

    fn after_success(&mut self, now: Instant, index: u32, out: &mut Outbox) {
        let Some(member) = self.members.get_mut(&index) else { return };
        if !member.peer.is_ready() {
            return;
        }
        member.flush(now, &mut out.net);
        if !self.up && member.is_healthy() {
            tracing::info!(peer = %member.config.public_key, "the peer answered");
            self.up = true;
            self.events.push_back(Event::Up);
        }
    }

    /// Says what is wrong with a peer, once, unless another peer still carries packets.
    fn judge(&mut self, now: Instant) {
        let clock_is_behind = self.config.clock.is_some_and(|clock| clock.is_behind());
        let mut found: Option<(u32, Cause)> = None;
        for (index, member) in &mut self.members {
            if let Some(cause) = member.verdict(now, clock_is_behind) {
                member.reported = Some(cause);
                tracing::info!(peer = %member.config.public_key, %cause, "the peer cannot be reached");
                found = Some((*index, cause));
            }
        }
        if let Some((index, cause)) = found {
            self.report(now, index, cause);
        }
    }

    fn report(&mut self, now: Instant, index: u32, cause: Cause) {
        if self.members.values().any(Member::is_healthy) {
            return;
        }
        let Some(member) = self.members.get(&index) else { return };
        self.up = false;
        let seen = Box::new(member.observations(now, self.ours));
        self.events.push_back(Event::Down(WireGuardError::Peer { cause, seen }));
    }

    fn resolved(&mut self, now: Instant, host: &HostPort, addresses: &[SocketAddr], out: &mut Outbox) {
        let mut unknown = None;
        for (index, member) in &mut self.members {
            if member.endpoint.configured() != Some(host) {
                continue;
            }
            let struggling = member.trouble.is_some() || !member.peer.is_ready();
            match member.endpoint.resolved(now, addresses, struggling) {
                Resolved::Nothing => unknown = Some(*index),
                Resolved::Moved if self.link == Link::Open => {
                    let wanted = !member.was_up || member.trouble.is_some() || !member.staged.is_empty();
                    if wanted {
                        member.initiate(now, true, &mut out.net);
                    }
                }
                Resolved::Moved | Resolved::Unchanged => {}
            }
        }
        if let Some(index) = unknown {
            self.report(now, index, Cause::EndpointDns);
        }
    }

    fn unreachable(&mut self, now: Instant, to: SocketAddr, why: Unreachable, out: &mut Outbox) {
        for member in self.members.values_mut() {
            member.unreachable(now, to, why, &mut out.net);
        }
        self.judge(now);
    }

    fn link_closed(&mut self, now: Instant, error: Option<std::io::ErrorKind>) {
        if self.link == Link::Shut {
            return;
        }
        let failure = WireGuardError::Link { port: self.config.listen_port, error };
        self.up = false;
        // A chosen port that is taken, or a forbidden socket, will not come free by waiting.
        let hopeless = self.link == Link::Opening
            && matches!(error, Some(std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied));
        if hopeless {
            self.link = Link::Shut;
            self.events.push_back(Event::Failed(failure));
        } else {
            self.link = Link::Lost { reopen: now + REOPEN_AFTER };
            self.events.push_back(Event::Down(failure));
        }
    }
}

/// The receiver's index and the counter of a data message (WireGuard paper §5.4.6).
fn session_and_number(message: &[u8]) -> Option<(u32, u64)> {
    let (session, rest) = message.get(4..)?.split_first_chunk::<4>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    Some((u32::from_le_bytes(*session), u64::from_le_bytes(*number)))
}

/// Bytes that sealing all of `segments` may take.
fn sealed_len(segments: &Segments<'_>) -> usize {
    segments.clone().map(|segment| segment.len() + OVERHEAD).sum()
}

impl Tunnel for WireGuard {
    type Command = Command;
    type Error = WireGuardError;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        match input {
            NetInput::Datagram { link: LINK, from, data } => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                self.datagram(now, from, data, out)
            }
            NetInput::Opened { link: LINK, .. } => {
                self.link = Link::Open;
                self.call_peers(now, out);
                Ok(())
            }
            NetInput::Closed { link: LINK, error } => {
                self.link_closed(now, error);
                Ok(())
            }
            NetInput::Unreachable { link: LINK, to, why } => {
                let to = SocketAddr::new(to.ip().to_canonical(), to.port());
                self.unreachable(now, to, why, out);
                Ok(())
            }
            NetInput::Resolved { host, addresses } => {
                self.resolved(now, host, addresses, out);
                Ok(())
            }
            NetInput::NetworkChanged => {
                self.network_changed(now, out);
                Ok(())
            }
            NetInput::Datagram { .. }
            | NetInput::Stream { .. }
            | NetInput::Opened { .. }
            | NetInput::Closed { .. }
            | NetInput::Writable { .. }
            | NetInput::Unreachable { .. } => Err(Dropped::Unexpected),
        }
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (_, destination) = addresses(packet.bytes()).ok_or(Dropped::Malformed)?;
        let index = self.allowed.lookup(destination).ok_or(Dropped::NoRoute)?;
        let member = self.members.get_mut(index).ok_or(Dropped::NoRoute)?;
        if packet.largest()? > usize::from(self.config.mtu) {
            return Err(Dropped::TooBig);
        }
        let segments = packet.segments()?;
        if member.peer.is_stale(now) && self.link == Link::Open {
            member.handle_timeout(now, &mut out.net);
        }
        let (Some(to), true, Link::Open) = (member.endpoint.current(), member.peer.is_ready(), self.link)
        else {
            for segment in segments {
                member.staged.push(&segment)?;
            }
            if self.link == Link::Open {
                member.initiate(now, false, &mut out.net);
            }
            return Ok(());
        };
        // All or nothing: the rest of a super-segment would only come to be retransmitted.
        if out.net.free() < sealed_len(&segments) {
            return Err(Dropped::Backpressure);
        }
        member.symptoms.sent(now);
        for segment in segments {
            let len = segment.len();
            let mut slot = out.net.reserve(LINK, Some(to), len + OVERHEAD).ok_or(Dropped::Backpressure)?;
            let plain = match segment.whole() {
                Some(bytes) => bytes,
                None => {
                    segment.write(&mut self.scratch);
                    &self.scratch[..len]
                }
            };
            let sealed = member.peer.seal(now, plain, &mut slot)?;
            slot.commit(sealed);
            member.sent += sealed as u64;
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        match self.link {
            Link::Open => {
                for member in self.members.values_mut() {
                    member.handle_timeout(now, &mut out.net);
                }
            }
            Link::Lost { reopen } if now >= reopen => {
                self.link = Link::Opening;
                self.events.push_back(Event::OpenLink(LINK, LinkSpec::Udp { port: self.config.listen_port }));
            }
            Link::Opening | Link::Lost { .. } | Link::Shut => {}
        }
        self.ask_for_names();
        self.judge(now);
    }

    fn handle_command(&mut self, now: Instant, command: Command, out: &mut Outbox) {
        match command {
            Command::SetPeers(peers) => {
                self.set_peers(now, peers);
                self.call_peers(now, out);
            }
            Command::SetEndpoint { peer, endpoint } => {
                let index = self.by_key.get(&peer);
                let Some(member) = index.and_then(|index| self.members.get_mut(index)) else { return };
                let mut config = member.config.clone();
                config.endpoint = Some(endpoint);
                member.reconfigure(config);
                if self.link == Link::Open {
                    member.initiate(now, true, &mut out.net);
                }
                self.ask_for_names();
            }
            Command::NetworkChanged => self.network_changed(now, out),
            Command::Rehandshake(peer) => {
                for member in self.members.values_mut() {
                    if self.link == Link::Open && peer.is_none_or(|key| key == member.config.public_key) {
                        member.initiate(now, true, &mut out.net);
                    }
                }
            }
            Command::Shutdown => {
                self.members.clear();
                self.by_key.clear();
                self.allowed = PrefixTable::default();
                if self.link != Link::Shut {
                    self.link = Link::Shut;
                    self.events.push_back(Event::CloseLink(LINK));
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        match self.link {
            Link::Open => self.members.values().map(Member::poll_timeout).fold(None, Deadline::earlier),
            Link::Lost { reopen } => Some(Deadline { at: reopen, why: "open the socket again" }),
            Link::Opening | Link::Shut => None,
        }
    }

    fn poll_event(&mut self) -> Option<Event<WireGuardError>> {
        self.events.pop_front()
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let status = |member: &Member| PeerStatus {
            name: member.config.public_key.to_string(),
            endpoint: member.endpoint.current(),
            prefixes: member.config.allowed_ips.clone(),
            handshake_age: member
                .peer
                .established()
                .filter(|_| member.peer.is_ready())
                .map(|at| now.saturating_duration_since(at)),
            received: member.received,
            sent: member.sent,
            symptom: member.symptom(),
            ..PeerStatus::default()
        };
        self.members.values().map(status).collect()
    }
}

#[cfg(test)]
mod tests;
