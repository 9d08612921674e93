use super::*;

/// A connection whose first segments, which are acknowledged at once, are behind it. Returns the next offset too.
fn settled(offer: Offer) -> (Peer, i64) {
    let mut peer = Peer::open(offer);
    for n in 0..16 {
        peer.send(Segment::data(n * 10, 10, 0));
        assert_eq!(peer.see().len(), 1, "segment {n} of a new connection");
    }
    assert_eq!(peer.read_all(0), 160);
    peer.see();
    peer.events();
    (peer, 160)
}

#[test]
fn a_lone_segment_is_acknowledged_after_a_while_and_every_second_at_once() {
    let (mut peer, at) = settled(EVERYTHING);
    peer.send(Segment::data(at, 1000, 0));
    let seen = peer.watch(500 * MS);
    let times: Vec<_> = seen.iter().map(|(time, seen)| (*time, seen.short())).collect();
    assert_eq!(times, [(40 * MS, (ACK, 0, 0, at + 1000))]);
    for n in 1..5 {
        peer.send(Segment::data(at + n * 1000, 1000, 0));
        assert_eq!(peer.see().len(), usize::from(n % 2 == 0));
    }
}

#[test]
fn a_batch_gets_one_acknowledgment() {
    let (mut peer, at) = settled(EVERYTHING);
    for n in 0..20 {
        peer.send(Segment::data(at + n * 1000, 1000, 0));
    }
    let seen = peer.see();
    assert_eq!(seen.iter().map(Seen::short).collect::<Vec<_>>(), [(ACK, 0, 0, at + 20_000)]);
}

#[test]
fn an_answer_carries_the_acknowledgment() {
    let (mut peer, at) = settled(EVERYTHING);
    peer.send(Segment::data(at, 50, 0));
    peer.now += 5 * MS;
    peer.write(30);
    assert_eq!(peer.see().iter().map(Seen::short).collect::<Vec<_>>(), [(ACK | PSH, 0, 30, at + 50)]);
    peer.send(Segment::new(ACK, at + 50, 30));
    assert_eq!(peer.watch(500 * MS).len(), 0);
}

#[test]
fn after_a_pause_segments_are_acknowledged_at_once_again() {
    let (mut peer, at) = settled(EVERYTHING);
    peer.now += Duration::from_secs(2);
    peer.send(Segment::data(at, 100, 0));
    assert_eq!(peer.see().len(), 1);
}

#[test]
fn gaps_are_told_at_once_the_latest_first_and_so_is_their_end() {
    let mut peer = Peer::open(EVERYTHING);
    let mut blocks = Vec::new();
    for start in [1000, 3000, 5000, 7000, 2000] {
        peer.send(Segment::data(start, 1000, 0));
        let seen = peer.see();
        assert_eq!((seen.len(), seen[0].acknowledged), (1, 0));
        blocks = seen[0].blocks.clone();
    }
    assert_eq!(blocks, [(1000, 4000), (7000, 8000), (5000, 6000)]);
    peer.send(Segment::data(0, 1000, 0));
    let seen = peer.see();
    assert_eq!((seen.len(), seen[0].acknowledged), (1, 4000));
    assert_eq!(seen[0].blocks, [(7000, 8000), (5000, 6000)]);
    peer.send(Segment::data(4000, 3000, 0));
    assert_eq!(peer.see()[0].acknowledged, 8000);
    assert_eq!(peer.read_all(0), 8000);
}

#[test]
fn a_batch_full_of_gaps_gets_as_many_acknowledgments_as_tell_them_all() {
    let mut peer = Peer::open(EVERYTHING);
    for n in 1..=7 {
        peer.send(Segment::data(n * 2000, 1000, 0));
    }
    let mut told: Vec<(i64, i64)> = peer.see().iter().flat_map(|seen| seen.blocks.clone()).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, (1..=7).map(|n| (n * 2000, n * 2000 + 1000)).collect::<Vec<_>>());
}

#[test]
fn a_peer_without_selective_acknowledgments_can_count_duplicates() {
    let mut peer = Peer::open(PLAIN);
    for n in 1..=4 {
        peer.send(Segment::data(n * 1000, 1000, 0));
    }
    let seen: Vec<_> = peer.see().iter().map(Seen::short).collect();
    assert_eq!(seen, [(ACK, 0, 0, 0); 4], "one for each, although they came together");
}

#[test]
fn what_comes_twice_is_told_once() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment::data(0, 1000, 0));
    peer.see();
    // Below what is acknowledged.
    peer.send(Segment::data(0, 1000, 0));
    let seen = peer.see();
    assert_eq!((seen[0].acknowledged, seen[0].blocks.clone()), (1000, vec![(0, 1000)]));
    // Beyond a gap: the second block is the range that holds it.
    peer.send(Segment::data(2000, 2000, 0));
    peer.see();
    peer.send(Segment::data(3000, 500, 0));
    assert_eq!(peer.see()[0].blocks, [(3000, 3500), (2000, 4000)]);
    // The next acknowledgment tells it no more.
    peer.send(Segment::data(4000, 10, 0));
    assert_eq!(peer.see()[0].blocks, [(2000, 4010)]);
    assert_eq!(peer.read_all(0), 1000);
}

#[test]
fn a_keepalive_is_answered_and_is_no_duplicate() {
    for len in [0, 1] {
        let mut peer = Peer::open(EVERYTHING);
        peer.send(Segment::data(0, 100, 0));
        peer.see();
        peer.send(Segment::data(99, len, 0));
        let seen = peer.see();
        assert_eq!((seen.len(), seen[0].acknowledged, seen[0].blocks.len()), (1, 100, 0));
    }
}

#[test]
fn the_end_of_the_stream_waits_for_what_is_missing() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment { flags: ACK | FIN, ..Segment::data(1000, 500, 0) });
    assert_eq!(peer.see()[0].acknowledged, 0);
    assert_eq!(peer.events(), []);
    peer.send(Segment::data(0, 1000, 0));
    assert_eq!(peer.see()[0].acknowledged, 1501, "the FIN counts");
    assert_eq!(peer.events(), [FlowEvent::Readable, FlowEvent::PeerShut]);
    assert_eq!(peer.read_all(0), 1500);
    peer.send(Segment::data(1501, 100, 0));
    assert_eq!(peer.see()[0].acknowledged, 1501, "there is nothing behind the end");
    assert_eq!(peer.read_all(1500), 0);
}

#[test]
fn the_window_closes_never_shrinks_and_is_told_when_it_opens() {
    let budget = Budget { bytes: 64 << 10, max_flow: 64 << 10 };
    let mut peer = Peer::open_with(budget, PLAIN);
    let mut at = 0;
    let mut edge = 0;
    loop {
        peer.send(Segment::data(at, 1380, 0));
        at += 1380;
        let Some((_, seen)) = peer.watch(50 * MS).pop() else { panic!("no acknowledgment at {at}") };
        assert!(seen.acknowledged + i64::from(seen.window) >= edge, "the edge moved back");
        edge = seen.acknowledged + i64::from(seen.window);
        if seen.window == 0 || i64::from(seen.window) < 1380 {
            break;
        }
    }
    let rest = (edge - at) as usize;
    peer.send(Segment::data(at, rest, 0));
    assert_eq!(peer.watch(100 * MS).pop().map(|(_, seen)| seen.window), Some(0));
    // A window probe: a byte that does not fit.
    peer.send(Segment::data(edge, 1, 0));
    let seen = peer.see();
    assert_eq!((seen.len(), seen[0].acknowledged, seen[0].window), (1, edge, 0));
    let n = peer.stack.tcp_recv_data(peer.flow)[0].len().min(1000);
    peer.stack.tcp_consumed(peer.now, peer.flow, n);
    assert_eq!(peer.see(), [], "too little to be worth a word");
    peer.read_all(n as i64);
    let seen = peer.see();
    assert_eq!((seen.len(), seen[0].acknowledged), (1, edge));
    assert!(seen[0].window > 20_000, "{}", seen[0].window);
}

#[test]
fn an_old_timestamp_is_refused_unless_reordering_explains_it() {
    let mut peer = Peer::open(EVERYTHING);
    peer.clock = Some(9000);
    peer.send(Segment::data(0, 100, 0));
    peer.see();
    peer.clock = Some(8900);
    peer.send(Segment::data(100, 100, 0));
    assert_eq!(peer.see()[0].acknowledged, 200, "reordered by 100 ms");
    peer.clock = Some(5000);
    peer.send(Segment::data(200, 100, 0));
    let seen = peer.see();
    assert_eq!((seen.len(), seen[0].acknowledged), (1, 200), "from another turn of the numbers");
}

#[test]
fn the_timestamp_that_is_echoed_is_that_of_the_oldest_unacknowledged_segment() {
    let (mut peer, at) = settled(EVERYTHING);
    peer.clock = Some(6000);
    peer.send(Segment::data(at, 100, 0));
    peer.clock = Some(6007);
    peer.send(Segment::data(at + 100, 100, 0));
    let seen = peer.see();
    assert_eq!(seen[0].timestamps.map(|timestamps| timestamps.echo), Some(6000));
    // A segment beyond a gap is not what the acknowledgment waits for.
    peer.clock = Some(6100);
    peer.send(Segment::data(at + 500, 100, 0));
    assert_eq!(peer.see()[0].timestamps.map(|timestamps| timestamps.echo), Some(6000));
}
