//! Checked views over the bytes of IP packets. Whatever the bytes are, a view either is refused or answers
//! every question without panicking.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Checksum, Dropped};

/// IP protocol numbers (IANA "Protocol Numbers") that this workspace speaks of.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
}

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// More extension headers than this are an attack, not a packet.
const MAX_EXTENSIONS: usize = 8;

/// An IPv4 (RFC 791) or IPv6 (RFC 8200) packet.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    bytes: &'a [u8],
    transport: usize,
    protocol: u8,
    fragment: bool,
}

impl<'a> IpView<'a> {
    /// Views one packet. Bytes beyond the length that the header states are padding and left out.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if lengths or versions contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Dropped> {
        let stated = match bytes.first().map(|first| first >> 4) {
            Some(4) if bytes.len() >= V4_HEADER => usize::from(be16(bytes, 2)),
            Some(6) if bytes.len() >= V6_HEADER => V6_HEADER + usize::from(be16(bytes, 4)),
            _ => return Err(Dropped::Malformed),
        };
        Self::parse_unsized(bytes.get(..stated).ok_or(Dropped::Malformed)?)
    }

    /// Views a packet whose length field says nothing, as that of a super-segment may: all of `bytes` is the packet.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if the headers do not fit into the bytes.
    pub fn parse_unsized(bytes: &'a [u8]) -> Result<Self, Dropped> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::v4(bytes),
            Some(6) => Self::v6(bytes),
            _ => Err(Dropped::Malformed),
        }
    }

    fn v4(bytes: &'a [u8]) -> Result<Self, Dropped> {
        let header = usize::from(bytes[0] & 0x0f) * 4;
        if header < V4_HEADER || bytes.len() < header {
            return Err(Dropped::Malformed);
        }
        // More Fragments, or an offset.
        let fragment = be16(bytes, 6) & 0x3fff != 0;
        Ok(Self { bytes, transport: header, protocol: bytes[9], fragment })
    }

    fn v6(bytes: &'a [u8]) -> Result<Self, Dropped> {
        if bytes.len() < V6_HEADER {
            return Err(Dropped::Malformed);
        }
        let mut view = Self { bytes, transport: V6_HEADER, protocol: bytes[6], fragment: false };
        for _ in 0..MAX_EXTENSIONS {
            let rest = &bytes[view.transport..];
            let length = match view.protocol {
                // Hop-by-Hop Options, Routing, Destination Options (RFC 8200 §4.3, §4.4, §4.6).
                0 | 43 | 60 => 8 + 8 * usize::from(*rest.get(1).ok_or(Dropped::Malformed)?),
                // Fragment (RFC 8200 §4.5): an atomic fragment (RFC 6946) is a whole packet.
                44 if rest.len() >= 8 => {
                    view.fragment |= be16(rest, 2) & 0xfff9 != 0;
                    8
                }
                44 => return Err(Dropped::Malformed),
                _ => return Ok(view),
            };
            if rest.len() < length {
                return Err(Dropped::Malformed);
            }
            view.protocol = rest[0];
            view.transport += length;
            if view.fragment {
                return Ok(view);
            }
        }
        Err(Dropped::Malformed)
    }

    /// Whether this is IPv4; otherwise it is IPv6.
    pub fn is_v4(&self) -> bool {
        self.bytes[0] >> 4 == 4
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        if self.is_v4() { v4_address(self.bytes, 12) } else { v6_address(self.bytes, 8) }
    }

    /// The destination address.
    pub fn destination(&self) -> IpAddr {
        if self.is_v4() { v4_address(self.bytes, 16) } else { v6_address(self.bytes, 24) }
    }

    /// The protocol number of what follows the IP headers.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether this is a piece of a larger packet, so that the transport header may be missing.
    pub fn is_fragment(&self) -> bool {
        self.fragment
    }

    /// Time To Live (IPv4) or Hop Limit (IPv6).
    pub fn hop_limit(&self) -> u8 {
        if self.is_v4() { self.bytes[8] } else { self.bytes[7] }
    }

    /// The whole packet, without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length of the IP header with options or extension headers.
    pub fn header_len(&self) -> usize {
        self.transport
    }

    /// What follows the IP headers.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.transport..]
    }

    /// The TCP segment inside, if there is a whole one.
    pub fn tcp(&self) -> Option<TcpView<'a>> {
        (self.protocol == protocol::TCP && !self.fragment).then(|| TcpView::parse(self.payload()).ok())?
    }

    /// The UDP datagram inside, if there is a whole one.
    pub fn udp(&self) -> Option<UdpView<'a>> {
        (self.protocol == protocol::UDP && !self.fragment).then(|| UdpView::parse(self.payload()).ok())?
    }

    /// Whether the checksum of the TCP or UDP payload is right. A UDP checksum of zero over IPv4 means that
    /// there is none (RFC 768); other protocols answer `true`, because nothing is known against them.
    pub fn transport_checksum_ok(&self) -> bool {
        let at = match self.protocol {
            _ if self.fragment => return true,
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => return true,
        };
        let payload = self.payload();
        if payload.len() < at + 2 {
            return false;
        }
        if self.protocol == protocol::UDP && self.is_v4() && be16(payload, at) == 0 {
            return true;
        }
        Checksum::pseudo_header(self.source(), self.destination(), self.protocol, payload.len())
            .bytes(payload)
            .finish()
            == 0
    }
}

/// The source and destination of an IP packet, without looking at anything else.
pub fn addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match bytes.first()? >> 4 {
        4 if bytes.len() >= V4_HEADER => Some((v4_address(bytes, 12), v4_address(bytes, 16))),
        6 if bytes.len() >= V6_HEADER => Some((v6_address(bytes, 8), v6_address(bytes, 24))),
        _ => None,
    }
}

/// The control bits of a TCP header (RFC 9293 §3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    bytes: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Views the bytes that follow the IP headers.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if the header does not fit into the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Dropped> {
        let view = Self { bytes };
        let fits = bytes.len() >= 20 && (20..=bytes.len()).contains(&view.header_len());
        fits.then_some(view).ok_or(Dropped::Malformed)
    }

    /// The source port.
    pub fn source_port(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// The destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// The sequence number.
    pub fn sequence(&self) -> u32 {
        be32(self.bytes, 4)
    }

    /// The acknowledgment number.
    pub fn acknowledgment(&self) -> u32 {
        be32(self.bytes, 8)
    }

    /// Length of the header with options.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes[12] >> 4) * 4
    }

    /// The control bits; see [`tcp_flag`].
    pub fn flags(&self) -> u8 {
        self.bytes[13]
    }

    /// The window field, not scaled.
    pub fn window(&self) -> u16 {
        be16(self.bytes, 14)
    }

    /// The options, with their padding.
    pub fn options(&self) -> &'a [u8] {
        &self.bytes[20..self.header_len()]
    }

    /// The data.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len()..]
    }
}

/// A UDP datagram (RFC 768).
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a> {
    bytes: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Views the bytes that follow the IP headers; bytes beyond the length field are left out.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if the length field contradicts the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Dropped> {
        if bytes.len() < 8 {
            return Err(Dropped::Malformed);
        }
        let length = usize::from(be16(bytes, 4));
        if !(8..=bytes.len()).contains(&length) {
            return Err(Dropped::Malformed);
        }
        Ok(Self { bytes: &bytes[..length] })
    }

    /// The source port.
    pub fn source_port(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// The destination port.
    pub fn destination_port(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// The data.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[8..]
    }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn v4_address(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(be32(bytes, at)))
}

fn v6_address(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tcp, udp};
    use proptest::prelude::*;

    #[test]
    fn a_tcp_packet_answers_with_its_fields() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let packet = tcp(source, destination, 7, tcp_flag::ACK | tcp_flag::PSH, b"hello");
            let ip = IpView::parse(&packet).unwrap();
            assert_eq!(
                (ip.source().to_string(), ip.destination().to_string()),
                (source.into(), destination.into())
            );
            assert!(ip.transport_checksum_ok());
            let view = ip.tcp().unwrap();
            assert_eq!((view.source_port(), view.destination_port(), view.sequence()), (1000, 2000, 7));
            assert_eq!((view.flags(), view.payload()), (tcp_flag::ACK | tcp_flag::PSH, &b"hello"[..]));
            assert!(ip.udp().is_none());
        }
    }

    #[test]
    fn padding_behind_the_stated_length_is_left_out() {
        let mut packet = udp("10.0.0.1", "10.0.0.2", b"abc");
        let length = packet.len();
        packet.extend([0; 13]);
        let view = IpView::parse(&packet).unwrap();
        assert_eq!(view.bytes().len(), length);
        assert_eq!(view.udp().unwrap().payload(), b"abc");
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        let mut packet = udp("fd00::1", "fd00::2", b"abc");
        assert!(IpView::parse(&packet).unwrap().transport_checksum_ok());
        *packet.last_mut().unwrap() ^= 4;
        assert!(!IpView::parse(&packet).unwrap().transport_checksum_ok());
    }

    #[test]
    fn extension_headers_are_walked_and_fragments_have_no_ports() {
        let plain = tcp("fd00::1", "fd00::2", 7, tcp_flag::ACK, b"x");
        let with_header = |next: u8, header: [u8; 8]| {
            let mut packet = plain[..V6_HEADER].to_vec();
            packet[6] = next;
            packet.extend(header);
            packet.extend(&plain[V6_HEADER..]);
            packet
        };
        let options = with_header(60, [protocol::TCP, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(IpView::parse_unsized(&options).unwrap().tcp().unwrap().payload(), b"x");
        let fragment = with_header(44, [protocol::TCP, 0, 0, 1, 0, 0, 0, 9]);
        let view = IpView::parse_unsized(&fragment).unwrap();
        assert!(view.is_fragment() && view.tcp().is_none());
    }

    fn ask_everything(view: IpView<'_>) {
        let _ = (view.source(), view.destination(), view.hop_limit(), view.transport_checksum_ok());
        if let Some(tcp) = view.tcp() {
            let _ = (tcp.source_port(), tcp.destination_port(), tcp.sequence(), tcp.acknowledgment());
            let _ = (tcp.flags(), tcp.window(), tcp.options(), tcp.payload());
        }
        if let Some(udp) = view.udp() {
            let _ = (udp.source_port(), udp.destination_port(), udp.payload());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_view_panic(version in 0u8..16, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0x0f;
            }
            let _ = IpView::parse(&bytes).map(ask_everything);
            let _ = IpView::parse_unsized(&bytes).map(ask_everything);
            let _ = addresses(&bytes);
        }

        #[test]
        fn no_damage_to_a_real_packet_makes_a_view_panic(
            v6 in any::<bool>(), at in 0usize..70, value in any::<u8>(), cut in 0usize..80,
        ) {
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let mut packet = tcp(a, b, 1, tcp_flag::ACK, &[7; 20]);
            let at = at % packet.len();
            packet[at] = value;
            packet.truncate(cut.max(1));
            let _ = IpView::parse(&packet).map(ask_everything);
            let _ = IpView::parse_unsized(&packet).map(ask_everything);
        }
    }
}
