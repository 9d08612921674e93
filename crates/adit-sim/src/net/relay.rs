//! A DERP relay with a STUN server, as nodes of a tailnet use them, without TLS.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_tailscale::NodeKey;
use adit_tailscale::derp::frame::server::{FromClient, put_packet, put_peer_gone, put_server_key, split};
use adit_tailscale::stun;

use crate::net::{Served, Server};

/// The relay's public key. The login is a box for it that this relay does not open: it takes everybody.
const KEY: [u8; 32] = [42; 32];
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";

/// What is known of a connection.
#[derive(Debug, Default)]
struct Client {
    upgraded: bool,
    key: Option<NodeKey>,
    received: Vec<u8>,
    /// When the packets that wait for it will have left, the next first.
    leaving: VecDeque<Instant>,
}

/// What a relay has for each of its clients.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// Bytes a second that go to a client.
    pub rate: u64,
    /// Packets that may wait for it; further ones are dropped.
    pub queue: usize,
    /// Counts those that pass, and those that are dropped.
    pub passed: Arc<AtomicU64>,
    /// See `passed`.
    pub dropped: Arc<AtomicU64>,
}

impl Bottleneck {
    /// With counters at zero.
    pub fn new(rate: u64, queue: usize) -> Self {
        Self { rate, queue, passed: Arc::default(), dropped: Arc::default() }
    }

    /// After what time a packet leaves, if there is room for it.
    fn pass(&self, now: Instant, leaving: &mut VecDeque<Instant>, len: usize) -> Option<Duration> {
        while leaving.front().is_some_and(|at| *at <= now) {
            leaving.pop_front();
        }
        if leaving.len() >= self.queue {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
        let begins = leaving.back().copied().unwrap_or(now);
        let ends = begins + Duration::from_nanos(len as u64 * 1_000_000_000 / self.rate);
        leaving.push_back(ends);
        Some(ends - now)
    }
}

/// The relay.
#[derive(Debug, Default)]
pub struct Relay {
    clients: BTreeMap<u64, Client>,
    /// Whether STUN requests stay unanswered.
    pub mute: bool,
    /// Without one, everything passes at once.
    bottleneck: Option<Bottleneck>,
}

impl Relay {
    /// A relay whose clients have these limits.
    pub fn with_bottleneck(bottleneck: Bottleneck) -> Self {
        Self { bottleneck: Some(bottleneck), ..Self::default() }
    }

    fn stream_of(&self, key: &NodeKey) -> Option<u64> {
        // The newest connection of a node is the one that counts.
        self.clients.iter().rev().find(|(_, client)| client.key.as_ref() == Some(key)).map(|(id, _)| *id)
    }

    /// How long a packet for a client waits; `None` if it is dropped.
    fn wait(&mut self, now: Instant, stream: u64, len: usize) -> Option<Duration> {
        match (&self.bottleneck, self.clients.get_mut(&stream)) {
            (Some(bottleneck), Some(client)) => bottleneck.pass(now, &mut client.leaving, len),
            _ => Some(Duration::ZERO),
        }
    }

    fn received(
        &mut self,
        now: Instant,
        stream: u64,
        data: &[u8],
        reply: &mut dyn FnMut(u64, Duration, Vec<u8>),
    ) {
        let Some(client) = self.clients.get_mut(&stream) else { return };
        client.received.extend_from_slice(data);
        if !client.upgraded {
            let Some(end) = client.received.windows(4).position(|window| window == b"\r\n\r\n") else {
                return;
            };
            client.received.drain(..end + 4);
            client.upgraded = true;
            let mut greeting = SWITCH.to_vec();
            put_server_key(&mut greeting, &KEY);
            reply(stream, Duration::ZERO, greeting);
        }
        let received = std::mem::take(&mut client.received);
        let (mut rest, from) = (received.as_slice(), client.key);
        let mut key = from;
        while let Some((frame, used)) = split(rest) {
            match (frame, key) {
                (FromClient::Info(info), _) => key = Some(info),
                (FromClient::Send(to, packet), Some(from)) => {
                    let mut out = Vec::new();
                    match self.stream_of(&to) {
                        Some(other) => {
                            put_packet(&mut out, &from, packet);
                            if let Some(after) = self.wait(now, other, out.len()) {
                                reply(other, after, out);
                            }
                        }
                        None => {
                            put_peer_gone(&mut out, &to);
                            reply(stream, Duration::ZERO, out);
                        }
                    }
                }
                _ => {}
            }
            rest = &rest[used..];
        }
        if let Some(client) = self.clients.get_mut(&stream) {
            client.received = rest.to_vec();
            client.key = key;
        }
    }
}

impl Server for Relay {
    fn handle(&mut self, now: Instant, served: Served<'_>, reply: &mut dyn FnMut(u64, Duration, Vec<u8>)) {
        match served {
            Served::Opened { stream, .. } => drop(self.clients.insert(stream, Client::default())),
            Served::Data { stream, data } => self.received(now, stream, data, reply),
            Served::Closed { stream } => drop(self.clients.remove(&stream)),
        }
    }

    fn handle_datagram(&mut self, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let transaction = stun::parse_request(data)?;
        (!self.mute).then(|| stun::response(&transaction, from))
    }
}
