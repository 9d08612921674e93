//! What idle connections cost. A process of its own, because it looks at the memory of the whole process.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_netstack::{Budget, Stack, StackConfig, StackEvent, TcpOptions};
use adit_tunnel::{NetConfig, Prefix};

const FLOWS: usize = 1000;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells the memory of a process");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field is the number of resident pages") * 4096
}

fn stack(last: u8, now: Instant) -> Stack {
    let mut stack = Stack::new(StackConfig { seed: u64::from(last), budget: Budget::default() }, now);
    let address = Prefix::new([10, 0, 0, last].into(), 24).expect("24 bits fit into an address");
    let net =
        NetConfig { addresses: vec![address], routes: vec![address], mtu: 1420, ..NetConfig::default() };
    stack.configure(now, &net);
    stack
}

fn exchange(from: &mut Stack, to: &mut Stack, now: Instant) {
    from.poll_transmit(now, &mut |packet| {
        let _ = to.handle_packet(now, packet);
        true
    });
}

#[test]
fn an_idle_connection_costs_a_page_or_so() {
    let mut now = Instant::now();
    let (mut client, mut server) = (stack(1, now), stack(2, now));
    let port = 80;
    server.tcp_listen(port).expect("nothing listens yet");
    let before = resident();
    let mut open = 0;
    for _ in 0..FLOWS {
        let to = SocketAddr::from(([10, 0, 0, 2], port));
        client.tcp_connect(now, to, TcpOptions::default()).expect("the budget suffices");
        for _ in 0..3 {
            now += Duration::from_millis(1);
            exchange(&mut client, &mut server, now);
            exchange(&mut server, &mut client, now);
            while let Some(event) = server.poll_event() {
                match event {
                    StackEvent::Incoming { pending, .. } => {
                        server.tcp_accept(now, pending).expect("the budget suffices");
                    }
                    // Each of them has received something.
                    StackEvent::Tcp(id, _) => {
                        let n = server.tcp_recv_data(id)[0].len();
                        server.tcp_consumed(now, id, n);
                    }
                    _ => {}
                }
            }
            while let Some(event) = client.poll_event() {
                if let StackEvent::Tcp(id, adit_netstack::FlowEvent::Connected) = event {
                    open += 1;
                    client.tcp_send_space(id)[0][..5].copy_from_slice(b"hello");
                    client.tcp_sent(now, id, 5);
                }
            }
        }
    }
    let each = (resident() - before) / (2 * FLOWS);
    println!("{each} bytes for each end of an idle connection");
    assert_eq!((open, client.stats().flows, server.stats().flows), (FLOWS, FLOWS, FLOWS));
    // Buffers take memory as they are filled; two of 2 KiB are what a few bytes need, and one of them was enough here.
    assert!(each <= 6 * 1024, "{each} bytes");
}
