//! Arbitrary ACKs at arbitrary times.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{Ack, Kind, Sender, SenderConfig};
use crate::CongestionControl as Control;

const MSS: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// Offsets are parts of what is outstanding, and a little beyond.
    Ack {
        acknowledged: u16,
        window: Option<u32>,
        blocks: Vec<(u16, u16)>,
        duplicate: Option<(u16, u16)>,
        echo: u16,
    },
    Wait(u32),
    Write(u16),
    Deadline,
    Mss(u16),
    Nudge,
}

fn step() -> impl Strategy<Value = Step> {
    let blocks = prop::collection::vec(any::<(u16, u16)>(), 0..5);
    let window = prop::option::weighted(0.9, prop_oneof![Just(0), 1..3000u32, 30_000..3_000_000u32]);
    let ack = (
        prop_oneof![2 => Just(0), 3 => any::<u16>()],
        window,
        blocks,
        any::<Option<(u16, u16)>>(),
        any::<u16>(),
    );
    let ack = ack.prop_map(|(acknowledged, window, blocks, duplicate, echo)| Step::Ack {
        acknowledged,
        window,
        blocks,
        duplicate,
        echo,
    });
    prop_oneof![
        8 => ack,
        4 => prop_oneof![0..2_000u32, 0..500_000u32].prop_map(Step::Wait),
        4 => any::<u16>().prop_map(Step::Write),
        3 => Just(Step::Deadline),
        1 => (0..2000u16).prop_map(Step::Mss),
        1 => Just(Step::Nudge),
    ]
}

/// What the sender may never do, whatever it is told.
struct Watch {
    base: Instant,
    now: Instant,
    sender: Sender,
    available: u64,
    /// Right edge of the largest window that was offered.
    edge: u64,
}

impl Watch {
    fn new(sack: bool, control: Control) -> Self {
        let now = Instant::now();
        let config = SenderConfig {
            mss: MSS as u16,
            least: 500,
            control,
            sack,
            initial_window: 10,
            window: 50_000,
            handshake: None,
        };
        let sender = Sender::new(&config, now);
        Self { base: now, now, sender, available: 0, edge: 50_000 }
    }

    fn offset(&self, part: u16) -> u64 {
        let from = self.sender.unacknowledged();
        let outstanding = self.sender.next() - from;
        from.saturating_sub(3) + (outstanding + 6) * u64::from(part) / u64::from(u16::MAX)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ack { acknowledged, window, blocks, duplicate, echo } => {
                let acknowledged = match acknowledged {
                    0 => self.sender.unacknowledged(),
                    part => self.offset(part),
                };
                let range = |(start, end)| (self.offset(start), self.offset(end));
                let blocks: Vec<_> = blocks.into_iter().map(range).collect();
                let duplicate = duplicate.map(range);
                let echo = self.base + Duration::from_millis(echo.into());
                if acknowledged <= self.sender.next() {
                    self.edge = self.edge.max(acknowledged + u64::from(window.unwrap_or(0)));
                }
                let ack = Ack {
                    acknowledged,
                    window: window.map(u64::from),
                    sacked: &blocks,
                    duplicate,
                    echo: (echo <= self.now).then_some(echo),
                    bare: true,
                };
                self.sender.handle_ack(self.now, &ack);
            }
            Step::Wait(micros) => self.now += Duration::from_micros(micros.into()),
            Step::Write(bytes) => self.available += u64::from(bytes),
            Step::Deadline => {
                if let Some(at) = self.sender.poll_timeout(self.now, self.available) {
                    self.now = self.now.max(at);
                    self.sender.handle_timeout(self.now);
                }
            }
            Step::Mss(mss) => self.sender.set_mss(self.now, mss),
            Step::Nudge => self.sender.nudge(self.now),
        }
        self.sender.check();
        self.drain();
    }

    fn drain(&mut self) {
        let mut segments = 0;
        while let Some(segment) = self.sender.poll_transmit(self.now, self.available, 60_000) {
            segments += 1;
            assert!(segments < 10_000, "a sender without end");
            assert!(segment.end <= self.available && segment.end <= self.sender.next());
            assert!(segment.start >= self.sender.unacknowledged());
            let empty = segment.start == segment.end;
            assert_eq!(empty, segment.kind == Kind::WindowProbe, "{segment:?}");
            assert!(empty || segment.end <= self.edge, "{segment:?} is beyond every window");
        }
        self.sender.check();
        let at = self.sender.poll_timeout(self.now, self.available);
        assert!(at.is_none_or(|at| at > self.now), "called at once again");
        assert!(at.is_some() || self.sender.unacknowledged() == self.available, "waits for nothing");
        assert!(self.sender.congestion_window() >= u64::from(self.sender.mss()));
        let packets = (self.sender.next() - self.sender.unacknowledged()) / 216;
        assert!(self.sender.records() as u64 <= 2 * packets + 64, "too many ranges");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_ack_confuses_a_sender(sack: bool, bbr: bool, steps in prop::collection::vec(step(), 1..120)) {
        let mut watch = Watch::new(sack, if bbr { Control::Bbr } else { Control::Cubic });
        for step in steps {
            watch.take(step);
        }
    }
}
