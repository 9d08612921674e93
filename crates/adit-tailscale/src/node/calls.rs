//! Connections that are being opened: what an ICMP error must quote when a peer rejects one.

use std::collections::VecDeque;
use std::net::SocketAddr;

use adit_tunnel::view::{IpView, protocol, tcp_flag};

/// So many are remembered: a rejection comes within a round trip.
const MAX: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Call {
    ours: SocketAddr,
    target: SocketAddr,
    sequence: u32,
}

/// The first segments that were sent last. Stacks believe no ICMP error that quotes another sequence number
/// (RFC 5927 §4.1), and a peer's rejection names none.
#[derive(Debug)]
pub(super) struct Calls(VecDeque<Call>);

impl Calls {
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(MAX))
    }

    /// A packet leaves.
    pub(super) fn note(&mut self, ip: &IpView<'_>) {
        if ip.protocol() != protocol::TCP {
            return;
        }
        let Some(tcp) = ip.tcp().filter(|tcp| tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN)
        else {
            return;
        };
        let ours = SocketAddr::new(ip.source(), tcp.source_port());
        let target = SocketAddr::new(ip.destination(), tcp.destination_port());
        // A repeated segment is the same call.
        self.0.retain(|call| (call.ours, call.target) != (ours, target));
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(Call { ours, target, sequence: tcp.sequence() });
    }

    /// The sequence number of a call; `None` if there was none.
    pub(super) fn sequence(&self, ours: SocketAddr, target: SocketAddr) -> Option<u32> {
        let call = self.0.iter().rev().find(|call| (call.ours, call.target) == (ours, target));
        call.map(|call| call.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsmp::write_packet;

    fn segment(port: u16, sequence: u32, flags: u8) -> Vec<u8> {
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&port.to_be_bytes());
        tcp[2..4].copy_from_slice(&5432u16.to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        (tcp[12], tcp[13]) = (0x50, flags);
        let mut packet = vec![0; 40];
        let (from, to) = ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap());
        write_packet(protocol::TCP, from, to, &tcp, &mut packet).unwrap();
        packet
    }

    #[test]
    fn the_last_calls_are_known_by_what_they_sent() {
        let mut calls = Calls::new();
        let mut note = |port, sequence, flags| {
            calls.note(&IpView::parse(&segment(port, sequence, flags)).unwrap());
        };
        note(1, 10, tcp_flag::SYN);
        note(2, 20, tcp_flag::SYN);
        note(1, 11, tcp_flag::SYN);
        note(2, 21, tcp_flag::ACK);
        note(3, 30, tcp_flag::SYN | tcp_flag::ACK);
        let sequence = |calls: &Calls, port| {
            let ours = SocketAddr::from(([100, 64, 0, 1], port));
            calls.sequence(ours, "100.64.0.2:5432".parse().unwrap())
        };
        assert_eq!([1, 2, 3].map(|port| sequence(&calls, port)), [Some(11), Some(20), None]);
        for port in 1000..1000 + MAX as u16 {
            calls.note(&IpView::parse(&segment(port, 1, tcp_flag::SYN)).unwrap());
        }
        assert_eq!((sequence(&calls, 1), sequence(&calls, 1000)), (None, Some(1)), "the oldest make room");
    }
}
