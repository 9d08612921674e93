//! A client and a server, and what the scenarios ask of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_sim::net::{Inbox, NodeId, PacketEnd, World, udp_packet};
use adit_tunnel::{Dropped, Event, HostPacket, HostPort, TunnelError};
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard, WireGuardError};

/// What repeats a scenario, less the seed and the name.
pub(crate) const COMMAND: &str = "cargo test -p adit-tests --features sim --test scenarios --";

/// Runs a scenario with several seeds; see [`adit_sim::net::each_seed`].
pub(crate) fn each_seed(test: &str, count: u64, scenario: impl FnMut(u64)) {
    adit_sim::net::each_seed(COMMAND, test, count, scenario);
}

pub(crate) const CLIENT: &str = "192.0.2.1";
pub(crate) const SERVER: &str = "203.0.113.1";
pub(crate) const PORT: u16 = 51820;
/// The client's and the server's addresses inside the tunnel.
pub(crate) const INNER_CLIENT: &str = "10.0.0.1";
pub(crate) const INNER_SERVER: &str = "10.0.0.2";

pub(crate) fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

pub(crate) fn peer(n: u8, allowed: &str, endpoint: Option<&str>) -> PeerConfig {
    PeerConfig {
        endpoint: endpoint.map(|host| HostPort { host: host.to_owned(), port: PORT }),
        allowed_ips: vec![allowed.parse().unwrap()],
        ..PeerConfig::new(key(n).public_key())
    }
}

/// The client's side: key 1, the server as its peer.
pub(crate) fn client_config() -> Config {
    Config {
        addresses: vec!["10.0.0.1/24".parse().unwrap()],
        peers: vec![peer(2, "10.0.0.0/24", Some(SERVER))],
        ..Config::new(key(1))
    }
}

/// The server's side: key 2, waiting for the client.
pub(crate) fn server_config() -> Config {
    Config {
        addresses: vec!["10.0.0.2/24".parse().unwrap()],
        listen_port: Some(PORT),
        peers: vec![peer(1, "10.0.0.1/32", None)],
        ..Config::new(key(2))
    }
}

/// A world with a client and a server.
pub(crate) struct Lab<E = Inbox> {
    pub(crate) world: World<WireGuard, E>,
    pub(crate) client: NodeId,
    pub(crate) server: NodeId,
    seed: u64,
}

impl Lab<Inbox> {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, client_config(), server_config())
    }

    pub(crate) fn with(seed: u64, client: Config, server: Config) -> Self {
        Self::with_ends(seed, client, server, Inbox::default(), Inbox::default())
    }

    /// Sends numbered packets both ways, one every `gap`, for `span`; returns how many each way.
    pub(crate) fn chatter(&mut self, span: Duration, gap: Duration, len: usize) -> u64 {
        let (end, mut count) = (self.world.elapsed() + span, 0);
        while self.world.elapsed() < end {
            for forth in [true, false] {
                let _ = self.say(forth, len);
            }
            count += 1;
            self.world.run_for(gap);
        }
        // What is on the way arrives.
        self.world.run_for(Duration::from_millis(500));
        count
    }

    /// Sends one packet with `len` bytes of payload from the client to the server (`forth`), or back.
    pub(crate) fn say(&mut self, forth: bool, len: usize) -> Result<(), Dropped> {
        let (from, to, node) = if forth {
            (INNER_CLIENT, INNER_SERVER, self.client)
        } else {
            (INNER_SERVER, INNER_CLIENT, self.server)
        };
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 9);
        let packet = udp_packet(at(from), at(to), &vec![7; len]);
        self.world.send(node, HostPacket::new(&packet))
    }

    /// Packets that have arrived at a node; they are forgotten.
    pub(crate) fn received(&mut self, node: NodeId) -> u64 {
        std::mem::take(&mut self.world.end(node).packets).len() as u64
    }

    /// How long it takes until a packet reaches the other side, if one is sent every 200 ms; `None` after `most`.
    pub(crate) fn reached_after(&mut self, forth: bool, most: Duration) -> Option<Duration> {
        let node = if forth { self.server } else { self.client };
        self.received(node);
        let start = self.world.elapsed();
        while self.world.elapsed() < start + most {
            let _ = self.say(forth, 100);
            if self.world.run_until(millis(200), |world| !world.end(node).packets.is_empty()) {
                return Some(self.world.elapsed() - start);
            }
        }
        None
    }

    /// Whether a single packet reaches the other side within `span`.
    pub(crate) fn reaches(&mut self, forth: bool, span: Duration) -> bool {
        let node = if forth { self.server } else { self.client };
        self.received(node);
        let _ = self.say(forth, 100);
        self.world.run_until(span, |world| !world.end(node).packets.is_empty())
    }
}

impl<E: PacketEnd> Lab<E> {
    pub(crate) fn with_ends(seed: u64, client: Config, server: Config, client_end: E, server_end: E) -> Self {
        let mut world = World::new(seed);
        let now = world.now();
        let server = world.add(&[SERVER], WireGuard::new(server, seed + 1, now), server_end);
        let client = world.add(&[CLIENT], WireGuard::new(client, seed, now), client_end);
        Self { world, client, server, seed }
    }

    /// Starts the server's process anew: its sessions are gone, its keys are the same.
    pub(crate) fn restart_server(&mut self) {
        let tunnel = WireGuard::new(server_config(), self.seed + 2, self.world.now());
        self.world.restart(self.server, tunnel);
    }

    /// Runs until the client says `Up`.
    pub(crate) fn up_within(&mut self, span: Duration) -> bool {
        let client = self.client;
        self.world.run_until(span, |world| world.events(client).iter().any(|(_, event)| *event == Event::Up))
    }

    /// "up" and the classes of failures that a node has reported, in order.
    pub(crate) fn said(&self, node: NodeId) -> Vec<&'static str> {
        let word = |(_, event): &(Instant, Event<WireGuardError>)| match event {
            Event::Up => Some("up"),
            Event::Down(error) | Event::Failed(error) => Some(error.class()),
            _ => None,
        };
        self.world.events(node).iter().filter_map(word).collect()
    }

    /// The first failure of a class, with the virtual time at which it was reported.
    pub(crate) fn failure(&self, node: NodeId, class: &str) -> (Duration, WireGuardError) {
        let start = self.world.now() - self.world.elapsed();
        let found = self.world.events(node).iter().find_map(|(at, event)| match event {
            Event::Down(error) | Event::Failed(error) if error.class() == class => {
                Some((*at - start, error.clone()))
            }
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no `{class}` among {:?}", self.said(node)))
    }

    /// Messages of a type that a node has sent.
    pub(crate) fn messages(&self, node: NodeId, kind: u8) -> Vec<Duration> {
        let start = self.world.now() - self.world.elapsed();
        let sent = self.world.sent.iter();
        sent.filter(|sent| sent.by == node && sent.first == kind).map(|sent| sent.at - start).collect()
    }
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
