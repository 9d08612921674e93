//! Joining TCP segments that follow each other into one super-segment, the inverse of the cut. The conditions
//! are those of Linux's generic receive offload: whatever the receiver could tell apart stays apart.

use crate::view::{IpView, be16, be32, protocol, tcp_flag};
use crate::{Checksum, MAX_PACKET};

/// A TCP segment that may be continued, or a super-segment in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Length of the IP header: 20 or 40, since packets with options or extensions are not joined.
    ip: usize,
    /// Length of the IP and TCP headers.
    header: usize,
    /// Payload of the first segment, which no later one exceeds.
    segment: usize,
    next_sequence: u32,
    segments: usize,
    /// Whether more may be appended.
    open: bool,
    verified: bool,
}

impl Run {
    /// Looks at a packet; `None` if it can neither continue another nor be continued.
    pub(crate) fn start(packet: &[u8]) -> Option<Self> {
        let (ip, stated, proto) = match packet.first()? {
            // Unfragmented only: bits 0x3fff are More Fragments and the offset.
            0x45 if packet.len() >= 40 && be16(packet, 6) & 0x3fff == 0 => {
                (20, usize::from(be16(packet, 2)), packet[9])
            }
            first if first >> 4 == 6 && packet.len() >= 60 => {
                (40, 40 + usize::from(be16(packet, 4)), packet[6])
            }
            _ => return None,
        };
        if proto != protocol::TCP || stated != packet.len() {
            return None;
        }
        let header = ip + usize::from(packet[ip + 12] >> 4) * 4;
        let flags = packet[ip + 13];
        if header < ip + 20 || header >= packet.len() || flags & !tcp_flag::PSH != tcp_flag::ACK {
            return None;
        }
        let segment = packet.len() - header;
        Some(Self {
            ip,
            header,
            segment,
            next_sequence: be32(packet, ip + 4).wrapping_add(segment as u32),
            segments: 1,
            open: flags & tcp_flag::PSH == 0,
            verified: false,
        })
    }

    /// Length of the IP and TCP headers.
    pub(crate) fn header_len(&self) -> usize {
        self.header
    }

    /// Decides whether the payload of `packet` continues `bytes`, and if so adapts headers and bookkeeping; the
    /// caller moves the payload.
    pub(crate) fn append(&mut self, bytes: &mut [u8], new: &Self, packet: &[u8]) -> bool {
        let fits = self.open
            && new.ip == self.ip
            && new.header == self.header
            && new.segment <= self.segment
            && bytes.len() + new.segment <= MAX_PACKET
            && be32(packet, self.ip + 4) == self.next_sequence
            && same_but_for_progress(bytes, packet, self.ip, self.header);
        if !fits || !checksum_ok(packet) {
            return false;
        }
        if !self.verified {
            self.verified = checksum_ok(bytes);
            if !self.verified {
                self.open = false;
                return false;
            }
        }
        bytes[self.ip + 13] |= packet[self.ip + 13] & tcp_flag::PSH;
        // A shorter segment can only be the last: the cut could not give it back from the middle.
        self.open = new.open && new.segment == self.segment;
        self.next_sequence = new.next_sequence;
        self.segments += 1;
        true
    }

    /// Completes the headers of a super-segment and returns its segment size; `None` if it is a single packet,
    /// which is as it came.
    pub(crate) fn finish(&self, bytes: &mut [u8]) -> Option<u16> {
        if self.segments == 1 {
            return None;
        }
        let (ip, transport) = bytes.split_at_mut(self.ip);
        let total = ip.len() + transport.len();
        if self.ip == 20 {
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            ip[10..12].fill(0);
            let sum = Checksum::new().bytes(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[4..6].copy_from_slice(&(transport.len() as u16).to_be_bytes());
        }
        let addresses = if self.ip == 20 { &ip[12..20] } else { &ip[8..40] };
        let partial = Checksum::new()
            .bytes(addresses)
            .word(u16::from(protocol::TCP))
            .word(transport.len() as u16)
            .partial();
        transport[16..18].copy_from_slice(&partial.to_be_bytes());
        Some(self.segment as u16)
    }
}

/// Whether two TCP packets differ only in what advances from one segment to the next: lengths, identification,
/// checksums, sequence number, PSH.
fn same_but_for_progress(a: &[u8], b: &[u8], ip: usize, header: usize) -> bool {
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ip_same = if ip == 20 {
        // Version, header length, TOS; fragment bits, TTL, protocol; addresses.
        same(0, 2) && same(6, 10) && same(12, 20)
    } else {
        // Version, traffic class, flow label; next header, hop limit; addresses.
        same(0, 4) && same(6, 40)
    };
    // Ports; acknowledgment and data offset; window; urgent pointer and options.
    ip_same && same(ip, ip + 4) && same(ip + 8, ip + 13) && same(ip + 14, ip + 16) && same(ip + 18, header)
}

fn checksum_ok(packet: &[u8]) -> bool {
    let ip_ok = packet[0] >> 4 != 4 || Checksum::new().bytes(&packet[..20]).finish() == 0;
    ip_ok && IpView::parse_unsized(packet).is_ok_and(|view| view.transport_checksum_ok())
}

#[cfg(test)]
mod tests {
    use crate::testing::{tcp, udp};
    use crate::view::{IpView, tcp_flag};
    use crate::{HostPacket, Outbox, PacketQueue};
    use proptest::prelude::*;

    const ACK: u8 = tcp_flag::ACK;
    const PSH: u8 = tcp_flag::ACK | tcp_flag::PSH;

    fn put(queue: &mut PacketQueue, packet: &[u8]) {
        // Openers reserve more than they commit: the tag of the AEAD.
        let mut slot = queue.reserve(packet.len() + 16).unwrap();
        slot[..packet.len()].copy_from_slice(packet);
        slot.commit(packet.len());
    }

    fn taken(queue: &mut PacketQueue) -> Vec<(Option<u16>, Vec<u8>)> {
        let mut all = Vec::new();
        queue.drain(|packet| all.push((packet.segment(), packet.bytes().to_vec())));
        all
    }

    fn after(packets: &[Vec<u8>]) -> Vec<(Option<u16>, Vec<u8>)> {
        let mut out = Outbox::default();
        packets.iter().for_each(|packet| put(&mut out.host, packet));
        taken(&mut out.host)
    }

    #[test]
    fn segments_in_order_become_one_and_a_pushed_or_shorter_one_ends_it() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let all = after(&[
                tcp(a, b, 1000, ACK, &[1; 100]),
                tcp(a, b, 1100, ACK, &[2; 100]),
                tcp(a, b, 1200, PSH, &[3; 50]),
                tcp(a, b, 1250, ACK, &[4; 100]),
            ]);
            assert_eq!(all.len(), 2);
            assert_eq!(all[0].0, Some(100));
            let ip = IpView::parse(&all[0].1).unwrap();
            assert_eq!(ip.bytes().len(), all[0].1.len(), "the length field covers everything");
            let merged = ip.tcp().unwrap();
            assert_eq!((merged.sequence(), merged.flags(), merged.payload().len()), (1000, PSH, 250));
            assert_eq!(all[1].0, None);
            assert!(IpView::parse(&all[1].1).unwrap().transport_checksum_ok());
        }
    }

    #[test]
    fn a_gap_another_flow_another_acknowledgment_or_window_and_control_bits_stay_apart() {
        let (a, b) = ("10.0.0.1", "10.0.0.2");
        let first = tcp(a, b, 1000, ACK, &[1; 100]);
        let next = tcp(a, b, 1100, ACK, &[1; 100]);
        assert_eq!(after(&[first.clone(), next.clone()]).len(), 1);
        let with = |at: usize, value: u8| {
            let mut packet = next.clone();
            packet[at] = value;
            // The differing field is not the reason for a wrong checksum.
            packet[36..38].fill(0);
            let segment = HostPacket::segmented(&packet, 1000).segments().unwrap().next().unwrap();
            let mut fixed = vec![0; segment.len()];
            segment.write(&mut fixed);
            fixed
        };
        assert_eq!(after(&[first.clone(), with(50, 9)]).len(), 2, "options");
        for (what, packet) in [
            ("gap", tcp(a, b, 1101, ACK, &[1; 100])),
            ("flow", tcp(a, "10.0.0.3", 1100, ACK, &[1; 100])),
            ("fin", tcp(a, b, 1100, ACK | tcp_flag::FIN, &[1; 100])),
            ("longer", tcp(a, b, 1100, ACK, &[1; 101])),
            ("ack", with(31, 9)),
            ("window", with(35, 9)),
            ("tos", with(1, 3)),
            ("ttl", with(8, 3)),
            ("udp", udp(a, b, &[1; 100])),
        ] {
            assert_eq!(after(&[first.clone(), packet]).len(), 2, "{what}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_never_merged_away() {
        let (a, b) = ("fd00::1", "fd00::2");
        let good: Vec<_> = (0..3).map(|i| tcp(a, b, i * 10, ACK, &[i as u8; 10])).collect();
        for broken in 0..3 {
            let mut packets = good.clone();
            *packets[broken].last_mut().unwrap() ^= 1;
            let all = after(&packets);
            let bad: Vec<_> = all
                .iter()
                .filter(|(segment, bytes)| segment.is_none() && *bytes == packets[broken])
                .collect();
            assert_eq!(bad.len(), 1, "packet {broken} is still there for the stack to refuse");
        }
    }

    #[test]
    fn a_packet_end_that_takes_plain_packets_gets_plain_packets() {
        let mut out = Outbox::default();
        out.host.set_coalesce(false);
        for i in 0..3 {
            put(&mut out.host, &tcp("10.0.0.1", "10.0.0.2", i * 10, ACK, &[1; 10]));
        }
        assert_eq!(out.host.len(), 3);
    }

    #[test]
    fn a_super_segment_stays_below_64_kib() {
        let mut out = Outbox::default();
        for i in 0..100 {
            put(&mut out.host, &tcp("10.0.0.1", "10.0.0.2", i * 1000, ACK, &[1; 1000]));
        }
        let all = taken(&mut out.host);
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|(_, bytes)| IpView::parse(bytes).unwrap().bytes().len() == bytes.len()));
    }

    fn stream(packets: &[(Option<u16>, Vec<u8>)]) -> Vec<u8> {
        packets
            .iter()
            .flat_map(|(_, bytes)| IpView::parse(bytes).unwrap().tcp().unwrap().payload().to_vec())
            .collect()
    }

    proptest! {
        #[test]
        fn cutting_and_joining_gives_back_the_stream(
            v6 in any::<bool>(), segment in 1u16..1500, lengths in proptest::collection::vec(1usize..6000, 1..6),
            sequence in any::<u32>(), seed in any::<u8>(),
        ) {
            let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
            let mut out = Outbox::with_capacity(0, 1 << 20);
            let (mut sent, mut received, mut at) = (Vec::new(), Vec::new(), sequence);
            for length in lengths {
                let payload: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
                let packet = tcp(a, b, at, PSH, &payload);
                at = at.wrapping_add(length as u32);
                for part in HostPacket::segmented(&packet, segment).segments().unwrap() {
                    let mut bytes = vec![0; part.len()];
                    part.write(&mut bytes);
                    if out.host.len() > 1000 {
                        received.extend(stream(&taken(&mut out.host)));
                    }
                    put(&mut out.host, &bytes);
                }
                let super_segments = taken(&mut out.host);
                // Whatever was joined is cut back into what came.
                for (size, bytes) in &super_segments {
                    let Some(size) = size else { continue };
                    for part in HostPacket::segmented(bytes, *size).segments().unwrap() {
                        let mut again = vec![0; part.len()];
                        part.write(&mut again);
                        prop_assert!(IpView::parse(&again).unwrap().transport_checksum_ok());
                    }
                }
                received.extend(stream(&super_segments));
                sent.extend(payload);
            }
            prop_assert_eq!(sent, received);
        }

        #[test]
        fn no_bytes_make_the_queue_panic(
            packets in proptest::collection::vec((any::<bool>(), 0usize..80, any::<u8>(), 0usize..100), 1..12),
        ) {
            let mut out = Outbox::default();
            for (index, (v6, at, value, length)) in packets.into_iter().enumerate() {
                let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
                let mut packet = tcp(a, b, index as u32 * 20, ACK, &[1; 20]);
                let at = at % packet.len();
                packet[at] = value;
                packet.truncate(length.max(1));
                put(&mut out.host, &packet);
            }
            taken(&mut out.host);
        }
    }
}
