//! One packet through WireGuard and back out, in memory, at 64, 512 and 1420 bytes: the raw cipher (floor), bare
//! boringtun (reference), `Peer`, and the whole path `handle_packet` → `handle_net`.

#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_benches::{BATCH, Floor, Path, packet, super_segment};
use adit_tunnel::HostPacket;
use adit_wireguard::{HANDSHAKE_LEN, Limiter, OVERHEAD, Opened, Peer, PeerKeys, PrivateKey};
use boringtun::noise::{Tunn, TunnResult};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use x25519_dalek::{PublicKey, StaticSecret};

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn raw(group: &mut Group<'_>, size: usize) {
    let mut floor = Floor::new(size);
    group.bench_function(BenchmarkId::new("raw cipher", size), |bench| bench.iter(|| floor.one()));
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

fn whole_path(group: &mut Group<'_>, size: usize) {
    let mut path = Path::new();
    let packet = packet(size);
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH as u64, bytes: (BATCH * size) as u64 });
    group.bench_function(BenchmarkId::new(format!("whole path, {BATCH} packets"), size), |bench| {
        bench.iter(|| {
            let arrived = path.run(HostPacket::new(&packet), BATCH);
            assert_eq!(arrived, (BATCH, BATCH * size));
        });
    });
}

/// TCP super-segments, cut while sealing and joined after opening.
fn super_segments(group: &mut Group<'_>, size: usize) {
    let mut path = Path::new();
    let (packet, segment) = super_segment(size);
    group.throughput(Throughput::ElementsAndBytes { elements: BATCH as u64, bytes: (BATCH * size) as u64 });
    group.bench_function(BenchmarkId::new(format!("super-segment of {BATCH}"), size), |bench| {
        bench.iter(|| {
            let arrived = path.run(HostPacket::segmented(&packet, segment), 1);
            assert_eq!(arrived, (1, packet.len()));
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
