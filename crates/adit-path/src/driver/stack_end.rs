//! The netstack as packet end: who owns its flows, endpoints and questions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_netstack::{FlowId, ListenerId, PingId, Stack, StackEvent, UdpId};
use adit_tunnel::{Deadline, Dropped, Fault, HostPacket, NetConfig, PrefixTable};
use mio::Registry;
use tokio::sync::{mpsc, oneshot};

use super::commands::{Mailbox, Notice, Request, Ticket};
use super::datagrams::Datagrams;
use super::flows::Owner;
use super::names::Names;
use super::slab::Slab;
use super::stream::Stream;
use crate::{
    ConnectFailure, Incoming, ListenFailure, Ownership, PingFailure, Pong, ResolveFailure, UdpFailure,
};

/// Attached sockets that have their turn between two looks at the network.
const TURNS: usize = 32;
/// Questions that may wait for the first configuration.
const MAX_PARKED: usize = 256;

/// Something with work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    Stream(usize),
    Datagrams(usize),
}

/// Who owns a UDP endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Endpoint {
    Attached(usize),
    Exchange(u64),
}

/// Why no question is answered.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    /// The tunnel has given up.
    Down(Fault),
    /// The network was shut down.
    Closed,
}

/// The netstack and what hangs on it.
pub(crate) struct StackEnd {
    pub(super) stack: Stack,
    pub(super) registry: Registry,
    pub(super) mailbox: Mailbox,
    pub(super) flows: HashMap<FlowId, Owner>,
    pub(super) tickets: HashMap<Ticket, FlowId>,
    pub(super) timers: BTreeMap<(Instant, Ticket), FlowId>,
    pub(super) streams: Slab<Stream>,
    pub(super) datagrams: Slab<Datagrams>,
    pub(super) endpoints: HashMap<UdpId, Endpoint>,
    pub(super) listeners: HashMap<ListenerId, (u16, mpsc::Sender<Incoming>)>,
    pub(super) pings: HashMap<PingId, (Duration, oneshot::Sender<Result<Pong, PingFailure>>)>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) names: Names,
    pub(super) ownership: Ownership,
    pub(super) allowed: Option<PrefixTable<()>>,
    configured: bool,
    gone: Option<Gone>,
    parked: Vec<(Instant, Request)>,
    pub(super) scratch: Vec<u8>,
    /// Where the search for a free port to listen on goes on.
    pub(super) next_port: u16,
    pub(super) dropped: Vec<Dropped>,
}

impl StackEnd {
    pub(crate) fn new(
        stack: Stack,
        seed: u64,
        registry: Registry,
        mailbox: Mailbox,
        allowed: Option<PrefixTable<()>>,
    ) -> Self {
        Self {
            stack,
            registry,
            mailbox,
            flows: HashMap::new(),
            tickets: HashMap::new(),
            timers: BTreeMap::new(),
            streams: Slab::new(),
            datagrams: Slab::new(),
            endpoints: HashMap::new(),
            listeners: HashMap::new(),
            pings: HashMap::new(),
            ready: VecDeque::new(),
            names: Names::new(seed),
            ownership: Ownership::default(),
            allowed,
            configured: false,
            gone: None,
            parked: Vec::new(),
            scratch: vec![0; 64 * 1024 + 64],
            next_port: seed as u16,
            dropped: Vec::new(),
        }
    }

    /// Takes the addresses, routes and DNS of the private network; flows stay.
    pub(crate) fn configure(&mut self, now: Instant, config: &NetConfig) {
        self.stack.configure(now, config);
        self.names.configure(config);
        self.ownership = Ownership::new(config);
        self.configured = true;
        for (_, request) in std::mem::take(&mut self.parked) {
            self.request(now, request);
        }
    }

    /// Answers a question now or later.
    pub(crate) fn request(&mut self, now: Instant, request: Request) {
        if let Some(gone) = &self.gone {
            return request.fail(gone);
        }
        if !self.configured {
            return self.park(now, request);
        }
        match request {
            Request::Connect { ticket, to, options, asked, reply } => {
                self.connect(now, ticket, to, &options, asked, reply);
            }
            Request::Resolve { ticket, query, reply } => {
                self.names.query(now, ticket, &query, reply);
                self.run_names(now);
            }
            Request::Udp { options, reply } => self.open_udp(&options, reply),
            Request::Listen { port, options, reply } => self.listen(port, options, reply),
            Request::Ping { to, kind, reply } => self.ping(now, to, kind, reply),
        }
    }

    /// Follows a notice of a handle; those of the driver itself are not its business.
    pub(crate) fn notice(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Cancel(ticket) => self.cancel(now, ticket),
            Notice::Attach(flow, socket) => self.attach(now, flow, socket),
            Notice::Abort(flow) => self.abort(now, flow),
            Notice::Accept(pending, reply) => self.accept(now, pending, reply),
            Notice::Refuse(pending) => self.stack.tcp_refuse(now, pending),
            Notice::Ignore(pending) => self.stack.tcp_ignore(pending),
            Notice::FindWay { .. } | Notice::Capture(..) | Notice::Refresh(_) | Notice::Shutdown => {}
        }
    }

    /// Takes a packet from the tunnel.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>) -> Result<(), Dropped> {
        self.stack.handle_packet(now, packet)
    }

    /// Hands out packets for the tunnel until `send` returns `false`.
    pub(crate) fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(HostPacket<'_>) -> bool) {
        self.stack.poll_transmit(now, send);
    }

    /// Packets pass again: what waits for a retransmission goes now.
    pub(crate) fn nudge(&mut self, now: Instant) {
        self.stack.nudge(now);
    }

    /// Lets flows with work move bytes, then says whether any has more.
    pub(crate) fn run(&mut self, now: Instant) -> bool {
        self.events(now);
        for _ in 0..TURNS {
            match self.ready.pop_front() {
                Some(Ready::Stream(key)) => self.run_stream(now, key),
                Some(Ready::Datagrams(key)) => self.run_datagrams(now, key),
                None => break,
            }
        }
        self.events(now);
        !self.ready.is_empty()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        self.names.handle_timeout(now);
        self.run_names(now);
        self.expire(now);
        let parked = std::mem::take(&mut self.parked);
        for (at, request) in parked {
            if at <= now { request.time_out() } else { self.parked.push((at, request)) }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        let connect = self.timers.keys().next().map(|(at, _)| Deadline { at: *at, why: "connect time-out" });
        let parked = self.parked.iter().map(|(at, _)| *at).min();
        let parked = parked.map(|at| Deadline { at, why: "no configuration yet" });
        let ours = Deadline::earlier(connect, parked);
        Deadline::earlier(ours, Deadline::earlier(self.stack.poll_timeout(), self.names.poll_timeout()))
    }

    /// Resets every flow and answers every question with the reason: nothing comes any more.
    pub(crate) fn close(&mut self, now: Instant, gone: &Gone) {
        self.gone = Some(gone.clone());
        for (_, request) in std::mem::take(&mut self.parked) {
            request.fail(gone);
        }
        self.close_flows(now, gone);
        for (_, (_, reply)) in self.pings.drain() {
            let _ = reply.send(Err(gone.into()));
        }
        for (listener, _) in std::mem::take(&mut self.listeners) {
            self.stack.tcp_unlisten(listener);
        }
        self.close_datagrams();
        self.names.close(gone);
    }

    /// Whether the policy allows the destination.
    pub(super) fn denied(&self, to: IpAddr) -> Option<String> {
        let allowed = self.allowed.as_ref()?;
        allowed
            .lookup(to)
            .is_none()
            .then(|| format!("the profile's allow list has no prefix that covers {to}"))
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.flows.len() as u64, self.endpoints.len() as u64)
    }

    /// Takes the drops since the last call.
    pub(crate) fn take_drops(&mut self, mut take: impl FnMut(Dropped)) {
        self.dropped.drain(..).for_each(&mut take);
    }

    fn events(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                StackEvent::Tcp(flow, event) => self.flow_event(now, flow, event),
                StackEvent::Incoming { listener, pending, local, peer } => {
                    self.incoming(now, listener, pending, local, peer);
                }
                StackEvent::UdpReadable(endpoint) => self.endpoint_readable(now, endpoint),
                StackEvent::UdpUnreachable { id, to, kind, code, .. } => {
                    self.endpoint_unreachable(now, id, to, kind, code);
                }
                StackEvent::Pong(ping, result) => self.pong(ping, result),
            }
        }
    }

    fn park(&mut self, now: Instant, request: Request) {
        if self.parked.len() >= MAX_PARKED {
            return request.exhaust();
        }
        self.parked.push((request.deadline(now), request));
    }
}

impl Request {
    fn deadline(&self, now: Instant) -> Instant {
        const PATIENCE: Duration = Duration::from_secs(30);
        match self {
            Self::Connect { asked, options, .. } => *asked + options.timeout,
            Self::Resolve { query, .. } => now + query.timeout,
            Self::Udp { .. } | Self::Listen { .. } | Self::Ping { .. } => now + PATIENCE,
        }
    }

    /// Answers that the network is gone.
    pub(crate) fn fail(self, gone: &Gone) {
        // An asker that no longer waits needs no answer; likewise below.
        match self {
            Self::Connect { reply, .. } => drop(reply.send(Err(gone.into()))),
            Self::Resolve { reply, .. } => drop(reply.send(Err(gone.into()))),
            Self::Udp { reply, .. } => drop(reply.send(Err(UdpFailure::Closed))),
            Self::Listen { reply, .. } => drop(reply.send(Err(ListenFailure::Closed))),
            Self::Ping { reply, .. } => drop(reply.send(Err(gone.into()))),
        }
    }

    fn time_out(self) {
        match self {
            Self::Connect { options, reply, .. } => {
                drop(reply.send(Err(ConnectFailure::TimedOut(options.timeout))));
            }
            Self::Resolve { query, reply, .. } => {
                drop(reply.send(Err(ResolveFailure::Silent {
                    name: query.name,
                    servers: Vec::new(),
                    after: query.timeout,
                })));
            }
            other => other.fail(&Gone::Closed),
        }
    }

    fn exhaust(self) {
        let what = || "questions that wait for the tunnel's configuration".to_owned();
        match self {
            Self::Connect { reply, .. } => drop(reply.send(Err(ConnectFailure::Exhausted(what())))),
            Self::Udp { reply, .. } => drop(reply.send(Err(UdpFailure::Exhausted(what())))),
            Self::Listen { reply, .. } => drop(reply.send(Err(ListenFailure::Exhausted(what())))),
            Self::Ping { reply, .. } => drop(reply.send(Err(PingFailure::Exhausted(what())))),
            Self::Resolve { .. } => self.fail(&Gone::Closed),
        }
    }
}

impl From<Gone> for ConnectFailure {
    fn from(gone: Gone) -> Self {
        Self::from(&gone)
    }
}

impl From<&Gone> for ConnectFailure {
    fn from(gone: &Gone) -> Self {
        match gone {
            Gone::Down(fault) => Self::Down(fault.clone()),
            Gone::Closed => Self::Closed,
        }
    }
}

impl From<Gone> for ResolveFailure {
    fn from(gone: Gone) -> Self {
        Self::from(&gone)
    }
}

impl From<&Gone> for ResolveFailure {
    fn from(gone: &Gone) -> Self {
        match gone {
            Gone::Down(fault) => Self::Down(fault.clone()),
            Gone::Closed => Self::Closed,
        }
    }
}

impl From<Gone> for PingFailure {
    fn from(gone: Gone) -> Self {
        Self::from(&gone)
    }
}

impl From<&Gone> for PingFailure {
    fn from(gone: &Gone) -> Self {
        match gone {
            Gone::Down(fault) => Self::Down(fault.clone()),
            Gone::Closed => Self::Closed,
        }
    }
}
