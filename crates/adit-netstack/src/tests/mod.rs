//! The stack against itself, in virtual time.

use std::time::Duration;

use adit_tunnel::HostPacket;

use crate::testing::{Link, Pair, pattern};
use crate::{CloseReason, FlowEvent, StackEvent, TcpOptions};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_stream_arrives_whole_in_both_directions_and_families() {
    for to in ["10.0.0.2:80", "[fd00::2]:80"] {
        let mut pair = Pair::new(1, Link::CLEAN);
        let (client, server, _) = pair.connect(to.parse().unwrap());
        let data = pattern(3_000_000);
        assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
        assert!(pair.transfer(1, (server, client), &data, 60 * SECOND) == data);
    }
}

#[test]
fn a_port_without_listener_refuses_at_once() {
    let mut pair = Pair::new(2, Link::CLEAN);
    let flow = pair.ends[0]
        .stack
        .tcp_connect(pair.now, "10.0.0.2:81".parse().unwrap(), TcpOptions::default())
        .unwrap();
    pair.run(SECOND / 10);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Closed(CloseReason::Refused))]);
    pair.ends[0].stack.tcp_release(flow);
    assert_eq!(pair.ends[0].stack.stats(), crate::StackStats::default());
}

#[test]
fn each_direction_ends_by_itself() {
    let mut pair = Pair::new(3, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.write(0, client, b"question");
    pair.ends[0].stack.tcp_shutdown(pair.now, client);
    pair.run(SECOND);
    assert_eq!(
        pair.take_events(1),
        [StackEvent::Tcp(server, FlowEvent::Readable), StackEvent::Tcp(server, FlowEvent::PeerShut)]
    );
    let mut question = Vec::new();
    pair.read(1, server, &mut question);
    assert_eq!(question, b"question");
    let answer = pattern(200_000);
    assert!(pair.transfer(1, (server, client), &answer, SECOND * 9) == answer);
    pair.ends[1].stack.tcp_shutdown(pair.now, server);
    pair.run(SECOND);
    assert_eq!(
        pair.take_events(1).last(),
        Some(&StackEvent::Tcp(server, FlowEvent::Closed(CloseReason::Finished)))
    );
    assert_eq!(
        pair.take_events(0).last(),
        Some(&StackEvent::Tcp(client, FlowEvent::Closed(CloseReason::Finished)))
    );
    pair.ends[0].stack.tcp_release(client);
    pair.ends[1].stack.tcp_release(server);
    assert_eq!(pair.ends[0].stack.stats().memory, 0);
    assert_eq!(pair.ends[1].stack.stats().memory, 0);
}

mod datagrams;
mod hostile;
mod lossy;
mod rules;
mod segments;

fn connect(pair: &mut Pair, to: &str) -> crate::FlowId {
    pair.ends[0].stack.tcp_connect(pair.now, to.parse().unwrap(), TcpOptions::default()).unwrap()
}

#[test]
fn a_reset_shows_as_reset_and_what_came_before_it_is_readable() {
    let mut pair = Pair::new(4, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.write(1, server, b"last words");
    pair.run(SECOND / 100);
    pair.ends[1].stack.tcp_abort(pair.now, server);
    pair.run(SECOND);
    assert_eq!(
        pair.take_events(0),
        [
            StackEvent::Tcp(client, FlowEvent::Readable),
            StackEvent::Tcp(client, FlowEvent::Closed(CloseReason::Reset))
        ]
    );
    assert_eq!(pair.take_events(1), [StackEvent::Tcp(server, FlowEvent::Closed(CloseReason::Aborted))]);
    let mut words = Vec::new();
    pair.read(0, client, &mut words);
    assert_eq!(words, b"last words");
}

#[test]
fn a_full_receiver_stops_the_sender_and_reading_lets_it_go_on() {
    let mut pair = Pair::new(5, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(6_000_000);
    let mut sent = 0;
    for _ in 0..100 {
        sent += pair.write(0, client, &data[sent..]);
        pair.run(SECOND);
    }
    // Both buffers are full, and only probes travel.
    assert!((1 << 21..3 << 20).contains(&sent), "{sent}");
    let mut received = Vec::new();
    while received.len() < data.len() {
        pair.read(1, server, &mut received);
        sent += pair.write(0, client, &data[sent..]);
        pair.run(SECOND);
    }
    assert!(received == data);
}

#[test]
fn writable_is_told_to_an_owner_that_found_no_room() {
    let mut pair = Pair::new(6, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.write(0, client, b"little");
    pair.run(SECOND);
    assert_eq!(pair.take_events(0), [], "there was room all the time");
    pair.write(0, client, &vec![1; 8 << 20]);
    pair.run(SECOND);
    let mut received = Vec::new();
    pair.read(1, server, &mut received);
    pair.run(SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(client, FlowEvent::Writable)]);
}

#[test]
fn an_owner_that_goes_leaves_nothing_behind() {
    let mut pair = Pair::new(7, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.write(0, client, &pattern(300_000));
    pair.ends[0].stack.tcp_release(client);
    pair.run(SECOND);
    let mut received = Vec::new();
    pair.read(1, server, &mut received);
    assert!(received == pattern(300_000), "what was sent arrives");
    assert!(pair.take_events(1).contains(&StackEvent::Tcp(server, FlowEvent::PeerShut)));
    pair.ends[1].stack.tcp_release(server);
    pair.run(SECOND);
    assert_eq!(pair.ends[0].stack.stats().flows + pair.ends[1].stack.stats().flows, 0);
    assert_eq!(pair.take_events(0), []);
}

#[test]
fn data_for_an_owner_that_has_gone_is_answered_with_a_reset() {
    let mut pair = Pair::new(8, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.ends[0].stack.tcp_release(client);
    pair.run(SECOND);
    pair.write(1, server, b"anybody?");
    pair.run(SECOND);
    assert_eq!(
        pair.take_events(1).last(),
        Some(&StackEvent::Tcp(server, FlowEvent::Closed(CloseReason::Reset)))
    );
    assert_eq!(pair.ends[0].stack.stats().flows, 0);
}

#[test]
fn an_orphan_whose_peer_never_ends_is_given_up() {
    let mut pair = Pair::new(9, Link::CLEAN);
    let (client, _server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.ends[0].stack.tcp_release(client);
    pair.run(200 * SECOND);
    assert_eq!(pair.ends[0].stack.stats(), crate::StackStats::default());
}

#[test]
fn a_time_out_ends_a_connection_only_where_it_was_asked_for() {
    let mut pair = Pair::new(10, Link { lost: 1000, ..Link::CLEAN });
    let to = "10.0.0.2:80".parse().unwrap();
    let patient = connect(&mut pair, "10.0.0.2:80");
    let options = TcpOptions { timeout: Some(5 * SECOND), ..TcpOptions::default() };
    let hasty = pair.ends[0].stack.tcp_connect(pair.now, to, options).unwrap();
    pair.run(600 * SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(hasty, FlowEvent::Closed(CloseReason::TimedOut))]);
    assert!(pair.ends[0].stack.tcp_addresses(patient).is_some());
}

#[test]
fn keepalives_travel_only_where_asked_for() {
    for (keepalive, expected) in [(None, 0), (Some(10 * SECOND), 5)] {
        let mut pair = Pair::new(11, Link::CLEAN);
        pair.ends[1].stack.tcp_listen(80).unwrap();
        let options = TcpOptions { keepalive, ..TcpOptions::default() };
        pair.ends[0].stack.tcp_connect(pair.now, "10.0.0.2:80".parse().unwrap(), options).unwrap();
        pair.accept();
        pair.run(SECOND);
        pair.ends[0].record = true;
        pair.run(55 * SECOND);
        assert_eq!(pair.ends[0].wire.len(), expected);
    }
}

#[test]
fn flows_outlive_an_outage_and_a_nudge_ends_it_at_once() {
    let mut pair = Pair::new(12, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.link.lost = 1000;
    pair.write(0, client, b"into the void");
    pair.run(400 * SECOND);
    pair.link.lost = 0;
    pair.ends[0].stack.nudge(pair.now);
    pair.run(SECOND / 20);
    let mut received = Vec::new();
    pair.read(1, server, &mut received);
    assert_eq!(received, b"into the void");
    assert_eq!(pair.take_events(0), []);
}

#[test]
fn a_nudge_does_not_count_towards_a_time_out() {
    let mut pair = Pair::new(17, Link::CLEAN);
    pair.ends[1].stack.tcp_listen(80).unwrap();
    let options = TcpOptions { timeout: Some(5 * SECOND), ..TcpOptions::default() };
    let flow = pair.ends[0].stack.tcp_connect(pair.now, "10.0.0.2:80".parse().unwrap(), options).unwrap();
    pair.accept();
    pair.run(SECOND);
    pair.take_events(0);
    pair.link.lost = 1000;
    pair.write(0, flow, b"into the void");
    for _ in 0..20 {
        pair.run(SECOND / 10);
        pair.ends[0].stack.nudge(pair.now);
    }
    pair.run(4 * SECOND);
    assert_eq!(pair.take_events(0), [], "backed-off timers that were brought forward are no silence");
    pair.run(2 * SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Closed(CloseReason::TimedOut))]);
}

#[test]
fn the_pair_of_a_finished_connection_rests_and_answers_a_repeated_fin() {
    let mut pair = Pair::new(13, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.ends[1].record = true;
    pair.ends[0].stack.tcp_release(client);
    pair.run(SECOND);
    pair.ends[1].stack.tcp_release(server);
    pair.run(SECOND);
    assert_eq!(pair.ends[0].stack.stats(), crate::StackStats::default(), "TIME-WAIT holds no buffers");
    let fin = pair.ends[1].wire.pop().unwrap();
    pair.ends[0].record = true;
    pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&fin)).unwrap();
    pair.exchange();
    assert_eq!(pair.ends[0].wire.len(), 1, "an acknowledgment");
    pair.now += 61 * SECOND;
    let dropped = pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&fin));
    assert_eq!(dropped, Err(adit_tunnel::Dropped::Unexpected), "after TIME-WAIT nobody remembers");
}

#[test]
fn a_pending_connection_can_be_refused_ignored_or_accepted_late() {
    let mut pair = Pair::new(14, Link::CLEAN);
    let listener = pair.ends[1].stack.tcp_listen(80).unwrap();
    assert_eq!(pair.ends[1].stack.tcp_listen(80), Err(crate::OpenError::PortInUse(80)));
    let ask = |pair: &mut Pair| {
        let flow = connect(pair, "10.0.0.2:80");
        pair.run(10 * SECOND);
        let incoming = pair.take_events(1);
        let [StackEvent::Incoming { listener: asked, pending, .. }] = incoming[..] else {
            panic!("one event although the SYN was sent several times, not {incoming:?}")
        };
        assert_eq!(asked, listener);
        (flow, pending)
    };
    let (flow, pending) = ask(&mut pair);
    pair.ends[1].stack.tcp_refuse(pair.now, pending);
    pair.run(SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Closed(CloseReason::Refused))]);

    let (flow, pending) = ask(&mut pair);
    pair.ends[1].stack.tcp_accept(pair.now, pending).unwrap();
    pair.run(SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Connected)]);
    assert_eq!(pair.ends[1].stack.tcp_accept(pair.now, pending), Err(crate::OpenError::Gone));
    pair.take_events(1);

    let (flow, pending) = ask(&mut pair);
    pair.ends[1].stack.tcp_ignore(pending);
    pair.ends[0].stack.tcp_abort(pair.now, flow);
    pair.run(SECOND);
    assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Closed(CloseReason::Aborted))]);
}

#[test]
fn without_a_route_or_an_address_nothing_opens() {
    let mut pair = Pair::new(15, Link::CLEAN);
    let mut net = crate::testing::net_config(1, 1420);
    net.routes = vec!["10.0.0.0/8".parse().unwrap()];
    net.addresses.truncate(1);
    let stack = &mut pair.ends[0].stack;
    stack.configure(pair.now, &net);
    for to in ["192.168.0.1:80", "[fd00::2]:80"] {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let refused = stack.tcp_connect(pair.now, to, TcpOptions::default());
        assert_eq!(refused, Err(crate::OpenError::NoRoute(to.ip())));
        assert_eq!(stack.udp_open(0, Some(to)), Err(crate::OpenError::NoRoute(to.ip())));
    }
}

#[test]
fn buffers_are_used_again_in_whatever_state_they_were_left() {
    let mut pair = Pair::new(16, Link::CLEAN);
    let (client, server, listener) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.ends[1].stack.tcp_unlisten(listener);
    let data = pattern(100_000);
    for round in 0..20 {
        // Ended by an RST from the peer, by one of ours, in the middle of data, or before it began.
        let flow = connect(&mut pair, if round % 2 == 0 { "10.0.0.2:81" } else { "10.0.0.9:82" });
        pair.run(SECOND / 50);
        pair.ends[0].stack.tcp_release(flow);
        let (client, server, listener) = pair.connect("10.0.0.2:83".parse().unwrap());
        assert!(pair.transfer(0, (client, server), &data, 10 * SECOND) == data);
        pair.write(0, client, &data);
        if round % 3 == 0 {
            pair.ends[1].stack.tcp_abort(pair.now, server);
        }
        pair.ends[0].stack.tcp_abort(pair.now, client);
        pair.run(SECOND);
        pair.ends[0].stack.tcp_release(client);
        pair.ends[1].stack.tcp_release(server);
        pair.ends[1].stack.tcp_unlisten(listener);
        pair.run(SECOND);
    }
    assert!(pair.transfer(0, (client, server), &data, 10 * SECOND) == data);
    assert_eq!(pair.ends[0].stack.stats().flows, 1);
}

/// A window is told in units of its scale, so that its end moves back by up to a unit when it is told again. A peer that
/// had filled the earlier one is beyond the later one by a few bytes, and its acknowledgments count all the same
/// (RFC 9293 §3.10.7.4): else two full windows wait for each other.
#[test]
fn an_acknowledgment_from_beyond_a_full_window_is_heard() {
    let mut pair = Pair::new(10, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(4_000_000);
    let mut sent = 0;
    for _ in 0..200 {
        sent += pair.write(0, client, &data[sent..]);
        pair.step(pair.now + SECOND);
    }
    let idle = pair.ends[1].stack.tcp_send_space(server)[0].len();
    pair.write(1, server, b"answer");
    pair.ends[0].record = true;
    pair.run(SECOND / 1000);
    let deliver = |pair: &mut Pair| {
        for mut packet in std::mem::take(&mut pair.ends[0].wire) {
            let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap()).wrapping_add(12);
            packet[24..28].copy_from_slice(&sequence.to_be_bytes());
            // A segment size marks checksums as verified.
            let _ = pair.ends[1].stack.handle_packet(pair.now, HostPacket::segmented(&packet, 1380));
        }
    };
    // Nothing but the altered acknowledgments reaches the server.
    pair.link.lost = 1000;
    let until = pair.now + SECOND;
    while pair.step(until) {
        deliver(&mut pair);
    }
    assert_eq!(pair.ends[1].stack.tcp_send_space(server)[0].len(), idle);
}
