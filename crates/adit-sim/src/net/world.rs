//! The nodes, the wire between them, and the clock.

mod streams;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, HostPort, LinkId, LinkSpec, NetInput, NoWay, Outbox, Prefix,
    Tunnel, Unreachable,
};

use crate::net::{Fate, Link, Nat, Pipe, Rng};
use streams::Servers;

/// A resolver's answer takes this long.
const RESOLVE_DELAY: Duration = Duration::from_millis(5);
/// A tunnel that asks to be called this often at one instant will never stop.
const MAX_CALLS_PER_INSTANT: usize = 10_000;

/// What consumes and produces the IP packets of a node.
pub trait PacketEnd {
    /// Takes a packet (perhaps a super-segment) from the tunnel.
    fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>);
    /// Hears how long the queue on the way to some destinations is, in packets.
    fn set_queue(&mut self, _to: &[Prefix], _packets: Option<u16>) {}
    /// Does what is due.
    fn handle_timeout(&mut self, _now: Instant) {}
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    fn poll_timeout(&self) -> Option<Deadline> {
        None
    }
    /// Hands packets to the tunnel; `send` returns `false` when it takes no more for now.
    fn poll_transmit(&mut self, _now: Instant, _send: &mut dyn FnMut(HostPacket<'_>) -> bool) {}
}

/// A packet end that keeps what arrives, cut into plain packets.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Packets with their time of arrival.
    pub packets: Vec<(Instant, Vec<u8>)>,
}

impl PacketEnd for Inbox {
    fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>) {
        let Ok(segments) = packet.segments() else { return };
        for segment in segments {
            let mut bytes = vec![0; segment.len()];
            segment.write(&mut bytes);
            self.packets.push((now, bytes));
        }
    }
}

/// Names a node of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// A datagram that a node put on the wire, whatever became of it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When.
    pub at: Instant,
    /// By whom.
    pub by: NodeId,
    /// Where to.
    pub to: SocketAddr,
    /// The length of the payload.
    pub len: usize,
    /// The first byte of the payload, which tells the kinds of messages of most protocols apart.
    pub first: u8,
}

struct Node<T: Tunnel, E> {
    tunnel: Option<T>,
    end: E,
    out: Outbox,
    addresses: Vec<IpAddr>,
    /// The bound port of each link.
    bound: Vec<(LinkId, u16)>,
    /// The stream of each link.
    streams: Vec<(LinkId, u64)>,
    up: Pipe,
    down: Pipe,
    nat: Option<Nat>,
    events: Vec<(Instant, Event<T::Error>)>,
    dropped: BTreeMap<Dropped, u64>,
}

enum Happening {
    /// A datagram leaves the public network towards a node.
    Arrival { from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// A datagram reaches the node, through its own downlink.
    Delivery { node: NodeId, from: SocketAddr, to: SocketAddr, data: Vec<u8> },
    /// The network says that `to` cannot be reached.
    Icmp { node: NodeId, port: u16, to: SocketAddr, why: Unreachable },
    /// A resolver answers.
    Answer { node: NodeId, host: HostPort },
    /// Something of a stream reaches its server: its beginning, bytes (none are the end).
    AtServer { stream: u64, begins: bool, data: Vec<u8> },
    /// Something of a stream reaches its node: that it is open, bytes (none are the end).
    AtNode { stream: u64, begins: bool, data: Vec<u8> },
}

/// Nodes, links and a clock.
pub struct World<T: Tunnel, E = Inbox> {
    start: Instant,
    now: Instant,
    rng: Rng,
    nodes: Vec<Node<T, E>>,
    queue: BTreeMap<(Instant, u64), Happening>,
    made: u64,
    names: BTreeMap<String, Vec<IpAddr>>,
    servers: Servers,
    /// Every datagram that a node sent.
    pub sent: Vec<Sent>,
}

impl<T: Tunnel, E> std::fmt::Debug for World<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("elapsed", &(self.now - self.start))
            .field("nodes", &self.nodes.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl<T: Tunnel, E: PacketEnd> World<T, E> {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            rng: Rng::new(seed),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            made: 0,
            names: BTreeMap::new(),
            servers: Servers::default(),
            sent: Vec::new(),
        }
    }

    /// The present.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Adds a node that owns `addresses` and runs `tunnel`, with [`Link::default`] both ways.
    pub fn add(&mut self, addresses: &[&str], tunnel: T, end: E) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            tunnel: Some(tunnel),
            end,
            out: Outbox::default(),
            addresses: addresses.iter().map(|text| parse(text)).collect(),
            bound: Vec::new(),
            streams: Vec::new(),
            up: Pipe::default(),
            down: Pipe::default(),
            nat: None,
            events: Vec::new(),
            dropped: BTreeMap::new(),
        });
        self.serve(id);
        id
    }

    /// The link from the node to the network.
    pub fn up(&mut self, node: NodeId) -> &mut Link {
        &mut self.nodes[node.0].up.link
    }

    /// The link from the network to the node.
    pub fn down(&mut self, node: NodeId) -> &mut Link {
        &mut self.nodes[node.0].down.link
    }

    /// Puts the same properties on both links of a node.
    pub fn set_links(&mut self, node: NodeId, link: &Link) {
        self.nodes[node.0].up.link = link.clone();
        self.nodes[node.0].down.link = link.clone();
    }

    /// Puts a NAT in front of a node, or takes it away.
    pub fn set_nat(&mut self, node: NodeId, nat: Option<Nat>) {
        self.nodes[node.0].nat = nat;
    }

    /// The NAT in front of a node.
    pub fn nat(&mut self, node: NodeId) -> Option<&mut Nat> {
        self.nodes[node.0].nat.as_mut()
    }

    /// Makes a name resolve to these addresses from now on.
    pub fn set_name(&mut self, name: &str, addresses: &[&str]) {
        self.names.insert(name.to_owned(), addresses.iter().map(|text| parse(text)).collect());
    }

    /// The tunnel of a node that is not stopped.
    ///
    /// # Panics
    /// If the node is stopped.
    pub fn tunnel(&mut self, node: NodeId) -> &mut T {
        self.nodes[node.0].tunnel.as_mut().expect("the scenario asks a running node")
    }

    /// The packet end of a node.
    pub fn end(&mut self, node: NodeId) -> &mut E {
        &mut self.nodes[node.0].end
    }

    /// What the tunnel of a node has said, with the time.
    pub fn events(&self, node: NodeId) -> &[(Instant, Event<T::Error>)] {
        &self.nodes[node.0].events
    }

    /// How often the tunnel of a node dropped something for this reason.
    pub fn dropped(&self, node: NodeId, reason: Dropped) -> u64 {
        self.nodes[node.0].dropped.get(&reason).copied().unwrap_or(0)
    }

    /// Gives a node other addresses; its tunnel learns of it only if `tell`.
    pub fn move_node(&mut self, node: NodeId, addresses: &[&str], tell: bool) {
        self.nodes[node.0].addresses = addresses.iter().map(|text| parse(text)).collect();
        if tell {
            self.net_input(node, |_| NetInput::NetworkChanged);
        }
    }

    /// Ends the process of a node: its ports answer with ICMP port unreachable.
    pub fn stop(&mut self, node: NodeId) {
        self.nodes[node.0].tunnel = None;
        self.nodes[node.0].bound.clear();
        for (_, stream) in std::mem::take(&mut self.nodes[node.0].streams) {
            self.hang_up(stream);
        }
    }

    /// Starts a new process on a node; the old one, if any, has lost everything.
    pub fn restart(&mut self, node: NodeId, tunnel: T) {
        self.stop(node);
        self.nodes[node.0].tunnel = Some(tunnel);
        self.serve(node);
    }

    /// Gives a packet to the tunnel of a node.
    ///
    /// # Errors
    /// What the tunnel says.
    pub fn send(&mut self, node: NodeId, packet: HostPacket<'_>) -> Result<(), Dropped> {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        let done = match &mut this.tunnel {
            Some(tunnel) => tunnel.handle_packet(now, packet, &mut this.out),
            None => Err(Dropped::NotReady),
        };
        if let Err(reason) = done {
            *this.dropped.entry(reason).or_default() += 1;
        }
        self.serve(node);
        done
    }

    /// Gives a command to the tunnel of a node.
    pub fn command(&mut self, node: NodeId, command: T::Command) {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        if let Some(tunnel) = &mut this.tunnel {
            tunnel.handle_command(now, command, &mut this.out);
        }
        self.serve(node);
    }

    /// Asks the tunnel of a node for the way to an address; the answer is among its [`events`](Self::events).
    ///
    /// # Errors
    /// What the tunnel says.
    pub fn find_way(&mut self, node: NodeId, to: IpAddr, timeout: Duration, token: u64) -> Result<(), NoWay> {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        let asked = match &mut this.tunnel {
            Some(tunnel) => tunnel.find_way(now, to, timeout, token, &mut this.out),
            None => Err(NoWay::NoRoute),
        };
        self.serve(node);
        asked
    }

    /// Puts a datagram on the wire as if `from` had sent it, past all links but the receiver's.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.push(self.now, Happening::Arrival { from, to, data: data.to_vec() });
    }

    /// Lets time pass without serving anybody, as a suspended machine does.
    pub fn jump(&mut self, by: Duration) {
        self.now += by;
    }

    /// Serves a node now: for packet ends that were changed from outside.
    pub fn wake(&mut self, node: NodeId) {
        self.serve(node);
    }

    /// Runs everything that happens within `span`.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_while(end, |_| true);
        self.now = self.now.max(end);
    }

    /// Runs until `done` or until `span` is over; whether it was `done`.
    pub fn run_until(&mut self, span: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + span;
        let mut reached = done(self);
        if !reached {
            self.run_while(end, |world| {
                reached = done(world);
                !reached
            });
        }
        if !reached {
            self.now = self.now.max(end);
        }
        reached
    }

    fn run_while(&mut self, end: Instant, mut go_on: impl FnMut(&mut Self) -> bool) {
        let mut calls = 0;
        while let Some((at, node)) = self.next_event(end) {
            calls = if at > self.now { 0 } else { calls + 1 };
            self.now = self.now.max(at);
            match node {
                Some((node, why)) => {
                    assert!(calls < MAX_CALLS_PER_INSTANT, "{node:?} asks for `{why}` without end");
                    self.timeout(node);
                }
                None => self.happen(),
            }
            if !go_on(self) {
                return;
            }
        }
    }

    /// The next thing to do no later than `end`: what is queued, or a node's deadline.
    fn next_event(&self, end: Instant) -> Option<(Instant, Option<(NodeId, &'static str)>)> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| (*at, None));
        let deadlines = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let tunnel = node.tunnel.as_ref()?;
            let deadline = Deadline::earlier(tunnel.poll_timeout(), node.end.poll_timeout())?;
            Some((deadline.at, Some((NodeId(index), deadline.why))))
        });
        // `min_by_key` keeps the first of equals: what is queued, then nodes in order.
        queued.into_iter().chain(deadlines).min_by_key(|(at, _)| *at).filter(|(at, _)| *at <= end)
    }

    fn timeout(&mut self, node: NodeId) {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        if let Some(tunnel) = &mut this.tunnel {
            tunnel.handle_timeout(now, &mut this.out);
        }
        this.end.handle_timeout(now);
        self.serve(node);
    }

    fn happen(&mut self) {
        let Some((_, happening)) = self.queue.pop_first() else { return };
        match happening {
            Happening::Arrival { from, to, data } => self.arrive(from, to, data),
            Happening::Delivery { node, from, to, data } => self.deliver(node, from, to, data),
            Happening::Icmp { node, port, to, why } => {
                if let Some(link) = self.link_of(node, port) {
                    self.net_input(node, |_| NetInput::Unreachable { link, to, why });
                }
            }
            Happening::Answer { node, host } => {
                let addresses: Vec<SocketAddr> = self
                    .names
                    .get(&host.host)
                    .into_iter()
                    .flatten()
                    .map(|address| SocketAddr::new(*address, host.port))
                    .collect();
                self.net_input(node, |_| NetInput::Resolved { host: &host, addresses: &addresses });
            }
            Happening::AtServer { stream, begins, data } => self.at_server(stream, begins, &data),
            Happening::AtNode { stream, begins, data } => self.at_node(stream, begins, data),
        }
    }

    /// A datagram has crossed the sender's links: it enters the receiver's.
    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let owner = self.nodes.iter().position(|node| match &node.nat {
            Some(nat) => nat.outer() == to.ip(),
            None => node.addresses.contains(&to.ip()),
        });
        // An address that nobody has is silent.
        let Some(owner) = owner else { return self.serve_datagram(from, to, &data) };
        let node = NodeId(owner);
        if let Fate::Arrives(at, again) = self.nodes[owner].down.send(self.now, data.len(), &mut self.rng) {
            for at in again.into_iter().chain([at]) {
                self.push(at, Happening::Delivery { node, from, to, data: data.clone() });
            }
        }
    }

    fn deliver(&mut self, node: NodeId, from: SocketAddr, to: SocketAddr, mut data: Vec<u8>) {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        let inner = match &mut this.nat {
            Some(nat) => nat.inbound(now, to.port(), from),
            None => this.addresses.contains(&to.ip()).then_some(to),
        };
        let Some(inner) = inner else { return };
        match self.link_of(node, inner.port()) {
            Some(link) => self.net_input(node, |_| NetInput::Datagram { link, from, data: &mut data }),
            None => self.refuse(from, to, Unreachable::Port),
        }
    }

    /// Tells the sender behind `from` that `to` cannot be reached.
    fn refuse(&mut self, from: SocketAddr, to: SocketAddr, why: Unreachable) {
        let now = self.now;
        for index in 0..self.nodes.len() {
            let this = &mut self.nodes[index];
            let port = match &mut this.nat {
                Some(nat) if nat.outer() == from.ip() => {
                    nat.inbound(now, from.port(), to).map(|inner| inner.port())
                }
                Some(_) => None,
                None => this.addresses.contains(&from.ip()).then_some(from.port()),
            };
            if let Some(port) = port {
                let at = now + this.down.link.delay;
                self.push(at, Happening::Icmp { node: NodeId(index), port, to, why });
                return;
            }
        }
    }

    fn link_of(&self, node: NodeId, port: u16) -> Option<LinkId> {
        self.nodes[node.0].bound.iter().find(|(_, bound)| *bound == port).map(|(link, _)| *link)
    }

    fn net_input<'a>(&mut self, node: NodeId, input: impl FnOnce(Instant) -> NetInput<'a>) {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        if let Some(tunnel) = &mut this.tunnel
            && let Err(reason) = tunnel.handle_net(now, input(now), &mut this.out)
        {
            *this.dropped.entry(reason).or_default() += 1;
        }
        self.serve(node);
    }

    /// Carries everything that a node has to say: packets, events, datagrams.
    fn serve(&mut self, node: NodeId) {
        let now = self.now;
        loop {
            let this = &mut self.nodes[node.0];
            let Some(tunnel) = &mut this.tunnel else { return };
            let Node { end, out, dropped, .. } = this;
            out.host.drain(|packet| end.handle_packet(now, packet));
            end.poll_transmit(now, &mut |packet| match tunnel.handle_packet(now, packet, out) {
                Ok(()) => true,
                Err(reason) => {
                    *dropped.entry(reason).or_default() += 1;
                    reason != Dropped::Backpressure
                }
            });
            let (mut datagrams, mut pieces) = (Vec::new(), Vec::new());
            out.net.drain(|batch| {
                let Some(to) = batch.to else {
                    return pieces.push((batch.link, batch.data.to_vec()));
                };
                datagrams
                    .extend(batch.data.chunks(batch.segment).map(|data| (batch.link, to, data.to_vec())));
            });
            let event = tunnel.poll_event();
            let idle = datagrams.is_empty() && pieces.is_empty() && event.is_none() && out.host.is_empty();
            for (link, data) in pieces {
                self.put_on_stream(node, link, data);
            }
            for (link, to, data) in datagrams {
                self.put_on_wire(node, link, to, data);
            }
            if let Some(event) = event {
                self.obey(node, event);
            }
            if idle {
                return;
            }
        }
    }

    fn obey(&mut self, node: NodeId, event: Event<T::Error>) {
        let now = self.now;
        match &event {
            Event::OpenLink(link, LinkSpec::Udp { port }) => {
                let link = *link;
                let this = &mut self.nodes[node.0];
                let port = port.unwrap_or(40_000 + this.bound.len() as u16);
                this.bound.push((link, port));
                let ip = this.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
                let local = SocketAddr::new(ip, port);
                self.net_input(node, |_| NetInput::Opened { link, local });
            }
            Event::OpenLink(link, LinkSpec::Tcp { to }) => self.connect(node, *link, *to),
            Event::CloseLink(link) => {
                let this = &mut self.nodes[node.0];
                this.bound.retain(|(bound, _)| bound != link);
                let ended: Vec<u64> =
                    this.streams.iter().filter(|(of, _)| of == link).map(|(_, id)| *id).collect();
                this.streams.retain(|(of, _)| of != link);
                for stream in ended {
                    self.hang_up(stream);
                }
            }
            Event::Resolve(host) => {
                self.push(now + RESOLVE_DELAY, Happening::Answer { node, host: host.clone() });
            }
            Event::Queue(to, packets) => self.nodes[node.0].end.set_queue(to, *packets),
            Event::Configured(_)
            | Event::Prompt(_)
            | Event::Way { .. }
            | Event::Up
            | Event::Down(_)
            | Event::Failed(_) => {}
        }
        self.nodes[node.0].events.push((now, event));
    }

    fn put_on_wire(&mut self, node: NodeId, link: LinkId, to: SocketAddr, data: Vec<u8>) {
        let now = self.now;
        let this = &mut self.nodes[node.0];
        let Some((_, port)) = this.bound.iter().find(|(bound, _)| *bound == link).copied() else { return };
        self.sent.push(Sent { at: now, by: node, to, len: data.len(), first: data[0] });
        let Some(source) = this.addresses.iter().find(|address| address.is_ipv4() == to.is_ipv4()) else {
            self.push(now, Happening::Icmp { node, port, to, why: Unreachable::Network });
            return;
        };
        let inner = SocketAddr::new(*source, port);
        let from = match &mut this.nat {
            Some(nat) => nat.outbound(now, inner, to),
            None => inner,
        };
        if let Fate::Arrives(at, again) = this.up.send(now, data.len(), &mut self.rng) {
            for at in again.into_iter().chain([at]) {
                self.push(at, Happening::Arrival { from, to, data: data.clone() });
            }
        }
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.made += 1;
        self.queue.insert((at, self.made), happening);
    }
}

fn parse(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("`{text}` in the scenario is no address"))
}
