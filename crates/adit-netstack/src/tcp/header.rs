//! The headers of the segments that a connection writes.

use std::net::IpAddr;

use adit_tunnel::view::protocol;

use super::Tuple;
use crate::emit;

/// What a connection says in a segment, beside its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    /// As it is on the wire.
    pub(super) window: u16,
    /// A multiple of four bytes.
    pub(super) options: &'a [u8],
}

impl Header<'_> {
    /// Length of the IP and TCP headers.
    pub(super) fn len(&self, tuple: &Tuple) -> usize {
        emit::ip_header_len(tuple.local) + 20 + self.options.len()
    }

    /// Writes the headers to the front of a packet whose data is in place. The TCP checksum is left out.
    pub(super) fn write(&self, tuple: &Tuple, packet: &mut [u8]) {
        let ip = emit::ip_header_len(tuple.local);
        let tcp = &mut packet[ip..];
        tcp[0..2].copy_from_slice(&tuple.local_port.to_be_bytes());
        tcp[2..4].copy_from_slice(&tuple.peer_port.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        tcp[12] = ((20 + self.options.len()) / 4) as u8 * 16;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..20].fill(0);
        tcp[20..20 + self.options.len()].copy_from_slice(self.options);
        emit::fill_whole_header(packet, tuple.local, tuple.peer, protocol::TCP);
    }

    /// As [`write`](Self::write), with the checksum.
    pub(super) fn finish(&self, tuple: &Tuple, packet: &mut [u8]) {
        self.write(tuple, packet);
        let tcp = &mut packet[emit::ip_header_len(tuple.local)..];
        emit::fill_transport_checksum(tcp, 16, tuple.local, tuple.peer, protocol::TCP);
    }
}

/// What a packet of `mtu` bytes carries, beside headers without options.
pub(super) fn room(address: IpAddr, mtu: u16) -> u16 {
    mtu.saturating_sub(emit::ip_header_len(address) as u16 + 20).max(64)
}
