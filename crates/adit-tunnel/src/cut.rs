//! Cutting a super-segment into the packets that it stands for, as a NIC does for TSO and USO.

use crate::view::{IpView, protocol, tcp_flag};
use crate::{Checksum, Dropped, HostPacket};

/// The packets of a [`HostPacket`], in order.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    plan: Plan<'a>,
    next: usize,
    count: usize,
}

/// One packet of a [`HostPacket`]: nothing is written until [`write`](Self::write) says where.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    plan: Plan<'a>,
    index: usize,
    last: bool,
}

#[derive(Clone, Copy, Debug)]
enum Plan<'a> {
    Whole(&'a [u8]),
    Cut(Template<'a>),
}

/// What all packets of a super-segment share.
#[derive(Clone, Copy, Debug)]
struct Template<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    segment: usize,
    /// Length of the IP header.
    transport: usize,
    tcp: bool,
    /// Source, destination and protocol of the pseudo-header.
    pseudo: Checksum,
}

impl<'a> HostPacket<'a> {
    /// The packets that this stands for. A plain packet is handed on as it is; a super-segment is cut as
    /// Linux cuts one: sequence numbers advance, the IPv4 identification counts up, FIN and PSH stay with the
    /// last packet and CWR with the first, and every length and checksum is computed.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if a super-segment is not an unfragmented TCP or UDP packet.
    pub fn segments(&self) -> Result<Segments<'a>, Dropped> {
        let Some(segment) = self.segment() else {
            return Ok(Segments { plan: Plan::Whole(self.bytes()), next: 0, count: 1 });
        };
        let template = Template::new(self.bytes(), usize::from(segment))?;
        let count = template.payload.len().div_ceil(template.segment).max(1);
        Ok(Segments { plan: Plan::Cut(template), next: 0, count })
    }

    /// The length of the largest packet that [`segments`](Self::segments) yields.
    ///
    /// # Errors
    /// As [`segments`](Self::segments).
    pub fn largest(&self) -> Result<usize, Dropped> {
        Ok(match self.segments()?.plan {
            Plan::Whole(bytes) => bytes.len(),
            Plan::Cut(template) => template.header.len() + template.segment.min(template.payload.len()),
        })
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        Some(Segment { plan: self.plan, index, last: self.next == self.count })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.next, Some(self.count - self.next))
    }
}

impl ExactSizeIterator for Segments<'_> {}

#[expect(clippy::len_without_is_empty, reason = "a packet is never empty: it has a header")]
impl<'a> Segment<'a> {
    /// The length of the packet in bytes.
    pub fn len(&self) -> usize {
        match self.plan {
            Plan::Whole(bytes) => bytes.len(),
            Plan::Cut(template) => template.header.len() + template.part(self.index).len(),
        }
    }

    /// The packet, where it needs no cutting and lies ready in memory.
    pub fn whole(&self) -> Option<&'a [u8]> {
        match self.plan {
            Plan::Whole(bytes) => Some(bytes),
            Plan::Cut(_) => None,
        }
    }

    /// Writes the packet to the front of `out` and returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`len`](Self::len): a bug of the caller, not of the packet.
    pub fn write(&self, out: &mut [u8]) -> usize {
        let len = self.len();
        let out = &mut out[..len];
        match self.plan {
            Plan::Whole(bytes) => out.copy_from_slice(bytes),
            Plan::Cut(template) => template.write(self.index, self.last, out),
        }
        len
    }
}

impl<'a> Template<'a> {
    fn new(bytes: &'a [u8], segment: usize) -> Result<Self, Dropped> {
        let ip = IpView::parse_unsized(bytes)?;
        let (tcp, header) = match ip.protocol() {
            _ if ip.is_fragment() || segment == 0 => return Err(Dropped::Malformed),
            // The length field of a UDP super-segment is not looked at: it may be that of one part.
            protocol::UDP if ip.payload().len() >= 8 => (false, 8),
            protocol::TCP => (true, ip.tcp().ok_or(Dropped::Malformed)?.header_len()),
            _ => return Err(Dropped::Malformed),
        };
        let (header, payload) = bytes.split_at(ip.header_len() + header);
        let pseudo = Checksum::pseudo_header(ip.source(), ip.destination(), ip.protocol(), 0);
        Ok(Self { header, payload, segment, transport: ip.header_len(), tcp, pseudo })
    }

    fn part(&self, index: usize) -> &'a [u8] {
        let start = index * self.segment;
        &self.payload[start..self.payload.len().min(start + self.segment)]
    }

    fn write(&self, index: usize, last: bool, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(self.header.len());
        header.copy_from_slice(self.header);
        payload.copy_from_slice(self.part(index));
        let (ip, transport) = header.split_at_mut(self.transport);
        let length = transport.len() + payload.len();
        if ip[0] >> 4 == 4 {
            put16(ip, 2, (ip.len() + length) as u16);
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
            put16(ip, 4, id);
            put16(ip, 10, 0);
            let sum = Checksum::new().bytes(ip).finish();
            put16(ip, 10, sum);
        } else {
            put16(ip, 4, (ip.len() - 40 + length) as u16);
        }
        let checksum_at = if self.tcp {
            self.patch_tcp(index, last, transport);
            16
        } else {
            put16(transport, 4, length as u16);
            6
        };
        put16(transport, checksum_at, 0);
        let sum = self.pseudo.word(length as u16).bytes(transport).bytes(payload).finish();
        // A UDP checksum of zero would mean that there is none (RFC 768).
        put16(transport, checksum_at, if sum == 0 && !self.tcp { 0xffff } else { sum });
    }

    fn patch_tcp(&self, index: usize, last: bool, transport: &mut [u8]) {
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]])
            .wrapping_add((index * self.segment) as u32);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index > 0 {
            transport[13] &= !tcp_flag::CWR;
        }
        if !last {
            transport[13] &= !(tcp_flag::FIN | tcp_flag::PSH);
        }
    }
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tcp, udp};
    use proptest::prelude::*;

    fn cut(packet: HostPacket<'_>) -> Vec<Vec<u8>> {
        packet
            .segments()
            .unwrap()
            .map(|segment| {
                let mut out = vec![0xee; segment.len() + 3];
                let len = segment.write(&mut out);
                out.truncate(len);
                out
            })
            .collect()
    }

    #[test]
    fn a_tcp_super_segment_becomes_segments_with_advancing_numbers_and_flags_at_the_ends() {
        let payload: Vec<u8> = (0..250).collect();
        let flags = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN | tcp_flag::CWR;
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let packet = tcp(source, destination, u32::MAX - 50, flags, &payload);
            let parts = cut(HostPacket::segmented(&packet, 100));
            let mut seen = Vec::new();
            for part in &parts {
                let ip = IpView::parse(part).unwrap();
                assert_eq!(ip.bytes().len(), part.len());
                assert!(ip.transport_checksum_ok());
                let tcp = ip.tcp().unwrap();
                seen.push((tcp.sequence(), tcp.flags(), tcp.payload().len()));
            }
            assert_eq!(
                seen,
                [
                    (u32::MAX - 50, tcp_flag::ACK | tcp_flag::CWR, 100),
                    (49, tcp_flag::ACK, 100),
                    (149, tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN, 50),
                ]
            );
        }
    }

    #[test]
    fn the_ipv4_identification_counts_up_and_the_header_checksum_is_right() {
        let packet = tcp("10.0.0.1", "10.0.0.2", 0, tcp_flag::ACK, &[1; 300]);
        for (index, part) in cut(HostPacket::segmented(&packet, 100)).iter().enumerate() {
            assert_eq!(u16::from_be_bytes([part[4], part[5]]), 0x1234 + index as u16);
            assert_eq!(Checksum::new().bytes(&part[..20]).finish(), 0);
        }
    }

    #[test]
    fn a_udp_super_segment_becomes_datagrams() {
        let packet = udp("fd00::1", "fd00::2", &[9; 25]);
        let parts = cut(HostPacket::segmented(&packet, 10));
        let sizes: Vec<_> = parts
            .iter()
            .map(|part| {
                let ip = IpView::parse(part).unwrap();
                assert!(ip.transport_checksum_ok());
                ip.udp().unwrap().payload().len()
            })
            .collect();
        assert_eq!(sizes, [10, 10, 5]);
    }

    #[test]
    fn a_segment_without_payload_gets_its_checksum() {
        let mut packet = tcp("10.0.0.1", "10.0.0.2", 5, tcp_flag::ACK, &[]);
        packet[36..38].fill(0);
        let parts = cut(HostPacket::segmented(&packet, 1400));
        assert_eq!(parts.len(), 1);
        assert!(IpView::parse(&parts[0]).unwrap().transport_checksum_ok());
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let packet = tcp("10.0.0.1", "10.0.0.2", 5, tcp_flag::ACK, &[1; 10]);
        assert_eq!(HostPacket::segmented(&packet, 0).segments().err(), Some(Dropped::Malformed));
        let mut fragment = packet.clone();
        fragment[6] = 0x20;
        assert_eq!(HostPacket::segmented(&fragment, 5).segments().err(), Some(Dropped::Malformed));
        let mut icmp = packet;
        icmp[9] = protocol::ICMP;
        assert_eq!(HostPacket::segmented(&icmp, 5).segments().err(), Some(Dropped::Malformed));
    }

    #[test]
    fn a_plain_packet_is_handed_on_untouched() {
        let packet = HostPacket::new(b"anything");
        let segment = packet.segments().unwrap().next().unwrap();
        assert_eq!((segment.whole(), segment.len()), (Some(&b"anything"[..]), 8));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_cut_panic(
            segment in 0u16..40, version in prop::sample::select(vec![4u8, 6]), header in 5u8..8,
            proto in prop::sample::select(vec![6u8, 17, 0, 44]), bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = bytes;
            if bytes.len() > 10 {
                bytes[0] = version << 4 | header;
                bytes[if version == 4 { 9 } else { 6 }] = proto;
            }
            let packet = HostPacket::segmented(&bytes, segment);
            if packet.segments().is_ok() {
                let largest = packet.largest().unwrap();
                prop_assert!(cut(packet).iter().all(|part| part.len() <= largest));
            }
        }
    }
}
