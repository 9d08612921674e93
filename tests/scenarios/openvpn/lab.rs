//! A client and a server, and what the scenarios ask of them.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_openvpn::{
    Algorithm, Cipher, Clock, Command, Config, Direction, OpenVpn, OpenVpnError, Remote, StaticKey,
    Transport, Trust, Wrap,
};
use adit_sim::net::{Inbox, Link, NodeId, PacketEnd, World, udp_packet};
use adit_sim::openvpn::{
    Act, OpenVpnServer, Seen, ServerCommand, ServerConfig, ServerError, ServerIdentity, ServerWrap,
};
use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, HostPort, NetConfig, NetInput, Outbox, PeerStatus, Tunnel,
    TunnelError,
};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

pub(crate) use crate::lab::{each_seed, millis, secs};

pub(crate) const CLIENT: &str = "192.0.2.1";
pub(crate) const SERVER: &str = "203.0.113.1";
pub(crate) const PORT: u16 = 1194;
const INNER_CLIENT: &str = "10.8.0.2";
const INNER_SERVER: &str = "10.8.0.1";
/// The time at which every scenario begins.
const UNIX: u64 = 1_800_000_000;

/// One end or the other: a world's nodes are of one type.
pub(crate) enum Side {
    Client(Box<OpenVpn>),
    Server(Box<OpenVpnServer>),
}

/// What an end is told.
pub(crate) enum SideCommand {
    Client(Command),
    Server(ServerCommand),
}

/// What an end fails with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SideError {
    Client(OpenVpnError),
    Server(ServerError),
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SideError {}

impl TunnelError for SideError {
    fn class(&self) -> &'static str {
        match self {
            Self::Client(error) => error.class(),
            Self::Server(error) => error.class(),
        }
    }

    fn evidence(&self) -> Vec<String> {
        match self {
            Self::Client(error) => error.evidence(),
            Self::Server(error) => error.evidence(),
        }
    }
}

/// The same event with another error.
fn of<A, B>(event: Event<A>, error: impl FnOnce(A) -> B) -> Event<B> {
    match event {
        Event::OpenLink(link, spec) => Event::OpenLink(link, spec),
        Event::CloseLink(link) => Event::CloseLink(link),
        Event::Resolve(name) => Event::Resolve(name),
        Event::Configured(config) => Event::Configured(config),
        Event::Queue(to, packets) => Event::Queue(to, packets),
        Event::Prompt(prompt) => Event::Prompt(prompt),
        Event::Up => Event::Up,
        Event::Down(inner) => Event::Down(error(inner)),
        Event::Way { token, way } => Event::Way { token, way },
        Event::Failed(inner) => Event::Failed(error(inner)),
    }
}

impl Tunnel for Side {
    type Command = SideCommand;
    type Error = SideError;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        match self {
            Self::Client(client) => client.handle_net(now, input, out),
            Self::Server(server) => server.handle_net(now, input, out),
        }
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        match self {
            Self::Client(client) => client.handle_packet(now, packet, out),
            Self::Server(server) => server.handle_packet(now, packet, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        match self {
            Self::Client(client) => client.handle_timeout(now, out),
            Self::Server(server) => server.handle_timeout(now, out),
        }
    }

    fn handle_command(&mut self, now: Instant, command: SideCommand, out: &mut Outbox) {
        match (self, command) {
            (Self::Client(client), SideCommand::Client(command)) => client.handle_command(now, command, out),
            (Self::Server(server), SideCommand::Server(command)) => server.handle_command(now, command, out),
            _ => panic!("the scenario tells one end what is for the other"),
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        match self {
            Self::Client(client) => client.poll_timeout(),
            Self::Server(server) => server.poll_timeout(),
        }
    }

    fn poll_event(&mut self) -> Option<Event<SideError>> {
        match self {
            Self::Client(client) => client.poll_event().map(|event| of(event, SideError::Client)),
            Self::Server(server) => server.poll_event().map(|event| of(event, SideError::Server)),
        }
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        match self {
            Self::Client(client) => client.peers(now),
            Self::Server(server) => server.peers(now),
        }
    }
}

/// The server's certificate, which all scenarios share.
fn identity() -> ServerIdentity {
    static IDENTITY: OnceLock<ServerIdentity> = OnceLock::new();
    let make = || {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        ServerIdentity { chain: vec![certificate.der().clone()], key }
    };
    IDENTITY.get_or_init(make).clone()
}

pub(crate) fn key(byte: u8) -> StaticKey {
    let mut bytes = Zeroizing::new([byte; 256]);
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= at as u8);
    StaticKey(bytes)
}

/// The kinds of protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Auth,
    Crypt,
    CryptV2 { stateless: bool },
}

pub(crate) const KINDS: [Kind; 5] = [
    Kind::None,
    Kind::Auth,
    Kind::Crypt,
    Kind::CryptV2 { stateless: false },
    Kind::CryptV2 { stateless: true },
];

/// Both ends' protection.
fn wraps(kind: Kind) -> (Wrap, ServerWrap) {
    let algorithm = Algorithm::Sha256;
    match kind {
        Kind::None => (Wrap::None, ServerWrap::None),
        Kind::Auth => (
            Wrap::Auth { key: key(1), direction: Direction::Inverse, algorithm },
            ServerWrap::Auth { key: key(1), direction: Direction::Normal, algorithm },
        ),
        Kind::Crypt => (Wrap::Crypt(key(2)), ServerWrap::Crypt(key(2))),
        Kind::CryptV2 { stateless } => {
            let server = Zeroizing::new([9; 128]);
            let wrapped = adit_openvpn::wrap::ServerKey::new(&server).wrap(&key(3), b"\0nobody").unwrap();
            (Wrap::CryptV2 { key: key(3), wrapped }, ServerWrap::CryptV2 { key: server, stateless })
        }
    }
}

/// Configurations of both ends that fit each other; scenarios change them.
pub(crate) fn configs(kind: Kind) -> (Config, ServerConfig) {
    let (wrap, server_wrap) = wraps(kind);
    let identity = identity();
    let fingerprint = identity.fingerprint();
    let mut server = ServerConfig::new(PORT, server_wrap, identity);
    server.unix = UNIX;
    server.auth = Algorithm::Sha256;
    server.push = vec!["ping 5".into(), "ping-restart 20".into(), "route 10.77.0.0 255.255.0.0".into()];
    server.ping = secs(5);
    let host = HostPort { host: SERVER.to_owned(), port: PORT };
    let trust = Trust { fingerprints: vec![fingerprint], ..Trust::default() };
    let clock = Clock { instant: Instant::now(), unix: Duration::from_secs(UNIX) };
    let mut client = Config::new(Remote::new(host, Transport::Udp, wrap), trust, clock);
    client.data_ciphers.push(Cipher::Aes256Cbc);
    client.auth = Some(Algorithm::Sha256);
    client.reneg_interval = Duration::ZERO;
    client.sso = vec!["webauth", "openurl", "crtext"];
    (client, server)
}

/// A world with a client and a server.
pub(crate) struct Lab<E = Inbox> {
    pub(crate) world: World<Side, E>,
    pub(crate) client: NodeId,
    pub(crate) server: NodeId,
    pub(crate) config: ServerConfig,
    seed: u64,
}

impl Lab<Inbox> {
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        Self::with(seed, configs(kind))
    }

    pub(crate) fn with(seed: u64, configs: (Config, ServerConfig)) -> Self {
        Self::on(seed, configs, &Link::default(), &Link::default())
    }

    /// With these links of the client from its very first packet.
    pub(crate) fn on(seed: u64, configs: (Config, ServerConfig), up: &Link, down: &Link) -> Self {
        Self::with_ends(seed, configs, up, down, Inbox::default(), Inbox::default())
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

    /// Sends packets both ways, one every `gap`, for `span`; returns how many each way.
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
        self.world.run_for(millis(500));
        count
    }

    /// Packets that have arrived at the server and at the client; they are forgotten.
    pub(crate) fn received(&mut self) -> [u64; 2] {
        [self.server, self.client].map(|node| std::mem::take(&mut self.world.end(node).packets).len() as u64)
    }

    /// How long it takes until packets reach both sides, if one is sent every 100 ms each way; `None` after `most`.
    pub(crate) fn passes_after(&mut self, most: Duration) -> Option<Duration> {
        self.received();
        let start = self.world.elapsed();
        while self.world.elapsed() < start + most {
            for forth in [true, false] {
                let _ = self.say(forth, 100);
            }
            let (client, server) = (self.client, self.server);
            let both = |world: &mut World<Side>| {
                [client, server].iter().all(|node| !world.end(*node).packets.is_empty())
            };
            if self.world.run_until(millis(100), both) {
                return Some(self.world.elapsed() - start);
            }
        }
        None
    }
}

impl<E: PacketEnd> Lab<E> {
    pub(crate) fn with_ends(
        seed: u64,
        (mut client, server): (Config, ServerConfig),
        up: &Link,
        down: &Link,
        client_end: E,
        server_end: E,
    ) -> Self {
        let mut world = World::new(seed);
        let now = world.now();
        client.clock.instant = now;
        let config = server.clone();
        let server = OpenVpnServer::new(server, seed + 1, now).unwrap();
        let server = world.add(&[SERVER], Side::Server(Box::new(server)), server_end);
        // The first packet leaves when a node begins, which must not be before its links are as they shall be.
        let idle = OpenVpnServer::new(config.clone(), 0, now).unwrap();
        let node = world.add(&[CLIENT], Side::Server(Box::new(idle)), client_end);
        world.stop(node);
        *world.up(node) = up.clone();
        *world.down(node) = down.clone();
        let client = OpenVpn::new(client, seed, now).unwrap();
        world.restart(node, Side::Client(Box::new(client)));
        Self { world, client: node, server, config, seed }
    }

    /// The server itself.
    pub(crate) fn server(&mut self) -> &mut OpenVpnServer {
        match self.world.tunnel(self.server) {
            Side::Server(server) => server,
            Side::Client(_) => panic!("the server's node runs a client"),
        }
    }

    /// Makes the server do something to its client.
    pub(crate) fn act(&mut self, act: Act) {
        self.world.command(self.server, SideCommand::Server(ServerCommand::Act(act)));
    }

    /// Starts the server's process anew: it knows nobody.
    pub(crate) fn restart_server(&mut self) {
        let mut config = self.config.clone();
        config.unix += self.world.elapsed().as_secs();
        let server = OpenVpnServer::new(config, self.seed + 77, self.world.now()).unwrap();
        self.world.restart(self.server, Side::Server(Box::new(server)));
    }

    /// Runs until the client has said `Up` once more than before.
    pub(crate) fn up_within(&mut self, span: Duration) -> bool {
        let (client, before) = (self.client, self.ups());
        let ups = move |world: &World<Side, E>| {
            world.events(client).iter().filter(|(_, event)| matches!(event, Event::Up)).count()
        };
        self.world.run_until(span, |world| ups(world) > before)
    }

    fn ups(&self) -> usize {
        let events = self.world.events(self.client);
        // What was said before the client ran was the idle server's.
        events.iter().filter(|(_, event)| matches!(event, Event::Up)).count()
    }

    /// "up", "prompt" and the classes of failures that the client has reported, in order.
    pub(crate) fn said(&self) -> Vec<&'static str> {
        let word = |(_, event): &(Instant, Event<SideError>)| match event {
            Event::Up => Some("up"),
            Event::Prompt(_) => Some("prompt"),
            Event::Down(error) | Event::Failed(error) => Some(error.class()),
            _ => None,
        };
        self.world.events(self.client).iter().filter_map(word).collect()
    }

    /// The last network that the client was given.
    pub(crate) fn network(&self) -> NetConfig {
        let events = self.world.events(self.client).iter().rev();
        let found = events.filter_map(|(_, event)| match event {
            Event::Configured(config) => Some(config.clone()),
            _ => None,
        });
        found.into_iter().next().expect("the client was given a network")
    }

    /// The credentials of every negotiation that reached the server, with its key.
    pub(crate) fn logins(&mut self) -> Vec<(u8, String, String)> {
        let client = |seen: &Seen| match seen {
            Seen::Client { key_id, message } => {
                Some((*key_id, message.username.clone(), message.password.to_string()))
            }
            _ => None,
        };
        self.server().seen().iter().filter_map(client).collect()
    }

    /// How often new keys were agreed on, the first time included.
    pub(crate) fn negotiations(&mut self) -> usize {
        self.logins().len()
    }

    /// Control messages of the client.
    pub(crate) fn texts(&mut self) -> VecDeque<String> {
        let text = |seen: &Seen| match seen {
            Seen::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.server().seen().iter().filter_map(text).collect()
    }
}
