use adit_tunnel::view::{IpView, tcp_flag};
use adit_tunnel::{Dropped, HostPacket};
use proptest::prelude::*;

use super::SECOND;
use crate::emit::{Backlog, Bare};
use crate::testing::{Link, Pair, pattern};
use crate::{FlowEvent, StackEvent};

fn syn(port: u16) -> Vec<u8> {
    let mut backlog = Backlog::new(1000, 10);
    let bare = Bare {
        source: ("10.0.0.2".parse().unwrap(), port),
        destination: ("10.0.0.1".parse().unwrap(), 80),
        sequence: 1,
        acknowledgment: 0,
        flags: tcp_flag::SYN,
        window: 1000,
    };
    bare.send(&mut backlog);
    let mut packet = Vec::new();
    backlog.drain(|(), bytes| {
        packet = bytes.to_vec();
        true
    });
    packet
}

#[test]
fn a_flood_of_syns_is_bounded() {
    let mut pair = Pair::new(1, Link::CLEAN);
    let stack = &mut pair.ends[0].stack;
    stack.tcp_listen(80).unwrap();
    let results: Vec<_> =
        (1..=1000).map(|port| stack.handle_packet(pair.now, HostPacket::new(&syn(port)))).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 256);
    assert_eq!(results.last(), Some(&Err(Dropped::Backpressure)));
    assert_eq!(stack.stats().memory, 0, "a SYN takes no buffers");
    // The peers have given up: there is room for others.
    let later = pair.now + 130 * SECOND;
    assert_eq!(stack.handle_packet(later, HostPacket::new(&syn(2000))), Ok(()));
}

#[test]
fn a_flood_of_stray_segments_is_answered_within_bounds() {
    let mut pair = Pair::new(2, Link::CLEAN);
    for port in 1..60_000 {
        let _ = pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&syn(port)));
    }
    pair.ends[0].record = true;
    pair.exchange();
    let answers = &pair.ends[0].wire;
    assert_eq!(answers.len(), 1024);
    let first = IpView::parse(&answers[0]).unwrap().tcp().unwrap();
    assert_eq!((first.flags(), first.acknowledgment()), (tcp_flag::RST | tcp_flag::ACK, 2));
}

#[test]
fn forged_and_foreign_packets_are_dropped() {
    let mut pair = Pair::new(3, Link::CLEAN);
    let good = syn(7);
    // Truncated, then a wrong header length, IP checksum, TCP checksum and TCP header length.
    for len in [0, 19, 39] {
        let dropped = pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&good[..len]));
        assert_eq!(dropped, Err(Dropped::Malformed), "{len} bytes");
    }
    for (at, value) in [(0, 0x02), (8, 0x01), (24, 0x01), (32, 0xf0)] {
        let mut packet = good.clone();
        packet[at] ^= value;
        let dropped = pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&packet));
        assert_eq!(dropped, Err(Dropped::Malformed), "byte {at}");
    }
    let net = crate::testing::net_config(9, 1420);
    pair.ends[0].stack.configure(pair.now, &net);
    assert_eq!(pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&good)), Err(Dropped::Unexpected));
    let net = adit_tunnel::NetConfig {
        addresses: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
        ..net
    };
    pair.ends[0].stack.configure(pair.now, &net);
    assert_eq!(
        pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&good)),
        Err(Dropped::SourceNotAllowed)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_bytes_make_the_stack_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), segment in proptest::option::of(any::<u16>())) {
        let mut pair = Pair::new(4, Link::CLEAN);
        let packet = match segment {
            Some(segment) => HostPacket::segmented(&bytes, segment),
            None => HostPacket::new(&bytes),
        };
        let _ = pair.ends[0].stack.handle_packet(pair.now, packet);
        pair.run(SECOND);
    }

    /// Damaged packets of a real connection, marked as verified so that no checksum keeps them out.
    #[test]
    fn no_damage_makes_the_stack_panic(
        seed in any::<u64>(),
        v6 in any::<bool>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let mut pair = Pair::new(seed, Link::CLEAN);
        pair.ends[0].record = true;
        let (client, server, _) = pair.connect(if v6 { "[fd00::2]:80" } else { "10.0.0.2:80" }.parse().unwrap());
        pair.transfer(0, (client, server), &pattern(20_000), 10 * SECOND);
        pair.ends[0].stack.tcp_shutdown(pair.now, client);
        pair.exchange();
        let wire = std::mem::take(&mut pair.ends[0].wire);
        for (which, at, value) in damage {
            let mut packet = wire[which.index(wire.len())].clone();
            // The headers are where the decisions are.
            let end = packet.len().min(100);
            packet[at.index(end)] ^= value;
            let _ = pair.ends[1].stack.handle_packet(pair.now, HostPacket::segmented(&packet, 1380));
            pair.exchange();
        }
        pair.run(100 * SECOND);
    }

    /// Whatever a stranger sends, an established connection goes on, unless the stranger guesses its numbers.
    #[test]
    fn a_stranger_cannot_break_a_connection(tail in proptest::collection::vec(any::<u8>(), 20..60)) {
        let mut pair = Pair::new(5, Link::CLEAN);
        let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
        let mut packet = syn(7);
        packet.truncate(20);
        packet[9] = tail[0] % 20;
        packet.extend(&tail);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let _ = pair.ends[0].stack.handle_packet(pair.now, HostPacket::segmented(&packet, 1380));
        let data = pattern(5000);
        prop_assert!(pair.transfer(0, (client, server), &data, 10 * SECOND) == data);
        prop_assert!(!pair.take_events(0).iter().any(|event| matches!(event, StackEvent::Tcp(_, FlowEvent::Closed(_)))));
    }
}
