mod hostile;
mod paths;
mod simulation;

use std::time::{Duration, Instant};

use super::log::Transmission;
use super::ranges::State;
use super::recovery::Phase;
use super::{Ack, Kind, Segment, Sender, SenderConfig};
use crate::CongestionControl as Control;

const MSS: u64 = 1000;

fn sender(now: Instant) -> Sender {
    let config = SenderConfig {
        mss: 1000,
        least: 500,
        control: Control::Cubic,
        sack: true,
        initial_window: 10,
        window: 1 << 20,
        handshake: Some(Duration::from_millis(50)),
    };
    Sender::new(&config, now)
}

fn ack(acknowledged: u64) -> Ack<'static> {
    Ack { acknowledged, window: Some(1 << 20), sacked: &[], duplicate: None, echo: None, bare: true }
}

#[test]
fn the_initial_window_leaves_at_once_and_no_more() {
    let now = Instant::now();
    let mut sender = sender(now);
    let first = sender.poll_transmit(now, 100 * MSS, 1 << 16);
    assert_eq!(first, Some(Segment { start: 0, end: 10 * MSS, kind: Kind::New }));
    assert_eq!(sender.poll_transmit(now, 100 * MSS, 1 << 16), None);
    assert!(sender.poll_timeout(now, 100 * MSS).is_some_and(|at| at > now));
    assert_eq!(sender.handle_ack(now + Duration::from_millis(50), &ack(10 * MSS)), 10 * MSS);
    assert_eq!((sender.unacknowledged(), sender.congestion_window()), (10 * MSS, 20 * MSS));
}

#[test]
fn what_is_not_acknowledged_is_sent_again() {
    let mut now = Instant::now();
    let mut sender = sender(now);
    sender.poll_transmit(now, 3 * MSS, 1 << 16);
    while sender.stats().timeouts == 0 {
        now = sender.poll_timeout(now, 3 * MSS).unwrap();
        sender.handle_timeout(now);
        let again = sender.poll_transmit(now, 3 * MSS, 1 << 16).unwrap();
        assert_ne!(again.kind, Kind::New);
    }
    assert_eq!(sender.unanswered(), 1);
}

#[test]
fn a_shut_window_is_probed() {
    let mut now = Instant::now();
    let mut sender = sender(now);
    sender.handle_ack(now, &Ack { window: Some(0), ..ack(0) });
    for count in 1..5 {
        assert_eq!(sender.poll_transmit(now, MSS, 1 << 16), None);
        now = sender.poll_timeout(now, MSS).unwrap();
        sender.handle_timeout(now);
        let probe = sender.poll_transmit(now, MSS, 1 << 16).unwrap();
        assert_eq!(probe.kind, Kind::WindowProbe, "probe {count}");
    }
    sender.handle_ack(now, &ack(0));
    let data = sender.poll_transmit(now, MSS, 1 << 16).unwrap();
    assert_eq!((data.start, data.end, data.kind), (0, MSS, Kind::New));
}

impl Sender {
    fn records(&self) -> usize {
        self.board.records().count()
    }

    /// Panics unless what must always hold does.
    fn check(&self) {
        self.board.check();
        let log: Vec<_> = self.log.entries().collect();
        assert!(log.is_sorted_by_key(|entry| entry.sent), "the log is out of order");
        for record in self.board.records().filter(|record| record.state == State::Out) {
            let covers = |entry: &&Transmission, at: u64| {
                entry.sent == record.sent && entry.start <= at && at < entry.end
            };
            let watched =
                |at| self.log.find(record.sent, at).is_some() || log.iter().any(|entry| covers(entry, at));
            let seen = watched(record.start) && watched(record.end - 1);
            assert!(seen || self.phase == Phase::Loss || !self.sack, "nothing watches {record:?}");
        }
        let deadlines = [self.retransmit_at, self.persist_at];
        let armed = deadlines.iter().any(|at| at.is_set());
        assert!(armed || self.board.out() == 0, "nothing watches what is outstanding");
    }
}

#[test]
fn an_idle_sender_is_small() {
    assert!(size_of::<Sender>() <= 640, "{} bytes", size_of::<Sender>());
}
