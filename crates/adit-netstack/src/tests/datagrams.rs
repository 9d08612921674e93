use std::net::SocketAddr;

use adit_tunnel::Dropped;

use super::SECOND;
use crate::testing::{Link, Pair, pattern};
use crate::{OpenError, PingError, StackEvent};

fn received(pair: &mut Pair, end: usize, id: crate::UdpId) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut datagrams = Vec::new();
    pair.ends[end].stack.udp_recv(id, &mut |from, payload| {
        datagrams.push((from, payload.to_vec()));
        true
    });
    datagrams
}

#[test]
fn datagrams_travel_with_their_addresses() {
    for (to, from) in [("10.0.0.2:53", "10.0.0.1"), ("[fd00::2]:53", "fd00::1")] {
        let mut pair = Pair::new(1, Link::CLEAN);
        let to: SocketAddr = to.parse().unwrap();
        let server = pair.ends[1].stack.udp_open(53, None).unwrap();
        let client = pair.ends[0].stack.udp_open(0, Some(to)).unwrap();
        let local = pair.ends[0].stack.udp_local(client).unwrap();
        assert_eq!(local.ip(), from.parse::<std::net::IpAddr>().unwrap());
        for payload in [&b""[..], b"question"] {
            pair.ends[0].stack.udp_send(pair.now, client, to, payload).unwrap();
        }
        pair.run(SECOND);
        assert_eq!(pair.take_events(1), [StackEvent::UdpReadable(server)]);
        let expected = [(local, b"".to_vec()), (local, b"question".to_vec())];
        assert_eq!(received(&mut pair, 1, server), expected);
        pair.ends[1].stack.udp_send(pair.now, server, local, b"answer").unwrap();
        pair.run(SECOND);
        assert_eq!(pair.take_events(0), [StackEvent::UdpReadable(client)]);
        assert_eq!(received(&mut pair, 0, client), [(to, b"answer".to_vec())]);
    }
}

#[test]
fn a_connected_endpoint_hears_only_its_peer() {
    let mut pair = Pair::new(2, Link::CLEAN);
    let client = pair.ends[0].stack.udp_open(5000, Some("10.0.0.2:53".parse().unwrap())).unwrap();
    let other = pair.ends[1].stack.udp_open(54, None).unwrap();
    pair.ends[1].stack.udp_send(pair.now, other, "10.0.0.1:5000".parse().unwrap(), b"forged").unwrap();
    pair.run(SECOND);
    assert_eq!(received(&mut pair, 0, client), []);
}

#[test]
fn a_closed_port_is_reported_to_the_sender() {
    for (to, kind, code) in [("10.0.0.2:99", 3, 3), ("[fd00::2]:99", 1, 4)] {
        let mut pair = Pair::new(3, Link::CLEAN);
        let to: SocketAddr = to.parse().unwrap();
        let id = pair.ends[0].stack.udp_open(0, None).unwrap();
        pair.ends[0].stack.udp_send(pair.now, id, to, b"hello").unwrap();
        pair.run(SECOND);
        assert_eq!(pair.take_events(0), [StackEvent::UdpUnreachable { id, to, from: to.ip(), kind, code }]);
    }
}

#[test]
fn icmp_errors_of_ours_are_bounded() {
    let mut pair = Pair::new(4, Link::CLEAN);
    let id = pair.ends[0].stack.udp_open(0, None).unwrap();
    pair.ends[1].record = true;
    for _ in 0..500 {
        pair.ends[0].stack.udp_send(pair.now, id, "10.0.0.2:99".parse().unwrap(), b"x").unwrap();
    }
    pair.run(SECOND / 100);
    assert_eq!(pair.ends[1].wire.len(), 100);
}

#[test]
fn queues_are_bounded_and_say_so() {
    let mut pair = Pair::new(5, Link::CLEAN);
    let to = "10.0.0.2:53".parse().unwrap();
    let server = pair.ends[1].stack.udp_open(53, None).unwrap();
    let client = pair.ends[0].stack.udp_open(0, None).unwrap();
    let mut sent = 0;
    let full = loop {
        match pair.ends[0].stack.udp_send(pair.now, client, to, &[7; 1000]) {
            Ok(()) => sent += 1,
            Err(dropped) => break dropped,
        }
    };
    assert_eq!(full, Dropped::Backpressure);
    pair.run(SECOND);
    let arrived = received(&mut pair, 1, server).len();
    assert!(arrived > 100 && arrived < sent, "{arrived} of {sent}");
    assert_eq!(pair.ends[0].stack.udp_send(pair.now, client, to, &[7; 65_508]), Err(Dropped::TooBig));
    assert_eq!(pair.ends[0].stack.udp_open(0, None).map(|_| ()), Ok(()));
}

#[test]
fn ports_are_taken_once_and_given_back() {
    let mut pair = Pair::new(6, Link::CLEAN);
    let stack = &mut pair.ends[0].stack;
    let id = stack.udp_open(53, None).unwrap();
    assert_eq!(stack.udp_open(53, None), Err(OpenError::PortInUse(53)));
    stack.udp_close(id);
    let again = stack.udp_open(53, None).unwrap();
    assert_ne!(id, again);
    assert_eq!(stack.udp_send(pair.now, id, "10.0.0.2:1".parse().unwrap(), b""), Err(Dropped::Unexpected));
    stack.udp_close(again);
    assert_eq!(stack.stats(), crate::StackStats::default());
}

#[test]
fn large_datagrams_travel_in_fragments() {
    for to in ["10.0.0.2:53", "[fd00::2]:53"] {
        let mut pair = Pair::new(7, Link { late: 500, ..Link::CLEAN });
        let to: SocketAddr = to.parse().unwrap();
        let server = pair.ends[1].stack.udp_open(53, None).unwrap();
        let client = pair.ends[0].stack.udp_open(0, None).unwrap();
        pair.ends[0].record = true;
        for size in [1393, 8192, 60_000] {
            pair.ends[0].stack.udp_send(pair.now, client, to, &pattern(size)).unwrap();
            pair.run(SECOND);
            let datagrams = received(&mut pair, 1, server);
            assert!(datagrams.len() == 1 && datagrams[0].1 == pattern(size), "{size} bytes to {to}");
        }
        assert!(pair.ends[0].wire.iter().all(|packet| packet.len() <= 1420));
    }
}

#[test]
fn a_ping_is_answered_or_times_out() {
    for (to, nobody) in [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")] {
        let mut pair = Pair::new(8, Link::CLEAN);
        let stack = &mut pair.ends[0].stack;
        let id = stack.ping(pair.now, to.parse().unwrap(), 56, 3 * SECOND).unwrap();
        let lost = stack.ping(pair.now, nobody.parse().unwrap(), 56, 3 * SECOND).unwrap();
        pair.run(10 * SECOND);
        let events = pair.take_events(0);
        let [StackEvent::Pong(first, Ok(pong)), second] = events[..] else { panic!("{events:?}") };
        assert_eq!((first, pong.from.to_string(), pong.size, pong.hop_limit), (id, to.to_owned(), 56, 64));
        assert_eq!(pong.rtt, 2 * Link::CLEAN.delay);
        assert_eq!(second, StackEvent::Pong(lost, Err(PingError::TimedOut)));
    }
}
