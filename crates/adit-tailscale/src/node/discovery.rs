//! The node's side of path discovery: pings, pongs, calls, and what is measured for them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, NetQueue, Outbox};

use super::{Socket, Tailscale, UDP};
use crate::disco::{self, MAX_ENDPOINTS, Message, Packet};
use crate::netcheck::{Progress, blind_choice, is_candidate, only_choice};
use crate::netmap::RegionId;
use crate::{DiscoKey, Endpoint, EndpointKind, NodeKey, Report};

/// A call names endpoints that were measured no longer ago than this.
const FRESH: Duration = Duration::from_secs(27);
/// While peers are active, the network is measured again after this time, and up to six seconds more.
const MEASURE_AGAIN: Duration = Duration::from_secs(20);
const MEASURE_SPREAD_MS: u64 = 6000;
/// What stands for a relay where a pong names the source of the ping: the port is the region.
const RELAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 3, 3, 40);

/// The way that a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Direct(SocketAddr),
    Relay(RegionId, NodeKey),
}

impl Via {
    /// The source, where an address is wanted: to name it in a pong, and to bind the cookies of WireGuard to.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Direct(from) => from,
            Self::Relay(region, _) => SocketAddr::new(RELAY_ADDRESS.into(), region.0),
        }
    }
}

impl Tailscale {
    /// Takes a disco message.
    pub(super) fn discovered(
        &mut self,
        now: Instant,
        via: Via,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let sender: DiscoKey = disco::sender(data).ok_or(Dropped::Malformed)?;
        let index = *self.by_disco.get(&sender).ok_or(Dropped::Unexpected)?;
        let member = self.members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        if matches!(via, Via::Relay(_, from) if from != member.key) {
            return Err(Dropped::Unauthentic);
        }
        let shared = member.shared(&self.keys).clone();
        let message = disco::open(&shared, data)?;
        member.heard(now);
        if matches!(message, Message::Ping { .. } | Message::CallMeMaybe(_)) {
            member.is_sought(now);
        }
        match message {
            Message::Ping { node: Some(node), .. } if node != member.key => return Err(Dropped::Unauthentic),
            Message::Ping { transaction, .. } => {
                let back = matches!(via, Via::Direct(from) if member.paths.learn(now, from));
                let pong =
                    Packet::pong(&shared, self.our_disco, self.random.bytes(), &transaction, via.address());
                self.answer(now, Some(index), via, pong.bytes(), &mut out.net);
                if let (Via::Direct(from), true) = (via, back) {
                    self.ping(now, index, from, None, &mut out.net);
                }
                self.active.insert(index);
            }
            Message::Pong { transaction, .. } => {
                let direct = matches!(via, Via::Direct(_));
                let ponged = member.paths.pong(now, &transaction, direct).ok_or(Dropped::Unexpected)?;
                if ponged.chosen {
                    tracing::info!(peer = member.name, ?via, rtt = ?ponged.rtt, "a direct path");
                }
                if let Some(token) = ponged.token {
                    self.answered(now, token, via, ponged.rtt);
                }
            }
            // Over UDP anybody could say where to send pings to.
            Message::CallMeMaybe(_) if matches!(via, Via::Direct(_)) => return Err(Dropped::Unexpected),
            Message::CallMeMaybe(endpoints) => {
                member.paths.called(now, endpoints);
                for address in member.paths.search(now) {
                    self.ping(now, index, address, None, &mut out.net);
                }
                self.active.insert(index);
            }
            Message::Unknown => {}
        }
        Ok(())
    }

    /// Answers on the way that the question came.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        index: Option<u32>,
        via: Via,
        packet: &[u8],
        net: &mut NetQueue,
    ) {
        match via {
            Via::Direct(to) => self.send_datagram(index, to, packet, net),
            Via::Relay(region, to) => {
                let (relays, mut cx) = self.relays(now, net);
                relays.send(&mut cx, region, &to, packet);
                relays.flush(region, cx.net);
            }
        }
    }

    pub(super) fn send_datagram(
        &mut self,
        index: Option<u32>,
        to: SocketAddr,
        packet: &[u8],
        net: &mut NetQueue,
    ) {
        if let Some(mut slot) = net.reserve(UDP, Some(to), packet.len()).filter(|_| self.is_open()) {
            slot.copy_from_slice(packet);
            slot.commit(packet.len());
            if let Some(member) = index.and_then(|index| self.members.get_mut(&index)) {
                member.sent += packet.len() as u64;
            }
        }
    }

    /// Asks for a pong from an address.
    pub(super) fn ping(
        &mut self,
        now: Instant,
        index: u32,
        to: SocketAddr,
        token: Option<u64>,
        net: &mut NetQueue,
    ) {
        // An address inside the tailnet would lead the ping into the tunnel.
        if !self.is_open() || self.table.lookup(to.ip()).is_some() {
            return;
        }
        let Some(packet) = self.ping_packet(now, index, Some(to), token) else { return };
        self.send_datagram(Some(index), to, packet.bytes(), net);
    }

    pub(super) fn ping_packet(
        &mut self,
        now: Instant,
        index: u32,
        to: Option<SocketAddr>,
        token: Option<u64>,
    ) -> Option<Packet> {
        let member = self.members.get_mut(&index).filter(|member| !member.disco.is_zero())?;
        let transaction = self.random.bytes();
        member.paths.pinged(now, to, transaction, token);
        let nonce = self.random.bytes();
        Some(Packet::ping(member.shared(&self.keys), self.our_disco, nonce, &transaction, self.ours))
    }

    /// Looks for a direct path to a peer.
    pub(super) fn search(&mut self, now: Instant, index: u32, net: &mut NetQueue) {
        let Some(member) = self.members.get_mut(&index) else { return };
        if member.disco.is_zero() || member.fixed.is_some() || !matches!(self.socket, Socket::Open { .. }) {
            return;
        }
        for address in member.paths.search(now) {
            self.ping(now, index, address, None, net);
        }
        self.call(now, index, net);
    }

    /// Tells a peer where we are, so that it sends pings from there; measures first where that is not known.
    pub(super) fn call(&mut self, now: Instant, index: u32, net: &mut NetQueue) {
        let fresh = self.check.last_done().is_some_and(|at| now < at + FRESH);
        let Some(member) = self.members.get_mut(&index) else { return };
        member.call_pending = !fresh;
        if !fresh {
            return self.measure(now, net);
        }
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.address).take(MAX_ENDPOINTS);
        let nonce = self.random.bytes();
        let packet = Packet::call_me_maybe(member.shared(&self.keys), self.our_disco, nonce, endpoints);
        self.send_relayed(now, index, packet.bytes(), net);
    }

    /// Begins to measure the network, unless that is under way or there is nobody to ask.
    pub(super) fn measure(&mut self, now: Instant, net: &mut NetQueue) {
        if self.state.regions.is_empty() {
            return;
        }
        if self.relays.home().is_none() {
            // Nobody waits for measurements where there is nothing to choose, or nothing to measure with.
            let only = only_choice(&self.state.regions);
            let blind =
                || blind_choice(&self.state.regions, &self.ours).filter(|_| self.socket == Socket::Off);
            if let Some(id) = only.or_else(blind) {
                self.set_home(now, id, net);
            }
        }
        if self.is_open() && !self.check.is_running() {
            let Self { check, state, relays, names, events, random, .. } = self;
            check.start(now, &state.regions, relays.home(), names, events, random);
            check.send(now, UDP, net);
        } else if self.socket == Socket::Off {
            self.update_endpoints();
        }
    }

    fn set_home(&mut self, now: Instant, id: RegionId, net: &mut NetQueue) {
        if self.relays.home() == Some(id) {
            return;
        }
        tracing::debug!(region = id.0, "home relay");
        let (relays, mut cx) = self.relays(now, net);
        relays.set_home(&mut cx, id);
        self.home_connected = false;
        self.update_info(id);
        self.evaluate(now);
    }

    fn update_info(&mut self, home: RegionId) {
        let info = self.check.info(home);
        let kind = |info: &crate::NetInfo| (info.preferred_derp, info.udp, info.ipv6, info.mapping_varies);
        if kind(&info) != kind(&self.info) {
            self.report(Report::NetInfo(info.clone()));
        }
        self.info = info;
    }

    /// Goes on with a measurement.
    pub(super) fn measured(&mut self, now: Instant, progress: Progress, net: &mut NetQueue) {
        let home = self.relays.home();
        match progress {
            Progress::First(id) if home.is_none() => {
                let avoided = self.state.regions.get(&id).is_none_or(|region| region.avoid);
                let id = if avoided { blind_choice(&self.state.regions, &self.ours) } else { Some(id) };
                if let Some(id) = id {
                    self.set_home(now, id, net);
                }
            }
            Progress::Blind if home.is_none() => {
                if let Some(id) = blind_choice(&self.state.regions, &self.ours) {
                    self.set_home(now, id, net);
                }
            }
            Progress::First(_) | Progress::Blind | Progress::Nothing => {}
            Progress::Done => {
                let nearest = self.check.nearest(now, &self.state.regions, &self.state.scores, home);
                let blind = || blind_choice(&self.state.regions, &self.ours).filter(|_| home.is_none());
                if let Some(id) = nearest.or_else(blind) {
                    self.set_home(now, id, net);
                }
                if let Some(home) = self.relays.home() {
                    self.update_info(home);
                }
                self.update_endpoints();
                let spread = Duration::from_millis(self.random.below(MEASURE_SPREAD_MS));
                self.check_again = Some(now + MEASURE_AGAIN + spread);
                self.call_waiting(now, net);
            }
        }
    }

    /// Sends the calls that waited for a measurement.
    fn call_waiting(&mut self, now: Instant, net: &mut NetQueue) {
        let pending = |index: &&u32| self.members.get(index).is_some_and(|member| member.call_pending);
        let waiting: Vec<u32> = self.active.iter().filter(pending).copied().collect();
        for index in waiting {
            self.call(now, index, net);
        }
    }

    /// Tells the control side where we can be found, if that is another place than before.
    pub(super) fn update_endpoints(&mut self) {
        let mut list: Vec<Endpoint> = Vec::new();
        let mut add = |address: SocketAddr, kind| {
            if !list.iter().any(|known| known.address == address) {
                list.push(Endpoint { address, kind });
            }
        };
        if let Socket::Open { port } = self.socket {
            let mapped = self.check.mapped();
            for address in &mapped {
                add(*address, EndpointKind::Stun);
            }
            if self.check.mapping_varies() == Some(true) {
                // Perhaps the port is forwarded by hand.
                for address in mapped.iter().filter(|address| address.is_ipv4()) {
                    add(SocketAddr::new(address.ip(), port), EndpointKind::Stun4LocalPort);
                }
            }
            let ours = |ip: IpAddr| {
                let node = self.state.node.iter().flat_map(|node| &node.addresses);
                node.into_iter().any(|prefix| prefix.address() == ip)
            };
            let (loopback, real): (Vec<IpAddr>, Vec<IpAddr>) = self
                .local_addresses
                .iter()
                .copied()
                .filter(|ip| is_candidate(*ip, ours))
                .partition(IpAddr::is_loopback);
            for ip in if real.is_empty() { loopback } else { real } {
                add(SocketAddr::new(ip, port), EndpointKind::Local);
            }
        }
        if list != self.endpoints {
            self.endpoints.clone_from(&list);
            self.report(Report::Endpoints(list));
        }
    }
}
