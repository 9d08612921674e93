//! Messages of a Tailscale control server: a first one with 5,000 peers, and a change of two of them. The floor is a
//! scan of the same JSON that keeps nothing.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::SystemTime;

use adit_providers::tailscale::map_update;
use adit_tailscale::netmap::State;
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

fn read(json: &[u8], now: SystemTime) -> adit_tailscale::netmap::Update {
    map_update(json, now).expect("the message can be read")
}

fn netmap(criterion: &mut Criterion) {
    let (full, now) = (message(), SystemTime::now());
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
    group.throughput(Throughput::Bytes(DELTA.len() as u64));
    let mut state = State::default();
    state.apply(read(&full, now));
    group.bench_function("read and applied: a change of two peers among 5000", |bencher| {
        bencher.iter(|| state.apply(read(black_box(DELTA), now)))
    });
    group.finish();
}

criterion_group!(benches, netmap);
criterion_main!(benches);
