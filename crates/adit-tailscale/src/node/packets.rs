//! The data path: packets of the packet end to peers, and what comes from peers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use adit_tunnel::view::{IpView, addresses, protocol, tcp_flag};
use adit_tunnel::{Checksum, Dropped, Event, HostPacket, NetQueue, Outbox, PacketQueue};
use adit_wireguard::{HANDSHAKE_LEN, OVERHEAD, OpenError, Opened, Timeout, Verdict, message_type};

use super::discovery::Via;
use super::{Tailscale, UDP};
use crate::derp::{Context, Sent};
use crate::magicdns::{SERVICE_V4, SERVICE_V6};
use crate::masquerade::{Side, rewrite};
use crate::routes::{MTU, is_tailnet};
use crate::{NodeKey, disco, stun, tsmp};

const DNS_PORT: u16 = 53;
/// Packets that a relay keeps for one of its clients; it drops what does not fit (the reference's `perClientSendQueueDepth`).
const RELAY_QUEUE: u16 = 32;

impl Tailscale {
    /// Takes a packet of the packet end.
    pub(super) fn send(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (_, to) = addresses(packet.bytes()).ok_or(Dropped::Malformed)?;
        if to == IpAddr::V4(SERVICE_V4) {
            return self.serve_name(packet, &mut out.host);
        }
        let Some(&index) = self.table.lookup(to) else { return self.nowhere(packet, to, &mut out.host) };
        if packet.largest()? > usize::from(MTU) {
            return Err(Dropped::TooBig);
        }
        let ip = IpView::parse_unsized(packet.bytes())?;
        self.filter.note_outgoing(&ip);
        self.calls.note(&ip);
        let member = self.members.get_mut(&index).ok_or(Dropped::NoRoute)?;
        let search = member.paths.note_send(now);
        self.active.insert(index);
        if search {
            self.search(now, index, &mut out.net);
        }
        self.seal(now, index, packet, &mut out.net)
    }

    /// A packet that no peer takes: whoever opens a connection hears it at once, as from a router without a route. What
    /// belongs to a connection is lost in silence, so that it goes on when the peer is back.
    fn nowhere(&self, packet: HostPacket<'_>, to: IpAddr, host: &mut PacketQueue) -> Result<(), Dropped> {
        let ip = IpView::parse_unsized(packet.bytes())?;
        let (from, to_port, sequence) = match (ip.tcp(), ip.udp()) {
            (Some(tcp), _) if tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN => {
                (tcp.source_port(), tcp.destination_port(), tcp.sequence())
            }
            (None, Some(udp)) => (udp.source_port(), udp.destination_port(), 0),
            _ => return Err(Dropped::NoRoute),
        };
        let ends = [SocketAddr::new(ip.source(), from), SocketAddr::new(to, to_port)];
        // Network unreachable where the exit node is missing, host unreachable for a node that is none (RFC 792); no
        // route to destination and address unreachable (RFC 4443 §3.1).
        let (service, kind) = match (to, self.policy.exit_node.is_some() && !is_tailnet(to)) {
            (IpAddr::V4(_), true) => (SERVICE_V4.into(), [3, 0]),
            (IpAddr::V4(_), false) => (SERVICE_V4.into(), [3, 1]),
            (IpAddr::V6(_), true) => (SERVICE_V6.into(), [1, 0]),
            (IpAddr::V6(_), false) => (SERVICE_V6.into(), [1, 3]),
        };
        let mut error = [0; tsmp::ICMP_LEN];
        let len = tsmp::write_unreachable(service, kind, ip.protocol(), ends, sequence, &mut error);
        let error = error.get(..len.ok_or(Dropped::Malformed)?).unwrap_or_default();
        let mut slot = host.reserve(error.len()).ok_or(Dropped::Backpressure)?;
        slot.copy_from_slice(error);
        slot.commit(error.len());
        Err(Dropped::NoRoute)
    }

    fn seal(
        &mut self,
        now: Instant,
        index: u32,
        packet: HostPacket<'_>,
        net: &mut NetQueue,
    ) -> Result<(), Dropped> {
        let member = self.members.get_mut(&index).ok_or(Dropped::NoRoute)?;
        let session = member.session(now, index, &self.private, &self.limiter);
        if session.is_stale(now) {
            self.tick(now, index, net);
        }
        let Some(member) = self.members.get_mut(&index) else { return Err(Dropped::NoRoute) };
        if !member.session.as_ref().is_some_and(adit_wireguard::Peer::is_ready) {
            let mut result = Ok(());
            for segment in packet.segments()? {
                result = result.and(member.staged.push(&segment));
            }
            self.initiate(now, index, false, net);
            return result;
        }
        let member = self.members.get(&index).ok_or(Dropped::NoRoute)?;
        let region = self.relay_of(member);
        let open = self.is_open();
        let Self { members, relays, events, names, plain, sealed, .. } = self;
        let member = members.get_mut(&index).ok_or(Dropped::NoRoute)?;
        let mut route = member.paths.route(now);
        if let Some(fixed) = member.fixed {
            (route.direct, route.relay) = (Some(fixed), false);
        }
        if !open {
            (route.direct, route.relay) = (None, true);
        }
        if member.told != Some(route.relay) {
            member.told = Some(route.relay);
            events.push_back(Event::Queue(member.prefixes.clone(), route.relay.then_some(RELAY_QUEUE)));
        }
        let alias = addresses(packet.bytes()).and_then(|(source, _)| member.alias(source));
        let key = member.key;
        let (mut result, mut relayed) = (Ok(()), false);
        for segment in packet.segments()? {
            let len = segment.len();
            let bytes = match (segment.whole(), alias) {
                (Some(whole), None) => whole,
                _ => {
                    let place = plain.get_mut(..len).ok_or(Dropped::TooBig)?;
                    segment.write(place);
                    if let Some(alias) = alias {
                        rewrite(place, Side::Source, alias);
                    }
                    place
                }
            };
            let Some(session) = &mut member.session else { break };
            let mut relay = |bytes: &[u8], net: &mut NetQueue| {
                let region = region.filter(|_| route.relay).ok_or(Dropped::NoRoute)?;
                let mut cx = Context { now, net, events, names };
                relayed = true;
                match relays.send(&mut cx, region, &key, bytes) {
                    Sent::Yes => Ok(()),
                    Sent::Full => Err(Dropped::Backpressure),
                    Sent::NoRegion => Err(Dropped::NoRoute),
                }
            };
            let done = match route.direct {
                Some(to) if !route.relay => match net.reserve(UDP, Some(to), len + OVERHEAD) {
                    Some(mut slot) => session.seal(now, bytes, &mut slot).map(|len| {
                        slot.commit(len);
                        member.sent += len as u64;
                    }),
                    None => Err(Dropped::Backpressure),
                },
                direct => session.seal(now, bytes, sealed).and_then(|len| {
                    let bytes = sealed.get(..len).unwrap_or_default();
                    member.sent += len as u64;
                    let both = direct.and_then(|to| net.reserve(UDP, Some(to), len)).map(|mut slot| {
                        slot.copy_from_slice(bytes);
                        slot.commit(len);
                    });
                    // One way that takes it is enough.
                    relay(bytes, net).or(both.ok_or(Dropped::Backpressure))
                }),
            };
            result = result.and(done);
        }
        if relayed && let Some(region) = region {
            self.relays.flush(region, net);
        }
        result
    }

    /// Sends a WireGuard message by whatever leads to the peer.
    fn transmit(&mut self, now: Instant, index: u32, message: &[u8], net: &mut NetQueue) {
        let Some(member) = self.members.get(&index) else { return };
        let route = member.paths.route(now);
        let direct = member.fixed.or(route.direct);
        if let Some(to) = direct {
            self.send_datagram(Some(index), to, message, net);
        }
        let fixed = self.members.get(&index).is_some_and(|member| member.fixed.is_some());
        if !fixed && (route.relay || !self.is_open()) {
            self.send_relayed(now, index, message, net);
        }
    }

    /// Sends a packet to a peer through its relay.
    pub(super) fn send_relayed(&mut self, now: Instant, index: u32, packet: &[u8], net: &mut NetQueue) {
        let Some(member) = self.members.get(&index) else { return };
        let key: NodeKey = member.key;
        let Some(region) = self.relay_of(member) else { return };
        let (relays, mut cx) = self.relays(now, net);
        if relays.send(&mut cx, region, &key, packet) == Sent::Yes {
            relays.flush(region, cx.net);
            if let Some(member) = self.members.get_mut(&index) {
                member.sent += packet.len() as u64;
            }
        }
    }

    /// Calls a peer, unless that is under way and it is not to be called `again`.
    fn initiate(&mut self, now: Instant, index: u32, again: bool, net: &mut NetQueue) {
        let mut message = [0; HANDSHAKE_LEN];
        let Some(member) = self.members.get_mut(&index) else { return };
        let session = member.session(now, index, &self.private, &self.limiter);
        let len = session.initiate(now, again, &mut message);
        if let Some(message) = message.get(..len).filter(|message| !message.is_empty()) {
            member.initiated(now);
            self.transmit(now, index, message, net);
        }
    }

    /// Lets the session do what is due.
    pub(super) fn tick(&mut self, now: Instant, index: u32, net: &mut NetQueue) {
        let mut message = [0; HANDSHAKE_LEN];
        loop {
            let Some(session) = self.members.get_mut(&index).and_then(|m| m.session.as_mut()) else { return };
            let (len, last) = match session.handle_timeout(now, &mut message) {
                Timeout::Initiation(len) => (len, true),
                Timeout::Keepalive(len) => (len, false),
                Timeout::GaveUp => {
                    if let Some(member) = self.members.get_mut(&index) {
                        member.staged.clear();
                    }
                    return;
                }
                Timeout::Idle => return,
            };
            self.transmit(now, index, message.get(..len).unwrap_or_default(), net);
            if last {
                return;
            }
        }
    }

    /// Serves the peers that are due.
    pub(super) fn serve_peers(&mut self, now: Instant, net: &mut NetQueue) {
        let is_due = |index: &u32| {
            let deadline = self.members.get(index).and_then(|member| member.poll_timeout());
            deadline.is_none_or(|deadline| now >= deadline.at)
        };
        let due: Vec<u32> = self.active.iter().copied().filter(is_due).collect();
        for index in due {
            let Some(member) = self.members.get_mut(&index) else {
                self.active.remove(&index);
                continue;
            };
            let was_direct = member.paths.route(now).direct.is_some();
            let (beat, search) = member.paths.handle_timeout(now);
            if was_direct && member.paths.route(now).direct.is_none() {
                tracing::info!(peer = member.name, "the direct path is gone");
                // Perhaps our NAT has forgotten us: peers must hear where we are now, not where we were.
                self.check.distrust();
            }
            if let Some(to) = beat {
                self.ping(now, index, to, None, net);
            }
            if search {
                self.search(now, index, net);
            }
            self.tick(now, index, net);
            if self.members.get_mut(&index).is_some_and(|member| member.calls_again(now)) {
                self.initiate(now, index, true, net);
            }
            if self.members.get_mut(&index).is_none_or(|member| member.rest(now)) {
                self.active.remove(&index);
            }
        }
    }

    /// Takes a datagram: STUN, disco or WireGuard.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        if disco::sender(data).is_some() {
            return self.discovered(now, Via::Direct(from), data, out);
        }
        // The cookie of STUN stands where a WireGuard message has an index or zeros behind its type.
        if stun::is_stun(data) && data.first() == Some(&1) && data.get(1) == Some(&1) {
            let progress = self.check.handle_response(now, data);
            self.measured(now, progress, &mut out.net);
            return Ok(());
        }
        self.wireguard(now, Via::Direct(from), data, out)
    }

    /// Takes a WireGuard message, whatever way it came.
    pub(super) fn wireguard(
        &mut self,
        now: Instant,
        via: Via,
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let from = via.address().ip();
        let word = |at: usize| {
            let bytes = data.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(Dropped::Malformed)
        };
        match u8::try_from(word(0)?).map_err(|_| Dropped::Malformed)? {
            message_type::DATA => self.data(now, word(4)? >> 8, from, data, out),
            message_type::RESPONSE => self.handshake(now, word(8)? >> 8, from, data, out),
            message_type::COOKIE => self.handshake(now, word(4)? >> 8, from, data, out),
            message_type::INITIATION => {
                let mut cookie = [0; HANDSHAKE_LEN];
                match self.limiter.check(now, &self.private, from, data, &mut cookie)? {
                    Verdict::Cookie(len) => {
                        self.answer(now, None, via, cookie.get(..len).unwrap_or_default(), &mut out.net);
                        Ok(())
                    }
                    Verdict::Pass(claimed) => {
                        let key = claimed.map(|key| NodeKey(*key.as_bytes())).ok_or(Dropped::Malformed)?;
                        let index = *self.by_key.get(&key).ok_or(Dropped::Unexpected)?;
                        self.handshake(now, index, from, data, out)
                    }
                }
            }
            _ => Err(Dropped::Malformed),
        }
    }

    fn handshake(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        message: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        if message.len() > HANDSHAKE_LEN {
            return Err(Dropped::Malformed);
        }
        let member = self.members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        let session = member.session(now, index, &self.private, &self.limiter);
        if session.is_stale(now) {
            self.tick(now, index, &mut out.net);
        }
        let member = self.members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        let session = member.session(now, index, &self.private, &self.limiter);
        let mut reply = [0; HANDSHAKE_LEN];
        let opened = session.open(now, from, message, &mut reply).map_err(reason)?;
        member.received += message.len() as u64;
        self.active.insert(index);
        if let Opened::Reply(len) = opened {
            self.transmit(now, index, reply.get(..len).unwrap_or_default(), &mut out.net);
            self.flush_staged(now, index, &mut out.net);
        }
        Ok(())
    }

    /// Sends what waited for the session.
    fn flush_staged(&mut self, now: Instant, index: u32, net: &mut NetQueue) {
        let Some(member) = self.members.get_mut(&index) else { return };
        let ready = member.session.as_ref().is_some_and(adit_wireguard::Peer::is_ready);
        if !ready || member.staged.is_empty() {
            return;
        }
        let mut staged = std::mem::take(&mut member.staged);
        // What finds no room is lost, as on any network.
        staged.flush(|packet| {
            let _ = self.seal(now, index, HostPacket::new(packet), net);
            true
        });
    }

    fn data(
        &mut self,
        now: Instant,
        index: u32,
        from: IpAddr,
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let member = self.members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        let session = member.session.as_mut().ok_or(Dropped::Unexpected)?;
        if session.is_stale(now) {
            self.tick(now, index, &mut out.net);
        }
        let Self { members, table, filter, .. } = self;
        let member = members.get_mut(&index).ok_or(Dropped::Unexpected)?;
        let session = member.session.as_mut().ok_or(Dropped::Unexpected)?;
        // The cipher works on the packet and its tag together.
        let mut slot = out.host.reserve(data.len()).ok_or(Dropped::Backpressure)?;
        let was_ready = session.is_ready();
        let opened = session.open(now, from, data, &mut slot).map_err(reason)?;
        member.touch(now);
        member.received += data.len() as u64;
        let (mut message, mut rejected) = (None, None);
        let allowed = match opened {
            Opened::Packet(len) => {
                let packet = slot.get_mut(..len).ok_or(Dropped::Malformed)?;
                let (source, target) = addresses(packet).ok_or(Dropped::Malformed)?;
                if table.lookup(source) != Some(&index) {
                    Err(Dropped::SourceNotAllowed)
                } else {
                    let ours = self.state.node.iter().flat_map(|node| &node.addresses).map(|p| p.address());
                    // A peer that knows us by another address means us.
                    let meant = ours.into_iter().find(|ours| member.alias(*ours) == Some(target));
                    if let Some(ours) = meant {
                        rewrite(packet, Side::Destination, ours);
                    }
                    let ip = IpView::parse(packet)?;
                    if !filter.admits(&ip, member.jailed) {
                        rejected = filter.rejection(&ip, member.jailed);
                        Err(Dropped::Unexpected)
                    } else if ip.protocol() == tsmp::PROTOCOL {
                        message = tsmp::parse(&ip).map(|message| (message, ip.source(), ip.destination()));
                        Ok(())
                    } else {
                        slot.commit(len);
                        Ok(())
                    }
                }
            }
            Opened::Keepalive | Opened::Reply(_) | Opened::Cookie => Ok(()),
        };
        if let Some((message, from, to)) = message {
            self.between_nodes(now, message, from, to, out);
        }
        // Told so, the peer need not wait for an answer that never comes.
        if let Some(reject) = rejected {
            let mut packet = [0; tsmp::REJECT_LEN];
            if let Some(len) = tsmp::write_reject(&reject, &mut packet) {
                let packet = HostPacket::new(packet.get(..len).unwrap_or_default());
                let _ = self.send(now, packet, out);
            }
        }
        if !was_ready {
            self.active.insert(index);
            self.flush_staged(now, index, &mut out.net);
        }
        allowed
    }

    /// Takes a TSMP message from a peer.
    fn between_nodes(
        &mut self,
        now: Instant,
        message: tsmp::Message,
        from: IpAddr,
        to: IpAddr,
        out: &mut Outbox,
    ) {
        match message {
            tsmp::Message::Ping(data) => {
                let mut packet = [0; tsmp::PONG_LEN];
                if let Some(len) = tsmp::write_pong(&data, to, from, &mut packet) {
                    let packet = HostPacket::new(packet.get(..len).unwrap_or_default());
                    let _ = self.send(now, packet, out);
                }
            }
            tsmp::Message::Reject(reject) => {
                tracing::info!(target = %reject.target, reason = ?reject.reason, "a peer rejects a connection");
                // What was never asked cannot be rejected.
                let Some(sequence) = (match reject.protocol {
                    protocol::TCP => self.calls.sequence(reject.source, reject.target),
                    _ => Some(0),
                }) else {
                    return;
                };
                let mut packet = [0; tsmp::ICMP_LEN];
                if let Some(len) = tsmp::write_icmp(&reject, sequence, &mut packet)
                    && let Some(mut slot) = out.host.reserve(len)
                {
                    slot.copy_from_slice(packet.get(..len).unwrap_or_default());
                    slot.commit(len);
                }
            }
            tsmp::Message::Pong(_) | tsmp::Message::Unknown => {}
        }
    }

    /// Answers a question about a name of the tailnet.
    fn serve_name(&self, packet: HostPacket<'_>, host: &mut PacketQueue) -> Result<(), Dropped> {
        let ip = IpView::parse_unsized(packet.bytes())?;
        let udp = ip.udp().filter(|udp| udp.destination_port() == DNS_PORT).ok_or(Dropped::NoRoute)?;
        let response = self.magic.respond(&self.state, udp.payload()).ok_or(Dropped::Malformed)?;
        let length = u16::try_from(8 + response.len()).map_err(|_| Dropped::TooBig)?;
        let mut datagram = Vec::with_capacity(length.into());
        for word in [DNS_PORT, udp.source_port(), length, 0] {
            datagram.extend_from_slice(&word.to_be_bytes());
        }
        datagram.extend_from_slice(&response);
        let (from, to) = (ip.destination(), ip.source());
        let sum = Checksum::pseudo_header(from, to, protocol::UDP, datagram.len()).bytes(&datagram).finish();
        if let Some(field) = datagram.get_mut(6..8) {
            field.copy_from_slice(&(if sum == 0 { u16::MAX } else { sum }).to_be_bytes());
        }
        let mut slot = host.reserve(40 + datagram.len()).ok_or(Dropped::Backpressure)?;
        let len =
            tsmp::write_packet(protocol::UDP, from, to, &datagram, &mut slot).ok_or(Dropped::Malformed)?;
        slot.commit(len);
        Ok(())
    }
}

fn reason(error: OpenError) -> Dropped {
    match error {
        OpenError::Dropped(dropped) => dropped,
        OpenError::PskMismatch => Dropped::Unauthentic,
    }
}
