//! ICMP and ICMPv6: errors about our packets, echo both ways, and errors about packets that nobody expects.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::view::{IpView, protocol};
use adit_tunnel::{Checksum, Dropped};

use super::Stack;
use crate::emit;
use crate::tcp::Tuple;
use crate::{OpenError, PingError, PingId, Pong, StackEvent};

const MAX_PINGS: usize = 256;
/// ICMP errors and echo replies of ours: this many at once, and as many per second (RFC 1812 §4.3.2.8, RFC 4443 §2.4).
const BURST: u32 = 100;
/// An error quotes as much as fits into the smallest MTU (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const MAX_ERROR: (usize, usize) = (576, 1280);

/// The message types that we speak of (RFC 792, RFC 4443).
mod kind {
    pub(super) const V4_ECHO_REPLY: u8 = 0;
    pub(super) const V4_UNREACHABLE: u8 = 3;
    pub(super) const V4_ECHO: u8 = 8;
    pub(super) const V4_TIME_EXCEEDED: u8 = 11;
    pub(super) const V6_UNREACHABLE: u8 = 1;
    pub(super) const V6_TOO_BIG: u8 = 2;
    pub(super) const V6_TIME_EXCEEDED: u8 = 3;
    pub(super) const V6_ECHO: u8 = 128;
    pub(super) const V6_ECHO_REPLY: u8 = 129;
    /// Code of `V4_UNREACHABLE`.
    pub(super) const V4_FRAGMENTATION_NEEDED: u8 = 4;
}

/// Echo requests of ours, and how many messages may still leave.
#[derive(Debug)]
pub(super) struct Icmp {
    pings: Vec<Ping>,
    count: u64,
    tokens: u32,
    refilled: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    id: PingId,
    to: IpAddr,
    identifier: u32,
    sent: Instant,
    until: Instant,
}

impl Icmp {
    pub(super) fn new(now: Instant) -> Self {
        Self { pings: Vec::new(), count: 0, tokens: BURST, refilled: now }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pings.iter().map(|ping| ping.until).min()
    }

    fn may_send(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(since.as_millis() * u128::from(BURST) / 1000).unwrap_or(BURST);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }

    fn take(&mut self, to: IpAddr, identifier: u32) -> Option<Ping> {
        let at = self.pings.iter().position(|ping| ping.identifier == identifier && ping.to == to)?;
        Some(self.pings.swap_remove(at))
    }
}

impl Stack {
    pub(super) fn handle_icmp(&mut self, now: Instant, ip: &IpView<'_>) -> Result<(), Dropped> {
        let message = ip.payload();
        let sum = if ip.is_v4() {
            Checksum::new().bytes(message)
        } else {
            Checksum::pseudo_header(ip.source(), ip.destination(), protocol::ICMPV6, message.len())
                .bytes(message)
        };
        if message.len() < 8 || sum.finish() != 0 {
            return Err(Dropped::Malformed);
        }
        let (kind, code) = (message[0], message[1]);
        match (ip.is_v4(), kind) {
            (true, kind::V4_ECHO) | (false, kind::V6_ECHO) => self.answer_echo(now, ip),
            (true, kind::V4_ECHO_REPLY) | (false, kind::V6_ECHO_REPLY) => self.handle_reply(now, ip),
            (true, kind::V4_UNREACHABLE) if code == kind::V4_FRAGMENTATION_NEEDED => {
                self.handle_too_big(now, u16::from_be_bytes([message[6], message[7]]), &message[8..])
            }
            (false, kind::V6_TOO_BIG) => {
                let mtu = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
                self.handle_too_big(now, mtu.try_into().unwrap_or(u16::MAX), &message[8..])
            }
            (true, kind::V4_UNREACHABLE | kind::V4_TIME_EXCEEDED)
            | (false, kind::V6_UNREACHABLE | kind::V6_TIME_EXCEEDED) => {
                self.handle_error(now, ip.source(), kind, code, &message[8..])
            }
            _ => Err(Dropped::Unexpected),
        }
    }

    fn answer_echo(&mut self, now: Instant, ip: &IpView<'_>) -> Result<(), Dropped> {
        if !self.icmp.may_send(now) {
            return Err(Dropped::Backpressure);
        }
        let (source, destination) = (ip.destination(), ip.source());
        let header = emit::ip_header_len(destination);
        let (kind, number) = if ip.is_v4() {
            (kind::V4_ECHO_REPLY, protocol::ICMP)
        } else {
            (kind::V6_ECHO_REPLY, protocol::ICMPV6)
        };
        let place = self.backlog.push((), header + ip.payload().len()).ok_or(Dropped::Backpressure)?;
        let message = &mut place[header..];
        message.copy_from_slice(ip.payload());
        message[0] = kind;
        emit::fill_icmp_checksum(message, source, destination);
        emit::fill_ip_header(place, source, destination, number);
        Ok(())
    }

    fn handle_reply(&mut self, now: Instant, ip: &IpView<'_>) -> Result<(), Dropped> {
        let message = ip.payload();
        let identifier = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
        let ping = self.icmp.take(ip.source(), identifier).ok_or(Dropped::Unexpected)?;
        let pong = Pong {
            from: ip.source(),
            rtt: now.saturating_duration_since(ping.sent),
            size: u16::try_from(message.len() - 8).unwrap_or(u16::MAX),
            hop_limit: ip.hop_limit(),
        };
        self.push_event(StackEvent::Pong(ping.id, Ok(pong)));
        Ok(())
    }

    fn handle_error(
        &mut self,
        now: Instant,
        from: IpAddr,
        kind: u8,
        code: u8,
        quoted: &[u8],
    ) -> Result<(), Dropped> {
        let quote = Quote::parse(quoted).ok_or(Dropped::Malformed)?;
        match quote.protocol {
            protocol::TCP => {
                let (index, flow) = self.tcp.find(&quote.tuple()).ok_or(Dropped::Unexpected)?;
                flow.handle_unreachable(from, kind, code, quote.word(4));
                self.tcp.wake(index);
                self.settle(index, now);
                Ok(())
            }
            protocol::UDP => {
                let to = SocketAddr::new(quote.destination, quote.half(2));
                self.udp_unreachable(quote.half(0), to, from, kind, code)
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let ping = self.icmp.take(quote.destination, quote.word(4)).ok_or(Dropped::Unexpected)?;
                self.push_event(StackEvent::Pong(ping.id, Err(PingError::Unreachable { from, kind, code })));
                Ok(())
            }
            _ => Err(Dropped::Unexpected),
        }
    }

    fn handle_too_big(&mut self, now: Instant, mtu: u16, quoted: &[u8]) -> Result<(), Dropped> {
        let quote = Quote::parse(quoted).ok_or(Dropped::Malformed)?;
        if quote.protocol != protocol::TCP {
            // Datagrams are sent in fragments of the tunnel's MTU; a narrower path drops them, as it says.
            return Err(Dropped::TooBig);
        }
        let (index, flow) = self.tcp.find(&quote.tuple()).ok_or(Dropped::Unexpected)?;
        flow.handle_too_big(now, mtu, quote.word(4));
        self.tcp.wake(index);
        Ok(())
    }

    /// Tells a sender that nothing listens on the port.
    pub(super) fn send_port_unreachable(&mut self, now: Instant, ip: &IpView<'_>) {
        if !self.icmp.may_send(now) {
            return;
        }
        let (source, destination) = (ip.destination(), ip.source());
        let header = emit::ip_header_len(destination);
        let (kind, code, number, most) = if ip.is_v4() {
            (kind::V4_UNREACHABLE, 3, protocol::ICMP, MAX_ERROR.0)
        } else {
            (kind::V6_UNREACHABLE, 4, protocol::ICMPV6, MAX_ERROR.1)
        };
        let quoted = &ip.bytes()[..ip.bytes().len().min(most - header - 8)];
        let Some(place) = self.backlog.push((), header + 8 + quoted.len()) else { return };
        let message = &mut place[header..];
        message[..8].fill(0);
        (message[0], message[1]) = (kind, code);
        message[8..].copy_from_slice(quoted);
        emit::fill_icmp_checksum(message, source, destination);
        emit::fill_ip_header(place, source, destination, number);
    }

    /// Sends an echo request with `size` bytes of payload; [`StackEvent::Pong`] tells the outcome.
    ///
    /// # Errors
    /// [`OpenError::NoRoute`], or [`OpenError::OverBudget`] when too many requests wait.
    pub fn ping(
        &mut self,
        now: Instant,
        to: IpAddr,
        size: u16,
        timeout: Duration,
    ) -> Result<PingId, OpenError> {
        let source = self.route_to(to)?;
        if self.icmp.pings.len() >= MAX_PINGS {
            return Err(OpenError::OverBudget);
        }
        self.icmp.count += 1;
        let id = PingId(self.icmp.count);
        let identifier = self.random.next() as u32;
        let (kind, number) =
            if to.is_ipv4() { (kind::V4_ECHO, protocol::ICMP) } else { (kind::V6_ECHO, protocol::ICMPV6) };
        let mut message = vec![0; 8 + usize::from(size.min(65_000))];
        message[0] = kind;
        message[4..8].copy_from_slice(&identifier.to_be_bytes());
        for (byte, value) in message[8..].iter_mut().zip((0..=u8::MAX).cycle()) {
            *byte = value;
        }
        emit::fill_icmp_checksum(&mut message, source, to);
        self.send_message(source, to, number, &message).map_err(|_| OpenError::OverBudget)?;
        self.icmp.pings.push(Ping { id, to, identifier, sent: now, until: now + timeout });
        Ok(id)
    }

    pub(super) fn expire_pings(&mut self, now: Instant) {
        while let Some(at) = self.icmp.pings.iter().position(|ping| ping.until <= now) {
            let ping = self.icmp.pings.swap_remove(at);
            self.push_event(StackEvent::Pong(ping.id, Err(PingError::TimedOut)));
        }
    }
}

/// What an ICMP error quotes of a packet of ours: addresses, and eight bytes or more of its transport header.
struct Quote<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: &'a [u8],
}

impl<'a> Quote<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Not `IpView::parse`, whose length must be right: a quoted packet is cut.
        let ip = IpView::parse_unsized(bytes).ok()?;
        let transport = ip.payload();
        (transport.len() >= 8).then_some(Self {
            source: ip.source(),
            destination: ip.destination(),
            protocol: ip.protocol(),
            transport,
        })
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.transport[at], self.transport[at + 1]])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from(self.half(at)) << 16 | u32::from(self.half(at + 2))
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            local: self.source,
            peer: self.destination,
            local_port: self.half(0),
            peer_port: self.half(2),
        }
    }
}
