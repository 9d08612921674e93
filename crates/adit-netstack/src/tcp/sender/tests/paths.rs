//! Goodput and completion times on simulated paths.

use super::super::Control;
use super::simulation::{MS, MSS, Path, SECOND, Simulation, completion, goodput};

const CONTROLS: [Control; 1] = [Control::Cubic];

/// Runs a transfer to its end and returns the simulation.
fn transfer(path: Path, bytes: u64, prepare: impl FnOnce(&mut Simulation)) -> Simulation {
    let mut simulation = Simulation::new(path, &[Control::Cubic], 1);
    prepare(&mut simulation);
    simulation.write(0, bytes);
    simulation.run(600 * SECOND);
    assert_eq!(simulation.flows[0].received(), bytes, "everything arrives");
    simulation
}

/// Loses the packet that starts at an offset, so many times.
fn lose(at: u64, mut times: u32) -> impl FnMut(u64, u64) -> bool {
    move |start, _| {
        let lost = start == at && times > 0;
        times -= u32::from(lost);
        lost
    }
}

#[test]
fn a_clean_path_is_filled() {
    assert!(goodput(Path::new(100.0, 50, 200), Control::Cubic, 1, 8) > 90.0);
}

#[test]
fn a_path_with_a_shallow_queue_is_filled() {
    let rate = goodput(Path::new(100.0, 50, 30), Control::Cubic, 1, 8);
    assert!(rate > 75.0, "{rate}");
}

#[test]
fn reordering_is_not_taken_for_loss() {
    for (part, later, least) in [(0.01, 8, 85.0), (0.02, 20, 80.0)] {
        let path = Path::new(100.0, 50, 200).reorders(part, later);
        let rate = goodput(path, Control::Cubic, 1, 8);
        assert!(rate > least, "{part} by {later} ms: {rate} Mbit/s");
    }
}

#[test]
fn a_buffer_that_a_super_segment_nearly_fills_does_not_stall_the_transfer() {
    let path = Path { delay: MS / 10, queue: 160_000, rate: 80e6, ..Path::new(1.0, 1, 1) };
    for timer in [0, MS] {
        let time = completion(Path { timer, ..path }, Control::Cubic, 1, 24 << 20);
        assert!(time < 400.0, "24 MiB at 80 MB/s take {time} ms, timers of {timer} ns");
    }
}

#[test]
fn timers_of_a_millisecond_do_not_slow_a_fast_path() {
    for (rtt, queue) in [(1, 200), (10, 400)] {
        let path = Path { timer: MS, ..Path::new(1000.0, rtt, queue) };
        let rate = goodput(path, Control::Cubic, 1, 2);
        assert!(rate > 850.0, "{rtt} ms: {rate} Mbit/s");
    }
}

#[test]
fn random_losses_are_sent_again_once() {
    for loss in [0.001, 0.01] {
        let simulation = transfer(Path::new(100.0, 20, 200).loses(loss), 3_000_000, |_| {});
        let stats = simulation.flows[0].sender.stats();
        let lost = simulation.lost * MSS;
        assert!(stats.retransmitted <= lost + lost / 10 + MSS, "{lost} lost, {stats:?}");
    }
}

#[test]
fn a_lost_tail_is_mended_by_a_probe() {
    let bytes = 20 * MSS;
    let simulation = transfer(Path::new(100.0, 50, 200), bytes, |simulation| {
        simulation.fate = Some(Box::new(lose(bytes - MSS, 1)));
    });
    let stats = simulation.flows[0].sender.stats();
    assert_eq!((stats.probes, stats.timeouts), (1, 0), "{stats:?}");
    assert!(simulation.now < 600 * MS, "it took {} ms", simulation.now / MS);
}

#[test]
fn several_lost_packets_of_a_tail_are_mended_after_one_probe() {
    let bytes = 20 * MSS;
    let simulation = transfer(Path::new(100.0, 50, 200), bytes, |simulation| {
        let mut lost = 0;
        simulation.fate = Some(Box::new(move |start, _| {
            let lose = start >= bytes - 5 * MSS && lost < 5;
            lost += u32::from(lose);
            lose
        }));
    });
    let stats = simulation.flows[0].sender.stats();
    assert_eq!((stats.probes, stats.timeouts), (1, 0), "{stats:?}");
}

#[test]
fn a_lost_retransmission_is_sent_again_without_a_timeout() {
    for times in 2..5 {
        let simulation = transfer(Path::new(100.0, 50, 200), 2000 * MSS, |simulation| {
            simulation.fate = Some(Box::new(lose(100 * MSS, times)));
        });
        let stats = simulation.flows[0].sender.stats();
        assert_eq!(stats.timeouts, 0, "lost {times} times: {stats:?}");
        assert_eq!(stats.retransmitted, u64::from(times) * MSS);
    }
}

#[test]
fn a_path_that_holds_everything_back_costs_no_window() {
    let simulation = transfer(Path::new(100.0, 50, 1000), 8_000_000, |simulation| {
        simulation.freeze = (500 * MS, 1100 * MS);
    });
    let sender = &simulation.flows[0].sender;
    let stats = sender.stats();
    assert!(stats.timeouts >= 1, "the pause is longer than the timeout: {stats:?}");
    assert!(stats.undone >= 1, "nothing was lost: {stats:?}");
    assert!(stats.retransmitted <= 10 * MSS, "{stats:?}");
    assert!(simulation.now < 1700 * MS, "it took {} ms", simulation.now / MS);
}

#[test]
fn an_outage_is_survived_and_its_end_noticed() {
    let outage = |_, now| (300 * MS..10_000 * MS).contains(&now);
    let slow = transfer(Path::new(100.0, 50, 200), 8_000_000, |simulation| {
        simulation.fate = Some(Box::new(outage));
    });
    assert!(slow.flows[0].sender.stats().timeouts >= 4);
    let told = transfer(Path::new(100.0, 50, 200), 8_000_000, |simulation| {
        simulation.fate = Some(Box::new(outage));
        simulation.nudge = Some(10_000 * MS);
    });
    assert!(told.now < 12_000 * MS && told.now < slow.now, "{} {}", told.now / MS, slow.now / MS);
}

#[test]
fn a_peer_without_sack_gets_everything() {
    for loss in [0.001, 0.02] {
        let path = Path { sack: false, ..Path::new(20.0, 20, 100).loses(loss) };
        transfer(path, 3_000_000, |_| {});
    }
}

#[test]
fn flows_share_a_path() {
    let mut simulation = Simulation::new(Path::new(100.0, 20, 100), &[Control::Cubic; 4], 1);
    (0..4).for_each(|flow| simulation.write(flow, 1 << 40));
    simulation.run(20 * SECOND);
    let rates: Vec<f64> = simulation.flows.iter().map(|flow| flow.received() as f64).collect();
    let sum: f64 = rates.iter().sum();
    let jain = sum * sum / (4.0 * rates.iter().map(|rate| rate * rate).sum::<f64>());
    assert!(jain > 0.9, "Jain's index {jain}, {rates:?}");
}

#[test]
#[ignore = "prints the table of paths; run it in release"]
fn table() {
    let clean = Path::new(100.0, 50, 200);
    let paths = [
        ("20 ms, queue 200", Path::new(100.0, 20, 200)),
        ("50 ms, queue 200", clean),
        ("200 ms, queue 800", Path::new(100.0, 200, 800)),
        ("20 ms, 0.1 %", Path::new(100.0, 20, 200).loses(0.001)),
        ("50 ms, 0.1 %", clean.loses(0.001)),
        ("100 ms, 0.1 %", Path::new(100.0, 100, 200).loses(0.001)),
        ("20 ms, 1 %", Path::new(100.0, 20, 200).loses(0.01)),
        ("50 ms, 1 %", clean.loses(0.01)),
        ("100 ms, 1 %", Path::new(100.0, 100, 200).loses(0.01)),
        ("50 ms, 2 %", clean.loses(0.02)),
        ("50 ms, 5 %", clean.loses(0.05)),
        ("50 ms, bursts of 5, 0.3 %", Path { burst: 5, ..clean.loses(0.003) }),
        ("50 ms, queue 30", Path::new(100.0, 50, 30)),
        ("reorder 1 %/8 ms", clean.reorders(0.01, 8)),
        ("reorder 2 %/20 ms", clean.reorders(0.02, 20)),
        ("10 Mbit/s, 30 ms, queue 30", Path::new(10.0, 30, 30)),
        ("10 Mbit/s, 30 ms, queue 30, 1 %", Path::new(10.0, 30, 30).loses(0.01)),
        ("1 Gbit/s, 1 ms, queue 200, timer 1 ms", Path { timer: MS, ..Path::new(1000.0, 1, 200) }),
        ("1 Gbit/s, 10 ms, queue 400, timer 1 ms", Path { timer: MS, ..Path::new(1000.0, 10, 400) }),
        (
            "5 Gbit/s, 0.2 ms, queue 100, timer 1 ms",
            Path { timer: MS, delay: MS / 10, ..Path::new(5000.0, 1, 100) },
        ),
        ("no SACK, 50 ms, 0.1 %", Path { sack: false, ..clean.loses(0.001) }),
    ];
    for (name, path) in paths {
        for control in CONTROLS {
            let seeds = if path.rate > 20e6 { 1 } else { 12 };
            let rate = goodput(path, control, seeds, 12);
            let ten = completion(path, control, 1, 10_000_000);
            println!("{name:40} {control:?} {rate:8.1} Mbit/s  10 MB {ten:8.0} ms");
        }
    }
    for control in CONTROLS {
        let stall = Path { delay: MS / 10, queue: 160_000, rate: 80e6, ..Path::new(1.0, 1, 1) };
        for timer in [0, MS] {
            let time = completion(Path { timer, ..stall }, control, 1, 24 << 20);
            println!("stall, timer {timer} {control:?} {time:.0} ms");
        }
        for bytes in [100_000, 1_000_000] {
            println!("{bytes} at 50 ms: {:.0} ms", completion(clean, control, 1, bytes));
        }
    }
}
