//! Two WireGuard interfaces with a session, in memory, and the floor beside them: the cipher alone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{HostPacket, HostPort, LinkId, NetInput, Outbox, Tunnel};
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Packets between two drains, as a driver has them.
pub const BATCH: usize = 40;
const ADDRESSES: [&str; 2] = ["192.0.2.1:1", "192.0.2.2:2"];

/// The cipher alone: what no tunnel that uses it can be faster than.
#[derive(Debug)]
pub struct Floor {
    key: LessSafeKey,
    size: usize,
    sent: Vec<u8>,
    wire: Vec<u8>,
    counter: u64,
}

impl Floor {
    /// For packets of `size` bytes.
    pub fn new(size: usize) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("32 bytes are a key");
        let space = vec![0; BATCH * (size + TAG)];
        Self { key: LessSafeKey::new(key), size, sent: space.clone(), wire: space, counter: 0 }
    }

    /// Seals one packet and opens it again, where it lies in the processor's cache.
    pub fn one(&mut self) -> usize {
        self.counter += 1;
        let (key, counter) = (&self.key, self.counter);
        let packet = &mut self.sent[..self.size + TAG];
        seal(key, counter, packet);
        open(key, counter, packet)
    }

    /// Seals [`BATCH`] packets where they lie, carries them over in one copy, as [`Path::run`] does, and opens them there.
    pub fn batch(&mut self) -> usize {
        let first = self.counter + 1;
        for packet in self.sent.chunks_exact_mut(self.size + TAG) {
            self.counter += 1;
            seal(&self.key, self.counter, packet);
        }
        self.wire.copy_from_slice(&self.sent);
        let packets = self.wire.chunks_exact_mut(self.size + TAG).zip(first..);
        packets.map(|(packet, counter)| open(&self.key, counter, packet)).sum()
    }
}

/// Length of the cipher's tag.
const TAG: usize = 16;

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn seal(key: &LessSafeKey, counter: u64, packet: &mut [u8]) {
    let (packet, space) = packet.split_at_mut(packet.len() - TAG);
    let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet).expect("a short packet");
    space.copy_from_slice(tag.as_ref());
}

fn open(key: &LessSafeKey, counter: u64, packet: &mut [u8]) -> usize {
    key.open_in_place(nonce(counter), Aad::empty(), packet).expect("what was sealed opens").len()
}

/// A UDP packet over IPv4 of `size` bytes, from 10.0.0.1 to 10.0.0.2. The checksums are nobody's concern here.
pub fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0xab; size];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet
}

/// A TCP super-segment over IPv4 that is cut into [`BATCH`] packets of `size` bytes, and its segment size.
pub fn super_segment(size: usize) -> (Vec<u8>, u16) {
    let segment = size - 40;
    let mut packet = packet(40 + BATCH * segment);
    packet[9] = 6;
    packet[20..40].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    (packet, segment as u16)
}

/// Two interfaces with a session, and what lies between them: a buffer that is used over and over.
#[derive(Debug)]
pub struct Path {
    sides: [WireGuard; 2],
    out: [Outbox; 2],
    wire: Vec<u8>,
    now: Instant,
}

impl Default for Path {
    fn default() -> Self {
        Self::new()
    }
}

impl Path {
    /// Two interfaces after their handshake.
    pub fn new() -> Self {
        let now = Instant::now();
        let key = |n: usize| PrivateKey::from_bytes([n as u8 + 1; 32]);
        let side = |n: usize| {
            let address: SocketAddr = ADDRESSES[1 - n].parse().expect("an address");
            let peer = PeerConfig {
                endpoint: (n == 0).then(|| HostPort { host: address.ip().to_string(), port: address.port() }),
                allowed_ips: vec!["10.0.0.0/24".parse().expect("a prefix")],
                ..PeerConfig::new(key(1 - n).public_key())
            };
            WireGuard::new(Config { peers: vec![peer], ..Config::new(key(n)) }, n as u64, now)
        };
        let out = [Outbox::default(), Outbox::default()];
        let mut path = Self { sides: [side(0), side(1)], out, wire: vec![0; 65_536], now };
        for (side, address) in ADDRESSES.iter().enumerate() {
            let opened = NetInput::Opened { link: LinkId(0), local: address.parse().expect("an address") };
            path.sides[side].handle_net(now, opened, &mut path.out[side]).expect("the two interfaces agree");
        }
        for from in [0, 1, 0] {
            path.carry(from);
        }
        path
    }

    /// Carries all datagrams from one side to the other.
    fn carry(&mut self, from: usize) {
        let ([a, b], [out_a, out_b]) = (&mut self.sides, &mut self.out);
        let (to, out_from, out_to) = if from == 0 { (b, out_a, out_b) } else { (a, out_b, out_a) };
        let source: SocketAddr = ADDRESSES[from].parse().expect("an address");
        let (wire, now) = (&mut self.wire, self.now);
        out_from.net.drain(|batch| {
            // What the kernel would do: one copy out, one copy in.
            let data = &mut wire[..batch.data.len()];
            data.copy_from_slice(batch.data);
            for data in data.chunks_mut(batch.segment) {
                let input = NetInput::Datagram { link: LinkId(0), from: source, data };
                to.handle_net(now, input, out_to).expect("the two interfaces agree");
            }
        });
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Sends a packet from the first side to the second `times` times; returns packets and bytes that came out.
    pub fn run(&mut self, packet: HostPacket<'_>, times: usize) -> (usize, usize) {
        for _ in 0..times {
            self.sides[0]
                .handle_packet(self.now, packet, &mut self.out[0])
                .expect("there is a session and room");
        }
        self.carry(0);
        let mut arrived = (0, 0);
        self.out[1].host.drain(|packet| {
            arrived.0 += 1;
            arrived.1 += packet.bytes().len();
        });
        arrived
    }
}
