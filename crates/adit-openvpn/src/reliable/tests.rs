use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);
const ROOM: usize = 100;

/// Two ends and a network that loses what it is told to.
struct Pair {
    now: Instant,
    ends: [Reliable; 2],
    received: [Vec<u8>; 2],
    /// Bit n: the n-th packet in either direction is lost.
    losses: u64,
    packets: u32,
}

impl Pair {
    fn new(losses: u64) -> Self {
        let now = Instant::now();
        let client = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
        let server = Reliable::new(now, Opcode::HardResetServerV2, TIMEOUT);
        Self { now, ends: [client, server], received: [Vec::new(), Vec::new()], losses, packets: 0 }
    }

    /// Exchanges what is due and whether there was any.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        for from in 0..2 {
            // A server answers only.
            if from == 1 && !self.ends[1].heard() {
                continue;
            }
            while let Some(packet) = self.ends[from].poll_transmit(self.now, ROOM, 0) {
                any = true;
                let body = packet.body(Some([1; 8]));
                assert!(body.len() <= ROOM, "{} bytes", body.len());
                let lost = 1u64.checked_shl(self.packets).is_some_and(|bit| self.losses & bit != 0);
                self.packets += 1;
                if lost {
                    continue;
                }
                let control = Control::parse(packet.opcode, &body).unwrap();
                let _ = self.ends[1 - from].handle(self.now, packet.opcode, &control);
                while let Some(incoming) = self.ends[1 - from].poll_incoming() {
                    self.received[1 - from].extend(incoming.payload);
                }
            }
        }
        any
    }

    /// Runs until both ends have nothing under way; returns how long that took.
    fn run(&mut self) -> Duration {
        let start = self.now;
        for _ in 0..10_000 {
            if self.exchange() {
                continue;
            }
            let next = self.ends.iter().filter(|end| end.heard()).filter_map(Reliable::poll_timeout);
            let next = next.chain(self.ends[0].poll_timeout()).min();
            match next {
                Some(next) => self.now = self.now.max(next),
                None => return self.now - start,
            }
        }
        panic!("the exchange does not end");
    }
}

#[test]
fn every_pattern_of_losses_among_the_first_twelve_packets_heals() {
    for losses in 0..1u64 << 12 {
        let mut pair = Pair::new(losses);
        let (up, down) = (vec![1; 450], vec![2; 700]);
        pair.ends[0].send(&up).unwrap();
        pair.ends[1].send(&down).unwrap();
        let took = pair.run();
        assert_eq!((&pair.received[1], &pair.received[0]), (&up, &down), "losses {losses:#b}");
        assert!(pair.ends.iter().all(Reliable::is_idle));
        assert!(took < Duration::from_secs(60), "losses {losses:#b} took {took:?}");
    }
}

#[test]
fn without_loss_nothing_is_sent_twice_and_acknowledgements_ride_along() {
    let mut pair = Pair::new(0);
    pair.ends[0].send(&[1; 300]).unwrap();
    assert_eq!(pair.run(), Duration::ZERO);
    // Reset, answer, four packets, and their acknowledgements.
    assert!(pair.packets <= 9, "{} packets", pair.packets);
}

#[test]
fn nothing_but_the_reset_is_sent_before_the_far_end_answers() {
    let now = Instant::now();
    let mut client = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
    client.send(b"hello").unwrap();
    assert_eq!(client.poll_transmit(now, ROOM, 0).unwrap().opcode, Opcode::HardResetClientV2);
    assert_eq!(client.poll_transmit(now, ROOM, 0), None);
    let mut times = Vec::new();
    let mut at = now;
    for _ in 0..5 {
        let next = client.poll_timeout().unwrap();
        times.push((next - at).as_secs());
        at = next;
        let again = client.poll_transmit(at, ROOM, 0).unwrap();
        assert_eq!((again.opcode, again.id), (Opcode::HardResetClientV2, Some(0)));
    }
    assert_eq!(times, [1, 1, 1, 1, 1]);
}

#[test]
fn a_duplicate_is_acknowledged_again_and_one_beyond_the_window_is_not() {
    let now = Instant::now();
    let mut end = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
    let packet = |id| Control { acks: Acks::default(), peer: None, id: Some(id), payload: b"x" };
    end.poll_transmit(now, ROOM, 0).unwrap();
    assert_eq!(end.handle(now, Opcode::Control, &packet(0)), Ok(()));
    assert_eq!(end.poll_transmit(now, ROOM, 0).unwrap().acks.ids(), [0]);
    assert_eq!(end.handle(now, Opcode::Control, &packet(0)), Err(Dropped::Replayed));
    assert_eq!(end.poll_transmit(now, ROOM, 0).unwrap().acks.ids(), [0]);
    assert_eq!(end.handle(now, Opcode::Control, &packet(13)), Err(Dropped::Unexpected));
    assert_eq!(end.handle(now, Opcode::Control, &packet(12)), Ok(()));
    assert_eq!(end.poll_transmit(now, ROOM, 0).unwrap().acks.ids(), [12]);
}

#[test]
fn what_follows_the_reset_names_us_in_every_transmission_until_the_far_end_says_more() {
    let now = Instant::now();
    let mut client = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
    client.send(b"hello").unwrap();
    let reset = |id| Control { acks: Acks::default(), peer: None, id: Some(id), payload: b"" };
    let mut acks = Acks::default();
    acks.push(0);
    client.poll_transmit(now, ROOM, 0).unwrap();
    client.handle(now, Opcode::HardResetServerV2, &Control { acks, ..reset(0) }).unwrap();
    for _ in 0..3 {
        let at = client.poll_timeout().unwrap_or(now);
        let packet = client.poll_transmit(at, ROOM, 0).unwrap();
        assert_eq!((packet.id, packet.acks.ids()), (Some(1), &[0][..]));
        assert_eq!(client.poll_transmit(at, ROOM, 0), None);
    }
    client.handle(now, Opcode::Control, &reset(1)).unwrap();
    assert_eq!(client.poll_transmit(now, ROOM, 0).unwrap().acks.ids(), [1]);
    let packet = client.poll_transmit(client.poll_timeout().unwrap(), ROOM, 0).unwrap();
    assert_eq!((packet.id, packet.acks.ids()), (Some(1), &[][..]));
}

#[test]
fn three_later_acknowledgements_bring_a_missing_packet_back_early() {
    let now = Instant::now();
    let mut end = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
    let ack = |ids: &[u32]| {
        let mut acks = Acks::default();
        ids.iter().for_each(|id| assert!(acks.push(*id)));
        Control { acks, peer: Some([1; 8]), id: None, payload: &[] }
    };
    end.poll_transmit(now, ROOM, 0).unwrap();
    end.handle(now, Opcode::Ack, &ack(&[0])).unwrap();
    end.send(&[7; 600]).unwrap();
    let sent: Vec<_> =
        std::iter::from_fn(|| end.poll_transmit(now, ROOM, 0)).map(|packet| packet.id).collect();
    assert_eq!(sent, (1..=6).map(Some).collect::<Vec<_>>(), "the window is six packets");
    end.handle(now, Opcode::Ack, &ack(&[2, 3, 4])).unwrap();
    assert_eq!(end.poll_transmit(now, ROOM, 0).unwrap().id, Some(1));
}

#[test]
fn the_packet_with_the_wrapped_key_is_sent_even_when_it_is_empty_and_leaves_room() {
    let now = Instant::now();
    let mut end = Reliable::new(now, Opcode::HardResetClientV3, TIMEOUT);
    end.poll_transmit(now, ROOM, 50).unwrap();
    end.set_second(Opcode::ControlWrappedKey);
    let answer = Control { acks: Acks::default(), peer: None, id: Some(0), payload: &[] };
    end.handle(now, Opcode::HardResetServerV2, &answer).unwrap();
    let second = end.poll_transmit(now, ROOM, 50).unwrap();
    assert_eq!((second.opcode, second.id, second.payload.len()), (Opcode::ControlWrappedKey, Some(1), 0));
    end.send(&[1; 10]).unwrap();
    let third = end.poll_transmit(now, ROOM, 50).unwrap();
    assert_eq!((third.opcode, third.id), (Opcode::Control, Some(2)));
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing() {
    let now = Instant::now();
    let mut end = Reliable::new(now, Opcode::HardResetClientV2, TIMEOUT);
    let mut acks = Acks::default();
    acks.push(0);
    let early = Control { acks, peer: Some([1; 8]), id: None, payload: &[] };
    end.handle(now, Opcode::Ack, &early).unwrap();
    assert_eq!(end.poll_transmit(now, ROOM, 0).unwrap().id, Some(0));
}

proptest! {
    #[test]
    fn bytes_arrive_in_order_whatever_is_lost(
        losses in any::<u64>(),
        up in proptest::collection::vec(any::<u8>(), 0..2000),
        down in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut pair = Pair::new(losses);
        pair.ends[0].send(&up).unwrap();
        pair.ends[1].send(&down).unwrap();
        pair.run();
        prop_assert_eq!((&pair.received[1], &pair.received[0]), (&up, &down));
    }
}
