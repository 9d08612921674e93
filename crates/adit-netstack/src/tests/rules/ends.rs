use super::*;
use crate::CloseReason;

fn short(seen: &[Seen]) -> Vec<(u8, i64, usize, i64)> {
    seen.iter().map(Seen::short).collect()
}

#[test]
fn a_reset_counts_only_with_exactly_the_next_number() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment::new(RST, 5000, 0));
    assert_eq!(short(&peer.see()), [(ACK, 0, 0, 0)], "in the window: a challenge");
    peer.send(Segment::new(RST, 6000, 0));
    assert_eq!(peer.see(), [], "challenges are rare");
    peer.now += 600 * MS;
    peer.send(Segment::new(RST, 6000, 0));
    assert_eq!(peer.see().len(), 1);
    for outside in [-5000, 1 << 30] {
        peer.now += 600 * MS;
        peer.send(Segment::new(RST, outside, 0));
        assert_eq!(peer.see(), [], "outside of the window: nothing");
    }
    assert_eq!(peer.events(), []);
    peer.send(Segment::new(RST, 0, 0));
    assert_eq!((peer.see(), peer.events()), (vec![], vec![FlowEvent::Closed(CloseReason::Reset)]));
}

#[test]
fn a_syn_into_a_connection_is_challenged() {
    let mut peer = Peer::open(EVERYTHING);
    for start in [-1, 0, 777, 1 << 30] {
        peer.now += 600 * MS;
        peer.send(Segment::new(SYN, start, 0));
        assert_eq!(short(&peer.see()), [(ACK, 0, 0, 0)], "at {start}");
    }
    assert_eq!(peer.events(), []);
}

#[test]
fn a_stranger_who_knows_no_numbers_changes_nothing() {
    let mut peer = Peer::open(EVERYTHING);
    peer.write(100);
    peer.see();
    for start in [-(1 << 30), 1 << 30] {
        for acknowledged in [-(1 << 30), 50, 1 << 30] {
            peer.send(Segment::data(start, 100, acknowledged));
            peer.send(Segment { flags: ACK | FIN, ..Segment::data(start, 100, acknowledged) });
        }
    }
    peer.see();
    assert_eq!((peer.read_all(0), peer.events()), (0, vec![]));
}

#[test]
fn both_directions_end_at_the_same_time() {
    let mut peer = Peer::open(EVERYTHING);
    peer.stack.tcp_shutdown(peer.now, peer.flow);
    assert_eq!(short(&peer.see()), [(FIN | ACK, 0, 0, 0)]);
    // The peer's FIN crosses ours: CLOSING.
    peer.send(Segment::new(FIN | ACK, 0, 0));
    assert_eq!(short(&peer.see()), [(ACK, 1, 0, 1)]);
    assert_eq!(peer.events(), [FlowEvent::PeerShut]);
    peer.send(Segment::new(ACK, 1, 1));
    peer.see();
    assert_eq!(peer.events(), [FlowEvent::Closed(CloseReason::Finished)]);
    // TIME-WAIT answers a repeated FIN.
    peer.send(Segment::new(FIN | ACK, 0, 1));
    assert_eq!(short(&peer.see()), [(ACK, 1, 0, 1)]);
}

#[test]
fn a_fin_that_is_lost_is_sent_again_with_its_data() {
    let mut peer = Peer::open(EVERYTHING);
    peer.write(100);
    peer.stack.tcp_shutdown(peer.now, peer.flow);
    let seen = peer.watch(Duration::from_secs(5));
    assert!(seen.len() >= 3, "{seen:?}");
    for (_, seen) in seen {
        assert_eq!(seen.short(), (FIN | ACK | PSH, 0, 100, 0));
    }
    peer.send(Segment::new(ACK, 0, 101));
    peer.send(Segment::new(FIN | ACK, 0, 101));
    peer.see();
    assert_eq!(peer.events(), [FlowEvent::PeerShut, FlowEvent::Closed(CloseReason::Finished)]);
}

#[test]
fn unread_data_makes_the_end_a_reset() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment::data(0, 100, 0));
    peer.see();
    peer.stack.tcp_release(peer.flow);
    assert_eq!(short(&peer.see()), [(RST | ACK, 0, 0, 100)]);
    assert_eq!(peer.stack.stats().flows, 0);
}

#[test]
fn the_end_may_be_asked_for_before_the_connection_is_open() {
    let mut peer = Peer::called(TcpOptions::default());
    peer.see_syn();
    peer.stack.tcp_shutdown(peer.now, peer.flow);
    peer.send(Segment::new(SYN | ACK, -1, 0));
    assert_eq!(short(&peer.see()), [(FIN | ACK, 0, 0, 0)]);
    assert_eq!(peer.events(), [FlowEvent::Connected]);
}

#[test]
fn a_newer_syn_takes_the_place_of_a_connection_that_rests() {
    // A higher number, or a later clock (RFC 6191).
    for (start, clock, asked) in [(-100, 5000, false), (-100, 5001, true), (1_000_000, 5000, true)] {
        let mut peer = Peer::open(EVERYTHING);
        peer.stack.tcp_release(peer.flow);
        peer.see();
        peer.send(Segment::new(FIN | ACK, 0, 1));
        assert_eq!(short(&peer.see()), [(ACK, 1, 0, 1)]);
        peer.stack.tcp_listen(peer.ports.1).unwrap();
        peer.clock = Some(clock);
        peer.send(Segment::new(SYN, start, 0));
        let answer = peer.see();
        let incoming = peer.events.iter().any(|event| matches!(event, StackEvent::Incoming { .. }));
        assert_eq!(incoming, asked, "{start} {clock}");
        // With timestamps, or a peer that insists on them would not hear it.
        let echoes: Vec<_> =
            answer.iter().map(|seen| seen.timestamps.map(|timestamps| timestamps.echo)).collect();
        assert_eq!(echoes, if asked { vec![] } else { vec![Some(5000)] });
    }
}
