//! Senders, an ideal receiver for each, and one bottleneck, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::super::{Ack, Kind, Sender, SenderConfig, TICK};
use crate::CongestionControl as Control;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;
pub(super) const MSS: u64 = 1448;
const HEADERS: u64 = 52;
const PACKET: u64 = MSS + HEADERS;

/// A path: one bottleneck with a tail-drop queue, then what the network does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// Bytes a second.
    pub(super) rate: f64,
    /// Nanoseconds one way.
    pub(super) delay: u64,
    /// Bytes.
    pub(super) queue: u64,
    /// Probability that a loss begins with a packet, and how many packets it takes.
    pub(super) loss: f64,
    pub(super) burst: u32,
    /// Probability that a packet is delayed further, and by how much.
    pub(super) reorder: f64,
    pub(super) later: u64,
    /// In-order packets for one ACK.
    pub(super) ack_every: u32,
    /// Accuracy of the sender's timers.
    pub(super) timer: u64,
    pub(super) sack: bool,
}

impl Path {
    /// A path of so many Mbit/s, milliseconds of round trip, and packets of queue.
    pub(super) fn new(mbit: f64, rtt: u64, queue: u64) -> Self {
        Self {
            rate: mbit * 1e6 / 8.0,
            delay: rtt * MS / 2,
            queue: queue * PACKET,
            loss: 0.0,
            burst: 1,
            reorder: 0.0,
            later: 0,
            ack_every: 2,
            timer: 0,
            sack: true,
        }
    }

    pub(super) fn loses(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    pub(super) fn reorders(self, reorder: f64, later: u64) -> Self {
        Self { reorder, later: later * MS, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Echo {
    acknowledged: u64,
    blocks: [(u64, u64); 3],
    duplicate: Option<(u64, u64)>,
    stamp: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Packet { flow: usize, start: u64, end: u64, stamp: u64 },
    Ack(usize, Echo),
    Timer(usize),
    DelayedAck(usize, u64),
}

/// Reassembles, and acknowledges as the RFCs ask.
#[derive(Debug, Default)]
struct Receiver {
    next: u64,
    /// Out of order, the most recently changed first.
    ranges: Vec<(u64, u64)>,
    unanswered: u32,
    /// Counts ACKs, so that a delayed one is known to be superfluous.
    acks: u64,
    /// The timestamp to echo (RFC 7323, section 4.3).
    stamp: u64,
}

impl Receiver {
    /// Takes a packet. Returns whether it has to be acknowledged at once, and what of it came twice.
    fn take(&mut self, start: u64, end: u64, stamp: u64, every: u32) -> (bool, Option<(u64, u64)>) {
        if start <= self.next {
            self.stamp = self.stamp.max(stamp);
        }
        if end <= self.next {
            return (true, Some((start, end)));
        }
        if let Some(range) = self.ranges.iter().find(|range| range.0 <= start && end <= range.1) {
            let _ = range;
            return (true, Some((start, end)));
        }
        let (mut start, mut end) = (start, end);
        let gap = !self.ranges.is_empty();
        self.ranges.retain(|range| {
            let joins = range.0 <= end && start <= range.1;
            if joins {
                (start, end) = (start.min(range.0), end.max(range.1));
            }
            !joins
        });
        if start <= self.next {
            self.next = end;
            self.unanswered += 1;
            (gap || self.unanswered >= every, None)
        } else {
            self.ranges.insert(0, (start, end));
            (true, None)
        }
    }

    fn ack(&mut self, duplicate: Option<(u64, u64)>) -> Echo {
        self.unanswered = 0;
        self.acks += 1;
        let mut blocks = [(0, 0); 3];
        let room = if duplicate.is_some() { 2 } else { 3 };
        for (to, from) in blocks.iter_mut().take(room).zip(&self.ranges) {
            *to = *from;
        }
        Echo { acknowledged: self.next, blocks, duplicate, stamp: self.stamp }
    }
}

pub(super) struct Flow {
    pub(super) sender: Sender,
    receiver: Receiver,
    pub(super) available: u64,
    timer: u64,
    pub(super) done: Option<u64>,
}

impl Flow {
    /// Bytes that arrived in order.
    pub(super) fn received(&self) -> u64 {
        self.receiver.next
    }
}

pub(super) struct Simulation {
    base: Instant,
    pub(super) now: u64,
    path: Path,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    pub(super) flows: Vec<Flow>,
    busy: u64,
    losing: u32,
    random: u64,
    count: u64,
    /// Packets that the queue or the network lost.
    pub(super) lost: u64,
    /// Decides the fate of a packet of the first flow by its start and whether it was sent before.
    pub(super) fate: Option<Box<dyn FnMut(u64, u64) -> bool>>,
    pub(super) largest: u32,
    /// What would arrive between these times arrives at their end.
    pub(super) freeze: (u64, u64),
    /// When the senders are told that the path works again.
    pub(super) nudge: Option<u64>,
}

impl Simulation {
    pub(super) fn new(path: Path, controls: &[Control], seed: u64) -> Self {
        let base = Instant::now();
        let rtt = Duration::from_nanos(2 * path.delay + (PACKET as f64 / path.rate * 1e9) as u64);
        let flows = controls.iter().map(|control| {
            let config = SenderConfig {
                mss: MSS as u16,
                least: 500,
                control: *control,
                sack: path.sack,
                initial_window: 10,
                window: 64 << 20,
                handshake: Some(rtt),
            };
            let sender = Sender::new(&config, base);
            Flow { sender, receiver: Receiver::default(), available: 0, timer: u64::MAX, done: None }
        });
        Self {
            base,
            now: 0,
            path,
            events: BinaryHeap::new(),
            flows: flows.collect(),
            busy: 0,
            losing: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03,
            count: 0,
            lost: 0,
            fate: None,
            largest: 65_000,
            freeze: (0, 0),
            nudge: None,
        }
    }

    /// One flow that sends so much.
    pub(super) fn transfer(path: Path, control: Control, seed: u64, bytes: u64) -> Self {
        let mut simulation = Self::new(path, &[control], seed);
        simulation.write(0, bytes);
        simulation
    }

    pub(super) fn write(&mut self, flow: usize, bytes: u64) {
        self.flows[flow].available += bytes;
        self.flows[flow].done = None;
        self.transmit(flow);
    }

    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    /// Runs until `until`, or until every flow has delivered what it has.
    pub(super) fn run(&mut self, until: u64) {
        let mut at_this_moment = 0;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until || self.flows.iter().all(|flow| flow.done.is_some()) {
                break;
            }
            at_this_moment = if at > self.now { 0 } else { at_this_moment + 1 };
            assert!(at_this_moment < 100_000, "time stands still at {at}");
            if self.nudge.is_some_and(|nudge| nudge <= at) {
                self.now = self.nudge.take().unwrap_or(at).max(self.now);
                let now = self.instant();
                for flow in 0..self.flows.len() {
                    self.flows[flow].sender.nudge(now);
                    self.transmit(flow);
                }
                continue;
            }
            self.events.pop();
            self.now = at;
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Packet { flow, start, end, stamp } => {
                let every = self.path.ack_every;
                let (now, to) = (self.now, &mut self.flows[flow]);
                let (at_once, duplicate) = to.receiver.take(start, end, stamp, every);
                if to.receiver.next >= to.available && to.done.is_none() {
                    to.done = Some(now);
                }
                let acks = to.receiver.acks;
                if at_once {
                    self.acknowledge(flow, duplicate);
                } else {
                    self.push(self.now + 40 * MS, Event::DelayedAck(flow, acks));
                }
            }
            Event::DelayedAck(flow, acks) => {
                if self.flows[flow].receiver.acks == acks {
                    self.acknowledge(flow, None);
                }
            }
            Event::Ack(flow, echo) => {
                let now = self.instant();
                let used = echo.blocks.iter().take_while(|block| block.1 > 0).count();
                let tick = u64::try_from(TICK.as_nanos()).unwrap();
                let ack = Ack {
                    acknowledged: echo.acknowledged,
                    window: Some(64 << 20),
                    sacked: if self.path.sack { &echo.blocks[..used] } else { &[] },
                    duplicate: echo.duplicate.filter(|_| self.path.sack),
                    echo: Some(self.base + Duration::from_nanos(echo.stamp / tick * tick)),
                    bare: true,
                };
                self.flows[flow].sender.handle_ack(now, &ack);
                self.transmit(flow);
            }
            Event::Timer(flow) => {
                if self.flows[flow].timer == self.now {
                    self.flows[flow].timer = u64::MAX;
                    let now = self.instant();
                    self.flows[flow].sender.handle_timeout(now);
                    self.transmit(flow);
                }
            }
        }
    }

    fn acknowledge(&mut self, flow: usize, duplicate: Option<(u64, u64)>) {
        let echo = self.flows[flow].receiver.ack(duplicate);
        self.push(self.now + self.path.delay, Event::Ack(flow, echo));
    }

    /// Lets the sender send, and checks what holds after that.
    fn transmit(&mut self, flow: usize) {
        let now = self.instant();
        let available = self.flows[flow].available;
        let mut segments = 0;
        while let Some(segment) = self.flows[flow].sender.poll_transmit(now, available, self.largest) {
            segments += 1;
            assert!(segments < 100_000, "a sender without end: {:?}", self.flows[flow].sender);
            assert!(segment.start < segment.end && segment.end <= available, "{segment:?}");
            let whole = segment.kind == Kind::SizeProbe;
            let most = if whole { MSS } else { self.flows[flow].sender.mss().into() };
            let mut start = segment.start;
            while start < segment.end {
                let end = segment.end.min(start + most);
                self.carry(flow, start, end);
                start = end;
            }
        }
        let sender = &self.flows[flow].sender;
        if self.count.is_multiple_of(64) {
            sender.check();
        }
        let at = sender.poll_timeout(now, available);
        assert!(at.is_none_or(|at| at > now), "{sender:?} wants to be called at once");
        assert!(at.is_some() || sender.next() == sender.unacknowledged(), "{sender:?} waits for nothing");
        assert!(sender.congestion_window() >= u64::from(sender.mss()), "{sender:?} has no window");
        let Some(at) = at else { return };
        let nanos = u64::try_from(at.duration_since(self.base).as_nanos()).unwrap();
        let nanos = if self.path.timer > 0 { nanos.next_multiple_of(self.path.timer) } else { nanos };
        if nanos != self.flows[flow].timer {
            self.flows[flow].timer = nanos;
            self.push(nanos, Event::Timer(flow));
        }
    }

    /// Puts a packet into the queue of the bottleneck.
    fn carry(&mut self, flow: usize, start: u64, end: u64) {
        let backlog = (self.busy.saturating_sub(self.now) as f64 / 1e9 * self.path.rate) as u64;
        let len = end - start + HEADERS;
        let dropped = match &mut self.fate {
            Some(fate) if flow == 0 => fate(start, self.now),
            _ => false,
        };
        if dropped || backlog + len > self.path.queue {
            self.lost += 1;
            return;
        }
        self.busy = self.busy.max(self.now) + (len as f64 / self.path.rate * 1e9) as u64;
        if self.losing == 0
            && self.path.loss > 0.0
            && self.uniform() < self.path.loss / f64::from(self.path.burst)
        {
            self.losing = self.path.burst;
        }
        if self.losing > 0 {
            self.losing -= 1;
            self.lost += 1;
            return;
        }
        let later =
            if self.path.reorder > 0.0 && self.uniform() < self.path.reorder { self.path.later } else { 0 };
        let mut at = self.busy + self.path.delay + later;
        if (self.freeze.0..self.freeze.1).contains(&at) {
            at = self.freeze.1;
        }
        self.push(at, Event::Packet { flow, start, end, stamp: self.now });
    }
}

/// Goodput of one flow in Mbit/s, the mean over seeds.
pub(super) fn goodput(path: Path, control: Control, seeds: u64, seconds: u64) -> f64 {
    let run = |seed| {
        let mut simulation = Simulation::transfer(path, control, seed, 1 << 40);
        simulation.run(seconds * SECOND);
        simulation.flows[0].received() as f64 * 8.0 / seconds as f64 / 1e6
    };
    (0..seeds).map(run).sum::<f64>() / seeds as f64
}

/// Milliseconds until so many bytes have arrived.
pub(super) fn completion(path: Path, control: Control, seed: u64, bytes: u64) -> f64 {
    let mut simulation = Simulation::transfer(path, control, seed, bytes);
    simulation.run(300 * SECOND);
    simulation.flows[0].done.expect("the transfer ends") as f64 / MS as f64
}
