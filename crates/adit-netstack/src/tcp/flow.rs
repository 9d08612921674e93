//! One TCP connection (RFC 9293).

mod incoming;
mod outgoing;
mod owner;

use std::time::{Duration, Instant};

use adit_tunnel::view::IpView;

use super::Tuple;
use super::clock::{Clock, Recent};
use super::header::room;
use super::options::TIMESTAMPS_LEN;
use super::receiver::Receiver;
use super::ring::Ring;
use super::sender::Sender;
use super::time_wait::TimeWait;
use crate::memory::Memory;
use crate::{CloseReason, CongestionControl, TcpOptions};

/// The longest headers of a TCP segment: IPv6, or IPv4 with options, and TCP with options.
pub(crate) const MAX_HEADERS: usize = 120;
/// How long a connection whose owner has gone may take to end, counted from the peer's last sign of life.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that has been silent for this long and has nothing in its buffers gives back their memory, if it is more
/// than a little.
const IDLE: Duration = Duration::from_secs(10);
const LITTLE: usize = 64 << 10;
/// The largest buffer that is kept for another connection.
const MAX_SPARE: usize = 1 << 20;
/// A deadline is never nearer than this, whatever a part of the connection says.
const MIN_WAIT: Duration = Duration::from_micros(50);

/// What a connection is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowConfig {
    /// The tunnel's MTU.
    pub(crate) mtu: u16,
    /// Belongs to the addresses and ports, and decides the initial sequence number and the clock that the peer sees.
    pub(crate) seed: u64,
    /// The beginning of time, the same for all connections.
    pub(crate) epoch: Instant,
    /// Bytes of each of the two buffers.
    pub(crate) buffer: usize,
    /// Bytes that each of them may grow to.
    pub(crate) max_buffer: usize,
    /// The narrowest queue on the way, in packets, if it is known.
    pub(crate) queue: Option<u16>,
    pub(crate) options: TcpOptions,
}

/// The buffers of a connection that is over, for one that begins: opening one then takes no memory from the system.
/// What they held cannot be read again.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    send: Ring,
    receive: Ring,
}

/// How far the handshake is. How far the end is follows from the two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// SYN-SENT.
    Calling,
    /// SYN-RECEIVED.
    Answering,
    /// The peer has acknowledged our SYN: ESTABLISHED and what follows.
    Open,
}

/// What the two SYNs agree on.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Initial receive sequence number: that of the peer's SYN.
    sequence: u32,
    /// What the peer takes in one segment, without options.
    mss: u16,
    /// By how many bits its windows are shifted; `None` without the option.
    shift: Option<u8>,
    sack: bool,
    timestamps: bool,
}

/// Our SYN, or SYN-ACK, on its way.
#[derive(Clone, Copy, Debug)]
struct Syn {
    /// When the connection came to be.
    began: Instant,
    /// How often it was sent.
    count: u32,
    /// When it leaves (again).
    due: Instant,
    /// When it left last.
    sent: Instant,
}

/// One connection: no addresses beyond its own, no timers beyond its next deadline.
///
/// After every call that takes `now`, [`poll_transmit`](Self::poll_transmit) until `None`, then
/// [`poll_event`](Self::poll_event) until `None`, then heed [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub(crate) struct Flow {
    tuple: Tuple,
    phase: Phase,
    /// We have sent the first SYN.
    active: bool,
    /// Initial send sequence number.
    sequence: u32,
    syn: Syn,
    peer: Peer,
    clock: Clock,
    recent: Recent,
    /// What a packet on the wire may carry, options included: bounded by the tunnel and the path.
    room: u16,
    /// What we tell the peer that it may send.
    advertised: u16,
    send: Ring,
    receiver: Receiver,
    /// Since the handshake is over.
    sender: Option<Box<Sender>>,
    /// End of the data that the owner has sent.
    written: u64,
    /// Our direction ends at `written`.
    fin: bool,
    /// The peer's direction ended before ours did.
    passive: bool,
    /// Sequence offset and acknowledgment of the segment that told the peer's window (RFC 9293 §3.10.7.4).
    window_from: (i64, u64),
    /// The peer's window, and the largest that it ever had.
    window: u64,
    max_window: u64,
    /// The shortest time after which the peer's data echoed a timestamp of ours, less what the clock may be wrong by: a round
    /// trip, where we send nothing that would tell it better.
    echoed: Option<Duration>,
    /// When a segment that makes no sense was answered last (RFC 5961 §7).
    challenged: Option<Instant>,
    /// When the peer gave its last sign of life, or we began to wait for one.
    heard: Instant,
    /// When the peer was asked for a sign of life last.
    probed: Instant,
    timeout: Option<Duration>,
    congestion: CongestionControl,
    keepalive: Option<Duration>,
    /// The peer must get an RST.
    reset_due: bool,
    connected: bool,
    peer_shut: bool,
    /// The owner saw a send buffer with little room.
    starved: bool,
    unread: usize,
    /// The owner has gone.
    orphan: bool,
    closed: Option<CloseReason>,
    over: bool,
    events: Events,
}

/// Events not yet polled, a bit each, in the order in which they are told.
#[derive(Clone, Copy, Debug, Default)]
struct Events(u8);

impl Events {
    const CONNECTED: u8 = 1;
    const READABLE: u8 = 2;
    const WRITABLE: u8 = 4;
    const PEER_SHUT: u8 = 8;
    const CLOSED: u8 = 16;

    fn add(&mut self, event: u8) {
        self.0 |= event;
    }

    fn take(&mut self) -> Option<u8> {
        let lowest = self.0 & self.0.wrapping_neg();
        self.0 &= !lowest;
        (lowest != 0).then_some(lowest)
    }
}

impl Flow {
    /// A connection that we open: the SYN leaves with the next [`poll_transmit`](Self::poll_transmit).
    pub(crate) fn connect(tuple: Tuple, config: &FlowConfig, buffers: Buffers, now: Instant) -> Self {
        Self::new(tuple, config, buffers, Phase::Calling, now)
    }

    /// A connection that a peer opens with the packet `syn`.
    pub(crate) fn accept(
        tuple: Tuple,
        config: &FlowConfig,
        buffers: Buffers,
        now: Instant,
        syn: &[u8],
    ) -> Self {
        let mut flow = Self::new(tuple, config, buffers, Phase::Answering, now);
        match IpView::parse(syn).ok().and_then(|ip| ip.tcp()) {
            Some(tcp) => flow.learn_peer(now, &tcp),
            None => flow.end(CloseReason::Reset),
        }
        flow
    }

    fn new(tuple: Tuple, config: &FlowConfig, buffers: Buffers, phase: Phase, now: Instant) -> Self {
        let Buffers { mut send, mut receive } = buffers;
        send.reset(config.buffer);
        receive.reset(config.buffer);
        let room = room(tuple.local, config.mtu);
        // A clock of 4 µs behind the hash (RFC 6528 §3), so that a pair that is used again goes on, rather than back.
        let age = now.saturating_duration_since(config.epoch).as_micros() / 4;
        Self {
            tuple,
            phase,
            active: phase == Phase::Calling,
            sequence: (config.seed as u32).wrapping_add(age as u32),
            syn: Syn { began: now, count: 0, due: now, sent: now },
            peer: Peer::default(),
            clock: Clock::new(config.epoch, (config.seed >> 32) as u32),
            recent: Recent::default(),
            room,
            advertised: room,
            send,
            receiver: Receiver::new(now, receive, config, room),
            sender: None,
            written: 0,
            fin: false,
            passive: false,
            window_from: (0, 0),
            window: 0,
            max_window: 0,
            echoed: None,
            challenged: None,
            heard: now,
            probed: now,
            timeout: config.options.timeout,
            keepalive: config.options.keepalive,
            congestion: config.options.congestion,
            reset_due: false,
            connected: false,
            peer_shut: false,
            starved: false,
            unread: 0,
            orphan: false,
            closed: None,
            over: false,
            events: Events::default(),
        }
    }

    /// The buffers of a connection whose owner has gone.
    pub(crate) fn into_buffers(self) -> Buffers {
        let mut buffers = Buffers { send: self.send, receive: self.receiver.into_ring() };
        buffers.send.reset(MAX_SPARE);
        buffers.receive.reset(MAX_SPARE);
        buffers
    }

    /// Bytes that the two buffers have been granted.
    pub(crate) fn granted(&self) -> usize {
        self.send.limit() + self.receiver.limit()
    }

    /// Takes larger buffers out of the budget, where the path needs them.
    pub(crate) fn grow(&mut self, now: Instant, memory: &mut Memory) {
        let Some(sender) = &self.sender else { return };
        let in_flight = sender.next() - sender.unacknowledged();
        // More than half of the buffer waits for acknowledgments, and the rest is full.
        let is_short = self.is_starved() && 2 * in_flight > self.send.limit() as u64;
        let srtt = sender.srtt().or(self.echoed).unwrap_or_default();
        // A SYN may have waited for the tunnel's own handshake, and be all that we have sent.
        let shortest = [sender.shortest_rtt(), self.echoed].into_iter().flatten().min().unwrap_or_default();
        if is_short && let Some(limit) = memory.double(self.send.limit()) {
            self.send.raise(limit);
        }
        if let Some(limit) =
            self.receiver.needs_more(now, srtt, shortest).and_then(|limit| memory.double(limit))
        {
            self.receiver.raise(limit);
        }
    }

    /// What is known of the narrowest queue on the way, in packets.
    pub(crate) fn set_queue(&mut self, packets: Option<u16>) {
        self.receiver.set_queue(packets);
    }

    pub(crate) fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// Whether nothing will be sent or received any more; what was received may still be read.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the owner has gone.
    pub(crate) fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// The tunnel's MTU has changed.
    pub(crate) fn set_mtu(&mut self, now: Instant, mtu: u16) {
        self.set_room(now, self.room.min(room(self.tuple.local, mtu)));
    }

    fn set_room(&mut self, now: Instant, room: u16) {
        self.room = room;
        let mss = self.mss();
        if let Some(sender) = &mut self.sender
            && sender.mss() != mss
        {
            sender.set_mss(now, mss);
        }
    }

    /// Payload of a full packet to the peer.
    fn mss(&self) -> u16 {
        self.mss_for(self.room)
    }

    /// The same on a path with this `room`.
    fn mss_for(&self, room: u16) -> u16 {
        let options = if self.peer.timestamps { TIMESTAMPS_LEN } else { 0 };
        room.min(self.peer.mss) - options
    }

    /// Makes what waits for its retransmission timer due: the path has come back.
    pub(crate) fn nudge(&mut self, now: Instant) {
        self.heard = now;
        match (self.phase, &mut self.sender) {
            (Phase::Open, Some(sender)) => sender.nudge(now),
            _ => self.syn.due = now,
        }
    }

    /// Something of ours is not acknowledged.
    fn waits_for_peer(&self) -> bool {
        match &self.sender {
            Some(sender) => sender.next() > sender.unacknowledged(),
            None => self.syn.count > 0,
        }
    }

    /// When a silent peer is given up, where that was asked for.
    fn give_up_at(&self) -> Option<Instant> {
        let waits =
            self.keepalive.is_some() || self.orphan || self.waits_for_peer() || self.phase != Phase::Open;
        (waits && self.closed.is_none()).then_some(self.heard + self.timeout?)
    }

    /// When a silent peer is asked for a sign of life.
    fn keepalive_at(&self) -> Option<Instant> {
        let is_idle = self.phase == Phase::Open && self.closed.is_none() && !self.waits_for_peer();
        is_idle.then_some(self.heard.max(self.probed) + self.keepalive?)
    }

    /// When the memory of the buffers is given back.
    fn trim_at(&mut self) -> Option<Instant> {
        let takes_much = self.send.capacity() + self.receiver.capacity() > LITTLE;
        let is_idle = takes_much && self.send.start() == self.written && self.receiver.idle_ring().is_some();
        (is_idle && self.phase == Phase::Open && self.closed.is_none()).then_some(self.heard + IDLE)
    }

    fn trim(&mut self) {
        self.send.release();
        if let Some(ring) = self.receiver.idle_ring() {
            ring.release();
        }
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to do at the latest. After it has returned
    /// `None`, this is later than `now`.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        let available = self.available();
        let progress = match (&self.sender, self.phase) {
            (Some(sender), Phase::Open) => sender.poll_timeout(now, available),
            _ => Some(self.syn.due),
        };
        let trim = self.trim_at();
        let all = [progress, self.receiver.deadline(), self.keepalive_at(), self.give_up_at(), trim];
        let earliest = all.into_iter().flatten().min()?;
        debug_assert!(earliest > now, "a deadline that has passed: {all:?} {self:?}");
        Some(earliest.max(now + MIN_WAIT))
    }

    /// What TIME-WAIT needs to know, if the connection ended in it.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        let rests = self.over && self.closed == Some(CloseReason::Finished) && !self.passive;
        rests.then(|| TimeWait {
            send_next: self.send_next(),
            receive_next: self.receive_wire(self.receiver.acknowledgment()),
            clocks: self.peer.timestamps.then_some((self.clock, self.recent)),
        })
    }

    /// The sequence number of what we send next.
    fn send_next(&self) -> u32 {
        match &self.sender {
            Some(sender) => self.send_wire(sender.next()),
            None => self.sequence.wrapping_add(u32::from(self.syn.count > 0)),
        }
    }

    /// The sequence number of an offset in our direction.
    fn send_wire(&self, offset: u64) -> u32 {
        self.sequence.wrapping_add(1).wrapping_add(offset as u32)
    }

    /// The sequence number of an offset in the peer's direction.
    fn receive_wire(&self, offset: u64) -> u32 {
        self.peer.sequence.wrapping_add(1).wrapping_add(offset as u32)
    }

    /// Our FIN has arrived.
    fn is_finished(&self) -> bool {
        self.fin && self.sender.as_ref().is_some_and(|sender| sender.unacknowledged() > self.written)
    }

    /// Turns what has changed into events.
    fn update(&mut self) {
        if !self.connected && self.phase == Phase::Open {
            self.connected = true;
            self.events.add(Events::CONNECTED);
        }
        let unread = self.receiver.unread();
        if unread > self.unread {
            self.events.add(Events::READABLE);
        }
        self.unread = unread;
        if self.starved && self.connected && !self.is_starved() {
            self.starved = false;
            self.events.add(Events::WRITABLE);
        }
        if self.receiver.is_finished() && !self.peer_shut {
            self.peer_shut = true;
            self.events.add(Events::PEER_SHUT);
        }
        if self.peer_shut && self.is_finished() {
            self.close_with(CloseReason::Finished);
            // LAST-ACK has heard what it waited for; TIME-WAIT acknowledges the peer's FIN before it goes.
            self.over |= self.passive;
        }
    }

    fn close_with(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.closed = Some(reason);
            self.events.add(Events::CLOSED);
        }
    }

    /// Ends the connection without a word to the peer.
    fn end(&mut self, reason: CloseReason) {
        self.close_with(reason);
        self.over = true;
    }
}
