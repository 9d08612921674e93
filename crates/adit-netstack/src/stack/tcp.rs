//! TCP connections: finding them, running them, and what their owners do.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::view::{IpView, TcpView};
use adit_tunnel::{Dropped, Prefix};

use super::{Stack, ephemeral_port};
use crate::emit::Backlog;
use crate::hash::Keyed;
use crate::tcp::{Buffers, Flow, FlowConfig, Out, TimeWait, Tuple};
use crate::timers::Timers;
use crate::{FlowId, OpenError, StackEvent, TcpOptions};

/// How long a pair of addresses and ports rests after a connection that we ended first (Linux' value).
const TIME_WAIT: Duration = Duration::from_secs(60);
const MAX_TIME_WAIT: usize = 8192;
/// Buffers kept for the next connections, on top of the budget.
const MAX_SPARE: usize = 8;

/// Every connection.
#[derive(Debug)]
pub(super) struct Flows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_tuple: HashMap<Tuple, u32, Keyed>,
    /// Packets come in runs of one flow.
    last: Option<(Tuple, u32)>,
    /// Slots to run, each once.
    ready: VecDeque<u32>,
    /// Slots whose flow has events, each once.
    talkative: VecDeque<u32>,
    timers: Timers,
    /// Buffers of connections that are over.
    spare: Vec<Buffers>,
    time_wait: HashMap<Tuple, (TimeWait, Instant), Keyed>,
    /// The keys of `time_wait`, oldest first.
    resting: VecDeque<(Instant, Tuple)>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    entry: Option<Box<Entry>>,
}

#[derive(Debug)]
struct Entry {
    flow: Flow,
    is_ready: bool,
    is_talkative: bool,
    is_known: bool,
}

impl Flows {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_tuple: HashMap::with_hasher(keyed),
            last: None,
            ready: VecDeque::new(),
            talkative: VecDeque::new(),
            timers: Timers::default(),
            spare: Vec::new(),
            time_wait: HashMap::with_hasher(keyed),
            resting: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn wake_due(&mut self, now: Instant) {
        while let Some(index) = self.timers.pop_due(now) {
            self.wake(index);
        }
    }

    pub(super) fn set_mtu(&mut self, now: Instant, mtu: u16) {
        for entry in self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()) {
            entry.flow.set_mtu(now, mtu);
        }
    }

    pub(super) fn set_queue(&mut self, to: &[Prefix], packets: Option<u16>) {
        for entry in self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()) {
            let peer = entry.flow.tuple().peer;
            if to.iter().any(|prefix| prefix.contains(peer)) {
                entry.flow.set_queue(packets);
            }
        }
    }

    pub(super) fn nudge(&mut self, now: Instant) {
        for index in 0..self.slots.len() as u32 {
            if let Some(entry) = self.entry(index) {
                entry.flow.nudge(now);
                self.wake(index);
            }
        }
    }

    /// The flow of a segment, by addresses and ports.
    pub(super) fn find(&mut self, tuple: &Tuple) -> Option<(u32, &mut Flow)> {
        let index = match self.last {
            Some((last, index)) if last == *tuple => index,
            _ => {
                let index = *self.by_tuple.get(tuple)?;
                self.last = Some((*tuple, index));
                index
            }
        };
        Some((index, &mut self.entry(index)?.flow))
    }

    /// Whether the pair can be used for a new connection.
    fn is_free(&self, tuple: &Tuple, now: Instant) -> bool {
        !self.by_tuple.contains_key(tuple) && self.time_wait.get(tuple).is_none_or(|(_, until)| *until <= now)
    }

    pub(super) fn insert(&mut self, flow: Flow) -> FlowId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        self.by_tuple.insert(*flow.tuple(), index);
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(Box::new(Entry { flow, is_ready: false, is_talkative: false, is_known: true }));
        let generation = slot.generation;
        self.wake(index);
        FlowId { index, generation }
    }

    fn entry(&mut self, index: u32) -> Option<&mut Entry> {
        self.slots.get_mut(index as usize)?.entry.as_deref_mut()
    }

    fn get(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.index as usize)?;
        (slot.generation == id.generation).then_some(&mut slot.entry.as_deref_mut()?.flow)
    }

    /// The flow has work: it runs with the next `poll_transmit`.
    pub(super) fn wake(&mut self, index: u32) {
        if let Some(entry) = self.entry(index)
            && !std::mem::replace(&mut entry.is_ready, true)
        {
            self.ready.push_back(index);
        }
    }

    /// Lets what has changed in a flow take effect outside it. Returns the buffer space that became free.
    fn settle(&mut self, index: u32, now: Instant) -> usize {
        let Some(entry) = self.entry(index) else { return 0 };
        let talks = entry.flow.has_events() && !std::mem::replace(&mut entry.is_talkative, true);
        let (over, orphan) = (entry.flow.is_over(), entry.flow.is_orphan());
        if talks {
            self.talkative.push_back(index);
        }
        if over {
            self.forget(index, now);
        }
        if over && orphan { self.remove(index) } else { 0 }
    }

    /// A connection that is over keeps only what its owner may still read.
    fn forget(&mut self, index: u32, now: Instant) {
        let Some(entry) = self.entry(index) else { return };
        if !std::mem::replace(&mut entry.is_known, false) {
            return;
        }
        let (tuple, rest) = (*entry.flow.tuple(), entry.flow.time_wait());
        self.by_tuple.remove(&tuple);
        self.last = None;
        self.timers.set(index, None);
        if let Some(rest) = rest {
            self.rest(tuple, rest, now);
        }
    }

    fn rest(&mut self, tuple: Tuple, rest: TimeWait, now: Instant) {
        while let Some((until, oldest)) = self.resting.front().copied()
            && (until <= now || self.resting.len() >= MAX_TIME_WAIT)
        {
            self.resting.pop_front();
            // The pair may have been used and rested again since.
            if self.time_wait.get(&oldest).is_some_and(|(_, its)| *its == until) {
                self.time_wait.remove(&oldest);
            }
        }
        self.time_wait.insert(tuple, (rest, now + TIME_WAIT));
        self.resting.push_back((now + TIME_WAIT, tuple));
    }

    fn remove(&mut self, index: u32) -> usize {
        let slot = &mut self.slots[index as usize];
        let Some(entry) = slot.entry.take() else { return 0 };
        slot.generation = slot.generation.wrapping_add(1);
        // A slot still in a queue is skipped there, or finds its next flow, which does no harm.
        self.free.push(index);
        let freed = entry.flow.granted();
        if self.spare.len() < MAX_SPARE {
            self.spare.push(entry.flow.into_buffers());
        }
        freed
    }
}

impl Stack {
    pub(super) fn handle_tcp(&mut self, now: Instant, ip: &IpView<'_>) -> Result<(), Dropped> {
        let tcp = ip.tcp().ok_or(Dropped::Malformed)?;
        if !ip.is_v4() && ip.header_len() != 40 {
            // No sender puts extension headers before TCP.
            return Err(Dropped::Unexpected);
        }
        let tuple = Tuple {
            local: ip.destination(),
            peer: ip.source(),
            local_port: tcp.destination_port(),
            peer_port: tcp.source_port(),
        };
        let Self { tcp: flows, backlog, .. } = self;
        if let Some((index, flow)) = flows.find(&tuple) {
            flow.handle_segment(now, &tcp, &mut |packet| queue(backlog, packet));
            flows.wake(index);
            self.settle(index, now);
            return Ok(());
        }
        if self.handle_resting(now, &tuple, &tcp) {
            return Ok(());
        }
        self.handle_stranger(now, &tuple, ip, &tcp)
    }

    /// A segment for a connection in TIME-WAIT (RFC 9293 §3.10.7.4); `false` if it is for none.
    fn handle_resting(&mut self, now: Instant, tuple: &Tuple, tcp: &TcpView<'_>) -> bool {
        let Some(&(rest, until)) = self.tcp.time_wait.get(tuple) else { return false };
        if until <= now || rest.yields_to(now, tcp) {
            self.tcp.time_wait.remove(tuple);
            return false;
        }
        let backlog = &mut self.backlog;
        rest.answer(now, tuple, tcp, &mut |packet| queue(backlog, packet));
        true
    }

    /// Runs flows that have work until one has written a packet to `self.output`.
    pub(super) fn run_next(&mut self, now: Instant) -> Option<Out> {
        while let Some(index) = self.tcp.ready.pop_front() {
            let Some(entry) = self.tcp.entry(index) else { continue };
            entry.is_ready = false;
            let out = entry.flow.poll_transmit(now, &mut self.output);
            if out.is_some() {
                // Behind the others: a bulk flow sends one super-segment a turn.
                self.tcp.wake(index);
            } else {
                let deadline = entry.flow.poll_timeout(now);
                self.tcp.timers.set(index, deadline);
            }
            self.settle(index, now);
            if out.is_some() {
                return out;
            }
        }
        None
    }

    pub(super) fn settle(&mut self, index: u32, now: Instant) {
        if let Some(entry) = self.tcp.entry(index) {
            entry.flow.grow(now, &mut self.memory);
        }
        let freed = self.tcp.settle(index, now);
        self.memory.release(freed);
    }

    pub(super) fn poll_flow_event(&mut self) -> Option<StackEvent> {
        while let Some(&index) = self.tcp.talkative.front() {
            let generation = self.tcp.slots[index as usize].generation;
            if let Some(entry) = self.tcp.entry(index) {
                if let Some(event) = entry.flow.poll_event() {
                    return Some(StackEvent::Tcp(FlowId { index, generation }, event));
                }
                entry.is_talkative = false;
            }
            self.tcp.talkative.pop_front();
        }
        None
    }

    /// Opens a connection; [`FlowEvent`](crate::FlowEvent)s tell how it goes. It is tried until it is answered,
    /// aborted or [`TcpOptions::timeout`] has passed.
    ///
    /// # Errors
    /// [`OpenError::NoRoute`], [`OpenError::NoPort`] or [`OpenError::OverBudget`].
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        options: TcpOptions,
    ) -> Result<FlowId, OpenError> {
        let local = self.route_to(to.ip())?;
        let pair = |local_port| Tuple { local, peer: to.ip(), local_port, peer_port: to.port() };
        let port = ephemeral_port(&mut self.random, |port| self.tcp.is_free(&pair(port), now));
        let tuple = pair(port.ok_or(OpenError::NoPort)?);
        let (config, buffers) = self.flow_config(&tuple, options)?;
        let flow = Flow::connect(tuple, &config, buffers, now);
        let id = self.tcp.insert(flow);
        self.settle(id.index, now);
        Ok(id)
    }

    /// Our address towards `to`, if the tunnel leads there.
    pub(super) fn route_to(&self, to: IpAddr) -> Result<IpAddr, OpenError> {
        self.source_for(to)
            .filter(|_| self.net.routes_to(to) && super::is_unicast(to))
            .ok_or(OpenError::NoRoute(to))
    }

    pub(super) fn flow_config(
        &mut self,
        tuple: &Tuple,
        options: TcpOptions,
    ) -> Result<(FlowConfig, Buffers), OpenError> {
        let buffer = self.memory.reserve_flow().ok_or(OpenError::OverBudget)?;
        let max_buffer = self.memory.max_buffer();
        let seed = self.random.of(tuple);
        let queue = self.queues.lookup(tuple.peer).copied().flatten();
        let config =
            FlowConfig { mtu: self.net.mtu, seed, epoch: self.epoch, buffer, max_buffer, queue, options };
        Ok((config, self.tcp.spare.pop().unwrap_or_default()))
    }

    /// Room for bytes to send, in up to two pieces; empty before the connection is open and after it ended.
    /// Fill it from the front and say how much with [`tcp_sent`](Self::tcp_sent).
    pub fn tcp_send_space(&mut self, id: FlowId) -> [&mut [u8]; 2] {
        self.tcp.get(id).map_or([&mut [], &mut []], Flow::send_space)
    }

    /// Sends the first `n` bytes of [`tcp_send_space`](Self::tcp_send_space).
    pub fn tcp_sent(&mut self, _now: Instant, id: FlowId, n: usize) {
        if let Some(flow) = self.tcp.get(id) {
            flow.sent(n);
            self.tcp.wake(id.index);
        }
    }

    /// Received bytes, in up to two pieces; say with [`tcp_consumed`](Self::tcp_consumed) how much was taken.
    pub fn tcp_recv_data(&mut self, id: FlowId) -> [&[u8]; 2] {
        self.tcp.get(id).map_or([&[], &[]], Flow::recv_data)
    }

    /// Forgets the first `n` bytes of [`tcp_recv_data`](Self::tcp_recv_data) and opens the window by as much.
    pub fn tcp_consumed(&mut self, _now: Instant, id: FlowId, n: usize) {
        if let Some(flow) = self.tcp.get(id) {
            flow.consumed(n);
            self.tcp.wake(id.index);
        }
    }

    /// Ends our direction (FIN) after everything that was sent.
    pub fn tcp_shutdown(&mut self, now: Instant, id: FlowId) {
        if let Some(flow) = self.tcp.get(id) {
            flow.shutdown();
            self.tcp.wake(id.index);
            self.settle(id.index, now);
        }
    }

    /// Ends the connection at once (RST); [`CloseReason::Aborted`](crate::CloseReason::Aborted) follows.
    pub fn tcp_abort(&mut self, now: Instant, id: FlowId) {
        if let Some(flow) = self.tcp.get(id) {
            flow.abort();
            self.tcp.wake(id.index);
            self.settle(id.index, now);
        }
    }

    /// The owner is done: no more events. A connection that is not over ends by itself: in order if everything
    /// received was read, else with RST, as `close` does.
    pub fn tcp_release(&mut self, id: FlowId) {
        let Some(flow) = self.tcp.get(id) else { return };
        if flow.is_over() {
            let freed = self.tcp.remove(id.index);
            self.memory.release(freed);
        } else {
            flow.release();
            self.tcp.wake(id.index);
        }
    }

    /// Our address and the peer's.
    pub fn tcp_addresses(&self, id: FlowId) -> Option<(SocketAddr, SocketAddr)> {
        let slot = self.tcp.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let tuple = slot.entry.as_deref()?.flow.tuple();
        Some((tuple.local(), tuple.peer()))
    }
}

/// Queues an answer. It is dropped when the backlog is full; the peer's retransmission asks again.
fn queue(backlog: &mut Backlog, packet: &[u8]) {
    if let Some(place) = backlog.push((), packet.len()) {
        place.copy_from_slice(packet);
    }
}
