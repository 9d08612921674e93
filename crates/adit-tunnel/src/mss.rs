//! Clamping the maximum segment size of TCP connections that pass (RFC 9293 §3.7.1).

use crate::view::{be16, protocol, tcp_flag};

/// The kind of the option (RFC 9293 §3.1).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Lowers the MSS option of a SYN or SYN-ACK to `v4` or `v6`, by the packet's IP version, and corrects the TCP checksum
/// for it (RFC 1624). Returns whether anything changed. A packet that is no whole SYN, has no such option, or does not
/// parse stays as it is; a checksum that was wrong stays wrong.
pub fn clamp_mss(packet: &mut [u8], v4: u16, v6: u16) -> bool {
    let Some((tcp, limit)) = syn(packet, v4, v6) else { return false };
    let Some(header) = packet.get_mut(tcp..) else { return false };
    let Some(at) = mss_option(header) else { return false };
    let old = be16(header, at);
    if old <= limit {
        return false;
    }
    header[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    // The sum is over words at even offsets; an option at an odd one swaps the bytes of what it adds.
    let (old, new) = if at % 2 == 0 { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
    let sum = u32::from(!be16(header, 16)) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    header[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

/// Where the TCP header of a SYN begins, and the limit for its IP version.
fn syn(packet: &[u8], v4: u16, v6: u16) -> Option<(usize, u16)> {
    let (tcp, limit, proto) = match packet.first()? >> 4 {
        // Unfragmented, or the first piece: its offset is zero.
        4 if packet.len() >= 20 && be16(packet, 6) & 0x1fff == 0 => {
            (usize::from(packet[0] & 0x0f) * 4, v4, packet[9])
        }
        6 if packet.len() >= 40 => (40, v6, packet[6]),
        _ => return None,
    };
    let flags = *packet.get(tcp.max(20) + 13)?;
    (proto == protocol::TCP && tcp >= 20 && flags & tcp_flag::SYN != 0).then_some((tcp, limit))
}

/// Where the value of the MSS option lies in a TCP header.
fn mss_option(header: &[u8]) -> Option<usize> {
    let end = usize::from(header.get(12)? >> 4) * 4;
    let options = header.get(..end)?;
    let mut at = 20;
    while let Some(kind) = options.get(at) {
        at += match *kind {
            END => return None,
            NO_OPERATION => 1,
            MSS if options.get(at + 1) == Some(&4) && options.len() >= at + 4 => return Some(at + 2),
            _ => usize::from(*options.get(at + 1)?).max(2),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tcp;
    use crate::view::IpView;
    use proptest::prelude::*;

    /// A SYN whose options are `options`, padded to twelve bytes.
    fn syn(source: &str, destination: &str, flags: u8, options: &[u8]) -> Vec<u8> {
        let mut packet = tcp(source, destination, 7, flags, &[]);
        let at = packet.len() - 12;
        packet[at..].fill(1);
        packet[at..at + options.len()].copy_from_slice(options);
        let ip = IpView::parse(&packet).unwrap();
        let tcp = ip.header_len();
        packet[tcp + 16..tcp + 18].fill(0);
        let ip = IpView::parse(&packet).unwrap();
        let sum = crate::Checksum::pseudo_header(ip.source(), ip.destination(), 6, ip.payload().len())
            .bytes(ip.payload())
            .finish();
        packet[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn mss(packet: &[u8]) -> Option<u16> {
        let ip = IpView::parse(packet).unwrap();
        assert!(ip.transport_checksum_ok());
        let at = mss_option(ip.payload())?;
        Some(be16(ip.payload(), at))
    }

    #[test]
    fn a_syn_and_its_answer_are_lowered_and_stay_right() {
        for flags in [tcp_flag::SYN, tcp_flag::SYN | tcp_flag::ACK] {
            for (source, destination, limit) in [("10.0.0.1", "10.0.0.2", 1200), ("fd00::1", "fd00::2", 1100)]
            {
                // At an even and at an odd place.
                for options in [&[2, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4], &[3, 3, 7, 2, 4, 0xff, 0xff]]
                {
                    let mut packet = syn(source, destination, flags, options);
                    assert!(clamp_mss(&mut packet, 1200, 1100));
                    assert_eq!(mss(&packet), Some(limit));
                    assert!(!clamp_mss(&mut packet, 1200, 1100), "once is enough");
                    assert!(!clamp_mss(&mut packet, 1400, 1400), "nothing is raised");
                }
            }
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        let option = [2, 4, 0x05, 0xb4];
        let mut packets = vec![
            syn("10.0.0.1", "10.0.0.2", tcp_flag::ACK, &option),
            syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &[0, 2, 4, 5, 0xb4]),
            syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &[]),
            syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &[2, 3, 9]),
        ];
        let mut fragment = syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &option);
        fragment[7] = 1;
        let mut udp = syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &option);
        udp[9] = protocol::UDP;
        packets.extend([fragment, udp]);
        for mut packet in packets {
            let before = packet.clone();
            assert!(!clamp_mss(&mut packet, 100, 100));
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn every_value_keeps_the_checksum_right(old in any::<u16>(), limit in any::<u16>(), pad in 0usize..4) {
            let mut options = vec![1; pad];
            options.extend([2, 4]);
            options.extend(old.to_be_bytes());
            let mut packet = syn("10.0.0.1", "10.0.0.2", tcp_flag::SYN, &options);
            prop_assert_eq!(clamp_mss(&mut packet, limit, 0), old > limit);
            prop_assert_eq!(mss(&packet), Some(old.min(limit)));
        }

        #[test]
        fn no_bytes_make_the_clamp_panic(
            version in prop::sample::select(vec![0x45u8, 0x4f, 0x41, 0x60]), bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut bytes = bytes;
            if bytes.len() > 10 {
                bytes[0] = version;
                bytes[if version == 0x60 { 6 } else { 9 }] = protocol::TCP;
            }
            clamp_mss(&mut bytes, 500, 500);
        }
    }
}
