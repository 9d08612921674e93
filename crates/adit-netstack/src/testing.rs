//! Two stacks back to back in virtual time, and a link between them that loses, delays, doubles and reorders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{HostPacket, NetConfig};

use crate::{Budget, FlowEvent, FlowId, ListenerId, Stack, StackConfig, StackEvent, TcpOptions};

/// What a link does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    /// Of 1000 packets, how many are lost, doubled, or delayed by `delay` more.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    /// Bytes per second, and bytes that may wait for it; 0 is no bottleneck.
    pub(crate) rate: u64,
    pub(crate) queue: u64,
    /// Longer packets vanish without a word; 0 is no limit.
    pub(crate) mtu: usize,
}

impl Link {
    pub(crate) const CLEAN: Self =
        Self { delay: Duration::from_millis(1), lost: 0, doubled: 0, late: 0, rate: 0, queue: 0, mtu: 0 };
}

/// One of the two ends.
pub(crate) struct End {
    pub(crate) stack: Stack,
    pub(crate) events: Vec<StackEvent>,
    /// Everything that was sent, as it was on the wire.
    pub(crate) wire: Vec<Vec<u8>>,
    pub(crate) record: bool,
}

/// Two ends, `a` at 10.0.0.1 and fd00::1, `b` at 10.0.0.2 and fd00::2.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) ends: [End; 2],
    pub(crate) link: Link,
    /// When the last byte of each direction has passed the bottleneck.
    busy: [Instant; 2],
    in_flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    random: u64,
    count: u64,
    /// Packets that the bottleneck's queue had no room for.
    pub(crate) dropped: u64,
}

pub(crate) fn net_config(last: u8, mtu: u16) -> NetConfig {
    NetConfig {
        addresses: vec![
            format!("10.0.0.{last}/24").parse().unwrap(),
            format!("fd00::{last}/64").parse().unwrap(),
        ],
        routes: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        mtu,
        ..NetConfig::default()
    }
}

impl Pair {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        Self::with_budget(seed, link, Budget::default())
    }

    pub(crate) fn with_budget(seed: u64, link: Link, budget: Budget) -> Self {
        let now = Instant::now();
        let end = |number: u8| {
            let config = StackConfig { seed: seed.wrapping_add(u64::from(number)), budget };
            let mut stack = Stack::new(config, now);
            stack.configure(now, &net_config(number, 1420));
            End { stack, events: Vec::new(), wire: Vec::new(), record: false }
        };
        Self {
            now,
            ends: [end(1), end(2)],
            link,
            busy: [now; 2],
            in_flight: BTreeMap::new(),
            random: seed,
            count: 0,
            dropped: 0,
        }
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        // splitmix64: deterministic, and independent of the stacks' own numbers.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1000 < of_1000
    }

    /// How long a packet waits and is under way in the bottleneck; `None` if its queue is full.
    fn pass_bottleneck(&mut self, from: usize, len: u64) -> Option<Duration> {
        let Some(per_byte) = 1_000_000_000u64.checked_div(self.link.rate) else {
            return Some(Duration::ZERO);
        };
        let waiting = self.busy[from].saturating_duration_since(self.now);
        if waiting.as_nanos() as u64 / per_byte.max(1) > self.link.queue {
            self.dropped += 1;
            return None;
        }
        let through = waiting + Duration::from_nanos(len * 1_000_000_000 / self.link.rate);
        self.busy[from] = self.now + through;
        Some(through)
    }

    /// Lets both ends send, and collects their events.
    pub(crate) fn exchange(&mut self) {
        for from in 0..2 {
            let mut sent = Vec::new();
            let end = &mut self.ends[from];
            end.stack.poll_transmit(self.now, &mut |packet| {
                let segments = packet.segments().expect("the stack writes what can be cut");
                for segment in segments {
                    let mut bytes = vec![0; segment.len()];
                    segment.write(&mut bytes);
                    sent.push(bytes);
                }
                true
            });
            assert!(sent.len() < 20_000, "a stack sends without end");
            if end.record {
                end.wire.extend(sent.iter().cloned());
            }
            while let Some(event) = end.stack.poll_event() {
                end.events.push(event);
            }
            for bytes in sent {
                if self.chance(self.link.lost) || (self.link.mtu > 0 && bytes.len() > self.link.mtu) {
                    continue;
                }
                let Some(queued) = self.pass_bottleneck(from, bytes.len() as u64) else { continue };
                let copies = 1 + u64::from(self.chance(self.link.doubled));
                for _ in 0..copies {
                    let late = if self.chance(self.link.late) { self.link.delay } else { Duration::ZERO };
                    self.count += 1;
                    let key = (self.now + queued + self.link.delay + late, self.count);
                    self.in_flight.insert(key, (1 - from, bytes.clone()));
                }
            }
        }
    }

    /// Goes to the next moment at which something happens; `false` if nothing will, or not before `until`.
    pub(crate) fn step(&mut self, until: Instant) -> bool {
        self.exchange();
        let timers = self.ends.iter().filter_map(|end| end.stack.poll_timeout()).map(|deadline| deadline.at);
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = timers.chain(arrival).min().filter(|at| *at <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        assert!(next > self.now || arrival == Some(next), "a deadline that is not in the future");
        self.now = next;
        while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= next) {
            let (to, bytes) = entry.remove();
            let _ = self.ends[to].stack.handle_packet(self.now, HostPacket::new(&bytes));
        }
        for end in &mut self.ends {
            end.stack.handle_timeout(self.now);
        }
        self.exchange();
        true
    }

    /// Runs for a while.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    pub(crate) fn take_events(&mut self, end: usize) -> Vec<StackEvent> {
        std::mem::take(&mut self.ends[end].events)
    }

    /// Connects `a` to a listener of `b` that accepts.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> (FlowId, FlowId, ListenerId) {
        let listener = self.ends[1].stack.tcp_listen(to.port()).unwrap();
        let client = self.ends[0].stack.tcp_connect(self.now, to, TcpOptions::default()).unwrap();
        let server = self.accept();
        let until = self.now + Duration::from_secs(300);
        while !self.ends[0].events.contains(&StackEvent::Tcp(client, FlowEvent::Connected))
            || !self.ends[1].events.contains(&StackEvent::Tcp(server, FlowEvent::Connected))
        {
            assert!(self.step(until), "no connection: {:?} {:?}", self.ends[0].events, self.ends[1].events);
        }
        self.ends[0].events.clear();
        self.ends[1].events.clear();
        (client, server, listener)
    }

    /// Accepts the next connection that `b` is asked for.
    pub(crate) fn accept(&mut self) -> FlowId {
        let until = self.now + Duration::from_secs(300);
        loop {
            let asked = self.ends[1].events.iter().position(|e| matches!(e, StackEvent::Incoming { .. }));
            if let Some(at) = asked {
                let StackEvent::Incoming { pending, .. } = self.ends[1].events.remove(at) else {
                    unreachable!()
                };
                return self.ends[1].stack.tcp_accept(self.now, pending).unwrap();
            }
            assert!(self.step(until), "nobody asked for a connection");
        }
    }

    /// Writes as much of `data` as there is room for; returns how much.
    pub(crate) fn write(&mut self, end: usize, flow: FlowId, data: &[u8]) -> usize {
        let mut written = 0;
        loop {
            let [room, _] = self.ends[end].stack.tcp_send_space(flow);
            let n = room.len().min(data.len() - written);
            if n == 0 {
                return written;
            }
            room[..n].copy_from_slice(&data[written..written + n]);
            self.ends[end].stack.tcp_sent(self.now, flow, n);
            written += n;
        }
    }

    /// Reads everything that waits.
    pub(crate) fn read(&mut self, end: usize, flow: FlowId, into: &mut Vec<u8>) {
        loop {
            let [data, _] = self.ends[end].stack.tcp_recv_data(flow);
            let n = data.len();
            if n == 0 {
                return;
            }
            into.extend_from_slice(data);
            self.ends[end].stack.tcp_consumed(self.now, flow, n);
        }
    }

    /// Sends `data` from `from` and reads it at the other end, until it has all arrived.
    pub(crate) fn transfer(
        &mut self,
        from: usize,
        (sender, receiver): (FlowId, FlowId),
        data: &[u8],
        limit: Duration,
    ) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        let until = self.now + limit;
        while received.len() < data.len() {
            sent += self.write(from, sender, &data[sent..]);
            let went_on = self.step(until);
            self.read(1 - from, receiver, &mut received);
            assert!(
                went_on || received.len() == data.len(),
                "{} of {} bytes arrived",
                received.len(),
                data.len()
            );
        }
        received
    }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
