//! The node: everything put together as a [`Tunnel`].

mod calls;
mod control;
mod discovery;
mod packets;
mod peer;
mod relaying;
mod standing;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, UNIX_EPOCH};

use adit_tunnel::{
    Deadline, Dropped, Event, Fault, HostPacket, LinkId, LinkSpec, MAX_PACKET, NetConfig, NetInput, NetQueue,
    NoWay, Outbox, OwnName, PeerStatus, PrefixTable, Tunnel, Unreachable,
};
use adit_wireguard::{Limiter, OVERHEAD, PrivateKey, PublicKey};

use crate::derp::{Context, Relays};
use crate::filter::Filter;
use crate::magicdns::MagicDns;
use crate::names::Names;
use crate::netcheck::NetCheck;
use crate::netmap::{NodeId, RegionId, State};
use crate::routes::Policy;
use crate::seal::Random;
use crate::{Command, Config, DiscoKey, Endpoint, Keys, NetInfo, NodeKey, Problem, Report};
use calls::Calls;
use peer::Member;
use standing::Standing;
use ways::Ask;

/// The UDP socket of WireGuard, disco and STUN.
const UDP: LinkId = LinkId(0);
/// A socket that was lost is opened again after this time.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// More handshake messages a second than this are answered with cookies.
const HANDSHAKES_PER_SECOND: u64 = 100;
/// Reports that nobody fetched; the oldest make room.
const MAX_REPORTS: usize = 1024;

/// The state of the UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// Not wanted.
    Off,
    Opening,
    Open {
        port: u16,
    },
    Lost {
        reopen: Instant,
    },
}

/// What was last told of whether packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Up,
    Down,
    Failed,
}

/// The data side of a node.
///
/// It connects by itself once a netmap with relays came by [`Command::Netmap`]; what the control server must know comes
/// from [`poll_report`](Self::poll_report), or through [`Reporting`](crate::Reporting).
#[derive(Debug)]
pub struct Tailscale {
    keys: Keys,
    ours: NodeKey,
    our_disco: DiscoKey,
    private: PrivateKey,
    limiter: Limiter,
    policy: Policy,
    port: Option<u16>,
    local_addresses: Vec<IpAddr>,
    state: State,
    /// By the 24-bit index under which a peer's messages name us.
    members: BTreeMap<u32, Member>,
    by_id: BTreeMap<NodeId, u32>,
    by_key: BTreeMap<NodeKey, u32>,
    by_disco: BTreeMap<DiscoKey, u32>,
    table: PrefixTable<u32>,
    /// The peers that have something to do.
    active: BTreeSet<u32>,
    relays: Relays,
    names: Names,
    check: NetCheck,
    filter: Filter,
    calls: Calls,
    magic: MagicDns,
    socket: Socket,
    check_again: Option<Instant>,
    endpoints: Vec<Endpoint>,
    info: NetInfo,
    home_connected: bool,
    phase: Phase,
    standing: Standing,
    config: NetConfig,
    random: Random,
    asks: Vec<Ask>,
    reports: VecDeque<Report>,
    events: VecDeque<Event<Problem>>,
    /// Where a packet lies while it is sealed, and where it is sealed to.
    plain: Box<[u8]>,
    sealed: Box<[u8]>,
}

impl Tailscale {
    /// A node that knows nobody yet. `seed` is random.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        let (ours, our_disco) = (config.keys.node_key(), config.keys.disco_key());
        let mut this = Self {
            private: PrivateKey::from_bytes(*config.keys.node.as_bytes()),
            limiter: limiter(ours, now),
            ours,
            our_disco,
            policy: Policy {
                accept_routes: config.accept_routes,
                accept_dns: config.accept_dns,
                exit_node: config.exit_node,
                keep_out: config.keep_out,
            },
            port: config.port,
            local_addresses: config.local_addresses,
            state: State::default(),
            members: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_disco: BTreeMap::new(),
            table: PrefixTable::default(),
            active: BTreeSet::new(),
            relays: Relays::new(&config.roots, config.proxy, config.plain_derp),
            names: Names::default(),
            check: NetCheck::default(),
            filter: Filter::new(config.shields_up),
            calls: Calls::new(),
            magic: MagicDns::default(),
            socket: if config.udp { Socket::Opening } else { Socket::Off },
            check_again: None,
            endpoints: Vec::new(),
            info: NetInfo::default(),
            home_connected: false,
            phase: Phase::Starting,
            standing: Standing::default(),
            config: NetConfig::default(),
            random: Random::new(seed),
            asks: Vec::new(),
            reports: VecDeque::new(),
            events: VecDeque::new(),
            plain: vec![0; MAX_PACKET].into_boxed_slice(),
            sealed: vec![0; MAX_PACKET + OVERHEAD].into_boxed_slice(),
            keys: config.keys,
        };
        if this.socket == Socket::Opening {
            this.events.push_back(Event::OpenLink(UDP, LinkSpec::Udp { port: this.port }));
        }
        this
    }

    /// The next thing that the control side must hear.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }

    fn is_open(&self) -> bool {
        matches!(self.socket, Socket::Open { .. })
    }

    /// The relays, with what they need of the rest.
    fn relays<'a>(&'a mut self, now: Instant, net: &'a mut NetQueue) -> (&'a mut Relays, Context<'a>) {
        let Self { relays, events, names, .. } = self;
        (relays, Context { now, net, events, names })
    }

    /// The region through which a peer is reached: where it was heard last, its home, or ours as a last resort.
    fn relay_of(&self, member: &Member) -> Option<RegionId> {
        let heard = member.heard_at.filter(|id| self.relays.is_connected(*id));
        let home = || Some(member.home).filter(|home| *home != RegionId(0));
        heard.or_else(home).or_else(|| self.relays.home())
    }

    /// What is known of a peer, for `status`.
    fn status(&self, member: &Member, now: Instant) -> PeerStatus {
        let peer = self.state.peers.get(&member.id);
        let endpoint = member.fixed.or_else(|| member.paths.trusted(now));
        let in_use = member.session.is_some() || member.paths.is_active();
        let relay = self.relay_of(member).filter(|_| in_use && endpoint.is_none());
        PeerStatus {
            name: member.label(),
            endpoint,
            prefixes: member.prefixes.clone(),
            handshake_age: member
                .session
                .as_ref()
                .filter(|session| session.is_ready())
                .and_then(adit_wireguard::Peer::established)
                .map(|at| now.saturating_duration_since(at)),
            received: member.received,
            sent: member.sent,
            symptom: None,
            addresses: peer
                .map(|peer| peer.addresses.iter().map(adit_tunnel::Prefix::address).collect())
                .unwrap_or_default(),
            online: peer.and_then(|peer| peer.online),
            expired: false,
            offers_exit: peer.is_some_and(Policy::offers_exit),
            rtt: member.paths.rtt(now).filter(|_| endpoint.is_some() || relay.is_some()),
            relay: relay.map(|id| self.region_name(id)),
            // A tagged node belongs to nobody.
            user: peer
                .filter(|peer| peer.tags.is_empty())
                .and_then(|peer| self.state.users.get(&peer.user).cloned()),
            tags: peer.map(|peer| peer.tags.clone()).unwrap_or_default(),
        }
    }

    /// The short name of a region, its number where it has none.
    fn region_name(&self, id: RegionId) -> String {
        let code = self.state.regions.get(&id).map(|region| &region.code).filter(|code| !code.is_empty());
        code.map_or_else(|| id.0.to_string(), Clone::clone)
    }

    fn socket_closed(&mut self, now: Instant, error: Option<std::io::ErrorKind>) {
        if self.socket == Socket::Off {
            return;
        }
        tracing::info!(?error, "no UDP socket; packets go through relays");
        self.socket = Socket::Lost { reopen: now + REOPEN_AFTER };
        self.check.cancel();
        // A port that is taken may be had later; until then any port is better than none.
        self.port = None;
        for member in self.members.values_mut() {
            member.paths.forget_trust();
        }
    }

    fn unreachable(&mut self, to: SocketAddr, why: Unreachable) {
        for index in &self.active {
            let Some(member) = self.members.get_mut(index) else { continue };
            if member.paths.unreachable(to) {
                tracing::info!(peer = member.name, %to, ?why, "the direct path is gone");
            }
        }
    }

    fn network_changed(&mut self, now: Instant, net: &mut NetQueue) {
        self.names.clear();
        self.check.network_changed();
        for member in self.members.values_mut() {
            member.paths.forget_trust();
        }
        let (relays, mut cx) = self.relays(now, net);
        relays.network_changed(&mut cx);
        self.measure(now, net);
        self.evaluate(now);
    }
}

fn limiter(ours: NodeKey, now: Instant) -> Limiter {
    Limiter::new(PublicKey::from_bytes(ours.0), HANDSHAKES_PER_SECOND, now)
}

impl Tunnel for Tailscale {
    type Command = Command;
    type Error = Problem;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        match input {
            NetInput::Datagram { link: UDP, from, data } => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                self.datagram(now, from, data, out)
            }
            NetInput::Stream { link, data } => self.stream(now, link, data, out),
            NetInput::Opened { link: UDP, local } => {
                self.socket = Socket::Open { port: local.port() };
                self.measure(now, &mut out.net);
                Ok(())
            }
            NetInput::Opened { link, .. } => {
                if let Some((id, mut conn)) = self.relays.take(link) {
                    conn.handle_opened(now, &mut out.net);
                    self.relays.put_back(now, id, conn);
                }
                Ok(())
            }
            NetInput::Closed { link: UDP, error } => {
                self.socket_closed(now, error);
                Ok(())
            }
            NetInput::Closed { link, error } => {
                self.relay_closed(now, link, error, &mut out.net);
                Ok(())
            }
            NetInput::Writable { link } => {
                if let Some(id) = self.relays.region(link) {
                    self.relays.flush(id, &mut out.net);
                }
                Ok(())
            }
            NetInput::Unreachable { link: UDP, to, why } => {
                let to = SocketAddr::new(to.ip().to_canonical(), to.port());
                self.unreachable(to, why);
                Ok(())
            }
            NetInput::Resolved { host, addresses } => {
                if self.names.resolved(now, host, addresses) {
                    let (relays, mut cx) = self.relays(now, &mut out.net);
                    relays.resolved(&mut cx);
                    if self.check.is_empty_run() {
                        self.check.cancel();
                        self.measure(now, &mut out.net);
                    }
                }
                Ok(())
            }
            NetInput::NetworkChanged => {
                self.network_changed(now, &mut out.net);
                Ok(())
            }
            NetInput::Datagram { .. } | NetInput::Unreachable { .. } => Err(Dropped::Unexpected),
        }
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        self.send(now, packet, out)
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        if let Socket::Lost { reopen } = self.socket
            && now >= reopen
        {
            self.socket = Socket::Opening;
            self.events.push_back(Event::OpenLink(UDP, LinkSpec::Udp { port: self.port }));
        }
        let (relays, mut cx) = self.relays(now, &mut out.net);
        relays.handle_timeout(&mut cx);
        let progress = self.check.handle_timeout(now);
        self.measured(now, progress, &mut out.net);
        if self.is_open() {
            self.check.send(now, UDP, &mut out.net);
        }
        if self.check_again.is_some_and(|at| now >= at) {
            self.check_again = None;
            if !self.active.is_empty() {
                self.measure(now, &mut out.net);
            }
        }
        self.serve_peers(now, &mut out.net);
        self.go_on_asking(now, &mut out.net);
        self.evaluate(now);
    }

    fn handle_command(&mut self, now: Instant, command: Command, out: &mut Outbox) {
        self.command(now, command, out);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let reopen = match self.socket {
            Socket::Lost { reopen } => Some(Deadline { at: reopen, why: "open the socket again" }),
            _ => None,
        };
        let check = self.check_again.map(|at| Deadline { at, why: "measure again" });
        let peers = self.active.iter().filter_map(|index| self.members.get(index));
        let peers = peers.map(Member::poll_timeout).fold(None, Deadline::earlier);
        let asks = self.asks_timeout();
        [reopen, check, peers, asks, self.relays.poll_timeout(), self.check.poll_timeout()]
            .into_iter()
            .fold(None, Deadline::earlier)
    }

    fn poll_event(&mut self) -> Option<Event<Problem>> {
        self.events.pop_front()
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        // Their indices are random, and people look for a peer in the same place again.
        let members = self.by_id.values().filter_map(|index| self.members.get(index));
        let members = members.map(|member| self.status(member, now));
        let expired = self.state.peers.values().filter(|peer| peer.expired).map(|peer| PeerStatus {
            name: peer.name.clone(),
            addresses: peer.addresses.iter().map(adit_tunnel::Prefix::address).collect(),
            online: peer.online,
            expired: true,
            ..PeerStatus::default()
        });
        members.chain(expired).collect()
    }

    fn own_name(&self) -> Option<OwnName> {
        let node = self.state.node.as_ref()?;
        let expiry = node.key_expiry.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Some(OwnName {
            name: node.name.clone(),
            tags: node.tags.clone(),
            exit_node: self.policy.exit_node.clone(),
            key_expires: expiry.map(|at| at.as_secs()),
        })
    }

    fn warnings(&self) -> Vec<Fault> {
        self.all_warnings()
    }

    fn find_way(
        &mut self,
        now: Instant,
        to: IpAddr,
        timeout: Duration,
        token: u64,
        out: &mut Outbox,
    ) -> Result<(), NoWay> {
        self.ask(now, to, timeout, token, &mut out.net)
    }
}
