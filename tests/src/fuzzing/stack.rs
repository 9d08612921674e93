//! Packets for the network stack.

use std::time::{Duration, Instant};

use adit_netstack::{Budget, Stack, StackConfig, StackEvent, TcpOptions};
use adit_tunnel::view::{IpView, protocol};
use adit_tunnel::{Checksum, HostPacket, NetConfig};

use super::pieces;

/// Gives packets to a stack with an open connection, a listener, a UDP endpoint and a ping. Checksums are made right,
/// so that the bytes get further than that. What the stack answers are packets with right checksums, from itself.
pub fn stack_packet(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut stack =
        Stack::new(StackConfig { seed: 1, budget: Budget { bytes: 1 << 20, max_flow: 1 << 16 } }, now);
    let config = NetConfig {
        addresses: vec!["10.0.0.2/24".parse().expect("a prefix"), "fd00::2/64".parse().expect("a prefix")],
        routes: vec!["10.0.0.0/24".parse().expect("a prefix"), "fd00::/64".parse().expect("a prefix")],
        mtu: 1420,
        ..NetConfig::default()
    };
    stack.configure(now, &config);
    let peer = "10.0.0.1:1000".parse().expect("an address");
    let flow = stack.tcp_connect(now, peer, TcpOptions::default()).expect("the route is there");
    stack.tcp_listen(2000).expect("the port is free");
    let udp = stack.udp_open(2000, None).expect("the port is free");
    stack.udp_send(now, udp, peer, b"hello").expect("the route is there");
    stack.ping(now, peer.ip(), 8, Duration::from_secs(1)).expect("the route is there");

    for piece in pieces(bytes) {
        let mut packet = piece.to_vec();
        fix_checksums(&mut packet);
        let _ = stack.handle_packet(now, HostPacket::new(&packet));
        while let Some(event) = stack.poll_event() {
            match event {
                StackEvent::Incoming { pending, .. } => {
                    let _ = stack.tcp_accept(now, pending);
                }
                StackEvent::UdpReadable(id) => stack.udp_recv(id, &mut |_, _| true),
                StackEvent::Tcp(id, _) => {
                    let length: usize = stack.tcp_recv_data(id).iter().map(|part| part.len()).sum();
                    stack.tcp_consumed(now, id, length);
                }
                StackEvent::UdpUnreachable { .. } | StackEvent::Pong(..) => {}
            }
        }
        transmit(&mut stack, now, &config);
        now += Duration::from_millis(50);
        stack.handle_timeout(now);
        transmit(&mut stack, now, &config);
        assert!(
            stack.poll_timeout().is_none_or(|deadline| deadline.at > now),
            "a timeout that was handled is over: {:?}",
            stack.poll_timeout()
        );
        assert!(stack.stats().memory <= 1 << 20, "the budget holds");
    }
    stack.tcp_abort(now, flow);
    stack.tcp_release(flow);
    transmit(&mut stack, now, &config);
}

fn transmit(stack: &mut Stack, now: Instant, config: &NetConfig) {
    let mut count = 0;
    stack.poll_transmit(now, &mut |packet| {
        count += 1;
        assert!(count < 1000, "one packet leads to a limited number of answers");
        let ip = IpView::parse_unsized(packet.bytes()).expect("the stack emits packets");
        assert!(
            config.addresses.iter().any(|own| own.address() == ip.source()),
            "from an address of its own"
        );
        if packet.segment().is_none() {
            assert!(ip.transport_checksum_ok(), "with right checksums");
        }
        true
    });
}

/// Makes the checksums of the IP, TCP, UDP and ICMP headers right, where there are any.
pub(super) fn fix_checksums(packet: &mut [u8]) {
    let Ok(ip) = IpView::parse(packet) else { return };
    let (start, end, v4) = (ip.header_len(), ip.bytes().len(), ip.is_v4());
    let at = match ip.protocol() {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return,
    };
    if end - start < at + 2 {
        return;
    }
    let sum = if ip.protocol() == protocol::ICMP {
        Checksum::new()
    } else {
        Checksum::pseudo_header(ip.source(), ip.destination(), ip.protocol(), end - start)
    };
    packet[start + at..start + at + 2].fill(0);
    let checksum = sum.bytes(&packet[start..end]).finish();
    packet[start + at..start + at + 2].copy_from_slice(&checksum.to_be_bytes());
    if v4 {
        packet[10..12].fill(0);
        let checksum = Checksum::new().bytes(&packet[..start]).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}
