//! One TCP connection, on smoltcp's socket.

mod incoming;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::view::{self, IpView, TcpView, tcp_flag};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpEndpoint, IpListenEndpoint};

use super::port::Port;
use super::{Out, Tuple, mss};
use crate::emit;
use crate::{CloseReason, FlowEvent, TcpOptions};

/// The longest headers of a TCP segment: IPv6, or IPv4 with options, and TCP with options.
pub(crate) const MAX_HEADERS: usize = 120;
/// How long a connection whose owner has gone may take to end, counted from the peer's last sign of life.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);
/// A deadline that smoltcp puts into the past, without anything to do, is looked at again after this.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// What a connection is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowConfig {
    /// The tunnel's MTU.
    pub(crate) mtu: u16,
    /// Decides the initial sequence number.
    pub(crate) seed: u64,
    /// The beginning of time, the same for all connections.
    pub(crate) epoch: Instant,
    pub(crate) options: TcpOptions,
}

/// The buffers of a connection that is over, for one that begins: opening one then takes no memory from the
/// system, which would have to be cleared. What they held cannot be read again.
#[derive(Debug)]
pub(crate) struct Buffers {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    size: usize,
}

impl Buffers {
    /// Fresh buffers of `size` bytes each.
    pub(crate) fn new(size: usize) -> Self {
        let buffer = || SocketBuffer::new(vec![0; size]);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(Socket::new(buffer(), buffer()));
        Self { sockets, handle, size }
    }

    /// Bytes of each of the two buffers.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

/// What is remembered of a connection in TIME-WAIT (RFC 9293 §3.6.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    /// The next sequence number that we would send.
    pub(crate) send_next: u32,
    /// The next sequence number that we would receive.
    pub(crate) receive_next: u32,
}

/// One connection: no addresses beyond its own, no timers beyond its next deadline.
///
/// After every call that takes `now`, [`poll_transmit`](Self::poll_transmit) until `None`, then
/// [`poll_event`](Self::poll_event) until `None`, then heed [`poll_timeout`](Self::poll_timeout).
pub(crate) struct Flow {
    tuple: Tuple,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    size: usize,
    clock: Clock,
    seed: u64,
    /// What a packet on the wire may carry: bounded by the peer, the tunnel and the path.
    segment: u16,
    /// What we tell the peer that it may send.
    advertised: u16,
    /// The number of the first byte that the owner ever sent.
    send_first: u32,
    /// How many bytes the owner has sent, modulo 2^32.
    enqueued: u32,
    send_unacknowledged: u32,
    send_next: u32,
    receive_next: u32,
    /// The sequence number of the first byte that the owner has not read.
    unread_from: u32,
    /// When the peer gave its last sign of life, or we began to wait for one.
    heard: Instant,
    timeout: Option<Duration>,
    keepalive: bool,
    state: State,
    active: bool,
    connected: bool,
    /// The owner has ended its direction before the handshake was complete.
    shut_early: bool,
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

/// smoltcp's clock: microseconds, and able to jump ahead, which makes a retransmission due.
#[derive(Clone, Copy, Debug)]
struct Clock {
    epoch: Instant,
    ahead: Duration,
}

impl Clock {
    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.epoch) + self.ahead;
        smoltcp::time::Instant::from_micros(since.as_micros() as i64)
    }

    fn back(&self, at: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        self.epoch + Duration::from_micros(micros).saturating_sub(self.ahead)
    }
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
        let mut flow = Self::new(tuple, config, buffers, now);
        flow.active = true;
        let peer = IpEndpoint::from(tuple.peer());
        let local = IpEndpoint::from(tuple.local());
        let socket = flow.sockets.get_mut::<Socket<'_>>(flow.handle);
        // Refused only for unspecified addresses and port 0; such a connection ends as it begins.
        if socket.connect(flow.interface.context(), peer, local).is_err() {
            flow.end(CloseReason::Refused);
        }
        flow.state = flow.socket().state();
        flow
    }

    /// A connection that a peer opens with the packet `syn`.
    pub(crate) fn accept(
        tuple: Tuple,
        config: &FlowConfig,
        buffers: Buffers,
        now: Instant,
        syn: &[u8],
    ) -> Self {
        let mut flow = Self::new(tuple, config, buffers, now);
        let local = IpListenEndpoint::from(IpEndpoint::from(tuple.local()));
        if flow.socket_mut().listen(local).is_err() {
            flow.end(CloseReason::Reset);
        }
        if let Some((ip, tcp)) = IpView::parse(syn).ok().and_then(|ip| Some((ip, ip.tcp()?))) {
            flow.handle_segment(now, &ip, &tcp, &mut |_| {});
        }
        flow
    }

    fn new(tuple: Tuple, config: &FlowConfig, buffers: Buffers, now: Instant) -> Self {
        let Buffers { mut sockets, handle, size } = buffers;
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(config.options.keepalive.map(Into::into));
        // Not smoltcp's job: its clock jumps, see `nudge`.
        socket.set_timeout(None);
        // Buffers that were used before come with a state and a congestion window.
        socket.abort();
        socket.set_congestion_control(CongestionControl::Cubic);
        let clock = Clock { epoch: config.epoch, ahead: Duration::from_secs(1) };
        let advertised = room(tuple.local, config.mtu);
        let interface = interface(config.seed, advertised, clock.at(now));
        Self {
            tuple,
            interface,
            sockets,
            handle,
            size,
            clock,
            seed: config.seed,
            segment: advertised,
            advertised,
            send_first: 0,
            enqueued: 0,
            send_unacknowledged: 0,
            send_next: 0,
            receive_next: 0,
            unread_from: 0,
            heard: now,
            timeout: config.options.timeout,
            keepalive: config.options.keepalive.is_some(),
            state: State::Closed,
            active: false,
            connected: false,
            shut_early: false,
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
        Buffers { sockets: self.sockets, handle: self.handle, size: self.size }
    }

    /// Bytes of each of the two buffers.
    pub(crate) fn buffer_size(&self) -> usize {
        self.size
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

    fn set_segment(&mut self, now: Instant, segment: u16) {
        if segment != self.segment {
            self.segment = segment;
            self.interface = interface(self.seed, segment, self.clock.at(now));
        }
    }

    /// The tunnel's MTU has changed.
    pub(crate) fn set_mtu(&mut self, now: Instant, mtu: u16) {
        self.set_segment(now, self.segment.min(room(self.tuple.local, mtu)));
    }

    /// Makes what waits for its retransmission timer due: the path has come back.
    pub(crate) fn nudge(&mut self, now: Instant) {
        self.heard = now;
        if !self.over
            && self.waits_for_peer()
            && let Some(at) = self.interface.poll_at(self.clock.at(now), &self.sockets)
        {
            self.clock.ahead += self.clock.back(at).saturating_duration_since(now);
        }
    }

    fn waits_for_peer(&self) -> bool {
        self.send_next != self.send_unacknowledged || self.state == State::SynSent
    }

    /// When a silent peer is given up, where that was asked for.
    fn give_up_at(&self) -> Option<Instant> {
        let waits = self.keepalive || self.orphan || self.waits_for_peer() || !self.connected;
        (waits && self.closed.is_none()).then_some(self.heard + self.timeout?)
    }

    /// Writes one packet, perhaps a super-segment, to `output`, which must hold the largest IP packet.
    pub(crate) fn poll_transmit(&mut self, now: Instant, output: &mut [u8]) -> Option<Out> {
        if self.over {
            return None;
        }
        if self.give_up_at().is_some_and(|at| at <= now) {
            self.close_with(CloseReason::TimedOut);
            self.socket_mut().abort();
        }
        let mut port = Port::new(None, output, self.segment);
        self.interface.poll_egress(self.clock.at(now), &mut port, &mut self.sockets);
        let written = port.written();
        let out = (written > 0).then(|| self.finish(now, &mut output[..written]));
        self.update(false);
        if out.is_none() && self.state == State::TimeWait {
            // The peer's FIN is acknowledged; the rest of TIME-WAIT needs no buffers.
            self.over = true;
        }
        out
    }

    /// Completes a packet that smoltcp wrote.
    fn finish(&mut self, now: Instant, packet: &mut [u8]) -> Out {
        let whole = Out { len: packet.len(), segment: None };
        let ip_len = emit::ip_header_len(self.tuple.local);
        let tcp = &mut packet[ip_len..];
        let Ok(view) = TcpView::parse(tcp) else { return whole };
        let (flags, sequence, payload) = (view.flags(), view.sequence(), view.payload().len());
        if flags & tcp_flag::ACK != 0 {
            self.receive_next = view.acknowledgment();
        }
        let length =
            payload as u32 + u32::from(flags & tcp_flag::SYN != 0) + u32::from(flags & tcp_flag::FIN != 0);
        if flags & tcp_flag::SYN != 0 && !self.connected {
            self.send_first = sequence.wrapping_add(1);
            self.send_unacknowledged = sequence;
            self.send_next = sequence;
            mss::write(tcp, self.advertised);
        }
        if flags & tcp_flag::RST == 0 {
            if length > 0 && !self.waits_for_peer() {
                self.heard = now;
            }
            let end = sequence.wrapping_add(length);
            // A retransmission ends before what was sent already.
            if end.wrapping_sub(self.send_next) as i32 > 0 {
                self.send_next = end;
            }
        }
        if payload > usize::from(self.segment) {
            return Out { len: packet.len(), segment: Some(self.segment) };
        }
        emit::fill_transport_checksum(tcp, 16, self.tuple.local, self.tuple.peer, view::protocol::TCP);
        whole
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to do at the latest. After it has returned
    /// `None`, this is later than `now`.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.over {
            return None;
        }
        let socket = self.interface.poll_at(self.clock.at(now), &self.sockets).map(|at| self.clock.back(at));
        let earliest = [socket, self.give_up_at()].into_iter().flatten().min()?;
        Some(earliest.max(now + MIN_WAIT))
    }

    /// The next thing the owner must know.
    pub(crate) fn poll_event(&mut self) -> Option<FlowEvent> {
        if self.orphan {
            return None;
        }
        Some(match self.events.take()? {
            Events::CONNECTED => FlowEvent::Connected,
            Events::READABLE => FlowEvent::Readable,
            Events::WRITABLE => FlowEvent::Writable,
            Events::PEER_SHUT => FlowEvent::PeerShut,
            _ => FlowEvent::Closed(self.closed?),
        })
    }

    /// Whether [`poll_event`](Self::poll_event) has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        self.events.0 != 0 && !self.orphan
    }

    /// Room for bytes to send: a piece of the ring, and the rest of it behind a wrap.
    pub(crate) fn send_space(&mut self) -> [&mut [u8]; 2] {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        self.starved |= is_starved(socket);
        [socket.send(|room| (0, room)).unwrap_or_default(), &mut []]
    }

    /// Sends the first `n` bytes of [`send_space`](Self::send_space).
    pub(crate) fn sent(&mut self, n: usize) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        // An error means that the connection has ended since; its bytes go nowhere, as with any socket.
        let sent = socket.send(|room| (n.min(room.len()), n.min(room.len()))).unwrap_or(0);
        self.enqueued = self.enqueued.wrapping_add(sent as u32);
        self.starved |= is_starved(socket);
    }

    /// Received bytes: a piece of the ring, and the rest of it behind a wrap.
    pub(crate) fn recv_data(&mut self) -> [&[u8]; 2] {
        [self.socket_mut().peek(usize::MAX).unwrap_or_default(), &[]]
    }

    /// Forgets the first `n` bytes of [`recv_data`](Self::recv_data) and opens the window by as much.
    pub(crate) fn consumed(&mut self, n: usize) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        // An error means that there was nothing to read.
        let read = socket.recv(|data| (n.min(data.len()), n.min(data.len()))).unwrap_or(0);
        self.unread_from = self.unread_from.wrapping_add(read as u32);
        self.unread = socket.recv_queue();
    }

    /// Ends our direction after what was sent before.
    pub(crate) fn shutdown(&mut self) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.shut_early = true;
        } else {
            self.socket_mut().close();
            self.update(false);
        }
    }

    /// Ends the connection with RST.
    pub(crate) fn abort(&mut self) {
        if self.closed.is_none() {
            self.close_with(CloseReason::Aborted);
            self.socket_mut().abort();
        }
    }

    /// The owner goes: what was sent still arrives, unless there is unread data, which the peer must learn of.
    pub(crate) fn release(&mut self) {
        self.orphan = true;
        if self.socket().can_recv() || !self.connected {
            self.abort();
        } else {
            self.timeout = Some(ORPHAN_TIMEOUT);
            self.shutdown();
        }
    }

    /// What TIME-WAIT needs to know, if the connection ended in it.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        (self.over && self.state == State::TimeWait)
            .then_some(TimeWait { send_next: self.send_next, receive_next: self.receive_next })
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Turns what has changed in the socket into events. `reset` says that an RST was the cause.
    fn update(&mut self, reset: bool) {
        let state = self.socket().state();
        let before = std::mem::replace(&mut self.state, state);
        if !self.connected && is_synchronized(self.state) {
            self.connected = true;
            self.events.add(Events::CONNECTED);
            if self.shut_early {
                self.socket_mut().close();
                self.state = self.socket().state();
            }
        }
        if self.connected {
            self.send_unacknowledged = self.acknowledged_by_peer();
        }
        let unread = self.socket().recv_queue();
        if unread > self.unread {
            self.events.add(Events::READABLE);
        }
        self.unread = unread;
        if self.starved && self.connected && !is_starved(self.socket()) {
            self.starved = false;
            self.events.add(Events::WRITABLE);
        }
        let peer_has_ended =
            matches!(self.state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if peer_has_ended && !self.peer_shut {
            self.peer_shut = true;
            self.events.add(Events::PEER_SHUT);
        }
        match self.state {
            State::TimeWait => self.close_with(CloseReason::Finished),
            // An accepted connection that was reset during the handshake.
            State::Listen => self.end(CloseReason::Reset),
            State::Closed => {
                self.close_with(match (reset, before) {
                    (true, State::SynSent) if self.active => CloseReason::Refused,
                    (true, _) => CloseReason::Reset,
                    (false, State::LastAck) => CloseReason::Finished,
                    (false, _) => CloseReason::TimedOut,
                });
                // Without addresses there is no RST left to send.
                self.over = self.socket().local_endpoint().is_none();
            }
            _ => {}
        }
    }

    /// What smoltcp has accepted as acknowledged, which is not all that a header may claim.
    fn acknowledged_by_peer(&self) -> u32 {
        match self.state {
            // Our FIN is acknowledged, or nothing matters any more.
            State::FinWait2 | State::TimeWait | State::Closed => self.send_next,
            _ => {
                let queued = self.socket().send_queue() as u32;
                self.send_first.wrapping_add(self.enqueued).wrapping_sub(queued)
            }
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

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("tuple", &self.tuple)
            .field("state", &self.state)
            .field("segment", &self.segment)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

fn interface(seed: u64, segment: u16, now: smoltcp::time::Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Port::new(None, &mut [], segment), now);
    // Addresses were checked before a packet gets here.
    interface.set_any_ip(true);
    interface
}

/// What a packet of `mtu` bytes carries, beside headers without options.
fn room(address: IpAddr, mtu: u16) -> u16 {
    mtu.saturating_sub(emit::ip_header_len(address) as u16 + 20).max(64)
}

fn is_starved(socket: &Socket<'_>) -> bool {
    socket.send_capacity() - socket.send_queue() < socket.send_capacity() / 3
}

fn is_synchronized(state: State) -> bool {
    !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived)
}
