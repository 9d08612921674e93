//! The network stack in memory: bulk data over few and many flows, the cost of one packet beside many idle
//! flows, and connections per second. The floor is one copy of the same bytes.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::hint::black_box;

use adit_benches::{Pair, Wire};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const CHUNK: usize = 1 << 20;

/// One iteration moves a mebibyte, spread evenly over all flows.
fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("netstack/bulk");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let source = vec![7u8; CHUNK];
    let mut sink = vec![0u8; CHUNK];
    group.bench_function("floor: memcpy", |bencher| {
        bencher.iter(|| black_box(&mut sink).copy_from_slice(black_box(&source)))
    });
    for wire in [Wire::Whole, Wire::Merged, Wire::Single] {
        for count in [1, 100, 5000] {
            let mut pair = Pair::new(wire);
            let flows: Vec<_> = (0..count).map(|_| pair.connect()).collect();
            // With many flows a turn visits some of them, so that each has several segments to send.
            let per_flow = (CHUNK / count).max(16 * 1024);
            let mut at = 0;
            group.bench_function(BenchmarkId::new(format!("{wire:?}"), count), |bencher| {
                bencher.iter(|| {
                    let (mut sent, mut received) = (0, 0);
                    let first = at;
                    while sent < CHUNK {
                        let n = pair.write(flows[at].0, per_flow.min(CHUNK - sent));
                        sent += n;
                        if n == 0 {
                            pair.exchange();
                            received += pair.read(flows[at].1);
                        } else {
                            at = (at + 1) % flows.len();
                        }
                    }
                    while received < sent {
                        pair.exchange();
                        let mut visit = first;
                        loop {
                            received += pair.read(flows[visit].1);
                            visit = (visit + 1) % flows.len();
                            if visit == at {
                                break;
                            }
                        }
                    }
                })
            });
        }
    }
    group.finish();
}

/// A byte there and a byte's acknowledgment back on one flow, beside others that are idle.
fn beside_idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("netstack/one byte beside idle flows");
    group.throughput(Throughput::Elements(1));
    for count in [1, 100, 5000] {
        let mut pair = Pair::new(Wire::Whole);
        let flows: Vec<_> = (0..count).map(|_| pair.connect()).collect();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                pair.write(flows[0].0, 1);
                pair.exchange();
                assert_eq!(pair.read(flows[0].1), 1);
            })
        });
    }
    group.finish();
}

/// Handshake, orderly end, and everything given back.
fn connect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("netstack/connect and close");
    group.throughput(Throughput::Elements(1));
    for count in [0, 1000] {
        let mut pair = Pair::new(Wire::Whole);
        let _idle: Vec<_> = (0..count).map(|_| pair.connect()).collect();
        group.bench_function(BenchmarkId::new("beside idle flows", count), |bencher| {
            bencher.iter(|| {
                let flow = pair.connect();
                pair.close(flow);
            })
        });
    }
    group.finish();
}

criterion_group!(benches, bulk, beside_idle, connect);
criterion_main!(benches);
