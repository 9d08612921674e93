//! Writing the packets that no connection's state machine writes: IP headers, fragments, resets, ICMP.

use std::net::IpAddr;

use adit_tunnel::Checksum;
use adit_tunnel::view::{self, TcpView, tcp_flag};
use view::protocol;

use crate::datagrams::Datagrams;

/// Packets of the stack's own that wait to leave.
pub(crate) type Backlog = Datagrams<()>;

/// Time To Live and Hop Limit of what leaves (RFC 1700's recommendation, and what Linux uses).
const HOP_LIMIT: u8 = 64;
const FRAGMENT_HEADER: usize = 8;
const V6_FRAGMENT: u8 = 44;

/// Length of an IP header without options, of the family of `address`.
pub(crate) fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// Writes an IP header without options to the front of `out`; `payload` is the length of what follows.
fn ip_header(out: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8, payload: usize) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out[..20].fill(0);
            out[0] = 0x45;
            out[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
            out[8] = HOP_LIMIT;
            out[9] = protocol;
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            fill_v4_checksum(out);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out[..8].fill(0);
            out[0] = 0x60;
            out[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
            out[6] = protocol;
            out[7] = HOP_LIMIT;
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
        }
        _ => unreachable!("a source is chosen by the family of its destination"),
    }
}

/// Writes the IP header of a packet whose rest is written.
pub(crate) fn fill_ip_header(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    let payload = packet.len() - ip_header_len(destination);
    ip_header(packet, source, destination, protocol, payload);
}

/// As [`fill_ip_header`], for a packet that no router may fragment (RFC 791 §3.1, RFC 1191 §3).
pub(crate) fn fill_whole_header(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    fill_ip_header(packet, source, destination, protocol);
    if destination.is_ipv4() {
        packet[6] = 0x40;
        fill_v4_checksum(packet);
    }
}

fn fill_v4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = Checksum::new().bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Queues `payload` (a transport header and its data) in as many packets as `mtu` asks for (RFC 791 §3.2,
/// RFC 8200 §4.5); `identification` names the fragments. `false` if the backlog is full.
pub(crate) fn datagram(
    backlog: &mut Backlog,
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    payload: &[u8],
    mtu: usize,
    identification: u32,
) -> bool {
    let header = ip_header_len(destination);
    if header + payload.len() <= mtu {
        let Some(packet) = backlog.push((), header + payload.len()) else { return false };
        ip_header(packet, source, destination, protocol, payload.len());
        packet[header..].copy_from_slice(payload);
        return true;
    }
    let extra = if destination.is_ipv4() { 0 } else { FRAGMENT_HEADER };
    // All fragments but the last carry a multiple of eight bytes.
    let piece = mtu.saturating_sub(header + extra).max(8) / 8 * 8;
    for (index, part) in payload.chunks(piece).enumerate() {
        let more = (index + 1) * piece < payload.len();
        let units = (index * piece / 8) as u16;
        let Some(packet) = backlog.push((), header + extra + part.len()) else { return false };
        if destination.is_ipv4() {
            ip_header(packet, source, destination, protocol, part.len());
            packet[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&(units | u16::from(more) << 13).to_be_bytes());
            fill_v4_checksum(packet);
        } else {
            ip_header(packet, source, destination, V6_FRAGMENT, extra + part.len());
            packet[header] = protocol;
            packet[header + 1] = 0;
            packet[header + 2..header + 4].copy_from_slice(&(units << 3 | u16::from(more)).to_be_bytes());
            packet[header + 4..header + 8].copy_from_slice(&identification.to_be_bytes());
        }
        packet[header + extra..].copy_from_slice(part);
    }
    true
}

/// A TCP segment without data or options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
}

impl Bare {
    /// The RST that answers a segment nobody expects (RFC 9293 §3.10.7.1).
    pub(crate) fn reset(source: IpAddr, destination: IpAddr, to: &TcpView<'_>) -> Self {
        let answers = to.flags() & tcp_flag::ACK != 0;
        let length = to.payload().len() as u32
            + u32::from(to.flags() & tcp_flag::SYN != 0)
            + u32::from(to.flags() & tcp_flag::FIN != 0);
        Self {
            source: (source, to.destination_port()),
            destination: (destination, to.source_port()),
            sequence: if answers { to.acknowledgment() } else { 0 },
            acknowledgment: if answers { 0 } else { to.sequence().wrapping_add(length) },
            flags: if answers { tcp_flag::RST } else { tcp_flag::RST | tcp_flag::ACK },
            window: 0,
        }
    }

    /// Queues the segment; a full backlog drops it, as a full queue of any router would.
    pub(crate) fn send(&self, backlog: &mut Backlog) {
        if let Some(packet) = backlog.push((), self.len()) {
            self.write(packet);
        }
    }

    /// Length of the packet.
    pub(crate) fn len(&self) -> usize {
        ip_header_len(self.source.0) + 20
    }

    /// Writes the packet, whose length is [`len`](Self::len).
    pub(crate) fn write(&self, packet: &mut [u8]) {
        let header = ip_header_len(self.source.0);
        ip_header(packet, self.source.0, self.destination.0, protocol::TCP, 20);
        let tcp = &mut packet[header..];
        tcp[0..2].copy_from_slice(&self.source.1.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.destination.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..20].fill(0);
        fill_transport_checksum(tcp, 16, self.source.0, self.destination.0, protocol::TCP);
    }
}

/// Computes the checksum of a TCP, UDP or ICMPv6 message, whose checksum field is at `at`.
pub(crate) fn fill_transport_checksum(
    message: &mut [u8],
    at: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
) {
    message[at..at + 2].fill(0);
    let mut sum =
        Checksum::pseudo_header(source, destination, protocol, message.len()).bytes(message).finish();
    if sum == 0 && protocol == protocol::UDP {
        // Zero means "no checksum" (RFC 768).
        sum = 0xffff;
    }
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Computes the checksum of an ICMP message of either family.
pub(crate) fn fill_icmp_checksum(message: &mut [u8], source: IpAddr, destination: IpAddr) {
    if source.is_ipv6() {
        return fill_transport_checksum(message, 2, source, destination, protocol::ICMPV6);
    }
    message[2..4].fill(0);
    let sum = Checksum::new().bytes(message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
