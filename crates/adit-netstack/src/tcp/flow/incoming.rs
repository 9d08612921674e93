//! What comes from the network: segments, and ICMP errors about ours.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::view::{IpView, TcpView, tcp_flag};
use smoltcp::socket::tcp::State;

use super::{Flow, MAX_HEADERS, room};
use crate::CloseReason;
use crate::tcp::mss;
use crate::tcp::port::Port;

/// An acknowledgment is replayed to smoltcp in at most this many parts.
const MAX_ACK_PARTS: u32 = 64;
/// The smallest path MTU that is believed (Linux `min_pmtu`; RFC 8200 §5).
const MIN_MTU: (u16, u16) = (552, 1280);
/// How long an acknowledgment may wait for company (smoltcp's default; Linux waits 40 ms, RFC 9293 allows 500).
const ACK_DELAY: Duration = Duration::from_millis(10);

impl Flow {
    /// Takes a segment of this connection. `reply` gets the acknowledgment or reset that cannot wait.
    pub(crate) fn handle_segment(
        &mut self,
        now: Instant,
        ip: &IpView<'_>,
        tcp: &TcpView<'_>,
        reply: &mut dyn FnMut(&[u8]),
    ) {
        if self.over {
            return;
        }
        self.heard = now;
        let mut headers = [0; MAX_HEADERS];
        let header_len = ip.header_len() + tcp.header_len();
        if header_len > MAX_HEADERS {
            return;
        }
        headers[..header_len].copy_from_slice(&ip.bytes()[..header_len]);
        if tcp.flags() & tcp_flag::SYN != 0 {
            self.handle_syn(now, tcp);
            mss::write(&mut headers[ip.header_len()..header_len], self.segment);
            // Data on a SYN is not acknowledged, so it comes again.
            set_payload_len(&mut headers, ip, tcp.header_len());
            self.feed(now, &headers[..header_len], reply);
        } else {
            let audible = self.audible(tcp);
            if let Some(sequence) = audible {
                headers[ip.header_len() + 4..ip.header_len() + 8].copy_from_slice(&sequence.to_be_bytes());
            }
            let mut is_news = false;
            if tcp.flags() & tcp_flag::ACK != 0 {
                is_news = self.replay_acknowledgment(now, &mut headers[..header_len], ip, tcp, reply);
            }
            // More than one segment at once is a batch that nothing more belongs to: waiting would only slow
            // the sender down.
            let delay =
                if tcp.payload().len() > usize::from(self.advertised) { Duration::ZERO } else { ACK_DELAY };
            self.socket_mut().set_ack_delay(Some(delay.into()));
            // In front of data, only news may be told twice: smoltcp counts duplicates.
            let is_bare = tcp.payload().is_empty();
            if audible.is_some() && (is_bare || is_news) {
                set_payload_len(&mut headers, ip, tcp.header_len());
                headers[ip.header_len() + 8..ip.header_len() + 12]
                    .copy_from_slice(&tcp.acknowledgment().to_be_bytes());
                self.feed(now, &headers[..header_len], reply);
            }
            if audible.is_none() || !is_bare {
                self.feed(now, ip.bytes(), reply);
            }
        }
        self.update(tcp.flags() & tcp_flag::RST != 0);
        if self.orphan && self.socket().can_recv() {
            // Nobody will read it (RFC 9293 §3.6.1, RFC 2525 §2.17).
            self.abort();
        }
    }

    /// The peer's first segment decides how much a packet carries.
    fn handle_syn(&mut self, now: Instant, tcp: &TcpView<'_>) {
        if self.connected {
            return;
        }
        self.unread_from = tcp.sequence().wrapping_add(1);
        let said = mss::read(tcp).filter(|&mss| mss != 0).unwrap_or(mss::default(self.tuple.local.is_ipv4()));
        self.set_segment(now, said.min(self.segment).max(64));
        if !self.active {
            self.receive_next = tcp.sequence().wrapping_add(1);
        }
    }

    /// The sequence number at which smoltcp hears the acknowledgment of a segment that lies outside of its window,
    /// which it would not look at. Where both windows are full, such an acknowledgment is the only thing that opens
    /// them (RFC 9293 §3.10.7.4, "special allowance"), and it does come: the end of smoltcp's window moves back by
    /// up to a unit of its scale when it is told again, which leaves a peer that had filled it beyond it.
    fn audible(&self, tcp: &TcpView<'_>) -> Option<u32> {
        let socket = self.socket();
        let (waiting, capacity) = (socket.recv_queue() as u32, socket.recv_capacity() as u32);
        let next = self.unread_from.wrapping_add(waiting);
        let ahead = tcp.sequence().wrapping_sub(next);
        let is_beyond = ahead > 0 && ahead <= capacity;
        let is_probe = ahead == 0 && waiting == capacity && !tcp.payload().is_empty();
        let ends = tcp.flags() & (tcp_flag::RST | tcp_flag::FIN) != 0;
        (self.connected && !self.peer_shut && !ends && (is_beyond || is_probe)).then_some(next)
    }

    /// smoltcp's congestion window grows by at most one segment per acknowledgment, but receivers that coalesce
    /// acknowledge dozens at once. They are handed on as one acknowledgment per segment, which is what
    /// appropriate byte counting (RFC 3465) comes to. The last part is the segment itself. Returns whether it
    /// acknowledges anything new.
    fn replay_acknowledgment(
        &mut self,
        now: Instant,
        headers: &mut [u8],
        ip: &IpView<'_>,
        tcp: &TcpView<'_>,
        reply: &mut dyn FnMut(&[u8]),
    ) -> bool {
        let acknowledged = tcp.acknowledgment().wrapping_sub(self.send_unacknowledged);
        let in_flight = self.send_next.wrapping_sub(self.send_unacknowledged);
        if acknowledged == 0 || acknowledged > in_flight {
            return false;
        }
        let from = self.send_unacknowledged;
        let ends = tcp.flags() & (tcp_flag::RST | tcp_flag::FIN) != 0;
        let step = u32::from(self.segment).max(acknowledged.div_ceil(MAX_ACK_PARTS));
        if !self.connected || ends || acknowledged <= step {
            return true;
        }
        set_payload_len(headers, ip, tcp.header_len());
        for part in 1..acknowledged.div_ceil(step) {
            let number = from.wrapping_add(part * step);
            headers[ip.header_len() + 8..ip.header_len() + 12].copy_from_slice(&number.to_be_bytes());
            self.feed(now, headers, reply);
        }
        true
    }

    fn feed(&mut self, now: Instant, packet: &[u8], reply: &mut dyn FnMut(&[u8])) {
        let mut output = [0; MAX_HEADERS];
        let mut port = Port::new(Some(packet), &mut output, self.segment);
        self.interface.poll_ingress_single(self.clock.at(now), &mut port, &mut self.sockets);
        let written = port.written();
        if written > 0 {
            self.finish(now, &mut output[..written]);
            reply(&output[..written]);
        }
    }

    /// An ICMP error about a segment of ours (RFC 5927 §4.1: believed only if `sequence` is in flight).
    /// It ends a handshake; an established connection outlives it.
    pub(crate) fn handle_unreachable(&mut self, from: IpAddr, kind: u8, code: u8, sequence: u32) {
        if self.in_flight(sequence) && self.active && self.state == State::SynSent {
            self.end(CloseReason::Unreachable { from, kind, code });
        }
    }

    /// ICMP "packet too big" about a segment of ours: smaller packets from here on, and what is in flight again.
    pub(crate) fn handle_too_big(&mut self, now: Instant, mtu: u16, sequence: u32) {
        let least = if self.tuple.local.is_ipv4() { MIN_MTU.0 } else { MIN_MTU.1 };
        let segment = room(self.tuple.local, mtu.max(least));
        if self.in_flight(sequence) && segment < self.segment {
            self.set_segment(now, segment);
            self.nudge(now);
        }
    }

    fn in_flight(&self, sequence: u32) -> bool {
        !self.over
            && sequence.wrapping_sub(self.send_unacknowledged)
                <= self.send_next.wrapping_sub(self.send_unacknowledged)
    }
}

/// Makes the packet whose headers these are one without payload.
fn set_payload_len(headers: &mut [u8], ip: &IpView<'_>, tcp_len: usize) {
    if ip.is_v4() {
        headers[2..4].copy_from_slice(&((ip.header_len() + tcp_len) as u16).to_be_bytes());
    } else {
        headers[4..6].copy_from_slice(&((ip.header_len() - 40 + tcp_len) as u16).to_be_bytes());
    }
}
