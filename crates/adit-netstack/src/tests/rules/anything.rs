//! Whatever a peer says, nothing panics, nothing is sent without end, and no deadline lies in the past.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Segment(Segment),
    Wait(u64),
    Write(usize),
    Read,
    Shutdown,
    Nudge,
    Mtu(u16),
}

fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -3i64..6000,
        2 => -100_000i64..2_000_000,
        1 => any::<i32>().prop_map(i64::from),
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![6 => Just(ACK), 2 => Just(ACK | PSH), 1 => Just(ACK | FIN), 2 => any::<u8>()];
    let len = prop_oneof![2 => Just(0usize), 3 => 1usize..2000];
    let window = prop_oneof![Just(0u16), any::<u16>()];
    let blocks = proptest::collection::vec((offset(), offset()), 0..4);
    let clock = proptest::option::of(prop_oneof![Just(5000u32), 4000u32..9000, any::<u32>()]);
    (flags, offset(), offset(), window, len, blocks, clock).prop_map(
        |(flags, start, acknowledged, window, len, blocks, clock)| {
            let timestamps = clock.map(|value| Timestamps { value, echo: value });
            let mut options = Options { timestamps, ..Options::default() };
            // Offsets become numbers where the stack's first number is known.
            blocks.into_iter().for_each(|(from, to)| options.add_block((from as u32, to as u32)));
            Segment { flags, start, acknowledged, window, options, len }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => segment().prop_map(Step::Segment),
        3 => (0u64..3000).prop_map(Step::Wait),
        3 => (1usize..5000).prop_map(Step::Write),
        2 => Just(Step::Read),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Nudge),
        1 => (576u16..1500).prop_map(Step::Mtu),
    ]
}

fn play(peer: &mut Peer, step: Step) {
    match step {
        Step::Segment(mut segment) => {
            let blocks = segment.options.blocks().to_vec();
            segment.options.block_count = 0;
            for (from, to) in blocks {
                let wire = |offset: u32| peer.theirs.wrapping_add(1).wrapping_add(offset);
                segment.options.add_block((wire(from), wire(to)));
            }
            if peer.stack.tcp_addresses(peer.flow).is_some() {
                peer.send_lenient(segment);
            }
        }
        Step::Wait(ms) => {
            peer.watch(Duration::from_millis(ms));
        }
        Step::Write(len) => {
            let room = peer.stack.tcp_send_space(peer.flow)[0].len();
            peer.write(len.min(room));
        }
        Step::Read => {
            let n = peer.stack.tcp_recv_data(peer.flow)[0].len();
            peer.stack.tcp_consumed(peer.now, peer.flow, n);
        }
        Step::Shutdown => peer.stack.tcp_shutdown(peer.now, peer.flow),
        Step::Nudge => peer.stack.nudge(peer.now),
        Step::Mtu(mtu) => peer.stack.configure(peer.now, &net_config(1, mtu)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_connection_takes_anything(
        sack in any::<bool>(), timestamps in any::<bool>(), scaled in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let offer = Offer { sack, timestamps, shift: scaled.then_some(7), ..EVERYTHING };
        let mut peer = Peer::open(offer);
        let count = steps.len();
        let mut sent = 0;
        for step in steps {
            play(&mut peer, step);
            sent += peer.see().len();
        }
        // A megabyte of ours at the most, sent a few times, and an answer for each segment.
        prop_assert!(sent < 30_000 + 4 * count, "{} packets", sent);
        peer.watch(Duration::from_secs(300));
    }

    #[test]
    fn a_handshake_takes_anything(steps in proptest::collection::vec(step(), 1..40)) {
        let mut peer = Peer::called(TcpOptions::default());
        peer.see_syn();
        for step in steps {
            play(&mut peer, step);
            peer.see();
        }
        peer.watch(Duration::from_secs(300));
    }
}
