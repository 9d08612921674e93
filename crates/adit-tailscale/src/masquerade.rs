//! Rewriting an address of an IP packet, for peers that know us by another address.

use std::net::IpAddr;

use adit_tunnel::view::{IpView, protocol};

/// Which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Replaces an address, and keeps the checksums right (RFC 1624). Returns whether the packet could be changed: it must
/// be one, of the address's family.
pub(crate) fn rewrite(packet: &mut [u8], side: Side, to: IpAddr) -> bool {
    let Ok(ip) = IpView::parse_unsized(packet) else { return false };
    if ip.is_v4() != to.is_ipv4() {
        return false;
    }
    let (v4, transport, number) = (ip.is_v4(), ip.header_len(), ip.protocol());
    // Only the first fragment has a transport header.
    let first = !ip.is_fragment() || v4 && packet.get(6..8).is_some_and(|at| at[0] & 0x1f == 0 && at[1] == 0);
    let (at, len) = match (v4, side) {
        (true, Side::Source) => (12, 4),
        (true, Side::Destination) => (16, 4),
        (false, Side::Source) => (8, 16),
        (false, Side::Destination) => (24, 16),
    };
    let mut new = [0; 16];
    match to {
        IpAddr::V4(ip) => new[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => new.copy_from_slice(&ip.octets()),
    }
    let Some(place) = packet.get_mut(at..at + len) else { return false };
    let mut old = [0; 16];
    old[..len].copy_from_slice(place);
    place.copy_from_slice(&new[..len]);
    if v4 {
        adjust(packet, 10, &old[..len], &new[..len]);
    }
    let checksum = match number {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMPV6 if !v4 => Some(2),
        _ => None,
    };
    if let Some(offset) = checksum.filter(|_| first) {
        let none = number == protocol::UDP && packet.get(transport + 6..transport + 8) == Some(&[0, 0]);
        if !none {
            adjust(packet, transport + offset, &old[..len], &new[..len]);
        }
    }
    true
}

/// RFC 1624 §3: HC' = ~(~HC + ~m + m').
fn adjust(packet: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let Some(field) = packet.get_mut(at..at + 2) else { return };
    let word = |pair: &[u8]| pair.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    let mut sum = 0xffff - word(field);
    for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
        sum += 0xffff - word(old) + word(new);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    field.copy_from_slice(&(0xffff - sum as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tsmp::write_packet;
    use adit_tunnel::Checksum;

    fn udp(from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
        let length = 8 + data.len() as u16;
        let mut datagram = [5u16, 6, length, 0].map(u16::to_be_bytes).concat();
        datagram.extend(data);
        let sum = Checksum::pseudo_header(from, to, protocol::UDP, datagram.len()).bytes(&datagram).finish();
        datagram[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
        let mut out = vec![0; 40 + datagram.len()];
        let len = write_packet(protocol::UDP, from, to, &datagram, &mut out).unwrap();
        out.truncate(len);
        out
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_is_the_one_that_would_have_been_written(
            v4 in any::<bool>(), addresses in any::<[u128; 3]>(), source in any::<bool>(),
            data in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let [a, b, c] = addresses.map(|bits| match v4 {
                true => IpAddr::from((bits as u32).to_be_bytes()),
                false => IpAddr::from(bits.to_be_bytes()),
            });
            let mut packet = udp(a, b, &data);
            let side = if source { Side::Source } else { Side::Destination };
            prop_assert!(rewrite(&mut packet, side, c));
            let view = IpView::parse(&packet).unwrap();
            prop_assert_eq!((view.source(), view.destination()), if source { (c, b) } else { (a, c) });
            prop_assert!(view.transport_checksum_ok());
            let header = Checksum::new().bytes(&packet[..view.header_len()]).finish();
            prop_assert!(!v4 || header == 0, "the header's checksum");
        }
    }

    #[test]
    fn an_address_of_the_other_family_changes_nothing() {
        let [a, b] = ["100.64.0.1", "100.64.0.2"].map(|text| text.parse().unwrap());
        let mut packet = udp(a, b, b"x");
        let before = packet.clone();
        assert!(!rewrite(&mut packet, Side::Source, "fd00::1".parse().unwrap()));
        assert!(!rewrite(&mut [], Side::Source, a));
        assert_eq!(packet, before);
    }
}
