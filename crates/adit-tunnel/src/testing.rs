//! Packets for the tests of this crate.

use std::net::IpAddr;

use crate::Checksum;

/// A TCP packet from port 1000 to port 2000 with right checksums and twelve bytes of options.
pub(crate) fn tcp(source: &str, destination: &str, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(1000u16.to_be_bytes());
    segment.extend(2000u16.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(77u32.to_be_bytes());
    segment.extend([8 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    // NOP, NOP, Timestamps (RFC 7323).
    segment.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend(payload);
    ip(source, destination, 6, segment, 16)
}

/// A UDP packet from port 1000 to port 2000 with right checksums.
pub(crate) fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(1000u16.to_be_bytes());
    datagram.extend(2000u16.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    ip(source, destination, 17, datagram, 6)
}

fn ip(source: &str, destination: &str, protocol: u8, mut transport: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let checksum =
        Checksum::pseudo_header(source, destination, protocol, transport.len()).bytes(&transport).finish();
    transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let header = Checksum::new().bytes(&packet).finish();
            packet[10..12].copy_from_slice(&header.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => panic!("two families"),
    }
    packet.extend(transport);
    packet
}
