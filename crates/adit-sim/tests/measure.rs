//! The measurements measure. A program of its own: they look for the threads of their engines by name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use adit_sim::measure::{Direction, Loopback, cipher, loopback_udp};

/// No time is asserted: only what must hold on any machine.
#[test]
fn every_figure_comes_from_bytes_that_arrived_and_work_that_was_done() {
    let time = Duration::from_millis(150);
    let cipher = cipher(time);
    let udp = loopback_udp(time).unwrap();
    let loopback = Loopback::start().unwrap();
    let up = loopback.transfer(Direction::Up, time).unwrap();
    let down = loopback.transfer(Direction::Down, time).unwrap();
    for figure in [cipher, udp, up.client, up.server, down.client, down.server] {
        assert!(figure.bytes > 0 && !figure.wall.is_zero() && !figure.cpu.is_zero(), "{figure:?}");
    }
    for transfer in [up, down] {
        assert_eq!(transfer.client.bytes, transfer.server.bytes, "what one end sends, the other receives");
        // CPU time for a byte hardly depends on what else runs: both ends together cost more than their cipher.
        let both = transfer.client.cpu_s_per_gb() + transfer.server.cpu_s_per_gb();
        assert!(both > cipher.cpu_s_per_gb() * 0.5, "{transfer:?} is cheaper than its cipher, {cipher:?}");
    }
    let trips = loopback.round_trips(20).unwrap();
    assert_eq!(trips.len(), 20);
    assert!(trips.iter().all(|trip| !trip.is_zero()));
}
