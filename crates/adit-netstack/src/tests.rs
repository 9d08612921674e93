//! The stack against itself, in virtual time.

use std::time::Duration;

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
