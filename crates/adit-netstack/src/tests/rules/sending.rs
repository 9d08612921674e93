use super::*;

/// Acknowledges data of ours up to `to`, with a window that takes more.
fn acknowledge(peer: &mut Peer, to: i64) {
    peer.send(Segment { window: 60_000, ..Segment::new(ACK, 0, to) });
}

#[test]
fn ten_segments_leave_before_the_first_acknowledgment() {
    let mut peer = Peer::open(EVERYTHING);
    acknowledge(&mut peer, 0);
    for _ in 0..8 {
        let room = peer.stack.tcp_send_space(peer.flow)[0].len();
        peer.write(room);
    }
    let sent = peer.see();
    assert_eq!(sent.iter().map(|seen| seen.len).sum::<usize>(), 10 * 1368);
    assert!(sent.iter().all(|seen| seen.len == 1368), "beside the timestamps");
    assert!(sent.iter().all(|seen| seen.flags & PSH == 0), "more waits");
}

#[test]
fn data_after_a_lost_segment_is_not_sent_again() {
    let mut peer = Peer::open(EVERYTHING);
    acknowledge(&mut peer, 0);
    for _ in 0..4 {
        let room = peer.stack.tcp_send_space(peer.flow)[0].len().min(3000);
        peer.write(room);
    }
    let sent = peer.see();
    let end = sent.last().map(|last| last.start + last.len as i64).unwrap();
    assert!(end > 5 * 1368, "{end}");
    peer.now += 20 * MS;
    let mut options = Options { timestamps: Some(Timestamps { value: 5020, echo: 0 }), ..Options::default() };
    let wire = |offset: i64| peer.theirs.wrapping_add(1).wrapping_add(offset as u32);
    options.add_block((wire(1368), wire(end)));
    peer.send(Segment { window: 60_000, options, ..Segment::new(ACK, 0, 0) });
    let again = peer.watch(Duration::from_secs(3));
    assert!(
        !again.is_empty() && again.iter().all(|(_, seen)| seen.start == 0 && seen.len <= 1368),
        "{again:?}"
    );
}

#[test]
fn a_closed_window_is_probed_and_opens_again() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment { window: 0, ..Segment::data(0, 1, 0) });
    peer.see();
    peer.write(500);
    let probes = peer.watch(Duration::from_secs(20));
    assert!(probes.len() >= 3, "{probes:?}");
    for (_, probe) in &probes {
        assert_eq!(probe.short(), (ACK, -1, 0, 1), "nothing of the data");
    }
    peer.send(Segment { window: 600, ..Segment::new(ACK, 1, 0) });
    assert_eq!(peer.see().iter().map(Seen::short).collect::<Vec<_>>(), [(ACK | PSH, 0, 500, 1)]);
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_is_answered_and_its_data_dropped() {
    let mut peer = Peer::open(EVERYTHING);
    peer.send(Segment::data(0, 100, 5000));
    let seen = peer.see();
    assert_eq!(seen.iter().map(Seen::short).collect::<Vec<_>>(), [(ACK, 0, 0, 0)]);
    peer.send(Segment::data(0, 100, 5000));
    assert_eq!(peer.see(), [], "but not as often as somebody likes");
    assert_eq!(peer.read_all(0), 0);
}

#[test]
fn without_acknowledgments_data_is_sent_again_ever_more_rarely() {
    let mut peer = Peer::open(EVERYTHING);
    peer.write(100);
    let seen = peer.watch(Duration::from_secs(100));
    assert!(seen.iter().all(|(_, seen)| (seen.start, seen.len) == (0, 100)));
    assert!((6..14).contains(&seen.len()), "{} in 100 s", seen.len());
    assert!(seen[1].0 < Duration::from_secs(1), "{:?}", seen[1].0);
    assert_eq!(peer.events(), [], "an outage ends nothing");
}
