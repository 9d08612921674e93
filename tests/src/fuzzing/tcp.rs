//! Acknowledgments for a connection that sends.

use std::time::{Duration, Instant};

use adit_netstack::{
    Budget, CongestionControl, FlowEvent, FlowId, Stack, StackConfig, StackEvent, TcpOptions,
};
use adit_tunnel::view::{IpView, tcp_flag};
use adit_tunnel::{HostPacket, NetConfig};

use super::stack::fix_checksums;

/// Shift of the peer's window.
const SHIFT: u8 = 4;

/// The peer's initial sequence number, near the end of the space.
const PEER: u32 = 0xffff_ff00;

/// Rounds in which an honest peer must have everything.
const ROUNDS: usize = 20_000;

/// Opens a connection, writes to it and answers with what the bytes say: acknowledgments of anything, SACK blocks, shut
/// windows, silence. The first byte chooses congestion control and options; then eight bytes are a step. What is sent
/// must be what was written, inside the windows that were offered, and a peer that becomes honest gets everything.
pub fn tcp_acks(bytes: &[u8]) {
    let Some((setup, bytes)) = bytes.split_first() else { return };
    let mut upload = Upload::new(*setup);
    for step in bytes.as_chunks::<8>().0.iter().take(256) {
        upload.step(*step);
        if upload.closed {
            return;
        }
    }
    upload.finish();
}

struct Upload {
    stack: Stack,
    flow: FlowId,
    now: Instant,
    start: Instant,
    timestamps: bool,
    sack: bool,
    /// Sequence number of the first byte.
    origin: u32,
    echo: u32,
    written: u64,
    /// End of what was sent, what was acknowledged of it, and the right edge of the largest window.
    sent: u64,
    acknowledged: u64,
    edge: u64,
    closed: bool,
}

impl Upload {
    fn new(setup: u8) -> Self {
        let now = Instant::now();
        let budget = Budget { bytes: 1 << 20, max_flow: 1 << 16 };
        let mut stack = Stack::new(StackConfig { seed: 1, budget }, now);
        let net = NetConfig {
            addresses: vec!["10.0.0.2/24".parse().expect("a prefix")],
            routes: vec!["10.0.0.0/24".parse().expect("a prefix")],
            mtu: 1420,
            ..NetConfig::default()
        };
        stack.configure(now, &net);
        let congestion = if setup & 1 == 0 { CongestionControl::Cubic } else { CongestionControl::Bbr };
        let options = TcpOptions { congestion, ..TcpOptions::default() };
        let peer = "10.0.0.1:1000".parse().expect("an address");
        let flow = stack.tcp_connect(now, peer, options).expect("the route is there");
        let mut upload = Self {
            stack,
            flow,
            now,
            start: now,
            timestamps: setup & 2 == 0,
            sack: setup & 4 == 0,
            origin: 0,
            echo: 0,
            written: 0,
            sent: 0,
            acknowledged: 0,
            edge: 4000,
            closed: false,
        };
        upload.open();
        upload
    }

    /// The handshake.
    fn open(&mut self) {
        let (origin, echo) = (&mut self.origin, &mut self.echo);
        self.stack.poll_transmit(self.now, &mut |packet| {
            let tcp = IpView::parse_unsized(packet.bytes()).ok().and_then(|ip| ip.tcp()).expect("a SYN");
            *origin = tcp.sequence().wrapping_add(1);
            *echo = stamp(tcp.options()).expect("a timestamp");
            true
        });
        self.now += Duration::from_millis(10);
        let mut options = vec![2, 4, 4, 0, 3, 3, SHIFT, 1];
        if self.sack {
            options.extend([1, 1, 4, 2]);
        }
        let segment = self.segment(PEER, 0, tcp_flag::SYN | tcp_flag::ACK, 4000, &options);
        self.take(&segment);
        assert!(!self.stack.tcp_send_space(self.flow)[0].is_empty(), "the connection is open");
    }

    fn step(&mut self, step: [u8; 8]) {
        let [kind, a, b, c, d, e, f, g] = step;
        let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        match kind % 8 {
            0..=3 => {
                let outstanding = self.sent - self.acknowledged;
                let part = |part: u16| outstanding * u64::from(part) / u64::from(u16::MAX);
                let to = self.acknowledged + part(first) + u64::from(first == 0xfffe) * 1000;
                let blocks: Vec<(u64, u64)> = (0..usize::from(kind >> 3) % 4)
                    .map(|i| {
                        let from = part(u16::from_be_bytes([e, f]).rotate_left(5 * i as u32));
                        (to + from, to + from + u64::from(g) * 37)
                    })
                    .collect();
                self.acknowledge(to, second, &blocks, kind & 0x80 != 0);
            }
            4 => self.now += Duration::from_micros(u64::from(first) * 10),
            5 => {
                if let Some(deadline) = self.stack.poll_timeout() {
                    self.now = self.now.max(deadline.at);
                }
            }
            6 => self.write(u64::from(first)),
            _ => self.now += Duration::from_micros(u64::from(a)),
        }
        self.run();
    }

    /// An honest peer with a large window.
    fn finish(&mut self) {
        for _ in 0..ROUNDS {
            if self.closed || self.acknowledged == self.written {
                return;
            }
            self.now += Duration::from_millis(5);
            self.acknowledge(self.sent, u16::MAX, &[], false);
            self.run();
        }
        panic!("{} of {} bytes were sent and acknowledged", self.acknowledged, self.written);
    }

    fn write(&mut self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let mut n = 0;
            let [room, _] = self.stack.tcp_send_space(self.flow);
            for (at, byte) in room.iter_mut().take(usize::try_from(left).unwrap_or(usize::MAX)).enumerate() {
                *byte = pattern(self.written + at as u64);
                n = at + 1;
            }
            if n == 0 {
                return;
            }
            self.stack.tcp_sent(self.now, self.flow, n);
            self.written += n as u64;
            left -= n as u64;
        }
    }

    fn acknowledge(&mut self, to: u64, window: u16, blocks: &[(u64, u64)], old: bool) {
        let mut options = Vec::new();
        if self.sack && !blocks.is_empty() {
            options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                options.extend(self.wire(*start).to_be_bytes());
                options.extend(self.wire(*end).to_be_bytes());
            }
        }
        if to <= self.sent {
            self.acknowledged = self.acknowledged.max(to);
            self.edge = self.edge.max(to + (u64::from(window) << SHIFT));
        }
        if old {
            self.echo = self.echo.wrapping_sub(20);
        }
        let next = PEER.wrapping_add(1);
        let segment = self.segment(next, self.wire(to), tcp_flag::ACK, window, &options);
        self.take(&segment);
    }

    fn take(&mut self, packet: &[u8]) {
        self.stack.handle_packet(self.now, HostPacket::new(packet)).expect("the packet is sound");
        self.run();
    }

    fn run(&mut self) {
        self.stack.handle_timeout(self.now);
        let mut count = 0;
        let (origin, written, edge) = (self.origin, self.written, self.edge);
        let (mut sent, mut echo) = (self.sent, self.echo);
        self.stack.poll_transmit(self.now, &mut |packet| {
            count += 1;
            assert!(count < 1000, "there is an end to what is sent at a time");
            let tcp = IpView::parse_unsized(packet.bytes()).ok().and_then(|ip| ip.tcp()).expect("TCP");
            echo = stamp(tcp.options()).unwrap_or(echo);
            let at = u64::from(tcp.sequence().wrapping_sub(origin));
            for (byte, at) in tcp.payload().iter().zip(at..) {
                assert!(*byte == pattern(at), "byte {at} is not what was written");
            }
            let end = at + tcp.payload().len() as u64;
            if !tcp.payload().is_empty() {
                assert!(end <= written, "{end} of {written} bytes");
                assert!(end <= edge, "{end} is beyond every window, {edge}");
                sent = sent.max(end);
            }
            true
        });
        (self.sent, self.echo) = (sent, echo);
        while let Some(event) = self.stack.poll_event() {
            self.closed |= matches!(event, StackEvent::Tcp(_, FlowEvent::Closed(_)));
        }
        let deadline = self.stack.poll_timeout();
        assert!(deadline.is_none_or(|deadline| deadline.at > self.now), "over at once: {deadline:?}");
        assert!(
            self.closed || deadline.is_some() || self.acknowledged == self.written,
            "what was written waits for nothing"
        );
    }

    fn wire(&self, offset: u64) -> u32 {
        self.origin.wrapping_add(offset as u32)
    }

    /// A packet of the peer.
    fn segment(&self, sequence: u32, acknowledgment: u32, flags: u8, window: u16, more: &[u8]) -> Vec<u8> {
        let acknowledgment = if flags & tcp_flag::SYN == 0 { acknowledgment } else { self.origin };
        let mut options = Vec::new();
        if self.timestamps {
            let clock = self.now.duration_since(self.start).as_millis() as u32;
            options.extend([1, 1, 8, 10]);
            options.extend((1000 + clock).to_be_bytes());
            options.extend(self.echo.to_be_bytes());
        }
        options.extend(more);
        options.resize(options.len().next_multiple_of(4), 0);
        let length = (40 + options.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let local = self.stack.tcp_addresses(self.flow).map_or(0, |(local, _)| local.port());
        packet.extend(1000u16.to_be_bytes());
        packet.extend(local.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(acknowledgment.to_be_bytes());
        packet.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
        packet.extend(window.to_be_bytes());
        packet.extend([0, 0, 0, 0]);
        packet.extend(options);
        fix_checksums(&mut packet);
        packet
    }
}

fn pattern(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// Value of a segment's timestamp.
fn stamp(mut options: &[u8]) -> Option<u32> {
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [8, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d])),
            [0, ..] => return None,
            [_, length, ..] => options = options.get(usize::from((*length).max(2))..)?,
            _ => return None,
        }
    }
}
