//! Goodput and completion times on simulated paths.

use crate::CongestionControl as Control;

use super::simulation::{MS, MSS, Path, SECOND, Simulation, completion, goodput};

const CONTROLS: [Control; 2] = [Control::Cubic, Control::Bbr];

/// Runs a transfer to its end and returns the simulation.
fn transfer(path: Path, bytes: u64, prepare: impl FnOnce(&mut Simulation)) -> Simulation {
    transfer_with(Control::Cubic, path, bytes, prepare)
}

fn transfer_with(
    control: Control,
    path: Path,
    bytes: u64,
    prepare: impl FnOnce(&mut Simulation),
) -> Simulation {
    let mut simulation = Simulation::new(path, &[control], 1);
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
    for control in CONTROLS {
        let rate = goodput(Path::new(100.0, 50, 200), control, 1, 8);
        assert!(rate > 88.0, "{control:?}: {rate} Mbit/s");
    }
}

#[test]
fn a_path_with_a_shallow_queue_is_filled() {
    for control in CONTROLS {
        let rate = goodput(Path::new(100.0, 50, 30), control, 1, 8);
        assert!(rate > 75.0, "{control:?}: {rate} Mbit/s");
    }
}

#[test]
fn reordering_is_not_taken_for_loss() {
    for (part, later, least) in [(0.01, 8, 85.0), (0.02, 20, 80.0)] {
        let path = Path::new(100.0, 50, 200).reorders(part, later);
        for control in CONTROLS {
            let rate = goodput(path, control, 1, 6);
            assert!(rate > least, "{control:?}, {part} by {later} ms: {rate} Mbit/s");
        }
    }
}

#[test]
fn a_buffer_that_a_super_segment_nearly_fills_does_not_stall_the_transfer() {
    let path = Path { delay: MS / 10, queue: 160_000, rate: 80e6, ..Path::new(1.0, 1, 1) };
    for (timer, control) in [(0, Control::Cubic), (MS, Control::Cubic), (MS, Control::Bbr)] {
        let time = completion(Path { timer, ..path }, control, 1, 24 << 20);
        assert!(time < 400.0, "{control:?}: 24 MiB at 80 MB/s take {time} ms, timers of {timer} ns");
    }
}

#[test]
fn timers_of_a_millisecond_do_not_slow_a_fast_path() {
    for (rtt, queue) in [(1, 200), (10, 400)] {
        let path = Path { timer: MS, ..Path::new(1000.0, rtt, queue) };
        for control in CONTROLS {
            let rate = goodput(path, control, 1, 1);
            assert!(rate > 850.0, "{control:?}, {rtt} ms: {rate} Mbit/s");
        }
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
    for control in CONTROLS {
        survive_an_outage(control);
    }
}

fn survive_an_outage(control: Control) {
    let outage = |_, now| (300 * MS..10_000 * MS).contains(&now);
    let slow = transfer_with(control, Path::new(100.0, 50, 200), 8_000_000, |simulation| {
        simulation.fate = Some(Box::new(outage));
    });
    assert!(slow.flows[0].sender.stats().timeouts >= 4);
    let told = transfer_with(control, Path::new(100.0, 50, 200), 8_000_000, |simulation| {
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

/// What each of several flows delivers in `seconds`, after half of that again for settling.
fn shares(path: Path, controls: &[Control], seconds: u64) -> Vec<f64> {
    let mut simulation = Simulation::new(path, controls, 1);
    (0..controls.len()).for_each(|flow| simulation.write(flow, 1 << 40));
    simulation.run(seconds * SECOND / 2);
    let before: Vec<u64> = simulation.flows.iter().map(|flow| flow.received()).collect();
    simulation.run(seconds * SECOND * 3 / 2);
    simulation.flows.iter().zip(before).map(|(flow, before)| (flow.received() - before) as f64).collect()
}

/// Jain's index: 1 if all are equal.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
}

#[test]
fn flows_share_a_path() {
    for (control, least) in [(Control::Cubic, 0.9), (Control::Bbr, 0.8)] {
        let shares = shares(Path::new(50.0, 20, 60), &[control; 4], 20);
        assert!(jain(&shares) > least, "{control:?}: {shares:?}");
    }
}

#[test]
fn a_model_leaves_cubic_alive() {
    let controls = [Control::Bbr, Control::Bbr, Control::Cubic, Control::Cubic];
    let shares = shares(Path::new(50.0, 20, 60), &controls, 30);
    let part = (shares[0] + shares[1]) / shares.iter().sum::<f64>();
    assert!(part < 0.8, "{part} of the path: {shares:?}");
}

#[test]
fn a_model_fills_a_path_that_loses_at_random() {
    for (loss, least) in [(0.001, 85.0), (0.01, 75.0)] {
        let rate = goodput(Path::new(100.0, 50, 200).loses(loss), Control::Bbr, 2, 6);
        assert!(rate > least, "{loss}: {rate} Mbit/s");
    }
}

#[test]
#[ignore = "prints how flows share a path; run it in release"]
fn fairness() {
    let (bbr, cubic) = (Control::Bbr, Control::Cubic);
    for queue in [30, 200, 420, 1700] {
        let path = Path::new(100.0, 50, queue);
        let two = shares(path, &[bbr, bbr, cubic, cubic], 60);
        let part = (two[0] + two[1]) / two.iter().sum::<f64>();
        let [cubics, bbrs] = [cubic, bbr].map(|control| jain(&shares(path, &[control; 4], 60)));
        println!(
            "queue {queue:5}: two BBR beside two CUBIC {part:.2}; Jain: CUBIC {cubics:.2}, BBR {bbrs:.2}"
        );
    }
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
