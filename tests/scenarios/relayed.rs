//! TCP flows through a relay that keeps 32 packets for each of its clients, and drops the rest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use adit_netstack::{Budget, CongestionControl, FlowId, Stack, StackConfig, StackEvent, TcpOptions};
use adit_sim::net::{Bottleneck, Relay};
use adit_tunnel::NetConfig;

use crate::lab::{millis, secs};
use crate::tailscale::{INNER, Tailnet};

/// What the reference keeps for a client.
const QUEUE: usize = 32;
const SIZE: usize = 8 << 20;

/// What became of a transfer.
#[derive(Debug)]
struct Outcome {
    took: Duration,
    passed: u64,
    dropped: u64,
}

fn stack(i: usize) -> Stack {
    let now = std::time::Instant::now();
    let mut stack = Stack::new(StackConfig { seed: i as u64, budget: Budget::default() }, now);
    let config = NetConfig {
        addresses: vec![format!("{}/32", INNER[i]).parse().unwrap()],
        routes: vec!["100.64.0.0/10".parse().unwrap()],
        mtu: 1280,
        ..NetConfig::default()
    };
    stack.configure(now, &config);
    stack
}

/// Moves [`SIZE`] bytes from the first node to the second, or back if `down`, through a relay of this rate at a distance of
/// `delay`.
fn transfer(rate: u64, delay: Duration, congestion: CongestionControl, down: bool) -> Outcome {
    let bottleneck = Bottleneck::new(rate, QUEUE);
    let relay = || Relay::with_bottleneck(bottleneck.clone());
    let mut tailnet = Tailnet::with(7, [None, None], relay, stack);
    tailnet.world.set_stream_delay(delay);
    tailnet.cut_udp(0, true);
    tailnet.run(secs(5));
    let (now, to) = (tailnet.world.now(), format!("{}:80", INNER[1]).parse().unwrap());
    tailnet.world.end(tailnet.nodes[1]).tcp_listen(80).unwrap();
    let options = TcpOptions { congestion, ..TcpOptions::default() };
    let caller = tailnet.world.end(tailnet.nodes[0]).tcp_connect(now, to, options).unwrap();
    tailnet.world.wake(tailnet.nodes[0]);
    let mut called = None;
    let (mut written, mut read, mut began) = (0, 0, tailnet.world.elapsed());
    while read < SIZE {
        assert!(tailnet.world.elapsed() < began + secs(120), "{read} bytes have arrived");
        tailnet.world.run_for(delay.clamp(Duration::from_micros(200), millis(2)));
        let (now, elapsed) = (tailnet.world.now(), tailnet.world.elapsed());
        let stack = tailnet.world.end(tailnet.nodes[1]);
        while let Some(event) = stack.poll_event() {
            if let StackEvent::Incoming { pending, .. } = event {
                called = Some(stack.tcp_accept(now, pending).unwrap());
                // Finding each other is another scenario's subject.
                began = elapsed;
            }
        }
        let Some(called) = called else { continue };
        let ends = [(tailnet.nodes[0], caller), (tailnet.nodes[1], called)];
        let [from, to] = if down { [ends[1], ends[0]] } else { ends };
        written += write(tailnet.world.end(from.0), now, from.1, SIZE - written);
        read += discard(tailnet.world.end(to.0), now, to.1);
        tailnet.nodes.iter().for_each(|node| tailnet.world.wake(*node));
    }
    assert_eq!(tailnet.direct(0), None, "all of it went through the relay");
    Outcome {
        took: tailnet.world.elapsed() - began,
        passed: bottleneck.passed.load(Ordering::Relaxed),
        dropped: bottleneck.dropped.load(Ordering::Relaxed),
    }
}

fn write(stack: &mut Stack, now: std::time::Instant, flow: FlowId, most: usize) -> usize {
    let count = stack.tcp_send_space(flow).map(|part| part.len()).iter().sum::<usize>().min(most);
    stack.tcp_sent(now, flow, count);
    count
}

fn discard(stack: &mut Stack, now: std::time::Instant, flow: FlowId) -> usize {
    let count = stack.tcp_recv_data(flow).map(<[u8]>::len).iter().sum();
    stack.tcp_consumed(now, flow, count);
    count
}

#[test]
fn a_relay_that_drops_is_answered_with_pacing_and_not_with_a_storm_of_retransmissions() {
    for congestion in [CongestionControl::Cubic, CongestionControl::Bbr] {
        for (rate, delay) in
            [(25_000_000, Duration::from_micros(50)), (5_000_000, millis(10)), (5_000_000, millis(1))]
        {
            for down in [false, true] {
                let outcome = transfer(rate, delay, congestion, down);
                assert!(
                    outcome.dropped * 200 <= outcome.passed,
                    "{congestion:?}, {delay:?}, {down}: {outcome:?}"
                );
                let least = SIZE as f64 / rate as f64;
                let took = outcome.took.as_secs_f64();
                assert!(
                    took < 1.2 * least + 1.5,
                    "{congestion:?}, {delay:?}, {down}: {took} s for {least} s"
                );
            }
        }
    }
}
