//! The server as a tunnel.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use adit_openvpn::Wrap;
use adit_openvpn::km::ClientMessage;
use adit_openvpn::wire::{Acks, Control, First, Opcode, SessionId};
use adit_openvpn::wrap::{ServerKey, Side, Wrapper, split_wrapped_key};
use adit_tunnel::view::addresses;
use adit_tunnel::{
    Deadline, Dropped, Event, HostPacket, LinkSpec, NetConfig, NetInput, Outbox, PeerStatus, Prefix, Tunnel,
    TunnelError,
};

use super::config::{Act, ServerConfig, ServerWrap};
use super::connection::{Caller, Connection, LINK, Shared};
use crate::net::Rng;
use ring::digest;

/// Clients at the same time.
const MAX_CONNECTIONS: usize = 64;
/// What is remembered of what happened.
const MAX_SEEN: usize = 10_000;

/// What happened at a server, in order.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A new client.
    Connected(SocketAddr),
    /// A client said who it is, in the negotiation of this key.
    Client {
        /// The key.
        key_id: u8,
        /// What it said.
        message: Box<ClientMessage>,
    },
    /// A client began a renegotiation.
    SoftReset(u8),
    /// A control message of a client; `OCC_EXIT` for the exit of the data channel.
    Text(String),
    /// A handshake failed.
    Failed(String),
    /// A client is gone: it said so, it is silent, or the script wanted it.
    Gone(SocketAddr),
}

/// What a test can tell a running server.
#[derive(Clone, Debug)]
pub enum ServerCommand {
    /// Does this to every client.
    Act(Act),
    /// Replaces the configuration for connections to come.
    Configure(Box<ServerConfig>),
}

/// A server does not fail: it is the test's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's socket is gone: {0:?}")]
pub struct ServerError(pub Option<std::io::ErrorKind>);

impl TunnelError for ServerError {
    fn class(&self) -> &'static str {
        "env.socket"
    }

    fn evidence(&self) -> Vec<String> {
        vec![self.to_string()]
    }
}

/// A server.
pub struct OpenVpnServer {
    config: ServerConfig,
    tls: Arc<rustls::ServerConfig>,
    rng: Rng,
    /// What sessions of clients without state follow from.
    secret: [u8; 8],
    start: Instant,
    connections: Vec<Connection>,
    /// How many there have ever been.
    count: usize,
    seen: Vec<Seen>,
    events: VecDeque<Event<ServerError>>,
}

impl fmt::Debug for OpenVpnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenVpnServer").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl OpenVpnServer {
    /// A server that opens its port when it is driven. `seed` is for all that it draws, except inside TLS.
    ///
    /// # Errors
    /// If rustls does not take the certificate or the key.
    pub fn new(config: ServerConfig, seed: u64, now: Instant) -> Result<Self, rustls::Error> {
        let tls = config.identity.tls(config.clients.as_ref(), config.max_tls, config.unix)?;
        let net = NetConfig {
            addresses: config.addresses.clone(),
            routes: config.addresses.iter().map(Prefix::network).collect(),
            mtu: config.tun_mtu,
            ..NetConfig::default()
        };
        let open = Event::OpenLink(LINK, LinkSpec::Udp { port: Some(config.port) });
        Ok(Self {
            config,
            tls,
            secret: seed.to_be_bytes(),
            rng: Rng::new(seed),
            start: now,
            connections: Vec::new(),
            count: 0,
            seen: Vec::new(),
            events: [open, Event::Configured(net)].into(),
        })
    }

    /// What has happened so far.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Clients at present.
    pub fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Whether packets of every client pass.
    pub fn is_open(&self) -> bool {
        !self.connections.is_empty() && self.connections.iter().all(|connection| connection.open)
    }

    fn unix(&self, now: Instant) -> u32 {
        let seconds = self.config.unix + now.saturating_duration_since(self.start).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Runs something with one connection and what all share, then sends what it has to say.
    fn with<T>(
        &mut self,
        now: Instant,
        at: usize,
        out: &mut Outbox,
        work: impl FnOnce(&mut Connection, &mut Shared<'_>, &mut Outbox) -> T,
    ) -> Option<T> {
        let unix = self.unix(now);
        let connection = self.connections.get_mut(at)?;
        let mut shared =
            Shared { config: &self.config, tls: &self.tls, rng: &mut self.rng, unix, seen: &mut self.seen };
        let result = work(connection, &mut shared, out);
        connection.timeout(now, &mut shared, &mut out.net);
        let (inner, from) = (connection.inner, connection.from);
        if std::mem::take(&mut connection.introduced) {
            for other in &mut self.connections {
                other.gone |= other.inner == inner && other.from != from;
            }
        }
        let seen = &mut self.seen;
        self.connections.retain(|connection| {
            if connection.gone {
                seen.push(Seen::Gone(connection.from));
            }
            !connection.gone
        });
        let excess = self.seen.len().saturating_sub(MAX_SEEN);
        self.seen.drain(..excess);
        Some(result)
    }

    fn datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let first = data.first().and_then(|byte| First::parse(*byte)).ok_or(Dropped::Malformed)?;
        if first.opcode.is_data() {
            return self.data(now, from, first, data, out);
        }
        let mut wrapped = None;
        let mut packet = data;
        if first.opcode.has_wrapped_key() {
            let (control, key) = split_wrapped_key(packet).ok_or(Dropped::Malformed)?;
            wrapped = Some(key.to_vec());
            packet = control;
        }
        let at = self.connections.iter().position(|connection| connection.from == from);
        if let ServerWrap::CryptV2 { stateless: true, .. } = self.config.wrap
            && at.is_none()
        {
            return self.stateless(now, from, packet, wrapped.as_deref(), out);
        }
        if matches!(first.opcode, Opcode::HardResetClientV2 | Opcode::HardResetClientV3) {
            let session = packet.get(1..9).ok_or(Dropped::Malformed)?;
            let known = at.filter(|at| self.connections.get(*at).is_some_and(|known| known.peer == session));
            if known.is_none() {
                return self.connect(now, from, packet, wrapped.as_deref(), out);
            }
        }
        let at = at.ok_or(Dropped::Unexpected)?;
        self.with(now, at, out, |connection, shared, _| connection.control(now, packet, shared))
            .unwrap_or(Err(Dropped::Unexpected))
    }

    /// A client's first packet.
    fn connect(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &mut [u8],
        wrapped: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let fixed = self.wrap_of(wrapped)?;
        let unix = self.unix(now);
        let mut wrapper = Wrapper::new(&fixed, Side::Server, unix);
        let unwrapped = wrapper.unwrap(packet)?;
        let control = Control::parse(unwrapped.first.opcode, unwrapped.body)?;
        let caller = Caller { from, slot: 0, peer: unwrapped.session, session: None, fixed, wrapper };
        self.admit(now, caller, unwrapped.first, &control, out)
    }

    /// Makes a connection and gives it the packet that began it.
    fn admit(
        &mut self,
        now: Instant,
        mut caller: Caller,
        first: First,
        control: &Control<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (from, unix) = (caller.from, self.unix(now));
        // A client that has forgotten its session begins a new one on the same port.
        self.connections.retain(|connection| connection.from != from);
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err(Dropped::OverBudget);
        }
        if self.config.several_clients {
            let taken = |slot| self.connections.iter().any(|connection| connection.peer_id() == slot);
            caller.slot = (0..).find(|slot| !taken(*slot)).unwrap_or_default();
        }
        let index = self.count;
        let mut shared =
            Shared { config: &self.config, tls: &self.tls, rng: &mut self.rng, unix, seen: &mut self.seen };
        let connection = Connection::new(now, index, caller, &mut shared);
        let connection = connection.map_err(|_| Dropped::OverBudget)?;
        self.count += 1;
        self.seen.push(Seen::Connected(from));
        self.connections.push(connection);
        let at = self.connections.len() - 1;
        let handled = self
            .with(now, at, out, |connection, shared, _| connection.handle(now, first, control, shared))
            .unwrap_or(Err(Dropped::Unexpected));
        self.events.extend((index == 0).then_some(Event::Up));
        handled
    }

    /// A packet of nobody that is known, where nothing is remembered before a client has proved its address: the
    /// answer to a reset names a session that follows from it, and the packet that acknowledges it brings the key again.
    fn stateless(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &mut [u8],
        wrapped: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let fixed = self.wrap_of(wrapped)?;
        let mut wrapper = Wrapper::new(&fixed, Side::Server, self.unix(now));
        let unwrapped = wrapper.unwrap(packet)?;
        let (first, peer) = (unwrapped.first, unwrapped.session);
        let control = Control::parse(first.opcode, unwrapped.body)?;
        let session = self.cookie(from, &peer);
        let mut acks = Acks::default();
        acks.push(0);
        // Parameters of the early negotiation: type 1, length 2, "send the wrapped key again".
        let payload = &[0, 1, 0, 2, 0, 1];
        let answer = Control { acks, peer: Some(peer), id: Some(0), payload };
        let (mut body, mut reset) = (Vec::new(), Vec::new());
        answer.write(&mut body);
        let kind = First { opcode: Opcode::HardResetServerV2, key_id: 0 };
        // Also of a connection that begins later this is the first packet: its number is used.
        wrapper.wrap(kind, &session, &body, &mut reset);
        if first.opcode == Opcode::HardResetClientV3 {
            let mut slot = out.net.reserve(LINK, Some(from), reset.len()).ok_or(Dropped::Backpressure)?;
            slot.copy_from_slice(&reset);
            slot.commit(reset.len());
            return Ok(());
        }
        let proved = control.peer == Some(session) && control.id == Some(1);
        if first.opcode != Opcode::ControlWrappedKey || !proved {
            return Err(Dropped::Unexpected);
        }
        let caller = Caller { from, slot: 0, peer, session: Some(session), fixed, wrapper };
        self.admit(now, caller, first, &control, out)
    }

    /// The session of a client whose state is not kept.
    fn cookie(&self, from: SocketAddr, peer: &SessionId) -> SessionId {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.secret);
        context.update(peer);
        context.update(from.to_string().as_bytes());
        let mut session = SessionId::default();
        session.copy_from_slice(context.finish().as_ref().get(..8).unwrap_or(&[1; 8]));
        session
    }

    /// The protection of a new connection.
    fn wrap_of(&self, wrapped: Option<&[u8]>) -> Result<Wrap, Dropped> {
        Ok(match (&self.config.wrap, wrapped) {
            (ServerWrap::None, _) => Wrap::None,
            (ServerWrap::Auth { key, direction, algorithm }, _) => {
                Wrap::Auth { key: key.clone(), direction: *direction, algorithm: *algorithm }
            }
            (ServerWrap::Crypt(key), _) => Wrap::Crypt(key.clone()),
            (ServerWrap::CryptV2 { key, .. }, Some(wrapped)) => {
                let (key, _) = ServerKey::new(key).unwrap(wrapped).map_err(|_| Dropped::Unauthentic)?;
                Wrap::Crypt(key)
            }
            (ServerWrap::CryptV2 { .. }, None) => return Err(Dropped::Malformed),
        })
    }

    fn data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        first: First,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let peer_id = match (first.opcode, data.first_chunk::<4>()) {
            (Opcode::DataV2, Some([_, a, b, c])) => Some(u32::from_be_bytes([0, *a, *b, *c])),
            _ => None,
        };
        // A client whose address changed is found by its peer id.
        let at = self
            .connections
            .iter()
            .position(|connection| connection.from == from)
            .or_else(|| self.connections.iter().position(|known| Some(known.peer_id()) == peer_id))
            .ok_or(Dropped::Unexpected)?;
        self.with(now, at, out, |connection, shared, out| {
            connection.data(now, first.key_id, data, &mut out.host, shared.seen)?;
            connection.from = from;
            Ok(())
        })
        .unwrap_or(Err(Dropped::Unexpected))
    }
}

impl Tunnel for OpenVpnServer {
    type Command = ServerCommand;
    type Error = ServerError;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        match input {
            NetInput::Datagram { from, data, .. } => self.datagram(now, from, data, out),
            NetInput::Closed { error, .. } => {
                self.events.push_back(Event::Failed(ServerError(error)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (_, destination) = addresses(packet.bytes()).ok_or(Dropped::Malformed)?;
        let connection = self
            .connections
            .iter_mut()
            .find(|connection| IpAddr::V4(connection.inner) == destination && connection.open)
            .ok_or(Dropped::NoRoute)?;
        connection.packet(now, packet, &mut out.net)
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        for at in (0..self.connections.len()).rev() {
            self.with(now, at, out, |_, _, _| ());
        }
    }

    fn handle_command(&mut self, now: Instant, command: ServerCommand, out: &mut Outbox) {
        match command {
            ServerCommand::Act(act) => {
                for at in (0..self.connections.len()).rev() {
                    let act = act.clone();
                    self.with(now, at, out, |connection, shared, out| {
                        connection.act(now, act, shared, &mut out.net);
                    });
                }
            }
            ServerCommand::Configure(config) => self.config = *config,
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let deadlines = self.connections.iter().map(|connection| connection.poll_timeout(&self.config));
        deadlines.fold(None, Deadline::earlier)
    }

    fn poll_event(&mut self) -> Option<Event<ServerError>> {
        self.events.pop_front()
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let status = |connection: &Connection| PeerStatus {
            name: connection.inner.to_string(),
            endpoint: Some(connection.from),
            prefixes: vec![Prefix::host(IpAddr::V4(connection.inner))],
            handshake_age: Some(now.saturating_duration_since(connection.heard)).filter(|_| connection.open),
            ..PeerStatus::default()
        };
        self.connections.iter().map(status).collect()
    }
}
