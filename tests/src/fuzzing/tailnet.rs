//! What relays, STUN servers and strangers send to a node of a tailnet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tailscale::netmap::{Peer, SelfNode, Update};
use adit_tailscale::{Command, Config, Keys, SecretKey, Tailscale, derp::frame, disco, stun};
use adit_tunnel::{HostPacket, LinkId, NetInput, Outbox, Tunnel};

use super::pieces;

/// Reads a stream of DERP frames.
pub fn derp_stream(bytes: &[u8]) {
    let mut stream = bytes.to_vec();
    let mut rest = stream.as_mut_slice();
    loop {
        let before = rest.len();
        match frame::split(rest) {
            Ok(Some((frame, used))) => {
                if let frame::Frame::Packet { data, .. } = &frame {
                    assert_eq!(data.len() + 5 + 32, used, "a packet is its frame without header and key");
                }
                assert!(used <= before, "a frame lies inside its stream");
                rest = &mut std::mem::take(&mut rest)[used..];
            }
            Ok(None) | Err(frame::FrameTooLong) => break,
        }
    }
    let mut client = bytes;
    while let Some((_, used)) = frame::server::split(client) {
        client = &client[used..];
    }
}

/// Reads the text of an opened disco message.
pub fn disco_message(bytes: &[u8]) {
    match disco::parse(bytes) {
        Some(disco::Message::CallMeMaybe(endpoints)) => {
            assert!(endpoints.count() * 18 <= bytes.len(), "every endpoint takes 18 bytes");
        }
        Some(disco::Message::Ping { transaction, .. } | disco::Message::Pong { transaction, .. }) => {
            assert_eq!(bytes.get(2..14), Some(&transaction[..]), "the transaction is behind the version");
        }
        Some(disco::Message::Unknown) | None => {}
    }
}

/// Reads a STUN message as a client and as a server.
pub fn stun_message(bytes: &[u8]) {
    if let Some((transaction, seen)) = stun::parse_response(bytes) {
        let again = stun::response(&transaction, seen);
        assert_eq!(stun::parse_response(&again), Some((transaction, seen)), "what was read can be written");
    }
    if let Some(transaction) = stun::parse_request(bytes) {
        assert_eq!(bytes.get(8..20), Some(&transaction[..]), "the transaction ends the header");
    }
}

/// Gives datagrams to a node that has a peer and has asked a STUN server. Who has no key makes no packet.
pub fn tailscale_datagram(bytes: &[u8]) {
    let mut now = Instant::now();
    let keys =
        |n: u8| Keys { node: SecretKey::from_bytes([n; 32]), disco: SecretKey::from_bytes([n + 10; 32]) };
    let config = Config {
        keys: keys(1),
        roots: Arc::new(rustls::RootCertStore::empty()),
        port: None,
        udp: true,
        local_addresses: Vec::new(),
        keep_out: Vec::new(),
        accept_routes: adit_tailscale::AcceptRoutes::All,
        accept_dns: true,
        exit_node: None,
        shields_up: false,
        proxy: None,
        plain_derp: false,
    };
    let mut node = Tailscale::new(config, 1, now);
    let mut out = Outbox::with_capacity(1 << 16, 1 << 16);
    let local: SocketAddr = "127.0.0.1:41641".parse().expect("an address");
    let from: SocketAddr = "127.0.0.1:41642".parse().expect("an address");
    let _ = node.handle_net(now, NetInput::Opened { link: LinkId(0), local }, &mut out);
    let prefix = vec!["100.64.0.2/32".parse().expect("a prefix")];
    let mut update = Update {
        node: Some(SelfNode {
            name: "me.tail.example".into(),
            addresses: vec!["100.64.0.1/32".parse().expect("a prefix")],
            authorized: true,
            ..SelfNode::default()
        }),
        ..Update::default()
    };
    update.peers.full.push(Peer {
        name: "db.tail.example".into(),
        key: keys(2).node_key(),
        disco: keys(2).disco_key(),
        addresses: prefix.clone(),
        allowed_ips: prefix,
        endpoints: vec![from],
        ..Peer::default()
    });
    node.handle_command(now, Command::Netmap(Box::new(update)), &mut out);
    for piece in pieces(bytes) {
        now += Duration::from_millis(100);
        let mut datagram = piece.to_vec();
        let input = NetInput::Datagram { link: LinkId(0), from, data: &mut datagram };
        let _ = node.handle_net(now, input, &mut out);
        assert!(out.host.is_empty(), "no packet comes out without a session");
        // The same bytes from inside: a packet of ours, whose route may be missing.
        let _ = node.handle_packet(now, HostPacket::new(piece), &mut out);
        node.handle_timeout(now, &mut out);
        out.net.drain(|_| ());
        out.host.drain(|_| ());
        while node.poll_event().is_some() {}
        while node.poll_report().is_some() {}
        assert!(
            node.poll_timeout().is_none_or(|deadline| deadline.at > now),
            "a timeout that was handled is over: {:?}",
            node.poll_timeout()
        );
    }
}
