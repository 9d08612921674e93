use super::*;
use crate::CloseReason;

#[test]
fn a_syn_has_the_options_of_linux_in_their_order() {
    let mut peer = Peer::called(TcpOptions::default());
    let syn = peer.see_syn();
    let kinds: Vec<u8> = [0, 4, 6, 16, 17].iter().map(|&at| syn.option_bytes[at]).collect();
    assert_eq!(kinds, [2, 4, 8, 1, 3], "MSS, SACK permitted, timestamps, padding, window scale");
    assert_eq!((syn.flags, syn.options.mss, syn.window), (SYN, Some(1380), u16::MAX));
    let shift = syn.options.window_scale.unwrap();
    assert!(u64::from(u16::MAX) << shift >= 1 << 20, "the whole buffer can be offered");
}

#[test]
fn a_syn_is_repeated_as_linux_does() {
    let mut peer = Peer::called(TcpOptions::default());
    let first = peer.see_syn();
    let mut times = vec![0];
    for (time, syn) in peer.watch(Duration::from_secs(140)) {
        assert_eq!((syn.flags, syn.start, syn.options.mss), (first.flags, first.start, first.options.mss));
        times.push(time.as_secs());
    }
    assert_eq!(times, [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67, 131]);
    assert_eq!(peer.events(), [], "whether that was long enough is for the owner to say");
}

fn asked() -> Peer {
    let mut peer = Peer::called(TcpOptions::default());
    peer.see_syn();
    peer.stack.tcp_abort(peer.now, peer.flow);
    peer.stack.tcp_listen(80).unwrap();
    peer.ports = (1000, 80);
    peer.clock = Some(5000);
    peer.send(Segment { options: EVERYTHING.options(peer.clock), ..Segment::new(SYN, -1, 0) });
    peer.see();
    let asked = peer.events.iter().find_map(|event| match event {
        StackEvent::Incoming { pending, .. } => Some(*pending),
        _ => None,
    });
    peer.flow = peer.stack.tcp_accept(peer.now, asked.unwrap()).unwrap();
    peer.events.clear();
    peer
}

#[test]
fn a_syn_ack_is_repeated_and_given_up_after_a_minute() {
    let mut peer = asked();
    let seen = peer.watch(Duration::from_secs(100));
    let times: Vec<(u64, u8)> = seen.iter().map(|(time, seen)| (time.as_secs(), seen.flags)).collect();
    let syn_ack = SYN | ACK;
    let expected: Vec<(u64, u8)> = [0, 1, 3, 7, 15, 31].iter().map(|&at| (at, syn_ack)).collect();
    assert_eq!(times[..6], expected);
    assert_eq!(times[6..], [(63, RST | ACK)]);
    assert_eq!(peer.events(), [FlowEvent::Closed(CloseReason::TimedOut)]);
}

#[test]
fn a_repeated_syn_gets_its_answer_again_and_the_acknowledgment_may_carry_data() {
    let mut peer = asked();
    let first = peer.see_syn();
    peer.send(Segment { options: EVERYTHING.options(peer.clock), ..Segment::new(SYN, -1, 0) });
    let again = peer.see();
    assert_eq!(again.iter().map(Seen::short).collect::<Vec<_>>(), [first.short()]);
    peer.send(Segment::data(0, 100, 0));
    peer.see();
    assert_eq!(peer.events(), [FlowEvent::Connected, FlowEvent::Readable]);
    assert_eq!(peer.read_all(0), 100);
}

#[test]
fn an_answer_of_a_wrong_number_is_reset_and_the_attempt_goes_on() {
    let mut peer = Peer::called(TcpOptions::default());
    peer.see_syn();
    peer.send(Segment::new(SYN | ACK, -1, 77));
    let reply = peer.see();
    assert_eq!(reply.iter().map(|seen| (seen.flags, seen.start)).collect::<Vec<_>>(), [(RST, 77)]);
    peer.send(Segment::new(RST | ACK, 0, 77));
    assert_eq!((peer.see(), peer.events()), (vec![], vec![]), "a reset of a wrong number is none");
    peer.send(Segment::new(RST | ACK, 0, 0));
    peer.see();
    assert_eq!(peer.events(), [FlowEvent::Closed(CloseReason::Refused)]);
}

#[test]
fn two_ends_that_call_each_other_meet() {
    let mut peer = Peer::called(TcpOptions::default());
    let syn = peer.see_syn();
    peer.clock = Some(5000);
    let options = EVERYTHING.options(peer.clock);
    peer.send(Segment { options, ..Segment::new(SYN, -1, 0) });
    let answer = peer.see();
    assert_eq!(answer.iter().map(Seen::short).collect::<Vec<_>>(), [(SYN | ACK, syn.start, 0, 0)]);
    peer.send(Segment { options, ..Segment::new(SYN | ACK, -1, 0) });
    assert_eq!(peer.see().iter().map(Seen::short).collect::<Vec<_>>(), [(ACK, 0, 0, 0)]);
    assert_eq!(peer.events(), [FlowEvent::Connected]);
    peer.send(Segment::data(0, 10, 0));
    peer.see();
    assert_eq!(peer.read_all(0), 10);
}

#[test]
fn what_a_peer_does_not_offer_is_not_used() {
    let mut peer = Peer::open(PLAIN);
    peer.send(Segment { window: 30_000, ..Segment::data(100, 10, 0) });
    let reply = peer.see();
    assert_eq!(reply[0].option_bytes, [], "neither timestamps nor SACK");
    peer.write(2000);
    let sent = peer.watch(300 * MS);
    assert_eq!(sent[0].1.len, 1380, "the window is not scaled, and is enough");
}

#[test]
fn the_smallest_segments_that_a_peer_may_ask_for_are_heeded() {
    let mut peer = Peer::open(Offer { mss: 216, ..EVERYTHING });
    peer.write(2000);
    assert!(peer.see().iter().all(|seen| seen.len <= 216 - 12));
    let mut peer = Peer::open(Offer { mss: 1, ..PLAIN });
    peer.write(2000);
    assert!(peer.see().iter().all(|seen| seen.len <= 64));
}
