//! What a connection does when, against a peer that is written down packet by packet.

mod anything;
mod ends;
mod handshake;
mod receiving;
mod sending;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::HostPacket;
use adit_tunnel::view::{IpView, tcp_flag};

use crate::tcp::options::{MAX_OPTIONS, Options, Timestamps};
use crate::testing::net_config;
use crate::{Budget, FlowEvent, FlowId, Stack, StackConfig, StackEvent, TcpOptions};

const MS: Duration = Duration::from_millis(1);
const SYN: u8 = tcp_flag::SYN;
const ACK: u8 = tcp_flag::ACK;
const FIN: u8 = tcp_flag::FIN;
const RST: u8 = tcp_flag::RST;
const PSH: u8 = tcp_flag::PSH;
/// Initial sequence number of the peer: its stream wraps soon.
const FIRST: u32 = u32::MAX - 1000;

/// A segment as the peer writes it: offsets in both streams, and the window as it is on the wire.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flags: u8,
    start: i64,
    acknowledged: i64,
    window: u16,
    options: Options,
    len: usize,
}

impl Segment {
    fn new(flags: u8, start: i64, acknowledged: i64) -> Self {
        Self { flags, start, acknowledged, window: 1000, options: Options::default(), len: 0 }
    }

    /// Data of that length, acknowledging everything up to `acknowledged`.
    fn data(start: i64, len: usize, acknowledged: i64) -> Self {
        Self { len, ..Self::new(ACK, start, acknowledged) }
    }
}

/// A segment of the stack's, as the peer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    flags: u8,
    start: i64,
    acknowledged: i64,
    window: u16,
    /// SACK blocks, as offsets.
    blocks: Vec<(i64, i64)>,
    timestamps: Option<Timestamps>,
    options: Options,
    option_bytes: Vec<u8>,
    len: usize,
}

impl Seen {
    /// Flags, start, length, acknowledgment.
    fn short(&self) -> (u8, i64, usize, i64) {
        (self.flags, self.start, self.len, self.acknowledged)
    }
}

/// The peer, and the stack that it speaks with.
struct Peer {
    stack: Stack,
    now: Instant,
    flow: FlowId,
    ports: (u16, u16),
    /// The stack's initial sequence number.
    theirs: u32,
    /// The peer writes timestamps, of this clock.
    clock: Option<u32>,
    events: Vec<StackEvent>,
}

/// What the peer's SYN offers.
#[derive(Clone, Copy)]
struct Offer {
    mss: u16,
    shift: Option<u8>,
    sack: bool,
    timestamps: bool,
}

const EVERYTHING: Offer = Offer { mss: 1380, shift: Some(7), sack: true, timestamps: true };
const PLAIN: Offer = Offer { mss: 1380, shift: None, sack: false, timestamps: false };

impl Offer {
    fn options(self, clock: Option<u32>) -> Options {
        Options {
            mss: Some(self.mss),
            window_scale: self.shift,
            sack_permitted: self.sack,
            timestamps: clock.map(|value| Timestamps { value, echo: 0 }),
            ..Options::default()
        }
    }
}

impl Peer {
    /// A stack that calls the peer; its SYN has not left.
    fn called(options: TcpOptions) -> Self {
        Self::called_with(Budget::default(), options)
    }

    fn called_with(budget: Budget, options: TcpOptions) -> Self {
        let now = Instant::now();
        let mut stack = Stack::new(StackConfig { seed: 7, budget }, now);
        stack.configure(now, &net_config(1, 1420));
        let flow = stack.tcp_connect(now, "10.0.0.2:80".parse().unwrap(), options).unwrap();
        let (local, _) = stack.tcp_addresses(flow).unwrap();
        Self { stack, now, flow, ports: (80, local.port()), theirs: 0, clock: None, events: Vec::new() }
    }

    /// A connection that is open, and no packet under way.
    fn open(offer: Offer) -> Self {
        Self::open_with(Budget::default(), offer)
    }

    fn open_with(budget: Budget, offer: Offer) -> Self {
        let mut peer = Self::called_with(budget, TcpOptions::default());
        peer.see_syn();
        peer.clock = offer.timestamps.then_some(5000);
        let options = offer.options(peer.clock);
        peer.now += 10 * MS;
        peer.send(Segment { options, window: 65_000, ..Segment::new(SYN | ACK, -1, 0) });
        assert_eq!(peer.see().iter().map(Seen::short).collect::<Vec<_>>(), [(ACK, 0, 0, 0)]);
        assert_eq!(peer.events(), [FlowEvent::Connected]);
        peer
    }

    /// Takes the stack's first SYN.
    fn see_syn(&mut self) -> Seen {
        let packets = self.collect();
        let [packet] = &packets[..] else { panic!("{} packets instead of a SYN", packets.len()) };
        self.theirs = IpView::parse(packet).unwrap().tcp().unwrap().sequence();
        self.read(packet)
    }

    fn collect(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        self.stack.poll_transmit(self.now, &mut |packet| {
            for segment in packet.segments().unwrap() {
                let mut bytes = vec![0; segment.len()];
                segment.write(&mut bytes);
                packets.push(bytes);
            }
            assert!(packets.len() < 10_000, "a stack sends without end");
            true
        });
        while let Some(event) = self.stack.poll_event() {
            self.events.push(event);
        }
        packets
    }

    fn read(&self, packet: &[u8]) -> Seen {
        let ip = IpView::parse(packet).unwrap();
        assert!(ip.transport_checksum_ok(), "{packet:?}");
        let tcp = ip.tcp().unwrap();
        let options = Options::parse(tcp.options());
        let ours = |number: u32| i64::from(number.wrapping_sub(FIRST.wrapping_add(1)) as i32);
        Seen {
            flags: tcp.flags(),
            start: i64::from(tcp.sequence().wrapping_sub(self.theirs.wrapping_add(1)) as i32),
            acknowledged: if tcp.flags() & ACK == 0 { 0 } else { ours(tcp.acknowledgment()) },
            window: tcp.window(),
            blocks: options.blocks().iter().map(|&(from, to)| (ours(from), ours(to))).collect(),
            timestamps: options.timestamps,
            options,
            option_bytes: tcp.options().to_vec(),
            len: tcp.payload().len(),
        }
    }

    /// What the stack sends now.
    fn see(&mut self) -> Vec<Seen> {
        self.collect().iter().map(|packet| self.read(packet)).collect()
    }

    /// What the stack sends during a while, with the time of each.
    fn watch(&mut self, time: Duration) -> Vec<(Duration, Seen)> {
        let (began, until) = (self.now, self.now + time);
        let mut all = Vec::new();
        loop {
            all.extend(self.see().into_iter().map(|seen| (self.now - began, seen)));
            let Some(deadline) = self.stack.poll_timeout().filter(|deadline| deadline.at <= until) else {
                break;
            };
            assert!(deadline.at > self.now, "a deadline that has passed");
            self.now = deadline.at;
            self.stack.handle_timeout(self.now);
        }
        self.now = until;
        all
    }

    /// The peer sends a segment, with timestamps if it uses them.
    fn send(&mut self, segment: Segment) {
        let mut segment = segment;
        if segment.options.timestamps.is_none() {
            segment.options.timestamps = self.clock.map(|value| Timestamps { value, echo: 0 });
        }
        let packet = self.write_packet(segment);
        self.stack.handle_packet(self.now, HostPacket::new(&packet)).unwrap();
    }

    /// As [`send`](Self::send), where the stack need not know the connection any more.
    fn send_lenient(&mut self, segment: Segment) {
        let packet = self.write_packet(segment);
        let _ = self.stack.handle_packet(self.now, HostPacket::new(&packet));
    }

    fn write_packet(&self, segment: Segment) -> Vec<u8> {
        let mut options = [0; MAX_OPTIONS];
        let options_len = segment.options.write(&mut options);
        let mut packet = vec![0; 40 + options_len + segment.len];
        let tcp = &mut packet[20..];
        tcp[0..2].copy_from_slice(&self.ports.0.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports.1.to_be_bytes());
        let sequence = FIRST.wrapping_add(1).wrapping_add(segment.start as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if segment.flags & ACK != 0 {
            let number = self.theirs.wrapping_add(1).wrapping_add(segment.acknowledged as u32);
            tcp[8..12].copy_from_slice(&number.to_be_bytes());
        }
        tcp[12] = ((20 + options_len) / 4) as u8 * 16;
        tcp[13] = segment.flags;
        tcp[14..16].copy_from_slice(&segment.window.to_be_bytes());
        tcp[20..20 + options_len].copy_from_slice(&options[..options_len]);
        for (place, byte) in tcp[20 + options_len..].iter_mut().enumerate() {
            *byte = (segment.start + place as i64) as u8;
        }
        let (source, destination): (IpAddr, IpAddr) = ([10, 0, 0, 2].into(), [10, 0, 0, 1].into());
        crate::emit::fill_transport_checksum(tcp, 16, source, destination, 6);
        crate::emit::fill_ip_header(&mut packet, source, destination, 6);
        packet
    }

    fn events(&mut self) -> Vec<FlowEvent> {
        let events = std::mem::take(&mut self.events).into_iter();
        events
            .filter_map(|event| match event {
                StackEvent::Tcp(flow, event) if flow == self.flow => Some(event),
                _ => None,
            })
            .collect()
    }

    /// The stack's owner writes.
    fn write(&mut self, len: usize) {
        let [room, _] = self.stack.tcp_send_space(self.flow);
        room[..len].fill(9);
        self.stack.tcp_sent(self.now, self.flow, len);
    }

    /// The stack's owner reads everything; the bytes are those that the peer wrote at these offsets.
    fn read_all(&mut self, from: i64) -> usize {
        let mut count = 0;
        loop {
            let data = self.stack.tcp_recv_data(self.flow)[0].to_vec();
            if data.is_empty() {
                return count;
            }
            for byte in &data {
                assert_eq!(*byte, (from + count as i64) as u8, "at {}", from + count as i64);
                count += 1;
            }
            self.stack.tcp_consumed(self.now, self.flow, data.len());
        }
    }
}
