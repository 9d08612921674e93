//! Packets for packet ends without a stack.

use std::net::{IpAddr, SocketAddr};

use adit_tunnel::Checksum;
use adit_tunnel::view::protocol;

/// A UDP packet with right checksums.
///
/// # Panics
/// If the addresses are of two families, or the payload does not fit into a packet: the scenario is wrong.
pub fn udp_packet(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("the scenario's payload fits into a datagram");
    let mut udp = Vec::with_capacity(usize::from(length));
    for word in [source.port(), destination.port(), length, 0] {
        udp.extend(word.to_be_bytes());
    }
    udp.extend(payload);
    let pseudo = Checksum::pseudo_header(source.ip(), destination.ip(), protocol::UDP, udp.len());
    let sum = match pseudo.bytes(&udp).finish() {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol::UDP, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = Checksum::new().bytes(&header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol::UDP, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("{source} and {destination} are of two families"),
    };
    packet.extend(udp);
    packet
}
