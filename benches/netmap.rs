//! Messages of a Tailscale control server: a first one with 5,000 peers, and a change of two of them. The floor is a
//! scan of the same JSON that keeps nothing; `node` is all of it: read, merged, and taken over by the tunnel. What the
//! node then keeps in memory is printed first.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use adit_providers::tailscale::map_update;
use adit_tailscale::netmap::{State, Update};
use adit_tailscale::{AcceptRoutes, Command, Config, Keys, SecretKey, Tailscale};
use adit_tunnel::{Outbox, Tunnel};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PEERS: u32 = 5000;
const DELTA: &[u8] = br#"{"PeersChangedPatch":[{"NodeID":17,"DERPRegion":5,"Endpoints":["192.0.2.9:41641"]}],"OnlineChange":{"18":false}}"#;

/// A peer as Tailscale's server describes one: about 1,100 bytes.
fn node(id: u32) -> String {
    let key = format!("{id:064x}");
    let v4 = format!("100.{}.{}.{}/32", 64 + (id >> 16), (id >> 8) & 255, id & 255);
    let v6 = format!("fd7a:115c:a1e0::{:x}:{:x}/128", id >> 16, id & 0xffff);
    format!(
        r#"{{"ID":{id},"StableID":"n{id}CNTRL","Name":"host-{id}.tail1234.ts.net.","User":123456,"Key":"nodekey:{key}",
        "KeyExpiry":"2027-05-01T12:00:00Z","Machine":"mkey:{key}","DiscoKey":"discokey:{key}","Addresses":["{v4}","{v6}"],
        "AllowedIPs":["{v4}","{v6}"],"Endpoints":["203.0.113.7:41641","192.168.1.{}:41641","[2001:db8::{id:x}]:41641"],
        "HomeDERP":{},"Hostinfo":{{"OS":"linux","Hostname":"host-{id}","Services":[{{"Proto":"peerapi4","Port":43210}}]}},
        "Created":"2026-01-01T00:00:00Z","Cap":130,"Tags":["tag:server"],"LastSeen":"2026-11-24T08:00:00Z","Online":true,
        "MachineAuthorized":true,"CapMap":{{"https://tailscale.com/cap/is-admin":null}}}}"#,
        id % 250,
        1 + id % 20,
    )
}

fn message() -> Vec<u8> {
    let mut text = format!(r#"{{"Node":{},"PacketFilter":[],"Peers":["#, node(1));
    for id in 2..PEERS + 2 {
        let comma = if id == 2 { "" } else { "," };
        let _ = write!(text, "{comma}{}", node(id));
    }
    text.push_str("]}");
    text.into_bytes()
}

fn read(json: &[u8], now: SystemTime) -> Update {
    map_update(json, now).expect("the message can be read")
}

/// A node that knows nobody.
fn newcomer(now: Instant) -> Tailscale {
    let config = Config {
        keys: Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) },
        roots: Arc::new(rustls::RootCertStore::empty()),
        port: None,
        udp: true,
        local_addresses: Vec::new(),
        keep_out: Vec::new(),
        accept_routes: AcceptRoutes::All,
        accept_dns: true,
        exit_node: None,
        shields_up: false,
        proxy: None,
        plain_derp: true,
    };
    Tailscale::new(config, 1, now)
}

/// The node takes over an update.
fn take(node: &mut Tailscale, update: Update, now: Instant, out: &mut Outbox) {
    node.handle_command(now, Command::Netmap(Box::new(update)), out);
    while node.poll_event().is_some() {}
    while node.poll_report().is_some() {}
}

/// Memory of this process in bytes that is the system's, from `/proc/self/statm`.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells a process its memory");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is what is resident") * 4096
}

/// Prints what a node with 5,000 peers keeps, and what it took at the most: the message, the update and the node.
fn print_memory(full: &[u8], now: SystemTime) {
    let before = resident();
    let mut node = newcomer(Instant::now());
    let mut out = Outbox::with_capacity(1 << 16, 1 << 16);
    let update = read(full, now);
    let largest = resident() - before;
    take(&mut node, update, Instant::now(), &mut out);
    let after = resident() - before;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "memory: {:.1} MiB for a node with {PEERS} peers, {:.1} MiB of it once the message of {:.1} MiB was read",
        mib(after),
        mib(largest),
        mib(full.len()),
    );
    black_box(node);
}

fn netmap(criterion: &mut Criterion) {
    let (full, now) = (message(), SystemTime::now());
    print_memory(&full, now);
    let (start, mut out) = (Instant::now(), Outbox::with_capacity(1 << 16, 1 << 16));
    let mut group = criterion.benchmark_group("netmap");
    group.throughput(Throughput::Bytes(full.len() as u64));
    group.bench_function("floor: scan", |bencher| {
        bencher.iter(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(&full)).is_ok())
    });
    group.bench_function("read and applied: 5000 peers", |bencher| {
        bencher.iter(|| {
            let mut state = State::default();
            state.apply(read(black_box(&full), now));
            state
        })
    });
    group.bench_function("node: 5000 peers", |bencher| {
        bencher.iter(|| {
            let mut node = newcomer(start);
            take(&mut node, read(black_box(&full), now), start, &mut out);
            node
        })
    });
    group.throughput(Throughput::Bytes(DELTA.len() as u64));
    let mut state = State::default();
    state.apply(read(&full, now));
    group.bench_function("read and applied: a change of two peers among 5000", |bencher| {
        bencher.iter(|| state.apply(read(black_box(DELTA), now)))
    });
    let mut node = newcomer(start);
    take(&mut node, read(&full, now), start, &mut out);
    // Turns about, so that every message changes something.
    let back = String::from_utf8_lossy(DELTA).replace("false", "true").replace("192.0.2.9", "192.0.2.10");
    let mut turn = false;
    group.bench_function("node: a change of two peers among 5000", |bencher| {
        bencher.iter(|| {
            turn = !turn;
            let delta = if turn { DELTA } else { back.as_bytes() };
            take(&mut node, read(black_box(delta), now), start, &mut out);
        })
    });
    group.finish();
}

criterion_group!(benches, netmap);
criterion_main!(benches);
