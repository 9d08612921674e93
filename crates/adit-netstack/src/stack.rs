//! The stack: who owns which packet, and what runs next.

mod icmp;
mod listen;
mod tcp;
mod udp;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use adit_tunnel::view::{IpView, protocol};
use adit_tunnel::{Checksum, Deadline, Dropped, HostPacket, MAX_PACKET, NetConfig, Prefix, PrefixTable};

use crate::emit::{self, Backlog};
use crate::fragments::Fragments;
use crate::hash::{Keyed, Random};
use crate::memory::Memory;
use crate::tcp::Out;
use crate::{StackConfig, StackEvent};

/// Packets of the stack's own (datagrams, resets, ICMP) that wait, in bytes: several of the largest datagrams.
const BACKLOG: usize = 512 * 1024;
const MAX_BACKLOG: usize = 1024;
/// Events beside those of flows, which are flags. What is lost beyond this are ICMP errors only.
const MAX_EVENTS: usize = 4096;

/// A TCP/IP stack for the addresses of one tunnel.
///
/// After any call that takes `now`, call [`poll_transmit`](Self::poll_transmit), then
/// [`poll_event`](Self::poll_event) until `None`, then re-arm [`poll_timeout`](Self::poll_timeout). `now` never
/// goes backwards. Calling [`handle_timeout`](Self::handle_timeout) early is harmless.
#[derive(Debug)]
pub struct Stack {
    epoch: Instant,
    net: NetConfig,
    random: Random,
    memory: Memory,
    /// Queues on the way to destinations, in packets, where they are known.
    queues: PrefixTable<Option<u16>>,
    /// The packet under construction; it stays here when it was not taken.
    output: Box<[u8]>,
    waiting: Option<Out>,
    backlog: Backlog,
    fragments: Fragments,
    events: VecDeque<StackEvent>,
    tcp: tcp::Flows,
    listeners: listen::Listeners,
    udp: udp::Endpoints,
    icmp: icmp::Icmp,
}

/// How much the stack holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// TCP connections, those that end without their owner included.
    pub flows: usize,
    /// UDP endpoints.
    pub endpoints: usize,
    /// Buffer space taken out of the budget, in bytes.
    pub memory: usize,
}

impl Stack {
    /// A stack without addresses; see [`configure`](Self::configure).
    pub fn new(config: StackConfig, now: Instant) -> Self {
        let keyed = Keyed::new(config.seed);
        Self {
            epoch: now,
            net: NetConfig::default(),
            random: Random::new(config.seed),
            memory: Memory::new(config.budget),
            queues: PrefixTable::default(),
            output: vec![0; MAX_PACKET].into_boxed_slice(),
            waiting: None,
            backlog: Backlog::new(BACKLOG, MAX_BACKLOG),
            fragments: Fragments::default(),
            events: VecDeque::new(),
            tcp: tcp::Flows::new(keyed),
            listeners: listen::Listeners::default(),
            udp: udp::Endpoints::new(),
            icmp: icmp::Icmp::new(now),
        }
    }

    /// Takes addresses, routes and MTU. May be called again; flows stay, also those of an address that is gone.
    pub fn configure(&mut self, now: Instant, config: &NetConfig) {
        self.net = config.clone();
        self.tcp.set_mtu(now, self.net.mtu);
    }

    /// Takes what is known of the narrowest queue on the way to these destinations, in packets. What connections let their
    /// peers have under way fits into it, beyond what the path itself holds: the peers may know no better, and what a full
    /// queue drops they would send again.
    pub fn set_queue(&mut self, to: &[Prefix], packets: Option<u16>) {
        for prefix in to {
            self.queues.insert(*prefix, packets);
        }
        self.tcp.set_queue(to, packets);
    }

    /// Takes a packet from the tunnel, perhaps one that stands for many segments, whose checksums were verified
    /// when they were merged.
    ///
    /// # Errors
    /// Why the packet was dropped; nothing else needs to be done.
    pub fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>) -> Result<(), Dropped> {
        let ip = IpView::parse(packet.bytes())?;
        let verified = packet.segment().is_some();
        let header = &ip.bytes()[..ip.header_len()];
        if ip.is_v4() && !verified && Checksum::new().bytes(header).finish() != 0 {
            return Err(Dropped::Malformed);
        }
        if !self.is_local(ip.destination()) {
            return Err(Dropped::Unexpected);
        }
        if !is_unicast(ip.source()) || self.is_local(ip.source()) {
            return Err(Dropped::SourceNotAllowed);
        }
        if ip.is_fragment() {
            let Some(whole) = self.fragments.add(now, &ip)? else { return Ok(()) };
            let ip = IpView::parse(&whole)?;
            // What was put together is no fragment again.
            return if ip.is_fragment() { Err(Dropped::Malformed) } else { self.dispatch(now, &ip, false) };
        }
        self.dispatch(now, &ip, verified)
    }

    fn dispatch(&mut self, now: Instant, ip: &IpView<'_>, verified: bool) -> Result<(), Dropped> {
        if !verified && !ip.transport_checksum_ok() {
            return Err(Dropped::Malformed);
        }
        match ip.protocol() {
            protocol::TCP => self.handle_tcp(now, ip),
            protocol::UDP => self.handle_udp(now, ip),
            protocol::ICMP if ip.is_v4() => self.handle_icmp(now, ip),
            protocol::ICMPV6 if !ip.is_v4() => self.handle_icmp(now, ip),
            _ => Err(Dropped::Unexpected),
        }
    }

    /// Does what the passing of time asks for.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tcp.wake_due(now);
        self.expire_pings(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let tcp = self.tcp.next_deadline().map(|at| Deadline { at, why: "TCP timer" });
        let ping = self.icmp.next_deadline().map(|at| Deadline { at, why: "echo reply" });
        Deadline::earlier(tcp, ping)
    }

    /// Runs the flows that have work and hands every packet to `send`. `false` from `send` means that it did not
    /// take the packet and takes no more for now: the packet and the rest stay here until the next call.
    pub fn poll_transmit(&mut self, now: Instant, send: &mut dyn FnMut(HostPacket<'_>) -> bool) {
        if let Some(out) = self.waiting {
            if !send(host_packet(&self.output, out)) {
                return;
            }
            self.waiting = None;
        }
        loop {
            if !self.backlog.drain(|(), packet| send(HostPacket::new(packet))) {
                return;
            }
            while let Some(out) = self.run_next(now) {
                if !send(host_packet(&self.output, out)) {
                    self.waiting = Some(out);
                    return;
                }
            }
            if self.backlog.is_empty() {
                return;
            }
        }
    }

    /// The next thing the owner must know.
    pub fn poll_event(&mut self) -> Option<StackEvent> {
        self.poll_flow_event().or_else(|| self.events.pop_front())
    }

    /// Makes everything that waits for a retransmission timer leave with the next
    /// [`poll_transmit`](Self::poll_transmit): the tunnel has come back after an outage.
    pub fn nudge(&mut self, now: Instant) {
        self.tcp.nudge(now);
    }

    /// How much the stack holds.
    pub fn stats(&self) -> StackStats {
        StackStats { flows: self.tcp.len(), endpoints: self.udp.len(), memory: self.memory.used() }
    }

    /// Our address towards `to`: the one on whose link it lies, else the first of its family (the parts of
    /// RFC 6724 that matter where there is one interface).
    fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        let family = || self.net.addresses.iter().filter(|own| own.address().is_ipv4() == to.is_ipv4());
        family().find(|own| own.contains(to)).or_else(|| family().next()).map(|own| own.address())
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.net.addresses.iter().any(|own| own.address() == address)
    }

    fn push_event(&mut self, event: StackEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Queues a transport message, in fragments if it is larger than the tunnel takes.
    fn send_message(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        message: &[u8],
    ) -> Result<(), Dropped> {
        let identification = self.random.next() as u32;
        let mtu = usize::from(self.net.mtu);
        emit::datagram(&mut self.backlog, (source, destination), protocol, message, mtu, identification)
            .then_some(())
            .ok_or(Dropped::Backpressure)
    }
}

fn host_packet(output: &[u8], out: Out) -> HostPacket<'_> {
    let bytes = &output[..out.len];
    match out.segment {
        Some(segment) => HostPacket::segmented(bytes, segment),
        None => HostPacket::new(bytes),
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    }
}

/// A port of the ephemeral range (IANA's and Linux' together) that `is_free`, starting at a random one
/// (RFC 6056 §3.3.1, algorithm 1).
fn ephemeral_port(random: &mut Random, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
    const FIRST: u16 = 32_768;
    const COUNT: u16 = 32_000;
    let start = (random.next() % u64::from(COUNT)) as u16;
    (0..COUNT).map(|step| FIRST + (start + step) % COUNT).find(|&port| is_free(port))
}
