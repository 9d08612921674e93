//! A DERP relay with a STUN server, as nodes of a tailnet use them, without TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

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
}

/// The relay.
#[derive(Debug, Default)]
pub struct Relay {
    clients: BTreeMap<u64, Client>,
    /// Whether STUN requests stay unanswered.
    pub mute: bool,
}

impl Relay {
    fn stream_of(&self, key: &NodeKey) -> Option<u64> {
        // The newest connection of a node is the one that counts.
        self.clients.iter().rev().find(|(_, client)| client.key.as_ref() == Some(key)).map(|(id, _)| *id)
    }

    fn received(&mut self, stream: u64, data: &[u8], reply: &mut dyn FnMut(u64, Vec<u8>)) {
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
            reply(stream, greeting);
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
                            reply(other, out);
                        }
                        None => {
                            put_peer_gone(&mut out, &to);
                            reply(stream, out);
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
    fn handle(&mut self, _now: Instant, served: Served<'_>, reply: &mut dyn FnMut(u64, Vec<u8>)) {
        match served {
            Served::Opened { stream, .. } => drop(self.clients.insert(stream, Client::default())),
            Served::Data { stream, data } => self.received(stream, data, reply),
            Served::Closed { stream } => drop(self.clients.remove(&stream)),
        }
    }

    fn handle_datagram(&mut self, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let transaction = stun::parse_request(data)?;
        (!self.mute).then(|| stun::response(&transaction, from))
    }
}
