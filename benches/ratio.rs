//! The packet path beside its floor, the cipher alone, as ratios. The sides take turns of a millisecond and count the CPU
//! time of this thread only: on a machine that does other work the wall clock of a bench says little, and this stays
//! within a few hundredths.

use std::hint::black_box;
use std::time::Duration;

use adit_benches::{BATCH, Floor, Pair, Path, Wire, packet, super_segment};
use adit_netstack::CongestionControl;
use adit_tunnel::HostPacket;
use rustix::time::{ClockId, clock_gettime};

/// Turns of each side.
const TURNS: usize = 400;
const TURN: Duration = Duration::from_millis(1);

/// A side: what it does in a round, and what it is called.
type Side<'a> = (&'a str, Box<dyn FnMut() + 'a>);

fn main() {
    // `cargo test --benches` and criterion's own `--test` want a short run.
    let turns = if std::env::args().any(|argument| argument == "--test") { 2 } else { TURNS };
    flows(turns);
    for size in [64, 512, 1420] {
        let (mut one, mut batch) = (Floor::new(size), Floor::new(size));
        let (mut plain_path, mut large_path) = (Path::new(), Path::new());
        let plain = packet(size);
        let (large, segment) = super_segment(size);
        let mut sides: Vec<Side<'_>> = vec![
            ("cipher, one buffer", Box::new(|| (0..BATCH).for_each(|_| assert_eq!(one.one(), size)))),
            ("cipher, a batch over a wire", Box::new(|| assert_eq!(batch.batch(), BATCH * size))),
            ("packets", Box::new(|| assert_eq!(plain_path.run(HostPacket::new(&plain), BATCH).0, BATCH))),
            (
                "super-segments",
                Box::new(|| {
                    let (_, bytes) = large_path.run(HostPacket::segmented(&large, segment), 1);
                    assert_eq!(bytes, large.len());
                }),
            ),
        ];
        let times = compare(&mut sides, turns);
        println!("{size} bytes, CPU time for one packet there and back:");
        for ((name, _), time) in sides.iter().zip(&times) {
            let (one, batch) = (times[0] / time, times[1] / time);
            println!("  {name:<28} {time:7.1} ns, {one:.3} of the cipher's speed, {batch:.3} of the batch's");
        }
    }
}

/// A flow through two network stacks, beside one copy of its bytes.
fn flows(turns: usize) {
    const CHUNK: usize = 256 * 1024;
    let source = vec![7u8; CHUNK];
    let mut sink = vec![0u8; CHUNK];
    let copy = move || black_box(&mut sink).copy_from_slice(black_box(&source));
    let mut sides: Vec<Side<'_>> = vec![("one copy", Box::new(copy))];
    for (name, wire, congestion) in [
        ("CUBIC, super-segments", Wire::Whole, CongestionControl::Cubic),
        ("BBR, super-segments", Wire::Whole, CongestionControl::Bbr),
        ("CUBIC, packets", Wire::Single, CongestionControl::Cubic),
        ("BBR, packets", Wire::Single, CongestionControl::Bbr),
    ] {
        let mut pair = Pair::new(wire);
        let flow = pair.connect_with(congestion);
        sides.push((name, Box::new(move || pair.transfer(flow, CHUNK))));
    }
    let times = compare(&mut sides, turns);
    println!("256 KiB through two stacks, CPU time:");
    for ((name, _), time) in sides.iter().zip(&times) {
        // `compare` counts a round as so many packets.
        let time = time * BATCH as f64 / 1000.0;
        println!("  {name:<28} {time:7.1} µs, {:.2} GB/s", CHUNK as f64 / time / 1000.0);
    }
}

/// Nanoseconds for one packet of each side: the median over turns that alternate.
fn compare(sides: &mut [Side<'_>], turns: usize) -> Vec<f64> {
    let mut times = vec![Vec::new(); sides.len()];
    for _ in 0..turns {
        for ((_, round), times) in sides.iter_mut().zip(&mut times) {
            let start = cpu_time();
            let mut rounds = 0;
            let spent = loop {
                round();
                rounds += 1;
                let spent = cpu_time() - start;
                if spent >= TURN {
                    break spent;
                }
            };
            times.push(spent.as_nanos() as f64 / (rounds * BATCH) as f64);
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
