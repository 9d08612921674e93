//! One packet through WireGuard and back out, in memory, at 64, 512 and 1420 bytes: the raw cipher (floor), bare
//! boringtun (reference), `Peer`, and the whole path `handle_packet` → `handle_net`.

#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{HostPacket, HostPort, LinkId, NetInput, Outbox, Tunnel};
use adit_wireguard::{
    Config, HANDSHAKE_LEN, Limiter, OVERHEAD, Opened, Peer, PeerConfig, PeerKeys, PrivateKey, WireGuard,
};
use boringtun::noise::{Tunn, TunnResult};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// A UDP packet over IPv4 of `size` bytes, from 10.0.0.1 to 10.0.0.2. The checksums are nobody's concern here.
fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0xab; size];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet
}

fn raw(group: &mut Group<'_>, size: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    let mut buffer = vec![0; size + 16];
    let mut counter = 0u64;
    group.bench_function(BenchmarkId::new("raw cipher", size), |bench| {
        bench.iter(|| {
            counter += 1;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            let tag = key
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::empty(),
                    &mut buffer[..size],
                )
                .unwrap();
            buffer[size..].copy_from_slice(tag.as_ref());
            key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut buffer).unwrap().len()
        });
    });
}

fn bare_boringtun(group: &mut Group<'_>, size: usize) {
    let secrets = [StaticSecret::from([1; 32]), StaticSecret::from([2; 32])];
    let publics = [PublicKey::from(&secrets[0]), PublicKey::from(&secrets[1])];
    let mut a = Tunn::new(secrets[0].clone(), publics[1], None, None, 1, None);
    let mut b = Tunn::new(secrets[1].clone(), publics[0], None, None, 2, None);
    let (mut x, mut y) = ([0; 2048], [0; 2048]);
    let network = |result: TunnResult<'_>| match result {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("no message but {other:?}"),
    };
    let initiation = network(a.format_handshake_initiation(&mut x, false));
    let response = network(b.decapsulate(None, &initiation, &mut y));
    let keepalive = network(a.decapsulate(None, &response, &mut x));
    b.decapsulate(None, &keepalive, &mut y);
    let packet = packet(size);
    group.bench_function(BenchmarkId::new("bare boringtun", size), |bench| {
        bench.iter(|| {
            let TunnResult::WriteToNetwork(sealed) = a.encapsulate(&packet, &mut x) else { panic!() };
            let TunnResult::WriteToTunnelV4(opened, _) = b.decapsulate(None, sealed, &mut y) else {
                panic!()
            };
            opened.len()
        });
    });
}

fn peer(group: &mut Group<'_>, size: usize) {
    let now = Instant::now();
    let keys = [PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32])];
    let make = |ours: usize| {
        let limiter = Limiter::new(keys[ours].public_key(), 100, now);
        let keys = PeerKeys { private: &keys[ours], public: keys[1 - ours].public_key(), preshared: None };
        Peer::new(&keys, ours as u32, &limiter, now)
    };
    let (mut a, mut b) = (make(0), make(1));
    let from = IpAddr::from([192, 0, 2, 1]);
    let (mut x, mut y) = ([0; 2048], [0; 2048]);
    let len = a.initiate(now, false, &mut x);
    let Ok(Opened::Reply(len)) = b.open(now, from, &x[..len], &mut y) else { panic!() };
    let Ok(Opened::Reply(len)) = a.open(now, from, &y[..len], &mut x) else { panic!() };
    b.open(now, from, &x[..len], &mut y[..HANDSHAKE_LEN]).unwrap();
    let packet = packet(size);
    group.bench_function(BenchmarkId::new("peer", size), |bench| {
        bench.iter(|| {
            let len = a.seal(now, &packet, &mut x[..size + OVERHEAD]).unwrap();
            let Ok(Opened::Packet(len)) = b.open(now, from, &x[..len], &mut y) else { panic!() };
            len
        });
    });
}

const ADDRESSES: [&str; 2] = ["192.0.2.1:1", "192.0.2.2:2"];

/// Two interfaces with a session.
struct Path {
    sides: [WireGuard; 2],
    out: [Outbox; 2],
    wire: Vec<u8>,
    now: Instant,
}

impl Path {
    fn new() -> Self {
        let now = Instant::now();
        let key = |n: usize| PrivateKey::from_bytes([n as u8 + 1; 32]);
        let side = |n: usize| {
            let address: SocketAddr = ADDRESSES[1 - n].parse().unwrap();
            let peer = PeerConfig {
                endpoint: (n == 0).then(|| HostPort { host: address.ip().to_string(), port: address.port() }),
                allowed_ips: vec!["10.0.0.0/24".parse().unwrap()],
                ..PeerConfig::new(key(1 - n).public_key())
            };
            WireGuard::new(Config { peers: vec![peer], ..Config::new(key(n)) }, n as u64, now)
        };
        let out = [Outbox::default(), Outbox::default()];
        let mut path = Self { sides: [side(0), side(1)], out, wire: vec![0; 65_536], now };
        for (side, address) in ADDRESSES.iter().enumerate() {
            let opened = NetInput::Opened { link: LinkId(0), local: address.parse().unwrap() };
            path.sides[side].handle_net(now, opened, &mut path.out[side]).unwrap();
        }
        for from in [0, 1, 0] {
            path.carry(from);
        }
        path
    }

    fn carry(&mut self, from: usize) {
        let ([a, b], [out_a, out_b]) = (&mut self.sides, &mut self.out);
        let (to, out_from, out_to) = if from == 0 { (b, out_a, out_b) } else { (a, out_b, out_a) };
        let source: SocketAddr = ADDRESSES[from].parse().unwrap();
        let (wire, now) = (&mut self.wire, self.now);
        out_from.net.drain(|batch| {
            // What the kernel would do: one copy out, one copy in.
            let data = &mut wire[..batch.data.len()];
            data.copy_from_slice(batch.data);
            for data in data.chunks_mut(batch.segment) {
                let input = NetInput::Datagram { link: LinkId(0), from: source, data };
                to.handle_net(now, input, out_to).unwrap();
            }
        });
    }

    fn run(&mut self, packet: HostPacket<'_>, times: usize) -> usize {
        for _ in 0..times {
            self.sides[0].handle_packet(self.now, packet, &mut self.out[0]).unwrap();
        }
        self.carry(0);
        let mut bytes = 0;
        self.out[1].host.drain(|packet| bytes += packet.bytes().len());
        bytes
    }
}

/// Packets between two drains, as a driver has them.
const BATCH: usize = 40;

fn whole_path(group: &mut Group<'_>, size: usize) {
    let mut path = Path::new();
    let packet = packet(size);
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH as u64, bytes: (BATCH * size) as u64 });
    group.bench_function(BenchmarkId::new(format!("whole path, {BATCH} packets"), size), |bench| {
        bench.iter(|| {
            let bytes = path.run(HostPacket::new(&packet), BATCH);
            assert_eq!(bytes, BATCH * size);
        });
    });
}

/// TCP super-segments, cut while sealing and joined after opening.
fn super_segments(group: &mut Group<'_>, size: usize) {
    let mut path = Path::new();
    let segment = size - 40;
    let mut packet = packet(40 + BATCH * segment);
    packet[9] = 6;
    packet[20..40].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH as u64, bytes: (BATCH * size) as u64 });
    group.bench_function(BenchmarkId::new(format!("super-segment of {BATCH}"), size), |bench| {
        bench.iter(|| {
            let bytes = path.run(HostPacket::segmented(&packet, segment as u16), 1);
            assert_eq!(bytes, packet.len());
        });
    });
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wireguard");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(50);
    for size in [64, 512, 1420] {
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
        raw(&mut group, size);
        bare_boringtun(&mut group, size);
        peer(&mut group, size);
        whole_path(&mut group, size);
        super_segments(&mut group, size);
    }
    group.finish();
}

criterion_group!(wireguard, benches);
criterion_main!(wireguard);
