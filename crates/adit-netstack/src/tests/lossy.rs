use std::time::Duration;

use proptest::prelude::*;

use super::SECOND;
use crate::testing::{Link, Pair, pattern};
use crate::{Budget, CloseReason, FlowEvent, StackEvent};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_byte_stream_survives_loss_reordering_and_duplication(
        seed in any::<u64>(),
        lost in 0u64..80,
        doubled in 0u64..100,
        late in 0u64..300,
        delay in 1u64..60,
        size in 1usize..400_000,
        v6 in any::<bool>(),
    ) {
        let link = Link { delay: Duration::from_millis(delay), lost, doubled, late, ..Link::CLEAN };
        let mut pair = Pair::new(seed, link);
        let to = if v6 { "[fd00::2]:80" } else { "10.0.0.2:80" };
        let (client, server, _) = pair.connect(to.parse().unwrap());
        let data = pattern(size);
        prop_assert!(pair.transfer(0, (client, server), &data, 3600 * SECOND) == data);
        let back = pattern(size / 3);
        prop_assert!(pair.transfer(1, (server, client), &back, 3600 * SECOND) == back);
        pair.ends[0].stack.tcp_shutdown(pair.now, client);
        pair.ends[1].stack.tcp_shutdown(pair.now, server);
        pair.run(600 * SECOND);
        for (end, flow) in [(0, client), (1, server)] {
            let closed = pair.take_events(end).into_iter().any(|event| {
                matches!(event, StackEvent::Tcp(id, FlowEvent::Closed(_)) if id == flow)
            });
            prop_assert!(closed, "both sides end");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both directions at once, owners that write and read in pieces of any size, and ends that come when they come.
    #[test]
    fn two_streams_cross_a_bad_path_and_both_end(
        seed in any::<u64>(),
        (lost, doubled, late) in (0u64..60, 0u64..100, 0u64..300),
        delay in 1u64..60,
        sizes in [1usize..300_000, 0usize..300_000],
        pieces in [1usize..40_000, 1usize..40_000],
        pause in 0u64..30,
    ) {
        let link = Link { delay: Duration::from_millis(delay), lost, doubled, late, ..Link::CLEAN };
        let mut pair = Pair::new(seed, link);
        let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
        let flows = [client, server];
        let data = sizes.map(pattern);
        let (mut sent, mut received, mut shut) = ([0; 2], [Vec::new(), Vec::new()], [false; 2]);
        let until = pair.now + 3600 * SECOND;
        while (0..2).any(|end| received[1 - end].len() < data[end].len()) {
            for end in 0..2 {
                let rest = &data[end][sent[end]..];
                sent[end] += pair.write(end, flows[end], &rest[..rest.len().min(pieces[end])]);
                if sent[end] == data[end].len() && !std::mem::replace(&mut shut[end], true) {
                    pair.ends[end].stack.tcp_shutdown(pair.now, flows[end]);
                }
                pair.read(end, flows[end], &mut received[end]);
            }
            prop_assert!(pair.now < until, "{:?} of {:?}", received.map(|bytes| bytes.len()), sizes);
            pair.run(Duration::from_millis(pause));
            pair.step(pair.now + SECOND);
        }
        prop_assert!(received[1] == data[0] && received[0] == data[1]);
        pair.run(600 * SECOND);
        for (end, flow) in flows.into_iter().enumerate() {
            let finished = FlowEvent::Closed(CloseReason::Finished);
            prop_assert!(pair.take_events(end).contains(&StackEvent::Tcp(flow, finished)));
        }
    }
}

/// A queue of a hundred packets at the end of a short path: what is lost must not cost whole seconds.
#[test]
fn a_shallow_queue_does_not_stall_an_upload() {
    let link = Link { delay: Duration::from_micros(100), rate: 80_000_000, queue: 160_000, ..Link::CLEAN };
    let mut pair = Pair::new(4, link);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(24 << 20);
    let began = pair.now;
    assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
    let took = pair.now - began;
    // 0.31 s at the link's rate.
    assert!(took < SECOND * 6 / 10, "{took:?}");
}

#[test]
fn many_flows_share_the_stack_and_the_budget() {
    let budget = Budget { bytes: 32 << 20, max_flow: 1 << 20 };
    let mut pair = Pair::with_budget(1, Link::CLEAN, budget);
    pair.ends[1].stack.tcp_listen(80).unwrap();
    let mut flows = Vec::new();
    for _ in 0..500 {
        let client = super::connect(&mut pair, "10.0.0.2:80");
        let server = pair.accept();
        flows.push((client, server));
    }
    pair.run(SECOND);
    let data = pattern(20_000);
    let mut received = vec![Vec::new(); flows.len()];
    let mut sent = vec![0; flows.len()];
    while received.iter().any(|bytes| bytes.len() < data.len()) {
        for (at, (client, server)) in flows.iter().enumerate() {
            sent[at] += pair.write(0, *client, &data[sent[at]..]);
            pair.read(1, *server, &mut received[at]);
        }
        pair.run(SECOND / 100);
    }
    assert!(received.iter().all(|bytes| *bytes == data));
    assert_eq!(pair.ends[0].stack.stats().flows, 500);
    assert!(pair.ends[0].stack.stats().memory <= budget.bytes);
}

#[test]
fn beyond_the_budget_nothing_opens_until_something_closes() {
    let budget = Budget { bytes: 64 << 10, max_flow: 64 << 10 };
    let mut pair = Pair::with_budget(2, Link::CLEAN, budget);
    let mut flows = Vec::new();
    let to = "10.0.0.2:80".parse().unwrap();
    let full = loop {
        match pair.ends[0].stack.tcp_connect(pair.now, to, crate::TcpOptions::default()) {
            Ok(flow) => flows.push(flow),
            Err(error) => break error,
        }
    };
    assert_eq!(full, crate::OpenError::OverBudget);
    assert!(!flows.is_empty());
    for flow in flows {
        pair.ends[0].stack.tcp_release(flow);
    }
    pair.exchange();
    super::connect(&mut pair, "10.0.0.2:80");
}

#[test]
fn what_send_does_not_take_comes_again() {
    let mut pair = Pair::new(3, Link::CLEAN);
    let (client, _, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.write(0, client, &pattern(100_000));
    let id = pair.ends[0].stack.udp_open(0, None).unwrap();
    pair.ends[0].stack.udp_send(pair.now, id, "10.0.0.2:9".parse().unwrap(), b"x").unwrap();
    let mut offered: Vec<Vec<u8>> = Vec::new();
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for round in 0..50 {
        pair.ends[0].stack.poll_transmit(pair.now, &mut |packet| {
            let bytes = packet.bytes().to_vec();
            let takes = (round + taken.len()).is_multiple_of(3);
            if takes {
                assert!(
                    offered.last().is_none_or(|refused| *refused == bytes),
                    "the refused packet comes first"
                );
                offered.clear();
                taken.push(bytes);
            } else {
                assert!(offered.last().is_none_or(|refused| *refused == bytes));
                offered.push(bytes);
            }
            takes
        });
    }
    assert!(taken.len() >= 2, "{}", taken.len());
}

/// Many flows that send a little in turns over a short path: none of them waits for a timer.
#[test]
fn pieces_on_many_flows_wait_for_no_timer() {
    let link = Link { delay: Duration::from_micros(20), ..Link::CLEAN };
    let mut pair = Pair::new(5, link);
    pair.ends[1].stack.tcp_listen(80).unwrap();
    let flows: Vec<_> = (0..20)
        .map(|_| {
            let client = super::connect(&mut pair, "10.0.0.2:80");
            (client, pair.accept())
        })
        .collect();
    pair.run(SECOND);
    let data = pattern(16 * 1024);
    for round in 0..200 {
        let flow = flows[round % flows.len()];
        let began = pair.now;
        assert!(pair.transfer(0, flow, &data, SECOND) == data);
        let took = pair.now - began;
        assert!(took < SECOND / 100, "round {round}: {took:?}");
    }
}

/// What is under way on a long path is more than a connection begins with: both buffers grow into the budget.
#[test]
fn a_long_path_gets_larger_buffers() {
    let link = Link { delay: Duration::from_millis(50), rate: 30_000_000, queue: 4 << 20, ..Link::CLEAN };
    let mut pair = Pair::new(6, link);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let before = pair.ends.each_ref().map(|end| end.stack.stats().memory);
    let data = pattern(64 << 20);
    let began = pair.now;
    assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
    let took = pair.now - began;
    // 2.2 s at the link's rate and 6.4 s with a mebibyte in a round trip.
    assert!(took < 4 * SECOND, "{took:?}");
    let after = pair.ends.each_ref().map(|end| end.stack.stats().memory);
    assert!(after[0] > before[0] && after[1] > before[1], "{after:?} out of the budget, {before:?} before");
    pair.ends[0].stack.tcp_abort(pair.now, client);
    pair.run(SECOND);
    pair.ends[0].stack.tcp_release(client);
    pair.ends[1].stack.tcp_release(server);
    for end in 0..2 {
        assert_eq!(pair.ends[end].stack.stats().memory, 0, "all of it is given back");
    }
}

/// An owner that reads slowly, or a path that is short, has enough.
#[test]
fn buffers_stay_as_they_are_where_larger_ones_would_not_help() {
    let mut pair = Pair::new(
        7,
        Link { delay: Duration::from_micros(50), rate: 200_000_000, queue: 100_000, ..Link::CLEAN },
    );
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let before = pair.ends.each_ref().map(|end| end.stack.stats().memory);
    let data = pattern(16 << 20);
    assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
    pair.write(0, client, &data);
    pair.run(10 * SECOND);
    assert_eq!(pair.ends.each_ref().map(|end| end.stack.stats().memory), before);
}

#[test]
fn a_connection_that_is_silent_gives_its_memory_back() {
    let mut pair = Pair::new(8, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(2_000_000);
    let room = |pair: &mut Pair| {
        pair.ends[0].stack.tcp_send_space(client).map(|part| part.len()).iter().sum::<usize>()
    };
    let first = room(&mut pair);
    assert!(first < 10_000, "{first}");
    for _ in 0..3 {
        assert!(pair.transfer(0, (client, server), &data, 10 * SECOND) == data);
        assert!(pair.transfer(1, (server, client), &data, 10 * SECOND) == data);
        pair.run(9 * SECOND);
        assert!(room(&mut pair) > 10 * first);
        pair.run(2 * SECOND);
        assert_eq!(room(&mut pair), first);
        let pauses = pair.ends.each_ref().map(|end| end.stack.poll_timeout());
        assert_eq!(pauses, [None, None], "nothing more to wake up for");
    }
}

/// Downloads from a peer that knows nothing of a queue of 32 packets on the way. Returns how many packets it drops, and how
/// long it takes.
fn download(link: Link, queue: Option<u16>, size: usize) -> (u64, Duration) {
    let mut pair = Pair::new(12, link);
    pair.ends[0].stack.set_queue(&["10.0.0.0/24".parse().unwrap()], queue);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(size);
    let began = pair.now;
    assert!(pair.transfer(1, (server, client), &data, 600 * SECOND) == data);
    (pair.dropped, pair.now - began)
}

#[test]
fn a_peer_is_kept_from_overflowing_a_queue_that_is_known() {
    let short = Link { delay: Duration::from_micros(100), rate: 25_000_000, queue: 32 * 1420, ..Link::CLEAN };
    let (dropped, took) = download(short, None, 16 << 20);
    assert!(dropped > 50, "the test's queue is one that a peer overflows: {dropped}");
    let (none, told) = download(short, Some(32), 16 << 20);
    assert_eq!(none, 0);
    assert!(told <= took, "{told:?} instead of {took:?}");
    // What the path itself holds is more than the queue: the window finds it.
    let long = Link { delay: Duration::from_millis(30), rate: 5_000_000, queue: 32 * 1420, ..Link::CLEAN };
    let (dropped, took) = download(long, Some(32), 16 << 20);
    assert_eq!(dropped, 0);
    // 3.4 s at the link's rate.
    assert!(took < 5 * SECOND, "{took:?}");
}

#[test]
fn a_queue_that_is_no_longer_on_the_way_bounds_nothing() {
    let mut pair = Pair::new(13, Link { delay: Duration::from_millis(20), ..Link::CLEAN });
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let prefix = ["10.0.0.2/32".parse().unwrap()];
    let data = pattern(4 << 20);
    let mut times = [Some(32), None].map(|queue| {
        pair.ends[0].stack.set_queue(&prefix, queue);
        let began = pair.now;
        assert!(pair.transfer(1, (server, client), &data, 60 * SECOND) == data);
        pair.now - began
    });
    times.reverse();
    assert!(times[0] < times[1] / 2, "{times:?}");
}

/// Lengths of the packets with data that an end has sent since the last call.
fn lengths(pair: &mut Pair, end: usize) -> Vec<usize> {
    std::mem::take(&mut pair.ends[end].wire).iter().map(Vec::len).filter(|len| *len > 100).collect()
}

/// A path that swallows what is too long for it, and no ICMP that would say so.
#[test]
fn packets_become_smaller_where_full_ones_vanish() {
    for (to, mtu, largest) in
        [("10.0.0.2:80", 1200, 1076), ("10.0.0.2:80", 600, 552), ("[fd00::2]:80", 1300, 1280)]
    {
        let link = Link { delay: Duration::from_millis(10), mtu, ..Link::CLEAN };
        let mut pair = Pair::new(9, link);
        let (client, server, _) = pair.connect(to.parse().unwrap());
        let data = pattern(2_000_000);
        let began = pair.now;
        assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
        let took = pair.now - began;
        assert!(took < 8 * SECOND, "{to}, {mtu}: {took:?}");
        pair.ends[0].record = true;
        assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
        let lengths = lengths(&mut pair, 0);
        // One of full size may have been tried; it is not tried again and again.
        let (tries, rest): (Vec<usize>, Vec<usize>) = lengths.iter().partition(|len| **len > largest);
        assert!(tries.len() <= 1, "{to}, {mtu}: {tries:?}");
        assert_eq!(rest.iter().max(), Some(&largest), "{to}, {mtu}");
    }
}

#[test]
fn after_a_silence_of_the_whole_path_packets_are_full_again() {
    let mut pair = Pair::new(10, Link { delay: Duration::from_millis(10), ..Link::CLEAN });
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(1_000_000);
    assert!(pair.transfer(0, (client, server), &data, 10 * SECOND) == data);
    pair.link.lost = 1000;
    pair.write(0, client, &data[..100_000]);
    pair.run(20 * SECOND);
    pair.link.lost = 0;
    let mut received = Vec::new();
    let until = pair.now + 60 * SECOND;
    while received.len() < 100_000 {
        assert!(pair.step(until), "{} bytes arrive", received.len());
        pair.read(1, server, &mut received);
    }
    assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
    pair.ends[0].record = true;
    assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
    let lengths = lengths(&mut pair, 0);
    assert!(lengths.iter().filter(|len| **len == 1420).count() * 10 > lengths.len() * 9, "{lengths:?}");
}

#[test]
fn a_peer_that_never_answers_again_is_given_up_after_minutes() {
    let mut pair = Pair::new(11, Link::CLEAN);
    let (client, ..) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.link.lost = 1000;
    pair.write(0, client, b"is anybody there?");
    let closed = StackEvent::Tcp(client, FlowEvent::Closed(CloseReason::TimedOut));
    pair.run(600 * SECOND);
    assert!(!pair.take_events(0).contains(&closed), "ten minutes of silence are survived");
    pair.run(1400 * SECOND);
    assert!(pair.take_events(0).contains(&closed));
    assert_eq!(pair.ends[0].stack.poll_timeout(), None);
}
